"""Measures compared with values by hand from the definitions, or from trec_eval's own code."""

import gzip
from math import log2
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from lsr.eval.datasets import load_dataset
from lsr.eval.measures import evaluate, split_measures, with_relevant_grade
from lsr.run import Run

SHARED = Path(__file__).parents[3] / "shared" / "data"
# lsr's names → trec_eval's.
TREC_NAMES = {
    "nDCG@10": "ndcg_cut_10",
    "RR": "recip_rank",
    "AP": "map",
    "AP@100": "map_cut_100",
    "R@100": "recall_100",
    "R@1000": "recall_1000",
    "P@5": "P_5",
    "Rprec": "Rprec",
    "Success@5": "success_5",
}

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
    result = evaluate(RUN, QRELS, ["P(rel = 2)@5", "R@2"])
    assert list(result.means) == ["P(rel = 2)@5", "R@2"]
    assert result.per_query["P(rel = 2)@5"] == pytest.approx({"q1": 0.2, "q2": 0.0, "q3": 0.0})
    assert result.per_query["R@2"] == {"q1": 0.5, "q2": 0.0, "q3": 0.0}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mrr_score@10", "'mrr_score@10' is not a measure of ir-measures: measure not found"),
        ("nDCG@", "'nDCG@' is not a measure of ir-measures: "),
        ("", "'' is not a measure of ir-measures: "),
        ("nDCG(foo=2)@3", "'foo'"),
        ("R@0", r"'R@0': the cutoff must be in \[1, 1000000\], got 0"),
        ("R@99999999999999999999", r"the cutoff must be in \[1, 1000000\], got 9999"),
        ("AP@True", r"the cutoff must be in \[1, 1000000\], got True"),
        ("RR(rel=0)", r"'RR\(rel=0\)': the rel must be in \[1, 32767\], got 0"),
        ("RR(rel=99999999999)", r"the rel must be in \[1, 32767\], got 99999999999"),
        ("P(rel=1.5)@5", "invalid param rel=1.5"),
        ("IPrec@5.0", r"the recall must be in \[0, 1\], got 5.0"),
        ("IPrec@0.123", "the recall must have at most two decimals, got 0.123"),
        ("Compat(p=5.0)", r"the p must be in \[0, 1\], got 5.0"),
        ("nDCG(gains={1:3000000000})", r"gains: a grade must be in \[-32767, 32767\], got 3000"),
        ("nDCG(gains={1:0.5})", "gains: a grade must be an integer, got 0.5"),
        ("P", "'P': this measure needs the parameter 'cutoff'"),
        ("ERR", "'ERR': nothing that is installed computes it"),
        ("RR@10 R@5", "'RR@10 R@5' names 2 measures: give each as one name"),
        ("RR@10,R@5", "'RR@10,R@5' is not a measure .*; measures are separated by spaces"),
        ("NDCG@10", "names 'NDCG@10' also as 'nDCG@10': each must be given once"),
        ("nDCG@10", "names 'nDCG@10' twice: each must be given once"),
        ("R@-3", "R@-3"),
    ],
)
def test_unknown_measures(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(RUN, QRELS, ["nDCG@10", name])


def test_evaluate_rejects_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="`measures` must be a list of .*, got none"):
        evaluate(RUN, QRELS, [])
    with pytest.raises(ValueError, match="`measures` must be a list of .*, got 'RR@10'"):
        evaluate(RUN, QRELS, "RR@10")
    for qrels in ({}, {"q1": {"a": 1}, "q2": {}}):
        with pytest.raises(ValueError, match="`qrels` must hold at least one judgement"):
            evaluate(RUN, qrels)


def trec_eval(scores, qrels, relevant_grade=1):
    """Values by trec_eval's code, which breaks ties by id descending: ids are given reversed."""
    ids = sorted({i for of in (*scores.values(), *qrels.values()) for i in of})
    turned = {doc_id: f"{len(ids) - place:07}" for place, doc_id in enumerate(ids)}

    def turn(values):
        return {query: {turned[i]: v for i, v in of.items()} for query, of in values.items()}

    wanted = {"ndcg_cut.10", "recip_rank", "map", "map_cut.100", "recall.100,1000", "P.5"}
    wanted |= {"Rprec", "success.5"}
    evaluator = pytrec_eval.RelevanceEvaluator(turn(qrels), wanted, relevance_level=relevant_grade)
    found = evaluator.evaluate(turn(scores))
    return {
        ours: {query: found.get(query, {}).get(theirs, 0.0) for query in qrels}
        for ours, theirs in TREC_NAMES.items()
    }


def assert_equal_to_trec_eval(scores, qrels, relevant_grade=1):
    run = Run({query: list(of.items()) for query, of in scores.items()})
    names = with_relevant_grade(list(TREC_NAMES), relevant_grade)
    ours = evaluate(run, qrels, names).per_query
    expected = trec_eval(scores, qrels, relevant_grade)
    for name, of_query in zip(names, expected.values(), strict=True):
        assert ours[name] == pytest.approx(of_query, abs=1e-12), name


