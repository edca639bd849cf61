"""indexes/dense.py, dense_rows.py and approximate.py against numpy."""

import sys

import numpy as np
import pytest

from lsr.indexes import dense_rows
from lsr.indexes.approximate import Structure, build_structure, choose_kind, write_structure
from lsr.indexes.dense import DenseIndex
from lsr.indexes.dense_writer import DenseWriter

K = 10


def chosen(index, ids):
    """The selection of these documents."""
    rows = np.zeros(len(index.alive), bool)
    rows[index.rows_of(ids)] = True
    return index.select(rows)


def brute_force(ids, vectors, queries, k):
    """Float64 inner products rounded to float32, sorted by score and id in Python."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    return [
        sorted(zip(ids, row.tolist(), strict=True), key=lambda hit: (-hit[1], hit[0]))[:k]
        for row in scores
    ]


def collection(n, dimension, seed, distinct=None):
    """Random vectors, some of them equal if `distinct` < n; ids are in no order."""
    rng = np.random.default_rng(seed)
    pool = rng.standard_normal((distinct or n, dimension)).astype(np.float32)
    vectors = pool[rng.integers(0, len(pool), n)] if distinct else pool
    return [f"d{i * 37 % 7919}é" for i in range(n)], vectors


def clusters(n, dimension=16, seed=3):
    """Unit vectors around 100 centres, and 60 queries around them."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((100, dimension))
    around = centres[rng.integers(0, 100, n + 60)] + 0.5 * rng.standard_normal((n + 60, dimension))
    around = (around / np.linalg.norm(around, axis=1, keepdims=True)).astype(np.float32)
    return [f"d{i}" for i in range(n)], around[:n], around[n:]


def recall(found, expected):
    """The share of expected hits that were found; found scores must be exact and in order."""
    shared = 0
    for hits, best in zip(found, expected, strict=True):
        assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0]))
        assert len(hits) == len(best)
        shared += len(set(hits) & set(best))  # with the scores
    return shared / sum(map(len, expected))


@pytest.fixture
def asked(monkeypatch):
    """The number of queries in each call of an approximate structure."""
    real, calls = Structure.search, []

    def search(self, queries, n, selector=None):
        calls.append(len(queries))
        return real(self, queries, n, selector)

    monkeypatch.setattr(Structure, "search", search)
    return calls


@pytest.mark.parametrize("k", [1, 7, 200, 10_000])
@pytest.mark.parametrize(
    ("n", "distinct"),
    [(1, None), (500, None), (500, 20), (300, 1), pytest.param(6000, 3, marks=pytest.mark.slow)],
)
def test_equals_brute_force_ties_included(n, distinct, k):
    ids, vectors = collection(n, 24, 0, distinct)
    queries = np.random.default_rng(1).standard_normal((130, 24)).astype(np.float32)
    queries[3] = 0  # every document is a tie
    found = DenseIndex(ids, vectors).search(queries, k)
    assert found == brute_force(ids, vectors, queries, k)
    if distinct and k > 1:
        assert len({score for _, score in found[0]}) < min(k, n)


@pytest.mark.parametrize("n_allowed", [0, 1, 40, 499, 500])
@pytest.mark.parametrize("k", [1, 30, 1000])
@pytest.mark.parametrize("few", [0, 1000])  # by a bitmap, and one by one
def test_allowed_documents_are_ranked_as_if_there_were_no_others(monkeypatch, n_allowed, k, few):
    monkeypatch.setattr(dense_rows, "FEW", few)
    ids, vectors = collection(500, 24, 0, 60)
    queries = np.random.default_rng(1).standard_normal((70, 24)).astype(np.float32)
    rows = np.random.default_rng(2).permutation(500)[:n_allowed]
    index = DenseIndex(ids, vectors)
    found = index.search(queries, k, chosen(index, [ids[row] for row in rows]))
    assert found == brute_force([ids[row] for row in rows], vectors[rows], queries, k)


def test_empty():
    ids, vectors = collection(5, 3, 0)
    assert DenseIndex(ids, vectors).search(np.empty((0, 3), np.float32), 2) == []
    none = DenseIndex([], np.empty((0, 3), np.float32))
    assert len(none) == 0 and none.ids == []
    assert none.search(vectors[:2], 4) == [[], []]
    assert none.vectors([]).shape == (0, 3)


