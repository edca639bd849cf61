"""The stages after the last pass: what happens to a ranking before its first hits are the answer.

Each works on the union of the sides' lists of fixed depth, so that no answer depends on the page.
Their order is that of `Stages.apply`:

1. minimum score: hits below it go
2. group: of each group the first hits stay
3. sort: those that stay are ordered by their metadata; without a sort they keep their order
4. the hits of a group are put together, after its first one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lsr.documents import MetadataValue
from lsr.indexes.filters import known_keys
from lsr.indexes.lucene import LuceneIndex
from lsr.request import Request
from lsr.request_stages import sort_key
from lsr.search.fusion import Fused
from lsr.search.sorting import firsts, group_of, sort, together


class Staged(NamedTuple):
    """A document of a ranking that has passed the stages."""

    doc_id: str
    score: float
    shares: tuple[float, ...]  # of the sides
    group: MetadataValue | None = None


class Stages:
    """The stages over one index."""

    def __init__(self, index: LuceneIndex) -> None:
        self._index = index

    def check(self, request: Request) -> None:
        """Raise ValueError where a stage names a key that no document has."""
        named = [(f"`sort` {written!r}", sort_key(written).key) for written in request.sort]
        if request.group:
            named.append(("`group`", request.group.key))
        types = self._index.metadata_types
        for name, key in named:
            if key not in types:
                raise ValueError(
                    f"{name}: no document of this index has a value under the key {key!r}; "
                    f"{known_keys(key, types)}"
                )

    def apply(self, request: Request, ranked: Sequence[Fused]) -> list[Staged]:
        """Return a ranking after all stages of a request.

        Args:
            request: what is asked.
            ranked: all that the sides' lists hold, score descending, ties by id ascending.
        """
        hits = [Staged(*hit) for hit in ranked]
        if (floor := request.min_score) is not None:
            hits = [hit for hit in hits if hit.score >= floor]
        if request.group:
            values = self._values(request.group.key, hits)
            hits = [hit._replace(group=group_of(of)) for hit, of in zip(hits, values, strict=True)]
            hits = [hits[place] for place in firsts([h.group for h in hits], request.group.hits)]
        # The first key decides, so it is sorted by last.
        for written in reversed(request.sort):
            key, descending = sort_key(written)
            hits = sort(hits, self._values(key, hits), descending)
        if request.group:
            hits = [hits[place] for place in together([hit.group for hit in hits])]
        return hits

    def _values(self, key: str, hits: Sequence[Staged]) -> list[list[MetadataValue]]:
        return self._index.values(key, [hit.doc_id for hit in hits])
