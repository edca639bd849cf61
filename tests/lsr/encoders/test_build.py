"""lsr/encoders/build.py: each kind trains, and opens equally in sentence-transformers and here."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.sparse_encoder.losses import (
    SparseMultipleNegativesRankingLoss,
    SpladeLoss,
)
from transformers import AutoModelForMaskedLM

from lsr.encoders.build import ModelConfig, build_model
from lsr.encoders.default import DefaultEncoder
from lsr.encoders.lm_head import NEVER, decoder_of, transform_of
from lsr.encoders.load import load_encoder
from lsr.encoders.query_weights import QUERY_WEIGHTS, NonNegativeQueryWeights
from lsr.encoders.tokens import special_ids

# Longer than the limit, empty, unknown words, special tokens spelled out.
HARD = ["w1 " * 10 + "w2 w3 w4 " * 12, "", "unknown w9", "[CLS] w5 [MASK] [SEP] w6"]
KINDS = {
    "same": {"queries": "same"},
    "separate": {"queries": "separate"},
    "binary": {"queries": "binary"},
    "idf": {"queries": "idf"},
    "learned-idf": {"queries": "learned-idf"},
    "separate trunks": {"queries": "separate", "head": False},
    "log1p sum": {"activation": "log1p_relu", "pooling": "sum"},
    "lexical": {"expansion": False},
    "lexical separate": {"expansion": False, "queries": "separate"},
    "lexical idf": {"expansion": False, "queries": "idf"},
    "top-k": {"top_k_per_token": 2},
    "top-k lexical separate": {"top_k_per_token": 20, "expansion": False, "queries": "separate"},
}


def config(base, **changes):
    given = {"max_length": 24, "query_max_length": 8, "calibrate_terms": 25}
    return ModelConfig(base=base, **(given | changes))


def dense(vectors):
    return vectors.to_dense().numpy()


def scramble(model):
    """Change all weights, so that no two parts of the model are equal copies."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.rand(parameter.shape, generator=generator)
            static = name.endswith("query.0.weight")
            parameter.mul_(1 + 0.2 * noise if static else 1.3 - 0.6 * noise)


def foreign_modules(saved):
    """Modules of a saved model that are not sentence-transformers' own."""
    types = [part["type"] for part in json.loads((saved / "modules.json").read_text())]
    if (saved / "router_config.json").exists():
        types += json.loads((saved / "router_config.json").read_text())["types"].values()
    return {name for name in types if not name.startswith("sentence_transformers.")}


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_equal_in_plain_sentence_transformers_and_in_load_encoder(
    kind, save_model, texts, words, tmp_path
):
    changes = dict(KINDS[kind])
    base = save_model(head=changes.pop("head", True))
    model = build_model(config(base, **changes), texts)
    scramble(model)
    documents = dense(model.encode_document(texts[:20] + HARD))
    queries = dense(model.encode_query(texts[:20] + HARD))
    assert documents.shape == queries.shape == (24, 300)
    # In random models many short queries have no term, above all without expansion.
    assert (documents > 0).any(1)[:20].mean() > 0.8 and (queries > 0).any(1)[:20].sum() > 3
    assert not documents[:, special_ids(words)].any() and not queries[:, special_ids(words)].any()
    assert not np.allclose(documents, queries)  # queries are cut shorter, at least

    model.save(str(tmp_path / "saved"))
    ours_alone = {"lsr.encoders.top_k.TopKPooling"} if kind.startswith("top-k") else set()
    assert foreign_modules(tmp_path / "saved") == ours_alone
    stock = SparseEncoder(str(tmp_path / "saved"), device="cpu", trust_remote_code=bool(ours_alone))
    np.testing.assert_allclose(
        dense(stock.encode_document(texts[:20] + HARD)), documents, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        dense(stock.encode_query(texts[:20] + HARD)), queries, rtol=1e-4, atol=1e-5
    )
    ours = load_encoder(str(tmp_path / "saved"), torch.float32)
    np.testing.assert_allclose(
        ours.encode_documents(texts[:20] + HARD).toarray(), documents, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        ours.encode_queries(texts[:20] + HARD).toarray(), queries, rtol=1e-4, atol=1e-5
    )


