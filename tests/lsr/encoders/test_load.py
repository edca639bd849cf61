"""Small random checkpoints made here load with the same vectors as in sentence-transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lsr.encoders.load import load_encoder, opensearch_weights, trunk_path
from lsr.encoders.tokens import special_ids

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
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
    assert load_encoder(path).query_weights is None
    (tmp_path / "plain" / "idf.json").write_text(json.dumps({"heat": 2.5, "flow": 7.0}))
    encoder = load_encoder(path)
    assert opensearch_query(path, "heat heat transfer [SEP]") == {
        encoder.vocabulary[index]: weight for index, weight in terms(encoder, "heat heat transfer")
    }
    assert opensearch_query(path, "heat transfer") == {"heat": 2.5, "transfer": 1.0}


def terms(encoder, query):
    vector = encoder.encode_queries([query])
    return zip(vector.indices.tolist(), vector.data.tolist(), strict=True)


def opensearch_query(path, text):
    """A port of OpenSearch ml-commons' SparseTokenizerModel.predict, statement by statement."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{path}/tokenizer.json")
    idf = json.loads(Path(path, "idf.json").read_text())
    ids = dict.fromkeys(tokenizer.encode(text).ids)
    tokens = [tokenizer.decode([token], skip_special_tokens=True) for token in ids]
    return {token: idf.get(token, 1.0) for token in tokens if token}


