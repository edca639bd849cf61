"""eval/report.py on a small BEIR folder whose values are worked out by hand."""

import json
from math import log2

import pytest
from rich.console import Console

from lsr.corpus import open_corpus
from lsr.eval.datasets import load_dataset
from lsr.eval.report import comparison, measure_index
from lsr.indexing import build_index
from lsr.search import Searcher


@pytest.fixture
def report(beir_folder):
    build_index(open_corpus(beir_folder), beir_folder / "index", "lexical")
    with Searcher(beir_folder / "index") as searcher:
        yield measure_index(searcher, load_dataset(beir_folder), ["nDCG@10", "RR@10"])


def test_own_document_is_dropped_and_queries_without_hits_count_as_zero(report):
    assert [doc_id for doc_id, _ in report.run["q1"]] == ["a", "b"]
    assert report.evaluation.per_query["nDCG@10"] == {"q1": pytest.approx(1 / log2(3)), "q2": 0.0}
    assert report.evaluation.means["RR@10"] == 0.25


def test_costs_are_those_of_the_index(report):
    assert report.n_documents == 4
    assert report.postings_per_document == 6 / 4
    assert report.index_bytes > 0
    assert report.encode_docs_per_second > 0
    assert 0 < report.latency_ms["p50"] <= report.latency_ms["p95"]


def test_record_is_json_and_table_has_a_column_an_index(report):
    record = json.loads(json.dumps(report.record()))
    assert record["means"] == report.evaluation.means
    assert record["encoder"] == "lexical"
    console = Console(width=100)
    with console.capture() as captured:
        console.print(comparison([report, report]))
    rows = captured.get().splitlines()
    assert rows[0].split() == ["lexical", "lexical"]
    assert ["RR@10", "0.2500", "0.2500"] in [row.split() for row in rows]
