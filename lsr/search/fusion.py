"""Interpolation: one ranking out of a sparse and a dense one."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lsr.request import Interpolation
from lsr.run import Ranking

# The smallest possible scores: sparse weights are at least 0, and dense scores are cosines.
SPARSE_LEAST = 0.0
DENSE_LEAST = -1.0


class Fused(NamedTuple):
    """A document of the fused ranking; its score is the sum of the sides' shares."""

    doc_id: str
    score: float
    shares: tuple[float, ...]


def interpolate(
    sparse: Ranking,
    dense: Ranking,
    how: Interpolation,
    exact: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {}),
    k: int | None = None,
    among: Iterable[str] | None = None,
) -> list[Fused]:
    """Return the union of two rankings by fused score descending, ties by doc id ascending.

    By method "convex", a document's score is ::

        α·norm(sparse score) + (1 − α)·norm(dense score)

    where norm is, with the minimum, maximum, mean and (population) standard deviation of the
    side's own list:

    ============  ==================================================================
    min-max       (s − min) / (max − min)
    theoretical   (s − least) / (max − least); least is 0 for sparse, −1 for dense
                  scores, which are cosines: TM2C2 of Bruch, Gai and Ingber, An
                  Analysis of Fusion Functions for Hybrid Retrieval, TOIS 2023,
                  arXiv:2210.11934. Their α is the weight of the dense side. As
                  min-max if no score of the list is above least
    z-score       (s − mean) / sd
    none          s
    ============  ==================================================================

    Where these have nothing to divide by (one document, or equal scores), each returned document
    gets 1 by min-max, as in Anserini and OpenSearch. With 0, as in ranx, a returned document would
    count no more than a missing one. Z-scores are then 0, because every score is the mean.

    The share of a side that did not return the document (`missing`):

    ============  ==================================================================
    exact         norm of its score in `exact`, by the list's minimum, maximum, …: it
                  lies below the list's scores, where min-max is below 0. Where there
                  is nothing to divide by, 0, or 1 if it is no lower than the list's
                  minimum (z-score: 0)
    zero          0, after normalisation: under z-score that is the mean
    minimum       norm of the list's minimum
    ============  ==================================================================

    A side without documents has no scale: its share is 0 everywhere, and `exact` is not used.

    The rankings are used whole: `depth` is not applied here. The order within `sparse` and `dense`
    does not matter. All results are finite if the scores are float32 values.

    Args:
        sparse: (doc id, score) of the sparse side.
        dense: (doc id, score) of the dense side.
        how: α, normalisation and `missing`, of method "convex".
        exact: doc id → score; first the sparse side's of documents that only `dense` has, then
            the dense side's of those that only `sparse` has. More documents do no harm.
        k: how many documents are returned; None returns all.
        among: the documents that may be returned, each once; None allows all. Minimum, maximum and
            so on are still those of the whole lists.

    Raises:
        ValueError: a score is not finite, or a ranking holds a document twice.
        KeyError: `missing` is "exact" and a document that a side did not return is not in its
            `exact`.
    """
    sides = (_scores("sparse", sparse), _scores("dense", dense))
    # In order of id: the sorts by score below are stable, so the id breaks ties.
    doc_ids = sorted(sides[0].keys() | sides[1].keys() if among is None else among)
    values = [
        _normalised(name, side, doc_ids, how, known)
        for name, side, known in zip(("sparse", "dense"), sides, exact, strict=True)
    ]
    return _fused(doc_ids, values, (how.alpha, 1 - how.alpha), k)


