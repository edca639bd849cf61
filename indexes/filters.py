"""Filters as the engine takes them: checked against an index, as ranges over its fields.

A key of metadata is up to five fields of Lucene, one for each type of values that it has:
``string.KEY``, ``integer.KEY``, ``float.KEY``, ``boolean.KEY`` and ``date.KEY`` (microseconds since
1970 in UTC). The field ``keys`` holds the keys of a document, and the names of its objects.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Literal, NamedTuple

from lsr.documents import LARGEST_INTEGER, SMALLEST_INTEGER, MetadataValue, date_of
from lsr.filter import (
    And,
    Comparison,
    Contains,
    Exists,
    Filter,
    HasAll,
    Kind,
    Not,
    OfKey,
    Or,
    Range,
    Value,
    conditions,
    key_text,
    kind_of,
    span_of,
    text_of,
)
from lsr.filter_text import parse

Type = Literal["string", "integer", "float", "boolean", "date"]
TYPES: tuple[Type, ...] = ("string", "integer", "float", "boolean", "date")
Types = Mapping[str, frozenset[Type]]  # by key, what an index holds
# Characters of a string that are indexed as they are; Lucene refuses terms of 32 KiB.
LONGEST = 1000
# Keys that an error names.
SHOWN_KEYS = 10
_OF_KIND: dict[Kind, tuple[Type, ...]] = {
    "string": ("string",),
    "number": ("integer", "float"),
    "boolean": ("boolean",),
    "date": ("date",),
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVERYTHING, _NOTHING = b"&" + struct.pack("<i", 0), b"|" + struct.pack("<i", 0)


class Indexed(NamedTuple):
    """What the metadata of a document are found by: fields with values, and keys."""

    terms: list[tuple[str, str]]
    longs: list[tuple[str, int]]
    doubles: list[tuple[str, float]]
    keys: list[str]


def indexed(metadata: Mapping[str, MetadataValue | Sequence[MetadataValue]]) -> Indexed:
    """The fields of a document with these metadata, each value once."""
    found = Indexed([], [], [], [])
    keys: dict[str, None] = {}
    for key, given in metadata.items():
        values = [given] if isinstance(given, str | int | float) else given
        for value in values:
            if isinstance(value, bool):
                found.terms.append((f"boolean.{key}", _truth(value)))
            elif isinstance(value, str):
                found.terms.append((f"string.{key}", term_of(value)))
                if (day := date_of(value)) is not None:
                    found.longs.append((f"date.{key}", _microseconds(span_of(day)[0])))
            elif isinstance(value, int):
                found.longs.append((f"integer.{key}", value))
            else:
                found.doubles.append((f"float.{key}", value + 0.0))  # −0.0 becomes 0.0
        if values:
            parts = key.split(".")
            keys |= dict.fromkeys(".".join(parts[:n]) for n in range(1, len(parts) + 1))
    return Indexed(*(list(dict.fromkeys(part)) for part in (*found[:3], keys)))  # type: ignore[arg-type]


def term_of(value: str) -> str:
    """The term that a string is found by: itself, or of a long one its beginning and a digest."""
    if len(value) <= LONGEST:
        return value
    return f"{value[:LONGEST]}… sha256 {hashlib.sha256(value.encode()).hexdigest()}"


def check_filter(given: Filter, types: Types) -> None:
    """Raise ValueError where a filter does not fit the metadata of an index.

    That is where a key is unknown, or an operand has a type that the key has nowhere.
    """
    for condition in conditions(given):
        if isinstance(condition, Contains):
            continue
        if isinstance(condition, Exists):
            if not _exists(condition.key, types):
                raise _unknown(condition, types)
            continue
        if condition.key not in types:
            raise _unknown(condition, types)
        for value in _operands(condition):
            _check_operand(condition, value, types)


def pack_filter(given: Filter | None, types: Types) -> bytes:
    """A filter as Filters.java reads it; None stands for all documents.

    Raises:
        ValueError: the filter does not fit the metadata of the index.
    """
    if given is None:
        return _EVERYTHING
    check_filter(given, types)
    return _pack(given, types)


def pack_one(packed: bytes, doc_id: str) -> bytes:
    """Of what passes a packed filter, the document of this id."""
    return _joined("&", [packed, _terms("id", [doc_id])])


def _pack(given: Filter, types: Types) -> bytes:
    match given:
        case And(parts):
            return _joined("&", [_pack(part, types) for part in parts])
        case Or(parts):
            return _joined("|", [_pack(part, types) for part in parts])
        case Not(part):
            return b"!" + _pack(part, types)
        case Exists(key):
            return _terms("keys", [key])
        case Contains(text, field, match, edits):
            kind = {"words": "p", "prefix": "x", "fuzzy": "f"}[match]
            number = struct.pack("<i", edits) if match == "fuzzy" else b""
            return _field(kind, field or "contents", _string(text) + number)
        case Comparison(key, "!=", value):
            return b"!" + _compared(key, "=", value, types)
        case Comparison(key, operator, value):
            return _compared(key, operator, value, types)
        case HasAll(key, values):
            return _joined("&", [_compared(key, "=", value, types) for value in values])
    return _among(given.key, given.values, types)


def _compared(key: str, operator: str, value: Value | Range, types: Types) -> bytes:
    """Documents with a value under a key that lies in the interval of an operator and a value."""
    bounds = [(operator, value)]
    if isinstance(value, Range):
        sides = ((">=", value.low), ("<=", value.high))
        bounds = [(sign, bound) for sign, bound in sides if bound is not None]
    kind = kind_of(bounds[0][1])  # type: ignore[arg-type]
    if kind == "boolean":
        return _terms(f"boolean.{key}", [_truth(bool(value))])
    if kind == "string":
        if operator == "=" and isinstance(value, str):
            return _terms(f"string.{key}", [term_of(value)])
        return _string_range(f"string.{key}", bounds)  # type: ignore[arg-type]
    packed = []
    if kind == "date":
        packed.append(_long_range(f"date.{key}", _date_interval(bounds)))  # type: ignore[arg-type]
    if "integer" in types[key] and kind == "number":
        packed.append(_long_range(f"integer.{key}", _integer_interval(bounds)))  # type: ignore[arg-type]
    if "float" in types[key] and kind == "number":
        packed.append(_double_range(f"float.{key}", _float_interval(bounds)))  # type: ignore[arg-type]
    return packed[0] if len(packed) == 1 else _joined("|", packed)


def _among(key: str, values: Sequence[Value], types: Types) -> bytes:
    """Documents with a value under a key that equals one of these."""
    parts = []
    strings = [value for value in values if isinstance(value, str)]
    if strings:
        parts.append(_terms(f"string.{key}", map(term_of, strings)))
    truths = [value for value in values if isinstance(value, bool)]
    if truths:
        parts.append(_terms(f"boolean.{key}", map(_truth, truths)))
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    whole = sorted({number for number in numbers if isinstance(number, int)})
    floats = sorted({float(number) for number in numbers if float(number) == number})
    if whole and "integer" in types[key]:
        parts.append(
            _field("L", f"integer.{key}", struct.pack(f"<i{len(whole)}q", len(whole), *whole))
        )
    if floats and "float" in types[key]:
        packed = struct.pack(f"<i{len(floats)}d", len(floats), *(f + 0.0 for f in floats))
        parts.append(_field("D", f"float.{key}", packed))
    days = [value for value in values if isinstance(value, date)]
    parts += [_long_range(f"date.{key}", _date_interval([("=", day)])) for day in days]
    return parts[0] if len(parts) == 1 else _joined("|", parts)


def _integer_interval(bounds: Sequence[tuple[str, int | float]]) -> tuple[int, int]:
    """The first and the last 64-bit integer that meet all bounds."""
    low, high = SMALLEST_INTEGER, LARGEST_INTEGER
    for operator, number in bounds:
        if operator in ("=", ">=", ">"):
            low = max(low, math.floor(number) + 1 if operator == ">" else math.ceil(number))
        if operator in ("=", "<=", "<"):
            high = min(high, math.ceil(number) - 1 if operator == "<" else math.floor(number))
    return low, high


def _float_interval(bounds: Sequence[tuple[str, int | float]]) -> tuple[float, float]:
    """The smallest and the largest double that meet all bounds."""
    low, high = -math.inf, math.inf
    for operator, number in bounds:
        # The double nearest to an integer may lie on either side of it.
        near = float(number)
        if operator in ("=", ">=", ">"):
            inside = near > number if operator == ">" else near >= number
            low = max(low, near if inside else math.nextafter(near, math.inf))
        if operator in ("=", "<=", "<"):
            inside = near < number if operator == "<" else near <= number
            high = min(high, near if inside else math.nextafter(near, -math.inf))
    return low + 0.0, high + 0.0  # Lucene orders −0.0 before 0.0


def _date_interval(bounds: Sequence[tuple[str, date]]) -> tuple[int, int]:
    """The first and the last microsecond that meet all bounds."""
    low, high = SMALLEST_INTEGER, LARGEST_INTEGER
    for operator, value in bounds:
        first, last = map(_microseconds, span_of(value))
        if operator in ("=", ">=", ">"):
            low = max(low, last + 1 if operator == ">" else first)
        if operator in ("=", "<=", "<"):
            high = min(high, first - 1 if operator == "<" else last)
    return low, high


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _joined(kind: str, parts: Sequence[bytes]) -> bytes:
    return kind.encode() + struct.pack("<i", len(parts)) + b"".join(parts)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<i", len(encoded)) + encoded


def _field(kind: str, field: str, rest: bytes) -> bytes:
    return kind.encode() + _string(field) + rest


def _terms(field: str, terms: Iterable[str]) -> bytes:
    different = sorted(set(terms))
    return _field("t", field, struct.pack("<i", len(different)) + b"".join(map(_string, different)))


def _long_range(field: str, interval: tuple[int, int]) -> bytes:
    low, high = interval
    return _field("l", field, struct.pack("<qq", low, high)) if low <= high else _NOTHING


def _double_range(field: str, interval: tuple[float, float]) -> bytes:
    low, high = interval
    return _field("d", field, struct.pack("<dd", low, high)) if low <= high else _NOTHING


def _string_range(field: str, bounds: Sequence[tuple[str, str]]) -> bytes:
    sides = {"low": (b"*", ""), "high": (b"*", "")}
    for operator, value in bounds:
        side = "low" if operator[0] == ">" else "high"
        sides[side] = (b"[" if operator.endswith("=") else b"(", value)
    return _field("s", field, b"".join(mark + _string(value) for mark, value in sides.values()))


def _exists(key: str, types: Types) -> bool:
    return key in types or any(known.startswith(f"{key}.") for known in types)


def _operands(condition: OfKey) -> Iterable[Value]:
    match condition:
        case Comparison(_, _, Range(low, high)):
            return [bound for bound in (low, high) if bound is not None]
        case Comparison(_, _, value):
            return [value]  # type: ignore[list-item]
        case Exists():
            return []
    return condition.values


def _check_operand(condition: OfKey, value: Value, types: Types) -> None:
    key, kind = condition.key, kind_of(value)
    if not types[key].intersection(_OF_KIND[kind]):
        held = " and ".join(f"{name}s" for name in TYPES if name in types[key])
        raise ValueError(
            f"filter `{_shown(condition)}`: {key!r} holds {held} in this index, and "
            f"{text_of(value)} is a {kind}{_instead(condition, value, types)}; "
            f"{known_keys(key, types)}"
        )
    orders = isinstance(condition, Comparison) and (
        condition.operator[0] in "<>" or isinstance(condition.value, Range)
    )
    if not (orders and isinstance(value, str)):
        return
    if len(value) > LONGEST:
        raise ValueError(
            f"filter `{_shown(condition)}`: a string that others are ordered by must have at most "
            f"{LONGEST:,} characters, got {len(value):,}"
        )
    if "date" in types[key] and date_of(value) is not None:
        raise ValueError(
            f"filter `{_shown(condition)}`: {key!r} holds dates in this index, and "
            f"{text_of(value)} is a string, which has another order than a date; write {value} "
            f'without quotes, or in JSON {{"date": {text_of(value)}}}'
        )


def _instead(condition: OfKey, value: Value, types: Types) -> str:
    """What to write, where another form of the value fits the key."""
    held = types[condition.key]
    other: Value | None = None
    if isinstance(value, str):
        try:
            read = parse(f"key = {value}")
        except ValueError:
            return ""
        if isinstance(read, Comparison) and not isinstance(read.value, Range):
            other = read.value
    elif "string" in held and "date" not in held:
        other = text_of(value)
    if other is None or not held.intersection(_OF_KIND[kind_of(other)]):
        return ""
    operator = condition.operator if isinstance(condition, Comparison) else "="
    return f": write {key_text(condition.key)} {operator} {text_of(other)}"


def _shown(condition: OfKey) -> str:
    shown = str(condition)
    return shown if len(shown) <= 100 else f"{shown[:100]}…"


def _unknown(condition: OfKey, types: Types) -> ValueError:
    return ValueError(
        f"filter `{_shown(condition)}`: no document of this index has a value under the key "
        f"{condition.key!r}; {known_keys(condition.key, types)}"
    )


def known_keys(key: str, types: Types) -> str:
    """The keys of an index with their types, those first that are written like `key`."""
    if not types:
        return "there is no metadata"
    near = difflib.get_close_matches(key, types, SHOWN_KEYS)
    names = [*near, *sorted(types.keys() - set(near))]
    shown = [
        f"{name} ({', '.join(kind for kind in TYPES if kind in types[name])})"
        for name in names[:SHOWN_KEYS]
    ]
    more = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
    return f"the keys are {', '.join(shown)}{more}"
