import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForSequenceClassification

from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import default_tokenizer, trunk_path
from lsr.training import teachers
from lsr.training.examples import Example, Examples
from lsr.training.teachers import (
    CrossTeacher,
    DenseTeacher,
    FileTeacher,
    SparseTeacher,
    align,
    ensemble,
)

QUERIES = ["what is a cat", "heat flow", "what is a cat", "the moon"]
DOCUMENTS = [
    "The cat sat on the mat.",
    "Heat flows through a plate of steel, from hot to cold.",
    "Heat flows through a plate of steel, from hot to cold.",
    "",
]


@pytest.fixture(scope="module")
def dense():
    return DenseTeacher(batch_size=2, device="cpu")


@torch.inference_mode()
def mean_pooled(texts):
    """Encode with the packaged model by hand: mean token states, each text alone, unit length."""
    tokenizer, model = (kind.from_pretrained(trunk_path()) for kind in (AutoTokenizer, AutoModel))
    vectors = []
    for text in texts:
        states = model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        vectors.append(torch.nn.functional.normalize(states.mean(0), dim=0).numpy())
    return np.array(vectors)


def test_dense_is_the_cosine_of_mean_pooled_states(dense):
    expected = (mean_pooled(QUERIES) * mean_pooled(DOCUMENTS)).sum(1)
    scores = dense.score(QUERIES, DOCUMENTS)
    assert scores.dtype == np.float32 and scores.shape == (4,)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert scores[0] > scores[3] and scores[1] > scores[2]


def test_documents_are_encoded_once_while_there_is_room(dense, monkeypatch):
    encoded = []
    encode = dense.model.encode_document
    monkeypatch.setattr(
        dense.model,
        "encode_document",
        lambda texts, **kw: encoded.extend(texts) or encode(texts, **kw),
    )
    monkeypatch.setattr(dense, "_memory", {})
    monkeypatch.setattr(teachers, "REMEMBERED", 3)
    vectors = dense.encode_documents(["a", "b", "a"])
    assert encoded == ["a", "b"]
    assert (vectors[0] == vectors[2]).all()
    dense.encode_documents(["b", "c", "c"])
    assert encoded == ["a", "b", "c"]
    dense.encode_documents(["a", "d"])  # four are too many to remember
    assert encoded == ["a", "b", "c", "a", "d"]
    assert dense._memory.keys() == {"a", "d"}


def test_dense_compares_as_the_model_says(dense, monkeypatch):
    monkeypatch.setattr(dense.model, "similarity_fn_name", "dot")
    module = dense.model[2]
    monkeypatch.setattr(module, "forward", lambda features: features)
    dot = DenseTeacher(dense.model).score(QUERIES, DOCUMENTS)
    monkeypatch.setattr(dense.model, "similarity_fn_name", "cosine")
    cosine = DenseTeacher(dense.model).score(QUERIES, DOCUMENTS)
    assert dot[0] > 2 * cosine[0]  # vectors are longer than 1
    monkeypatch.setattr(dense.model, "similarity_fn_name", "euclidean")
    with pytest.raises(ValueError, match="must compare by 'cosine' or 'dot', got 'euclidean'"):
        DenseTeacher(dense.model)


def test_sparse_is_the_dot_product_of_the_encoder():
    encoder = LexicalEncoder.fit(default_tokenizer(), [DOCUMENTS])
    teacher = SparseTeacher(encoder)
    expected = (
        encoder.encode_queries(QUERIES).toarray() * encoder.encode_documents(DOCUMENTS).toarray()
    ).sum(1)
    for _ in range(2):  # the second time from memory
        np.testing.assert_allclose(teacher.score(QUERIES, DOCUMENTS), expected, rtol=1e-6)
    assert expected[0] > expected[2] > 0 and expected[1] > 0 and expected[3] == 0
    assert teacher.fingerprint == encoder.fingerprint


@pytest.fixture(scope="module")
def cross_path(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = default_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
    )
    path = tmp_path_factory.mktemp("cross")
    BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@torch.inference_mode()
