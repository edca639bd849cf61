"""Quality against terms kept: the cost of pruning documents after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.table import Table
from scipy.sparse import csr_array

from lsr.eval.measures import Evaluation, evaluate
from lsr.run import Run
from lsr.vectors import prune

KEPT = (8, 16, 32, 64, 128, 256, None)
DEPTH = 1000
# Queries scored at once: their scores for every document are dense.
BLOCK = 64


class Point(NamedTuple):
    """One point of the curve."""

    kept: int | None  # terms of a document at most, the heaviest; None for all
    terms: float  # mean terms of a document then
    evaluation: Evaluation


def rank_vectors(
    documents: csr_array,
    ids: Sequence[str],
    queries: csr_array,
    query_ids: Sequence[str],
    k: int = DEPTH,
) -> Run:
    """Rank the k best documents of each query by exact dot product, without its own document.

    Args:
        documents: float32, shape (n, V).
        ids: of the n documents.
        queries: float32, shape (m, V).
        query_ids: of the m queries.
        k: documents of a query, at most; only those of a positive score.
    """
    ranked = {}
    # Ties go by id: the last key of the sort below comes first.
    place = np.empty(len(ids), dtype=np.int64)
    place[np.argsort(np.asarray(ids, dtype=object), kind="stable")] = np.arange(len(ids))
    transposed = documents.T.tocsc()
    for start in range(0, len(query_ids), BLOCK):
        scores = (queries[start : start + BLOCK] @ transposed).toarray()
        for query_id, row in zip(query_ids[start : start + BLOCK], scores, strict=True):
            best = np.lexsort((place, -row))[: k + 1]
            hits = [(ids[i], float(row[i])) for i in best if row[i] > 0 and ids[i] != query_id]
            ranked[query_id] = hits[:k]
    return Run(ranked)


def pruning_curve(
    documents: csr_array,
    ids: Sequence[str],
    queries: csr_array,
    query_ids: Sequence[str],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    kept: Sequence[int | None] = KEPT,
    measures: Sequence[str] = ("nDCG@10", "R@100"),
) -> list[Point]:
    """Measure quality when each document keeps only its heaviest terms; see `rank_vectors`."""
    points = []
    for top_k in kept:
        pruned = documents if top_k is None else prune(documents, top_k)
        run = rank_vectors(pruned, ids, queries, query_ids)
        terms = pruned.nnz / max(1, pruned.shape[0])
        points.append(Point(top_k, terms, evaluate(run, qrels, measures)))
    return points


def table(points: Sequence[Point]) -> Table:
    """Return the curve as a table for a terminal."""
    shown = Table("terms kept", "mean terms", *points[0].evaluation.means, box=None, pad_edge=False)
    for point in points:
        kept = "all" if point.kept is None else str(point.kept)
        means = point.evaluation.means.values()
        shown.add_row(kept, f"{point.terms:.1f}", *(f"{value:.4f}" for value in means))
    return shown
