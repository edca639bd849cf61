"""lsr/encoders/dense.py with a tiny random BERT, and once with the packaged model."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from lsr.encoders.dense import DenseEncoder, dense_name
from lsr.encoders.load import trunk_path

QUERIES = ["w1 w2 w3", "w7", ""]


@pytest.fixture
def model_path(save_model, tmp_path):
    """A sentence-transformers directory with prompts."""
    model = SentenceTransformer(save_model(head=False), device="cpu")
    model.prompts = {"query": "w5 w6 ", "document": ""}
    model.similarity_fn_name = "cosine"
    model.save(str(tmp_path / "dense"), create_model_card=False)
    return tmp_path / "dense"


@torch.inference_mode()
def mean_pooled(path, texts):
    """Means of the token states, each text alone, not normalised."""
    tokenizer, model = (kind.from_pretrained(path) for kind in (AutoTokenizer, AutoModel))
    vectors = []
    for text in texts:
        states = model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        vectors.append(states.mean(0).numpy())
    return np.array(vectors)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_vectors_with_prompts_and_normalised_for_cosine(model_path, texts):
    encoder = DenseEncoder(model_path, device="cpu")
    documents = encoder.encode_documents(texts)
    assert documents.dtype == np.float32 and documents.shape == (len(texts), 32)
    assert encoder.dimension == 32
    np.testing.assert_allclose(documents, unit(mean_pooled(model_path, texts)), atol=2e-6)
    queries = encoder.encode_queries(QUERIES)
    prompted = mean_pooled(model_path, ["w5 w6 " + text for text in QUERIES])
    np.testing.assert_allclose(queries, unit(prompted), atol=2e-6)
    assert encoder.encode_documents([]).shape == encoder.encode_queries([]).shape == (0, 32)


def test_vectors_for_inner_products_are_as_they_are(model_path, texts):
    model = SentenceTransformer(str(model_path), device="cpu", similarity_fn_name="dot")
    vectors = DenseEncoder(model).encode_documents(texts[:9])
    np.testing.assert_allclose(vectors, mean_pooled(model_path, texts[:9]), atol=1e-5)


def test_the_packaged_model_is_the_default():
    texts = ["Heat flows through a plate.", "wing theory"]
    expected = unit(mean_pooled(trunk_path(), texts))
    encoder = DenseEncoder("default", device="cpu")
    np.testing.assert_allclose(encoder.encode_documents(texts), expected, atol=1e-5)
    assert (encoder.name, encoder.dimension) == ("default", 384)
    assert DenseEncoder().name == "default"


def test_fingerprints_follow_all_that_vectors_depend_on(model_path):
    def fingerprint(change=lambda model: None):
        model = SentenceTransformer(str(model_path), device="cpu")
        change(model)
        return DenseEncoder(model).fingerprint

    def weights(model):
        with torch.no_grad():
            next(model.parameters())[0, 0] += 1

    changes = [
        weights,
        lambda model: setattr(model, "max_seq_length", 17),
        lambda model: setattr(model, "similarity_fn_name", "dot"),
        lambda model: model.prompts.update(query="w9 "),
    ]
    before = DenseEncoder(model_path, device="cpu").fingerprint
    assert fingerprint() == before
    assert len({before, *map(fingerprint, changes)}) == 5


def test_other_weights_than_expected_are_refused_when_they_are_loaded(model_path):
    sha256 = DenseEncoder(model_path, device="cpu").fingerprint
    assert len(DenseEncoder(model_path, sha256=sha256, device="cpu").encode_queries(["w1"])) == 1
    other = DenseEncoder(model_path, sha256="0" * 64, device="cpu")
    with pytest.raises(ValueError, match=rf"other weights \(sha256 {sha256[:12]}\) than those the"):
        other.encode_queries(["w1"])


def test_other_similarities_are_refused(model_path):
    model = SentenceTransformer(str(model_path), device="cpu", similarity_fn_name="euclidean")
    with pytest.raises(ValueError, match="must compare by 'cosine' or 'dot', got 'euclidean'"):
        DenseEncoder(model).encode_queries(["w1"])


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert dense_name("model") == str(tmp_path / "model")
    assert [dense_name(name) for name in ("default", "some/model")] == ["default", "some/model"]
    with pytest.raises(FileNotFoundError, match="no encoder 'nowhere/nothing'"):
        _ = DenseEncoder("nowhere/nothing").model


def test_threads_get_what_one_gets(model_path, texts):
    encoder = DenseEncoder(model_path, device="cpu")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: encoder.encode_queries([text])[0], texts))
    alone = DenseEncoder(model_path, device="cpu")
    assert all((alone.encode_queries([t])[0] == v).all() for t, v in zip(texts, found, strict=True))


def test_nothing_is_loaded_before_it_is_needed():
    code = (
        "import sys; from lsr.encoders.dense import DenseEncoder; DenseEncoder('default'); "
        "assert not {'torch', 'sentence_transformers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
