"""BERT tokenization word by word, with a cache of the token ids of words."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer

# Characters that BERT's normalizer does not change, except for case: ASCII, dashes, quotation marks
# and the ellipsis.
_PLAIN = re.compile("[!-~\u2013\u2014\u2018\u2019\u201c\u201d\u2026]*")
# BERT splits such text into runs of letters and digits, and single marks.
_RUNS = re.compile("[A-Za-z0-9]+|.")
# How many words are cached, and the longest in characters: longer ones seldom come again.
REMEMBERED, LONGEST = 100_000, 32


class Words(dict[str, bytes]):
    """A cache from words to their token ids, int32 as bytes, computed when first looked up.

    A call of the tokenizer takes longer than all other steps of a short query. As bytes, the ids of
    a word are contiguous, which helps as the words of a long query are not in the CPU's cache.
    """

    def __init__(self, backend: Tokenizer, parts: Mapping[str, Any]) -> None:
        """Use `words_of`; `parts` is the tokenizer's saved JSON."""
        model = parts["model"]
        self._backend = backend
        self._vocabulary: dict[str, bytes] = {
            token: index.to_bytes(4, sys.byteorder) for token, index in model["vocab"].items()
        }
        self._unknown = self._vocabulary[model["unk_token"]]
        self._continuing: str = model["continuing_subword_prefix"]
        self._longest: int = min(LONGEST, model["max_input_chars_per_word"])
        self._lowercase: bool = parts["normalizer"]["lowercase"]
        # Added tokens, normalised. The tokenizer looks for them before and after normalising; in
        # plain words only the case changes, and it changes in both the same way.
        written = (token["content"] for token in parts["added_tokens"])
        normalised = map(backend.normalizer.normalize_str, written)
        self._added = re.compile("|".join(map(re.escape, normalised)))

    def token_ids(self, text: str) -> np.ndarray:
        """Return ids, int32, read-only, with special tokens only where the text spells them out."""
        return np.frombuffer(b"".join(map(self.__getitem__, text.split(" "))), np.int32)

    def __missing__(self, word: str) -> bytes:
        tokens = self.word_pieces(word)
        if tokens is None:
            ids = self._backend.encode(word, add_special_tokens=False).ids
            tokens = np.array(ids, np.int32).tobytes()
        if len(word) <= LONGEST:
            if len(self) >= REMEMBERED:
                self.clear()
            self[word] = tokens
        return tokens

    def word_pieces(self, word: str) -> bytes | None:
        """Return the token ids of a short word of plain characters; None for any other word.

        BERT splits words at each mark. WordPiece takes the longest token that the word begins with,
        then the longest that continues it (Wu et al. 2016, arXiv:1609.08144, section 4.1).
        """
        if len(word) > self._longest or not _PLAIN.fullmatch(word):
            return None
        text = word.lower() if self._lowercase else word
        if self._added.search(text):
            return None
        return b"".join(
            [self._vocabulary.get(run) or self._split(run) for run in _RUNS.findall(text)]
        )

    def _split(self, run: str) -> bytes:
        tokens = []
        start, prefix = 0, ""
        while start < len(run):
            for end in range(len(run), start, -1):
                token = self._vocabulary.get(prefix + run[start:end])
                if token is not None:
                    break
            else:
                return self._unknown
            tokens.append(token)
            start, prefix = end, self._continuing
        return b"".join(tokens)


def words_of(backend: Tokenizer) -> Words | None:
    """Return the cache for a tokenizer without truncation; None if its tokens may cross spaces."""
    parts = json.loads(backend.to_str())
    return Words(backend, parts) if _splits_at_spaces(parts) else None


def _splits_at_spaces(parts: Mapping[str, Any]) -> bool:
    """Whether a text's tokens are those of its parts between spaces, as in BERT.

    BERT's normalizer treats characters one by one, and its words end at white space. Added tokens
    do too, unless one holds a space or absorbs those around it. (Only spaces count here: BERT drops
    some other white space.) Without an unknown token, some words would be errors.
    """
    kinds = {
        "normalizer": "BertNormalizer",
        "pre_tokenizer": "BertPreTokenizer",
        "model": "WordPiece",
    }
    if any((parts[part] or {}).get("type") != kind for part, kind in kinds.items()):
        return False
    model = parts["model"]
    return model["unk_token"] in model["vocab"] and not any(
        token["lstrip"] or token["rstrip"] or token["single_word"] or " " in token["content"]
        for token in parts["added_tokens"]
    )
