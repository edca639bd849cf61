"""Pack and unpack the buffers exchanged with the Java engine: little-endian; see Packed.java."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lsr.documents import Document, metadata_of
from lsr.indexes.filters import indexed


class WordQueries(NamedTuple):
    """The words of queries, and BM25's parameters.

    Attributes:
        weights: for each query a map from word to two whole numbers of at least 0: its weight in
            title and text, and its weight in the title alone.
        k1: saturation of the term frequency (Robertson & Zaragoza 2009, eq. 3.15).
        b: strength of the length normalisation, in [0, 1].
    """

    weights: Sequence[Mapping[str, tuple[int, int]]]
    k1: float
    b: float


def pack_integers(*parts: Any) -> bytes:
    return b"".join(np.ascontiguousarray(part, dtype="<i4").tobytes() for part in parts)


def pack_queries(queries: csr_array) -> bytes:
    """Pack the number of queries, and for each its number of terms, their ids and weights."""
    parts: list[Any] = [queries.shape[0]]
    for start, end in zip(queries.indptr[:-1], queries.indptr[1:], strict=True):
        parts += [end - start, queries.indices[start:end], queries.data[start:end]]
    return pack_integers(*parts)


def pack_strings(values: Iterable[str]) -> bytes:
    encoded = [value.encode("utf-8") for value in values]
    return b"".join(struct.pack("<i", len(value)) + value for value in encoded)


def pack_words(words: WordQueries | None, n: int) -> bytes:
    """Pack k1 and b, and for each of n queries the number of its words, these and their weights."""
    words = words or WordQueries([{}] * n, 0.9, 0.4)
    if len(words.weights) != n:
        raise ValueError(f"`words` must hold one query for each of {n}, got {len(words.weights)}")
    parts = [struct.pack("<2d", words.k1, words.b)]
    for weights in words.weights:
        parts.append(struct.pack("<i", len(weights)))
        for word, of_fields in weights.items():
            parts.append(pack_strings([word]) + struct.pack("<2i", *of_fields))
    return b"".join(parts)


def pack_document(document: Document) -> bytes:
    """Pack a document's id, title, text and metadata, and the values that filters compare.

    Raises:
        ValueError: the metadata hold a value that is not allowed.
    """
    try:
        metadata = metadata_of(document.metadata)
    except ValueError as error:
        raise ValueError(f"document {document.id!r}: {error}") from error
    stored = (document.id, document.title, document.text, json.dumps(metadata))
    fields = indexed(metadata)
    parts = [pack_strings(stored), pack_integers(len(fields.terms))]
    parts.append(pack_strings(part for pair in fields.terms for part in pair))
    for pairs, kind in ((fields.longs, "<q"), (fields.doubles, "<d")):
        parts.append(pack_integers(len(pairs)))
        parts += [pack_strings([field]) + struct.pack(kind, value) for field, value in pairs]
    parts += [pack_integers(len(fields.keys)), pack_strings(fields.keys)]
    return b"".join(parts)


def read_strings(packed: bytes, count: int) -> list[str]:
    """Unpack `count` strings: the length of each in code points, then all of them."""
    ends = np.cumsum(np.frombuffer(packed, "<i4", count)).tolist()
    text = packed[4 * count :].decode("utf-8")
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class Reader:
    """Reads an answer of the engine from front to back."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._packed) - self._at

    def integer(self) -> int:
        (value,) = struct.unpack_from("<i", self._packed, self._at)
        self._at += 4
        return int(value)

    def long(self) -> int:
        (value,) = struct.unpack_from("<q", self._packed, self._at)
        self._at += 8
        return int(value)

    def double(self) -> float:
        (value,) = struct.unpack_from("<d", self._packed, self._at)
        self._at += 8
        return float(value)

    def bytes(self) -> bytes:
        size = self.integer()
        self._at += size
        return self._packed[self._at - size : self._at]

    def string(self) -> str:
        return self.bytes().decode("utf-8")
