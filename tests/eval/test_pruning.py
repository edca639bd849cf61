"""eval/pruning.py against a ranking by hand."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from lsr.eval.pruning import pruning_curve, rank_vectors, table

IDS = ["d10", "d2", "q1", "d1"]
DOCUMENTS = csr_array(
    np.array([[1, 0, 3, 0], [1, 2, 0, 0], [9, 9, 9, 9], [1, 0, 0, 0]], dtype=np.float32)
)
QUERIES = csr_array(np.array([[1, 0, 0, 0], [0, 2, 1, 0]], dtype=np.float32))


def test_ranks_by_score_then_id_without_the_querys_own_document():
    run = rank_vectors(DOCUMENTS, IDS, QUERIES, ["q1", "q2"])
    assert run["q1"] == [("d1", 1.0), ("d10", 1.0), ("d2", 1.0)]
    assert run["q2"] == [("q1", 27.0), ("d2", 4.0), ("d10", 3.0)]
    assert [hit[0] for hit in rank_vectors(DOCUMENTS, IDS, QUERIES, ["q1", "q2"], k=2)["q1"]] == [
        "d1",
        "d10",
    ]


def test_equals_a_dense_ranking():
    generator = np.random.default_rng(0)
    documents = generator.random((150, 30), dtype=np.float32)
    documents[generator.random((150, 30)) < 0.8] = 0
    queries = generator.random((70, 30), dtype=np.float32)
    ids = [f"d{i}" for i in range(150)]
    names = [f"q{i}" for i in range(70)]
    run = rank_vectors(csr_array(documents), ids, csr_array(queries), names, k=20)
    for name, scores in zip(names, queries @ documents.T, strict=True):
        best = sorted(zip(ids, scores, strict=True), key=lambda hit: (-hit[1], hit[0]))[:20]
        assert [hit[0] for hit in run[name]] == [hit[0] for hit in best]


def test_the_curve_keeps_the_heaviest_terms():
    qrels = {"q1": {"d1": 1}, "q2": {"d2": 1}}
    points = pruning_curve(
        DOCUMENTS, IDS, QUERIES, ["q1", "q2"], qrels, kept=(1, None), measures=["RR@10"]
    )
    assert [(point.kept, point.terms) for point in points] == [(1, 1.0), (None, 9 / 4)]
    # With one term each only d1 still holds the first term; d2 keeps its second.
    assert points[0].evaluation.means["RR@10"] == pytest.approx(1.0)
    assert points[1].evaluation.means["RR@10"] == pytest.approx((1 + 1 / 2) / 2)
    assert table(points).row_count == 2
