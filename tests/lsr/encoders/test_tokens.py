"""lsr/encoders/tokens.py."""

from collections import Counter

import pytest

from lsr.encoders.load import default_tokenizer
from lsr.encoders.tokens import count_terms, special_ids, vocabulary


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
