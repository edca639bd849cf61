"""A small BERT from scratch: its tokenizer, trained on the collection, and its random weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from tokenizers import Tokenizer
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from lsr.encoders.load import default_tokenizer
from lsr.training.masking import BLOCK

# Positions that a model has, to be trained on longer texts later.
POSITIONS = 512
# The characters that are terms, the most frequent ones; in words with others [UNK] stands.
CHARACTERS = 1000


def train_tokenizer(
    read: Callable[[], Iterable[str]], vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer, as BERT's, of the words of a collection.

    The same texts give the same tokenizer, ids included.

    Args:
        read: gives the texts; called twice.
        vocab_size: terms at most, but never fewer than there are characters.
        max_length: tokens of a text that models read, special ones included.
    """
    ours = default_tokenizer()
    characters = _characters(ours.backend_tokenizer, read())
    stream = iter(read())
    blocks = iter(lambda: list(islice(stream, BLOCK)), [])
    # The trainer numbers characters in an order that changes from run to run, and breaks ties
    # between merges by their numbers. Only special tokens have their own order: characters are
    # given as such, and made plain terms afterwards.
    trained = ours.train_new_from_iterator(
        blocks,
        vocab_size,
        new_special_tokens=characters,
        limit_alphabet=1,
        show_progress=False,
    )
    backend = json.loads(trained.backend_tokenizer.to_str())
    added = set(characters)
    backend["added_tokens"] = [t for t in backend["added_tokens"] if t["content"] not in added]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
        model_max_length=max_length,
        **{name: getattr(ours, name) for name in ours.special_tokens_map},
    )


def _characters(backend: Tokenizer, texts: Iterable[str]) -> list[str]:
    """The characters that are terms, and with ## those that words can go on with."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(backend.normalizer.normalize_str(text))
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    kept = sorted(ranked[:CHARACTERS])

    def goes_on(character: str) -> bool:
        """Punctuation and Chinese characters are words of their own, and do not."""
        text = backend.normalizer.normalize_str("a" + character)
        return len(backend.pre_tokenizer.pre_tokenize_str(text)) == 1

    return [*kept, *(f"##{c}" for c in kept if goes_on(c))]


def random_bert(tokenizer: Any, layers: int, hidden: int, heads: int, max_length: int) -> Any:
    """A BertForMaskedLM with random weights; feed-forward layers are 4 × `hidden` wide."""
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            num_hidden_layers=layers,
            hidden_size=hidden,
            num_attention_heads=heads,
            intermediate_size=4 * hidden,
            max_position_embeddings=max(POSITIONS, max_length),
            pad_token_id=tokenizer.pad_token_id,
        )
    )
