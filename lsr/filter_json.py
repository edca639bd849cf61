"""The JSON form of filters, see `lsr.filter`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, NotRequired, get_args

from typing_extensions import TypedDict

from lsr.documents import date_of
from lsr.filter import (
    LISTS,
    MOST,
    OPERATORS,
    And,
    Comparison,
    Contains,
    Exists,
    Filter,
    In,
    Match,
    Not,
    Or,
    Range,
    Value,
    check_bounds,
    check_size,
    excerpt,
    iso,
)


# The schema of the form, for the description of the HTTP API.
class FilterDate(TypedDict):
    date: str


FilterValue = str | bool | int | float | FilterDate
FilterRange = TypedDict(
    "FilterRange", {"from": FilterValue | None, "to": FilterValue | None}, total=False
)
FilterOperator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "not in", "has any", "has all"]


class FilterCondition(TypedDict):
    key: str
    op: FilterOperator
    value: FilterValue | FilterRange | list[FilterValue]


class FilterExists(TypedDict):
    exists: str


class FilterContains(TypedDict):
    contains: str
    field: NotRequired[Literal["title"]]
    match: NotRequired[Match]
    edits: NotRequired[Literal[1, 2]]


FilterAnd = TypedDict("FilterAnd", {"and": "list[FilterJson]"})
FilterOr = TypedDict("FilterOr", {"or": "list[FilterJson]"})
FilterNot = TypedDict("FilterNot", {"not": "FilterJson"})
FilterJson = FilterAnd | FilterOr | FilterNot | FilterCondition | FilterExists | FilterContains


def to_json(given: Filter) -> dict[str, Any]:
    """A filter as JSON, see `lsr.filter`."""
    match given:
        case And(filters):
            return {"and": [to_json(part) for part in filters]}
        case Or(filters):
            return {"or": [to_json(part) for part in filters]}
        case Not(inner):
            return {"not": to_json(inner)}
        case Exists(key):
            return {"exists": key}
        case Contains(text, field, match, edits):
            options = {"field": field, "match": match, "edits": edits}
            usual = {"field": None, "match": "words", "edits": 0}
            return {"contains": text} | {
                name: value for name, value in options.items() if value != usual[name]
            }
        case Comparison(key, operator, value):
            return {"key": key, "op": operator, "value": _value_to_json(value)}
    name = next(name for name, kind in LISTS.items() if isinstance(given, kind))
    return {"key": given.key, "op": name, "value": [_value_to_json(v) for v in given.values]}


def from_json(given: object) -> Filter:
    """The filter that JSON stands for, see `lsr.filter`.

    ``and`` and ``or`` may have a single filter here, which they then stand for.

    Raises:
        ValueError: the JSON is no filter, or too deep or too large; the place is named.
    """
    found = _from_json(given, "filter", 1)
    check_size(found)
    return found


def _from_json(given: object, place: str, depth: int) -> Filter:
    check_bounds(depth, 0)
    if not isinstance(given, Mapping):
        raise ValueError(f"{place} must be an object, got {excerpt(given)}")
    for name, kind in (("and", And), ("or", Or)):
        if name in given:
            _check_members(given, {name}, place)
            parts = given[name]
            if isinstance(parts, str) or not isinstance(parts, Sequence) or not parts:
                raise ValueError(
                    f"{place}.{name} must be a list of at least one filter, got {excerpt(parts)}"
                )
            if len(parts) > MOST:
                check_bounds(depth, len(parts))
            filters = tuple(
                _from_json(part, f"{place}.{name}[{number}]", depth + 1)
                for number, part in enumerate(parts)
            )
            return kind(filters) if len(filters) > 1 else filters[0]
    if "not" in given:
        _check_members(given, {"not"}, place)
        return Not(_from_json(given["not"], f"{place}.not", depth + 1))
    try:
        if "exists" in given:
            _check_members(given, {"exists"}, place)
            return Exists(given["exists"])
        if "contains" in given:
            _check_members(given, {"contains"} | given.keys() & {"field", "match", "edits"}, place)
            options: dict[str, Any] = {
                name: value for name, value in given.items() if name != "contains"
            }
            return Contains(given["contains"], **options)
        return _condition_from_json(given, place)
    except _PlacedError:
        raise
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


class _PlacedError(ValueError):
    """An error that names its place."""


def _condition_from_json(given: Mapping[str, object], place: str) -> Filter:
    if not given.keys() & {"key", "op", "value"} and given:
        name, of_name = next(iter(given.items()))
        example = {"key": name, "op": "=", "value": of_name}
        raise _PlacedError(
            f"{place} must hold one of and, or, not, exists, contains, or key, op and value; got "
            f"{excerpt(name)}. A comparison is written {excerpt(example)}"
        )
    _check_members(given, {"key", "op", "value"}, place)
    key: Any = given["key"]
    operator: Any = given["op"]
    value = given["value"]
    names = get_args(FilterOperator)
    if operator not in names:
        raise _PlacedError(f"{place}.op must be one of {', '.join(names)}; got {excerpt(operator)}")
    if operator in OPERATORS:
        return Comparison(key, operator, _value_from_json(value, f"{place}.value"))
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _PlacedError(f"{place}.value must be a list for {operator!r}, got {excerpt(value)}")
    values = tuple(
        _plain_from_json(part, f"{place}.value[{number}]") for number, part in enumerate(value)
    )
    if operator == "not in":
        return Not(In(key, values))
    return LISTS[operator](key, values)


def _check_members(given: Mapping[str, object], names: set[str], place: str) -> None:
    if given.keys() == names:
        return
    wanted = " and ".join(sorted(names)) if len(names) < 3 else "key, op and value"
    found = ", ".join(map(excerpt, given)) or "nothing"
    raise _PlacedError(f"{place} must hold {wanted} and nothing else, got {found}")


def _value_from_json(given: object, place: str) -> Value | Range:
    if isinstance(given, Mapping) and given and given.keys() <= {"from", "to"}:
        return range_from_json(given, place)
    return _plain_from_json(given, place)


def range_from_json(given: object, place: str) -> Range:
    """The range that ``{"from": …, "to": …}`` stands for; `place` is what errors call it.

    Raises:
        ValueError: the JSON is no range.
    """
    if not isinstance(given, Mapping) or not given or given.keys() - {"from", "to"}:
        raise ValueError(
            f'{place} must be a range {{"from": …, "to": …}} of which one may be missing, got '
            f"{excerpt(given)}"
        )
    bounds = (
        None if given.get(name) is None else _plain_from_json(given[name], f"{place}.{name}")
        for name in ("from", "to")
    )
    return Range(*bounds)


def _plain_from_json(given: object, place: str) -> Value:
    if isinstance(given, Mapping) and given.keys() == {"date"}:
        text = given["date"]
        found = date_of(text) if isinstance(text, str) else None
        if found is None:
            raise _PlacedError(
                f"{place}.date must be an ISO 8601 date or date-time such as 2025-01-31 or "
                f"2025-01-31T12:00:00Z, got {excerpt(text)}"
            )
        return found
    if not isinstance(given, str | bool | int | float):
        raise _PlacedError(
            f'{place} must be a string, a number, true or false, {{"date": "2025-01-31"}}, or for '
            f'= and != a range {{"from": …, "to": …}}; got {excerpt(given)}'
        )
    return given


def _value_to_json(value: Value | Range) -> Any:
    if isinstance(value, Range):
        bounds = (("from", value.low), ("to", value.high))
        return {name: _value_to_json(bound) for name, bound in bounds if bound is not None}
    return {"date": iso(value)} if isinstance(value, date) else value
