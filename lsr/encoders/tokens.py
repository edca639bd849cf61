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

from lsr.encoders.wordpiece import Words, splits_at_spaces

_NONE = np.empty(0, np.int32)


def vocabulary(tokenizer: Any) -> list[str]:
    """The term string of every token id of a Hugging Face tokenizer, in id order.

    Raises:
        ValueError: the ids have gaps.
    """
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
    """The backend of a fast tokenizer as it splits whole texts: nothing cut off, nothing padded.

    A copy: a saved tokenizer may cut texts off (all-MiniLM-L6-v2's at 128 tokens), and the
    tokenizer's own backend changes with every call that asks for truncation, in any thread.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
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
    is_term = _is_term(tokenizer)
    counted = [np.unique(ids, return_counts=True) for ids in _token_ids(tokenizer, texts)]
    kept = [is_term[tokens] for tokens, _ in counted]
    terms = [tokens[of_row] for (tokens, _), of_row in zip(counted, kept, strict=True)]
    counts = [counts[of_row] for (_, counts), of_row in zip(counted, kept, strict=True)]
    vectors = _vectors(terms, len(tokenizer))
    vectors.data = np.concatenate([_NONE, *counts]).astype(np.float32)
    return vectors


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
    ids = _token_ids(tokenizer, texts)
    vectors = _vectors([_distinct(of_text[:max_length]) for of_text in ids], len(weights))
    vectors.data = weights.take(vectors.indices)
    if np.count_nonzero(vectors.data) < vectors.nnz:
        vectors.eliminate_zeros()
    return vectors


def _distinct(ids: np.ndarray) -> np.ndarray:
    # As np.unique, which hashes hundreds of ids before it sorts them, in half the time.
    ids = np.sort(ids)
    return np.concatenate((ids[:1], ids[1:][ids[1:] != ids[:-1]]))


@lru_cache(maxsize=16)
def _is_term(tokenizer: Any) -> np.ndarray:
    terms = np.ones(len(tokenizer), bool)
    terms[special_ids(tokenizer)] = False
    return terms


def _token_ids(tokenizer: Any, texts: Sequence[str]) -> Iterable[np.ndarray]:
    words = _words(tokenizer)
    if words is not None:
        return map(words.token_ids, texts)
    encodings = whole_text(tokenizer).encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(encoding.ids, np.int32) for encoding in encodings]


@lru_cache(maxsize=16)
def _words(tokenizer: Any) -> Words | None:
    backend = whole_text(tokenizer)
    return Words(backend) if splits_at_spaces(backend) else None


def _vectors(terms: Sequence[np.ndarray], n_terms: int) -> csr_array:
    """A matrix of the terms of each row, int32, ascending; its data are to be put in."""
    # The constructor looks through what it is given: half of a short query's time.
    vectors = copy(_without_terms(len(terms), n_terms))
    vectors.indices = np.concatenate([_NONE, *terms])
    vectors.indptr = np.array([0, *accumulate(map(len, terms))], np.int32)
    return vectors


@lru_cache(maxsize=16)
def _without_terms(n_rows: int, n_terms: int) -> csr_array:
    return csr_array((n_rows, n_terms), dtype=np.float32)
