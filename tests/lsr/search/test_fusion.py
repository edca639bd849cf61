import math
from itertools import chain

import numpy as np
import pytest

from lsr.request import Interpolation
from lsr.search.fusion import Fused, contenders, interpolate, reciprocal_rank_fusion

SPARSE = [("a", 10.0), ("b", 6.0), ("c", 2.0)]
DENSE = [("b", 1.0), ("d", 0.5), ("a", 0.0)]
# d holds no term of the query; the dense side did not return c.
EXACT = ({"d": 0.0}, {"c": -0.5})


def how(**settings) -> Interpolation:
    return Interpolation(**settings)


def by_id(fused: list[Fused]) -> dict[str, tuple[float, ...]]:
    """Return each document's shares from the sides."""
    return {doc.doc_id: doc.shares for doc in fused}


def scores_of(fused: list[Fused]) -> dict[str, float]:
    return {doc.doc_id: doc.score for doc in fused}


# Hand-computed: of SPARSE min 2, max 10, mean 6, variance (16 + 0 + 16) / 3; of DENSE min 0, max 1,
# mean 1/2, variance (1/4 + 0 + 1/4) / 3.


def test_min_max_with_exact_scores() -> None:
    assert interpolate(SPARSE, DENSE, how(alpha=0.5), EXACT) == [
        ("b", 0.75, (0.25, 0.5)),  # (6 − 2) / 8 = 1/2 · and 1
        ("a", 0.5, (0.5, 0.0)),  #   (10 − 2) / 8 = 1    and 0
        ("d", 0.125, (-0.125, 0.25)),  # (0 − 2) / 8 = −1/4 and 1/2
        ("c", -0.25, (0.0, -0.25)),  #  0                  and −1/2
    ]


def test_alpha_weighs_the_sparse_side() -> None:
    fused = by_id(interpolate(SPARSE, DENSE, how(alpha=0.25), EXACT))
    assert fused["b"] == (0.25 * 0.5, 0.75 * 1.0)
    assert fused["c"] == (0.0, 0.75 * -0.5)


def test_missing_zero() -> None:
    fused = interpolate(SPARSE, DENSE, how(missing="zero"))
    assert scores_of(fused) == {"b": 0.75, "a": 0.5, "d": 0.25, "c": 0.0}
    assert by_id(fused)["d"] == (0.0, 0.25)


@pytest.mark.parametrize(
    ("normalisation", "sparse_of_d", "dense_of_c"),
    [
        ("min-max", 0.0, 0.0),
        ("theoretical", 2 / 10, 1 / 2),  # (2 − 0) / 10, (0 + 1) / (1 + 1)
        ("z-score", -math.sqrt(1.5), -math.sqrt(1.5)),  # −4 / √(32/3), −½ / √(1/6)
        ("none", 2.0, 0.0),
    ],
)
def test_missing_minimum(normalisation: str, sparse_of_d: float, dense_of_c: float) -> None:
    fused = by_id(interpolate(SPARSE, DENSE, how(normalisation=normalisation, missing="minimum")))
    assert fused["d"][0] == pytest.approx(sparse_of_d / 2)
    assert fused["c"][1] == pytest.approx(dense_of_c / 2)


def test_theoretical_minimum() -> None:
    fused = by_id(interpolate(SPARSE, DENSE, how(normalisation="theoretical"), EXACT))
    # s / 10 and (s + 1) / 2, halved.
    assert fused == {
        "a": (0.5, 0.25),
        "b": (0.3, 0.5),
        "c": (0.1, 0.125),
        "d": (0.0, 0.375),
    }


def test_theoretical_minimum_does_not_depend_on_the_last_document() -> None:
    setting = how(normalisation="theoretical")
    short = by_id(interpolate(SPARSE[:2], DENSE[:2], setting, ({"d": 0.0}, {"a": 0.0})))
    full = by_id(interpolate(SPARSE, DENSE, setting, EXACT))
    assert short == {doc_id: full[doc_id] for doc_id in "abd"}


def test_z_scores() -> None:
    fused = by_id(interpolate(SPARSE, DENSE, how(normalisation="z-score"), EXACT))
    one = math.sqrt(1.5) / 2  # 4 / √(32/3) = ½ / √(1/6) = √1.5
    expected = {"a": (one, -one), "b": (0, one), "c": (-one, -2 * one), "d": (-1.5 * one, 0)}
    assert fused.keys() == expected.keys()
    for doc_id, shares in expected.items():
        assert fused[doc_id] == pytest.approx(shares, abs=1e-15)


def test_z_score_zero_is_the_mean() -> None:
    fused = by_id(interpolate(SPARSE, DENSE, how(normalisation="z-score", missing="zero")))
    assert fused["d"][0] == 0 == fused["b"][0]


def test_no_normalisation() -> None:
    assert scores_of(interpolate(SPARSE, DENSE, how(normalisation="none"), EXACT)) == {
        "a": 5.0,
        "b": 3.5,
        "c": 0.75,
        "d": 0.25,
    }


