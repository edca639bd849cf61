"""lsr/encoders/truncation.py: exactly the tokens within an encoder's limit change its vectors."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForMaskedLM

from lsr.encoders import masked_lm
from lsr.encoders.decoder_lm import DecoderConfig, build_decoder
from lsr.encoders.default import DefaultEncoder
from lsr.encoders.dense import DenseEncoder
from lsr.encoders.graft import GraftedEncoder
from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import default_tokenizer
from lsr.encoders.masked_lm import MaskedLMEncoder
from lsr.encoders.model_encoder import ModelEncoder
from lsr.encoders.truncation import Length, Limit


@pytest.fixture
def encoder(save_model, words):
    """A masked LM with one token per word, which reads 10 tokens of documents and 6 of queries."""

    def build(**options):
        model = AutoModelForMaskedLM.from_pretrained(save_model())
        return MaskedLMEncoder(
            model, words, max_length=10, query_max_length=6, dtype=torch.float32, **options
        )

    return build


def same(one, other):
    return np.allclose(one.toarray(), other.toarray(), atol=1e-6)


def reads(encode, limit, n_words):
    """Whether `encode` reads as much of a text of `n_words` words as `limit` says, and no more."""
    text = [f"w{number}" for number in range(n_words)]
    (length,) = limit.lengths([" ".join(text)])
    beyond = [*text[: length.read], *("w99" for _ in text[length.read :])]
    within = [*text[: length.read - 1], "w98", *text[length.read :]]
    whole, beyond, within = (encode([" ".join(words)]) for words in (text, beyond, within))
    return length.tokens == n_words and same(whole, beyond) and not same(whole, within)


@pytest.mark.parametrize("n_words", [1, 7, 8, 9, 10, 30])
def test_a_masked_lm_reads_what_its_limits_say(encoder, n_words):
    tested = encoder()
    assert reads(tested.encode_documents, tested.document_limit, n_words)
    assert reads(tested.encode_queries, tested.query_limit, n_words)
    lengths = tested.document_limit.lengths([" ".join(["w1"] * n_words)])
    assert lengths == [Length(n_words, min(n_words, 8))]


def test_prompts_are_counted(encoder):
    tested = encoder(prompt="w50 w51 ", query_prompt="w52 ")
    text = " ".join(f"w{number}" for number in range(20))
    counted = []
    tested.encode_documents([text], lengths=counted)
    assert counted == tested.document_limit.lengths([text]) == [Length(22, 8)]
    assert tested.query_limit.lengths([text]) == [Length(21, 4)]
    short = " ".join(text.split()[:6])
    assert same(tested.encode_documents([text]), tested.encode_documents([short]))


def test_queries_that_are_looked_up_and_those_of_another_encoder(encoder):
    looked_up = encoder(query_weights=np.linspace(1, 2, 300, dtype=np.float32))
    assert looked_up.query_limit == Limit(looked_up.tokenizer, 6)
    assert reads(looked_up.encode_queries, looked_up.query_limit, 20)
    other = encoder()
    assert encoder(query_encoder=other).query_limit == other.document_limit


def test_lengths_counted_while_encoding_are_those_of_whole_texts(encoder, texts, monkeypatch):
    monkeypatch.setattr(masked_lm, "TOKENIZED", 7)
    monkeypatch.setattr(masked_lm, "BLOCK", 20)
    tested = encoder()
    lengths = [Length(1, 1)]  # lengths already in the list stay
    mixed = ["", *texts, "w1 " * 500, "w2"]
    tested.encode_documents(mixed, lengths=lengths)
    assert lengths[1:] == tested.document_limit.lengths(mixed)
    assert lengths[1] == Length(0, 0)
    assert lengths[-2:] == [Length(500, 8), Length(1, 1)]
    assert sum(length.unread for length in lengths) > 0


def test_a_tokenizer_without_special_tokens(encoder, words):
    import copy

    bare = copy.deepcopy(words)
    bare.backend_tokenizer.post_processor = None
    tested = encoder()
    tested = MaskedLMEncoder(
        AutoModelForMaskedLM.from_config(tested.model.config), bare, max_length=10
    )
    lengths = []
    tested.encode_documents(["w1 " * 12, "w1"], lengths=lengths)
    assert (
        lengths
        == [Length(12, 10), Length(1, 1)]
        == tested.document_limit.lengths(["w1 " * 12, "w1"])
    )


def test_encoders_that_ship():
    tokenizer = default_tokenizer()
    text = "heat " * 300
    lexical = LexicalEncoder.fit(tokenizer, [["heat", text]])
    lengths = []
    lexical.encode_documents([text, ""], lengths=lengths)
    assert lengths == [Length(300, 300), Length(0, 0)] == lexical.document_limit.lengths([text, ""])
    assert lexical.document_limit.tokens is None
    ones = np.ones(len(tokenizer), np.float32)
    grafted = GraftedEncoder(lexical, 0 * ones, ones, 0.0)
    default = DefaultEncoder()
    for encoder in (grafted, default):
        assert encoder.document_limit.lengths([text, "heat"]) == [Length(300, 254), Length(1, 1)]
    for encoder in (grafted, lexical):
        assert encoder.query_limit.lengths(["heat " * 600]) == [Length(600, 600)]
    assert default.query_limit.lengths(["heat " * 600]) == [Length(600, 512)]
    read, *others = map(
        default.encode_queries, ([f"{'heat ' * n}pipe wing"] for n in (511, 510, 512))
    )
    assert [same(read, other) for other in others] == [False, False]
    assert same(read, default.encode_queries([f"{'heat ' * 511}pipe"]))


@pytest.mark.slow
def test_encoders_that_ship_count_while_encoding():
    tokenizer = default_tokenizer()
    texts = ["heat " * 300, "", "transfer in a pipe"]
    expected = [Length(300, 254), Length(0, 0), Length(4, 4)]
    for encoder in (DefaultEncoder(), GraftedEncoder.fit(tokenizer, [texts])):
        lengths = []
        encoder.encode_documents(texts, lengths=lengths)
        assert lengths == expected
    dense, lengths = DenseEncoder(), []
    dense.encode_documents(texts, lengths)
    assert lengths == expected
    assert dense.document_limit.tokens == 256


@pytest.mark.parametrize("attention", ["causal", "echo"])
@pytest.mark.parametrize("queries", ["same", "idf"])
def test_a_decoder_reads_what_its_limits_say(save_decoder, sentences, attention, queries):
    model = build_decoder(
        DecoderConfig(
            save_decoder(),
            attention=attention,
            queries=queries,
            max_length=12,
            query_max_length=6,
            calibrate_terms=None,
        ),
        sentences,
    )
    encoder = ModelEncoder(model)
    lengths = []
    # One token per digit: the tokenizer has no merges of digits.
    text = " ".join("1234567890")
    encoder.encode_documents([text], lengths=lengths)
    (length,) = lengths
    assert lengths == encoder.document_limit.lengths([text])
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert length == Length(len(ids), 11)  # and <s>
    cut = encoder.tokenizer.decode(ids[:11])
    shorter = encoder.tokenizer.decode(ids[:10])
    assert same(encoder.encode_documents([text]), encoder.encode_documents([cut]))
    assert not same(encoder.encode_documents([text]), encoder.encode_documents([shorter]))
    (length,) = encoder.query_limit.lengths([text])
    assert length == Length(len(ids), 5 if queries == "same" else 6)
    cut = encoder.tokenizer.decode(ids[: length.read])
    assert same(encoder.encode_queries([text]), encoder.encode_queries([cut]))


def test_a_dense_model_without_a_limit(dense_model):
    encoder, lengths = DenseEncoder(dense_model), []
    encoder.encode_documents(["heat " * 1000, ""], lengths)
    assert lengths == [Length(1000, 1000), Length(0, 0)]
    assert encoder.document_limit.tokens is None


def test_a_dense_models_prompt_takes_its_part(dense_model):
    prompts = {"query": "my query: ", "document": "text "}
    model = SentenceTransformer(dense_model, prompts=prompts)
    encoder = DenseEncoder(model)
    assert encoder.query_limit.prompt == "my query: "
    assert encoder.document_limit.prompt == "text "
    assert encoder.document_limit.lengths(["heat"]) == [Length(2, 2)]
