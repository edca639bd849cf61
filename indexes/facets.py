"""Facets as the engine counts them: checked against an index, packed, and read; see Facets.java."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence

from lsr.documents import MetadataValue
from lsr.facet import Counted, Counts, Facet, RangeCount, ValueCount
from lsr.filter import Comparison
from lsr.indexes.buffers import Reader, pack_integers, pack_strings
from lsr.indexes.filters import LONGEST, Types, known_keys, pack_filter, term_of


def pack_facets(facets: Sequence[Facet], types: Types) -> bytes:
    """Facets as Facets.java reads them.

    Raises:
        ValueError: a key is unknown, or a bound has a type that the key has nowhere.
    """
    parts = [pack_integers(LONGEST, len(facets))]
    for facet in facets:
        if facet.key not in types:
            raise ValueError(
                f"facet {str(facet)!r}: no document of this index has a value under the key "
                f"{facet.key!r}; {known_keys(facet.key, types)}"
            )
        limit = 0 if facet.ranges else facet.limit
        parts += [pack_strings([facet.key]), pack_integers(limit, len(facet.ranges))]
        for one in facet.ranges:
            try:
                plan = pack_filter(Comparison(facet.key, "=", one), types)
            except ValueError as error:
                raise ValueError(f"facet {str(facet)!r}: {error}") from error
            parts += [struct.pack("<i", len(plan)), plan]
    return b"".join(parts)


def read_counts(packed: bytes, facets: Sequence[Facet]) -> Counts:
    """What the engine has counted for these facets."""
    answer = Reader(packed)
    total = answer.long()
    return Counts(total, [_read(answer, facet) for facet in facets])


def _read(answer: Reader, facet: Facet) -> Counted:
    ranges = [RangeCount(one, answer.long()) for one in facet.ranges]
    documents = answer.long()
    if facet.ranges:
        return Counted(facet.key, documents, [], 0, ranges)
    # In the order of values that are tied, which sorting keeps.
    booleans, n_booleans = _values(answer, lambda: answer.string() == "true")
    strings, n_strings = _values(answer, lambda: _string(answer, facet.key))
    integers, n_integers = _values(answer, answer.long)
    floats, n_floats = _values(answer, answer.double)
    numbers = sorted(integers + floats)
    values = sorted([*booleans, *numbers, *strings], key=lambda found: -found.documents)
    shown = values[: facet.limit]
    others = n_booleans + n_strings + n_integers + n_floats - len(shown)
    return Counted(facet.key, documents, shown, others, [])


def _values(answer: Reader, value: Callable[[], MetadataValue]) -> tuple[list[ValueCount], int]:
    """Read the values of one type, and how many there are."""
    different, n = answer.integer(), answer.integer()
    found = []
    for _ in range(n):
        documents = answer.integer()
        found.append(ValueCount(value(), documents))
    return found, different


def _string(answer: Reader, key: str) -> str:
    """Read a term, which of a long string is its beginning; its document has the whole."""
    term = answer.string()
    if len(term) <= LONGEST:
        return term
    given = json.loads(answer.string())[key]
    values = given if isinstance(given, list) else [given]
    return next(v for v in values if isinstance(v, str) and term_of(v) == term)
