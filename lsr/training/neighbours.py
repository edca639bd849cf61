"""Teachers' scores of a batch's documents for all queries of the collection that are near one.

Inference-free queries cost next to nothing, so a document that has passed the model can be compared
with many of them. The documents of a batch are compared not only with their own queries, but with
every query for which the teachers rank one of them high.

    neighbours = Neighbours(queries, documents, [VectorTeacher(q, d, 0.7), …])
    trainer.data_collator = WholeBatch(trainer.data_collator, neighbours, most=1024)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_array

from lsr.progress import Progress
from lsr.run import Run
from lsr.training.examples import seeded

# Pairs of queries and documents that are scored at once: 256 MiB for each teacher.
PAIRS = 1 << 26
# A query is near its NEAR best documents, and near its own.
NEAR = 20

Vectors: TypeAlias = np.ndarray | csr_array


class NearQuery(NamedTuple):
    """A query, and a document that it belongs to.

    Attributes:
        id: of the query.
        text: the query.
        document: the id of its document.
        cut_out: whether the query is a passage of that document. Then the pair says nothing: it has
            no score and takes part in no ranking.
    """

    id: str
    text: str
    document: str
    cut_out: bool = False


class VectorTeacher(NamedTuple):
    """A teacher whose scores are inner products of vectors.

    Attributes:
        queries: of N queries, float32, shape (N, D).
        documents: of M documents, float32, shape (M, D); both dense, or both sparse.
        weight: of its scores among those of all teachers.
    """

    queries: Vectors
    documents: Vectors
    weight: float = 1.0


class Neighbours:
    """The queries near a document, and the teachers' scores of any pairs of a collection.

    A teacher's scores are divided by the query's largest in the collection, so that teachers can be
    compared; the score of a pair is their weighted mean, times `scale`.

    Attributes:
        queries: N of them.
        scores: of the documents ranked for each, best first, float32, shape (N, depth).
    """

    def __init__(
        self,
        queries: Sequence[NearQuery],
        documents: Mapping[str, str],
        teachers: Sequence[VectorTeacher],
        *,
        depth: int = 100,
        scale: float = 12.0,
        seed: int = 0,
        progress: Progress = lambda step, done, total: None,
    ) -> None:
        """Rank the collection for each query.

        Args:
            queries: N of them.
            documents: M texts by id.
            teachers: at least one, with vectors in these orders.
            depth: documents that are ranked for each query, at most all.
            scale: the factor of all scores.
            seed: of the random choices.
            progress: called with the number of queries ranked.

        Raises:
            ValueError: there are no teachers, or the vectors of one are more or fewer.
        """
        if not teachers:
            raise ValueError("`teachers` must hold at least one, got none")
        for teacher in teachers:
            shape = (teacher.queries.shape[0], teacher.documents.shape[0])
            if shape != (len(queries), len(documents)):
                raise ValueError(
                    f"a teacher has vectors of {shape[0]} queries and {shape[1]} documents, not "
                    f"of {len(queries)} and {len(documents)}"
                )
        self.queries = queries
        self._ids = list(documents)
        self._teachers = teachers
        self._scale = scale
        self._seed = seed
        rows = {key: row for row, key in enumerate(self._ids)}
        self._own = np.array([rows[query.document] for query in queries])
        self._cut_out = np.array([query.cut_out for query in queries])
        # One of several equal texts stands for all.
        self._document = {text: row for row, text in enumerate(documents.values())}
        self._query = {query.text: row for row, query in enumerate(queries)}
        depth = min(depth, len(documents))
        self._largest = np.empty((len(teachers), len(queries)), np.float32)
        self._ranked = np.empty((len(queries), depth), np.int32)
        self.scores = np.empty((len(queries), depth), np.float32)
        step = max(1, PAIRS // len(documents))
        for start in range(0, len(queries), step):
            stop = min(start + step, len(queries))
            self._rank(np.arange(start, stop), depth)
            progress("ranking", stop, len(queries))
        self._starts, self._near = self._near_documents()

    def candidates(self) -> Run:
        """The best documents of each query, without the one that it was cut out of."""
        rankings = {}
        for query, ranked, scores in zip(self.queries, self._ranked, self.scores, strict=True):
            pairs = zip(ranked.tolist(), scores.tolist(), strict=True)
            rankings[query.id] = [
                (self._ids[row], score) for row, score in pairs if score > -np.inf
            ]
        return Run(rankings)

    def compare(
        self, queries: Sequence[str], documents: Sequence[str], most: int
    ) -> tuple[list[str], np.ndarray]:
        """Queries near some documents, and the scores of all pairs.

        Args:
            queries: texts that come first, also those that are near none of the documents.
            documents: m texts of the collection.
            most: queries in all. Where more are near, some are drawn at random: the same ones for
                the same `queries`.

        Returns:
            n texts, and scores, float32, shape (n, m): −inf where the query was cut out of the
            document.

        Raises:
            KeyError: a text is not in the collection.
        """
        columns = np.array([self._document[text] for text in documents])
        first = [self._query[text] for text in queries]
        near = np.concatenate(
            [self._near[self._starts[column] : self._starts[column + 1]] for column in columns]
        )
        others = np.setdiff1d(near, first)
        room = max(0, most - len(first))
        if len(others) > room:
            generator = seeded(self._seed, "neighbours", *queries)
            others = others[sorted(generator.sample(range(len(others)), room))]
        rows = np.concatenate([np.array(first, np.int64), others])
        return [self.queries[row].text for row in rows], self._score(rows, columns)

    def _score(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Of all pairs, shape (rows, columns)."""
        total = np.zeros((len(rows), len(columns)), np.float32)
        for teacher, largest in zip(self._teachers, self._largest, strict=True):
            products = _products(teacher.queries[rows], teacher.documents[columns])
            total += self._share(teacher) * products / largest[rows, None]
        total *= self._scale
        total[self._cut_out[rows, None] & (self._own[rows, None] == columns)] = -np.inf
        return total

    def _share(self, teacher: VectorTeacher) -> float:
        return teacher.weight / sum(each.weight for each in self._teachers)

    def _rank(self, rows: np.ndarray, depth: int) -> None:
        own = np.flatnonzero(self._cut_out[rows])
        cut_out = own, self._own[rows[own]]
        total = np.zeros((len(rows), len(self._ids)), np.float32)
        for number, teacher in enumerate(self._teachers):
            products = _products(teacher.queries[rows], teacher.documents)
            products[cut_out] = -np.inf
            largest = products.max(axis=1)
            # A query that shares nothing with any document gets 0 for all of them.
            largest[largest <= 0] = np.inf
            self._largest[number, rows] = largest
            products[cut_out] = 0
            total += self._share(teacher) * products / largest[:, None]
        total[cut_out] = -np.inf
        best = np.argpartition(-total, depth - 1, axis=1)[:, :depth]
        scores = np.take_along_axis(total, best, axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")
        self._ranked[rows] = np.take_along_axis(best, order, axis=1)
        self.scores[rows] = self._scale * np.take_along_axis(scores, order, axis=1)

    def _near_documents(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the queries near each document begin, shape (M + 1,), and those queries."""
        ranked = self._ranked[:, :NEAR]
        answers = np.flatnonzero(~self._cut_out)
        documents = np.concatenate([ranked.ravel(), self._own[answers]])
        queries = np.repeat(np.arange(len(ranked)), ranked.shape[1])
        queries = np.concatenate([queries, answers])
        order = np.argsort(documents, kind="stable")
        starts = np.searchsorted(documents[order], np.arange(len(self._ids) + 1))
        return starts, queries[order]


def _products(queries: Vectors, documents: Vectors) -> np.ndarray:
    products = queries @ documents.T
    dense = products if isinstance(products, np.ndarray) else products.toarray()
    return np.asarray(dense, np.float32)


class WholeBatch:
    """A data collator that adds near queries, and labels all pairs.

    The column of queries has n rows, those of the batch first. Columns of documents have B rows.
    "label" has the shape (n, C · B), documents column after column.
    """

    def __init__(self, collator: Any, neighbours: Neighbours, most: int) -> None:
        """A collator around that of sentence-transformers.

        Args:
            collator: for rows of "query" and columns of documents, as texts.
            neighbours: of their collection.
            most: queries in all.
        """
        self.valid_label_columns = collator.valid_label_columns  # which the trainer reads
        self._collator = collator
        self._neighbours = neighbours
        self._most = most

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """See `collator`."""
        columns = [column for column in rows[0] if column != "query"]
        documents = [row[column] for column in columns for row in rows]
        queries = [row["query"] for row in rows]
        queries, labels = self._neighbours.compare(queries, documents, self._most)
        batch: dict[str, Any] = self._collator(rows)
        features = self._collator.preprocess_fn(queries, prompt=None, task="query")
        batch |= {f"query_{name}": value for name, value in features.items()}
        return batch | {"label": torch.from_numpy(labels)}
