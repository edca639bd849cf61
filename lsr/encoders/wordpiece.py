"""A BERT tokenizer's tokens of a text word by word, from memory where a word came before."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer

# What BERT takes as it stands but for its case: ASCII, dashes, quotation marks and the ellipsis.
_PLAIN = re.compile("[!-~\u2013\u2014\u2018\u2019\u201c\u201d\u2026]*")
# Where BERT ends words in it: at each mark, which is a word.
_RUNS = re.compile("[A-Za-z0-9]+|.")
# Words whose tokens are remembered, and characters of the longest: those beyond seldom come again.
REMEMBERED, LONGEST = 100_000, 32


class Words(dict[str, bytes]):
    """The token ids of each word, int32 in bytes, made when the word is asked for.

    A call of the tokenizer takes longer than a short query's other steps together. In bytes the ids
    of a word lie in one place: the many words of a long query are read from memory, not cache.
    """

    def __init__(self, backend: Tokenizer, parts: Mapping[str, Any]) -> None:
        """For `words_of`: `parts` is the tokenizer as it is saved."""
        model = parts["model"]
        self._backend = backend
        self._vocabulary: dict[str, bytes] = {
            token: index.to_bytes(4, sys.byteorder) for token, index in model["vocab"].items()
        }
        self._unknown = self._vocabulary[model["unk_token"]]
        self._continuing: str = model["continuing_subword_prefix"]
        self._longest: int = min(LONGEST, model["max_input_chars_per_word"])
        self._lowercase: bool = parts["normalizer"]["lowercase"]
        # As they are normalised: the tokenizer looks for them before and after, and what changes
        # in a plain word or added token, its case, changes in both.
        written = (token["content"] for token in parts["added_tokens"])
        normalised = map(backend.normalizer.normalize_str, written)
        self._added = re.compile("|".join(map(re.escape, normalised)))

    def token_ids(self, text: str) -> np.ndarray:
        """int32, in order, special tokens only where the text spells them out; read-only."""
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
        """The tokens of a short word of English characters; None of another.

        BERT's words end at each mark. WordPiece takes the longest token that a word begins with,
        then the longest that goes on (Wu et al. 2016, arXiv:1609.08144, section 4.1).
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
    """The words of a tokenizer that cuts nothing off; None if not all its words end at spaces."""
    parts = json.loads(backend.to_str())
    return Words(backend, parts) if _splits_at_spaces(parts) else None


def _splits_at_spaces(parts: Mapping[str, Any]) -> bool:
    """Whether a text's tokens are those of what stands between its spaces, as in BERT.

    BERT's normalizer looks at characters one by one, its words end at white space, and so do the
    added tokens if none has a space or takes those around it. (Spaces alone: it drops other
    characters that count as white space.) Without an unknown token some words are errors.
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