def test_cross_encoder_gives_logits(cross_path):
    teacher = CrossTeacher(cross_path, batch_size=3, device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(cross_path)
    model = BertForSequenceClassification.from_pretrained(cross_path).eval()
    documents = [*DOCUMENTS[:3], "It orbits the earth."]
    expected = [
        model(**tokenizer(query, document, return_tensors="pt")).logits.item()
        for query, document in zip(QUERIES, documents, strict=True)
    ]
    scores = teacher.score(QUERIES, documents)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert len(set(expected)) == 4


def test_cross_encoder_of_several_labels_is_refused(cross_path):
    teacher = CrossTeacher(cross_path, device="cpu")
    teacher.model.model.config.num_labels = 2
    with pytest.raises(ValueError, match="must have 1 label, got 2"):
        CrossTeacher(teacher.model)


def test_fingerprints_follow_the_weights(cross_path):
    teacher = CrossTeacher(cross_path, device="cpu")
    before = teacher.fingerprint
    assert before == CrossTeacher(cross_path, device="cpu").fingerprint
    with torch.no_grad():
        next(teacher.model.parameters())[3, 2] += 1
    assert teacher.fingerprint != before


@pytest.fixture
def examples():
    rows = [
        Example("q1", "one", "a", ("b",)),
        Example("q2", "two", "b", ("c",)),
        Example("q2", "two", "c", ("a",), removed="se"),
    ]
    return Examples(rows, {"a": "first", "b": "second", "c": "third sentence"})


SCORES = "q1\ta\t1\nq1\tb\t2\nq2\tb\t3\nq2\tc\t4\nq2\ta\t5\nq3\ta\t6\n"


def test_scores_from_a_file_are_found_by_text(tmp_path, examples):
    path = tmp_path / "llm.tsv"
    path.write_text(SCORES)
    teacher = FileTeacher(path, examples)
    scores = teacher.score(["two", "one", "two"], ["second", "first", "third sentence"])
    assert scores.tolist() == [3.0, 1.0, 4.0]
    assert teacher.score(["two"], ["third ntence"]).tolist() == [4.0]
    with pytest.raises(KeyError, match="no score for query 'one' and a document"):
        teacher.score(["one"], ["third sentence"])


def test_file_that_lacks_a_pair(tmp_path, examples):
    path = tmp_path / "llm.tsv"
    path.write_text(SCORES.replace("q2\tc\t4\n", "").replace("q1\ta", "q1\tc"))
    with pytest.raises(
        ValueError, match="no score for 2 of 5 pairs, such as query 'q1' and document 'a'"
    ):
        FileTeacher(path, examples)


def test_fingerprint_of_a_file_is_that_of_the_scores_in_use(tmp_path, examples):
    path = tmp_path / "llm.tsv"

    def fingerprint(content):
        path.write_text(content)
        return FileTeacher(path, examples).fingerprint

    shuffled = "".join(reversed(SCORES.splitlines(keepends=True)))
    assert fingerprint(SCORES) == fingerprint(shuffled) == fingerprint(SCORES + "q9\tb\t1\n")
    assert fingerprint(SCORES) != fingerprint(SCORES.replace("\t5", "\t5.5"))


def test_ensemble_by_hand():
    one = np.array([[0.0, 5.0, 10.0], [7.0, 7.0, 7.0]], np.float32)
    other = np.array([[-1.0, 1.0, -3.0], [0.0, 0.0, 1.0]], np.float32)
    # Normalised: 0, ½, 1 and 0, 0, 0; ½, 1, 0 and 0, 0, 1.
    combined = ensemble([one, other])
    assert combined.dtype == np.float32
    np.testing.assert_allclose(combined, [[7.5, 22.5, 15.0], [0.0, 0.0, 15.0]], rtol=1e-5)
    np.testing.assert_allclose(ensemble([one], scale=2.0)[0], [0.0, 1.0, 2.0], rtol=1e-6)
    # 1e-6 in the denominator, as released.
    tiny = ensemble([np.array([[0.0, 1e-6]])], scale=1.0)
    np.testing.assert_allclose(tiny, [[0.0, 0.5]])


def test_ensemble_by_weights():
    one, other = np.array([[0.0, 5.0, 10.0]]), np.array([[3.0, 3.0, 1.0]])
    combined = ensemble([one, other], scale=2.0, weights=[3.0, 1.0])
    np.testing.assert_allclose(combined, [[0.5, 1.25, 1.5]], rtol=1e-5)
    np.testing.assert_array_equal(
        ensemble([one, other], weights=[2.0, 2.0]), ensemble([one, other])
    )


def test_ensemble_does_not_see_a_teachers_scale():
    scores = np.random.default_rng(0).standard_normal((5, 4))
    np.testing.assert_allclose(ensemble([scores * 1000 - 7]), ensemble([scores]), rtol=1e-4)


def test_aligned_by_hand():
    reference = np.array([[10.0, -2.0], [4.0, 0.0]])  # mean 3, variance 21
    other = np.array([[1.0, 3.0], [9.0, 5.0]])
    # Means of the normalised: ½, ½; 1, 0. Mean ½, deviation √⅛; deviation √21.
    slope = np.sqrt(21 * 8)
    expected = [[3.0, 3.0], [3 + slope / 2, 3 - slope / 2]]
    np.testing.assert_allclose(align([reference, other]), expected, atol=1e-4)
    aligned = align([other, reference], reference=1)
    np.testing.assert_allclose(aligned, expected, atol=1e-4)
    np.testing.assert_allclose([aligned.mean(), aligned.std()], [3.0, np.sqrt(21)], rtol=1e-4)
    equal = np.ones((2, 2))
    assert align([equal]).tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("combine", [ensemble, align])
def test_combining_refuses(combine):
    with pytest.raises(ValueError, match=r"one shape \(B, m\), got \[\(2, 2\), \(2, 3\)\]"):
        combine([np.ones((2, 3)), np.ones((2, 2))])
    with pytest.raises(ValueError, match=r"one shape \(B, m\), got \[\(3,\)\]"):
        combine([np.ones(3)])
    with pytest.raises(ValueError, match=r"one shape \(B, m\), got \[\]"):
        combine([])


def test_align_refuses():
    with pytest.raises(ValueError, match=r"`reference` must be in \[0, 0\], got 1"):
        align([np.ones((1, 2))], reference=1)
