"""Prompts, routes and lengths are applied when encoding as in sentence-transformers."""

import copy

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

from lsr.encoders.fuse import fuse
from lsr.encoders.load import load_encoder
from lsr.encoders.stock import prompt_of, route
from lsr.encoders.tokens import special_ids

TEXTS = ["w5 w9 w80 w200", "w7", "", "w3 w4 w5 w6 w7 w8 w90 w120 w77 w210 w8 w3 w91 w92 w93 w94"]
PROMPTS = {"query": "w20 w21 ", "document": "w30 w31 w32 "}


def splade(path, **settings):
    transformer = Transformer(path, transformer_task="fill-mask", **settings)
    return [transformer, SpladePooling()]


def static(words, seed=0, max_length=9):
    tokenizer = copy.deepcopy(words)
    tokenizer.model_max_length = max_length
    weights = torch.rand(len(words), generator=torch.Generator().manual_seed(seed))
    return SparseStaticEmbedding(tokenizer, weight=weights, frozen=True)


def modules_of(kind, save_model, words):
    """The modules of a model; its kind says which modules encode queries."""
    if kind == "siamese":
        return splade(save_model(), max_seq_length=12, query_length=7)
    document = splade(save_model(), max_seq_length=12, query_length=7)
    query = {
        "looked up": [static(words)],
        "separate": splade(save_model(seed=1), max_seq_length=10),
        "the same modules": document,
        "the same masked LM": [document[0], SpladePooling(pooling_strategy="sum")],
    }[kind]
    return [Router.for_query_document(query_modules=query, document_modules=document)]


KINDS = ["siamese", "looked up", "separate", "the same modules", "the same masked LM"]


def both(tmp_path, stock):
    """Save a model, and open it with lsr and with sentence-transformers."""
    path = str(tmp_path / "stock")
    stock.save(path)
    return load_encoder(path, torch.float32), SparseEncoder(path, device="cpu")


def assert_equal(ours, theirs, words):
    for found, expected in (
        (ours.encode_documents(TEXTS), theirs.encode_document(TEXTS)),
        (ours.encode_queries(TEXTS), theirs.encode_query(TEXTS)),
    ):
        dense = expected.to_dense().numpy().copy()
        assert np.count_nonzero(dense) > 0
        dense[:, special_ids(words)] = 0.0
        np.testing.assert_allclose(found.toarray(), dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "applied"),
    [
        ("siamese", {}),
        ("siamese", {"prompts": PROMPTS}),
        ("siamese", {"max_active_dims": 16}),
        (
            "siamese",
            {"prompts": {"query": "w20 ", "other": "w40 "}, "default_prompt_name": "other"},
        ),
        ("siamese", {"prompts": {"passage": "w30 "}}),
        *((kind, {"prompts": PROMPTS, "max_active_dims": 5}) for kind in KINDS),
    ],
    ids=str,
)
def test_prompts_and_limits_are_those_of_sentence_transformers(
    tmp_path, save_model, words, kind, applied
):
    stock = SparseEncoder(modules=modules_of(kind, save_model, words), device="cpu", **applied)
    ours, theirs = both(tmp_path, stock)
    assert_equal(ours, theirs, words)
    if limit := applied.get("max_active_dims"):
        assert np.diff(ours.encode_documents(TEXTS).indptr).max() <= limit


def test_prompts_and_limits_change_the_fingerprint_where_there_are_any(tmp_path, save_model, words):
    found = set()
    for number, applied in enumerate(
        (
            {},
            {"prompts": {"query": "", "document": ""}},
            {"prompts": PROMPTS},
            {"prompts": PROMPTS | {"query": "w22 "}},
            {"max_active_dims": 16},
        )
    ):
        stock = SparseEncoder(modules=splade(save_model()), device="cpu", **applied)
        stock.save(str(tmp_path / str(number)))
        found.add(load_encoder(str(tmp_path / str(number))).fingerprint)
    assert len(found) == 4


def test_the_fingerprint_without_prompts_is_that_of_the_weights_alone(save_model):
    import hashlib

    encoder = load_encoder(save_model())
    digest = hashlib.sha256()
    for part in encoder.model.state_dict().values():
        digest.update(part.numpy().tobytes())
    assert encoder.fingerprint == digest.hexdigest()


