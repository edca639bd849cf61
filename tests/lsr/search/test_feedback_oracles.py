"""Feedback compared with loops over dictionaries, pyserini's vector feedback and Anserini's."""

import importlib.metadata
import importlib.util
import math
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from lsr.request import Feedback
from lsr.search.feedback import heaviest, move_dense, move_sparse


def assert_sound(vectors: csr_array) -> None:
    assert vectors.dtype == np.float32
    vectors.check_format(full_check=True)
    assert vectors.has_canonical_format and np.all(vectors.data > 0)


def cut_slowly(
    weights: dict[int, float], terms: int | None, mass: float | None, ratio: float | None
) -> list[int]:
    """Return the terms that the cuts keep, heaviest first."""
    ranked = sorted(weights, key=lambda term: (-weights[term], term))
    total, kept, held = math.fsum(weights.values()), [], 0.0
    for term in ranked:
        if mass is not None and mass < 1 and np.float32(held) >= np.float32(mass * total):
            break
        if ratio is not None and weights[term] < np.float32(ratio * weights[ranked[0]]):
            break
        if terms is not None and len(kept) == terms:
            break
        kept.append(term)
        held += weights[term]
    return kept


def rocchio_slowly(
    query: dict, relevant: list[dict], negatives: list[dict], setting: Feedback
) -> dict[int, float]:
    """Return the moved query before it is scaled, by loops over the vocabulary."""

    def unit(vector: dict, term: int) -> float:
        norm = math.sqrt(sum(weight * weight for weight in vector.values()))
        return vector.get(term, 0) / norm if norm else 0.0

    moved = {}
    for term in range(8):
        weight = unit(query, term)
        if setting.method == "average":
            weight = (weight + sum(unit(d, term) for d in relevant)) / (1 + len(relevant))
        else:
            weight *= setting.alpha
            weight += setting.beta * sum(unit(d, term) for d in relevant) / len(relevant)
            for negative in negatives:
                weight -= setting.gamma * unit(negative, term) / len(negatives)
        if np.float32(weight) > 0:
            moved[term] = float(np.float32(weight))
    own = [term for term in query if term in moved]
    passing = cut_slowly(moved, None, setting.mass, setting.ratio)
    others = [term for term in passing if term not in own]
    if setting.terms is not None:
        others = others[: max(setting.terms - len(own), 0)]
    return {term: moved[term] for term in sorted(own + others)}


VECTOR = st.dictionaries(st.integers(0, 7), st.integers(1, 20), max_size=8)
CUTS = {
    "terms": st.none() | st.integers(1, 8),
    "mass": st.none() | st.sampled_from([0.25, 0.5, 0.8, 0.95, 1]),
    "ratio": st.none() | st.sampled_from([0.1, 0.5, 0.8, 1]),
}


def rows_of(vectors: list[dict[int, float]]) -> csr_array:
    rows = [[vector.get(term, 0) for term in range(8)] for vector in vectors]
    return csr_array(np.array(rows, dtype=np.float32).reshape(-1, 8))


@given(
    VECTOR,
    st.lists(VECTOR, min_size=1, max_size=4),
    st.lists(VECTOR, max_size=2),
    st.fixed_dictionaries(
        {
            "method": st.sampled_from(["rocchio", "average"]),
            "alpha": st.sampled_from([0.3, 1]),
            "beta": st.sampled_from([0, 0.75, 1.3]),
            **CUTS,
        }
    ),
)
@settings(max_examples=150, deadline=None)
def test_rocchio_equals_the_oracle(query, relevant, negatives, options) -> None:
    setting = Feedback(**options, gamma=0.35 if negatives else 0, negatives=len(negatives))
    moved = move_sparse(
        rows_of([query]), rows_of(relevant), np.ones(len(relevant)), rows_of(negatives), setting
    )
    assert_sound(moved)
    expected = rocchio_slowly(query, relevant, negatives, setting) or query
    assert moved.indices.tolist() == sorted(expected)
    norm, length = (math.hypot(*vector.values()) for vector in (query, expected))
    scale = (norm or 1) / length if length else 0
    np.testing.assert_allclose(
        moved.data, [expected[term] * scale for term in sorted(expected)], rtol=1e-6
    )


