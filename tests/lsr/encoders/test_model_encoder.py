"""lsr/encoders/model_encoder.py compared with the models that it wraps."""

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

from lsr.encoders import model_encoder
from lsr.encoders.autoencoder import AutoencoderConfig, build_autoencoder
from lsr.encoders.build import ModelConfig, build_model
from lsr.encoders.decoder_lm import DecoderConfig, build_decoder
from lsr.encoders.model_encoder import ModelEncoder, handles, open_model
from lsr.encoders.tokens import vocabulary
from lsr.vectors import prune

KINDS = {
    "causal": {"attention": "causal"},
    "echo, folded": {"attention": "echo", "fold": True},
    "inference-free": {"attention": "bidirectional", "queries": "idf", "fold": True},
    "adapter": {"attention": "echo", "lora": "lion"},
    "stock": {"attention": "bidirectional", "calibrate_terms": None},
}


@pytest.fixture
def build(save_decoder, sentences):
    def of(kind):
        path = save_decoder("Qwen3", "$A", extra_rows=0) if kind == "stock" else save_decoder()
        given = {"max_length": 24, "query_max_length": 6, "calibrate_terms": 40} | KINDS[kind]
        return build_decoder(DecoderConfig(path, **given), sentences)

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_the_models_own_in_the_order_of_the_texts(
    kind, build, sentences, tmp_path, monkeypatch
):
    monkeypatch.setattr(model_encoder, "BLOCK", 5)
    monkeypatch.setattr(model_encoder, "BATCH", 2)
    model = build(kind)
    model.save(str(tmp_path / "saved"))
    encoder = open_model(tmp_path / "saved", device="cpu")
    assert handles(encoder.model)
    texts = ["wing", *sentences, "a", "heat transfer", *reversed(sentences)]
    documents = encoder.encode_documents(texts)
    queries = encoder.encode_queries(texts)
    for found, expected in (
        (documents, model.encode_document(texts)),
        (queries, model.encode_query(texts)),
    ):
        assert found.dtype == np.float32 and found.has_sorted_indices
        np.testing.assert_allclose(
            found.toarray(), expected.to_dense().numpy(), rtol=1e-4, atol=1e-4
        )
    kept = encoder.encode_documents(texts, top_k=7)
    assert np.diff(kept.indptr).max() == 7
    np.testing.assert_allclose(kept.toarray(), prune(documents, 7).toarray())
    assert encoder.encode_documents([]).shape == (0, len(encoder.vocabulary))


def test_vocabularies(build, sentences):
    plain, folded = ModelEncoder(build("causal")), ModelEncoder(build("echo, folded"))
    assert plain.vocabulary == vocabulary(plain.tokenizer)
    assert folded.vocabulary == folded.model[-1].terms
    assert len(set(folded.vocabulary)) == len(folded.vocabulary) < len(plain.vocabulary)
    autoencoder = build_autoencoder(AutoencoderConfig(hidden_dim=64, k=4, k_aux=8))
    latents = ModelEncoder(autoencoder)
    assert latents.vocabulary[:2] == ["latent-0", "latent-1"] and len(latents.vocabulary) == 64
    own = [
        {encoder.vocabulary[term] for term in encoder.own_terms("Wing theory <s>")}
        for encoder in (plain, folded, latents)
    ]
    assert {"Wing", "Ġtheory"} <= own[0] and {"wing", "theory"} <= own[1] and own[2] == set()


def test_fingerprints_are_of_the_weights(build, tmp_path):
    model = build("echo, folded")
    model.save(str(tmp_path / "saved"))
    prints = [open_model(tmp_path / "saved", device="cpu").fingerprint for _ in range(2)]
    assert prints[0] == prints[1] and len(prints[0]) == 64
    for number, name in ((1, "bias"), (2, "places")):
        model = SparseEncoder(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
        with torch.no_grad():
            getattr(model[number], name)[5] += 1
        prints.append(ModelEncoder(model).fingerprint)
    assert len(set(prints)) == 3


def test_16_bits_are_near_and_the_shift_stays_in_32(build, sentences):
    exact = ModelEncoder(build("echo, folded")).encode_documents(sentences).toarray()
    encoder = ModelEncoder(build("echo, folded"), dtype=torch.bfloat16)
    assert encoder.model[1].bias.dtype == torch.float32
    rounded = encoder.encode_documents(sentences).toarray()
    assert rounded.dtype == np.float32
    assert 0 < np.linalg.norm(rounded - exact) < 0.1 * np.linalg.norm(exact)


def test_what_it_is_not_for(build, save_model, texts):
    masked = build_model(ModelConfig(base=save_model(), calibrate_terms=25), texts)
    assert not handles(masked)
    static = SparseStaticEmbedding(masked.tokenizer)
    with pytest.raises(ValueError, match=r"must end in SparseAutoEncoder, .*\['SparseStaticEmbe"):
        ModelEncoder(SparseEncoder(modules=[static], device="cpu"))
    with pytest.raises(ValueError, match="`dtype` must be torch.float32 or torch.bfloat16, got"):
        ModelEncoder(build("causal"), dtype=torch.float16)
    with pytest.raises(ValueError, match="`top_k` must be at least 1, got 0"):
        ModelEncoder(build("causal")).encode_documents(["wing"], top_k=0)


@pytest.mark.parametrize("kind", ["causal", "stock"])
def test_prompts_and_limits_are_those_of_sentence_transformers(kind, build, sentences, tmp_path):
    model = build(kind)
    model.save(str(tmp_path / "without"))
    model.prompts = {"query": "wing ", "document": "heat transfer "}
    model.max_active_dims = 5
    model.save(str(tmp_path / "with"))
    plain = open_model(tmp_path / "without", device="cpu")
    encoder = open_model(tmp_path / "with", device="cpu")
    for found, expected in (
        (encoder.encode_documents(sentences), model.encode_document(sentences)),
        (encoder.encode_queries(sentences), model.encode_query(sentences)),
    ):
        np.testing.assert_allclose(
            found.toarray(), expected.to_dense().numpy(), rtol=1e-4, atol=1e-4
        )
    assert encoder.fingerprint != plain.fingerprint
    encoder.model.prompts, encoder.model.max_active_dims = {"query": "", "document": ""}, None
    del encoder.fingerprint
    assert encoder.fingerprint == plain.fingerprint


def test_the_fingerprint_of_an_autoencoder_is_that_of_its_weights():
    """`max_active_dims` is the autoencoder's own k, so it must not change the fingerprint."""
    autoencoder = build_autoencoder(AutoencoderConfig(hidden_dim=64, k=4, k_aux=8))
    encoder = ModelEncoder(autoencoder)
    before = encoder.fingerprint
    assert autoencoder.max_active_dims == 4
    autoencoder.max_active_dims = None
    assert ModelEncoder(autoencoder).fingerprint == before


def test_routes_by_other_names(build, sentences, tmp_path):
    model = build("inference-free")
    router = model[0]
    sides = [list(router.sub_modules[name]) for name in ("query", "document")]
    renamed = Router(
        dict(zip("ab", sides, strict=True)),
        route_mappings={("query", None): "a", ("document", None): "b"},
    )
    SparseEncoder(modules=[renamed], device="cpu").save(str(tmp_path / "renamed"))
    encoder = open_model(tmp_path / "renamed", device="cpu")
    expected = model.encode_document(sentences).to_dense().numpy()
    np.testing.assert_allclose(
        encoder.encode_documents(sentences).toarray(), expected, rtol=1e-4, atol=1e-4
    )
