"""Checkpoints made here, small and random, load to the vectors of sentence-transformers."""

import json

import numpy as np
import pytest
import torch

from lsr.encoders.load import load_encoder, trunk_path
from lsr.encoders.tokens import special_ids

TEXTS = [
    "boundary layer flow over a flat plate",
    "heat transfer",
    "",
    "the compressible boundary layer in unexpectedly turbulent flow " * 3,
]


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(trunk_path())


def masked_lm(kind, n_terms):
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        DistilBertConfig,
        DistilBertForMaskedLM,
    )

    torch.manual_seed(3)
    if kind == "distilbert":
        return DistilBertForMaskedLM(
            DistilBertConfig(vocab_size=n_terms, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
        )
    return BertForMaskedLM(
        BertConfig(
            vocab_size=n_terms,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            initializer_range=0.5,
        )
    )


def save_masked_lm(path, tokenizer, kind="bert", n_terms=None):
    masked_lm(kind, n_terms or len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def assert_equal_except_special(ours, theirs, tokenizer):
    expected = theirs.to_dense().numpy().copy()
    expected[:, special_ids(tokenizer)] = 0.0
    assert np.count_nonzero(expected) > 0
    np.testing.assert_allclose(ours.toarray(), expected, rtol=1e-4, atol=1e-5)
    assert not np.isin(ours.indices, special_ids(tokenizer)).any()


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_siamese_equals_sentence_transformers(tmp_path, tokenizer, kind, activation, pooling):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    plain = save_masked_lm(tmp_path / "plain", tokenizer, kind)
    stock = SparseEncoder(
        modules=[
            Transformer(plain, transformer_task="fill-mask", max_seq_length=24),
            SpladePooling(pooling_strategy=pooling, activation_function=activation),
        ],
        device="cpu",
    )
    stock.save(str(tmp_path / "stock"))
    ours = load_encoder(str(tmp_path / "stock"), torch.float32)
    assert_equal_except_special(
        ours.encode_documents(TEXTS), stock.encode_document(TEXTS), tokenizer
    )
    assert_equal_except_special(ours.encode_queries(TEXTS), stock.encode_query(TEXTS), tokenizer)


def test_bfloat16_is_close_to_float32(tmp_path, tokenizer):
    path = save_masked_lm(tmp_path / "plain", tokenizer)
    exact = load_encoder(path, torch.float32).encode_documents(TEXTS).toarray()
    rounded = load_encoder(path, torch.bfloat16).encode_documents(TEXTS).toarray()
    assert not np.array_equal(exact, rounded)
    assert np.linalg.norm(exact - rounded) < 0.03 * np.linalg.norm(exact)
    with pytest.raises(ValueError, match="`dtype` must be torch.float32 or torch.bfloat16"):
        load_encoder(path, torch.float16)


def test_inference_free_router_equals_sentence_transformers(tmp_path, tokenizer):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

    plain = save_masked_lm(tmp_path / "plain", tokenizer)
    weights = torch.rand(len(tokenizer))
    router = Router.for_query_document(
        query_modules=[SparseStaticEmbedding(tokenizer, weight=weights, frozen=True)],
        document_modules=[
            Transformer(plain, transformer_task="fill-mask", max_seq_length=24),
            SpladePooling(),
        ],
    )
    stock = SparseEncoder(modules=[router], device="cpu")
    stock.save(str(tmp_path / "stock"))
    ours = load_encoder(str(tmp_path / "stock"), torch.float32)
    assert_equal_except_special(
        ours.encode_documents(TEXTS), stock.encode_document(TEXTS), tokenizer
    )
    assert_equal_except_special(ours.encode_queries(TEXTS), stock.encode_query(TEXTS), tokenizer)


def test_separate_query_encoder_and_lengths_by_task_equal_sentence_transformers(
    tmp_path, tokenizer
):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    def modules(kind, **lengths):
        plain = save_masked_lm(tmp_path / kind, tokenizer, kind)
        return [
            Transformer(plain, transformer_task="fill-mask", max_seq_length=20, **lengths),
            SpladePooling(),
        ]

    siamese = SparseEncoder(
        modules=modules("bert", query_length=6, document_length=12), device="cpu"
    )
    router = Router.for_query_document(
        query_modules=modules("distilbert", query_length=7), document_modules=modules("bert")
    )
    for name, stock in (
        ("siamese", siamese),
        ("asymmetric", SparseEncoder(modules=[router], device="cpu")),
    ):
        stock.save(str(tmp_path / name))
        ours = load_encoder(str(tmp_path / name), torch.float32)
        documents, queries = stock.encode_document(TEXTS), stock.encode_query(TEXTS)
        assert not torch.equal(documents.to_dense()[3], queries.to_dense()[3])
        assert_equal_except_special(ours.encode_documents(TEXTS), documents, tokenizer)
        assert_equal_except_special(ours.encode_queries(TEXTS), queries, tokenizer)
    same_documents = load_encoder(str(tmp_path / "asymmetric"))
    assert same_documents.fingerprint != load_encoder(str(tmp_path / "siamese")).fingerprint


def test_other_modules_are_refused_by_name(tmp_path, tokenizer):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    SparseEncoder(modules=[SparseStaticEmbedding(tokenizer)], device="cpu").save(
        str(tmp_path / "static")
    )
    with pytest.raises(ValueError, match=r"expected a masked LM .*\['SparseStaticEmbedding'\]"):
        load_encoder(str(tmp_path / "static"))


def test_plain_checkpoint_with_idf(tmp_path, tokenizer):
    path = save_masked_lm(tmp_path / "plain", tokenizer)
    siamese = load_encoder(path)
    assert siamese.query_weights is None
    (tmp_path / "plain" / "idf.json").write_text(json.dumps({"heat": 2.5, "flow": 7.0}))
    encoder = load_encoder(path)
    query = encoder.encode_queries(["heat heat transfer"])
    ids = tokenizer.get_vocab()
    # "transfer" is not in idf.json: it gets the largest weight there, not zero.
    assert dict(zip(query.indices.tolist(), query.data.tolist(), strict=True)) == {
        ids["heat"]: 2.5,
        ids["transfer"]: 7.0,
    }


def test_padded_head_is_trimmed(tmp_path, tokenizer):
    encoder = load_encoder(
        save_masked_lm(tmp_path / "padded", tokenizer, n_terms=len(tokenizer) + 38)
    )
    assert encoder.encode_documents(TEXTS).shape == (4, len(tokenizer))


def test_head_smaller_than_tokenizer_is_refused_with_both_sizes(tmp_path, tokenizer):
    path = save_masked_lm(tmp_path / "small", tokenizer, n_terms=1000)
    with pytest.raises(ValueError, match="head has 1000 terms but its tokenizer 30522"):
        load_encoder(path)


def test_broken_or_foreign_idf_is_refused(tmp_path, tokenizer):
    path = save_masked_lm(tmp_path / "plain", tokenizer)
    (tmp_path / "plain" / "idf.json").write_text('{"heat": 2.5')
    with pytest.raises(ValueError, match=r"idf.json: not valid JSON"):
        load_encoder(path)
    (tmp_path / "plain" / "idf.json").write_text('{"qqqqqzz": 2.5}')
    with pytest.raises(ValueError, match=r"1 of 1 terms are not in the tokenizer.*'qqqqqzz'"):
        load_encoder(path)


def test_missing_model_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="hf download nobody/nothing"):
        load_encoder("nobody/nothing")
