"""lsr/encoders/tokens.py."""

from collections import Counter

import numpy as np
import pytest
from scipy.sparse import csr_array
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lsr.encoders.load import default_tokenizer
from lsr.encoders.tokens import count_terms, look_up, special_ids, vocabulary, whole_text


@pytest.fixture(scope="module")
def tokenizer():
    return default_tokenizer()


def test_long_texts_are_counted_whole_whatever_the_tokenizer_did_before(tokenizer):
    text = " ".join(["heat"] * 700 + ["flow"] * 9)
    heat, flow = tokenizer.convert_tokens_to_ids(["heat", "flow"])
    for use in (
        lambda: None,
        lambda: tokenizer(text, truncation=True, max_length=5),
        lambda: tokenizer([text, "heat"], padding="max_length", max_length=600, truncation=True),
    ):
        use()
        counts = count_terms(tokenizer, [text, "flow"])
        assert counts.toarray()[:, [heat, flow]].tolist() == [[700, 9], [0, 1]]
        assert counts.nnz == 3


def test_counts_equal_those_of_the_tokenizer_without_special_tokens(tokenizer):
    texts = ["Heat transfer, heat [SEP] loss [MASK]", "", "unbelievably naïve 東京 🙂"]
    terms = vocabulary(tokenizer)
    special = {terms[index] for index in special_ids(tokenizer)}
    for row, text in zip(count_terms(tokenizer, texts).toarray(), texts, strict=True):
        expected = Counter(term for term in tokenizer.tokenize(text) if term not in special)
        assert {terms[i]: count for i, count in enumerate(row) if count} == expected


def weights_of(tokenizer):
    """A weight of its own for each term, 0 for special ones and every third."""
    weights = np.arange(1, len(tokenizer) + 1, dtype=np.float32) / 4
    weights[special_ids(tokenizer)] = 0
    weights[::3] = 0
    return weights


@pytest.mark.parametrize("max_length", [None, 0, 3, 9])
@pytest.mark.parametrize("kind", ["wordpiece", "bytes"])
def test_looked_up_are_the_first_tokens_once_each(tokenizer, byte_level, kind, max_length):
    tokenizer = tokenizer if kind == "wordpiece" else byte_level()
    texts = ["Heat flow, heat loss and heat", "", "[SEP] of the heat", "the of a wing's boundary"]
    weights = weights_of(tokenizer)
    expected = np.zeros((len(texts), len(weights)), np.float32)
    for row, text in zip(expected, texts, strict=True):
        ids = whole_text(tokenizer).encode(text, add_special_tokens=False).ids[:max_length]
        row[ids] = weights[ids]
    assert expected.any() == (max_length != 0)
    for asked in (slice(None), slice(1), slice(2, 3), slice(0)):
        found = look_up(tokenizer, texts[asked], weights, max_length)
        assert found.toarray().tolist() == expected[asked].tolist()
        assert found.data.dtype == np.float32
        assert found.indices.dtype == found.indptr.dtype == np.int32
        checked = csr_array((found.data, found.indices, found.indptr), shape=found.shape)
        assert checked.has_canonical_format
        assert np.count_nonzero(found.data) == found.nnz


def test_vectors_are_not_each_others(tokenizer):
    weights = weights_of(tokenizer)
    first = look_up(tokenizer, ["heat flow"], weights)
    before = first.toarray()
    other = look_up(tokenizer, ["wing"], weights)
    assert first.toarray().tolist() == before.tolist()
    other.data[:] = 7
    other.indices[:] = 7
    other.indptr[:] = 0
    assert look_up(tokenizer, ["heat flow"], weights).toarray().tolist() == before.tolist()


def test_an_added_token_with_a_space_is_found():
    backend = Tokenizer.from_str(default_tokenizer().backend_tokenizer.to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_tokens(["heat flow"])
    added = tokenizer.convert_tokens_to_ids("heat flow")
    assert count_terms(tokenizer, ["the heat flow"]).indices.tolist()[-1] == added