@given(st.lists(VECTOR, max_size=5), st.fixed_dictionaries(CUTS))
@settings(max_examples=200, deadline=None)
def test_heaviest_equals_the_oracle(vectors, cuts) -> None:
    result = heaviest(rows_of(vectors), **cuts)
    expected = [{term: row[term] for term in cut_slowly(row, **cuts)} for row in vectors]
    np.testing.assert_array_equal(result.toarray(), rows_of(expected).toarray())


@given(
    VECTOR.filter(bool),
    st.lists(VECTOR, min_size=1, max_size=4),
    st.lists(st.integers(-50, 500), min_size=4, max_size=4),
    st.integers(1, 8),
)
@settings(deadline=None)
def test_relevance_model_equals_a_slow_one(query, relevant, scores, terms) -> None:
    setting = Feedback(method="relevance-model", alpha=0.6, beta=0.4, terms=terms)
    first_pass = [max(score, 0) for score in scores[: len(relevant)]]
    if not any(first_pass):
        first_pass = [1] * len(relevant)
    first_pass = [score / sum(first_pass) for score in first_pass]
    model = dict.fromkeys(range(8), 0.0)
    for score, document in zip(first_pass, relevant, strict=True):
        for term, weight in document.items():
            model[term] += weight / sum(document.values()) * score
    # In float32, where terms of equal weight are equal.
    ranked = sorted(model, key=lambda term: (-np.float32(model[term]), term))[:terms]
    mass = sum(model[term] for term in ranked) or 1
    moved = {term: 0.4 * model[term] / mass for term in ranked if model[term] > 0}
    if moved:
        for term, weight in query.items():
            moved[term] = moved.get(term, 0) + 0.6 * weight / sum(query.values())
    else:
        moved = {term: weight / sum(query.values()) for term, weight in query.items()}
    result = move_sparse(
        rows_of([query]),
        rows_of(relevant),
        np.array(scores[: len(relevant)], dtype=float),
        rows_of([]),
        setting,
    )
    assert_sound(result)
    assert set(query) <= set(result.indices.tolist()) <= set(moved)
    assert result.nnz == min(len(moved), max(terms, len(query)))
    # Kept terms keep their proportions, and no heavier term was left out.
    kept = np.array([moved[term] for term in result.indices.tolist()])
    expected = kept / np.linalg.norm(kept) * math.hypot(*query.values())
    np.testing.assert_allclose(result.data, expected, rtol=1e-5)
    added = [moved[term] for term in result.indices.tolist() if term not in query]
    left = [moved[term] for term in set(moved) - set(result.indices.tolist())]
    assert not added or not left or min(added) >= max(left) * (1 - 1e-6)


# pyserini and Anserini.


