"""indexes/dense.py against numpy."""

import sys

import numpy as np
import pytest

from lsr.indexes.dense import DenseIndex


def brute_force(ids, vectors, queries, k):
    """Float64 inner products rounded to float32, sorted by score and id in Python."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    ranked = [
        sorted(zip(ids, row.tolist(), strict=True), key=lambda hit: (-hit[1], hit[0]))[:k]
        for row in scores
    ]
    return [[doc_id for doc_id, _ in row] for row in ranked], [
        [score for _, score in row] for row in ranked
    ]


def collection(n, dimension, seed, distinct=None):
    """Vectors of which several are equal where `distinct` < n; ids in no order."""
    rng = np.random.default_rng(seed)
    pool = rng.standard_normal((distinct or n, dimension)).astype(np.float32)
    vectors = pool[rng.integers(0, len(pool), n)] if distinct else pool
    return [f"d{i * 37 % 7919}é" for i in range(n)], vectors


@pytest.mark.parametrize("k", [1, 7, 200, 10_000])
@pytest.mark.parametrize(
    ("n", "distinct"), [(1, None), (500, None), (500, 20), (300, 1), (6000, 3)]
)
def test_equals_brute_force_ties_included(n, distinct, k):
    ids, vectors = collection(n, 24, 0, distinct)
    queries = np.random.default_rng(1).standard_normal((130, 24)).astype(np.float32)
    queries[3] = 0  # every document is a tie
    found, scores = DenseIndex(ids, vectors).search(queries, k)
    expected, expected_scores = brute_force(ids, vectors, queries, k)
    assert found == expected
    assert scores.dtype == np.float32
    assert scores.tolist() == expected_scores
    if distinct and k > 1:
        assert len(set(scores[0].tolist())) < min(k, n)


def test_no_queries():
    ids, vectors = collection(5, 3, 0)
    found, scores = DenseIndex(ids, vectors).search(np.empty((0, 3), np.float32), 2)
    assert found == [] and scores.shape == (0, 2)


def test_saved_and_loaded(tmp_path):
    ids, vectors = collection(40, 6, 2)
    index = DenseIndex(ids, vectors)
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")
    loaded = DenseIndex.load(tmp_path / "index")
    queries = vectors[:5]
    assert loaded.search(queries, 9)[0] == index.search(queries, 9)[0]
    assert (loaded.search(queries, 9)[1] == index.search(queries, 9)[1]).all()


@pytest.mark.parametrize("file", ["vectors.npy", "ids.json"])
@pytest.mark.parametrize("left", [0, 3, 150])
def test_truncated(tmp_path, file, left):
    ids, vectors = collection(40, 6, 2)
    DenseIndex(ids, vectors).save(tmp_path)
    content = (tmp_path / file).read_bytes()
    assert len(content) > left
    (tmp_path / file).write_bytes(content[:left])
    with pytest.raises(ValueError, match="not a dense index, or a truncated one"):
        DenseIndex.load(tmp_path)


def test_one_not_written_to_its_end_is_none(tmp_path):
    ids, vectors = collection(4, 6, 2)
    DenseIndex(ids, vectors).save(tmp_path)
    (tmp_path / "ids.json").unlink()
    with pytest.raises(FileNotFoundError, match="no dense index"):
        DenseIndex.load(tmp_path)


def test_refuses():
    vectors = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"must be float32 of shape \(1, D\), got float32 of"):
        DenseIndex(["a"], vectors)
    with pytest.raises(ValueError, match="got float64 of shape"):
        DenseIndex(["a", "b"], vectors.astype(np.float64))
    with pytest.raises(ValueError, match="at least one row, got none"):
        DenseIndex([], vectors[:0])
    with pytest.raises(ValueError, match="`ids` must differ, got 1 among 2"):
        DenseIndex(["a", "a"], vectors)
    index = DenseIndex(["a", "b"], vectors)
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        index.search(vectors, 0)
    with pytest.raises(ValueError, match=r"`queries` must have shape \(m, 3\), got \(2, 2\)"):
        index.search(vectors[:, :2], 1)
    vectors[1, 2] = np.nan
    with pytest.raises(ValueError, match="must be finite, that of document 'b' is not"):
        DenseIndex(["a", "b"], vectors)


def test_without_faiss_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        DenseIndex(["a"], np.zeros((1, 3), np.float32))
