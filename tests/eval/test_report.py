"""eval/measuring.py and eval/report.py on a small BEIR folder, values worked out by hand."""

import json
from math import log2

import pytest
from rich.console import Console

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.eval import report
from lsr.eval.datasets import load_dataset
from lsr.eval.measures import Evaluation
from lsr.eval.measuring import evaluate_run, measure_cost, measure_index
from lsr.eval.results import Cost, Result
from lsr.run import Run
from lsr.search import Searcher

COST = Cost(1000, 2_500_000, 34.0, 139.4, 1836.2, 0.71, 1.94)


@pytest.fixture
def searcher(beir_folder):
    build_index(open_corpus(beir_folder), beir_folder / "index", "lexical")
    with Searcher(beir_folder / "index") as searcher:
        yield searcher


def shown(table):
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    return [line.split() for line in captured.get().splitlines()]


def of_means(system, dataset, **values):
    """A result with these values for each query: measure → a list, one for each query."""
    ids = [query.id for query in dataset.queries]
    per_query = {name: dict(zip(ids, of, strict=True)) for name, of in values.items()}
    means = {name: sum(of) / len(of) for name, of in values.items()}
    return Result(system, dataset, Run({}), Evaluation(per_query, means), None)


def test_own_document_is_dropped_and_queries_without_hits_count_as_zero(searcher, beir_folder):
    result = measure_index(searcher, load_dataset(beir_folder), ["nDCG@10", "RR@10", "Judged@2"])
    assert result.system == "lexical"
    assert [doc_id for doc_id, _ in result.run["q1"]] == ["a", "b"]
    assert result.evaluation.per_query["nDCG@10"] == {"q1": pytest.approx(1 / log2(3)), "q2": 0.0}
    assert result.evaluation.means["RR@10"] == 0.25
    assert result.evaluation.per_query["Judged@2"] == {"q1": 0.5, "q2": 0.0}
    with pytest.raises(ValueError, match="'mrr' is not a measure"):
        measure_index(searcher, load_dataset(beir_folder), ["mrr"])


def test_costs_are_those_of_the_index(searcher, beir_folder):
    dataset = load_dataset(beir_folder)
    cost = measure_cost(searcher, dataset)
    assert cost.n_documents == 4
    assert cost.index_bytes == searcher.index.size_bytes > 0
    assert cost.encode_docs_per_second > 0 and cost.encode_query_us > 0
    # "heat" is in three documents, "flow" in one; q2's word in none. Each is a term and a word.
    assert cost.postings == 2 * 4 / 2
    assert measure_cost(searcher, dataset, settings={"mode": "learned"}).postings == 4 / 2
    assert 0 < cost.p50_ms <= cost.p95_ms
    # "flow" is the rarer word and weighs more.
    settings = {"mode": "learned", "max_terms": 1}
    assert measure_cost(searcher, dataset, settings=settings).postings == 1 / 2
    settings = {"mode": "learned", "max_terms": 1, "rescore": 10}
    assert measure_cost(searcher, dataset, settings=settings).postings == 1 / 2


def test_grades_that_count_are_those_of_the_dataset(beir_folder):
    (beir_folder / "qrels" / "test.tsv").write_text("q1\ta\t1\nq1\tb\t2\nq2\tc\t1\n")
    dataset = load_dataset(beir_folder)._replace(relevant_grade=2)
    run = Run({"q1": [("a", 2.0), ("b", 1.0)]})
    means = evaluate_run(run, dataset, ["RR@10", "nDCG@10"]).means
    assert means["RR(rel=2)@10"] == 0.25
    # Only of q1, with the grades as gains.
    assert means["nDCG@10"] == pytest.approx((1 + 2 / log2(3)) / (2 + 1 / log2(3)) / 2)


