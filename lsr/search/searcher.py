"""Query to hits: first passes → fusion → feedback → fusion, sparse by Lucene and dense by faiss."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from lsr.building.live import Live, open_live
from lsr.building.tuning import Tuned, read_tuning
from lsr.documents import Document, MetadataValue
from lsr.facet import Counts
from lsr.indexes.lucene import LARGEST_K, LuceneError
from lsr.progress import Progress
from lsr.request import Request, Side, ask
from lsr.run import Ranking
from lsr.search.asked import Asked
from lsr.search.explanation import (
    Contribution,
    Explanation,
    SideScore,
    contributions,
    with_shares,
    word_contributions,
)
from lsr.search.fusion import Fused
from lsr.search.highlight import Match, matches, without_overlaps, word_matches
from lsr.search.passes import Batch, Passes, Queries
from lsr.search.stages import Reranked, Staged, boosted_score
from lsr.vectors import concatenate

# Queries that go through the passes together.
BATCH = 256
# Requests that are kept as they were read.
KEPT = 256


class Hit(NamedTuple):
    """One answer: a document and its score."""

    document: Document
    score: float
    group: MetadataValue | None = None  # the value that hits of its group share, if asked for
    rerank: Reranked | None = None  # what a cross-encoder made of it, if asked for


class Position(NamedTuple):
    """A hit that others follow, wherever it would rank now."""

    score: float
    doc_id: str
    rank: int  # from 1, as it was


class QueryTerm(NamedTuple):
    """One term of a query as an index is searched for it."""

    term: str
    weight: float
    literal: bool  # the query's own token, not an expansion
    from_feedback: bool


class Searcher:
    """An open index with its encoders. Answers are the same at any concurrency."""

    def __init__(self, directory: str | os.PathLike[str], before: Searcher | None = None) -> None:
        """Open the live generation of an index.

        Args:
            directory: of the index.
            before: one of an older generation, for its models; they are not loaded again where
                they are the same.

        Raises:
            FileNotFoundError: no index there, or its encoder is gone.
            ValueError: the encoder is not the one the index was built with.
        """
        directory = Path(directory)
        self._opened = ExitStack()
        older = before._live if before else None
        self._live: Live = self._opened.enter_context(open_live(directory, before=older))
        self.manifest = self._live.manifest
        self.encoder = self._live.encoder
        self.dense_encoder = self._live.dense_encoder
        self.index = self._live.index
        self.commit = self._live.commit  # that answers come from; rises with every change
        # Postings of the terms of the sparse queries answered so far, as frequencies say.
        self.postings = 0
        tuned = read_tuning(self.manifest.folder(directory))
        pool = self._opened.enter_context(ThreadPoolExecutor(1, "lsr-sparse"))
        self.passes = Passes(self._live, tuned or Tuned(), pool)
        self._asked: dict[str, Asked] = {}

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
        """Take in what other processes have committed to this generation.

        Do not call this while other threads search: their two sides could see different commits.
        """
        self._live.refresh()
        self.passes.forget()
        self._asked.clear()
        self.commit = self._live.commit

    @cached_property
    def _frequencies(self) -> np.ndarray:
        # Counted once, at first use: counting after each commit would cost more than it tells.
        return self.index.document_frequencies()

    def search(
        self, query: str | Mapping[str, float] | Request, k: int | None = None, **settings: Any
    ) -> list[Hit]:
        """The k best documents, score descending, ties by id, unless the request has another order.

        For facets see `counts`.

        In mode sparse the score is the dot product of the quantised vectors and above 0.

        Args:
            query: a text, a term → weight map, or a whole request.
            k: as in Request.
            settings: fields of Request.

        Raises:
            ValueError: a setting is out of range, or the index has no dense side.
        """
        (found,) = self.answer([_request(query, k, settings)])
        if isinstance(found, Exception):
            raise found
        return found

    def answer(
        self,
        requests: Sequence[Request],
        after: Sequence[Position | None] | None = None,
        *,
        threads: int = 1,
    ) -> list[list[Hit] | Exception]:
        """The hits of each request, as `search` gives them, or what `search` would raise.

        Requests that differ in nothing but the query go through the passes together.

        Args:
            requests: n of them.
            after: for each request the hit that its hits follow; None for those from the first on.
            threads: Java threads.
        """
        places = list(after or [None] * len(requests))
        ranked: list[Sequence[Fused | Staged] | Exception] = [[]] * len(requests)
        waiting = {
            number: request.k + (place.rank if place else 0)
            for number, (request, place) in enumerate(zip(requests, places, strict=True))
        }
        while waiting:
            found = self._ranked(
                {n: requests[n].model_copy(update={"k": k}) for n, k in waiting.items()}, threads
            )
            for number, hits in found.items():
                k, place = waiting.pop(number), places[number]
                if isinstance(hits, Exception) or place is None:
                    ranked[number] = hits
                    continue
                following = _following(hits, place, len(hits) < k, requests[number])
                if len(following) < requests[number].k and len(hits) == k < LARGEST_K:
                    # Too few hits follow the place, since others now rank before it: search deeper.
                    waiting[number] = min(2 * k, LARGEST_K)
                ranked[number] = following[: requests[number].k]
        ids = {hit.doc_id for hits in ranked if not isinstance(hits, Exception) for hit in hits}
        documents = {document.id: document for document in self.index.documents(sorted(ids))}
        return [
            hits
            if isinstance(hits, Exception)
            else [
                Hit(
                    documents[hit.doc_id],
                    hit.score,
                    hit.group if isinstance(hit, Staged) else None,
                    hit.rerank if isinstance(hit, Staged) else None,
                )
                for hit in hits
            ]
            for hits in ranked
        ]

    def _ranked(
        self, requests: Mapping[int, Request], threads: int
    ) -> dict[int, Sequence[Fused | Staged] | Exception]:
        found: dict[int, Sequence[Fused | Staged] | Exception] = {}
        alike: dict[str, list[tuple[int, Batch]]] = {}
        read: dict[str, Request] = {}
        for number, request in requests.items():
            try:
                asked = self.asked(request)
                # One query at a time, because a model's numbers depend on the rest of a batch.
                vectors = self._encoded(asked, threads)
            except (ValueError, OSError) as error:
                found[number] = error
                continue
            if vectors.sparse is not None:
                self.postings += int(self._frequencies[vectors.sparse.indices].sum())
            for words in vectors.words or ():
                self.passes.statistics.idf(list(words))
                self.postings += sum(self.passes.statistics.frequencies[word] for word in words)
            settings = asked.request.model_dump_json(exclude={"query", "facets"})
            read[settings] = asked.request
            alike.setdefault(settings, []).append((number, vectors))
        for settings, group in alike.items():
            numbers, batches = zip(*group, strict=True)
            try:
                answers = self.passes.answer(_merged(batches), read[settings])
            except (ValueError, KeyError, LuceneError) as error:
                found |= dict.fromkeys(numbers, error)
            else:
                found |= dict(zip(numbers, answers, strict=True))
        return found

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

        Where the order is not by score, a reciprocal rank stands for the score: 1, 1/2, 1/3, …

        Args:
            queries: texts or term → weight maps. Texts are plain, since quotes and hyphens of test
                collections are no operators; `operators=True` reads these.
            k: as in Request.
            threads: Java threads.
            first_pass: for each query the results that feedback is taken from, such as BM25's of
                another index of the same documents; by default as Request says.
            progress: see Progress.
            settings: fields of Request.

        Raises:
            ValueError: see `search`; or `first_pass` without feedback or of another length.
        """
        settings.setdefault("operators", False)
        of_texts = self._resolved(ask("", k=k, **settings))
        if first_pass is not None and (not of_texts.feedback or len(first_pass) != len(queries)):
            raise ValueError("`first_pass` must hold a ranking for each query, and needs feedback")
        # By default texts and term weights have different modes; operators become filters.
        read = {
            number: self.asked(ask(query, k=k, **settings))
            for number, query in enumerate(queries)
            if of_texts.operators or not isinstance(query, str)
        }
        templates: dict[str, Request] = {}
        alike: dict[str, list[int]] = {}
        plain = of_texts.model_dump_json(exclude={"query"})
        for number in range(len(queries)):
            request = read[number].request if number in read else of_texts
            how = request.model_dump_json(exclude={"query"}) if number in read else plain
            templates[how] = request
            alike.setdefault(how, []).append(number)
        ranked: dict[int, Ranking] = {}
        for how, of_template in alike.items():
            template = templates[how]
            for start in range(0, len(of_template), BATCH):
                numbers = of_template[start : start + BATCH]
                first = None if first_pass is None else [first_pass[n] for n in numbers]
                texts = [read[n].request.query if n in read else queries[n] for n in numbers]
                words = [read[n].words for n in numbers] if of_texts.operators else None
                vectors = self.passes.encode(texts, template, threads, words)
                found = self.passes.answer(vectors, template, first)
                for number, hits in zip(numbers, found, strict=True):
                    ranked[number] = [
                        (hit.doc_id, hit.score if template.by_score else 1 / rank)
                        for rank, hit in enumerate(hits, 1)
                    ]
                progress("searching", len(ranked), len(queries))
        return [ranked[number] for number in range(len(queries))]

    def counts(self, query: str | Mapping[str, float] | Request, **settings: Any) -> Counts:
        """Return how many documents meet a request's conditions, and facets counted among them.

        Conditions are the filter, and what the operators of a text demand and exclude. Other words
        and terms order documents but leave out none: learned terms match nearly every document.

        Raises:
            ValueError: see `search`; or a facet does not fit the metadata.
        """
        request = self.asked(_request(query, None, settings)).request
        return self.index.counts(request.filter, request.facets)

    def explain(
        self, query: str | Mapping[str, float] | Request, doc_id: str, **settings: Any
    ) -> Explanation:
        """Return why a document has its score.

        Raises:
            KeyError: no such document; or, of interpolated rankings, none that a side returned.
            ValueError: see `search`.
        """
        (found,) = self.explanations(_request(query, None, settings), [doc_id])
        return found

    def explanations(self, request: Request, doc_ids: Sequence[str]) -> list[Explanation]:
        """Return why each of these documents has its score for one request.

        Raises:
            KeyError, ValueError: see `explain`.
        """
        asked = self.asked(request)
        request = asked.request
        documents = self.index.documents(doc_ids)
        batch = self._encoded(asked)
        before = replace(batch)
        self.passes.feed_back(batch, request)
        sides = self.passes.last_sides(request)
        terms: list[list[Contribution]] = [[] for _ in doc_ids]
        scores: list[list[float]] = []
        for side in sides:
            if side == "dense":
                assert batch.dense is not None
                scores.append(self.passes.dense.scores(batch.dense[0], doc_ids).tolist())
                continue
            parts = self._contributions(batch, before, documents, asked, side)
            scores.append([float(sum(part.contribution for part in of)) for of in parts])
            for of_document, of_side in zip(terms, parts, strict=True):
                of_document += of_side
        by_document = list(zip(*scores, strict=True))
        boosts = self.passes.stages.boosts(request.boosts, doc_ids)
        if len(sides) == 1:
            return [
                Explanation(
                    boosted_score(score, of_boosts),
                    [SideScore(sides[0], score, score)],
                    of_one,
                    of_boosts,
                )
                for (score,), of_one, of_boosts in zip(by_document, terms, boosts, strict=True)
            ]
        (ranked,) = self.passes.interpolated(batch, request)
        fused = {hit.doc_id: hit for hit in ranked}
        for doc_id in doc_ids:
            if doc_id not in fused:
                raise KeyError(
                    f"document {doc_id!r} is not among the {self.passes.depth(request)} first of "
                    "any side: it has no interpolated score"
                )
        return [
            Explanation(
                boosted_score(fused[doc_id].score, of_boosts),
                list(map(SideScore, sides, fused[doc_id].shares, of_sides)),
                of_one,
                of_boosts,
            )
            for doc_id, of_one, of_sides, of_boosts in zip(
                doc_ids, terms, by_document, boosts, strict=True
            )
        ]

    def expand(
        self, query: str | Mapping[str, float] | Request, **settings: Any
    ) -> list[QueryTerm]:
        """The learned terms by which an index is searched, heaviest first.

        Where a request searches for none, those of the query in mode learned.

        Raises:
            ValueError: see `search`.
        """
        asked = self.asked(_request(query, None, settings))
        request = asked.request
        if not self.sides(request) & {"sparse", "learned"}:
            request = ask(request.query, mode="learned", operators=False)
        batch = self.passes.encode([request.query], request, 1, [asked.words])
        before = batch.sparse
        self.passes.feed_back(batch, request)
        assert before is not None and batch.sparse is not None and batch.units is not None
        own = self._own_terms(request.query)
        first = set(before.indices.tolist())
        weights = batch.sparse.data * batch.units[0]
        terms = zip(batch.sparse.indices.tolist(), weights.tolist(), strict=True)
        return [
            QueryTerm(self.encoder.vocabulary[term], weight, term in own, term not in first)
            for term, weight in sorted(terms, key=lambda item: (-item[1], item[0]))
        ]

    def sides(self, request: Request) -> set[Side]:
        """Return the sides that a request searches, those of feedback's first pass included."""
        request = self._resolved(request)
        return {*self.passes.last_sides(request), *self.passes.first_sides(request)}

    def asked(self, request: Request) -> Asked:
        """Return a request as the index is searched for it, its operators read.

        Raises:
            ValueError: see `search`.
        """
        resolved = self._resolved(request)
        # An answer needs it for hits, totals, notices, reasons and marks.
        key = resolved.model_dump_json()
        found = self._asked.get(key)
        if found is None:
            found = self.passes.read(resolved)
            if len(self._asked) >= KEPT:
                self._asked.clear()
            self._asked[key] = found
        return found

    def highlighter(self, request: Request) -> Callable[[str], list[Match]]:
        """Return a function that finds the terms and words of a query in a text.

        A request that searches dense vectors alone is taken for one of mode sparse.

        Raises:
            ValueError: see `search`.
        """
        request = self._resolved(request)
        if self.sides(request) == {"dense"}:
            request = ask(request.query, mode="sparse", operators=request.operators)
        sides = self.sides(request)
        terms: dict[str, bool] = {}
        if sides & {"sparse", "learned"}:
            terms = {term.term: term.literal for term in self.expand(request)}
        added: list[str] = []
        own: dict[str, str] = {}
        if sides & {"sparse", "words"} and isinstance(request.query, str):
            asked = self.asked(request)
            batch = self._encoded(asked)
            self.passes.feed_back(batch, asked.request)
            assert batch.words is not None
            own = dict(asked.names)
            added = [word for word in batch.words[0] if word not in own]

        def highlight(text: str) -> list[Match]:
            found = matches(self.encoder.tokenizer, text, terms) if terms else []
            if added or own:
                (of_text,) = self.index.words([text])
                found += word_matches(of_text, added, own)
            return without_overlaps(found)

        return highlight

    def approximations(
        self, query: str | Mapping[str, float] | Request, **settings: Any
    ) -> list[str]:
        """Return why the answer may lack documents; an empty list if it is exact.

        Raises:
            ValueError: see `search`.
        """
        request = self._resolved(_request(query, None, settings))
        found = []
        depth = self.passes.union_depth(request)
        if request.is_staged and self.index.n_docs > depth:
            found.append(
                f"hits are taken from the first {depth:,} documents of each side, and end with them"
            )
        if request.rescore:
            found.append(
                f"only the {request.rescore} best by the cut query are scored by all its terms"
            )
        if "dense" in self.passes.last_sides(request) and self.passes.dense.kind != "flat":
            found.append(f"dense neighbours are looked for by {self.passes.dense.kind}")
        return found

    def _contributions(
        self,
        batch: Batch,
        before: Batch,
        documents: Sequence[Document],
        asked: Asked,
        side: Side,
    ) -> list[list[Contribution]]:
        """Return what terms and words added to each document's score by one of Lucene's sides.

        Args:
            batch: one query, as it is now.
            before: the query before feedback.
            documents: n documents.
            asked: the request.
            side: the side.
        """
        request = asked.request
        learned, words, (factor,) = self.passes.impacts(batch, side, request)
        ids = [document.id for document in documents]
        parts: list[list[Contribution]] = [[] for _ in ids]
        if side != "words":
            assert before.sparse is not None
            of_documents = self.index.impacts(ids)
            own = self._own_terms(request.query)
            for row, document in enumerate(documents):
                parts[row] += contributions(
                    learned,
                    of_documents[[row]],
                    factor,
                    self.manifest.impact_scale,
                    self.encoder.vocabulary,
                    asked=own,
                    own=self.encoder.own_terms(document.content),
                    before=set(before.sparse.indices.tolist()) if request.feedback else None,
                )
        (weights,) = words.weights
        if weights:
            assert before.words is not None
            before_feedback = before.words[0] if request.feedback else None
            for part, scores in zip(parts, self.index.word_scores(words, ids), strict=True):
                part += word_contributions(weights, scores, factor, asked.names, before_feedback)
        return list(map(with_shares, parts))

    def _encoded(self, asked: Asked, threads: int = 1) -> Batch:
        return self.passes.encode([asked.request.query], asked.request, threads, [asked.words])

    def _resolved(self, request: Request) -> Request:
        return request.resolved(dense=self._live.dense is not None)

    def _own_terms(self, query: str | Mapping[str, float]) -> set[int]:
        """The terms that a query itself holds."""
        if isinstance(query, str):
            return self.encoder.own_terms(query)
        return {self.passes.term_ids[term] for term in query}


