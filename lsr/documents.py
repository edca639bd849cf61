"""Documents and queries, and the rules for their ids, texts and metadata."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

MetadataValue = str | int | float | bool

# Lucene refuses terms of 32 KiB; nobody needs ids or keys that long.
_LONGEST_ID = _LONGEST_KEY = 1000
# Integers have 64 bits, as a field of Lucene does.
SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**63 - 1
# Most numbers in a list: longer ones are taken for vectors, which are no use stored as text.
_LONGEST_NUMBERS = 100
_DEEPEST = 100
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](\d\d:\d\d(?::\d\d(?:[.,](\d{1,9}))?)?)([Zz]|[+-]\d\d:?\d\d|[+-]\d\d)?)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Document:
    """One retrievable unit of text."""

    id: str
    title: str = ""
    text: str = ""
    metadata: Mapping[str, MetadataValue | Sequence[MetadataValue]] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """What encoders read: title and text joined by a space (the BEIR convention)."""
        return f"{self.title} {self.text}".strip()


class Change(NamedTuple):
    """A change of a document's metadata: values to set by key; None takes a key away."""

    id: str
    metadata: Mapping[str, MetadataValue | Sequence[MetadataValue] | None]


class Query(NamedTuple):
    """One information need."""

    id: str
    text: str


def checked_id(value: str) -> str:
    """Return an id that every file format can hold; ValueError if it is not one."""
    if not value:
        raise ValueError("empty id")
    if value.split() != [value]:
        # TREC run and qrels files separate columns by white space.
        raise ValueError(f"white space in id {value!r}")
    if len(value) > _LONGEST_ID:
        raise ValueError(f"id must have at most {_LONGEST_ID} characters, got {len(value)}")
    return checked_text(value, "id")


def checked_text(value: str, key: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{key} holds a lone surrogate, which UTF-8 cannot express") from error
    return value


def metadata_of(*objects: Mapping[str, object]) -> dict[str, MetadataValue | list[MetadataValue]]:
    """Return the members of objects as metadata; files, streams, HTTP and Python share this rule.

    Strings, finite numbers, booleans and lists of these are kept. The members of a nested object
    get dotted keys: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``. A null is absent, also in a list.

    Raises:
        ValueError: any other value, named by its key; two values for one key; or a key that is
            empty or too long.
    """
    result: dict[str, MetadataValue | list[MetadataValue]] = {}
    for values in objects:
        for key, value in _leaves(values, "", 1):
            if value is not None:
                _set(result, key, value)
    return result


def change_of(doc_id: str, given: Mapping[str, object]) -> Change:
    """Return the change that an object stands for; all ways to change metadata share this rule.

    Values are those of `metadata_of`, but a null takes away its key, and where that is of an object
    all of its members: ``{"a": {"b": null, "c": 1}}`` takes away ``a.b``, and sets ``a.c``. What is
    not named stays.

    Raises:
        ValueError: a value that metadata cannot hold, two for one key, or no key at all.
    """
    found: dict[str, MetadataValue | list[MetadataValue] | None] = {}
    for key, value in _leaves(given, "", 1):
        _set(found, key, value)
    if not found:
        raise ValueError(f"a change of document {doc_id!r} must name a key of metadata")
    return Change(checked_id(doc_id), found)


def changed(document: Document, change: Change) -> Document:
    """Return a document with its metadata changed: keys are taken away first, then set."""
    gone = [key for key, value in change.metadata.items() if value is None]
    inside = tuple(f"{key}." for key in gone)
    kept = {
        key: value
        for key, value in document.metadata.items()
        if key not in gone and not key.startswith(inside)
    }
    new = {key: value for key, value in change.metadata.items() if value is not None}
    return replace(document, metadata=kept | new)


def _set(result: MutableMapping[str, Any], key: str, value: object) -> None:
    """Put a value under a key that is not there yet."""
    checked_text(key, "a key")
    if len(key) > _LONGEST_KEY:
        raise ValueError(
            f"a key of metadata must have at most {_LONGEST_KEY:,} characters, got {len(key):,}: "
            f"{key[:40]}…"
        )
    if key in result:
        raise ValueError(f"{key} is given twice")
    if isinstance(value, list | tuple):
        items = [_metadata_value(item, f"an item of {key}") for item in _present(value)]
        _check_no_vector(items, key)
        result[key] = items
    else:
        result[key] = None if value is None else _metadata_value(value, key)


def _present(values: Sequence[object]) -> Iterator[object]:
    return (value for value in values if value is not None)


def _leaves(values: Mapping[str, object], prefix: str, depth: int) -> Iterator[tuple[str, object]]:
    """Yield the values that are no objects, with their dotted keys."""
    if depth > _DEEPEST:
        raise ValueError(
            f"{prefix.partition('.')[0]}: objects are nested more than {_DEEPEST} deep"
        )
    for key, value in values.items():
        if not isinstance(key, str):
            raise ValueError(f"a key of metadata must be a string, got {key!r}")
        if not key:
            inside = f" inside {prefix[:-1][:40]!r}" if prefix else ""
            raise ValueError(f"a key of metadata must not be empty, got ''{inside}")
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.", depth + 1)
        else:
            yield prefix + key, value


def _metadata_value(value: object, name: str) -> MetadataValue:
    if isinstance(value, str):
        return checked_text(value, name)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if isinstance(value, int) and not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
        shown = value if abs(value) < 10**40 else "a larger one"
        raise ValueError(
            f"{name} must be an integer in [−2^63, 2^63 − 1], got {shown}; a number of more digits "
            "can only be a string"
        )
    if isinstance(value, int | float):
        return value
    kind = "an object" if isinstance(value, Mapping) else type(value).__name__
    raise ValueError(
        f"{name} must be a string, a number, true or false, or a list of these, got {kind}"
    )


def _check_no_vector(items: Sequence[MetadataValue], key: str) -> None:
    """Raise ValueError for a long list of numbers that are not all integers."""
    if len(items) > _LONGEST_NUMBERS and any(isinstance(item, float) for item in items):
        raise ValueError(
            f"{key}: a list of {len(items)} numbers is not metadata (at most {_LONGEST_NUMBERS}, "
            "unless all are integers); vectors are not supported yet"
        )


def date_of(text: str) -> date | datetime | None:
    """The ISO 8601 date or date-time that a text is as a whole; None where it is neither.

    The extended form alone is read: ``2025-01-31``, and ``2025-01-31T12:00``, with seconds and
    their fraction where these are given. A space may stand for the ``T``. A date-time is returned
    in UTC: its offset (``Z``, ``+01:00``, ``+0100``, ``+01``) is subtracted, and one without an
    offset is taken for UTC. Digits of a fraction beyond microseconds are cut off.
    """
    if len(text) < 10 or text[4] != "-" or (match := _DATE.fullmatch(text)) is None:
        return None
    day, time, fraction, offset = match.groups()
    try:
        if time is None:
            return date.fromisoformat(day)
        if time.startswith("24"):  # newer versions of Python take it for the next day
            return None
        if fraction:
            time = f"{time[:8]}.{fraction[:6]:0<6}"
        zone = "+00:00" if offset in (None, "Z", "z") else offset
        return datetime.fromisoformat(f"{day}T{time}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):  # a 31st of June, or before the year 1 in UTC
        return None
