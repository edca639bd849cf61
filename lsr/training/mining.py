"""Hard negatives: documents that a retriever ranks high for a query and that do not answer it.

bm25 = LexicalEncoder.fit(default_tokenizer(), batches)
candidates = sparse_candidates(examples, bm25, k=100)  # or dense_candidates(examples, teacher)
mined = mine(examples, candidates, n=7, judge=DenseTeacher())
dataset = mined.examples.dataset()
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from lsr.documents import Document
from lsr.indexes.dense import DenseIndex
from lsr.indexes.lucene import LuceneIndex
from lsr.progress import Progress
from lsr.run import Run
from lsr.training.examples import Example, Examples, folded, seeded
from lsr.training.teachers import DenseTeacher, Encoder, Teacher
from lsr.vectors import quantise, quantise_queries

# Documents encoded at once, and queries searched at once.
SHARD = 512
# Weights of documents are rounded to 1/64.
SCALE = 64.0
# Rows whose candidates are judged at once.
JUDGED = 128

T = TypeVar("T")


def sparse_candidates(
    examples: Examples,
    encoder: Encoder,
    k: int = 100,
    *,
    directory: Path | None = None,
    progress: Progress = lambda step, done, total: None,
) -> Run:
    """The k documents that a Lucene index of the collection ranks first for each query.

    Args:
        examples: their queries, and all of their documents.
        encoder: of both; LexicalEncoder for BM25.
        k: documents for each query, in [1, 1,000,000].
        directory: where the index is built and stays; None for a temporary directory.
        progress: called with the step, how much of it is done, and how much there is.

    Raises:
        ValueError: `k` is out of range, or the encoder gives weights that cannot be indexed.
    """
    with tempfile.TemporaryDirectory(prefix="lsr-mining-") as temporary:
        path = directory or Path(temporary) / "lucene"
        with LuceneIndex.create(path, encoder.vocabulary) as index:
            _index(examples.documents, encoder, index, progress)
            return _search(examples, encoder, index, k, progress)


def dense_candidates(
    examples: Examples,
    teacher: DenseTeacher,
    k: int = 100,
    *,
    progress: Progress = lambda step, done, total: None,
) -> Run:
    """The k documents with the largest inner products for each query, by faiss.

    Args:
        examples: their queries, and all of their documents.
        teacher: whose vectors are compared.
        k: documents for each query, at least 1.
        progress: see `sparse_candidates`.

    Raises:
        ImportError: faiss is not installed.
        ValueError: `k` is out of range.
    """
    vectors = []
    for number, ids in enumerate(_shards(examples.documents, SHARD)):
        vectors.append(teacher.encode_documents([examples.documents[doc_id] for doc_id in ids]))
        progress("encoding", number * SHARD + len(ids), len(examples.documents))
    index = DenseIndex(list(examples.documents), np.concatenate(vectors))
    queries = _queries(examples)
    found = index.search(teacher.encode_queries(list(queries.values())), k)
    return Run(dict(zip(queries, found, strict=True)))


class Mined(NamedTuple):
    """What `mine` found, and why it left candidates out."""

    examples: Examples
    n_candidates: int  # in the range of ranks, over all rows
    n_positive: int  # of these, known positives of their query
    n_duplicate: int  # of the rest, the same text as a positive, or a negative that was there
    n_margin: int  # of the rest, too close to the positive
    n_random: int  # negatives drawn from the whole collection, where candidates were too few


def mine(
    examples: Examples,
    candidates: Mapping[str, Sequence[tuple[str, float]]],
    n: int,
    *,
    ranks: tuple[int, int] = (1, 100),
    judge: Teacher | None = None,
    relative: float = 0.05,
    absolute: float = 0.0,
    seed: int = 0,
    progress: Progress = lambda step, done, total: None,
) -> Mined:
    """Each row with n more negatives, drawn at random from its query's candidates.

    Left out are known positives, texts equal to one but for case and white space, and, where there
    is a judge, candidates that are probably unmarked positives: those that it scores
    above s⁺ − relative · |s⁺| − absolute, s⁺ being its score of the row's positive. With
    `relative` alone that is TopK-PercPos, whose best share was 95 %, with `absolute` alone
    TopK-MarginPos (Moreira et al. 2024, NV-Retriever, arXiv:2407.15831, §3). Where too few
    candidates remain the rest is drawn from the whole collection.

    Args:
        examples: rows; negatives that they have stay, before the new ones.
        candidates: ranked (document id, score) of each query id, such as a Run.
        n: negatives that each row gets.
        ranks: the first and last rank that are drawn from, both included, counting from 1.
        judge: scores positives and candidates. It should not be the retriever itself, which would
            refuse every candidate that it ranks above the positive.
        relative: see above, at least 0.
        absolute: see above, at least 0, on the judge's scale.
        seed: the draw for a row depends on it and on the row's ids.
        progress: called with the number of rows done.

    Raises:
        KeyError: a candidate is not in the collection.
        ValueError: an argument is out of range, a query has no candidates, or the collection has
            no n documents to draw from.
    """
    first, last = ranks
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}")
    if not 1 <= first <= last:
        raise ValueError(f"`ranks` must be 1 ≤ first ≤ last, got {ranks}")
    if not (relative >= 0 and absolute >= 0):
        raise ValueError(f"margins must be at least 0, got {relative} and {absolute}")
    counts = dict.fromkeys(("candidates", "positive", "duplicate", "margin", "random"), 0)
    draw = _Draw(examples, n, seed)
    rows: list[Example] = []
    for shard in _shards(examples.rows, JUDGED):
        left = []
        for row in shard:
            if row.query_id not in candidates:
                raise ValueError(f"query {row.query_id!r} has no candidates")
            ranked = [doc_id for doc_id, _ in candidates[row.query_id][first - 1 : last]]
            unknown = [
                doc_id for doc_id in ranked if doc_id not in examples.positives[row.query_id]
            ]
            fresh = draw.fresh(row, unknown)
            counts["candidates"] += len(ranked)
            counts["positive"] += len(ranked) - len(unknown)
            counts["duplicate"] += len(unknown) - len(fresh)
            left.append(fresh)
        if judge is not None:
            judged = _below(examples, shard, left, judge, relative, absolute)
            counts["margin"] += sum(map(len, left)) - sum(map(len, judged))
            left = judged
        for row, of_row in zip(shard, left, strict=True):
            drawn = draw.negatives(row, of_row)
            counts["random"] += n - min(n, len(of_row))
            rows.append(row._replace(negatives=row.negatives + drawn, scores=None))
        progress("mining", len(rows), len(examples))
    return Mined(replace(examples, rows=rows), *counts.values())


class _Draw:
    """Draws negatives for the rows of examples."""

    def __init__(self, examples: Examples, n: int, seed: int) -> None:
        self._examples = examples
        self._n = n
        self._seed = seed
        self._all = list(examples.documents)
        # Texts of the positives of one query: its rows usually follow each other.
        self._query_id: str | None = None
        self._positives: set[str] = set()

    def fresh(self, row: Example, doc_ids: Sequence[str]) -> list[str]:
        """Those that read differently from the query's positives, the row's negatives, and others.

        Of equal texts the first stays.
        """
        if row.query_id != self._query_id:
            self._query_id = row.query_id
            positives = self._examples.positives[row.query_id]
            self._positives = {self._folded(doc_id) for doc_id in positives}
        seen = self._positives | {self._folded(doc_id) for doc_id in row.negatives}
        fresh = []
        for doc_id in doc_ids:
            text = self._folded(doc_id)
            if text not in seen:
                seen.add(text)
                fresh.append(doc_id)
        return fresh

    def negatives(self, row: Example, candidates: Sequence[str]) -> tuple[str, ...]:
        """n of the candidates, or all of them and others, in random order."""
        generator = seeded(self._seed, "mining", row.query_id, row.positive)
        drawn = generator.sample(candidates, min(self._n, len(candidates)))
        # Few are lacking and most documents will do; the bound is for tiny collections.
        attempts = 100 * self._n
        while len(drawn) < self._n:
            if not attempts:
                raise ValueError(
                    f"query {row.query_id!r}: not {self._n} different negatives among "
                    f"{len(self._all)} documents"
                )
            attempts -= 1
            drawn = self.fresh(row, [*drawn, generator.choice(self._all)])
        return tuple(drawn)

    def _folded(self, doc_id: str) -> str:
        return folded(self._examples.documents[doc_id])


def _below(
    examples: Examples,
    rows: Sequence[Example],
    candidates: Sequence[Sequence[str]],
    judge: Teacher,
    relative: float,
    absolute: float,
) -> list[list[str]]:
    """The candidates of each row that the judge scores below the row's positive by a margin."""
    queries: list[str] = []
    texts: list[str] = []
    for row, of_row in zip(rows, candidates, strict=True):
        queries += [row.query] * (1 + len(of_row))
        texts += [examples.texts(row)[0], *(examples.documents[doc_id] for doc_id in of_row)]
    scores = judge.score(queries, texts)
    kept = []
    start = 0
    for of_row in candidates:
        positive, *others = scores[start : start + 1 + len(of_row)].tolist()
        bound = positive - relative * abs(positive) - absolute
        kept.append(
            [doc_id for doc_id, score in zip(of_row, others, strict=True) if score <= bound]
        )
        start += 1 + len(of_row)
    return kept


