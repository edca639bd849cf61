"""Filters: conditions on the metadata and the words of documents, as a tree, JSON and a string.

Strings, and the JSON that stands for the same::

    amount > 100              {"key": "amount", "op": ">", "value": 100}
    status in (open, closed)  {"key": "status", "op": "in", "value": ["open", "closed"]}
    tags has any (a, b)       {"key": "tags", "op": "has any", "value": ["a", "b"]}
    tags has all (a, b)       {"key": "tags", "op": "has all", "value": ["a", "b"]}
    year = 1950..1960         {"key": "year", "op": "=", "value": {"from": 1950, "to": 1960}}
    day >= 2025-01-01         {"key": "day", "op": ">=", "value": {"date": "2025-01-01"}}
    exists(owner)             {"exists": "owner"}
    contains("heat flow")     {"contains": "heat flow"}
    contains(title, wing)     {"contains": "wing", "field": "title"}
    contains(aero*)           {"contains": "aero", "match": "prefix"}
    contains(wing~1)          {"contains": "wing", "match": "fuzzy", "edits": 1}
    A and B, A or B, not A    {"and": [A, B]}, {"or": [A, B]}, {"not": A}

The operators are ``= != < <= > >=``, ``in``, ``not in``, ``has any`` and ``has all``. ``not`` binds
tighter than ``and``, and ``and`` tighter than ``or``; parentheses group. Keys of nested objects are
dotted (``owner.name``). A range includes both of its bounds, of which one may be missing
(``year = ..1960``).

Types are strict:

- The number 5 is not the string "5". 5 equals 5.0. Numbers compare exactly; integers have 64 bits.
- In a string, a token without quotes that reads as a number, as true or false, or as an ISO 8601
  date or date-time has this type; any other is a string. Text in single or double quotes is a
  string, with the escapes ``\\"``, ``\\'``, ``\\\\``, ``\\n``, ``\\t`` and ``\\uXXXX``. Keys and
  strings need quotes where they hold white space or any of ``( ) , = < > !`` or two dots, or are
  one of the words ``and or not in has exists``.
- Metadata have no type for dates. A string that is an ISO 8601 date or date-time as a whole is a
  date too, in UTC where it has no offset, and exact to the microsecond. A date without a time is
  its midnight in metadata, and the whole day in a filter: ``= 2025-01-01`` and ``<= 2025-01-01``
  include the day, ``> 2025-01-01`` starts after it.
- ``<``, ``<=``, ``>`` and ``>=`` order numbers, dates, and strings by their code points; true and
  false have no order.
- Where a document has a list, one of its values is enough; ``has all`` needs all. A range holds a
  single value of the list.
- ``!=``, ``not in`` and ``not`` are the opposites of what they deny, so that they also match
  documents without the key. ``!=`` and ``not in`` match where no value of a list is equal.
- ``exists`` asks for a value under the key, or under a key of an object of that name.

``contains`` asks for words of title and text, read as one, or of the title alone, as the analyzer
of the index makes them, or their synonyms where it has some: in all filters, also in those that say
what is deleted. Several words must follow each other,
with the gaps that stop words left. ``aero*`` stands for all words that begin so, and ``wing~1`` and
``wing~2`` for all that differ by so many edits: a letter more, less or another, or two neighbours
in each other's place. ``wing~`` is ``wing~1``, and with more than five letters ``~2``. A pattern
also stands for its own word as the analyzer makes it: ``running*`` for ``run``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from numbers import Integral, Real
from typing import Any, Literal, get_args

from lsr.documents import LARGEST_INTEGER, SMALLEST_INTEGER, checked_text

Value = str | bool | int | float | date | datetime
Kind = Literal["string", "number", "boolean", "date"]
Operator = Literal["=", "!=", "<", "<=", ">", ">="]
OPERATORS: tuple[str, ...] = get_args(Operator)
WORDS = ("and", "or", "not", "in", "has", "exists")
# Conditions inside conditions; conditions and listed values together.
DEEPEST, MOST = 50, 10_000
# Characters of a text that documents contain, and of a pattern.
LONGEST_TEXT, LONGEST_PATTERN = 1_000, 100
Match = Literal["words", "prefix", "fuzzy"]
# A key that needs no quotes.
_PLAIN = re.compile(r"(?:(?!\.\.)[^\s\"'(),=<>!])+")


@dataclass(frozen=True)
class Range:
    """Values between two bounds of one kind, both included; one of them may be None."""

    low: Value | None = None
    high: Value | None = None

    def __post_init__(self) -> None:
        bounds = [_value(bound) for bound in (self.low, self.high) if bound is not None]
        kinds = {kind_of(bound) for bound in bounds}
        if not bounds:
            raise ValueError("a range needs a bound; exists(KEY) asks for any value")
        if len(kinds) > 1:
            raise ValueError(
                "the bounds of a range must be of one type, got "
                + " and ".join(map(text_of, bounds))
            )
        if kinds == {"boolean"}:
            raise ValueError("true and false have no order: a range must be of other values")
        object.__setattr__(self, "low", None if self.low is None else bounds[0])
        object.__setattr__(self, "high", None if self.high is None else bounds[-1])
        if len(bounds) == 2 and span_of(bounds[0])[0] > span_of(bounds[1])[1]:
            raise ValueError(
                f"the bounds of a range must be low ≤ high, got {'..'.join(map(text_of, bounds))}"
            )


class _Filter:
    """What all filters can: ``str`` gives the form that `lsr.filter_text.parse` reads.

    Two filters are equal where these are: Python's own comparison takes 1 for True.
    """

    @cached_property
    def _text(self) -> str:
        return _to_text(self)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Filter) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, eq=False)
class Comparison(_Filter):
    """A value under a key that compares with another; a Range with ``=`` and ``!=`` alone."""

    key: str
    operator: Operator
    value: Value | Range

    def __post_init__(self) -> None:
        _check_key(self.key)
        if self.operator not in OPERATORS:
            raise ValueError(
                f"the operator of a comparison must be one of {' '.join(OPERATORS)}, got "
                f"{self.operator!r}"
            )
        if isinstance(self.value, Range):
            if self.operator not in ("=", "!="):
                raise ValueError(f"a range goes with = and != alone, got {self.operator}")
            return
        object.__setattr__(self, "value", _value(self.value))
        if isinstance(self.value, bool) and self.operator not in ("=", "!="):
            raise ValueError(f"true and false have no order, got {self.operator}")


@dataclass(frozen=True, eq=False)
class In(_Filter):
    """A value under a key that equals one of these."""

    key: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        _check_list(self)


@dataclass(frozen=True, eq=False)
class HasAny(_Filter):
    """A list under a key that holds one of these values, which a single value does too."""

    key: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        _check_list(self)


@dataclass(frozen=True, eq=False)
class HasAll(_Filter):
    """A list under a key that holds all of these values."""

    key: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        _check_list(self)


@dataclass(frozen=True, eq=False)
class Exists(_Filter):
    """Any value under a key, or under a key of an object of that name."""

    key: str

    def __post_init__(self) -> None:
        _check_key(self.key)


@dataclass(frozen=True, eq=False)
class Contains(_Filter):
    """Words of title and text that follow each other, or a word that one pattern stands for.

    Attributes:
        text: the words; or, of "prefix", how a word begins; of "fuzzy", a word like it.
        field: "title" for words of the title alone.
        match: what `text` is.
        edits: of "fuzzy" by how many edits a word may differ, 1 or 2.
    """

    text: str
    field: Literal["title"] | None = None
    match: Match = "words"
    edits: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise ValueError(f"`contains` needs a text that is not empty, got {excerpt(self.text)}")
        checked_text(self.text, excerpt(self.text))
        if self.field not in (None, "title"):
            raise ValueError(
                "`contains` looks into title and text, or into the title alone (title), got "
                f"{excerpt(self.field)}"
            )
        if self.match not in get_args(Match):
            raise ValueError(
                f"`match` must be one of {', '.join(get_args(Match))}, got {excerpt(self.match)}"
            )
        most = LONGEST_TEXT if self.match == "words" else LONGEST_PATTERN
        if len(self.text) > most:
            raise ValueError(
                f"a text of {self.match} must have at most {most:,} characters, got "
                f"{len(self.text):,}"
            )
        if self.match != "words" and re.search(r"\s", self.text):
            raise ValueError(f"a pattern must be one word, got {excerpt(self.text)}")
        edits = (1, 2) if self.match == "fuzzy" else (0,)
        if type(self.edits) is not int or self.edits not in edits:
            raise ValueError(
                f"`edits` must be {' or '.join(map(str, edits))} with match {self.match!r}, got "
                f"{excerpt(self.edits)}"
            )


@dataclass(frozen=True, eq=False)
class Not(_Filter):
    """All documents that a filter does not match."""

    filter: Filter

    def __post_init__(self) -> None:
        _check_filters([self.filter])


@dataclass(frozen=True, eq=False)
class And(_Filter):
    """Documents that all of at least two filters match."""

    filters: tuple[Filter, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", _check_filters(self.filters, 2))


@dataclass(frozen=True, eq=False)
class Or(_Filter):
    """Documents that one of at least two filters matches."""

    filters: tuple[Filter, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", _check_filters(self.filters, 2))


OfKey = Comparison | In | HasAny | HasAll | Exists
Condition = OfKey | Contains
Filter = Condition | Not | And | Or
LISTS: dict[str, type[In | HasAny | HasAll]] = {"in": In, "has any": HasAny, "has all": HasAll}


def kind_of(value: Value) -> Kind:
    """The type that a value of metadata must have to compare with this one."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, date):  # a datetime is one too
        return "date"
    return "string" if isinstance(value, str) else "number"