def test_idf_in_the_layout_of_sentence_transformers_is_read_as_there(tmp_path, tokenizer):
    """Terms that the file lacks have weight 0, as in sentence-transformers."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

    plain = save_masked_lm(tmp_path / "plain", tokenizer)
    idf = tmp_path / "idf.json"
    idf.write_text(json.dumps({"heat": 2.5, "flow": 7.0}))
    router = Router.for_query_document(
        query_modules=[SparseStaticEmbedding.from_json(str(idf), tokenizer, frozen=True)],
        document_modules=[Transformer(plain, transformer_task="fill-mask"), SpladePooling()],
    )
    SparseEncoder(modules=[router], device="cpu").save(str(tmp_path / "stock"))
    folder = tmp_path / "stock" / "query_0_SparseStaticEmbedding"
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps({"frozen": True, "path": str(idf)}))
    ours = load_encoder(str(tmp_path / "stock"), torch.float32)
    theirs = SparseEncoder(str(tmp_path / "stock"), device="cpu")
    texts = ["heat transfer flow", "transfer heat"]
    assert_equal_except_special(ours.encode_queries(texts), theirs.encode_query(texts), tokenizer)
    assert dict(terms(ours, "heat transfer")) == {tokenizer.get_vocab()["heat"]: 2.5}
    # A broken idf.json beside the checkpoint is refused by its name.
    (folder / "idf.json").write_text("[]")
    with pytest.raises(ValueError, match="idf.json: expected a JSON object .* got a list"):
        load_encoder(str(tmp_path / "stock"))


def test_padded_head_is_trimmed(tmp_path, tokenizer):
    encoder = load_encoder(
        save_masked_lm(tmp_path / "padded", tokenizer, n_terms=len(tokenizer) + 38)
    )
    assert encoder.encode_documents(TEXTS).shape == (4, len(tokenizer))


def test_head_smaller_than_tokenizer_is_refused_with_both_sizes(tmp_path, tokenizer):
    path = save_masked_lm(tmp_path / "small", tokenizer, n_terms=1000)
    with pytest.raises(ValueError, match="head has 1000 terms but its tokenizer 30522"):
        load_encoder(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"heat": 2.5', "not valid JSON"),
        ("[]", "expected a JSON object of terms and weights, got a list"),
        ("{}", "expected a JSON object of terms and weights, got an empty object"),
        ('{"heat": {"a": 1}}', "the weight of 'heat' must be a finite number .* got {\"a\": 1}"),
        ('{"heat": NaN}', "the weight of 'heat' must be a finite number of at least 0, got NaN"),
        ('{"heat": Infinity}', "the weight of 'heat' .*, got Infinity"),
        ('{"heat": null}', "the weight of 'heat' .*, got null"),
        ('{"heat": true}', "the weight of 'heat' .*, got true"),
        ('{"heat": "2"}', "the weight of 'heat' .*, got \"2\""),
        ('{"flow": 1, "heat": -0.5}', "the weight of 'heat' .*, got -0.5"),
        ('{"qqqqqzz": 2.5}', "1 of 1 terms are not in the tokenizer.*'qqqqqzz'"),
    ],
)
def test_broken_or_foreign_idf_is_refused(tmp_path, tokenizer, content, message):
    path = tmp_path / "idf.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"idf.json: {message}"):
        opensearch_weights(path, tokenizer)


@pytest.mark.parametrize("saved", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stock", [False, True])
def test_checkpoints_in_16_bits_in_either_precision(tmp_path, save_model, saved, stock):
    from sentence_transformers import SparseEncoder
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    wide, narrow = save_model(seed=1), str(tmp_path / "narrow")
    rounded = AutoModelForMaskedLM.from_pretrained(wide).to(saved)
    rounded.save_pretrained(narrow)
    rounded.float().save_pretrained(wide)
    AutoTokenizer.from_pretrained(wide).save_pretrained(narrow)
    if stock:
        SparseEncoder(narrow, device="cpu").save(str(tmp_path / "stock"))
        narrow = str(tmp_path / "stock")
    texts = ["w5 w9 w80 w200", "w7"]
    exact = load_encoder(wide, torch.float32)
    expected = exact.encode_documents(texts).toarray()
    found = load_encoder(narrow, torch.float32)
    np.testing.assert_array_equal(found.encode_documents(texts).toarray(), expected)
    close = load_encoder(narrow, torch.bfloat16).encode_documents(texts).toarray()
    assert np.linalg.norm(close - expected) < 0.03 * np.linalg.norm(expected)
    # The fingerprint, by which an index knows a model, is of the weights as stored.
    assert found.fingerprint == load_encoder(narrow, torch.bfloat16).fingerprint
    assert found.fingerprint != exact.fingerprint


def damaged(path, change):
    from safetensors.torch import load_file, save_file

    file = f"{path}/model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("stock", [False, True])
def test_damaged_weights_are_refused_with_the_directory_and_the_reason(tmp_path, save_model, stock):
    from sentence_transformers import SparseEncoder

    path = save_model()
    if stock:
        SparseEncoder(path, device="cpu").save(str(tmp_path / "stock"))
        path = str(tmp_path / "stock")
    name = "bert.encoder.layer.1.output.dense.weight"
    damaged(path, lambda weights: weights[name][3].fill_(float("nan")))
    with pytest.raises(ValueError, match=f"{path}: the checkpoint is damaged: .*{name}' hold nan"):
        load_encoder(path)
    file = Path(path, "model.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=f"{path}: the checkpoint cannot be read: SafetensorError"):
        load_encoder(path)


def test_a_trunk_without_a_head_is_refused(save_model):
    with pytest.raises(ValueError, match="lacks . weights of BertForMaskedLM, such as 'cls.pred"):
        load_encoder(save_model(head=False))


@pytest.mark.parametrize("stock", [False, True])
def test_a_tokenizer_in_python_alone_is_refused(tmp_path, save_model, stock):
    from sentence_transformers import SparseEncoder
    from transformers import BertJapaneseTokenizer

    path = Path(save_model())
    for file in path.glob("tokenizer*"):
        file.unlink()
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *(f"w{n}" for n in range(295))]))
    BertJapaneseTokenizer(
        str(tmp_path / "vocab.txt"), word_tokenizer_type="basic", subword_tokenizer_type="wordpiece"
    ).save_pretrained(path)
    if stock:
        SparseEncoder(str(path), device="cpu").save(str(tmp_path / "stock"))
        path = tmp_path / "stock"
    with pytest.raises(ValueError, match=f"{path}: .*fast.*BertJapaneseTokenizer is written in Py"):
        load_encoder(str(path))


@pytest.mark.parametrize("stock", [False, True])
def test_a_checkpoint_without_tokenizer_files_is_refused(tmp_path, save_model, stock):
    from sentence_transformers import SparseEncoder

    path = Path(save_model())
    if stock:
        SparseEncoder(str(path), device="cpu").save(str(tmp_path / "stock"))
        path = tmp_path / "stock"
    for file in path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=f"{path}: the tokenizer has no terms but its 5 special"):
        load_encoder(str(path))


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize(
    ("kind", "stated", "positions", "expected"),
    [
        ("modernbert", None, 1024, 1024),
        ("modernbert", 700, 1024, 700),
        ("bert", None, 600, 600),
        ("bert", 40, 600, 40),
        ("roberta", None, 66, 65),  # RoBERTa's first position is for padding
    ],
)
def test_the_length_is_what_the_checkpoint_says(
    tmp_path, save_model, stock, kind, stated, positions, expected
):
    from sentence_transformers import SparseEncoder
    from transformers import AutoTokenizer

    path = save_model(kind, max_position_embeddings=positions)
    tokenizer = AutoTokenizer.from_pretrained(path)
    if stated is not None:
        tokenizer.model_max_length = stated
        tokenizer.save_pretrained(path)
    theirs = SparseEncoder(path, device="cpu")
    if stock:
        path = str(tmp_path / "stock")
        theirs.save(path)
    ours = load_encoder(path, torch.float32)
    assert ours.max_length == expected
    text = " ".join(f"w{n % 295}" for n in range(2 * positions))
    if kind != "roberta":  # sentence-transformers reads one token more, and fails
        assert theirs.max_seq_length == expected
        assert_equal_except_special(
            ours.encode_documents([text]), theirs.encode_document([text]), ours.tokenizer
        )
    assert ours.encode_documents([text]).nnz > 0


def test_missing_model_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="hf download nobody/nothing"):
        load_encoder("nobody/nothing")
