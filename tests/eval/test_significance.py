"""Significance tests compared with tables and sums by hand, and with all assignments of signs."""

import warnings
from fractions import Fraction
from itertools import product
from math import nan, sqrt

import numpy as np
import pytest

from lsr.eval.significance import compare, holm


def paired(differences, **options):
    """Call `compare` on two systems with exactly these differences."""
    baseline = {f"q{number}": 0.0 for number in range(len(differences))}
    system = dict(zip(baseline, map(float, differences), strict=True))
    return compare(baseline, system, **options)


def enumerated(differences):
    """The exact p value, in rational numbers."""
    observed = abs(sum(differences))
    sums = [
        abs(sum(sign * d for sign, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(found >= observed for found in sums) / len(sums)


def test_means_counts_and_t_by_hand():
    baseline = {"a": 0.1, "b": 0.4, "c": 0.5, "d": 0.2}
    system = {"d": 0.2, "c": 0.9, "b": 0.2, "a": 0.5}
    found = compare(baseline, system)
    assert (found.n_queries, found.wins, found.losses, found.ties) == (4, 2, 1, 1)
    assert (found.baseline, found.system) == (pytest.approx(0.3), pytest.approx(0.45))
    assert found.difference == pytest.approx(0.15)
    # d = 0.4, -0.2, 0.4, 0: sum of squares about 0.15 is 0.27, so t = 0.15 · 2 / √0.09 = 1. For 3
    # degrees of freedom P(|T| > 1) = 1 - 2/π · (atan(1/√3) + √3/4).
    expected = 1 - 2 / np.pi * (np.arctan(1 / sqrt(3)) + sqrt(3) / 4)
    assert found.p_ttest == pytest.approx(expected)
    # Of the sums of ±0.4 ±0.2 ±0.4 those of at least 0.6 are half.
    assert found.p_randomisation == 0.5


@pytest.mark.parametrize("n", [2, 3, 5, 9])
@pytest.mark.parametrize("seed", range(5))
def test_randomisation_equals_the_enumeration_of_all_signs(n, seed):
    """Differences of reciprocal ranks, whose sums may be equal but differ as floats."""
    rng = np.random.default_rng(seed)
    ranks = rng.integers(1, 6, (2, n))
    exact = [Fraction(1, int(a)) - Fraction(1, int(b)) for a, b in ranks.T]
    assert paired(exact).p_randomisation == pytest.approx(enumerated(exact), abs=1e-12)


def test_a_mean_of_0_but_for_rounding_has_p_1():
    """Other signs give sums that are 0 too, exactly or except for rounding."""
    differences = 3 * (0.1, 0.2, -0.3)
    assert sum(differences) != 0
    found = paired(differences)
    assert (found.p_randomisation, found.p_ttest) == (1, pytest.approx(1))


def test_many_queries_are_resampled_by_the_seed():
    rng = np.random.default_rng(0)
    sixteenths = rng.integers(-3, 5, 16)
    differences = sixteenths / 16
    signs = np.array(list(product((1, -1), repeat=16)))
    exact = np.mean(abs(signs @ sixteenths) >= abs(sixteenths.sum()))
    found = paired(differences, seed=1)
    # Four standard errors of a two-sided p value from 9,999 resamples.
    assert found.p_randomisation == pytest.approx(exact, abs=8 * sqrt(exact / 2 / 9999))
    assert found == paired(differences, seed=1)
    assert found.p_randomisation != paired(differences, seed=2).p_randomisation
    assert paired(np.ones(300)).p_randomisation == 0.0002


def test_the_order_of_queries_is_no_matter():
    values = np.random.default_rng(0).random((2, 50))
    ids = [f"q{number}" for number in range(50)]
    baseline, system = (dict(zip(ids, row, strict=True)) for row in values)
    turned = {query_id: system[query_id] for query_id in reversed(ids)}
    assert compare(baseline, system) == compare(baseline, turned)


def test_the_interval_is_that_of_the_normal_distribution_for_many_queries():
    differences = np.random.default_rng(0).normal(0.1, 1, 2000)
    found = paired(differences)
    half = 1.96 * differences.std(ddof=1) / sqrt(2000)
    assert found.low == pytest.approx(found.difference - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.difference + half, abs=0.1 * half)


def test_systems_with_the_same_values_have_p_1():
    values = {"a": 0.1, "b": 0.7, "c": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(values, dict(values))
    assert found[3:] == (0, 0, 0, 1, 1, 0, 0, 3)


@pytest.mark.parametrize("before", [(0.0, 0.0, 0.0), (0.2, 0.1, 0.6)])
def test_differences_all_the_same_give_no_warning(before):
    """In the second case the differences are 0.1 only up to rounding."""
    baseline = dict(zip("abc", before, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(baseline, {query_id: value + 0.1 for query_id, value in baseline.items()})
    assert found.p_ttest == pytest.approx(0, abs=1e-20)
    assert found.p_randomisation == 2 / 2**3
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1))


@pytest.mark.parametrize(
    ("baseline", "system", "message"),
    [
        ({"a": 0, "b": 0}, {"a": 0}, "`system` lacks 1 queries of the other, such as 'b'"),
        (
            {"e": 0},
            dict.fromkeys("abcde", 0),
            "`baseline` lacks 4 queries of the other, such as 'a', 'b', 'c'$",
        ),
        ({}, {}, "needs at least 2 queries, got 0"),
        ({"a": 0}, {"a": 1}, "needs at least 2 queries, got 1"),
        ({"a": 0, "b": 0}, {"a": 0, "b": nan}, "`system`, query 'b': must be finite, got nan"),
    ],
)
def test_what_cannot_be_compared(baseline, system, message):
    with pytest.raises(ValueError, match=message):
        compare(baseline, system)


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.3], [0.3]),
        # Sorted: 0.01 · 3, 0.03 · 2, and 0.04 · 1, which is not below the one before.
        ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]),
        # 0.005 · 4, 0.01 · 3, 0.03 · 2, 0.04 · 1.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.5, 0.0], [1.0, 1.0, 0.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_by_hand(p_values, corrected):
    assert holm(p_values) == pytest.approx(corrected)


@pytest.mark.parametrize("p", [-0.1, 1.5, nan])
def test_holm_takes_p_values_only(p):
    with pytest.raises(ValueError, match=rf"a p value must be in \[0, 1\], got {p}"):
        holm([0.5, p])