def test_reciprocal_ranks() -> None:
    # `missing` is "exact", which reciprocal ranks do not use.
    fused = reciprocal_rank_fusion([SPARSE, DENSE], how(method="rrf"))
    assert [doc.doc_id for doc in fused] == ["b", "a", "d", "c"]
    assert by_id(fused) == {
        "a": (1 / 61, 1 / 63),
        "b": (1 / 62, 1 / 61),
        "c": (1 / 63, 0.0),
        "d": (0.0, 1 / 62),
    }


def test_reciprocal_ranks_weighted() -> None:
    setting = how(method="rrf", alpha=0.25, rank_constant=1)
    fused = by_id(reciprocal_rank_fusion([SPARSE, DENSE], setting))
    assert fused["a"] == (0.5 / 2, 1.5 / 4)
    assert fused["d"] == (0.0, 1.5 / 3)


def test_ranks_of_ties_go_by_id() -> None:
    lists = [[("z", 1.0), ("x", 1.0), ("y", 2.0)], []]
    fused = by_id(reciprocal_rank_fusion(lists, how(method="rrf")))
    assert fused == {"y": (1 / 61, 0.0), "x": (1 / 62, 0.0), "z": (1 / 63, 0.0)}


def test_ties_go_by_id() -> None:
    lists = [("n", 2.0), ("k", 1.0)], [("é", 2.0), ("Z", 1.0)]
    convex = interpolate(*lists, how(missing="zero"))
    ranks = reciprocal_rank_fusion(lists, how(method="rrf"))
    for mirrored in (convex, ranks):
        # By code point; the second of each side ties with the other side's.
        assert [doc.doc_id for doc in mirrored] == ["n", "é", "Z", "k"]


# Lists with nothing to divide by.


@pytest.mark.parametrize("normalisation", ["min-max", "theoretical"])
@pytest.mark.parametrize("ids", ["p", "pq"])
def test_equal_scores_are_one_each(normalisation: str, ids: str) -> None:
    # 0 is the lowest possible sparse score, −1 the lowest dense one.
    setting = how(normalisation=normalisation, missing="zero")
    fused = by_id(interpolate([(i, 0.0) for i in ids], [(i, -1.0) for i in ids], setting))
    assert fused == dict.fromkeys(ids, (0.5, 0.5))


def test_theoretical_minimum_above_all_scores() -> None:
    setting = how(normalisation="theoretical", missing="zero")
    fused = by_id(interpolate([("a", -1.0), ("b", -2.0), ("c", -3.0)], [], setting))
    assert fused == {"a": (0.5, 0.0), "b": (0.25, 0.0), "c": (0.0, 0.0)}  # as min-max


def test_theoretical_minimum_of_equal_scores() -> None:
    setting = how(normalisation="theoretical")
    fused = by_id(interpolate([("a", 4.0)], [("b", 0.0)], setting, ({"b": 1.0}, {"a": -0.5})))
    assert fused == {"a": (0.5, 0.25), "b": (0.125, 0.5)}


@pytest.mark.parametrize(
    ("missing", "score", "share"),
    [("exact", 2.9, 0.0), ("exact", 3.0, 0.5), ("zero", 0, 0.0), ("minimum", 0, 0.5)],
)
def test_what_one_document_leaves_to_others(missing: str, score: float, share: float) -> None:
    exact = ({"q": score}, {"p": 0.0})
    fused = by_id(interpolate([("p", 3.0)], [("q", 0.5)], how(missing=missing), exact))
    assert fused["p"][0] == 0.5 and fused["q"][0] == share


@pytest.mark.parametrize("missing", ["exact", "zero", "minimum"])
def test_z_scores_of_equal_scores_are_zero(missing: str) -> None:
    # In floating point the mean of these is not 0.1.
    equal = [(i, 0.1) for i in "pqr"]
    assert np.mean([0.1] * 3) != 0.1
    setting = how(normalisation="z-score", missing=missing)
    fused = by_id(
        interpolate(equal, [("s", 0.5)], setting, ({"s": 0.05}, dict.fromkeys("pqr", 0.0)))
    )
    assert fused == dict.fromkeys("pqrs", (0.0, 0.0))


@pytest.mark.parametrize("normalisation", ["min-max", "z-score", "theoretical"])
def test_scores_so_small_that_squares_vanish(normalisation: str) -> None:
    tiny = [("a", 2e-200), ("b", 1e-200)]
    fused = by_id(interpolate(tiny, [], how(normalisation=normalisation)))
    expected = {"min-max": (1, 0), "z-score": (1, -1), "theoretical": (1, 0.5)}[normalisation]
    assert (fused["a"][0], fused["b"][0]) == pytest.approx((expected[0] / 2, expected[1] / 2))


# Empty, disjoint and identical lists.


def test_nothing() -> None:
    assert interpolate([], [], how()) == []
    assert reciprocal_rank_fusion([[], []], how(method="rrf")) == []


