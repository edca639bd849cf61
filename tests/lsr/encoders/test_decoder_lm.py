"""lsr/encoders/decoder_lm.py: every kind builds, trains a step and opens with equal vectors."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.losses import (
    SparseMultipleNegativesRankingLoss,
    SpladeLoss,
)
from sentence_transformers.sparse_encoder.modules import SpladePooling

from lsr.encoders import decoder_lm
from lsr.encoders.decoder_lm import DecoderConfig, build_decoder
from lsr.encoders.decoder_modules import Decoder, DecoderPooling
from lsr.encoders.folding import Fold
from lsr.encoders.lora import LoraPreset
from lsr.encoders.query_weights import QUERY_WEIGHTS

TRAINED = [
    ("Llama", {"attention": "causal"}),
    ("Mistral", {"attention": "echo", "lora": "mistral-splade"}),
    ("Qwen2", {"attention": "bidirectional", "queries": "learned-idf", "fold": True}),
    ("Qwen3", {"attention": "bidirectional", "lora": "lion", "fold": True}),
]


def config(base, **changes):
    given = {"max_length": 24, "query_max_length": 12, "calibrate_terms": 40}
    return DecoderConfig(base=base, **(given | changes))


def dense(vectors):
    return vectors.to_dense()


def opened(path):
    return SparseEncoder(str(path), device="cpu", trust_remote_code=True)


@pytest.mark.parametrize(("kind", "changes"), TRAINED, ids=[kind for kind, _ in TRAINED])
def test_a_model_trains_by_the_stock_trainer_and_opens_with_equal_vectors(
    kind, changes, save_decoder, sentences, tmp_path
):
    model = build_decoder(config(save_decoder(kind), **changes), sentences)
    start = dense(model.encode_document(sentences))
    if kind == "Qwen3":
        model[0].model.activation_checkpointing_enable()
    data = Dataset.from_dict({"query": [s[:20] for s in sentences], "document": sentences})
    arguments = SparseEncoderTrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        learning_rate_mapping={QUERY_WEIGHTS: 1e-1} if "queries" in changes else {},
        router_mapping={"query": "query", "document": "document"},
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    loss = SpladeLoss(
        model,
        SparseMultipleNegativesRankingLoss(model),
        document_regularizer_weight=1e-3,
        query_regularizer_weight=None if "queries" in changes else 1e-3,
    )
    SparseEncoderTrainer(model=model, args=arguments, train_dataset=data, loss=loss).train()
    documents, queries = model.encode_document(sentences), model.encode_query(sentences)
    assert (dense(documents) - start).abs().max() > 1e-2
    assert documents.shape == queries.shape
    # Training has changed the adapters, which start at 0.
    adapters = [p for name, p in model.named_parameters() if ".lora_B" in name]
    assert len(adapters) == (14 if "lora" in changes else 0) and all(p.any() for p in adapters)
    model.save(str(tmp_path / "saved"))
    again = opened(tmp_path / "saved")
    torch.testing.assert_close(dense(again.encode_document(sentences)), dense(documents))
    torch.testing.assert_close(dense(again.encode_query(sentences)), dense(queries))


@pytest.mark.parametrize("queries", ["same", "binary", "idf", "learned-idf"])
def test_queries(queries, save_decoder, sentences):
    model = build_decoder(config(save_decoder(), queries=queries, fold=True), sentences)
    route = list(model[0].sub_modules["query"]) if queries != "same" else list(model)
    terms = next(module for module in route if isinstance(module, Fold)).terms
    found = dense(model.encode_query(["wing theory", "Heat Transfer", "<s>"]))
    assert found.shape == (3, len(terms))
    if queries == "same":
        torch.testing.assert_close(
            found, dense(model.encode_document(["wing theory", "Heat Transfer", "<s>"]))
        )
        return
    assert {terms[i] for i in found[0].nonzero()[:, 0]} == {"wing", "theory"}
    assert {terms[i] for i in found[1].nonzero()[:, 0]} == {"heat", "transfer"}
    assert not found[2].any()
    weights = route[0].weight
    assert weights.requires_grad == (queries == "learned-idf")
    assert not weights[[0, 1, 2]].any()
    if queries == "binary":
        assert set(found.unique().tolist()) == {0.0, 1.0}
    else:
        # "Wing", "wing" and " wing" are one term, which one document holds.
        once = np.log(1 + (4 - 1 + 0.5) / (1 + 0.5))
        assert found[0, terms.index("wing")].item() == pytest.approx(once)
        all_of_them = np.log(1 + (4 - 4 + 0.5) / (4 + 0.5))
        held = [sum(term in s.lower() for s in sentences) for term in terms]
        assert held[terms.index("the")] == 4
        assert dense(model.encode_query(["the"])).max().item() == pytest.approx(all_of_them)
        # No document holds the term, so it has the largest weight.
        unseen = np.log(1 + (4 + 0.5) / 0.5)
        assert dense(model.encode_query(["%"])).max().item() == pytest.approx(unseen)


def test_given_query_weights(save_decoder, sentences):
    path = save_decoder()
    base = config(path, queries="idf", fold=True)
    n_terms = len(build_decoder(base, sentences)[0].sub_modules["query"][1].terms)
    given = np.arange(n_terms, dtype=np.float32)
    model = build_decoder(base, [*sentences], given)
    vector = dense(model.encode_query(["Wing"]))[0]
    assert vector.nonzero().tolist() == [[int(vector.max())]]
    with pytest.raises(ValueError, match=rf"`idf` must have shape \({n_terms},\), .* got \(3,\)"):
        build_decoder(base, sentences, np.ones(3))
    with pytest.raises(ValueError, match="`idf` is not used with `queries` 'same'"):
        build_decoder(config(path), sentences, given)
    with pytest.raises(ValueError, match="IDF is counted on texts, but there are none"):
        build_decoder(config(path, queries="idf", calibrate_terms=None), [])


def test_folding_is_of_the_unfolded_models_weights(save_decoder, sentences):
    path = save_decoder()
    plain = build_decoder(config(path, calibrate_terms=None), sentences)
    folded = build_decoder(config(path, calibrate_terms=None, fold=True), sentences)
    vectors, found = (dense(model.encode_document(sentences)) for model in (plain, folded))
    fold = folded[2]
    assert len(fold.terms) < len(fold.places) - 30
    for number in range(len(fold.terms)):
        variants = (fold.places == number).nonzero()[:, 0]
        assert torch.equal(found[:, number], vectors[:, variants].amax(1))
    assert found.shape == (len(sentences), len(fold.terms))


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("queries", ["same", "binary"])
def test_what_stock_modules_can_compute_is_made_of_them(
    attention, queries, save_decoder, sentences, tmp_path
):
    path = save_decoder("Qwen3", "$A", extra_rows=0)
    changes = {"attention": attention, "calibrate_terms": None, "queries": queries}
    model = build_decoder(config(path, activation="log1p_relu", **changes), sentences)
    modules = list(model) if queries == "same" else list(model[0].sub_modules["document"])
    assert [type(module) for module in modules] == [Transformer, SpladePooling]
    decoder = Decoder(path, attention=attention, max_seq_length=24)
    pooling = DecoderPooling(len(decoder.tokenizer), activation="log1p_relu", silent=[0, 1, 2])
    ours = SparseEncoder(modules=[decoder, pooling], device="cpu")
    texts = [*sentences, "wing", "<s> wing </s>"]
    expected = dense(ours.encode_document(texts))
    torch.testing.assert_close(dense(model.encode_document(texts)), expected, rtol=1e-4, atol=1e-4)
    model.save(str(tmp_path / "saved"))
    stock = SparseEncoder(str(tmp_path / "saved"), device="cpu")
    torch.testing.assert_close(dense(stock.encode_document(texts)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "echo"},
        {"calibrate_terms": 40},
        {"lora": LoraPreset(2, 2)},
        {"template": "<s> $A"},
        {"tie_word_embeddings": True},
        {"extra_rows": 4},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_they_cannot_is_not(changes, save_decoder, sentences):
    saved = {"template": "$A", "extra_rows": 0}
    saved |= {key: value for key, value in changes.items() if not hasattr(DecoderConfig, key)}
    given = {"calibrate_terms": None, **{k: v for k, v in changes.items() if k not in saved}}
    model = build_decoder(config(save_decoder("Qwen3", **saved), **given), sentences)
    assert [type(module) for module in model] == [Decoder, DecoderPooling]


def test_reserved_tokens_and_rows_beyond_the_tokenizer_are_no_terms(save_decoder, sentences):
    model = build_decoder(config(save_decoder(extra_rows=8)), sentences)
    with torch.no_grad():
        model[1].bias.fill_(100.0)
    vectors = dense(model.encode_document(sentences))
    assert vectors.shape[1] == len(model.tokenizer)
    assert (vectors == 0).nonzero()[:, 1].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("attention", ["causal", "bidirectional", "echo"])
def test_a_base_of_another_attention_is_read_as_asked(attention, save_decoder, sentences):
    found = []
    for is_causal in (True, False):
        path = save_decoder()
        settings = json.loads(Path(path, "config.json").read_text())
        Path(path, "config.json").write_text(json.dumps({**settings, "is_causal": is_causal}))
        model = build_decoder(config(path, attention=attention), sentences)
        found.append(dense(model.encode_document(sentences)))
    assert torch.equal(*found)


def write_tiny(kind, path, byte_level, **changes):
    import transformers

    tokenizer = byte_level()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "vocab_size": len(tokenizer), "bos_token_id": 0}
    sizes |= {"eos_token_id": 1, "pad_token_id": 1}
    model = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**sizes, **changes)
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "Gemma2",
            {"final_logit_softcapping": 30.0, "head_dim": 8, "num_key_value_heads": 1},
            r"Gemma2ForCausalLM changes its logits after the head \(final_logit_softcapping = 30",
        ),
        ("Cohere", {"logit_scale": 0.0625}, r"CohereForCausalLM .*\(logit_scale = 0.0625\)"),
        ("Granite", {"logits_scaling": 8.0}, r"GraniteForCausalLM .*\(logits_scaling = 8.0\)"),
        ("Phi", {}, "the head of PhiForCausalLM must be a plain torch.nn.Linear without a bias"),
    ],
)
def test_architectures_whose_logits_are_more_than_a_product_are_refused(
    kind, changes, message, byte_level, sentences, tmp_path
):
    path = write_tiny(kind, tmp_path / kind, byte_level, **changes)
    with pytest.raises(ValueError, match=message):
        build_decoder(config(path), sentences)


def test_a_head_behind_something_else_is_refused(save_decoder, sentences):
    decoder = Decoder(save_decoder())
    decoder.model.get_output_embeddings().register_forward_hook(lambda *a: a[2] * 2)
    states = decoder.model.base_model
    decoder_lm._check_head(decoder.model, len(decoder.tokenizer))  # the hook acts on both
    plain = states.forward
    states.forward = lambda **given: type(plain(**given))(
        last_hidden_state=plain(**given).last_hidden_state + torch.rand(())
    )
    with pytest.raises(ValueError, match="are not its head applied to its last states"):
        decoder_lm._check_head(decoder.model, len(decoder.tokenizer))


def test_a_foreign_tokenizer_and_a_model_that_stays_causal_are_refused(save_decoder):
    decoder = Decoder(save_decoder(extra_rows=0))
    with pytest.raises(ValueError, match=r"head has 364 terms but its tokenizer 365"):
        decoder_lm._check_head(decoder.model, 365)
    with pytest.raises(ValueError, match="'bidirectional' has no effect on LlamaForCausalLM"):
        decoder_lm._check_sight(decoder.model)


@pytest.mark.parametrize(
    ("kind", "saved", "changes", "message"),
    [
        ("Llama", {"max_position_embeddings": 40}, {}, "at most 40 for the 40 positions"),
        ("Llama", {"max_position_embeddings": 40}, {"attention": "echo"}, "at most 20 for the 40"),
        ("Mistral", {"sliding_window": 30}, {"attention": "echo"}, "at most 15 for the 30 tokens"),
    ],
)
def test_texts_that_the_model_cannot_see_as_a_whole_are_refused(
    kind, saved, changes, message, save_decoder, sentences
):
    path = save_decoder(kind, **saved)
    length = int(message.split()[2])
    with pytest.raises(ValueError, match=f"{message}.* got {length + 1} and 12"):
        build_decoder(config(path, max_length=length + 1, **changes), sentences)
    build_decoder(config(path, max_length=length, **changes), sentences)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attention": "both"},
            "`attention` must be one of causal, bidirectional, echo, got 'both'",
        ),
        ({"queries": "separate"}, "`queries` must be one of same, binary, idf, learned-idf, got"),
        ({"activation": "gelu"}, "`activation` must be one of relu, log1p_relu, got 'gelu'"),
        ({"pooling": "mean"}, "`pooling` must be one of max, sum, got 'mean'"),
        ({"max_length": 2}, "`max_length` must be at least 3, got 2"),
        ({"query_max_length": 0}, "`query_max_length` must be at least 3, got 0"),
        ({"calibrate_terms": 0}, "`calibrate_terms` must be at least 1 or None, got 0"),
        ({"lora": "small"}, "`lora` must be none, mistral-splade, lion or a LoraPreset, got 'sm"),
        (
            {"load_in_4bit": True},
            "weights in 4 bits cannot be trained: `load_in_4bit` needs `lora`",
        ),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DecoderConfig("somewhere"), **changes)


def test_settings_of_4_bits_reach_transformers(monkeypatch):
    monkeypatch.setattr(decoder_lm, "four_bits", lambda: "four bits")
    given = decoder_lm._settings(config("somewhere", lora="lion", load_in_4bit=True))
    assert given["model_kwargs"] == {"dtype": "auto", "quantization_config": "four bits"}
    assert decoder_lm._settings(config("somewhere"))["model_kwargs"] == {"dtype": "float32"}
