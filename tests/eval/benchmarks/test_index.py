"""eval/benchmarks/index.py: both sides on a small corpus."""

import json
from importlib.metadata import version

import numpy as np
import pytest
from scipy.sparse import save_npz

from lsr.eval.benchmarks import index as benchmark
from lsr.indexes import exact
from lsr.indexes.jvm import find_runtime

needs_pyserini = pytest.mark.skipif(
    not version("pyserini").startswith("1."),
    reason="pyserini 2 downloads a list of indexes whenever it is imported",
)


def test_synthetic_impacts_are_like_those_of_splade():
    impacts = benchmark.synthetic_impacts(500, 120, 1)
    assert impacts.has_sorted_indices
    assert 100 < impacts.nnz / 500 < 120
    assert (impacts.data.min(), impacts.data.max()) == (1, 255)
    frequencies = np.bincount(impacts.indices, minlength=impacts.shape[1])
    assert frequencies.max() > 20 * frequencies.mean()
    assert (benchmark.synthetic_impacts(500, 120, 1) != impacts).nnz == 0


@needs_pyserini
@pytest.mark.skipif(
    not find_runtime().has_vector, reason="pyserini's indexer needs jdk.incubator.vector"
)
@pytest.mark.slow
def test_both_sides_return_the_scores_of_brute_force(tmp_path):
    impacts = benchmark.synthetic_impacts(1500, 60, 1)
    # Few distinct weights, so that most scores tie.
    impacts.data = impacts.data % 3 + 1
    vectors = benchmark.synthetic_impacts(30, 8, 2)
    vectors.data = vectors.data % 2 + 1
    save_npz(tmp_path / "documents.npz", impacts)
    save_npz(tmp_path / "queries.npz", vectors)
    queries, index = str(tmp_path / "queries.npz"), tmp_path / "index"
    benchmark.in_process("build_ours", str(tmp_path / "documents.npz"), str(index))
    benchmark.write_pyserini_corpus(impacts, tmp_path / "corpus")
    benchmark.build_pyserini(tmp_path / "corpus", tmp_path / "theirs")
    ours = benchmark.in_process("query_ours", queries, str(index))
    theirs = benchmark.in_process("query_pyserini", queries, str(tmp_path / "theirs"))
    ids = [f"d{number}" for number in range(1500)]
    for k in benchmark.DEPTHS:
        expected = [[list(hit) for hit in hits] for hits in exact.search(impacts, ids, vectors, k)]
        assert ours[str(k)]["answers"] == expected
        # Pyserini breaks ties by internal number.
        scores = [[score for _, score in answer] for answer in theirs[str(k)]["answers"]]
        assert scores == [[score for _, score in answer] for answer in expected]


@needs_pyserini
@pytest.mark.skipif(
    not find_runtime().has_vector, reason="pyserini's indexer needs jdk.incubator.vector"
)
@pytest.mark.slow
def test_the_report_of_a_small_run(capsys):
    assert benchmark.main(["--documents", "400", "--queries", "5", "--rounds", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["same_scores"]
    assert report["docs_per_second"]["ratio"] > 0
    assert set(report["latency"]) == {
        f"{kind}, k = {k}" for kind in benchmark.TERMS_PER_QUERY for k in benchmark.DEPTHS
    }
    assert "same scores: True" in benchmark.table(report)