def reciprocal_rank_fusion(
    rankings: Sequence[Ranking], how: Interpolation, k: int | None = None
) -> list[Fused]:
    """Return the union of rankings by fused score descending, ties by doc id ascending.

    A document's score is the sum of its reciprocal ranks (Cormack, Clarke and Büttcher, SIGIR
    2009), of two rankings with weights ::

        2α / (rank_constant + first rank) + 2(1 − α) / (rank_constant + second rank)

    with ranks from 1 by (score descending, doc id ascending), so that α = 0.5 is the paper's
    unweighted sum. Three rankings have no weights. A side that did not return the document gives
    0, whatever `missing` says.

    Args:
        rankings: (doc id, score) of two or three sides; the order within each does not matter.
        how: α and the rank constant.
        k: how many documents are returned; None returns all.

    Raises:
        ValueError: a score is not finite, or a ranking holds a document twice.
    """
    sides = [_scores(name, of) for name, of in zip(how.sides, rankings, strict=True)]
    doc_ids = sorted({doc_id for side in sides for doc_id in side})
    values = [_reciprocal_ranks(side, doc_ids, how.rank_constant) for side in sides]
    weights = (2 * how.alpha, 2 * (1 - how.alpha)) if len(sides) == 2 else (1.0,) * len(sides)
    return _fused(doc_ids, values, weights, k)


def _fused(
    doc_ids: Sequence[str], values: Sequence[np.ndarray], weights: Sequence[float], k: int | None
) -> list[Fused]:
    """The k best by Σ weight · value; `doc_ids` ascend."""
    # Adding 0 turns −0 into 0.
    shares = [weight * value + 0.0 for weight, value in zip(weights, values, strict=True)]
    scores = functools.reduce(np.add, shares)
    order = np.argsort(-scores, kind="stable")[:k]
    ids = [doc_ids[i] for i in order.tolist()]
    of_sides = zip(*(share[order].tolist() for share in shares), strict=True)
    return list(map(Fused, ids, scores[order].tolist(), of_sides))


class Union(NamedTuple):
    """Ids of the documents that both sides returned, and of those that only one returned."""

    both: list[str]
    only_sparse: list[str]
    only_dense: list[str]


def contenders(
    sparse: Ranking,
    dense: Ranking,
    how: Interpolation,
    k: int | None = None,
    exact_dense: bool = False,
) -> Union:
    """Return documents of two rankings that hold the k best of `interpolate`, ties included.

    A document that an exact search did not return scores no more there than the last one that it
    did. All normalisations keep the order of scores, rounding included, so that the fused score
    computed from that last score is never below the document's own. What falls short of the k best
    of those documents that both sides returned is left out: its score by the other side need not
    be known.

    Args:
        sparse: (doc id, score) as an exact search found them.
        dense: (doc id, score) as found.
        how: method "convex", `missing` "exact".
        k: as for `interpolate`.
        exact_dense: `dense` is from an exact search.
    """
    sparse_ids, dense_ids = [doc_id for doc_id, _ in sparse], [doc_id for doc_id, _ in dense]
    place = dict(zip(dense_ids, range(len(dense_ids)), strict=True))
    places = np.fromiter((place.get(doc_id, -1) for doc_id in sparse_ids), np.intp, len(sparse))
    in_both = places >= 0
    only_dense = np.ones(len(dense), bool)
    only_dense[places[in_both]] = False
    both, only_sparse = np.flatnonzero(in_both), np.flatnonzero(~in_both)
    of_dense = np.flatnonzero(only_dense)
    if k is not None and len(both) >= k:
        by_sparse = _share("sparse", sparse, how, how.alpha)
        by_dense = _share("dense", dense, how, 1 - how.alpha)
        scores = by_sparse[both] + by_dense[places[both]]
        least = np.partition(scores, -k)[-k]
        both = both[scores >= least]
        if exact_dense:
            only_sparse = only_sparse[by_sparse[only_sparse] + by_dense.min() >= least]
        of_dense = of_dense[by_sparse.min() + by_dense[of_dense] >= least]
    return Union(
        [sparse_ids[i] for i in both.tolist()],
        [sparse_ids[i] for i in only_sparse.tolist()],
        [dense_ids[i] for i in of_dense.tolist()],
    )


