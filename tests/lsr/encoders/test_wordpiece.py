"""lsr/encoders/wordpiece.py."""

import threading
from random import Random

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from lsr.encoders import wordpiece
from lsr.encoders.load import default_tokenizer
from lsr.encoders.tokens import whole_text
from lsr.encoders.wordpiece import words_of


@pytest.fixture(scope="module")
def tokenizer():
    return default_tokenizer()


# Pieces that may join, split or vanish at a space: other white space, characters that BERT drops,
# combining marks, characters that are words alone, and tokens spelled out.
PIECES = (
    *("heat", "Flow", "naïve", "e", "Σ", "ΑΣ", "İ", "ﬁ", "x" * 120, "3.14", "don't", "東京", "🙂"),
    *(" ", "  ", " ", " ", "\n", "\t", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u2003"),
    *("\u0301", "\u200b", "\u200d", "\ufeff", "\x00", "\ufffd", "-", ".", "##s"),
    *("\u2013", "\u2014", "\u2018", "\u2019", "\u201c", "\u201d", "\u2026", "£"),
    *("[SEP]", "[MASK]", "[", "]", "[unused1]"),
)


def random_texts(seed, n=400):
    generator = Random(seed)
    return [
        "".join(generator.choice(PIECES) for _ in range(generator.randrange(30))) for _ in range(n)
    ]


def whole(tokenizer, texts):
    """The oracle: the tokenizer on each whole text."""
    backend = whole_text(tokenizer)
    return [backend.encode(text, add_special_tokens=False).ids for text in texts]


def by_words(words, texts):
    return [words.token_ids(text).tolist() for text in texts]


def test_tokens_by_words_equal_those_of_whole_texts(tokenizer):
    words = words_of(whole_text(tokenizer))
    texts = random_texts(0)
    expected = whole(tokenizer, texts)
    assert by_words(words, texts) == expected  # no word is cached
    assert by_words(words, texts) == expected  # all but the longest words are cached
    assert max(map(len, words)) == wordpiece.LONGEST


# No k, y or 9: words with them are unknown. One token spans several words, one holds a mark.
SMALL = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] heat Heat flow ##flow ##ing he ##a ##at ##t a t h - # ## . "
    "don't 3 ##3 [ ]"
).split()


def plain_words(seed, n=3_000):
    generator = Random(seed)
    marks = ("_", "'", "\u2013", "\u2014", "\u2018", "\u2019", "\u201c", "\u201d", "\u2026")
    others = ("\x01", "\x7f", "\t", "£", "\u0301")
    parts = (*SMALL, "k", "Y", "9", "FLOW", "[cls]", "ing", "s", *marks, *others)
    return [
        "".join(generator.choice(parts) for _ in range(generator.randrange(7))) for _ in range(n)
    ]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("added", [None, "flow", "Eat-", "flów", "a’"])
def test_plain_words_are_split_as_the_tokenizer_splits_them(lowercase, added):
    tokenizer = BertTokenizerFast(
        vocab={term: i for i, term in enumerate(SMALL)}, do_lower_case=lowercase
    )
    if added is not None:
        tokenizer.add_tokens([added])
    words = words_of(whole_text(tokenizer))
    asked = plain_words(0)
    expected = whole(tokenizer, asked)
    assert by_words(words, asked) == expected
    by_rule = {word: words.word_pieces(word) for word in asked}
    for word, ids in zip(asked, expected, strict=True):
        tokens = by_rule[word]
        assert tokens is None or np.frombuffer(tokens, np.int32).tolist() == ids
    plain = [word for word, tokens in by_rule.items() if tokens is not None]
    assert any(not word.isascii() for word in plain)
    assert any(tokenizer.unk_token_id in ids for ids in whole(tokenizer, plain))
    assert 0 < len(plain) < len(by_rule)


def test_words_longer_than_the_tokenizer_takes_are_unknown():
    backend = Tokenizer.from_str(default_tokenizer().backend_tokenizer.to_str())
    backend.model.max_input_chars_per_word = 5
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    texts = ["heats", "heated", "heat-flow", "preheated flow"]
    assert by_words(words_of(whole_text(tokenizer)), texts) == whole(tokenizer, texts)


def test_threads_that_make_each_other_forget_words(tokenizer, monkeypatch):
    monkeypatch.setattr(wordpiece, "REMEMBERED", 20)
    words = words_of(whole_text(tokenizer))
    wrong = []

    def ask(seed):
        for text in random_texts(seed):
            if by_words(words, [text]) != whole(tokenizer, [text]):
                wrong.append(text)
            if len(words) > 20 + 4:
                wrong.append("more than the bound")

    threads = [threading.Thread(target=ask, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_only_some_tokenizers_split_at_spaces(tokenizer, byte_level):
    assert words_of(whole_text(tokenizer)) is not None
    assert words_of(whole_text(byte_level())) is None
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.add_tokens(["heat flow"])
    assert words_of(backend) is None
