"""Paired tests of two systems on the same queries, and Holm's correction for several of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

# Resamples of the bootstrap, and random signs of the randomisation test. If n queries have fewer
# assignments of signs (2^n) than this, the test enumerates all of them and is exact.
RESAMPLES = 9_999
# Values drawn together; this bounds the memory.
BLOCK = 2_000_000


class Paired(NamedTuple):
    """A system and a baseline: their means over the queries, and tests of the difference."""

    n_queries: int
    baseline: float
    system: float
    difference: float  # system - baseline
    low: float  # of the 95 % interval of the difference
    high: float
    p_ttest: float
    p_randomisation: float
    wins: int  # queries on which the system's value is the higher one
    losses: int
    ties: int


def compare(baseline: Mapping[str, float], system: Mapping[str, float], *, seed: int = 0) -> Paired:
    """Two-sided tests of the mean per-query difference of two systems, and its 95 % interval.

    With d the n differences, system - baseline:

    - t test: Student's, of √n · mean(d) / sd(d) with n - 1 degrees of freedom. Differences that
      are all the same and not 0 have p = 0.
    - randomisation test: how often chance signs of d give a |mean| of at least that observed
      (Fisher, The Design of Experiments, 1935; in retrieval: Smucker, Allan and Carterette, CIKM
      2007). Of all 2^n assignments of signs if they are at most 9,999 (n ≤ 13). Else twice the
      smaller tail of 9,999 by chance with the observed one counted in (Phipson and Smyth,
      arXiv:1603.05766), which is at least 0.0002.
    - interval: the percentiles of the mean of 9,999 resamples of d (Efron and Tibshirani, An
      Introduction to the Bootstrap, 1993, §13.3), which are somewhat narrow for few queries.

    Systems with the same values everywhere have p = 1. One comparison is tested; for more see
    `holm`.

    Args:
        baseline: query id to value of a measure.
        system: the same of the other system, for the same queries.
        seed: of the resamples.

    Raises:
        ValueError: the queries differ, are fewer than 2, or have a value that is not finite.
    """
    ids = _shared(baseline, system)
    first = np.array([baseline[query_id] for query_id in ids], dtype=np.float64)
    second = np.array([system[query_id] for query_id in ids], dtype=np.float64)
    differences = second - first
    low, high = _interval(differences, seed)
    p_ttest, p_randomisation = 1.0, 1.0
    if differences.any():
        p_ttest = _ttest(second, first)
        p_randomisation = _randomisation(differences, seed)
    return Paired(
        n_queries=len(ids),
        baseline=float(first.mean()),
        system=float(second.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_ttest=p_ttest,
        p_randomisation=p_randomisation,
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        ties=int((differences == 0).sum()),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, in the order given.

    The i-th smallest of m becomes max over j ≤ i of min(1, (m - j + 1) · p_(j)): those at most α
    are then the hypotheses that Holm's procedure rejects at level α, with the chance of any false
    rejection at most α (Holm, Scandinavian Journal of Statistics 6, 1979, 65-70).

    Raises:
        ValueError: a p value is outside [0, 1].
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"a p value must be in [0, 1], got {p}")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    ascending = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, place in enumerate(ascending):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _shared(baseline: Mapping[str, float], system: Mapping[str, float]) -> list[str]:
    """Return the sorted ids of the queries: resamples must not depend on a mapping's order."""
    for name, missing in (
        ("system", baseline.keys() - system.keys()),
        ("baseline", system.keys() - baseline.keys()),
    ):
        if missing:
            some = ", ".join(repr(query_id) for query_id in sorted(missing)[:3])
            raise ValueError(f"`{name}` lacks {len(missing)} queries of the other, such as {some}")
    if len(baseline) < 2:
        raise ValueError(f"a paired comparison needs at least 2 queries, got {len(baseline)}")
    for name, values in (("baseline", baseline), ("system", system)):
        for query_id, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"`{name}`, query {query_id!r}: must be finite, got {value}")
    return sorted(baseline)


def _ttest(second: np.ndarray, first: np.ndarray) -> float:
    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        # SciPy warns if all differences are almost the same; the p value is then 0 up to rounding.
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        return float(stats.ttest_rel(second, first).pvalue)


def _randomisation(differences: np.ndarray, seed: int) -> float:
    # With one sample, SciPy's "samples" flips the signs.
    found = stats.permutation_test(
        (differences,),
        _rounded_mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, BLOCK // len(differences)),
        rng=seed,
    )
    return float(found.pvalue)


def _rounded_mean(values: np.ndarray, axis: int) -> np.ndarray:
    # Means that differ only by the order of their additions must count as equal.
    means: np.ndarray = values.mean(axis=axis).round(12)
    return means


def _interval(differences: np.ndarray, seed: int) -> tuple[float, float]:
    found = stats.bootstrap(
        (differences,),
        np.mean,
        method="percentile",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, BLOCK // len(differences)),
        rng=seed,
    ).confidence_interval
    return float(found.low), float(found.high)