def _share(name: str, ranking: Ranking, how: Interpolation, weight: float) -> np.ndarray:
    """Return a side's share for each document of its own list, as in `interpolate`."""
    scores = np.fromiter((score for _, score in ranking), np.float64, len(ranking))
    share: np.ndarray = weight * _normalisation(name, np.sort(scores), how)(scores) + 0.0
    return share


def _scores(name: str, ranking: Ranking) -> dict[str, float]:
    scores = dict(ranking)
    if len(scores) < len(ranking):
        twice, _ = Counter(doc_id for doc_id, _ in ranking).most_common(1)[0]
        raise ValueError(f"`{name}` holds document {twice!r} twice")
    _require_finite(name, scores)
    return scores


def _require_finite(name: str, scores: Mapping[str, float]) -> None:
    finite = np.isfinite(np.fromiter(scores.values(), np.float64, len(scores)))
    if not finite.all():
        doc_id = list(scores)[int(np.argmin(finite))]
        raise ValueError(f"`{name}` scores must be finite, got {scores[doc_id]} for {doc_id!r}")


def _reciprocal_ranks(side: Mapping[str, float], doc_ids: list[str], constant: int) -> np.ndarray:
    """Return 1 / (constant + rank) of each document; 0 if the side did not return it."""
    returned = np.array([i for i, doc_id in enumerate(doc_ids) if doc_id in side], dtype=np.intp)
    scores = np.array([side[doc_ids[i]] for i in returned.tolist()], dtype=np.float64)
    values = np.zeros(len(doc_ids))
    ranked = returned[np.argsort(-scores, kind="stable")]
    values[ranked] = 1 / (constant + np.arange(1, len(ranked) + 1))
    return values


def _normalised(
    name: str,
    side: Mapping[str, float],
    doc_ids: list[str],
    how: Interpolation,
    exact: Mapping[str, float],
) -> np.ndarray:
    """Return the side's normalised score of each document, or the value that `missing` gives."""
    if not side:
        return np.zeros(len(doc_ids))
    listed = np.sort(np.fromiter(side.values(), np.float64, len(side)))
    normalise = _normalisation(name, listed, how)
    absent = [doc_id for doc_id in doc_ids if doc_id not in side]
    if how.missing == "exact":
        asked = {doc_id: exact[doc_id] for doc_id in absent if doc_id in exact}
        if len(asked) < len(absent):
            unknown = next(doc_id for doc_id in absent if doc_id not in exact)
            raise KeyError(f"`exact` holds no {name} score of document {unknown!r}")
        _require_finite(f"exact {name}", asked)
        known = {**side, **asked}
    else:
        known = {**dict.fromkeys(absent, float(listed[0])), **side}
    scores = np.fromiter(map(known.__getitem__, doc_ids), np.float64, len(doc_ids))
    values = normalise(scores)
    if how.missing == "zero":
        values[[doc_id not in side for doc_id in doc_ids]] = 0
    return values


def _normalisation(
    name: str, listed: np.ndarray, how: Interpolation
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that normalises scores by a list: float64, ascending, not empty."""
    low, high = float(listed[0]), float(listed[-1])
    if how.normalisation == "none":
        return np.copy
    if how.normalisation == "z-score":
        if low == high:  # the computed mean may differ from the scores by a rounding error
            return np.zeros_like
        # Scores are first brought into [0, 1], because squares of tiny scores would be 0.
        unit = (listed - low) / (high - low)
        mean, deviation = float(unit.mean()), float(unit.std())
        return lambda scores: ((scores - low) / (high - low) - mean) / deviation
    least = low
    if how.normalisation == "theoretical":
        theory = SPARSE_LEAST if name == "sparse" else DENSE_LEAST
        least = theory if theory < high else low
    if least == high:
        return lambda scores: (scores >= low).astype(np.float64)
    return lambda scores: (scores - least) / (high - least)