@pytest.fixture
def pyserini_prf(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """pyserini's module of vector feedback, loaded from its file.

    Importing it by name starts a Java VM and an OpenAI client. It needs two classes for type
    annotations, whose modules are replaced by empty ones.
    """
    for name, attribute in (
        ("pyserini.encode", "AnceQueryEncoder"),
        ("pyserini.search.lucene", "LuceneSearcher"),
    ):
        stub = ModuleType(name)
        setattr(stub, attribute, object)
        monkeypatch.setitem(sys.modules, name, stub)
    files = importlib.metadata.files("pyserini") or []
    path = next(file for file in files if str(file).endswith("search/faiss/_prf.py")).locate()
    spec = importlib.util.spec_from_file_location("pyserini_prf", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("n_negatives", [0, 1, 4])
def test_dense_equals_pyserini(pyserini_prf: ModuleType, n_negatives: int) -> None:
    rng = np.random.default_rng(n_negatives)
    vectors = rng.normal(size=(11, 24)).astype(np.float32)
    query, documents = vectors[0], vectors[1:]
    candidates = [pyserini_prf.PrfDenseSearchResult(f"d{i}", 1, v) for i, v in enumerate(documents)]

    average = pyserini_prf.DenseVectorAveragePrf().get_batch_prf_q_emb(
        ["q"], query[None], {"q": candidates[:3]}
    )
    moved = move_dense(query, documents[:3], documents[10:], Feedback(method="average"))
    np.testing.assert_allclose(moved, average[0], rtol=1e-5, atol=1e-6)

    rocchio = pyserini_prf.DenseVectorRocchioPrf(0.4, 0.6, 0.15, 5, n_negatives)
    expected = rocchio.get_batch_prf_q_emb(["q"], query[None], {"q": candidates})
    setting = Feedback(
        alpha=0.4, beta=0.6, gamma=0.15 if n_negatives else 0, documents=5, negatives=n_negatives
    )
    moved = move_dense(query, documents[:5], documents[10 - n_negatives :], setting)
    np.testing.assert_allclose(moved, expected[0], rtol=1e-5, atol=1e-6)


ANALYZER = "org.apache.lucene.analysis.core.WhitespaceAnalyzer"
WIDTH = 60
N_FEEDBACK = 10
SCORES = [2.0 * (N_FEEDBACK - i) for i in range(N_FEEDBACK)]


@pytest.fixture(scope="module")
def feedback_documents() -> np.ndarray:
    """Ten documents with integer weights, since Anserini's weights are term frequencies."""
    rng = np.random.default_rng(3)
    return rng.integers(1, 9, (N_FEEDBACK, WIDTH)) * (rng.random((N_FEEDBACK, WIDTH)) < 0.2)


@pytest.fixture(scope="module")
def anserini(feedback_documents: np.ndarray):
    """A function that moves a query by Anserini's classes: (class, arguments, query) → (WIDTH,).

    They move the query inside a search: the documents are the first results in an index in memory,
    and terms are named so that no filter removes them (several letters, and in few documents).
    """
    from lsr.indexes.jvm import call, engine_class

    def text(weights: np.ndarray) -> str:
        return " ".join(f"t{term}" for term, n in enumerate(weights) for _ in range(n))

    def open_index():
        engine_class()
        from jnius import autoclass

        lucene = "org.apache.lucene"
        directory = autoclass(f"{lucene}.store.ByteBuffersDirectory")()
        settings = autoclass(f"{lucene}.index.IndexWriterConfig")(autoclass(ANALYZER)())
        writer = autoclass(f"{lucene}.index.IndexWriter")(directory, settings)
        kind = autoclass(f"{lucene}.document.FieldType")(
            autoclass(f"{lucene}.document.TextField").TYPE_NOT_STORED
        )
        kind.setStoreTermVectors(True)
        stored = autoclass(f"{lucene}.document.Field$Store").YES
        for i, line in enumerate([*map(text, feedback_documents), *["filler"] * 200]):
            document = autoclass(f"{lucene}.document.Document")()
            document.add(autoclass(f"{lucene}.document.StringField")("id", f"d{i}", stored))
            document.add(
                autoclass(f"{lucene}.document.Field")(
                    "contents",
                    autoclass("java.io.StringReader")(line),
                    kind,
                    signature="(Ljava/lang/String;Ljava/io/Reader;"
                    "Lorg/apache/lucene/index/IndexableFieldType;)V",
                )
            )
            writer.addDocument(document)
        writer.close()
        return autoclass(f"{lucene}.search.IndexSearcher")(
            autoclass(f"{lucene}.index.DirectoryReader").open(directory),
            signature="(Lorg/apache/lucene/index/IndexReader;)V",
        )

    searcher = call(open_index)

    def move(name: str, arguments: list, query: np.ndarray) -> np.ndarray:
        from jnius import autoclass

        everything = autoclass("org.apache.lucene.search.MatchAllDocsQuery")()
        top = searcher.search(everything, N_FEEDBACK)
        for hit, score in zip(top.scoreDocs, SCORES, strict=True):
            hit.score = score
        found = autoclass("io.anserini.search.ScoredDocs").fromTopDocs(top, searcher)
        assert found.docids == [f"d{i}" for i in range(N_FEEDBACK)]
        assert found.scores == SCORES
        options = autoclass("io.anserini.search.SearchCollection$Args")()
        options.arbitraryScoreTieBreak = True
        tokens = autoclass("java.util.ArrayList")()
        for token in text(query).split():
            tokens.add(token)
        context = autoclass("io.anserini.rerank.RerankerContext")(
            searcher, "q", everything, None, text(query), tokens, None, options
        )
        reranker = autoclass(f"io.anserini.rerank.lib.{name}")(
            autoclass(ANALYZER)(), None, "contents", *arguments
        )
        reranker.rerank(found, context)
        terms = context.feedbackTerms
        return np.array([terms.get(f"t{term}") or 0 for term in range(WIDTH)])

    return lambda *arguments: call(move, *arguments)


def own_move(
    query: np.ndarray, documents: np.ndarray, negatives: np.ndarray, setting: Feedback
) -> np.ndarray:
    sides = [csr_array(np.atleast_2d(side).astype(np.float32)) for side in (query, documents)]
    scores = np.array(SCORES[: len(documents)])
    negative = csr_array(negatives.astype(np.float32))
    return move_sparse(*sides, scores, negative, setting).toarray()[0]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def mean_norm(documents: np.ndarray) -> float:
    """The norm of the mean of unit vectors, which Anserini normalises again but lsr does not."""
    return float(np.linalg.norm(np.mean([unit(document) for document in documents], axis=0)))


@pytest.mark.parametrize("gamma", [0, 0.15])
@pytest.mark.parametrize("k", [1, 5])
def test_rocchio_equals_anserini(anserini, feedback_documents, gamma: float, k: int) -> None:
    """All terms are kept: of fewer, Anserini keeps the mean's heaviest, lsr the moved query's."""
    query = feedback_documents[0] * 0
    query[[0, 7, 30]] = 3, 1, 2
    # Terms and documents for the first k, then for the last 4; α, β, γ, whether to print, to use γ.
    arguments = [100, k, 100, 4, 1.0, 0.75, gamma, False, gamma > 0]
    theirs = anserini("RocchioReranker", arguments, query)
    relevant, negatives = feedback_documents[:k], feedback_documents[-4:]
    setting = Feedback(
        beta=0.75 / mean_norm(relevant),
        gamma=gamma / mean_norm(negatives),
        negatives=4 if gamma else 0,
        terms=None,
    )
    ours = own_move(query, relevant, negatives if gamma else negatives[:0], setting)
    assert (theirs > 0).sum() > 5
    np.testing.assert_allclose(unit(ours), unit(theirs), rtol=1e-5)


@pytest.mark.parametrize("terms", [20, 100])
def test_relevance_model_equals_anserini(anserini, feedback_documents, terms: int) -> None:
    """The query is the model's heaviest term, so that both implementations keep `terms` terms.

    Each document has fewer terms than `terms`, by which Anserini would cut documents too.
    """
    documents = feedback_documents[:4]
    assert (documents > 0).sum(axis=1).max() < 20 < (documents > 0).any(axis=0).sum()
    query = np.zeros(WIDTH, dtype=int)
    query[np.argmax(SCORES[:4] @ (documents / documents.sum(axis=1, keepdims=True)))] = 2
    # Terms, documents, α of α + β = 1, whether to print, whether to filter.
    theirs = anserini("Rm3Reranker", [terms, 4, 0.3, False, False], query)
    setting = Feedback(method="relevance-model", alpha=0.3, beta=0.7, terms=terms)
    ours = own_move(query, documents, documents[:0], setting)
    assert (ours > 0).sum() == min(terms, (documents > 0).any(axis=0).sum())
    np.testing.assert_allclose(unit(ours), unit(theirs), rtol=1e-5)
