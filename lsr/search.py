"""Query to hits: first passes → fusion → feedback → fusion, sparse by Lucene and dense by faiss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from scipy.sparse import csr_array

from lsr.corpus import Document
from lsr.explanation import Contribution, Explanation, contributions
from lsr.indexing import Progress
from lsr.live import open_live
from lsr.passes import Passes, Queries, last_sides
from lsr.request import Interpolation, Request, ask
from lsr.run import Ranking
from lsr.tuning import read_tuning

# Queries that go through the passes together.
BATCH = 256


class Hit(NamedTuple):
    """One answer: a document and its score."""

    document: Document
    score: float


class Searcher:
    """An open index with its encoders. Answers are the same at any concurrency."""

    def __init__(self, directory: Path) -> None:
        """Open the live generation of an index.

        Raises:
            FileNotFoundError: no index there, or its encoder is gone.
            ValueError: the encoder is not the one the index was built with.
        """
        self._opened = ExitStack()
        self._live = self._opened.enter_context(open_live(directory))
        self.manifest = self._live.manifest
        self.encoder = self._live.encoder
        self.index = self._live.index
        tuned = read_tuning(self.manifest.folder(directory))
        pool = self._opened.enter_context(ThreadPoolExecutor(1, "lsr-sparse"))
        self.passes = Passes(self._live, tuned or Interpolation(), pool)

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
        """See what other processes have committed to this generation since.

        Not while other threads search: their two sides could see different commits.
        """
        self._live.refresh()
        self.passes.refresh()

    def search(
        self, query: str | Mapping[str, float] | Request, k: int | None = None, **settings: Any
    ) -> list[Hit]:
        """The k best documents, score descending, ties by id.

        In mode sparse the score is the dot product of the quantised vectors and above 0.

        Args:
            query: a text, a term → weight map, or a whole request.
            k: as in Request.
            settings: fields of Request.

        Raises:
            ValueError: a setting is out of range, or the index has no dense side.
        """
        request = _request(query, k, settings)
        batch = self.passes.encode([request.query], request, threads=1)
        (ranked,) = self.passes.answer(batch, request)
        documents = self.index.documents([hit.doc_id for hit in ranked])
        return [Hit(document, hit.score) for document, hit in zip(documents, ranked, strict=True)]

    def rank(
        self,
        queries: Queries,
        k: int = 1000,
        *,
        threads: int = 1,
        first_pass: Sequence[Ranking] | None = None,
        progress: Progress = lambda step, done, total: None,
        **settings: Any,
    ) -> list[Ranking]:
        """(doc id, score) of the k best documents for each query, without their contents.

        Args:
            queries: texts or term → weight maps.
            k: as in Request.
            threads: Java threads.
            first_pass: for each query the results that feedback is taken from, such as BM25's of
                another index of the same documents; by default as Request says.
            progress: see Progress.
            settings: fields of Request.

        Raises:
            ValueError: see `search`; or `first_pass` without feedback or of another length.
        """
        template = ask("", k=k, **settings)
        if first_pass is not None and (not template.feedback or len(first_pass) != len(queries)):
            raise ValueError("`first_pass` must hold a ranking for each query, and needs feedback")
        for query in queries:
            if not isinstance(query, str):
                ask(query, k=k, **settings)
        ranked: list[Ranking] = []
        for start in range(0, len(queries), BATCH):
            batch = slice(start, start + BATCH)
            first = None if first_pass is None else first_pass[batch]
            vectors = self.passes.encode(queries[batch], template, threads)
            found = self.passes.answer(vectors, template, first)
            ranked += [[(hit.doc_id, hit.score) for hit in hits] for hits in found]
            progress("searching", len(ranked), len(queries))
        return ranked

    def explain(
        self, query: str | Mapping[str, float] | Request, doc_id: str, **settings: Any
    ) -> Explanation:
        """Why a document has its score.

        Raises:
            KeyError: no such document; or, of interpolated rankings, none that a side returned.
            ValueError: see `search`.
        """
        request = _request(query, None, settings)
        (document,) = self.index.documents([doc_id])
        batch = self.passes.encode([request.query], request, 1)
        before = batch.sparse
        self.passes.feed_back(batch, request)
        terms, sparse_score, dense_score = [], None, None
        if "sparse" in last_sides(request):
            assert batch.sparse is not None and before is not None
            terms = self._contributions(batch.sparse, document, request, before)
            sparse_score = sum(term.contribution for term in terms)
        if "dense" in last_sides(request):
            assert batch.dense is not None
            dense_score = float(self.passes.dense.scores(batch.dense[0], [doc_id])[0])
        if sparse_score is None or dense_score is None:
            shares = sparse_score or 0.0, dense_score or 0.0
            return Explanation(sum(shares), *shares, sparse_score, dense_score, terms)
        (ranked,) = self.passes.interpolated(batch, request)
        for hit in ranked:
            if hit.doc_id == doc_id:
                return Explanation(*hit[1:], sparse_score, dense_score, terms)
        raise KeyError(
            f"document {doc_id!r} is not among the {self.passes.depth(request)} first of either "
            "side: it has no interpolated score"
        )

    def approximations(
        self, query: str | Mapping[str, float] | Request, **settings: Any
    ) -> list[str]:
        """Why the answer may lack documents that belong there; nothing where it is exact.

        Raises:
            ValueError: see `search`.
        """
        request = _request(query, None, settings)
        found = []
        if request.rescore:
            found.append(
                f"only the {request.rescore} best by the cut query are scored by all its terms"
            )
        if request.mode != "sparse" and self.passes.dense.kind != "flat":
            found.append(f"dense neighbours are looked for by {self.passes.dense.kind}")
        return found

    def _contributions(
        self, query: csr_array, document: Document, request: Request, before: csr_array
    ) -> list[Contribution]:
        asked = request.query
        impacts, (scale,) = self.passes.impacts(query)
        return contributions(
            impacts,
            self.index.impacts([document.id]),
            scale / self.manifest.impact_scale,
            self.manifest.impact_scale,
            self.encoder.vocabulary,
            asked=self.encoder.own_terms(asked)
            if isinstance(asked, str)
            else {self.passes.term_ids[term] for term in asked},
            own=self.encoder.own_terms(document.content),
            before=set(before.indices.tolist()) if request.feedback else None,
        )


def _request(
    query: str | Mapping[str, float] | Request, k: int | None, settings: Mapping[str, Any]
) -> Request:
    return ask(query, **settings) if k is None else ask(query, k=k, **settings)
