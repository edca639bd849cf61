"""The buffers that go to and from the Java engine: little-endian; see Packed.java."""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from lsr.documents import Document

Filter = str | float | bool | tuple[float | None, float | None]
# Characters of metadata that can be filtered by; Lucene refuses terms of 32 KiB.
LONGEST_FILTER = 1000


def pack_integers(*parts: Any) -> bytes:
    return b"".join(np.ascontiguousarray(part, dtype="<i4").tobytes() for part in parts)


def pack_queries(queries: csr_array) -> bytes:
    """A count, and for each query a count, term ids and weights."""
    parts: list[Any] = [queries.shape[0]]
    for start, end in zip(queries.indptr[:-1], queries.indptr[1:], strict=True):
        parts += [end - start, queries.indices[start:end], queries.data[start:end]]
    return pack_integers(*parts)


def pack_strings(values: Iterable[str]) -> bytes:
    encoded = [value.encode("utf-8") for value in values]
    return b"".join(struct.pack("<i", len(value)) + value for value in encoded)


def _pairs(pairs: Sequence[tuple[str, str]]) -> bytes:
    return pack_integers(len(pairs)) + pack_strings(part for pair in pairs for part in pair)


def _ranges(ranges: Sequence[tuple[str, *tuple[float, ...]]]) -> bytes:
    packed = (pack_strings([key]) + struct.pack(f"<{len(of)}d", *of) for key, *of in ranges)
    return pack_integers(len(ranges)) + b"".join(packed)


def pack_filters(filters: Mapping[str, Filter]) -> bytes:
    """What a hit must have: metadata that equals, numbers between bounds."""
    equal: list[tuple[str, str]] = []
    between: list[tuple[str, *tuple[float, ...]]] = []
    for key, value in filters.items():
        if isinstance(value, tuple):
            low, high = value
            low = -math.inf if low is None else float(low)
            high = math.inf if high is None else float(high)
            if not low <= high:
                raise ValueError(f"filter {key!r}: the bounds must be low ≤ high, got {value}")
            between.append((key, low, high))
        else:
            equal.append((key, _filterable(value)))
    return _pairs(equal) + _ranges(between)


def _filterable(value: str | float | bool) -> str:
    """A value of metadata as the string it is found by: 3 and 3.0 are the same, true is true."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def pack_document(document: Document) -> bytes:
    strings: list[tuple[str, str]] = []
    numbers: list[tuple[str, *tuple[float, ...]]] = []
    for key, value in document.metadata.items():
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, (str, int, float)):
                continue
            if len(filterable := _filterable(part)) <= LONGEST_FILTER:
                strings.append((key, filterable))
            if not isinstance(part, (bool, str)) and abs(part) <= sys.float_info.max:
                numbers.append((key, float(part)))
    stored = (document.id, document.title, document.text, json.dumps(dict(document.metadata)))
    return pack_strings(stored) + _pairs(strings) + _ranges(numbers)


def read_strings(packed: bytes, count: int) -> list[str]:
    """The length of each in code points, then all of them."""
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
