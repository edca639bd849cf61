from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.sparse import csr_array

from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import default_tokenizer
from lsr.indexes import exact
from lsr.indexes.lucene import LuceneIndex
from lsr.training.examples import Example, Examples
from lsr.training.mining import dense_candidates, mine, sparse_candidates
from lsr.training.sources import ExampleSource, load_examples
from lsr.vectors import quantise, quantise_queries

SHARED = Path(__file__).parents[4] / "shared" / "data"
WORDS = "sun moon star cloud rain wind snow ice fire earth sea river lake hill tree leaf".split()


@pytest.fixture(scope="module")
def examples():
    """Documents of few words, so that most scores tie, and queries, several shards of each."""
    rng = np.random.default_rng(0)

    def text(most):
        return " ".join(rng.choice(WORDS, rng.integers(1, most)))

    documents = {f"d{number * 37 % 1101}": text(8) for number in range(1100)}
    ids = list(documents)
    rows = [Example(f"q{number}", text(4), ids[number]) for number in range(600)]
    rows.append(Example("q600", "unheard-of", ids[600]))
    return Examples(rows, documents)


@pytest.fixture(scope="module")
def bm25(examples):
    return LexicalEncoder.fit(default_tokenizer(), [list(examples.documents.values())])


def test_sparse_candidates_are_those_of_brute_force(examples, bm25, tmp_path):
    told = []
    candidates = sparse_candidates(
        examples, bm25, 20, directory=tmp_path / "index", progress=lambda *of: told.append(of)
    )
    impacts = quantise(bm25.encode_documents(list(examples.documents.values())), 64)
    encoded = bm25.encode_queries([row.query for row in examples.rows])
    queries, factors = quantise_queries(encoded)
    expected = exact.search(impacts, list(examples.documents), queries, 20)
    assert list(candidates) == [row.query_id for row in examples.rows]
    for row, hits, factor in zip(examples.rows, expected, factors.tolist(), strict=True):
        assert candidates[row.query_id] == [(doc_id, score * factor / 64) for doc_id, score in hits]
    assert candidates["q600"] == []
    assert told == [
        ("encoding", 512, 1100),
        ("encoding", 1024, 1100),
        ("encoding", 1100, 1100),
        ("searching", 512, 601),
        ("searching", 601, 601),
    ]
    with LuceneIndex.open(tmp_path / "index", bm25.vocabulary) as index:
        assert index.n_docs == 1100


class Heavy:
    """Vectors of few terms, with weights close to the largest that an index holds (256)."""

    vocabulary = tuple(WORDS)
    fingerprint = "heavy"

    def encode_documents(self, texts, top_k=None):
        rows = [[250.0 * text.split().count(word) / 7 for word in WORDS] for text in texts]
        return csr_array(np.array(rows, np.float32))

    def encode_queries(self, texts):
        rows = [[50.0 * text.split().count(word) for word in WORDS] for text in texts]
        return csr_array(np.array(rows, np.float32))


def test_heavy_weights_are_searched_more_coarsely_not_wrongly(examples):
    candidates = sparse_candidates(examples, Heavy(), 1100)
    texts = list(examples.documents.values())
    documents = Heavy().encode_documents(texts).toarray().astype(np.float64)
    queries = Heavy().encode_queries([row.query for row in examples.rows]).toarray()
    expected = queries.astype(np.float64) @ documents.T
    for row, scores in zip(examples.rows, expected, strict=True):
        of_query = dict(zip(examples.documents, scores.tolist(), strict=True))
        found = dict(candidates[row.query_id])
        assert found.keys() == {doc_id for doc_id, score in of_query.items() if score > 0}
        assert all(abs(score / of_query[doc_id] - 1) < 2e-3 for doc_id, score in found.items())