@pytest.mark.parametrize("relevant_grade", [1, 2])
@pytest.mark.parametrize("levels", [3, 20, 100_000])
def test_random_runs_score_as_by_trec_eval(levels: int, relevant_grade: int) -> None:
    """With few score levels most scores are ties, with many almost none."""
    generator = np.random.default_rng(levels)
    documents = [f"d{number}" for number in range(300)]
    scores, qrels = {}, {}
    for number in range(25):
        judged = generator.choice(documents, 40, replace=False)
        grades = generator.integers(0, 4, 40)
        grades[0] = 3
        qrels[f"q{number}"] = dict(zip(judged.tolist(), grades.tolist(), strict=True))
        if number != 7:  # which the run lacks
            found = generator.choice(documents, generator.integers(1, 200), replace=False)
            values = generator.integers(0, levels, len(found)).astype(float)
            scores[f"q{number}"] = dict(zip(found.tolist(), values.tolist(), strict=True))
    assert_equal_to_trec_eval(scores, qrels, relevant_grade)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development collections in {SHARED}")
@pytest.mark.parametrize("relevant_grade", [1, 2])
@pytest.mark.parametrize("name", ["bm25-anserini", "splade-pp-ed", "distilbert-tasb"])
def test_published_runs_score_as_by_trec_eval(name: str, relevant_grade: int) -> None:
    folder = SHARED / "msmarco-dl19"
    scores: dict[str, dict[str, float]] = {}
    with gzip.open(folder / "reference_runs" / f"{name}.trec.gz", "rt") as file:
        for line in file:
            query, _, doc_id, _, score, _ = line.split()
            # trec_eval holds scores as float32.
            scores.setdefault(query, {})[doc_id] = float(np.float32(score))
    assert_equal_to_trec_eval(scores, load_dataset(folder).qrels, relevant_grade)


def test_grades_that_count_are_named() -> None:
    names = ["nDCG@10", "RR@10", "AP", "R@100", "Judged@10", "P(rel=3)@5"]
    assert with_relevant_grade(names, 1) == names
    graded = ["nDCG@10", "RR(rel=2)@10", "AP(rel=2)", "R(rel=2)@100", "Judged@10", "P(rel=3)@5"]
    assert with_relevant_grade(names, 2) == graded
    # c, b, a are found in this order; only a has grade 2.
    found = evaluate(RUN, QRELS, with_relevant_grade(["RR@10", "Judged@2"], 2))
    assert found.per_query["RR(rel=2)@10"] == {"q1": pytest.approx(1 / 3), "q2": 0.0, "q3": 0.0}
    assert found.per_query["Judged@2"] == {"q1": 1.0, "q2": 0.0, "q3": 0.0}
    with pytest.raises(ValueError, match=r"`relevant_grade` must be in \[1, 32767\], got 0"):
        with_relevant_grade(names, 0)


def test_the_same_measure_with_its_grade_said_is_refused() -> None:
    names = ["RR@10", "RR(rel=2)@10"]
    assert with_relevant_grade(names, 1) == names
    with pytest.raises(ValueError, match=r"names 'RR\(rel=2\)@10' twice"):
        with_relevant_grade(names, 2)


@pytest.mark.parametrize("grade", [3_000_000_000, 10**26, -(10**26), 32_768, 1.0, True])
def test_grades_out_of_range_are_refused(grade: object) -> None:
    with pytest.raises(ValueError, match=r"query 'q', document 'd': a grade must be .*, got "):
        evaluate(Run({"q": [("d", 1.0)]}), {"q": {"d": grade}}, ["nDCG@10"])


def test_extreme_and_negative_grades_are_measured() -> None:
    run = Run({"q": [("n", 3.0), ("d", 2.0), ("e", 1.0)]})
    qrels = {"q": {"d": 32_767, "e": 1, "n": -32_767}, "none": {"d": -1, "e": 0}}
    found = evaluate(run, qrels, ["RR", "P@2", "nDCG@10", "Rprec", "IPrec@0.10", "Bpref"]).per_query
    assert found["RR"] == {"q": 0.5, "none": 0.0}
    assert found["P@2"]["q"] == 0.5
    ideal = 32_767 + 1 / log2(3)
    assert found["nDCG@10"]["q"] == pytest.approx((32_767 / log2(3) + 1 / log2(4)) / ideal)


@pytest.mark.parametrize("names", [["q-1", "p-1", "b"], ["1", "2", "3"], ["ü", "x y", "日"]])
def test_err_of_queries_with_any_ids(names: list[str]) -> None:
    """ERR = Σ_i R_i / i · Π_{j<i} (1 − R_j), R = (2^grade − 1) / 2^4 (Chapelle et al., 2009)."""
    first, second, third = names
    run = Run({first: [("ä", 3.0), ("b", 2.0), ("c", 1.0)], second: [("c", 1.0)]})
    qrels = {first: {"ä": 1, "b": 4, "d": 0}, second: {"c": 0}, third: {"c": 2}}
    found = evaluate(run, qrels, ["RR", "ERR@10", "nDCG(dcg='exp-log2')@10"]).per_query
    err = 1 / 16 + (1 - 1 / 16) * (15 / 16) / 2
    assert found["ERR@10"] == {first: pytest.approx(err, abs=5e-6), second: 0.0, third: 0.0}
    gain = (1 + 15 / log2(3)) / (15 + 1 / log2(3))
    assert found["nDCG(dcg='exp-log2')@10"][first] == pytest.approx(gain, abs=5e-6)
    assert found["RR"] == {first: 1.0, second: 0.0, third: 0.0}
    with pytest.raises(ValueError, match="ERR@5 is defined for grades up to 4, got 5"):
        evaluate(run, {first: {"b": 5}}, ["ERR@5"])


def test_measures_in_one_text() -> None:
    assert split_measures(" nDCG@10\tP(rel = 2)@5 nDCG(gains={0: 1, 1: 2})@3") == [
        "nDCG@10",
        "P(rel = 2)@5",
        "nDCG(gains={0: 1, 1: 2})@3",
    ]
