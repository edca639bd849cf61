"""The passes of a search: first pass, feedback and interpolation, for batches of queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from lsr.building.live import Live
from lsr.building.tuning import Tuned
from lsr.indexes.dense import DenseIndex
from lsr.indexes.dense_rows import Selection
from lsr.indexes.words import Impacts, Statistics, as_counts, as_vectors, combined, count_words
from lsr.request import SPARSE, Feedback, Interpolation, Moved, Request, Side
from lsr.run import Ranking
from lsr.search.asked import Asked, read_request
from lsr.search.feedback import heaviest, move_dense, move_sparse
from lsr.search.fusion import Fused, contenders, interpolate, reciprocal_rank_fusion
from lsr.search.selections import Selections
from lsr.search.stages import Source, Staged, Stages
from lsr.vectors import concatenate, rows

Queries = Sequence[str | Mapping[str, float]]


@dataclass
class Batch:
    """Queries between two passes: their vectors now, and the rankings found so far."""

    sparse: csr_array | None  # float32, (n, V)
    # float64, (n,): the user's weight that 1.0 in a row of `sparse` stands for.
    units: np.ndarray | None
    # Words: for each query word → how often it holds it, or what feedback made of that.
    words: list[Mapping[str, float]] | None
    dense: np.ndarray | None  # float32, (n, D)
    threads: int
    allowed: Selection | None = None  # rows of the dense side that pass the filter; None: all
    texts: Sequence[str] = ()  # the queries; "" for term weights
    lists: dict[Side, list[Ranking]] = field(default_factory=dict)
    # Of the queries as they are, by the side that they are for.
    impacts: dict[Side, Impacts] = field(default_factory=dict, init=False)


class Passes:
    """The passes over one live index; see `Batch`."""

    def __init__(self, live: Live, tuned: Tuned, pool: Executor) -> None:
        """Prepare passes over an index.

        Args:
            live: the index.
            tuned: the settings of requests without their own.
            pool: runs the sparse side while the dense one runs.
        """
        self._live = live
        self._tuned = tuned
        self._pool = pool
        self.statistics = Statistics(live.index)
        self._selections = Selections(live.index, live.dense) if live.dense else None
        self.stages = Stages(live)
        vocabulary = live.encoder.vocabulary
        self.term_ids = {term: number for number, term in enumerate(vocabulary)}

    def forget(self) -> None:
        """Forget what was counted in the index before it was refreshed."""
        self.statistics = Statistics(self._live.index)

    def interpolation(self, request: Request) -> Interpolation:
        """Return how the sides of a request are interpolated."""
        return request.interpolation or self._tuned.interpolation

    def sides(self, request: Request) -> tuple[Side, ...]:
        """Return the sides that a request searches."""
        if request.mode == "hybrid":
            return self.interpolation(request).sides
        assert request.mode is not None
        return (request.mode,)

    def last_sides(self, request: Request) -> tuple[Side, ...]:
        """Return the sides whose rankings make the answer."""
        if request.mode == "hybrid" and request.feedback and request.stages in ("none", "before"):
            return tuple(self._side_of(which, request) for which in request.sides_moved)
        return self.sides(request)

    def first_sides(self, request: Request) -> tuple[Side, ...]:
        """Return the sides that feedback reads or moves."""
        if not request.feedback:
            return ()
        if request.stages in ("before", "both"):
            return self.sides(request)
        moved = tuple(self._side_of(which, request) for which in request.sides_moved)
        return (request.feedback.first, *moved) if request.feedback.first else moved

    @property
    def dense(self) -> DenseIndex:
        """The dense side of the index.

        Raises:
            ValueError: the index has none.
        """
        if self._live.dense is None:
            raise ValueError(
                "this index has no dense side: build it with `lsr index … --dense MODEL`"
            )
        return self._live.dense

    def answer(
        self, batch: Batch, request: Request, first_pass: Sequence[Ranking] | None = None
    ) -> Sequence[Sequence[Fused | Staged]]:
        """Return the `request.k` first documents for each query of a batch.

        Lists that `batch.lists` already holds are used: first passes at the depth of the request
        can serve several requests. The batch is changed, so give each request a copy.

        Args:
            batch: from `encode` for this request, or for one that needs both sides.
            request: the settings; its query is not used.
            first_pass: see `Searcher.rank`.
        """
        self.feed_back(batch, request, first_pass)
        if request.is_staged:
            ranked = self._last_pass(batch, request, None)
            return [
                self.stages.apply(request, hits, self._source(batch, number, request))[: request.k]
                for number, hits in enumerate(ranked)
            ]
        ranked = self._last_pass(batch, request, request.k)
        floor = request.min_score
        if floor is not None:
            ranked = [[hit for hit in hits if hit.score >= floor] for hits in ranked]
        return [hits[: request.k] for hits in ranked]

    def _source(self, batch: Batch, number: int, request: Request) -> Source:
        """Return what the stages need of one query of a batch."""

        def scores(side: Side, ids: Sequence[str]) -> list[float]:
            if side == "dense":
                assert batch.dense is not None
                return list(map(float, self.dense.scores(batch.dense[number], ids)))
            learned, words, factors = self.impacts(batch, side, request)
            of_query = words._replace(weights=words.weights[number : number + 1])
            (found,) = self._live.index.scores(learned[[number]], [ids], words=of_query)
            return [score * factors[number] for score in found]

        return Source(batch.texts[number], scores)

    def _last_pass(self, batch: Batch, request: Request, k: int | None) -> list[list[Fused]]:
        """Return the k best documents of each query, or all of the sides' lists, and maybe more."""
        sides = self.last_sides(request)
        if len(sides) > 1:
            return self.interpolated(batch, request, k)
        depth = self.union_depth(request) if k is None or request.mode == "hybrid" else k
        self.search(batch, sides, request, max(depth, k or 1))
        return [
            [Fused(doc_id, score, (score,)) for doc_id, score in hits]
            for hits in batch.lists[sides[0]]
        ]

    def read(self, request: Request) -> Asked:
        """Read the text of a request that has a mode, see `read_request`."""
        sides = {*self.last_sides(request), *self.first_sides(request)}
        return read_request(
            request,
            self._live.index,
            self.statistics,
            with_words=bool(sides & {"words", "sparse"}),
        )

    def encode(
        self,
        queries: Queries,
        request: Request,
        threads: int,
        words: Sequence[Mapping[str, float]] | None = None,
    ) -> Batch:
        """Encode queries for every side that the request needs, and cut them as it says.

        Args:
            queries: n plain texts or term → weight maps.
            request: the settings; its query is not used.
            threads: Java threads of the searches.
            words: of each query, where it was read; else they are counted here.

        Raises:
            ValueError: the index lacks a term or a key of metadata, or has no learned terms or no
                dense side.
        """
        if request.filter:
            self._live.index.check_filter(request.filter)
        self.stages.check(request, self.last_sides(request))
        sides = {*self.last_sides(request), *self.first_sides(request)}
        if "learned" in sides and not self.term_ids:
            raise ValueError(
                "this index has no learned terms, since it was built with `--encoder "
                f"{self._live.manifest.encoder}`: search it in mode 'words'"
            )
        batch = Batch(None, None, None, None, threads)
        batch.texts = [query if isinstance(query, str) else "" for query in queries]
        if sides & {"learned", "sparse"}:
            batch.sparse, batch.units = self._sparse(queries)
            if not request.rescore:
                batch.sparse = _cut(batch.sparse, request)
        if sides & {"words", "sparse"}:
            batch.words = list(words or self.statistics.count(batch.texts))
        if "dense" in sides:
            assert self.dense is not None and self._live.dense_encoder is not None
            batch.dense = self._live.dense_encoder.encode_queries([str(q) for q in queries])
            if request.filter:
                assert self._selections is not None
                batch.allowed = self._selections.of(request.filter)
        return batch

    def feed_back(
        self, batch: Batch, request: Request, first_pass: Sequence[Ranking] | None = None
    ) -> None:
        """Move the queries of a batch towards their first results; see `answer`."""
        if not (how := request.feedback):
            return
        depth = self.depth(request)
        for _ in range(how.iterations):
            source: Sequence[Ranking] | None = first_pass
            if source is None and request.stages in ("before", "both"):
                interpolated = self.interpolated(
                    batch, request, None if how.negatives else how.documents
                )
                source = [[(hit.doc_id, hit.score) for hit in hits] for hits in interpolated]
            changes = []
            for which in request.sides_moved:
                if source is None:
                    first = how.first or self._side_of(which, request)
                    self.search(batch, (first,), request, depth)
                    changes.append(self._moved(batch, which, batch.lists[first], how))
                else:
                    changes.append(self._moved(batch, which, source, how))
            for which, change in zip(request.sides_moved, changes, strict=True):
                for name, value in change.items():
                    setattr(batch, name, value)
                changed: tuple[Side, ...] = SPARSE if which == "sparse" else ("dense",)
                for side in changed:
                    batch.lists.pop(side, [])
                if which == "sparse":
                    batch.impacts.clear()
            if request.mode != "hybrid":
                batch.lists.clear()

    def _side_of(self, which: Moved, request: Request) -> Side:
        """Return the side of a request that a moved query is for."""
        if which == "dense":
            return "dense"
        return next(side for side in self.sides(request) if side != "dense")

    def _moved(
        self, batch: Batch, which: Moved, source: Sequence[Ranking], how: Feedback
    ) -> dict[str, Any]:
        """Return the fields of a batch that hold a query, moved by the first results `source`."""
        relevant = [[doc_id for doc_id, _ in hits[: how.documents]] for hits in source]
        # A document that counts as relevant is never a negative.
        last = [hits[max(how.documents, len(hits) - how.negatives) :] for hits in source]
        negatives = [[doc_id for doc_id, _ in hits] if how.negatives else [] for hits in last]
        ids = sorted({doc_id for of_query in relevant + negatives for doc_id in of_query})
        place = {doc_id: number for number, doc_id in enumerate(ids)}
        places = [
            ([place[doc_id] for doc_id in good], [place[doc_id] for doc_id in bad])
            for good, bad in zip(relevant, negatives, strict=True)
        ]
        if which == "dense":
            assert batch.dense is not None
            vectors = self.dense.vectors(ids)
            moved = [
                _as_long_as(query, move_dense(query, vectors[good], vectors[bad], how))
                for query, (good, bad) in zip(batch.dense, places, strict=True)
            ]
            return {"dense": np.stack(moved)}

        def all_moved(queries: csr_array, weights: csr_array) -> list[csr_array]:
            return [
                move_sparse(
                    rows(queries, [number]),
                    rows(weights, good),
                    np.array([score for _, score in hits[: how.documents]], dtype=np.float64),
                    rows(weights, bad),
                    how,
                )
                for number, (hits, (good, bad)) in enumerate(zip(source, places, strict=True))
            ]

        changed: dict[str, Any] = {}
        if batch.sparse is not None:
            weights = self._live.index.impacts(ids).astype(np.float32)
            weights.data /= np.float32(self._live.manifest.impact_scale)
            changed["sparse"] = concatenate(all_moved(batch.sparse, weights))
        if batch.words is not None:
            texts = [document.content for document in self._live.index.documents(ids)]
            counts = count_words(self._live.index, texts)
            names, (of_queries, of_documents) = as_vectors(batch.words, counts)
            changed["words"] = as_counts(names, all_moved(of_queries, of_documents))
        return changed

    def union_depth(self, request: Request) -> int:
        """Return how many documents each side's list has, where stages follow."""
        return (self.interpolation(request) if request.mode == "hybrid" else Interpolation()).depth

    def depth(self, request: Request) -> int:
        """Return the depth of passes whose length does not follow from k."""
        if request.mode == "hybrid":
            return self.union_depth(request)
        if request.feedback and not request.feedback.negatives:
            return request.feedback.documents
        return Interpolation().depth

    def search(self, batch: Batch, sides: Sequence[Side], request: Request, depth: int) -> None:
        """Fill `batch.lists` for these sides, which are searched at the same time."""
        wanted = [side for side in sides if side not in batch.lists]
        by_lucene = [side for side in wanted if side != "dense"]
        if "dense" not in wanted:
            batch.lists |= self._lucene_passes(batch, by_lucene, request, depth)
            return
        assert batch.dense is not None
        others = None
        if by_lucene:
            others = self._pool.submit(self._lucene_passes, batch, by_lucene, request, depth)
        dense = self.dense.search(batch.dense, depth, batch.allowed)
        if others:
            batch.lists |= others.result()
        batch.lists["dense"] = dense

    def _lucene_passes(
        self, batch: Batch, sides: Sequence[Side], request: Request, depth: int
    ) -> dict[Side, list[Ranking]]:
        return {side: self._lucene_pass(batch, side, request, depth) for side in sides}

    def _lucene_pass(self, batch: Batch, side: Side, request: Request, depth: int) -> list[Ranking]:
        impacts = self.impacts(batch, side, request)
        index, threads = self._live.index, batch.threads
        if request.rescore:
            assert batch.sparse is not None
            cut = self._quantised(_cut(batch.sparse, request), batch, side, request)
            k = max(depth, request.rescore)
            found = index.search(
                cut.learned, k, words=cut.words, filter=request.filter, threads=threads
            )
            ids = [[doc_id for doc_id, _ in hits] for hits in found]
            scores = index.scores(impacts.learned, ids, words=impacts.words, threads=threads)
            found = [
                sorted(zip(of_query, of_ids, strict=True), key=lambda hit: (-hit[1], hit[0]))
                for of_query, of_ids in zip(ids, scores, strict=True)
            ]
        else:
            found = index.search(
                impacts.learned,
                depth,
                words=impacts.words,
                filter=request.filter,
                threads=threads,
            )
        return [
            [(doc_id, score * factor) for doc_id, score in hits[:depth]]
            for hits, factor in zip(found, impacts.factors, strict=True)
        ]

    def interpolated(
        self, batch: Batch, request: Request, k: int | None = None
    ) -> list[list[Fused]]:
        """Interpolate the sides' lists of each query; return its k best documents, or all."""
        how = self.interpolation(request)
        self.search(batch, how.sides, request, how.depth)
        lists = list(zip(*(batch.lists[side] for side in how.sides), strict=True))
        if how.method == "rrf":
            return [reciprocal_rank_fusion(of_query, how, k) for of_query in lists]
        if how.missing != "exact":
            return [interpolate(sparse, dense, how, k=k) for sparse, dense in lists]
        assert batch.dense is not None
        exact_dense = self.dense.is_exact(how.depth, batch.allowed)
        unions = [contenders(sparse, dense, how, k, exact_dense) for sparse, dense in lists]
        impacts = self.impacts(batch, how.sides[0], request)
        no_sparse = [union.only_dense for union in unions]
        scored = self._pool.submit(
            self._live.index.scores,
            impacts.learned,
            no_sparse,
            words=impacts.words,
            threads=batch.threads,
        )
        of_dense = [
            dict(zip(ids, self.dense.scores(query, ids).tolist(), strict=True))
            for query, (_, ids, _) in zip(batch.dense, unions, strict=True)
        ]
        of_sparse = [
            {doc_id: score * factor for doc_id, score in zip(ids, scores, strict=True)}
            for ids, scores, factor in zip(no_sparse, scored.result(), impacts.factors, strict=True)
        ]
        return [
            interpolate(sparse, dense, how, exact, k, chain(*union))
            for (sparse, dense), exact, union in zip(
                lists, zip(of_sparse, of_dense, strict=True), unions, strict=True
            )
        ]

    def _sparse(self, queries: Queries) -> tuple[csr_array, np.ndarray]:
        """Return the vectors of queries, float32, shape (n, V), and their units; see `Batch`.

        A query of term weights is divided by its largest weight, in float64; that weight is its
        unit. So cuts, feedback and ranking are the same for any multiple of the query.
        """
        units = np.ones(len(queries))
        texts = [query for query in queries if isinstance(query, str)]
        if len(texts) == len(queries):
            return self._live.encoder.encode_queries(texts), units
        vectors = []
        for number, query in enumerate(queries):
            if isinstance(query, str):
                vectors.append(self._live.encoder.encode_queries([query]))
            else:
                units[number] = largest = max(query.values(), default=1.0)
                shares = {term: weight / largest for term, weight in query.items()}
                vectors.append(self._weights_to_vector(shares))
        return concatenate(vectors), units

    def impacts(self, batch: Batch, side: Side, request: Request) -> Impacts:
        """Quantise a batch's queries for words, learned terms or both.

        A document's score is exactly a query's factor times Σ query impact × document impact.
        """
        if side not in batch.impacts:
            batch.impacts[side] = self._quantised(batch.sparse, batch, side, request)
        return batch.impacts[side]

    def _quantised(
        self, vectors: csr_array | None, batch: Batch, side: Side, request: Request
    ) -> Impacts:
        if vectors is None or side == "words":
            assert batch.words is not None
            vectors = csr_array((len(batch.words), len(self.term_ids)), dtype=np.float32)
        n = vectors.shape[0]
        how = request.words or self._tuned.words
        return combined(
            vectors,
            np.ones(n) if batch.units is None else batch.units,
            [{}] * n if batch.words is None or side == "learned" else batch.words,
            how,
            # Without learned terms there is nothing that words are weighed against.
            1.0
            if side == "words" or not self.term_ids
            else how.weight * self._live.manifest.word_scale,
            self.statistics,
            self._live.manifest.impact_scale,
        )

    def _weights_to_vector(self, weights: Mapping[str, float]) -> csr_array:
        for term in weights:
            if term not in self.term_ids:
                raise ValueError(f"query term {term!r} is not in the index's vocabulary")
        ids = np.array([self.term_ids[term] for term in weights], dtype=np.int64)
        values = np.array(list(weights.values()), dtype=np.float32)
        vector = csr_array(
            (values, ids, [0, len(ids)]), shape=(1, len(self._live.encoder.vocabulary))
        )
        vector.sort_indices()
        return vector


def _cut(vectors: csr_array, request: Request) -> csr_array:
    if request.max_terms is None and request.mass is None:
        return vectors
    return heaviest(vectors, request.max_terms, request.mass, None)


def _as_long_as(query: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return `moved` with the norm of `query`: it ranks the same, and cosines stay cosines."""
    norm = float(np.linalg.norm(moved))
    if not norm:
        return moved
    scaled: np.ndarray = moved * np.float32(np.linalg.norm(query) / norm)
    return scaled