def test_dense_candidates_are_those_of_brute_force(examples):
    def encode(texts):
        return np.array([[text.count(letter) for letter in "aeiou"] for text in texts], np.float32)

    teacher = SimpleNamespace(encode_documents=encode, encode_queries=encode)
    candidates = dense_candidates(examples, teacher, 30)
    scores = encode([row.query for row in examples.rows]) @ encode(examples.documents.values()).T
    for row, of_row in zip(examples.rows, scores.tolist(), strict=True):
        hits = zip(examples.documents, of_row, strict=True)
        assert candidates[row.query_id] == sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:30]


DOCUMENTS = {f"d{number}": f"text {number}" for number in range(40)}
RANKED = [(f"d{number}", 40.0 - number) for number in range(20)]


class Judge:
    """Scores documents by a table of texts."""

    fingerprint = "judge"

    def __init__(self, scores):
        self.scores = scores

    def score(self, queries, documents):
        return np.array([self.scores[document] for document in documents], np.float32)


def test_positives_and_their_twins_are_no_negatives():
    documents = DOCUMENTS | {"d1": "Text  2", "d2": "text 2", "d3": "text 3", "d4": "text 4"}
    rows = [
        Example("q", "query", "d2", ("d4",)),
        Example("q", "query", "d3", ("d5",)),
        Example("p", "other", "d30"),
    ]
    candidates = {"q": RANKED[:8], "p": RANKED[:4]}
    mined = mine(Examples(rows, documents), candidates, 2)
    counts = Counter()
    for seed in range(60):
        again = mine(Examples(rows, documents), candidates, 2, seed=seed).examples.rows
        assert [row.negatives[:1] for row in again[:2]] == [("d4",), ("d5",)]
        for number, row in enumerate(again):
            new = row.negatives[len(rows[number].negatives) :]
            assert len(set(new)) == 2
            counts.update((number, doc_id) for doc_id in new)
    assert {doc_id for number, doc_id in counts if number == 0} == {"d0", "d5", "d6", "d7"}
    assert {doc_id for number, doc_id in counts if number == 1} == {"d0", "d4", "d6", "d7"}
    # d1 and d2 have equal texts, so only one is drawn; d2 is not a positive of this query.
    assert {doc_id for number, doc_id in counts if number == 2} == {"d0", "d1", "d3"}
    assert mined[1:] == (20, 4, 5, 0, 0)
    assert [row[:3] for row in mined.examples.rows] == [row[:3] for row in rows]


def test_ranks_are_drawn_from_evenly_and_by_seed():
    rows = [Example(f"q{i}", "query", "d39") for i in range(400)]
    examples = Examples(rows, DOCUMENTS)
    candidates = {row.query_id: RANKED for row in rows}
    mined = mine(examples, candidates, 3, ranks=(4, 9))
    counts = Counter(doc_id for row in mined.examples.rows for doc_id in row.negatives)
    assert counts.keys() == {f"d{number}" for number in range(3, 9)}
    assert min(counts.values()) > 150  # 200 each, deviation 10
    assert mined.n_candidates == 400 * 6 and mined.n_random == 0
    assert mine(examples, candidates, 3, ranks=(4, 9)).examples.rows == mined.examples.rows
    other = mine(examples, candidates, 3, ranks=(4, 9), seed=1).examples.rows
    assert other != mined.examples.rows
    # The negatives of a row do not depend on the other rows.
    alone = mine(Examples(rows[200:201], DOCUMENTS), candidates, 3, ranks=(4, 9))
    assert alone.examples.rows == mined.examples.rows[200:201]


