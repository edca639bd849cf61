"""Query to hits with reasons: encode, quantise, search Lucene, explain from forward vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lsr.corpus import Document
from lsr.indexes.lucene import Filter
from lsr.indexing import Progress
from lsr.live import open_live
from lsr.vectors import EXACT, concatenate, prune, quantise_queries

# Queries that go to Lucene in one call.
BATCH = 256


class Contribution(NamedTuple):
    """What one term added to a score; contributions sum to the score exactly."""

    term: str
    query_weight: float
    document_weight: float
    contribution: float
    share: float  # of the score, in [0, 1]
    literal_in_query: bool  # the query's own token, not an expansion
    literal_in_document: bool


class Hit(NamedTuple):
    """One answer: a document and its score, the dot product of the quantised vectors."""

    document: Document
    score: float


class Searcher:
    """An open index with its encoder."""

    def __init__(self, directory: Path) -> None:
        """Open the live generation of an index.

        Raises:
            FileNotFoundError: no index there, or its encoder is gone.
            ValueError: the encoder is not the one the index was built with.
        """
        self._opened = ExitStack()
        self.manifest, self.encoder, self.index = self._opened.enter_context(open_live(directory))
        self._max_impact = int(self.index.user_data["max_impact"])
        self._term_ids = {term: number for number, term in enumerate(self.encoder.vocabulary)}

    def __enter__(self) -> Searcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the index's files back."""
        self._opened.close()

    def refresh(self) -> None:
        """See what other processes have committed to this generation since."""
        self.index.refresh()
        self._max_impact = int(self.index.user_data["max_impact"])

    def search(
        self,
        query: str | Mapping[str, float],
        k: int = 10,
        *,
        filters: Mapping[str, Filter] | None = None,
        min_score: float = 0.0,
        max_terms: int | None = None,
    ) -> list[Hit]:
        """The k best documents, score descending, ties by id.

        Args:
            query: a text, or a term → weight map.
            k: hits, in [1, 1,000,000].
            filters: metadata key → what a hit must have there, or (low, high) for numbers; see
                `LuceneIndex.search`.
            min_score: smallest score of a hit; only hits above 0 are returned anyway.
            max_terms: query terms used, the heaviest; None for all.

        Raises:
            ValueError: an argument out of its range.
        """
        _check_min_score(min_score)
        impacts, (scale,) = self._impacts(self._vectors([query]), max_terms)
        floor = max(1, math.ceil(min_score * scale))
        if floor >= EXACT:
            return []
        ranked = self.index.search(impacts, k, filters=filters, min_score=floor)[0]
        documents = self.index.documents([doc_id for doc_id, _ in ranked])
        return [
            Hit(document, score / scale)
            for document, (_, score) in zip(documents, ranked, strict=True)
        ]

    def rank(
        self,
        queries: Sequence[str | Mapping[str, float]],
        k: int = 1000,
        *,
        filters: Mapping[str, Filter] | None = None,
        min_score: float = 0.0,
        max_terms: int | None = None,
        threads: int = 1,
        progress: Progress = lambda step, done, total: None,
    ) -> list[list[tuple[str, float]]]:
        """(doc id, score) of the k best documents for each query, without their contents.

        `threads` is the number of Java threads; for the rest see `search`.
        """
        _check_min_score(min_score)
        ranked: list[list[tuple[str, float]]] = []
        for start in range(0, len(queries), BATCH):
            vectors = self._vectors(queries[start : start + BATCH])
            impacts, scales = self._impacts(vectors, max_terms)
            found = self.index.search(impacts, k, filters=filters, threads=threads)
            for hits, scale in zip(found, scales, strict=True):
                scored = ((doc_id, score / scale) for doc_id, score in hits)
                ranked.append([hit for hit in scored if hit[1] >= min_score])
            progress("searching", len(ranked), len(queries))
        return ranked

    def explain(
        self, query: str | Mapping[str, float], doc_id: str, *, max_terms: int | None = None
    ) -> list[Contribution]:
        """Each term that query and document share, largest contribution first.

        Raises:
            KeyError: no such document.
        """
        impacts, (scale,) = self._impacts(self._vectors([query]), max_terms)
        document = self.index.impacts([doc_id])
        text = self.index.documents([doc_id])[0].content
        own = self.encoder.own_terms(text)
        asked = (
            self.encoder.own_terms(query)
            if isinstance(query, str)
            else set(impacts.indices.tolist())
        )
        q = dict(zip(impacts.indices.tolist(), impacts.data.tolist(), strict=True))
        d = dict(zip(document.indices.tolist(), document.data.tolist(), strict=True))
        shared = sorted(q.keys() & d.keys(), key=lambda term: (-q[term] * d[term], term))
        total = sum(q[term] * d[term] for term in shared)
        query_scale = scale / self.manifest.impact_scale
        return [
            Contribution(
                self.encoder.vocabulary[term],
                q[term] / query_scale,
                d[term] / self.manifest.impact_scale,
                q[term] * d[term] / scale,
                q[term] * d[term] / total,
                term in asked,
                term in own,
            )
            for term in shared
        ]

    def _vectors(self, queries: Sequence[str | Mapping[str, float]]) -> csr_array:
        texts = [query for query in queries if isinstance(query, str)]
        if len(texts) == len(queries):
            return self.encoder.encode_queries(texts)
        return concatenate(
            [
                self.encoder.encode_queries([query])
                if isinstance(query, str)
                else self._weights_to_vector(query)
                for query in queries
            ]
        )

    def _impacts(self, vectors: csr_array, max_terms: int | None) -> tuple[csr_array, list[float]]:
        """Integer query weights, shape (n, V), and what to divide each query's scores by."""
        if max_terms is not None:
            if max_terms < 1:
                raise ValueError(f"`max_terms` must be at least 1, got {max_terms}")
            vectors = prune(vectors, max_terms)
        impacts, scales = quantise_queries(vectors, self._max_impact)
        return impacts, (scales * self.manifest.impact_scale).tolist()

    def _weights_to_vector(self, weights: Mapping[str, float]) -> csr_array:
        for term, weight in weights.items():
            if term not in self._term_ids:
                raise ValueError(f"query term {term!r} is not in the index's vocabulary")
            if not 0 < weight <= 1e4:
                raise ValueError(f"the weight of {term!r} must be in (0, 10000], got {weight}")
        ids = np.array([self._term_ids[term] for term in weights], dtype=np.int64)
        values = np.array(list(weights.values()), dtype=np.float32)
        vector = csr_array((values, ids, [0, len(ids)]), shape=(1, len(self.encoder.vocabulary)))
        vector.sort_indices()
        return vector


def _check_min_score(min_score: float) -> None:
    if not (math.isfinite(min_score) and min_score >= 0):
        raise ValueError(f"`min_score` must be finite and at least 0, got {min_score}")
