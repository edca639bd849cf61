"""Run files and an index compared on a small BEIR folder, with values worked out by hand."""

import gzip
import json

import pytest
from rich.console import Console

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.eval.comparison import compare_systems, read_system
from lsr.eval.datasets import load_dataset
from lsr.eval.significance import compare
from lsr.run import Run

# Reciprocal ranks: without q1 itself, q1 1/2 and q2 0.
BASELINE = {"q1": [("q1", 9.0), ("a", 2.0), ("b", 1.0)]}
BETTER = {"q1": [("b", 2.0)], "q2": [("c", 1.0)], "unjudged": [("a", 1.0)]}


@pytest.fixture
def folder(beir_folder):
    for name, rankings in (("base", BASELINE), ("better[1]", BETTER)):
        Run(rankings).write_trec(beir_folder / f"{name}.trec", name)
    return beir_folder


def test_run_files_beside_a_baseline(folder):
    base, better = str(folder / "base.trec"), str(folder / "better[1].trec")
    found = compare_systems([base, better, base], load_dataset(folder), ["RR@10", "R@100"])
    assert (found.baseline, found.split, found.n_queries) == (base, "test", 2)
    assert list(found.rows) == ["RR@10", "R@100"]
    first, second = found.rows["RR@10"]
    pair = compare({"q1": 0.5, "q2": 0.0}, {"q1": 1.0, "q2": 1.0})
    assert (first.system, first.paired) == (better, pair)
    # Two systems; the other has p = 1.
    assert first.p_ttest_holm == 2 * pair.p_ttest
    assert first.p_randomisation_holm == 2 * pair.p_randomisation == 1
    assert (second.system, second.p_ttest_holm, second.p_randomisation_holm) == (base, 1, 1)
    record = json.loads(json.dumps(found.record()))
    assert record["baseline"] == base
    measured = record["measures"]["RR@10"]
    assert measured["baseline_mean"] == 0.25
    assert measured["systems"][0] == {
        "system": better,
        "mean": 1.0,
        "difference": 0.75,
        "low": pair.low,
        "high": pair.high,
        "p_ttest": pair.p_ttest,
        "p_ttest_holm": 2 * pair.p_ttest,
        "p_randomisation": pair.p_randomisation,
        "p_randomisation_holm": 1.0,
        "wins": 2,
        "losses": 0,
        "ties": 0,
    }
    console = Console(width=200)
    with console.capture() as captured:
        console.print(found.tables()[0])
    lines = [line.split() for line in captured.get().splitlines()]
    assert any(line[:2] == ["RR@10", "mean"] for line in lines)
    assert [base, "0.2500"] in lines
    (shown,) = (line for line in lines if line[0] == better)
    assert shown[1:5] == ["1.0000", "+0.7500", "+0.5000", "+1.0000"]
    assert shown[5:] == [f"{2 * pair.p_ttest:.4f}", "1.0000", "2/0/0"]


def test_a_narrow_terminal_folds_names_only(folder):
    base, better = str(folder / "base.trec"), str(folder / "better[1].trec")
    found = compare_systems([base, better], load_dataset(folder), ["RR@10"])
    console = Console(width=80)
    with console.capture() as captured:
        console.print(found.tables()[0])
    assert " 1.0000  +0.7500     +0.5000 +1.0000  " in captured.get()
    assert "…" not in captured.get()


def test_an_index_ranks_as_its_own_run_file(folder):
    build_index(open_corpus(folder), folder / "index", "lexical")
    data = load_dataset(folder)
    run = read_system(folder / "index", data)
    assert [doc_id for doc_id, _ in run["q1"]] == ["a", "b"]
    systems = [str(folder / "base.trec"), str(folder / "index")]
    (row,) = compare_systems(systems, data, ["nDCG@10"]).rows["nDCG@10"]
    assert row.paired.ties == 2


def test_a_run_file_may_be_packed(folder):
    data = load_dataset(folder)
    packed = folder / "base.trec.gz"
    packed.write_bytes(gzip.compress((folder / "base.trec").read_bytes()))
    assert read_system(packed, data) == read_system(folder / "base.trec", data)
    packed.write_bytes(packed.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"base\.trec\.gz:\d+: truncated or damaged gzip"):
        read_system(packed, data)


@pytest.mark.parametrize(
    ("systems", "measures", "error", "message"),
    [
        (["base.trec"], ["RR"], ValueError, "at least 2 systems, got 1"),
        (["base.trec", "better[1].trec"], ["mrr"], ValueError, "'mrr' is not a measure"),
        (["base.trec", "x", "y"], ["RR"], FileNotFoundError, "run file or index directory: x, y"),
        (["base.trec", "qrels"], ["RR"], FileNotFoundError, "holds no manifest.json"),
        (["base.trec", "corpus.jsonl"], ["RR"], ValueError, "corpus.jsonl:1: expected 6 columns"),
        (
            ["base.trec", "other.trec"],
            ["RR"],
            ValueError,
            "other.trec: none of its 1 queries is among the 2 of .*, split 'test'",
        ),
    ],
)
def test_errors(folder, monkeypatch, systems, measures, error, message):
    Run({"q9": [("a", 1.0)]}).write_trec(folder / "other.trec", "other")
    monkeypatch.chdir(folder)
    with pytest.raises(error, match=message):
        compare_systems(systems, load_dataset(folder), measures)