def test_what_queries_weigh(save_model, texts, words):
    base = save_model()
    text = ["w3 w3 w9 [SEP] unknown"]
    found = {
        queries: dense(build_model(config(base, queries=queries), texts).encode_query(text))[0]
        for queries in ("binary", "idf", "learned-idf")
    }
    ids = words.get_vocab()
    present = [ids["w3"], ids["w9"]]
    assert found["binary"][present].tolist() == [1.0, 1.0]
    assert (found["idf"][present] > 0).all()
    np.testing.assert_array_equal(found["idf"], found["learned-idf"])
    given = np.arange(300, dtype=np.float32)
    model = build_model(config(base, queries="idf"), texts, given)
    found["given"] = dense(model.encode_query(text))[0]
    assert found["given"][present].tolist() == present
    for vector in found.values():
        assert np.flatnonzero(vector).tolist() == present


def test_lexical_documents_have_their_own_terms_only(save_model, texts, words):
    base = save_model()
    own = np.zeros((20, 300), dtype=bool)
    for row, ids in enumerate(words(texts[:20], truncation=True, max_length=24)["input_ids"]):
        own[row, ids] = True
    expanded, lexical = (
        dense(build_model(config(base, expansion=e), texts).encode_document(texts[:20])) > 0
        for e in (True, False)
    )
    assert (expanded & ~own).any()
    assert not (lexical & ~own).any() and (lexical & own).any()


def test_a_head_padded_beyond_the_tokenizer_is_trimmed(save_model, texts, tmp_path):
    model = build_model(config(save_model(n_terms=320), queries="idf"), texts)
    documents, queries = model.encode_document(texts), model.encode_query(texts)
    assert documents.shape[1] == queries.shape[1] == 300
    assert model.similarity(queries, documents).shape == (80, 80)
    with pytest.raises(ValueError, match="head has 290 terms but its tokenizer 300"):
        build_model(config(save_model(n_terms=290)), texts)


@pytest.mark.slow
def test_the_default_trunk_has_its_target_and_says_what_its_texts_say():
    documents = [
        f"{name} {getattr(kind, name).__doc__}"
        for kind in (str, list, dict, set, float)
        for name in dir(kind)
        if not name.startswith("_")
    ]
    model = build_model(ModelConfig(calibrate_terms=100, max_length=48), documents)
    vectors = dense(model.encode_document(documents[::2]))
    assert 70 < np.count_nonzero(vectors) / len(vectors) < 140
    assert (vectors > 0).any(1).all()
    terms = model.decode(model.encode_document(["the king ruled the country"]), top_k=12)[0]
    assert {"king", "ruled", "country"} < {term for term, _ in terms}
    assert {"queen", "ruling", "kings", "countries", "rule", "nation"} & {term for term, _ in terms}


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_a_trunk_without_a_head_gets_one_that_is_tied(kind, save_model, texts, tmp_path):
    model = build_model(config(save_model(kind, head=False)), texts)
    active = np.count_nonzero(dense(model.encode_document(texts))) / len(texts)
    assert active == pytest.approx(25, rel=0.2)
    model.save(str(tmp_path / "saved"))
    masked_lm = SparseEncoder(str(tmp_path / "saved"), device="cpu")[0].model
    assert decoder_of(masked_lm).weight is masked_lm.get_input_embeddings().weight


def train(model, texts, tmp_path, **arguments):
    from datasets import Dataset

    data = Dataset.from_dict(
        {"query": [" ".join(text.split()[:3]) for text in texts], "document": texts}
    )
    settings = {
        "output_dir": str(tmp_path / "run"),
        "max_steps": 6,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "router_mapping": {"query": "query", "document": "document"},
    }
    ranking = SparseMultipleNegativesRankingLoss(model)
    loss = SpladeLoss(model, ranking, document_regularizer_weight=0.01)
    callbacks = arguments.pop("callbacks", [])
    SparseEncoderTrainer(
        model=model,
        args=SparseEncoderTrainingArguments(**(settings | arguments)),
        train_dataset=data,
        loss=loss,
        callbacks=callbacks,
    ).train()