def span_of(value: Value) -> tuple[Any, Any]:
    """The first and the last value that equal one: a day has two, all others are their own."""
    if isinstance(value, date) and not isinstance(value, datetime):
        midnight = datetime(value.year, value.month, value.day, tzinfo=UTC)
        return midnight, midnight.replace(hour=23, minute=59, second=59, microsecond=999_999)
    return value, value


def text_of(value: Value | Range) -> str:
    """A value as a filter in string form writes it; strings are quoted."""
    if isinstance(value, Range):
        return "..".join("" if b is None else text_of(b) for b in (value.low, value.high))
    if isinstance(value, date):
        return iso(value)
    return json.dumps(value, ensure_ascii=False)


def key_text(key: str) -> str:
    """A key as a filter in string form writes it."""
    plain = _PLAIN.fullmatch(key) and key.lower() not in WORDS
    return key if plain else json.dumps(key, ensure_ascii=False)


def usual_edits(word: str) -> int:
    """By how many edits a word may differ where a pattern does not say it."""
    return 1 if len(word) <= 5 else 2


def conditions(given: Filter) -> Iterator[Condition]:
    """The conditions of a filter on keys and words, from left to right.

    Raises:
        ValueError: the filter is too deep or too large.
    """
    waiting: list[tuple[Filter, int]] = [(given, 1)]
    size = 0
    while waiting:
        node, depth = waiting.pop()
        size += 1 + (len(node.values) if isinstance(node, In | HasAny | HasAll) else 0)
        check_bounds(depth, size)
        if isinstance(node, And | Or):
            waiting += [(part, depth + 1) for part in reversed(node.filters)]
        elif isinstance(node, Not):
            waiting.append((node.filter, depth + 1))
        else:
            yield node


