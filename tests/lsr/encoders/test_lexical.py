"""BM25 as a dot product against the formula written out with dictionaries."""

import math
from collections import Counter

import numpy as np
import pytest

from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import trunk_path
from lsr.encoders.tokens import count_terms

DOCUMENTS = ["heat flow heat", "boundary layer flow", "", "flow [SEP] flow flow heat transfer"]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(trunk_path())


def tokens(tokenizer, text):
    special = tokenizer.all_special_tokens
    return [token for token in tokenizer.tokenize(text) if token not in special]


def test_scores_equal_bm25_written_out(tokenizer):
    encoder = LexicalEncoder.fit(tokenizer, [DOCUMENTS[:2], DOCUMENTS[2:]])
    query = "heat transfer heat unseen"
    scores = (encoder.encode_queries([query]) @ encoder.encode_documents(DOCUMENTS).T).toarray()[0]
    texts = [Counter(tokens(tokenizer, text)) for text in DOCUMENTS]
    average = sum(text.total() for text in texts) / len(texts)
    for score, text in zip(scores, texts, strict=True):
        expected = 0.0
        for term in tokens(tokenizer, query):
            df = sum(term in other for other in texts)
            idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            tf = text[term]
            expected += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * text.total() / average))
        assert score == pytest.approx(expected, rel=1e-5)


def test_unseen_terms_weigh_most(tokenizer):
    encoder = LexicalEncoder.fit(tokenizer, [DOCUMENTS])
    assert encoder.idf[tokenizer.get_vocab()["zebra"]] == encoder.idf.max()


def test_special_tokens_are_no_terms_even_when_spelled_out(tokenizer):
    counts = count_terms(tokenizer, ["[CLS] heat [SEP] [MASK]"])
    assert counts.indices.tolist() == [tokenizer.get_vocab()["heat"]]


def test_no_texts_and_empty_texts(tokenizer):
    assert count_terms(tokenizer, []).shape == (0, 30522)
    assert count_terms(tokenizer, ["", ""]).nnz == 0


def test_errors(tokenizer):
    with pytest.raises(ValueError, match="none of 1 documents holds a token"):
        LexicalEncoder.fit(tokenizer, [[""]])
    with pytest.raises(ValueError, match="holds 7 terms but the tokenizer's vocabulary 30522"):
        LexicalEncoder(tokenizer, np.ones(7, dtype=np.float32), 1.0)
    with pytest.raises(ValueError, match="`average_length` must be positive, got 0"):
        LexicalEncoder(tokenizer, np.ones(30522, dtype=np.float32), 0)


def test_save_load_round_trip_and_truncated(tokenizer, tmp_path):
    encoder = LexicalEncoder.fit(tokenizer, [DOCUMENTS])
    encoder.save(tmp_path)
    loaded = LexicalEncoder.load(tokenizer, tmp_path)
    assert (loaded.idf == encoder.idf).all()
    assert (loaded.average_length, loaded.k1, loaded.b) == (encoder.average_length, 1.2, 0.75)
    path = tmp_path / "lexical.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="lexical.npz: not the statistics of an encoder"):
        LexicalEncoder.load(tokenizer, tmp_path)
