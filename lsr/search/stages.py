"""The stages after the last pass: what happens to a ranking before its first hits are the answer.

Each works on the union of the sides' lists of fixed depth, so that no answer depends on the page.
Their order is that of `Stages.apply`:

1. minimum scores by side: hits below one go
2. boosts: numbers and dates of metadata add to the score, and hits are ordered by it
3. minimum score: hits below it go
4. rerank: a cross-encoder orders the first hits
5. diversity: the first hits are ordered so that neighbours differ
6. group: of each group the first hits stay
7. sort: those that stay are ordered by their metadata; without a sort they keep their order
8. the hits of a group are put together, after its first one

The score of a hit is that of the ranking with the boosts: a cross-encoder changes the order alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lsr.building.live import Live
from lsr.documents import MetadataValue
from lsr.encoders.reranker import reranker
from lsr.indexes.filters import Type, known_keys
from lsr.request import Request, Side
from lsr.request_stages import Boost, sort_key
from lsr.search.boosting import addend
from lsr.search.diversity import cosines, marginal_relevance
from lsr.search.explanation import Boosted
from lsr.search.fusion import Fused
from lsr.search.sorting import firsts, group_of, sort, together


class Staged(NamedTuple):
    """A document of a ranking that has passed the stages."""

    doc_id: str
    score: float
    shares: tuple[float, ...]  # of the sides
    group: MetadataValue | None = None
    rerank: Reranked | None = None


class Reranked(NamedTuple):
    """What a cross-encoder made of a hit."""

    model: str
    score: float  # the model's
    rank: int  # from 1, before it


@dataclass(frozen=True)
class Source:
    """What the stages need of one query."""

    text: str  # "" for term weights
    # Of documents, by a side.
    scores: Callable[[Side, Sequence[str]], list[float]]


def boosted_score(score: float, boosts: Sequence[Boosted]) -> float:
    """Return a score with the addends of boosts, added in their order."""
    return sum((boost.addend for boost in boosts), start=score)


class Stages:
    """The stages over one index."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._index = live.index

    def check(self, request: Request, sides: Sequence[Side]) -> None:
        """Check that the stages fit the index and the sides that are searched.

        Raises:
            FileNotFoundError: a cross-encoder is not to be had.
            ValueError: it is none, or another stage does not fit.
        """
        for side in request.min_scores:
            if side not in sides:
                raise ValueError(
                    f"`min_scores` must be of sides that are searched, {', '.join(sides)}, got "
                    f"{side!r}"
                )
        if request.diversity and self._live.dense is None and not self._live.encoder.vocabulary:
            raise ValueError(
                "`diversity` needs dense vectors or learned terms, and this index has words alone"
            )
        if request.rerank:
            reranker(request.rerank.model)  # one that cannot be had fails this request alone
        for boost in request.boosts:
            self._check_boost(boost)
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

    def _check_boost(self, boost: Boost) -> None:
        wanted: set[Type] = {"date"} if isinstance(boost.origin, str) else {"integer", "float"}
        types = self._index.metadata_types
        if not wanted & types.get(boost.key, frozenset()):
            what = "date" if "date" in wanted else "number"
            raise ValueError(
                f"`boosts`: no document of this index has a {what} under the key {boost.key!r}; "
                f"{known_keys(boost.key, types)}"
            )

    def apply(self, request: Request, ranked: Sequence[Fused], source: Source) -> list[Staged]:
        """Return a ranking after all stages of a request.

        Args:
            request: what is asked.
            source: the query.
            ranked: all that the sides' lists hold, score descending, ties by id ascending.
        """
        hits = [Staged(*hit) for hit in ranked]
        for side, least in request.min_scores.items():
            of_side = source.scores(side, [hit.doc_id for hit in hits])
            hits = [hit for hit, score in zip(hits, of_side, strict=True) if score >= least]
        if request.boosts:
            hits = self._boosted(request.boosts, hits)
        if (floor := request.min_score) is not None:
            hits = [hit for hit in hits if hit.score >= floor]
        if request.rerank:
            n = request.rerank.documents
            hits = self._reranked(request.rerank.model, hits[:n], source.text) + hits[n:]
        if request.diversity:
            n = request.diversity.documents
            hits = self._diverse(hits[:n], request.diversity.relevance) + hits[n:]
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

    def boosts(self, boosts: Sequence[Boost], doc_ids: Sequence[str]) -> list[list[Boosted]]:
        """Return what each boost adds to the score of each document."""
        found: list[list[Boosted]] = [[] for _ in doc_ids]
        for boost in boosts:
            for of, values in zip(found, self._index.values(boost.key, doc_ids), strict=True):
                of.append(Boosted(boost.key, boost.form, values, addend(boost, values)))
        return found

    def _boosted(self, boosts: Sequence[Boost], hits: list[Staged]) -> list[Staged]:
        added = self.boosts(boosts, [hit.doc_id for hit in hits])
        boosted = [
            hit._replace(score=boosted_score(hit.score, of))
            for hit, of in zip(hits, added, strict=True)
        ]
        return sorted(boosted, key=lambda hit: (-hit.score, hit.doc_id))

    def _reranked(self, model: str, hits: list[Staged], text: str) -> list[Staged]:
        documents = self._index.documents([hit.doc_id for hit in hits])
        scores = reranker(model).scores(text, [document.content for document in documents])
        found = [
            hit._replace(rerank=Reranked(model, score, rank))
            for rank, (hit, score) in enumerate(zip(hits, scores, strict=True), 1)
        ]
        # Python's sort keeps the order of equal ones.
        return [found[place] for place in np.argsort([-score for score in scores], kind="stable")]

    def _diverse(self, hits: list[Staged], relevance: float) -> list[Staged]:
        ids = [hit.doc_id for hit in hits]
        if self._live.dense is not None:
            similar = cosines(self._live.dense.vectors(ids).astype(np.float64))
        else:
            impacts = self._index.impacts(ids).astype(np.float64)
            lengths = np.sqrt(impacts.multiply(impacts).sum(axis=1))
            lengths[lengths == 0] = 1.0
            similar = (impacts @ impacts.T).toarray() / np.outer(lengths, lengths)
        relevances = [hit.rerank.score if hit.rerank else hit.score for hit in hits]
        return [hits[place] for place in marginal_relevance(relevances, similar, relevance)]

    def _values(self, key: str, hits: Sequence[Staged]) -> list[list[MetadataValue]]:
        return self._index.values(key, [hit.doc_id for hit in hits])
