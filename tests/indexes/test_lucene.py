"""indexes/lucene.py against indexes/exact.py."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from lsr.documents import Document
from lsr.filter import Comparison
from lsr.indexes import exact
from lsr.indexes.lucene import IndexLockedError, LuceneError, LuceneIndex

TERMS = [f"term{number}" for number in range(97)]


def random_impacts(n, seed, largest=4):
    """Few distinct weights, so that equal scores are the rule; the last row is empty."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, largest + 1, (n, len(TERMS))) * (rng.random((n, len(TERMS))) < 0.1)
    dense[-1] = 0
    return csr_array(dense.astype(np.int32))


def documents(n, start=0):
    # Ids whose order as strings is neither the order of insertion nor that of their numbers.
    return [
        Document(f"d{(start + i) * 37 % 1009}é", f"title {i}", "x", {"half": str(i % 2)})
        for i in range(n)
    ]


@pytest.fixture
def filled(tmp_path):
    """300 documents in three segments, some deleted or replaced; and what the index should hold."""
    truth = {}
    with LuceneIndex.create(tmp_path / "index", TERMS) as index:
        for part in range(3):
            batch, impacts = documents(100, 100 * part), random_impacts(100, part)
            index.add(batch, impacts, new=True)
            index.commit({"part": str(part)})
            truth |= {d.id: impacts[[row]] for row, d in enumerate(batch)}
        gone = [d.id for d in documents(30, 50)]
        index.delete(gone)
        for doc_id in gone:
            del truth[doc_id]
        batch, impacts = documents(20, 150), random_impacts(20, 9)
        index.add(batch, impacts)
        truth |= {d.id: impacts[[row]] for row, d in enumerate(batch)}
        index.commit({"part": "last"})
        yield index, truth


@pytest.mark.parametrize("k", [1, 10, 1000])
@pytest.mark.parametrize("threads", [1, 2])
def test_ranking_equals_brute_force_ties_included(filled, k, threads):
    index, truth = filled
    queries = random_impacts(40, 77)
    stacked = csr_array(np.vstack([row.toarray() for row in truth.values()]))
    expected = exact.search(stacked, list(truth), queries, k)
    assert index.search(queries, k, threads=threads) == expected
    scores = [score for _, score in expected[0]]
    assert k == 1 or len(set(scores)) < len(scores)


def test_forward_vectors_documents_and_counts(filled):
    index, truth = filled
    ids = list(truth)[::7]
    expected = np.vstack([truth[doc_id].toarray() for doc_id in ids])
    assert (index.impacts(ids).toarray() == expected).all()
    assert [document.id for document in index.documents(ids)] == ids
    assert index.n_docs == len(truth)
    assert index.user_data == {"part": "last"}
    assert index.impacts([]).shape == (0, len(TERMS))


def test_filters_and_min_score(filled):
    index, truth = filled
    queries = random_impacts(5, 3)
    everything = index.search(queries, 1000)
    odd = index.search(queries, 1000, filter=Comparison("half", "=", "1"))
    for all_hits, hits in zip(everything, odd, strict=True):
        half = {d.id: d.metadata["half"] for d in index.documents([i for i, _ in all_hits])}
        assert hits == [hit for hit in all_hits if half[hit[0]] == "1"]
    for all_hits, hits in zip(everything, index.search(queries, 1000, min_score=20), strict=True):
        assert hits == [hit for hit in all_hits if hit[1] >= 20]


def test_scores_just_below_2_to_the_24_are_exact(tmp_path):
    impacts = csr_array(np.array([[255, 1], [255, 2], [254, 1]], dtype=np.int32))
    queries = csr_array(np.array([[65790, 1]], dtype=np.int32))
    with LuceneIndex.create(tmp_path / "index", ["a", "b"]) as index:
        index.add([Document("x"), Document("y"), Document("z")], impacts)
        index.commit({})
        assert index.search(queries, 3) == exact.search(impacts, ["x", "y", "z"], queries, 3)