def _following(
    hits: Sequence[Fused | Staged], place: Position, is_all: bool, request: Request
) -> Sequence[Fused | Staged]:
    """Return the hits that follow a place.

    Args:
        hits: from the first on.
        place: of a hit that may have moved, or be gone.
        is_all: whether no hits come after these.
        request: what was asked.
    """
    if request.by_score:
        before = (-place.score, place.doc_id)
        return [hit for hit in hits if before < (-hit.score, hit.doc_id)]
    for number, hit in enumerate(hits, 1):
        if hit.doc_id == place.doc_id:
            return hits[number:]
    # It is gone, so that the hit after it has its rank, unless others have come or gone as well.
    return hits[place.rank - 1 :] if is_all else []


def _merged(batches: Sequence[Batch]) -> Batch:
    """Queries of one request's settings as one batch."""
    first = batches[0]
    if len(batches) == 1:
        return first
    return Batch(
        None if first.sparse is None else concatenate([b.sparse for b in batches]),
        None if first.units is None else np.concatenate([b.units for b in batches]),
        None if first.words is None else [words for b in batches for words in b.words or ()],
        None if first.dense is None else np.concatenate([b.dense for b in batches]),
        first.threads,
        first.allowed,
        [text for b in batches for text in b.texts],
    )


def _request(
    query: str | Mapping[str, float] | Request, k: int | None, settings: Mapping[str, Any]
) -> Request:
    return ask(query, **settings) if k is None else ask(query, k=k, **settings)
