"""lsr/encoders/tokens.py."""

import threading
from collections import Counter
from random import Random

import pytest
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from lsr.encoders import tokens
from lsr.encoders.load import default_tokenizer
from lsr.encoders.tokens import count_terms, special_ids, vocabulary, whole_text


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


# What may join, split or vanish at a space: white space of other kinds, characters that BERT drops,
# marks that combine, characters that stand alone, tokens spelt out.
PIECES = (
    *("heat", "Flow", "naïve", "e", "Σ", "ΑΣ", "İ", "ﬁ", "x" * 120, "3.14", "don't", "東京", "🙂"),
    *(" ", "  ", " ", " ", "\n", "\t", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u2003"),
    *("\u0301", "\u200b", "\u200d", "\ufeff", "\x00", "\ufffd", "-", ".", "##s"),
    *("[SEP]", "[MASK]", "[", "]", "[unused1]"),
)


def random_texts(seed, n=400):
    generator = Random(seed)
    return [
        "".join(generator.choice(PIECES) for _ in range(generator.randrange(30))) for _ in range(n)
    ]


def whole(tokenizer, texts):
    """The oracle: each text through the tokenizer, in one piece."""
    backend = whole_text(tokenizer)
    return [backend.encode(text, add_special_tokens=False).ids for text in texts]


def test_tokens_by_words_equal_those_of_whole_texts(tokenizer):
    words = tokens._Words(tokenizer)
    texts = random_texts(0)
    expected = whole(tokenizer, texts)
    assert words.token_ids(texts) == expected  # all new
    assert words.token_ids(texts) == expected  # all but the longest known
    assert [words.token_ids([text])[0] for text in texts] == expected
    assert words._known
    assert max(map(len, words._known)) <= tokens.LONGEST


# No k, y nor 9: words with them are unknown. One token is of several words, one holds a mark.
SMALL = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] heat Heat flow ##flow ##ing he ##a ##at ##t a t h - # ## . "
    "don't 3 ##3 [ ]"
).split()


def ascii_words(seed, n=3_000):
    generator = Random(seed)
    parts = (*SMALL, "k", "Y", "9", "_", "'", "FLOW", "[cls]", "\x01", "\x7f", "\t", "ing", "s")
    return [
        "".join(generator.choice(parts) for _ in range(generator.randrange(7))) for _ in range(n)
    ]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("added", [None, "flow", "Eat-", "flów"])
def test_words_of_ascii_are_split_as_the_tokenizer_splits_them(lowercase, added):
    tokenizer = BertTokenizerFast(
        vocab={term: i for i, term in enumerate(SMALL)}, do_lower_case=lowercase
    )
    if added is not None:
        tokenizer.add_tokens([added])
    words = tokens._Words(tokenizer)
    asked = ascii_words(0)
    expected = whole(tokenizer, asked)
    assert words.token_ids(asked) == expected
    unknown = tokenizer.unk_token_id
    by_rule = [words._word_pieces(word) for word in asked]
    assert any(ids is not None and unknown in ids for ids in by_rule)
    assert any(ids is not None and len(ids) > 1 for ids in by_rule)
    assert any(ids is None for ids in by_rule)


def test_words_longer_than_the_tokenizer_takes_are_unknown():
    backend = tokens.Tokenizer.from_str(default_tokenizer().backend_tokenizer.to_str())
    backend.model.max_input_chars_per_word = 5
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    texts = ["heats", "heated", "heat-flow", "preheated flow"]
    assert tokens._Words(tokenizer).token_ids(texts) == whole(tokenizer, texts)


def test_threads_that_make_each_other_forget_words(tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "REMEMBERED", 20)
    words = tokens._Words(tokenizer)
    wrong = []

    def ask(seed):
        for text in random_texts(seed):
            if words.token_ids([text]) != whole(tokenizer, [text]):
                wrong.append(text)
            if len(words._known) > 2 * 20 * 4:
                wrong.append("more than the bound")

    threads = [threading.Thread(target=ask, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_only_tokenizers_that_split_at_spaces_go_by_words(tokenizer, byte_level):
    bpe = byte_level()
    assert tokens._Words(tokenizer)._at_spaces
    assert not tokens._Words(bpe)._at_spaces
    texts = ["heat flow", " heat  flow\n", ""]
    assert tokens._Words(bpe).token_ids(texts) == whole(bpe, texts)


def test_an_added_token_with_a_space_is_found():
    backend = tokens.Tokenizer.from_str(default_tokenizer().backend_tokenizer.to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_tokens(["heat flow"])
    added = tokenizer.convert_tokens_to_ids("heat flow")
    assert count_terms(tokenizer, ["the heat flow"]).indices.tolist()[-1] == added