def check_size(given: Filter) -> None:
    """Raise ValueError where a filter is too deep or too large."""
    for _ in conditions(given):
        pass


def _to_text(given: Filter) -> str:
    match given:
        case And(filters):
            return " and ".join(_grouped(part, And | Or) for part in filters)
        case Or(filters):
            return " or ".join(_grouped(part, Or) for part in filters)
        case Not(In(key, values)):
            return f"{key_text(key)} not in {_list_text(values)}"
        case Not(inner):
            return f"not {_grouped(inner, And | Or)}"
        case Exists(key):
            return f"exists({key_text(key)})"
        case Contains(text, field, match, edits):
            pattern = {"words": "", "prefix": "*", "fuzzy": f"~{edits}"}[match]
            within = f"{field}, " if field else ""
            return f"contains({within}{text_of(text)}{pattern})"
        case Comparison(key, operator, value):
            return f"{key_text(key)} {operator} {text_of(value)}"
    name = next(name for name, kind in LISTS.items() if isinstance(given, kind))
    return f"{key_text(given.key)} {name} {_list_text(given.values)}"


def _grouped(part: Filter, kinds: Any) -> str:
    return f"({part})" if isinstance(part, kinds) else str(part)


def _list_text(values: Sequence[Value]) -> str:
    return f"({', '.join(map(text_of, values))})"


