"""A tokenizer's terms as the vocabulary of an index, and texts as counts of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from tokenizers import Tokenizer


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


def count_terms(tokenizer: Any, texts: Sequence[str], max_length: int | None = None) -> csr_array:
    """How often each term occurs in each text: float32 counts, shape (len(texts), vocabulary).

    Special tokens are not counted, not even where a text spells them out.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        texts: n texts.
        max_length: tokens of a text to look at; None for all of them.
    """
    n_terms = len(tokenizer)
    if not len(texts):
        return csr_array((0, n_terms), dtype=np.float32)
    encodings = whole_text(tokenizer).encode_batch_fast(list(texts), add_special_tokens=False)
    rows = [np.asarray(encoding.ids[:max_length], dtype=np.int64) for encoding in encodings]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.concatenate(rows)
    counts = csr_array(
        (np.ones(len(indices), dtype=np.float32), indices, indptr), shape=(len(texts), n_terms)
    )
    counts.sum_duplicates()
    counts.data[np.isin(counts.indices, special_ids(tokenizer))] = 0.0
    counts.eliminate_zeros()
    return counts