@pytest.mark.parametrize("largest", [10**4, 2**24 - 1])
def test_scores_above_2_to_the_24_are_exact(tmp_path, largest):
    """In float32 different scores would be equal there, or even swap if products are rounded."""
    rng = np.random.default_rng(largest)
    with LuceneIndex.create(tmp_path / "index", TERMS) as index:
        parts = []
        for part in range(3):
            impacts = random_impacts(200, part)
            # Nearly equal documents: most scores differ by less than the precision of float32.
            impacts.data = (largest - rng.integers(0, 3, impacts.nnz)).astype(np.int32)
            index.add(documents(200, 200 * part), impacts, new=True)
            index.commit({})
            parts.append(impacts.toarray())
        stacked, ids = csr_array(np.vstack(parts)), [d.id for d in documents(600)]
        queries = random_impacts(30, 7)
        queries.data = (largest - rng.integers(0, 3, queries.nnz)).astype(np.int32)
        everything = exact.search(stacked, ids, queries, 1000)
        assert everything[0][20][1] > 2**24
        for k in (1, 10, 1000):
            expected = [hits[:k] for hits in everything]
            assert index.search(queries, k) == expected
            odd = index.search(queries, k, filter=Comparison("half", "=", "1"))
            half = {d.id for d in documents(600) if d.metadata["half"] == "1"}
            assert odd == [[hit for hit in hits if hit[0] in half][:k] for hits in everything]
        floor = everything[0][10][1]
        assert index.search(queries[[0]], 1000, min_score=floor) == [
            [hit for hit in everything[0] if hit[1] >= floor]
        ]
        asked = [[doc_id for doc_id, _ in hits] for hits in everything]
        scores = index.scores(queries, asked)
        assert scores == [[score for _, score in hits] for hits in everything]


def test_threads_get_the_answers_of_one(filled):
    index, _ = filled
    queries = random_impacts(200, 5)
    expected = index.search(queries, 10)
    with ThreadPoolExecutor(64) as pool:
        answers = pool.map(lambda row: index.search(queries[[row]], 10)[0], range(200))
        assert list(answers) == expected


def test_uncommitted_work_is_not_seen_and_survives_no_close(tmp_path):
    with LuceneIndex.create(tmp_path / "index", TERMS) as index:
        index.add(documents(3), random_impacts(3, 1))
        index.commit({})
        index.add(documents(3, 3), random_impacts(3, 2))
        assert index.n_docs == 3
    with LuceneIndex.open(tmp_path / "index", TERMS) as index:
        assert index.n_docs == 3
        assert index.check()[0]


def test_reader_follows_the_writer_on_refresh(tmp_path):
    with LuceneIndex.create(tmp_path / "index", TERMS) as writer:
        writer.add(documents(5), random_impacts(5, 1))
        writer.commit({})
        with LuceneIndex.open(tmp_path / "index", TERMS) as reader:
            writer.delete([documents(5)[0].id])
            writer.force_merge()
            writer.commit({})
            assert reader.n_docs == 5
            reader.refresh()
            assert reader.n_docs == 4


def test_errors(filled, tmp_path):
    index, _ = filled
    with pytest.raises(IndexLockedError, match="another process is writing to it"):
        LuceneIndex.open(index.path, TERMS, writable=True)
    with pytest.raises(LuceneError, match="IndexNotFoundException"):
        LuceneIndex.open(tmp_path / "nothing", TERMS)
    with pytest.raises(KeyError, match="no document 'nobody'"):
        index.documents(["nobody"])
    for k in (0, -1, 10**7):
        with pytest.raises(ValueError, match=rf"`k` must be in \[1, 1000000\], got {k}"):
            index.search(random_impacts(2, 1), k)
    with pytest.raises(ValueError, match="queries have 3 terms, the index 97"):
        index.search(csr_array((1, 3), dtype=np.int32), 1)
    with pytest.raises(ValueError, match="query weights must be at least 1, got -1"):
        index.search(csr_array(-np.eye(1, 97, dtype=np.int32)), 1)
    with pytest.raises(ValueError, match=r"must have shape \(1, 97\), got \(2, 97\)"):
        index.add(documents(1), random_impacts(2, 1))
    with pytest.raises(ValueError, match=r"impacts must be in \[1, 2\^24\), got -1 to -1"):
        index.add(documents(1), csr_array(-np.eye(1, 97, dtype=np.int32)))


def test_damaged_index_is_refused(tmp_path):
    with LuceneIndex.create(tmp_path / "index", TERMS) as index:
        index.add(documents(5), random_impacts(5, 1))
        index.commit({})
    for path in (tmp_path / "index").glob("segments_*"):
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LuceneError, match="Corrupt"):
        LuceneIndex.open(tmp_path / "index", TERMS)


@pytest.mark.parametrize("threads", [1, 2])
def test_scores_of_known_documents_are_those_of_search(filled, threads):
    index, truth = filled
    queries = random_impacts(40, 78)
    found = [dict(hits) for hits in index.search(queries, 1000)]
    order = np.random.default_rng(0)
    # Each query asks for different documents, in random order, one of them twice.
    ids = [order.permutation(sorted(truth))[: 5 * query].tolist() for query in range(40)]
    ids[7] += ids[7][:1]
    scores = index.scores(queries, ids, threads=threads)
    for of_query, values, hits in zip(ids, scores, found, strict=True):
        assert values == [hits.get(doc_id, 0) for doc_id in of_query]
    assert any(0 in values for values in scores) and any(max(v, default=0) > 0 for v in scores)