@pytest.mark.parametrize("head", [True, False], ids=["masked LM", "trunk"])
def test_special_terms_stay_at_zero_and_ties_hold_through_training(
    head, save_model, texts, words, tmp_path
):
    model = build_model(config(save_model(head=head), queries="idf"), texts)
    document = model[0].sub_modules["document"][0]
    decoder, (dense_layer, _) = decoder_of(document.model), transform_of(document.model)
    before = copy.deepcopy(model.state_dict())
    train(model, texts, tmp_path)
    special = special_ids(words)
    assert decoder.bias[special].tolist() == [NEVER] * len(special)
    assert not dense(model.encode_document(texts + HARD))[:, special].any()
    assert decoder.weight is document.model.get_input_embeddings().weight
    after = model.state_dict()
    names = {id(p): name for name, p in model.named_parameters()}
    for changed in (decoder.weight, decoder.bias, dense_layer.weight):
        name = names[id(changed)]
        assert not torch.equal(before[name], after[name]), name
    frozen = "0.sub_modules.query.0.weight"
    assert torch.equal(before[frozen], after[frozen])

    model.save(str(tmp_path / "saved"))
    stock = SparseEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(
        dense(stock.encode_document(texts)),
        dense(model.encode_document(texts)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_learned_weights_have_their_own_rate_and_stay_positive(save_model, texts, tmp_path):
    base = save_model()

    def weights(callbacks):
        model = build_model(config(base, queries="learned-idf"), texts)
        learned = model[0].sub_modules["query"][0].weight
        document = decoder_of(model[0].sub_modules["document"][0].model).weight
        before = learned.detach().clone(), document.detach().clone()
        train(
            model,
            texts,
            tmp_path,
            learning_rate=1e-4,
            learning_rate_mapping={QUERY_WEIGHTS: 1.0},
            callbacks=callbacks,
        )
        # In each of six steps, Adam moves a weight by at most about its learning rate.
        assert 0.5 < float((learned.detach() - before[0]).abs().max()) < 7
        assert 0 < float((document.detach() - before[1]).abs().max()) < 7e-4
        return model, learned.detach()

    _, free = weights([])
    assert (free < 0).any()
    model, kept = weights([NonNegativeQueryWeights()])
    assert not (kept < 0).any()
    model.save(str(tmp_path / "saved"))
    stock = SparseEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_array_equal(
        dense(stock.encode_query(texts)), dense(model.encode_query(texts))
    )


def test_a_frozen_transform_stays_the_identity(save_model, texts, tmp_path):
    model = build_model(config(save_model(head=False), transform=False), texts)
    dense_layer, norm = transform_of(model[0].model)
    before = norm.weight.detach().clone()
    train(model, texts, tmp_path)
    assert torch.equal(dense_layer.weight, torch.eye(32))
    assert not torch.equal(norm.weight, before)


def test_without_dropout_training_sees_what_is_used(save_model, texts):
    path = save_model()
    for dropout in (True, False):
        model = build_model(config(path, dropout=dropout), texts).train()
        features = [model.preprocess(texts[:8], task="document") for _ in range(2)]
        one, other = (model(feature)["sentence_embedding"] for feature in features)
        assert torch.equal(one, other) == (not dropout)


@pytest.mark.slow
def test_the_default_model_can_be_trained_on():
    words = ["Heat flows from the hot plate.", "Vitamin D, and what it is for"]
    model = build_model(ModelConfig(base="trained", queries="idf"), words)
    shipped = DefaultEncoder(dtype=torch.float32)
    ours = model.encode_document(words, convert_to_sparse_tensor=False).numpy()
    theirs = shipped.encode_documents(words).toarray()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_frozen_embeddings_stay_while_the_rest_is_trained(save_model, texts, tmp_path):
    model = build_model(config(save_model(head=False), embeddings=False), texts)
    before = copy.deepcopy(model.state_dict())
    train(model, texts, tmp_path)
    document = model[0].model
    decoder, (dense_layer, _) = decoder_of(document), transform_of(document)
    assert decoder.weight is document.get_input_embeddings().weight
    names = {id(p): name for name, p in model.named_parameters()}
    after = model.state_dict()
    assert torch.equal(before[names[id(decoder.weight)]], decoder.weight)
    for changed in (decoder.bias, dense_layer.weight):
        assert not torch.equal(before[names[id(changed)]], after[names[id(changed)]])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"queries": "none"}, "`queries` must be one of same, separate, .*, got 'none'"),
        ({"activation": "gelu"}, "`activation` must be one of relu, log1p_relu, got 'gelu'"),
        ({"pooling": "mean"}, "`pooling` must be one of max, sum, got 'mean'"),
        ({"max_length": 2}, "`max_length` must be at least 3, got 2"),
        ({"query_max_length": 0}, "`query_max_length` must be at least 3, got 0"),
        ({"calibrate_terms": 0}, "`calibrate_terms` must be at least 1 or None, got 0"),
        ({"top_k_per_token": 0}, "`top_k_per_token` must be at least 1 or None, got 0"),
    ],
)
def test_configurations_out_of_range_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        ModelConfig(**changes)


