"""How much of a text an encoder reads: models read its first tokens, up to a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from lsr.encoders.tokens import whole_text

# Tokenizers without a limit have 1e30 as their limit.
NO_LIMIT = 10**9


class Length(NamedTuple):
    """A text in tokens. Special tokens are not counted."""

    tokens: int  # of the whole text, with its prompt
    read: int  # the first of them, which the encoder reads

    @property
    def unread(self) -> int:
        """The tokens beyond the limit."""
        return self.tokens - self.read


class Limit(NamedTuple):
    """The limit of an encoder, for documents or for queries."""

    tokenizer: Any
    tokens: int | None = None  # tokens that are read, special ones included; None: all of them
    special: int = 0  # tokens that the tokenizer adds to a text
    prompt: str = ""  # stands before each text

    def lengths(self, texts: Sequence[str]) -> list[Length]:
        """Tokenise the texts, and return the length of each."""
        whole = [self.prompt + text for text in texts]
        if isinstance(self.tokenizer, Tokenizer) or self.tokenizer.is_fast:
            encodings = whole_text(self.tokenizer).encode_batch_fast(
                whole, add_special_tokens=False
            )
            counts = [len(encoding.ids) for encoding in encodings]
        else:
            ids = self.tokenizer(whole, add_special_tokens=False, verbose=False)["input_ids"]
            counts = list(map(len, ids))
        return [Length(tokens, self.read(tokens)) for tokens in counts]

    def read(self, tokens: int) -> int:
        """Return how many tokens are read of a text that has so many."""
        return tokens if self.tokens is None else min(tokens, max(0, self.tokens - self.special))


def limit_of(module: Any, task: str, prompt: str = "") -> Limit:
    """Return the limit of a sentence-transformers module that reads texts.

    Args:
        module: the first of a model, or of a route of its Router.
        task: "query" or "document", which may have limits of their own.
        prompt: stands before each text.
    """
    tokenizer = module.tokenizer
    tokens = getattr(module, f"{task}_length", None) or getattr(module, "max_seq_length", None)
    if tokens is None or tokens > NO_LIMIT:
        return Limit(tokenizer, prompt=prompt)
    adds = type(module).__name__ != "SparseStaticEmbedding"
    special = tokenizer.num_special_tokens_to_add() if adds else 0
    return Limit(tokenizer, int(tokens), special, prompt)