def _queries(examples: Examples) -> dict[str, str]:
    return {row.query_id: row.query for row in examples.rows}


def _index(
    documents: Mapping[str, str], encoder: Encoder, index: LuceneIndex, progress: Progress
) -> None:
    """Fill the index with ids and impacts, without texts."""
    done = 0
    for ids in _shards(documents, SHARD):
        vectors = encoder.encode_documents([documents[doc_id] for doc_id in ids])
        impacts = quantise(vectors, SCALE)
        index.add([Document(i) for i in ids], impacts, new=True, threads=os.cpu_count() or 1)
        done += len(ids)
        progress("encoding", done, len(documents))
    index.commit({})


def _search(
    examples: Examples,
    encoder: Encoder,
    index: LuceneIndex,
    k: int,
    progress: Progress,
) -> Run:
    queries = _queries(examples)
    rankings: dict[str, list[tuple[str, float]]] = {}
    for ids in _shards(queries, SHARD):
        vectors = encoder.encode_queries([queries[query_id] for query_id in ids])
        impacts, factors = quantise_queries(vectors)
        found = index.search(impacts, k, threads=os.cpu_count() or 1)
        for query_id, hits, factor in zip(ids, found, factors.tolist(), strict=True):
            rankings[query_id] = [(doc_id, score * factor / SCALE) for doc_id, score in hits]
        progress("searching", len(rankings), len(queries))
    return Run(rankings)


def _shards(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while shard := list(islice(iterator, size)):
        yield shard
