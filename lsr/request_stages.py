"""Settings of the stages that follow the last pass of a search: see `lsr.search.stages`."""

from __future__ import annotations

import json
from typing import Annotated, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from lsr.documents import date_of

Key = Annotated[str, Field(min_length=1, description="of metadata")]
MOST_SORT_KEYS = 10
MOST_BOOSTS = 10
LARGEST_ORIGIN = 1e300


class Settings(BaseModel):
    """What all settings of a request share: unknown ones are refused, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Group(Settings):
    """Hits of one value of metadata are together, and no more than so many.

    A document without the key is a group of its own. Of a list the smallest value names the group:
    numbers come before dates, these before other strings, and booleans last.
    """

    key: Key
    hits: Annotated[int, Field(ge=1, le=1000)] = Field(default=1, description="of one group")


class Boost(Settings):
    """An addend to the score by a number or a date: see `lsr.search.boosting`."""

    key: Key
    weight: Annotated[float, Field(gt=0, le=1e6)] = Field(
        default=1.0, description="the largest addend, in the units of the score"
    )
    form: Literal["saturation", "exponential", "gaussian", "linear"] = Field(
        default="saturation",
        description="saturation grows with the value and needs `pivot`; the others fall with the "
        "distance from `origin`, and need `scale`",
    )
    pivot: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="the value that adds half of the weight"
    )
    origin: int | float | str | None = Field(
        default=None, description="a number, or an ISO 8601 date: here the whole weight is added"
    )
    scale: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="the distance that adds `decay` times the weight; days for dates"
    )
    offset: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="a distance within which the whole weight is added"
    )
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @field_validator("origin", mode="before")
    @classmethod
    def _no_truth(cls, origin: object) -> object:
        if isinstance(origin, bool):
            raise ValueError("the origin of a boost must be a number or a date, got a boolean")
        return origin

    @model_validator(mode="after")
    def _fits(self) -> Boost:
        given = {name for name in ("pivot", "origin", "scale") if getattr(self, name) is not None}
        needed = {"pivot"} if self.form == "saturation" else {"origin", "scale"}
        if given != needed:
            raise ValueError(
                f"a boost of form {self.form!r} needs {' and '.join(sorted(needed))} and none of "
                f"the others, got {' and '.join(sorted(given)) or 'none'}"
            )
        if isinstance(self.origin, str) and date_of(self.origin) is None:
            raise ValueError(
                f"the origin of a boost must be a number or an ISO 8601 date, got {self.origin!r}"
            )
        if isinstance(self.origin, int) and abs(self.origin) > LARGEST_ORIGIN:
            raise ValueError(
                f"the origin of a boost must be in [−{LARGEST_ORIGIN:g}, {LARGEST_ORIGIN:g}], got "
                "a larger integer"
            )
        return self


class Diversity(Settings):
    """The first hits in an order in which each differs from those before it."""

    relevance: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.7, description="λ: with 1 the order stays as it is, with 0 only differences count"
    )
    documents: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=50, description="the first hits, that are put in this order"
    )


class Rerank(Settings):
    """The first hits in the order of a cross-encoder, which reads query and document together."""

    model: Annotated[str, Field(min_length=1)] = Field(
        description="a sentence-transformers CrossEncoder: a directory or a hub name"
    )
    documents: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=50, description="the first hits, that the model reads"
    )


class SortKey(NamedTuple):
    """One part of a sort."""

    key: str
    descending: bool


def sort_key(written: str) -> SortKey:
    """Read "year", "+year" (both ascending) or "-year" (descending).

    Raises:
        ValueError: there is no key.
    """
    key = written[1:] if written[:1] in ("+", "-") else written
    if not key:
        raise ValueError(f"`sort` must hold keys of metadata, as year or -year, got {written!r}")
    return SortKey(key, written.startswith("-"))


def _different(sort: tuple[str, ...]) -> tuple[str, ...]:
    keys = [sort_key(written).key for written in sort]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"`sort` must hold each key once, got {key!r} twice")
    return sort


# On the command line a key stands for its group, and commas are between the keys of a sort.
AnyGroup = Annotated[
    Group, BeforeValidator(lambda given: {"key": given} if isinstance(given, str) else given)
]
Sort = Annotated[
    tuple[str, ...],
    Field(max_length=MOST_SORT_KEYS),
    AfterValidator(_different),
    BeforeValidator(lambda given: tuple(given.split(",")) if isinstance(given, str) else given),
]


def _read(given: object) -> object:
    """Read JSON as the command line gives it."""
    if not isinstance(given, str):
        return given
    try:
        found = json.loads(given)
    except ValueError as error:
        raise ValueError(f"`boosts` must be JSON, got {given!r}: {error}") from error
    return [found] if isinstance(found, dict) else found


Boosts = Annotated[tuple[Boost, ...], Field(max_length=MOST_BOOSTS), BeforeValidator(_read)]