def test_vectors_and_scores_are_those_of_the_search():
    ids, vectors = collection(300, 24, 0)
    index = DenseIndex(ids, vectors)
    assert (len(index), index.dimension, index.kind) == (300, 24, "flat")
    assert index.size_bytes == vectors.nbytes
    asked = [ids[7], ids[250], ids[7]]
    assert (index.vectors(asked) == vectors[[7, 250, 7]]).all()
    query = np.random.default_rng(1).standard_normal(24).astype(np.float32)
    of_search = dict(index.search(query[None], 300)[0])
    # A document's score does not depend on which others are asked for.
    for some in (ids, ids[:5], ids[::-1], ids[20:21]):
        scores = index.scores(query, some)
        assert scores.dtype == np.float32
        assert scores.tolist() == [of_search[doc_id] for doc_id in some]
    assert index.scores(query, []).shape == (0,)
    for use in (index.vectors, lambda some: index.scores(query, some)):
        with pytest.raises(KeyError, match="no vector of document 'nobody'"):
            use([ids[0], "nobody"])


@pytest.mark.parametrize("kind", ["hnsw", pytest.param("ivf-pq", marks=pytest.mark.slow)])
def test_structures_find_nearly_all_with_exact_scores(kind, asked, monkeypatch):
    ids, vectors, queries = clusters(14_000)
    index = DenseIndex(ids, vectors, kind=kind)
    assert index.kind == kind
    assert recall(index.search(queries, K), brute_force(ids, vectors, queries, K)) >= 0.95
    assert asked == [60]
    # With few documents, or this many hits, the search is exhaustive.
    few = brute_force(ids[::50], vectors[::50], queries, K)
    assert index.search(queries, K, chosen(index, ids[::50])) == few
    assert index.search(queries, 200) == brute_force(ids, vectors, queries, 200)
    assert asked == [60]
    # A filter that allows half of the documents, on one side of the space.
    monkeypatch.setattr(dense_rows, "WIDEST", 25)
    rows = np.argsort(vectors[:, 0])[:7000]
    allowed = [ids[row] for row in rows]
    half = brute_force(allowed, vectors[rows], queries, K)
    assert recall(index.search(queries, K, chosen(index, allowed)), half) >= 0.95
    assert asked == [60, 60]


def test_queries_that_a_structure_finds_too_little_for_are_searched_flat(monkeypatch):
    ids, vectors, queries = clusters(14_000)
    index = DenseIndex(ids, vectors, kind="hnsw")
    found = Structure.search

    def little(self, queries, n, selector=None):
        rows = found(self, queries, n, selector)
        rows[::2, 3:] = -1
        return rows

    monkeypatch.setattr(Structure, "search", little)
    expected = brute_force(ids, vectors, queries, K)
    assert index.search(queries, K)[::2] == expected[::2]


def test_says_whether_all_vectors_are_compared(monkeypatch):
    ids, vectors, queries = clusters(20_000)
    index = DenseIndex(ids, vectors, kind="hnsw")
    compared = []
    monkeypatch.setattr(dense_rows, "FEW", 9)
    exhaustive = dense_rows.Rows._exhaustive
    monkeypatch.setattr(
        dense_rows.Rows,
        "_exhaustive",
        lambda rows, *of: compared.append(1) or exhaustive(rows, *of),
    )
    for k in (1, 10, 50, 51, 1000):
        for allowed in (None, ids[:15_000], ids[:10], []):
            compared.clear()
            selection = None if allowed is None else chosen(index, allowed)
            index.search(queries[:1], k, selection)
            if allowed != []:
                assert index.is_exact(k, selection) == bool(compared)
    assert [index.is_exact(k) for k in (10, 1000)] == [False, True]
    assert DenseIndex(ids[:50], vectors[:50]).is_exact(1)