def iso(value: date) -> str:
    """A date or date-time as ISO 8601 writes it."""
    return value.isoformat().replace("+00:00", "Z")


def _value(given: object) -> Value:
    """A value in the one form that equal values have: 5.0 becomes 5, a date-time is in UTC.

    Raises:
        ValueError: it is no value of a filter.
    """
    if isinstance(given, str):
        return checked_text(given, excerpt(given))
    if isinstance(given, bool):
        return given
    if isinstance(given, datetime):
        given = given.replace(fold=0) if given.tzinfo in (None, UTC) else given
        try:
            return given.astimezone(UTC) if given.tzinfo else given.replace(tzinfo=UTC)
        except OverflowError as error:
            raise ValueError(f"{given.isoformat()} is not in the years 1 to 9999 of UTC") from error
    if isinstance(given, date):
        return given
    if isinstance(given, Integral):  # numpy's too
        return _in_64_bits(int(given))
    if isinstance(given, Real):
        number = float(given)
        if not math.isfinite(number):
            raise ValueError(f"a number must be finite, got {number}")
        whole = number.is_integer() and SMALLEST_INTEGER <= number <= LARGEST_INTEGER
        return int(number) if whole else number
    raise ValueError(
        "a value must be a string, a number, true or false, a date or a date-time, got "
        f"{excerpt(given)}"
    )


def _in_64_bits(number: int) -> int:
    if not SMALLEST_INTEGER <= number <= LARGEST_INTEGER:
        raise ValueError(
            f"an integer must be in [−2^63, 2^63 − 1], got {excerpt(number)}; a number of more "
            "digits can only be a string, in quotes"
        )
    return number


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not key:
        raise ValueError(f"a key must be a string that is not empty, got {excerpt(key)}")
    checked_text(key, "a key")


def _check_list(given: In | HasAny | HasAll) -> None:
    _check_key(given.key)
    if isinstance(given.values, str) or not isinstance(given.values, Sequence) or not given.values:
        raise ValueError(f"a list of at least one value is needed, got {excerpt(given.values)}")
    object.__setattr__(given, "values", tuple(map(_value, given.values)))


def _check_filters(given: object, least: int = 1) -> tuple[Filter, ...]:
    if not isinstance(given, Sequence) or len(given) < least:
        raise ValueError(f"at least {least} filters are needed, got {excerpt(given)}")
    for part in given:
        if not isinstance(part, _Filter):
            raise ValueError(f"a filter must hold filters, got {excerpt(part)}")
    return tuple(given)


def check_bounds(depth: int, size: int) -> None:
    """Raise ValueError where a filter of this depth and size is too deep or too large."""
    if depth > DEEPEST:
        raise ValueError(f"a filter must be at most {DEEPEST} deep")
    if size > MOST:
        raise ValueError(
            f"a filter must have at most {MOST:,} conditions and listed values together"
        )


def excerpt(value: object) -> str:
    """A value as an error shows it."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**80:
        return f"one of {math.floor(math.log10(abs(value))) + 1:,} digits"
    shown = repr(value)
    return shown if len(shown) <= 100 else shown[:100] + "…"
