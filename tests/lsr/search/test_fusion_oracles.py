"""Properties of fusion; fusion against an oracle in fractions, and against ranx."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.request import Interpolation
from lsr.search.fusion import Fused, interpolate, reciprocal_rank_fusion

SCORE = st.floats(-1e3, 1e3, width=32)
# Coarse, since normalised differences below float64's precision would vanish.
IMPACT = st.integers(-1000, 1000).map(lambda impact: impact / 64)


def rankings(scores: st.SearchStrategy[float]) -> st.SearchStrategy[list[tuple[str, float]]]:
    ids = st.sampled_from("abcdefgh")
    return st.dictionaries(ids, scores, max_size=8).map(lambda ranking: [*ranking.items()])


RANKING = rankings(SCORE)
EXACTS = st.fixed_dictionaries(dict.fromkeys("abcdefgh", SCORE))
SETTINGS = st.builds(
    Interpolation,
    method=st.sampled_from(["convex", "rrf"]),
    alpha=st.floats(0, 1),
    normalisation=st.sampled_from(["min-max", "theoretical", "z-score", "none"]),
    missing=st.sampled_from(["exact", "zero", "minimum"]),
    rank_constant=st.integers(1, 100),
)


def fuse(sparse: list, dense: list, setting: Interpolation, exact: tuple = ({}, {})) -> list[Fused]:
    if setting.method == "rrf":
        return reciprocal_rank_fusion([sparse, dense], setting)
    return interpolate(sparse, dense, setting, exact)


def fuse_slowly(
    sparse: list, dense: list, setting: Interpolation, exact: tuple[dict, dict]
) -> dict[str, tuple[float, float]]:
    """The two shares of each document, one document at a time, in fractions."""
    result = {}
    for doc_id in {doc_id for doc_id, _ in sparse + dense}:
        shares = []
        for side, (ranking, known) in enumerate([(sparse, exact[0]), (dense, exact[1])]):
            weight = Fraction(setting.alpha) if side == 0 else 1 - Fraction(setting.alpha)
            if setting.method == "rrf":
                ranked = sorted(ranking, key=lambda hit: (-hit[1], hit[0]))
                ranks = {name: rank for rank, (name, _) in enumerate(ranked, 1)}
                if doc_id in ranks:
                    share = 2 * weight / (setting.rank_constant + ranks[doc_id])
                else:
                    share = Fraction(0)
            else:
                share = weight * share_slowly(side, dict(ranking), doc_id, setting, known)
            shares.append(float(share))
        result[doc_id] = (shares[0], shares[1])
    return result


def share_slowly(
    side: int, listed: dict[str, float], doc_id: str, setting: Interpolation, known: dict
) -> Fraction:
    scores = {name: Fraction(score) for name, score in listed.items()}
    if not scores or (doc_id not in scores and setting.missing == "zero"):
        return Fraction(0)
    low, high = min(scores.values()), max(scores.values())
    if doc_id in scores:
        score = scores[doc_id]
    else:
        score = Fraction(known[doc_id]) if setting.missing == "exact" else low
    if setting.normalisation == "none":
        return score
    if setting.normalisation == "z-score":
        mean = sum(scores.values()) / len(scores)
        variance = sum((value - mean) ** 2 for value in scores.values()) / len(scores)
        return Fraction(0) if variance == 0 else (score - mean) / root(variance)
    least = Fraction([0, -1][side])
    if setting.normalisation == "min-max" or high <= least:
        least = low
    if high == least:
        return Fraction(int(score >= low))
    return (score - least) / (high - least)


def root(value: Fraction) -> Fraction:
    """The square root to 40 digits, of values however small."""
    scale = 10 ** (80 + 2 * len(str(value.denominator)))
    return Fraction(math.isqrt(value.numerator * scale // value.denominator), math.isqrt(scale))


@given(RANKING, RANKING, SETTINGS, EXACTS, EXACTS)
@settings(max_examples=150, deadline=None)
def test_equals_the_oracle(sparse, dense, setting, first, second) -> None:
    fused = fuse(sparse, dense, setting, (first, second))
    expected = fuse_slowly(sparse, dense, setting, (first, second))
    assert len(fused) == len(expected)
    for doc in fused:
        # Normalising almost equal scores magnifies rounding errors.
        for got, wanted in zip(doc.shares, expected[doc.doc_id], strict=True):
            assert math.isfinite(got)
            assert got == pytest.approx(wanted, rel=1e-9, abs=1e-12)
        assert doc.score == doc.shares[0] + doc.shares[1]
    assert fused == sorted(fused, key=lambda doc: (-doc.score, doc.doc_id))


ANY_SCORE = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(
    rankings(ANY_SCORE),
    rankings(ANY_SCORE),
    SETTINGS,
    st.fixed_dictionaries(dict.fromkeys("abcdefgh", ANY_SCORE)),
)
def test_float32_scores_give_finite_ones(sparse, dense, setting, known) -> None:
    for doc in fuse(sparse, dense, setting, (known, known)):
        assert all(map(math.isfinite, (doc.score, *doc.shares)))


@given(RANKING, RANKING, SETTINGS, EXACTS, st.randoms(use_true_random=False))
def test_input_order_does_not_matter(sparse, dense, setting, known, random) -> None:
    fused = fuse(sparse, dense, setting, (known, known))
    random.shuffle(sparse)
    random.shuffle(dense)
    backwards = dict(reversed(known.items()))
    assert fuse(sparse, dense, setting, (backwards, backwards)) == fused


@given(
    rankings(IMPACT),
    RANKING,
    EXACTS,
    st.sampled_from(["min-max", "theoretical", "z-score", "none"]),
)
def test_alpha_one_keeps_the_sparse_order(sparse, dense, known, normalisation) -> None:
    setting = Interpolation(alpha=1, normalisation=normalisation)
    returned = dict(sparse)
    sparse_scores = [
        returned[doc.doc_id]
        for doc in fuse(sparse, dense, setting, (known, known))
        if doc.doc_id in returned
    ]
    assert sparse_scores == sorted(sparse_scores, reverse=True)


@given(RANKING, RANKING, SETTINGS)
def test_swapping_the_sides_mirrors_alpha(sparse, dense, setting) -> None:
    setting = setting.model_copy(update={"alpha": 0.25, "missing": "zero"})
    if setting.normalisation == "theoretical":  # it treats the sides differently
        return
    mirrored = setting.model_copy(update={"alpha": 0.75})
    swapped = fuse(dense, sparse, mirrored)
    assert [(d.doc_id, d.score, d.shares[::-1]) for d in swapped] == [
        tuple(d) for d in fuse(sparse, dense, setting)
    ]


@given(rankings(st.sampled_from([0.5, 1.0, 2.0])), RANKING, RANKING, st.integers(1, 100))
@settings(max_examples=300, deadline=None)
def test_three_rankings_equal_the_sum_of_reciprocal_ranks(first, second, third, constant) -> None:
    """Ties, which the first ranking is full of, go by id; empty rankings add nothing."""
    lists = [first, second, third]
    sides = ("words", "learned", "dense")
    setting = Interpolation(method="rrf", sides=sides, rank_constant=constant)
    expected: dict[str, list[float]] = {}
    for side, ranking in enumerate(lists):
        for rank, (_, doc_id) in enumerate(sorted((-score, name) for name, score in ranking), 1):
            expected.setdefault(doc_id, [0.0] * 3)[side] = 1 / (constant + rank)
    fused = reciprocal_rank_fusion(lists, setting)
    assert {doc.doc_id: list(doc.shares) for doc in fused} == expected
    for doc in fused:
        assert doc.score == doc.shares[0] + doc.shares[1] + doc.shares[2]
    assert fused == sorted(fused, key=lambda doc: (-doc.score, doc.doc_id))
    assert reciprocal_rank_fusion(lists, setting, 2) == fused[:2]


def test_an_empty_one_of_three_rankings_adds_nothing() -> None:
    setting = Interpolation(method="rrf", sides=("words", "learned", "dense"))
    ranking = [("b", 1.0), ("a", 1.0)]
    fused = reciprocal_rank_fusion([ranking, [], ranking[:1]], setting)
    assert fused == [
        ("b", 1 / 62 + 1 / 61, (1 / 62, 0.0, 1 / 61)),
        ("a", 1 / 61, (1 / 61, 0.0, 0.0)),
    ]
    assert reciprocal_rank_fusion([[], [], []], setting) == []


# ranx, an independent implementation.


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of numba and of what ranx imports
@pytest.mark.parametrize(
    ("norm", "method", "setting"),
    [
        ("min-max", "wsum", Interpolation(alpha=0.3, missing="zero")),
        ("zmuv", "wsum", Interpolation(alpha=0.3, normalisation="z-score", missing="zero")),
        (None, "wsum", Interpolation(alpha=0.3, normalisation="none", missing="zero")),
        (None, "rrf", Interpolation(method="rrf")),
    ],
)
def test_equals_ranx(norm: str | None, method: str, setting: Interpolation) -> None:
    """With distinct scores: ranx turns a constant list into 0s, and ranks ties as they come.

    Both use float64, but ranx adds scores in another order.
    """
    import ranx

    rng = np.random.default_rng(7)
    runs: list[dict[str, dict[str, float]]] = [{}, {}]
    for query in range(20):
        for run, scale in zip(runs, (30.0, 1.0), strict=True):
            ids = rng.permutation(60)[: rng.integers(2, 40)]
            scores = np.sort(rng.random(len(ids)) * scale)[::-1]
            run[f"q{query}"] = {f"d{i}": float(score) for i, score in zip(ids, scores, strict=True)}
    theirs = ranx.fuse(
        runs=[ranx.Run(run) for run in runs],
        norm=norm,
        method=method,
        params={"weights": (0.3, 0.7)} if method == "wsum" else {"k": 60},
    ).to_dict()
    for query, expected in theirs.items():
        fused = fuse(list(runs[0][query].items()), list(runs[1][query].items()), setting)
        assert {doc.doc_id: doc.score for doc in fused} == pytest.approx(
            expected, rel=1e-12, abs=1e-12
        )
        assert [doc.score for doc in fused] == pytest.approx(
            sorted(expected.values(), reverse=True), rel=1e-12, abs=1e-12
        )