def test_the_same_vectors_make_the_same_structure(tmp_path):
    _, vectors, _ = clusters(3000)
    for name in "ab":
        write_structure(build_structure("hnsw", vectors), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", ["hnsw", pytest.param("ivf-pq", marks=pytest.mark.slow)])
def test_rows_that_came_or_went_since_a_structure_was_built(tmp_path, kind, asked):
    ids, vectors, queries = clusters(15_000)
    writer = DenseWriter(tmp_path / "dense", [], 16)
    writer.add(ids[:14_000], vectors[:14_000])
    writer.merge(kind)
    # Each query's best document is replaced by its opposite, the second deleted; 1000 are new.
    expected = brute_force(ids[:14_000], vectors[:14_000], queries, 2)
    replaced = sorted({hits[0][0] for hits in expected})
    deleted = sorted({hits[1][0] for hits in expected} - set(replaced))
    now = dict(zip(ids, vectors, strict=True))
    for doc_id in replaced:
        now[doc_id] = -now[doc_id]
    writer.add(replaced, np.array([now[doc_id] for doc_id in replaced]))
    writer.delete(deleted)
    writer.add(ids[14_000:], vectors[14_000:])
    for doc_id in deleted:
        del now[doc_id]
    index = DenseIndex.open(tmp_path / "dense", writer.flush())
    assert index.kind == kind and len(index) == len(now)
    assert index.ids == sorted(now)
    truth = brute_force(list(now), np.array(list(now.values())), queries, K)
    found = index.search(queries, K)
    assert asked == [60]
    assert recall(found, truth) >= 0.95
    assert not {doc_id for hits in found for doc_id, _ in hits} & set(deleted)
    newest = ids[14_000:]
    assert index.search(queries, K, chosen(index, newest)) == brute_force(
        newest, vectors[14_000:], queries, K
    )
    writer.merge("flat")
    merged = DenseIndex.open(tmp_path / "dense", writer.flush())
    assert merged.kind == "flat"
    assert merged.search(queries, K) == truth


def test_flat_segments_are_one_index(tmp_path):
    ids, vectors = collection(600, 24, 0, 90)
    queries = np.random.default_rng(1).standard_normal((70, 24)).astype(np.float32)
    writer = DenseWriter(tmp_path / "dense", [], 24)
    names = []
    for start in range(0, 600, 150):
        writer.add(ids[start : start + 150], vectors[start : start + 150])
        names = writer.flush()
    assert len(names) == 4
    index = DenseIndex.open(tmp_path / "dense", names)
    expected = brute_force(ids, vectors, queries, 40)
    assert index.search(queries, 40) == expected
    assert (index.vectors(ids) == vectors).all()
    allowed = ids[100:200]
    expected = brute_force(allowed, vectors[100:200], queries, 40)
    assert index.search(queries, 40, chosen(index, allowed)) == expected
    with pytest.raises(ValueError, match=r"`chosen` must have shape \(\d+,\), got \(3,\)"):
        index.select(np.ones(3, bool))


def test_kinds_by_size():
    assert [choose_kind("auto", n) for n in (0, 99_999, 100_000, 999_999, 1_000_000)] == [
        *("flat", "flat", "hnsw", "hnsw", "ivf-pq")
    ]
    assert choose_kind("ivf-pq", 9_983) == "flat"
    assert choose_kind("ivf-pq", 9_984) == "ivf-pq"
    assert [choose_kind("hnsw", n) for n in (0, 1)] == ["flat", "hnsw"]
    with pytest.raises(ValueError, match="must be one of auto, flat, hnsw, ivf-pq, got 'tree'"):
        choose_kind("tree", 5)


def test_refuses():
    vectors = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"must be float32 of shape \(1, D\), got float32 of"):
        DenseIndex(["a"], vectors)
    with pytest.raises(ValueError, match="got float64 of shape"):
        DenseIndex(["a", "b"], vectors.astype(np.float64))
    with pytest.raises(ValueError, match="`ids` must differ, got 1 among 2"):
        DenseIndex(["a", "a"], vectors)
    index = DenseIndex(["a", "b"], vectors)
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        index.search(vectors, 0)
    with pytest.raises(ValueError, match=r"`queries` must have shape \(m, 3\), got \(2, 2\)"):
        index.search(vectors[:, :2], 1)
    with pytest.raises(ValueError, match="`queries` must be finite"):
        index.search(vectors + np.float32("inf"), 1)
    vectors[1, 2] = np.nan
    with pytest.raises(ValueError, match="must be finite, that of document 'b' is not"):
        DenseIndex(["a", "b"], vectors)


def test_without_faiss_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        DenseIndex(["a"], np.zeros((1, 3), np.float32))
