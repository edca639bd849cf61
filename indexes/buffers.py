"""Pack and unpack the buffers exchanged with the Java engine: little-endian; see Packed.java."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lsr.documents import LONGEST_INTEGER, Document, metadata_of, number_of

Filter = str | int | float | bool | tuple[int | float | None, int | float | None]
# Lowest and highest double, and, if these are equal, lowest and highest integer.
_Span = tuple[float, float, str, str]
# From here on, a double can be the nearest one of several integers.
_SHARED = 2.0**53
# Longest string of metadata that is indexed unchanged; Lucene refuses terms of 32 KiB.
LONGEST_FILTER = 1000


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


def pack_filters(filters: Mapping[str, Filter]) -> bytes:
    """Pack each filter's key, and the strings and the spans of numbers that a hit may have there.

    A span is two doubles and two decimal integers: see `_spans`.
    """
    packed = [pack_integers(len(filters))]
    for key, value in filters.items():
        strings: list[str] = []
        spans: list[_Span] = []
        if isinstance(value, tuple):
            low, high = value
            if not (-math.inf if low is None else low) <= (math.inf if high is None else high):
                raise ValueError(f"filter {key!r}: the bounds must be low ≤ high, got {value}")
            spans = list(_spans(low, high))
        else:
            strings = [_filterable(value)]
            number = number_of(value) if isinstance(value, str) else None
            if number is not None:
                # The number may be spelled differently in the index: 5 for 5.0.
                spans = list(_spans(number, number))
        packed += [pack_strings([key]), pack_integers(len(strings)), pack_strings(strings)]
        packed.append(pack_integers(len(spans)))
        for *doubles, first, last in spans:
            packed.append(struct.pack("<2d", *doubles) + pack_strings([first, last]))
    return b"".join(packed)


def _spans(low: int | float | None, high: int | float | None) -> Iterator[_Span]:
    """Yield spans that together hold exactly the numbers in [low, high].

    Numbers are indexed as doubles, and from 2^53 on one double stands for many integers. There, a
    bound's double gets spans of its own, each with a first and a last integer of the same number of
    digits, which are compared as strings. In other spans these are "".
    """
    low, high = None if low == -math.inf else low, None if high == math.inf else high
    start = -math.inf if low is None else _double(low)
    end = math.inf if high is None else _double(high)
    shared = set()
    if low is not None and abs(start) >= _SHARED:
        shared.add(start)
        start = math.nextafter(start, math.inf) if start < math.inf else math.nan
    if high is not None and abs(end) >= _SHARED:
        shared.add(end)
        end = math.nextafter(end, -math.inf) if end > -math.inf else math.nan
    # Lucene sorts −0.0 before 0.0.
    start, end = (-0.0 if start == 0 else start), (0.0 if end == 0 else end)
    if start <= end:
        yield start, end, "", ""
    for double in shared:
        first, last = _integers_of(double)
        first = first if low is None else max(first, math.ceil(low))
        last = last if high is None else min(last, math.floor(high))
        sign, smaller, larger = ("-", -last, -first) if last < 0 else ("", first, last)
        for digits in range(len(str(smaller)), len(str(larger)) + 1):
            least, most = max(smaller, 10 ** (digits - 1)), min(larger, 10**digits - 1)
            yield double, double, f"{sign}{least}", f"{sign}{most}"


def _integers_of(double: float) -> tuple[int, int]:
    """Return the first and the last integer whose nearest double this is; |double| ≥ 2^53."""
    if math.isinf(double):
        beyond, largest = 10**LONGEST_INTEGER - 1, int(sys.float_info.max)
        return (largest, beyond) if double > 0 else (-beyond, -largest)
    before, after = (_exact(math.nextafter(double, to)) for to in (-math.inf, math.inf))
    first, last = (before + int(double)) // 2, (after + int(double) + 1) // 2
    # An integer halfway between two doubles is rounded to one of them.
    return first + (_double(first) != double), last - (_double(last) != double)


def _exact(double: float) -> int:
    if math.isinf(double):
        return 2**1024 if double > 0 else -(2**1024)
    return int(double)


def _double(number: int | float) -> float:
    """Return the nearest double, infinite for integers beyond all doubles."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _filterable(value: str | int | float | bool) -> str:
    """Return the string that a metadata value is indexed as: "3" for 3 and 3.0, "true" for True.

    For a long string it is the beginning and a digest of the whole.
    """
    if isinstance(value, str):
        if len(value) <= LONGEST_FILTER:
            return value
        return f"{value[:100]}… sha256 {hashlib.sha256(value.encode()).hexdigest()}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def pack_document(document: Document) -> bytes:
    """Pack a document's id, title, text and metadata, and the values that filters compare.

    Raises:
        ValueError: the metadata hold a value that is not allowed.
    """
    try:
        metadata = metadata_of(document.metadata)
    except ValueError as error:
        raise ValueError(f"document {document.id!r}: {error}") from error
    strings: list[tuple[str, str]] = []
    numbers: list[tuple[str, float]] = []
    for key, value in metadata.items():
        for part in value if isinstance(value, list) else [value]:
            strings.append((key, _filterable(part)))
            if not isinstance(part, (bool, str)):
                numbers.append((key, _double(part) + 0.0))  # −0.0 becomes 0.0
    stored = (document.id, document.title, document.text, json.dumps(metadata))
    packed = (pack_strings([key]) + struct.pack("<d", number) for key, number in numbers)
    return b"".join(
        (
            pack_strings(stored),
            pack_integers(len(strings)),
            pack_strings(part for pair in strings for part in pair),
            pack_integers(len(numbers)),
            *packed,
        )
    )


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

    def bytes(self) -> bytes:
        size = self.integer()
        self._at += size
        return self._packed[self._at - size : self._at]

    def string(self) -> str:
        return self.bytes().decode("utf-8")
