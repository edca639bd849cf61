"""Query to hits with reasons: encode, quantise, search Lucene, explain from forward vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lsr.corpus import Document
from lsr.encoders.tokens import count_terms
from lsr.indexes.lucene import LuceneIndex
from lsr.indexes.manifest import read_manifest
from lsr.indexing import open_encoder, vocabulary_sha256
from lsr.vectors import quantise

# Lucene's scores are float32, which holds every integer up to here.
EXACT = 2**24
QUERY_SCALE = 64


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
            ValueError: the encoder's vocabulary is not the one the index was built with.
        """
        self.manifest = read_manifest(directory)
        folder = self.manifest.folder(directory)
        self.encoder = open_encoder(self.manifest.encoder, folder / "encoder")
        found = vocabulary_sha256(self.encoder.vocabulary)
        if found != self.manifest.vocabulary_sha256:
            raise ValueError(
                f"{directory} was built with another vocabulary ({self.manifest.vocabulary_size} "
                f"terms, sha256 {self.manifest.vocabulary_sha256[:12]}) than encoder "
                f"{self.manifest.encoder!r} has now ({len(self.encoder.vocabulary)} terms, "
                f"sha256 {found[:12]})"
            )
        self.index = LuceneIndex.open(folder / "lucene", self.encoder.vocabulary)
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
        self.index.close()

    def search(
        self,
        query: str | Mapping[str, float],
        k: int = 10,
        filters: Mapping[str, str] | None = None,
    ) -> list[Hit]:
        """The k best documents for a text or a term → weight map, score descending, ties by id."""
        impacts, scale = self.query_impacts(query)
        ranked = self.index.search(impacts, k, filters=filters)[0]
        documents = self.index.documents([doc_id for doc_id, _ in ranked])
        return [
            Hit(document, score / scale)
            for document, (_, score) in zip(documents, ranked, strict=True)
        ]

    def rank(
        self, queries: Sequence[str], k: int = 1000, threads: int = 1
    ) -> list[list[tuple[str, float]]]:
        """(doc id, score) of the k best documents for each query text, without their contents."""
        rows = [self.query_impacts(query) for query in queries]
        stacked = [self.index.search(impacts, k, threads=threads)[0] for impacts, _ in rows]
        return [
            [(doc_id, score / scale) for doc_id, score in ranked]
            for ranked, (_, scale) in zip(stacked, rows, strict=True)
        ]

    def explain(self, query: str | Mapping[str, float], doc_id: str) -> list[Contribution]:
        """Each term that query and document share, largest contribution first.

        Raises:
            KeyError: no such document.
        """
        impacts, scale = self.query_impacts(query)
        document = self.index.impacts([doc_id])
        text = self.index.documents([doc_id])[0].content
        own = set(count_terms(self.encoder.tokenizer, [text]).indices.tolist())
        asked = (
            set(count_terms(self.encoder.tokenizer, [query]).indices.tolist())
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

    def query_impacts(self, query: str | Mapping[str, float]) -> tuple[csr_array, float]:
        """Integer query weights, shape (1, V), and what to divide integer scores by.

        The scale is a power of two: QUERY_SCALE, or less where the query's weights times the
        largest impact of the index could otherwise reach 2^24.

        Raises:
            ValueError: an unknown term, or a weight that is not positive and finite.
        """
        vector = (
            self.encoder.encode_queries([query])
            if isinstance(query, str)
            else self._weights_to_vector(query)
        )
        total = float(vector.data.sum())
        room = EXACT / int(self.index.user_data["max_impact"])
        scale: float = QUERY_SCALE
        if total * scale >= room:
            scale = 2.0 ** math.floor(math.log2(room / total))
        return quantise(vector, scale, EXACT), scale * self.manifest.impact_scale

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