def test_a_table_has_a_column_for_each_system(beir_folder):
    dataset = load_dataset(beir_folder)
    first = of_means("bm25", dataset, nDCG=[0.25, 0.5])
    second = of_means("learned[1]", dataset, nDCG=[0.5, 1.0])
    second = Result(second.system, dataset, second.run, second.evaluation, COST)
    lines = shown(report.table([first, second]))
    assert lines[0] == [dataset.label + ",", "2", "queries", "bm25", "learned[1]"]
    assert ["nDCG", "0.3750", "0.7500"] in lines
    for line in (
        ["documents", "–", "1,000"],
        ["index", "MB", "–", "2.5"],
        ["encoded", "documents/s", "–", "34"],
        ["query", "encoding", "µs", "–", "139"],
        ["postings", "a", "query", "–", "1,836"],
        ["query", "ms,", "p50", "–", "0.7"],
        ["query", "ms,", "p95", "–", "1.9"],
    ):
        assert line in lines
    # Run files alone have no cost to show.
    assert len(shown(report.table([first]))) == 2


def test_differences_are_marked_and_recorded(beir_folder):
    lines = "".join(f'{{"_id": "q{n}", "text": "x"}}\n' for n in range(10))
    (beir_folder / "queries.jsonl").write_text(lines)
    judged = "".join(f"q{n}\ta\t1\n" for n in range(10))
    (beir_folder / "qrels" / "test.tsv").write_text(judged)
    dataset = load_dataset(beir_folder)
    results = [
        of_means("base", dataset, A=[0.5] * 10, B=[0.5] * 10),
        of_means("other", dataset, A=[0.75] * 10, B=[0.25] * 10),
        of_means("same", dataset, A=[0.5] * 10, B=[0.5] * 10),
    ]
    found = report.differences(results)
    lines = shown(report.table(results, found))
    assert lines[1:] == [
        ["A", "0.5000", "0.7500†", "0.5000"],
        ["B", "0.5000", "0.2500‡", "0.5000"],
    ]
    record = json.loads(json.dumps(report.record(results[1], found)))
    assert (record["system"], record["baseline"], record["cost"]) == ("other", "base", None)
    test = record["tests"]["A"]
    assert (test["difference"], test["low"], test["high"], test["wins"]) == (0.25, 0.25, 0.25, 10)
    # Two of 2^10 assignments of signs, times two systems.
    assert test["p_randomisation"] == 2 / 2**10
    assert test["p_randomisation_holm"] == 4 / 2**10
    assert record["per_query"]["B"]["q3"] == 0.25
    first = report.record(results[0], found)
    assert (first["baseline"], first["tests"]) == (None, {})
    assert report.differences(results[:1]) is None


def test_one_query_is_not_tested(beir_folder):
    (beir_folder / "qrels" / "test.tsv").write_text("q1\tb\t1\n")
    dataset = load_dataset(beir_folder)
    results = [of_means(name, dataset, A=[0.5]) for name in ("a", "b")]
    assert report.differences(results) is None


def test_a_group_counts_as_one_dataset(beir_folder):
    dataset = load_dataset(beir_folder)
    parts = {
        "x": (dataset._replace(name="x", group="cqa"), 0.25),
        "y": (dataset._replace(name="y", group="cqa"), 0.75),
        "z": (dataset._replace(name="z", relevant_grade=2), 0.25),
    }
    results = []
    for part, value in parts.values():
        name = "RR(rel=2)@10" if part.relevant_grade == 2 else "RR@10"
        for system, factor in (("one", 1.0), ("two", 0.5)):
            results.append(of_means(system, part, **{name: [value * factor] * 2}))
    group, overall = report.averages(results, ["RR@10"])
    assert (group.name, group.datasets) == ("cqa", ["x", "y"])
    assert group.means == {"one": {"RR@10": 0.5}, "two": {"RR@10": 0.25}}
    assert (overall.name, overall.datasets) == ("mean", ["cqa", "z"])
    assert overall.means == {"one": {"RR@10": 0.375}, "two": {"RR@10": 0.1875}}
    lines = shown(report.average_table(overall))
    assert lines == [["mean", "of", "2", "one", "two"], ["RR@10", "0.3750", "0.1875"]]
    assert report.average_record(overall, "two") == {
        "average": "mean",
        "datasets": ["cqa", "z"],
        "system": "two",
        "means": {"RR@10": 0.1875},
    }
    # A group alone has one mean, a dataset alone none.
    assert [found.name for found in report.averages(results[:4], ["RR@10"])] == ["cqa"]
    assert report.averages(results[4:], ["RR@10"]) == []