def test_bases_and_arguments_that_do_not_fit_are_refused(save_model, texts, tmp_path):
    base = save_model()
    with pytest.raises(ValueError, match="`idf` is not used with `queries` 'same': leave it out"):
        build_model(config(base), texts, np.ones(300))
    with pytest.raises(ValueError, match=r"must have shape \(300,\).* got \(5,\)"):
        build_model(config(base, queries="idf"), texts, np.ones(5))
    with pytest.raises(ValueError, match="calibrated on texts, but there are none"):
        build_model(config(base), [])
    with pytest.raises(ValueError, match="at most the 512 positions of BertForMaskedLM, got 600"):
        build_model(config(base, max_length=600), texts)
    with pytest.raises(ValueError, match="at most the 511 positions of RobertaForMaskedLM"):
        build_model(config(save_model("roberta"), max_length=512), texts)
    with pytest.raises(ValueError, match="ModernBertForMaskedLM: the dense layer of its head has"):
        build_model(config(save_model("modernbert", head=False)), texts)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="empty: holds no config.json"):
        build_model(config(str(empty)), texts)


def test_other_architectures_and_broken_trunks_are_refused(save_model, texts, words, tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import LlamaConfig

    LlamaConfig(vocab_size=300).save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match="architecture 'llama' has no masked LM in transformers"):
        build_model(config(str(tmp_path / "llama")), texts)
    broken = Path(save_model())
    weights = load_file(broken / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    del weights[name]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"1 weights of the trunk are missing, such as '{name}'"):
        build_model(config(str(broken)), texts)


def test_a_damaged_base_is_refused_with_the_reason(save_model, texts):
    for file in Path(base := save_model(seed=1)).glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="the tokenizer has no terms but its 5 special tokens"):
        build_model(config(base), texts)
    weights = Path(base := save_model(seed=2), "model.safetensors")
    whole = load_file(weights)
    whole["bert.encoder.layer.0.output.dense.bias"][3] = float("nan")
    save_file(whole, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{base}: the checkpoint is damaged.*hold nan"):
        build_model(config(base), texts)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{base}: the checkpoint cannot be read: SafetensorError"):
        build_model(config(base), texts)


def test_a_base_in_float16_is_trained_in_float32(save_model, texts):
    base = save_model()
    AutoModelForMaskedLM.from_pretrained(base).half().save_pretrained(base)
    model = build_model(config(base), texts)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
