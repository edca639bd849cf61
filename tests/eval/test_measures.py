"""Expected values are computed by hand from the definitions."""

from math import log2

import pytest

from lsr.eval.measures import evaluate
from lsr.run import Run

QRELS = {
    "q1": {"a": 2, "b": 1, "c": 0},
    "q2": {"a": 1},
    "q3": {"x": 1, "y": 1},
}
RUN = Run(
    {
        "q1": [("c", 3.0), ("b", 2.0), ("a", 1.0)],
        "q3": [("n", 9.0), ("m", 8.0), ("y", 7.0)],
        "unjudged": [("a", 1.0)],
    }
)


def test_hand_computed_values() -> None:
    result = evaluate(RUN, QRELS)
    # Linear gain, as in trec_eval.
    q1 = (1 / log2(3) + 2 / log2(4)) / (2 / log2(2) + 1 / log2(3))
    q3 = (1 / log2(4)) / (1 / log2(2) + 1 / log2(3))
    assert list(result.per_query) == list(result.means) == ["nDCG@10", "RR@10", "R@100"]
    assert result.per_query["nDCG@10"] == pytest.approx({"q1": q1, "q2": 0.0, "q3": q3})
    assert result.per_query["RR@10"] == pytest.approx({"q1": 1 / 2, "q2": 0.0, "q3": 1 / 3})
    assert result.per_query["R@100"] == {"q1": 1.0, "q2": 0.0, "q3": 0.5}
    assert result.means["nDCG@10"] == pytest.approx((q1 + q3) / 3)
    assert result.means["RR@10"] == pytest.approx(5 / 18)
    assert result.means["R@100"] == pytest.approx(0.5)


@pytest.mark.parametrize("relevant", ["a", "b", "c", "d"])
def test_our_order_of_ties_is_measured(relevant: str) -> None:
    run = Run({"q": [(doc_id, 1.0) for doc_id in "dbca"]})
    result = evaluate(run, {"q": {relevant: 1}}, ["RR@10", "P@1", "nDCG@10", "AP"])
    rank = "abcd".index(relevant) + 1
    assert result.means["RR@10"] == pytest.approx(1 / rank)
    assert result.means["P@1"] == (rank == 1)
    assert result.means["nDCG@10"] == pytest.approx(1 / log2(rank + 1))
    assert result.means["AP"] == pytest.approx(1 / rank)


@pytest.mark.parametrize("run", [Run({}), Run({"q1": [], "q2": []}), Run({"other": [("a", 1.0)]})])
def test_a_run_without_answers_scores_0(run: Run) -> None:
    result = evaluate(run, QRELS, ["nDCG@10", "RR"])
    assert result.per_query["RR"] == {"q1": 0.0, "q2": 0.0, "q3": 0.0}
    assert result.means == {"nDCG@10": 0.0, "RR": 0.0}


def test_measures_keep_the_names_given() -> None:
    result = evaluate(RUN, QRELS, ["P(rel=2)@5", "P(rel = 2)@5", "R@2"])
    assert result.per_query["P(rel=2)@5"] == result.per_query["P(rel = 2)@5"]
    assert result.per_query["P(rel=2)@5"] == pytest.approx({"q1": 0.2, "q2": 0.0, "q3": 0.0})
    assert result.per_query["R@2"] == {"q1": 0.5, "q2": 0.0, "q3": 0.0}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mrr_score@10", "'mrr_score@10' is not a measure of ir-measures: measure not found"),
        ("nDCG@", "'nDCG@' is not a measure of ir-measures: "),
        ("", "'' is not a measure of ir-measures: "),
        ("nDCG(foo=2)@3", "'foo'"),
        ("R@0", "'R@0': the cutoff must be at least 1, got 0"),
        ("R@-3", "R@-3"),
    ],
)
def test_unknown_measures(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(RUN, QRELS, ["nDCG@10", name])


def test_evaluate_rejects_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="`measures` must name at least one measure"):
        evaluate(RUN, QRELS, [])
    for qrels in ({}, {"q1": {"a": 1}, "q2": {}}):
        with pytest.raises(ValueError, match="`qrels` must hold at least one judgement"):
            evaluate(RUN, qrels)
