"""A tokenizer's terms as the vocabulary of an index, and texts as vectors of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from tokenizers import Tokenizer

from lsr.encoders.wordpiece import Words, words_of

_NONE = np.empty(0, np.int32)


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot make terms.

    Raises:
        ValueError: it is not a fast one, or has no terms but special tokens.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"the tokenizer must be a fast one (with a tokenizer.json), but "
            f"{type(tokenizer).__name__} is written in Python alone"
        )
    if len(tokenizer) <= len(special_ids(tokenizer)):
        raise ValueError(
            f"the tokenizer has no terms but its {len(tokenizer)} special tokens: its files, such "
            "as tokenizer.json, are missing"
        )


def vocabulary(tokenizer: Any) -> list[str]:
    """The term string of every token id of a Hugging Face tokenizer, in id order.

    Raises:
        ValueError: the tokenizer is refused by `check_tokenizer`, or its ids have gaps.
    """
    check_tokenizer(tokenizer)
    ids = tokenizer.get_vocab()
    terms = [""] * len(ids)
    for term, index in ids.items():
        if index >= len(terms):
            raise ValueError(
                f"the tokenizer's ids must be 0..{len(terms) - 1}, got {index} for {term!r}"
            )
        terms[index] = term
    return terms


def special_ids(tokenizer: Any) -> np.ndarray:
    """Ids that never become index terms ([CLS], [SEP], [PAD], …), int64, ascending."""
    return np.unique(np.asarray(tokenizer.all_special_ids, dtype=np.int64))


@lru_cache(maxsize=16)
def whole_text(tokenizer: Any) -> Tokenizer:
    """A fast tokenizer's backend (or a backend) that splits whole texts: uncut and unpadded.

    A copy: a saved tokenizer may cut texts off (all-MiniLM-L6-v2's at 128 tokens), and the
    tokenizer's own backend changes with every call that asks for truncation, in any thread.
    """
    backend = Tokenizer.from_str(getattr(tokenizer, "backend_tokenizer", tokenizer).to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def own_terms(tokenizer: Any, text: str) -> set[int]:
    """The ids of the terms that a text itself holds."""
    return set(count_terms(tokenizer, [text]).indices.tolist())


def count_terms(tokenizer: Any, texts: Sequence[str]) -> csr_array:
    """How often each term occurs in each text: float32 counts, shape (len(texts), vocabulary).

    Special tokens are not counted, not even where a text spells them out.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        texts: n texts.
    """
    counted = [np.unique(ids, return_counts=True) for ids in _token_ids(tokenizer, texts)]
    tokens = np.concatenate([_NONE, *(of_text for of_text, _ in counted)])
    counts = np.concatenate([_NONE, *(of_text for _, of_text in counted)]).astype(np.float32)
    counts[_is_special(tokenizer)[tokens]] = 0.0
    return _vectors((len(of_text) for of_text, _ in counted), tokens, counts, len(tokenizer))


def look_up(
    tokenizer: Any, texts: Sequence[str], weights: np.ndarray, max_length: int | None = None
) -> csr_array:
    """The weight of each token of each text, however often it occurs: float32, shape (n, V).

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        texts: n texts.
        weights: float32, shape (V,); a token of weight 0 is no term, special ones must have it.
        max_length: tokens of a text to look at; None for all of them.
    """
    distinct = [_distinct(ids[:max_length]) for ids in _token_ids(tokenizer, texts)]
    tokens = np.concatenate([_NONE, *distinct])
    return _vectors(map(len, distinct), tokens, weights.take(tokens), len(weights))


def _distinct(ids: np.ndarray) -> np.ndarray:
    # As np.unique, which hashes hundreds of ids before it sorts them, in half the time.
    ids = np.sort(ids)
    return np.concatenate((ids[:1], ids[1:][ids[1:] != ids[:-1]]))


@lru_cache(maxsize=16)
def _is_special(tokenizer: Any) -> np.ndarray:
    special = np.zeros(len(tokenizer), bool)
    special[special_ids(tokenizer)] = True
    return special


def _token_ids(tokenizer: Any, texts: Sequence[str]) -> Iterable[np.ndarray]:
    words = _words(tokenizer)
    if words is not None:
        return map(words.token_ids, texts)
    encodings = whole_text(tokenizer).encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(encoding.ids, np.int32) for encoding in encodings]


@lru_cache(maxsize=16)
def _words(tokenizer: Any) -> Words | None:
    return words_of(whole_text(tokenizer))


def _vectors(
    lengths: Iterable[int], tokens: np.ndarray, values: np.ndarray, n_terms: int
) -> csr_array:
    """Rows of these lengths: int32 tokens, ascending in each, without those of value 0."""
    ends = np.array([0, *accumulate(lengths)], np.int32)
    # The constructor looks through what it is given: half of a short query's time.
    vectors = copy(_without_terms(len(ends) - 1, n_terms))
    vectors.data, vectors.indices, vectors.indptr = values, tokens, ends
    if np.count_nonzero(values) < len(values):
        vectors.eliminate_zeros()
    return vectors


@lru_cache(maxsize=16)
def _without_terms(n_rows: int, n_terms: int) -> csr_array:
    return csr_array((n_rows, n_terms), dtype=np.float32)
