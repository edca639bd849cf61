"""Documents and queries, and the readers that stream them from files and named collections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

MetadataValue = str | int | float | bool


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
