"""Documents and queries, and what their ids, texts and metadata may hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

MetadataValue = str | int | float | bool

# Lucene refuses terms of 32 KiB, and nobody means an id of one.
_LONGEST_ID = 1000


@dataclass(frozen=True, slots=True)
class Document:
    """One retrievable unit of text."""

    id: str
    title: str = ""
    text: str = ""
    metadata: Mapping[str, MetadataValue | list[str]] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """What encoders read: title and text joined by a space (the BEIR convention)."""
        return f"{self.title} {self.text}".strip()


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


def metadata_of(values: Mapping[str, object]) -> dict[str, MetadataValue | list[str]]:
    result: dict[str, MetadataValue | list[str]] = {}
    for key, value in values.items():
        checked_text(key, "a key")
        if isinstance(value, str):
            result[key] = checked_text(value, key)
        elif isinstance(value, int | float | bool):
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{key} must be finite, got {value}")
            result[key] = value
        elif isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            result[key] = [checked_text(item, key) for item in value]
    return result