@pytest.mark.parametrize("normalisation", ["min-max", "theoretical", "z-score", "none"])
@pytest.mark.parametrize("missing", ["exact", "zero", "minimum"])
def test_an_empty_side_gives_nothing(normalisation: str, missing: str) -> None:
    setting = how(normalisation=normalisation, missing=missing)
    fused = interpolate([], DENSE, setting)  # a query without terms has no exact scores either
    assert [doc.doc_id for doc in fused] == ["b", "d", "a"]
    assert all(doc.shares == (0, doc.score) for doc in fused)
    fused = interpolate(SPARSE, [], setting, ({}, {"a": 0.5}))
    assert [doc.doc_id for doc in fused] == ["a", "b", "c"]
    assert all(doc.shares == (doc.score, 0) for doc in fused)


def test_disjoint_lists() -> None:
    fused = interpolate(
        [("a", 2.0), ("b", 1.0)], [("c", 0.5), ("d", 0.25)], how(missing="minimum", alpha=0.75)
    )
    assert scores_of(fused) == {"a": 0.75, "c": 0.25, "b": 0.0, "d": 0.0}


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_identical_lists(alpha: float) -> None:
    fused = interpolate(SPARSE, SPARSE, how(alpha=alpha))
    assert [(doc.doc_id, doc.score) for doc in fused] == [("a", 1.0), ("b", 0.5), ("c", 0.0)]


def test_alpha_one_does_not_let_negative_zeros_out() -> None:
    fused = interpolate(SPARSE, DENSE, how(alpha=1), EXACT)
    assert all(math.copysign(1, doc.shares[1]) == 1 for doc in fused)


# Errors.


def test_a_document_without_exact_score() -> None:
    with pytest.raises(KeyError, match="`exact` holds no dense score of document 'c'"):
        interpolate(SPARSE, DENSE, how(), ({"d": 0.0}, {}))
    with pytest.raises(KeyError, match="`exact` holds no sparse score of document 'd'"):
        interpolate(SPARSE, DENSE, how())


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_are_finite(score: float) -> None:
    with pytest.raises(ValueError, match=f"`dense` scores must be finite, got {score} for 'x'"):
        interpolate(SPARSE, [("b", 1.0), ("x", score)], how(missing="zero"))
    with pytest.raises(ValueError, match=f"`exact sparse` scores must be .* got {score} for 'd'"):
        interpolate(SPARSE, DENSE, how(), ({"d": score}, {"c": 0.0}))


def test_a_document_twice() -> None:
    with pytest.raises(ValueError, match="`sparse` holds document 'c' twice"):
        interpolate([*SPARSE, ("c", 1.0)], DENSE, how(missing="zero"))


@pytest.mark.parametrize("exact_dense", [True, False])
@pytest.mark.parametrize("normalisation", ["min-max", "theoretical", "z-score", "none"])
def test_contenders_hold_the_best_of_all(normalisation: str, exact_dense: bool) -> None:
    """Compared with fusing all documents, with ties, short lists and weights of 0."""
    rng = np.random.default_rng(0)
    fewer = 0
    for _ in range(400):
        n = int(rng.integers(1, 80))
        ids = [f"d{number}" for number in rng.permutation(n)]
        few = rng.integers(1, 30)
        scores = {
            "sparse": rng.integers(0, few, n) / 7,
            "dense": np.float32(rng.integers(-few, few, n) / 3),
        }
        if rng.random() < 0.5:
            # The sides agree, so that many documents are in both lists.
            scores["dense"] = np.float32(scores["sparse"] + rng.integers(0, 3, n) / 3)
        depth = int(rng.integers(1, 60))
        known = {side: dict(zip(ids, of.tolist(), strict=True)) for side, of in scores.items()}
        lists = {}
        for side, of in known.items():
            hits = [hit for hit in of.items() if hit[1] > 0 or side == "dense"]
            if side == "dense" and not exact_dense:
                hits = [hit for hit in hits if rng.random() < 0.8]
            lists[side] = sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:depth]
        settings = how(alpha=rng.choice([0, 0.3, 0.5, 1]), normalisation=normalisation)
        for k in (None, 1, int(rng.integers(1, 20))):
            union = contenders(lists["sparse"], lists["dense"], settings, k, exact_dense)
            assert set(union.both) <= dict(lists["sparse"]).keys() & dict(lists["dense"]).keys()
            asked = (
                {doc_id: known["sparse"][doc_id] for doc_id in union.only_dense},
                {doc_id: known["dense"][doc_id] for doc_id in union.only_sparse},
            )
            everything = interpolate(*lists.values(), settings, tuple(known.values()), k)
            assert interpolate(*lists.values(), settings, asked, k, chain(*union)) == everything
            whole = len(dict(lists["sparse"]) | dict(lists["dense"]))
            assert k is not None or len([*chain(*union)]) == whole
            fewer += len([*chain(*union)]) < whole
    assert fewer > 100
