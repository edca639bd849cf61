"""lsr/training/neighbours.py compared with loops over all pairs."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from lsr.training import neighbours as module
from lsr.training.neighbours import NearQuery, Neighbours, VectorTeacher, WholeBatch

N, M, DEPTH = 40, 60, 12
SCALE, WEIGHTS = 8.0, (3.0, 1.0)


@pytest.fixture(scope="module")
def collection():
    """Queries, every fourth of which is a part cut out of its document, documents and teachers."""
    generator = np.random.default_rng(0)
    documents = {f"d{number}": f"text {number}" for number in range(M)}
    queries = [
        NearQuery(f"q{n}", f"query {n}", f"d{generator.integers(M)}", cut_out=n % 4 == 3)
        for n in range(N)
    ]
    dense = generator.normal(size=(N, 8)), generator.normal(size=(M, 8))
    sparse = [generator.random((n, 30)) * (generator.random((n, 30)) < 0.2) for n in (N, M)]
    sparse[0][5] = 0  # shares nothing with any document
    teachers = [
        VectorTeacher(*(side.astype(np.float32) for side in dense), WEIGHTS[0]),
        VectorTeacher(*(csr_array(side.astype(np.float32)) for side in sparse), WEIGHTS[1]),
    ]
    return queries, documents, teachers


def oracle(queries, documents, teachers):
    """Score all pairs one by one, (N, M); −inf for a query and the document it is cut from."""
    ids = list(documents)
    scores = np.zeros((len(queries), len(ids)))
    for row, query in enumerate(queries):
        for teacher in teachers:
            sides = [
                side.toarray() if isinstance(side, csr_array) else side
                for side in (teacher.queries, teacher.documents)
            ]
            raw = [float(np.dot(sides[0][row], of)) for of in sides[1]]
            left = [
                score
                for key, score in zip(ids, raw, strict=True)
                if not (query.cut_out and key == query.document)
            ]
            share = teacher.weight / sum(WEIGHTS)
            if max(left) > 0:
                scores[row] += SCALE * share * np.array(raw) / max(left)
        if query.cut_out:
            scores[row, ids.index(query.document)] = -math.inf
    return scores


def make(collection, monkeypatch, near=4):
    monkeypatch.setattr(module, "NEAR", near)
    monkeypatch.setattr(module, "PAIRS", 7 * M)
    return Neighbours(*collection, depth=DEPTH, scale=SCALE, seed=3)


def test_candidates_are_the_best_of_all_pairs(collection, monkeypatch):
    queries, documents, _ = collection
    found = make(collection, monkeypatch).candidates()
    for query, scores in zip(queries, oracle(*collection), strict=True):
        ranked = sorted(zip(scores, documents, strict=True), reverse=True)[:DEPTH]
        assert [key for key, _ in found[query.id]] == [key for _, key in ranked]
        np.testing.assert_allclose(
            [s for _, s in found[query.id]], [s for s, _ in ranked], rtol=1e-5
        )
        assert not query.cut_out or query.document not in dict(found[query.id])


def near_queries(collection, texts, near):
    """The queries near any of the documents, by the definition."""
    queries, documents, _ = collection
    found = set()
    for query, scores in zip(queries, oracle(*collection), strict=True):
        best = sorted(zip(scores, documents, strict=True), reverse=True)[:near]
        of = {key for _, key in best} | (set() if query.cut_out else {query.document})
        if any(documents[key] in texts for key in of):
            found.add(query.text)
    return found


def test_all_near_queries_are_compared_with_all_documents(collection, monkeypatch):
    queries, documents, _ = collection
    neighbours = make(collection, monkeypatch)
    texts = [documents[key] for key in ("d3", "d50", "d3", "d17")]
    own = [queries[3].text, queries[8].text]
    asked, labels = neighbours.compare(own, texts, most=N)
    assert asked[:2] == own
    assert len(set(asked)) == len(asked)
    assert set(asked) == near_queries(collection, texts, 4) | set(own)
    assert 2 < len(asked) < N
    rows = [int(text.split()[1]) for text in asked]
    expected = oracle(*collection)[np.ix_(rows, [3, 50, 3, 17])]
    assert labels.dtype == np.float32
    np.testing.assert_allclose(labels, expected, rtol=1e-5, atol=1e-5)


def test_a_query_says_nothing_of_the_document_that_it_was_cut_out_of(collection, monkeypatch):
    queries, documents, _ = collection
    query = queries[3]
    labels = make(collection, monkeypatch).compare(
        [query.text], [documents[query.document], documents["d0"]], most=1
    )[1]
    assert labels[0, 0] == -np.inf
    assert np.isfinite(labels[0, 1])


def test_queries_beyond_the_bound_are_drawn_alike_for_the_same_batch(collection, monkeypatch):
    queries, documents, _ = collection
    neighbours = make(collection, monkeypatch)
    texts, own = [documents["d3"], documents["d50"]], [queries[8].text]
    near = near_queries(collection, texts, 4)
    most = len(near | set(own)) - 2
    asked, labels = neighbours.compare(own, texts, most)
    assert asked[0] == own[0]
    assert len(asked) == len(labels) == most
    assert set(asked) < near | set(own)
    assert neighbours.compare(own, texts, most)[0] == asked
    others = [neighbours.compare([query.text], texts, most)[0] for query in queries]
    assert len({frozenset(other[1:]) for other in others}) > 1


def test_a_collection_smaller_than_the_depth(collection):
    queries, documents, teachers = collection
    few = {key: documents[key] for key in ("d0", "d1", "d2")}
    asked = [NearQuery("q0", "query 0", "d1"), NearQuery("q1", "query 1", "d2", cut_out=True)]
    cut = [VectorTeacher(t.queries[:2], t.documents[:3], t.weight) for t in teachers]
    found = Neighbours(asked, few, cut).candidates()
    assert len(found["q0"]) == 3
    assert sorted(key for key, _ in found["q1"]) == ["d0", "d1"]


def test_the_collator_labels_all_pairs_of_the_batch(collection, monkeypatch):
    queries, documents, _ = collection
    neighbours = make(collection, monkeypatch)

    class Collator:
        valid_label_columns = ("label",)

        def __call__(self, rows):
            assert "label" not in rows[0]
            return {
                f"{column}_input_ids": self.preprocess_fn([row[column] for row in rows])[
                    "input_ids"
                ]
                for column in rows[0]
            }

        @staticmethod
        def preprocess_fn(texts, prompt=None, task=None):
            return {"input_ids": torch.tensor([int(text.split()[1]) for text in texts])}

    rows = [
        {
            "query": queries[n].text,
            "document": documents[f"d{n}"],
            "negative_1": documents[f"d{n + 9}"],
        }
        for n in (4, 8)
    ]
    batch = WholeBatch(Collator(), neighbours, most=20)(rows)
    asked = batch["query_input_ids"].tolist()
    assert asked[:2] == [4, 8]
    assert 2 < len(asked) <= 20
    assert batch["document_input_ids"].tolist() == [4, 8]
    columns = [4, 8, 13, 17]  # column after column
    expected = oracle(*collection)[np.ix_(asked, columns)]
    np.testing.assert_allclose(batch["label"].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_bad_arguments(collection):
    queries, documents, teachers = collection
    with pytest.raises(ValueError, match="`teachers` must hold at least one, got none"):
        Neighbours(queries, documents, [])
    with pytest.raises(
        ValueError, match="vectors of 40 queries and 60 documents, not of 39 and 60"
    ):
        Neighbours(queries[1:], documents, teachers)
    with pytest.raises(KeyError, match="no such text"):
        Neighbours(queries, documents, teachers).compare([queries[0].text], ["no such text"], 3)
