"""Facets: how many of the documents that pass a filter have each value of a key, or each range.

Strings, and the JSON that stands for the same::

    kind                 {"key": "kind"}
    kind: 50             {"key": "kind", "limit": 50}
    year: ..1950, 2000.. {"key": "year", "ranges": [{"to": 1950}, {"from": 2000}]}

The first gives the ten most frequent values, the second the fifty most frequent. A range includes
both of its bounds, of which one may be missing; bounds are the values of `lsr.filter`, so that a
day is whole (``day: 2025-01-01..2025-01-31``). A key needs quotes where it does in a filter, and
where it holds a colon.

A document that has a list under the key counts once for each different value, and once for each
range that one of them is in. 5 and 5.0 are one value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NotRequired

from typing_extensions import TypedDict

from lsr.documents import MetadataValue
from lsr.filter import Exists, Range, excerpt, key_text, text_of
from lsr.filter_json import FilterRange, range_from_json
from lsr.filter_text import QUOTED, parse_key, parse_range

LARGEST_LIMIT, MOST_RANGES = 10_000, 100
_FACET = re.compile(rf"\s*({QUOTED}|[^\s\"'(),=<>!:]+)\s*(?::(.*))?", re.DOTALL)
_RANGE = re.compile(rf"(?:{QUOTED}|[^\"',])+", re.DOTALL)


class FacetJson(TypedDict):
    """The JSON form."""

    key: str
    limit: NotRequired[int]
    ranges: NotRequired[list[FilterRange | str]]


@dataclass(frozen=True)
class Facet:
    """What to count: the most frequent values of a key, or ranges of its values.

    ``str`` gives the form that `read_facet` reads.
    """

    key: str
    limit: int = 10  # of values, where there are no ranges
    ranges: tuple[Range, ...] = ()

    def __post_init__(self) -> None:
        Exists(self.key)  # which checks the key
        if isinstance(self.limit, bool) or not isinstance(self.limit, int):
            raise ValueError(
                f"the limit of a facet must be a whole number, got {excerpt(self.limit)}"
            )
        if not 1 <= self.limit <= LARGEST_LIMIT:
            raise ValueError(
                f"the limit of a facet must be in [1, {LARGEST_LIMIT:,}], got {excerpt(self.limit)}"
            )
        object.__setattr__(self, "ranges", tuple(self.ranges))
        if len(self.ranges) > MOST_RANGES:
            raise ValueError(
                f"a facet must have at most {MOST_RANGES} ranges, got {len(self.ranges):,}"
            )

    def __str__(self) -> str:
        key = json.dumps(self.key, ensure_ascii=False) if ":" in self.key else key_text(self.key)
        if self.ranges:
            return f"{key}: {', '.join(map(text_of, self.ranges))}"
        return key if self.limit == Facet.limit else f"{key}: {self.limit}"


class ValueCount(NamedTuple):
    """A value of metadata, and how many documents have it."""

    value: MetadataValue
    documents: int


class RangeCount(NamedTuple):
    """A range, and how many documents have a value in it."""

    range: Range
    documents: int


class Counted(NamedTuple):
    """What was counted for a facet, among the documents that pass the filter."""

    key: str
    documents: int  # that have the key
    values: list[ValueCount]  # most frequent first; false, true, numbers, strings where tied
    others: int  # different values beyond these
    ranges: list[RangeCount]  # in the order in which they were asked for


class Counts(NamedTuple):
    """How many documents pass a filter, and what was counted among them for each facet."""

    total: int
    facets: list[Counted]

    def to_json(self) -> dict[str, Any]:
        """Return the members of `lsr.answers.Answer` that tell this."""
        facets = []
        for of in self.facets:
            values = [one._asdict() for one in of.values]
            ranges = [
                {"range": text_of(one.range), "documents": one.documents} for one in of.ranges
            ]
            facets.append(of._asdict() | {"values": values, "ranges": ranges})
        return {"total": self.total, "facets": facets}


def read_facet(given: str | Mapping[str, Any] | Facet) -> Facet:
    """The facet that is given in one of its forms: a string, JSON, or itself.

    Raises:
        ValueError: it is no facet.
    """
    if isinstance(given, Facet):
        return given
    if isinstance(given, str):
        return _from_text(given)
    if not isinstance(given, Mapping):
        raise ValueError(f"a facet must be a string or an object, got {excerpt(given)}")
    if "key" not in given or given.keys() - FacetJson.__annotations__.keys():
        raise ValueError(
            "a facet must hold key, and may hold limit or ranges and nothing else, got "
            f"{', '.join(map(excerpt, given)) or 'nothing'}"
        )
    if "limit" in given and "ranges" in given:
        raise ValueError(f"a facet has a limit of values or ranges, got both: {excerpt(given)}")
    if "ranges" not in given:
        return Facet(**given)
    ranges = given["ranges"]
    if isinstance(ranges, str) or not isinstance(ranges, Sequence) or not ranges:
        raise ValueError(f"ranges must be a list of at least one, got {excerpt(ranges)}")
    return Facet(
        given["key"],
        ranges=tuple(
            parse_range(part) if isinstance(part, str) else range_from_json(part, f"ranges[{n}]")
            for n, part in enumerate(ranges)
        ),
    )


def _from_text(text: str) -> Facet:
    match = _FACET.fullmatch(text)
    rest = match[2] if match else None
    if match is None or (rest is not None and not rest.strip()):
        raise ValueError(
            f"a facet must be KEY, KEY: LIMIT or KEY: RANGE, RANGE, got {excerpt(text)}; a key "
            "needs quotes where it holds white space or any of : ( ) , = < > !"
        )
    key = parse_key(match[1])
    if rest is None:
        return Facet(key)
    if re.fullmatch(r"\s*\d{1,9}\s*", rest, re.ASCII):
        return Facet(key, int(rest))
    parts = _RANGE.findall(rest)
    if ",".join(parts) != rest:
        raise ValueError(f"facet {excerpt(text)}: a range is missing, or a quote is never closed")
    try:
        return Facet(key, ranges=tuple(map(parse_range, parts)))
    except ValueError as error:
        raise ValueError(f"facet {excerpt(text)}: {error}") from None
