"""A tokenizer's terms as the vocabulary of an index, and texts as counts of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from tokenizers import Tokenizer

# Where BERT ends words in ASCII without spaces: at each mark, which is a word.
_RUNS = re.compile("[A-Za-z0-9]+|.")
# Words whose tokens are remembered, and characters of the longest: those beyond seldom come again.
REMEMBERED, LONGEST = 100_000, 32


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
    words = _words(tokenizer)
    terms: list[int] = []
    counts: list[int] = []
    ends = [0]
    # In canonical order from the start: scipy's ways there take most of a short query's time.
    for ids in words.token_ids(texts):
        counted = Counter(ids[:max_length])
        for token in words.special:
            counted.pop(token, None)
        held = sorted(counted)
        terms += held
        counts += map(counted.__getitem__, held)
        ends.append(len(terms))
    vectors = csr_array(
        (np.array(counts, np.float32), np.array(terms, np.int32), np.array(ends, np.int32)),
        shape=(len(texts), len(tokenizer)),
    )
    vectors.has_canonical_format = True
    return vectors


@lru_cache(maxsize=16)
def _words(tokenizer: Any) -> _Words:
    return _Words(tokenizer)


class _Words:
    """The tokens of texts; BERT's word by word, by memory where a word has been seen before.

    A call of the tokenizer takes longer than a short query's other steps together, and on two
    hundred words several times as long.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = whole_text(tokenizer)
        self.special: list[int] = special_ids(tokenizer).tolist()
        self._known: dict[str, list[int]] = {}
        parts = json.loads(self._backend.to_str())
        self._at_spaces = _splits_at_spaces(parts)
        if self._at_spaces:
            model = parts["model"]
            self._vocabulary: dict[str, int] = model["vocab"]
            self._unknown = self._vocabulary[model["unk_token"]]
            self._continuing: str = model["continuing_subword_prefix"]
            self._longest: int = min(LONGEST, model["max_input_chars_per_word"])
            self._lowercase: bool = parts["normalizer"]["lowercase"]
            # As they are written and as they are normalised: the tokenizer looks for either.
            written = [token["content"] for token in parts["added_tokens"]]
            normalised = map(self._backend.normalizer.normalize_str, written)
            added = "|".join(map(re.escape, chain(written, normalised)))
            self._added = re.compile(added, re.IGNORECASE)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Of each text, in order."""
        if not self._at_spaces:
            return self._encode(texts)
        split = [text.split(" ") for text in texts]
        try:
            return [self._joined(words, self._known) for words in split]
        except KeyError:
            return self._with_new_words(split)

    def _with_new_words(self, split: list[list[str]]) -> list[list[int]]:
        # By a dictionary of these texts alone: other threads may forget what this one counts on.
        distinct = dict.fromkeys(chain.from_iterable(split))
        known = {word: ids for word in distinct if (ids := self._known.get(word)) is not None}
        pieces = {word: self._word_pieces(word) for word in distinct if word not in known}
        rest = [word for word, ids in pieces.items() if ids is None]
        new = {word: ids for word, ids in pieces.items() if ids is not None}
        if rest:
            new |= dict(zip(rest, self._encode(rest), strict=True))
        short = {word: ids for word, ids in new.items() if len(word) <= LONGEST}
        if len(self._known) + len(short) > REMEMBERED:
            self._known.clear()
        self._known |= short
        tokens = known | new
        return [self._joined(words, tokens) for words in split]

    def _word_pieces(self, word: str) -> list[int] | None:
        """The tokens of a short word of ASCII; None of another.

        BERT's words end at each mark. WordPiece takes the longest token that a word begins with,
        then the longest that goes on (Wu et al. 2016, arXiv:1609.08144, section 4.1).
        """
        if len(word) > self._longest or not (word.isascii() and word.isprintable()):
            return None
        text = word.lower() if self._lowercase else word
        if self._added.search(text):
            return None
        ids: list[int] = []
        for run in _RUNS.findall(text):
            token = self._vocabulary.get(run)
            ids += self._split(run) if token is None else [token]
        return ids

    def _split(self, run: str) -> list[int]:
        ids: list[int] = []
        start, prefix = 0, ""
        while start < len(run):
            for end in range(len(run), start, -1):
                token = self._vocabulary.get(prefix + run[start:end])
                if token is not None:
                    break
            else:
                return [self._unknown]
            ids.append(token)
            start, prefix = end, self._continuing
        return ids

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @staticmethod
    def _joined(words: list[str], tokens: Mapping[str, list[int]]) -> list[int]:
        return list(chain.from_iterable(map(tokens.__getitem__, words)))


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