@pytest.mark.parametrize(
    ("positive", "margins", "kept"),
    [
        (10.0, {"relative": 0.05}, {9.5, 9.0, -10.25, -20.0}),
        (10.0, {"relative": 0.0}, {10.0, 9.75, 9.5, 9.0, -10.25, -20.0}),
        (10.0, {"relative": 0.0, "absolute": 0.5}, {9.5, 9.0, -10.25, -20.0}),
        (10.0, {"relative": 0.05, "absolute": 0.25}, {9.0, -10.25, -20.0}),
        # The bound is below the positive's score even if that is negative.
        (-10.0, {"relative": 0.05}, {-20.0}),
    ],
)
def test_margin_leaves_out_what_may_be_positive(positive, margins, kept):
    scores = [11.0, 10.0, 9.75, 9.5, 9.0, -10.25, -20.0]
    judge = Judge({f"text {n}": score for n, score in enumerate(scores)} | {"text 39": positive})
    rows = [Example("q", "query", "d39")]
    candidates = {"q": RANKED[:7]}
    examples = Examples(rows, DOCUMENTS)
    mined = mine(examples, candidates, len(kept), judge=judge, **margins)
    found = {scores[int(doc_id[1:])] for doc_id in mined.examples.rows[0].negatives}
    assert found == kept
    assert mined[1:] == (7, 0, 0, 7 - len(kept), 0)


def test_judge_sees_the_positive_as_it_is_trained_on():
    seen = []

    def score(queries, documents):
        seen.extend(zip(queries, documents, strict=True))
        return np.ones(len(queries), np.float32)

    rows = [Example("q", "query", "d39", removed="39"), Example("p", "other", "d38")]
    candidates = {"q": RANKED[:2], "p": RANKED[:1]}
    mined = mine(Examples(rows, DOCUMENTS), candidates, 1, judge=SimpleNamespace(score=score))
    assert seen == [
        ("query", "text"),
        ("query", "text 0"),
        ("query", "text 1"),
        ("other", "text 38"),
        ("other", "text 0"),
    ]
    assert mined.n_margin == 3 and mined.n_random == 2


def test_what_is_lacking_is_drawn_from_the_collection():
    rows = [Example("q", "query", "d1"), Example("q", "query", "d2"), Example("p", "query", "d3")]
    candidates = {"q": RANKED[:4], "p": []}
    mined = mine(Examples(rows, DOCUMENTS), candidates, 30)
    assert mined.n_random == 28 + 28 + 30
    for row in mined.examples.rows:
        assert len(set(row.negatives)) == 30
        assert not mined.examples.positives[row.query_id] & set(row.negatives)
    assert {"d0", "d3"} <= set(mined.examples.rows[0].negatives)
    with pytest.raises(
        ValueError, match="query 'q': not 39 different negatives among 40 documents"
    ):
        mine(Examples(rows, DOCUMENTS), candidates, 39)


def test_scores_of_other_negatives_are_dropped():
    rows = [Example("q", "query", "d39", ("d30",), (2.0, 1.0))]
    mined = mine(Examples(rows, DOCUMENTS), {"q": RANKED}, 1)
    assert mined.examples.rows[0].scores is None


def test_refuses():
    examples = Examples([Example("q", "query", "d39")], DOCUMENTS)
    candidates = {"q": RANKED}
    with pytest.raises(ValueError, match="`n` must be at least 1, got 0"):
        mine(examples, candidates, 0)
    for ranks in ((0, 5), (6, 5)):
        with pytest.raises(ValueError, match=r"`ranks` must be 1 ≤ first ≤ last, got \("):
            mine(examples, candidates, 1, ranks=ranks)
    with pytest.raises(ValueError, match=r"margins must be at least 0, got -0\.1 and 0"):
        mine(examples, candidates, 1, relative=-0.1)
    with pytest.raises(ValueError, match="query 'q' has no candidates"):
        mine(examples, {}, 1)
    with pytest.raises(KeyError, match="d77"):
        mine(examples, {"q": [("d77", 1.0)]}, 1)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development collections in {SHARED}")
def test_bm25_finds_hard_negatives_in_a_real_collection():
    examples = load_examples(ExampleSource(str(SHARED / "mlquestions"), limit=300))
    bm25 = LexicalEncoder.fit(default_tokenizer(), [list(examples.documents.values())])
    candidates = sparse_candidates(examples, bm25, 50)
    mined = mine(examples, candidates, 4)
    assert mined.examples.n_negatives == 4
    # The positive is among the first 50 of most queries.
    assert 0.6 * 300 < mined.n_positive < 300
    assert mined.n_random < 10