@pytest.mark.parametrize("similarity", ["cosine", "euclidean", "manhattan"])
def test_other_similarities_than_dot_products_are_refused(tmp_path, save_model, similarity):
    stock = SparseEncoder(modules=splade(save_model()), device="cpu", similarity_fn_name=similarity)
    stock.save(str(tmp_path / "stock"))
    with pytest.raises(ValueError, match=f"`similarity_fn_name` .* must be 'dot'.*{similarity}"):
        load_encoder(str(tmp_path / "stock"))


@pytest.mark.parametrize(
    "mappings",
    [
        {("query", "text"): "a", ("document", "text"): "b"},
        {("query", None): "b", ("document", None): "a"},
        {("query", None): "a", (None, "text"): "b"},
        {(None, None): "b"},
        {("query", "text"): "a", ("query", None): "b", (None, None): "b"},
    ],
    ids=str,
)
def test_routes_by_other_names_are_those_of_sentence_transformers(
    tmp_path, save_model, words, mappings
):
    routes = {"a": splade(save_model(seed=1)), "b": splade(save_model())}
    stock = SparseEncoder(modules=[Router(routes, route_mappings=mappings)], device="cpu")
    assert_equal(*both(tmp_path, stock), words)


def test_a_missing_route_is_named_with_those_that_there_are(tmp_path, save_model):
    routes = {"a": splade(save_model(seed=1)), "query": splade(save_model())}
    stock = SparseEncoder(modules=[Router(routes)], device="cpu")
    stock.save(str(tmp_path / "stock"))
    with pytest.raises(ValueError, match="no route for the task 'document': its routes are 'a', "):
        load_encoder(str(tmp_path / "stock"))
    with pytest.raises(ValueError):
        stock.encode_document(TEXTS)
    with pytest.raises(ValueError, match="no route for the task 'other'"):
        route(stock, "other")
    assert prompt_of(stock, "document") == ""


@pytest.mark.parametrize("kind", ["the same modules", "the same masked LM"])
def test_a_shared_masked_lm_is_fused_once(save_model, words, kind):
    stock = SparseEncoder(modules=modules_of(kind, save_model, words), device="cpu")
    expected = [
        encode(TEXTS).to_dense().numpy() for encode in (stock.encode_document, stock.encode_query)
    ]
    fuse(stock)
    found = [
        encode(TEXTS).to_dense().numpy() for encode in (stock.encode_document, stock.encode_query)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_tokenizers_of_other_terms_on_the_two_sides_are_refused(tmp_path, save_model, words):
    other = copy.deepcopy(words)
    state = other.backend_tokenizer.to_str().replace('"w7":', '"w7x":')
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(state), unk_token="[UNK]", pad_token="[PAD]"
    )
    query = SparseStaticEmbedding(other, weight=torch.ones(len(other)), frozen=True)
    router = Router.for_query_document([query], splade(save_model()))
    SparseEncoder(modules=[router], device="cpu").save(str(tmp_path / "stock"))
    with pytest.raises(ValueError, match="tokenizers of queries and documents have different"):
        load_encoder(str(tmp_path / "stock"))


@pytest.mark.parametrize("weight", [-0.5, float("inf")])
def test_query_weights_that_no_index_holds_are_refused(tmp_path, save_model, words, weight):
    query = static(words)
    with torch.no_grad():
        query.weight[40] = weight
    router = Router.for_query_document([query], splade(save_model()))
    SparseEncoder(modules=[router], device="cpu").save(str(tmp_path / "stock"))
    with pytest.raises(ValueError, match="w35|weights '0.sub_modules.query.0.weight' hold inf"):
        load_encoder(str(tmp_path / "stock"))


def test_query_expansion_is_refused_by_name(tmp_path, save_model):
    expansion = {"strategy": "fixed", "length": 8}
    stock = SparseEncoder(modules=splade(save_model(), query_expansion=expansion), device="cpu")
    stock.save(str(tmp_path / "stock"))
    with pytest.raises(ValueError, match="`query_expansion` of its Transformer is not supported"):
        load_encoder(str(tmp_path / "stock"))
