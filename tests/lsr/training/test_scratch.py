"""lsr/training/scratch.py: a tokenizer trained on a collection, the same each time."""

import random

import pytest
import torch
from transformers import AutoTokenizer

from lsr.training import scratch
from lsr.training.scratch import random_bert, train_tokenizer

WORDS = "Heat transfers through boundary layers of slender wings; naïve flow separates 42 times"


@pytest.fixture(scope="module")
def texts():
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS.split(), k=9)) + "." for _ in range(300)]


def test_it_is_a_lower_casing_wordpiece_tokenizer_of_the_words(texts, tmp_path):
    train_tokenizer(lambda: iter(texts), 150, 50).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert 100 < len(tokenizer) <= 150
    assert tokenizer.model_max_length == 50
    # It has BERT's special tokens, and no others.
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.convert_tokens_to_ids(specials) == [0, 1, 2, 3, 4]
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
    assert sorted(tokenizer.added_tokens_decoder) == [0, 1, 2, 3, 4]
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("HEAT, naïve wings")["input_ids"])
    assert tokens == ["[CLS]", "heat", "[UNK]", "naive", "wings", "[SEP]"]
    # A word that no text holds is split into pieces.
    assert "".join(tokenizer.tokenize("heating")).replace("##", "") == "heating"
    assert "[UNK]" not in tokenizer.tokenize(" ".join(texts))


def test_each_time_it_is_the_same(texts):
    first, *others = (train_tokenizer(lambda: texts, 130, 50).get_vocab() for _ in range(4))
    assert all(other == first for other in others)


def test_so_small_a_vocabulary_holds_the_characters_alone(texts):
    tokenizer = train_tokenizer(lambda: texts, 10, 50)
    terms = [term.removeprefix("##") for term in tokenizer.get_vocab()][5:]
    assert {len(term) for term in tokenizer.get_vocab() if term[0] != "["} <= {1, 3}
    assert set(terms) <= set("".join(texts).lower().replace("ï", "i")) | {"[CLS]", "[SEP]"} | set(
        ["[PAD]", "[UNK]", "[MASK]"]
    )


def test_of_many_characters_the_most_frequent_are_terms(texts, monkeypatch):
    monkeypatch.setattr(scratch, "CHARACTERS", 20)
    rare = [*texts, "zebra 水 水"]
    terms = train_tokenizer(lambda: rare, 100, 50).get_vocab()
    assert "e" in terms and "##e" in terms and "." in terms and "##." not in terms
    assert "z" not in terms and "水" not in terms
    monkeypatch.undo()
    terms = train_tokenizer(lambda: rare, 100, 50).get_vocab()
    assert "z" in terms and "水" in terms and "##水" not in terms


def test_a_random_model_reads_texts_longer_than_it_is_pretrained_on(texts):
    tokenizer = train_tokenizer(lambda: texts, 150, 16)
    for max_length, positions in ((16, 512), (600, 600)):
        model = random_bert(tokenizer, 1, 8, 2, max_length)
        assert model.config.max_position_embeddings == positions
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.intermediate_size == 32
    assert len(model.get_output_embeddings().weight) == len(tokenizer)
    padding = model.get_input_embeddings().weight[tokenizer.pad_token_id]
    assert torch.equal(padding, torch.zeros(8))
