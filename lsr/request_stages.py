"""Settings of the stages that follow the last pass of a search: see `lsr.search.stages`."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Key = Annotated[str, Field(min_length=1, description="of metadata")]
MOST_SORT_KEYS = 10


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
