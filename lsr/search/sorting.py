"""Hits in the order of their metadata, and in groups of the same value."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import UTC, date, datetime
from itertools import chain
from typing import Any, TypeVar

from lsr.documents import MetadataValue, date_of
from lsr.filter import kind_of

T = TypeVar("T")
# The order of values of different types; see also `lsr.request_stages.Group`.
_KINDS = {"number": 0, "date": 1, "string": 2, "boolean": 3}


def orderable(value: MetadataValue) -> tuple[int, Any]:
    """Return what a value compares as: numbers, then dates, other strings, and booleans.

    Numbers compare exactly, strings by code points. A string is a date where a filter takes it for
    one, see `lsr.filter`.
    """
    found: Any = value
    if isinstance(value, str) and (day := date_of(value)) is not None:
        found = day
        if not isinstance(day, datetime):
            found = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return _KINDS["date" if isinstance(found, date) else kind_of(found)], found


def sort(hits: Sequence[T], values: Sequence[Sequence[MetadataValue]], descending: bool) -> list[T]:
    """Return hits by their values; those without a value come last, ties stay as they are.

    Args:
        hits: n of them.
        values: of each hit. Of several the smallest counts, or the largest where `descending`.
        descending: largest first.
    """
    pick = max if descending else min
    keyed = [
        (pick(map(orderable, of)), hit) for hit, of in zip(hits, values, strict=True) if len(of)
    ]
    # Python keeps the order of equal ones also in reverse.
    keyed.sort(key=lambda pair: pair[0], reverse=descending)
    without = [hit for hit, of in zip(hits, values, strict=True) if not len(of)]
    return [hit for _, hit in keyed] + without


def group_of(values: Sequence[MetadataValue]) -> MetadataValue | None:
    """Return the value that names the group of a document; None for one that is its own group."""
    return min(values, key=orderable) if len(values) else None


def firsts(groups: Sequence[MetadataValue | None], most: int) -> list[int]:
    """Return the places of the first `most` hits of each group, ascending."""
    kept, seen = [], dict[Hashable, int]()
    for place, group in enumerate(groups):
        if group is not None:
            # True equals 1 in Python, and is another group.
            name = (kind_of(group), group)
            seen[name] = seen.get(name, 0) + 1
            if seen[name] > most:
                continue
        kept.append(place)
    return kept


def together(groups: Sequence[MetadataValue | None]) -> list[int]:
    """Return the places of hits so that those of a group follow its first."""
    members: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        name = (None, place) if group is None else (kind_of(group), group)
        members.setdefault(name, []).append(place)
    return list(chain.from_iterable(members.values()))