def test_scores_names_what_is_unknown(filled):
    index, _ = filled
    (gone, *_) = [d.id for d in documents(1, 50)]
    with pytest.raises(KeyError, match=gone):
        index.scores(random_impacts(1, 3), [[gone]])
    with pytest.raises(ValueError, match="a list for each of 2 queries"):
        index.scores(random_impacts(2, 3), [[]])
    assert index.scores(csr_array((0, len(TERMS)), dtype=np.int32), []) == []


def test_matching_and_document_frequencies(filled):
    index, truth = filled
    halves = [index.matching(Comparison("half", "=", half)) for half in ("0", "1")]
    assert sorted(halves[0] + halves[1]) == index.matching() == sorted(truth)
    assert halves[0] == [d.id for d in index.documents(halves[0]) if d.metadata["half"] == "0"]
    assert index.matching(Comparison("half", "=", "2")) == []
    index.force_merge()
    index.commit({"part": "merged"})
    stacked = csr_array(np.vstack([row.toarray() for row in truth.values()]))
    assert index.document_frequencies().tolist() == (stacked > 0).sum(axis=0).tolist()


def test_a_relative_path_is_of_the_directory_that_one_is_in_now(tmp_path, monkeypatch):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with LuceneIndex.create(Path("index"), TERMS) as index:
            index.add(documents(1), random_impacts(1, 0), new=True)
            index.commit({})
        assert any((tmp_path / name / "index").glob("segments_*"))


def test_common_terms_of_little_weight_beside_rare_ones(tmp_path):
    """Postings longer than Lucene's blocks; its skip lists do not cover the last postings."""
    rng = np.random.default_rng(0)
    n, shares = 3000, np.repeat([0.7, 0.3, 0.05, 0.002], [30, 30, 30, len(TERMS) - 90])
    dense = rng.integers(1, 200, (n, len(TERMS))) * (rng.random((n, len(TERMS))) < shares)
    # The largest impacts are after the end of the skip lists.
    dense[-5:] *= 50
    impacts = csr_array(dense.astype(np.int32))
    ids = [f"d{number * 37 % n}" for number in range(n)]
    weights = (rng.random((60, len(TERMS))) < 0.3) * rng.integers(1, 4, (60, len(TERMS)))
    weights[:, 80:] *= 20
    queries = csr_array(weights.astype(np.int32))
    expected = exact.search(impacts, ids, queries, 10)
    with LuceneIndex.create(tmp_path / "index", TERMS) as index:
        for part in (slice(0, 2500), slice(2500, n)):
            index.add([Document(doc_id) for doc_id in ids[part]], impacts[part], new=True)
            index.commit({})
        # In the first round no term is in the engine's cache.
        for _ in range(2):
            assert index.search(queries, 10) == expected
        for query, hits in enumerate(expected):
            last = hits[-1][1] if hits else 1
            assert index.search(queries[[query]], 10, min_score=last) == [hits]
        index.delete(ids[-5:])
        index.commit({})
        assert index.search(queries, 10) == exact.search(impacts[:-5], ids[:-5], queries, 10)


def test_ids_of_several_bytes_a_character(tmp_path):
    ids = ["é", "a\nb", "", "日本語", "🙂🙂x", "z\0z"]
    impacts = csr_array(np.arange(1, 7, dtype=np.int32)[:, None])
    with LuceneIndex.create(tmp_path / "index", ["a"]) as index:
        index.add([Document(doc_id) for doc_id in ids], impacts)
        index.commit({})
        (hits,) = index.search(csr_array(np.array([[2]], np.int32)), 10)
        assert hits == [(doc_id, 2 * number) for number, doc_id in reversed([*enumerate(ids, 1)])]
        assert index.impacts(ids[::-1]).toarray().ravel().tolist() == [6, 5, 4, 3, 2, 1]
        with pytest.raises(KeyError, match="no document 'b'"):
            index.impacts(["é", "b"])


def test_the_size_leaves_out_files_that_are_gone(tmp_path, monkeypatch):
    with LuceneIndex.create(tmp_path / "index", ["a"]) as index:
        index.commit({})
        size = index.size_bytes
        assert size == sum(path.stat().st_size for path in (tmp_path / "index").iterdir())
        files = [*(tmp_path / "index").iterdir(), tmp_path / "index" / "merged-away"]
        monkeypatch.setattr(type(index.path), "iterdir", lambda path: iter(files))
        assert index.size_bytes == size
