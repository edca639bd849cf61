"""Token ids of a collection, and batches of them in which some tokens are masked.

Everything drawn at random (order, spans, masks) depends on the seed and the example's number alone,
so that a run resumed after a kill sees the same batches as one that was not killed.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorForLanguageModeling

from lsr.encoders.tokens import special_ids, whole_text

# Texts tokenised at once.
BLOCK = 1000
# Batches whose examples are sorted by length together: little padding, and order still random.
WINDOW = 64
# Fewer tokens than this tell nothing of their document.
SHORTEST_SPAN = 4
# Labels of tokens that are not to be predicted, as in transformers.
IGNORED = -100
# What is drawn.
_ORDER, _SPANS, _MASKS = range(3)


@dataclass(frozen=True)
class Tokens:
    """Texts as token ids without special tokens, one text after the other.

    `ids` is int32, (total,); text i has those from bounds[i] to bounds[i + 1] (int64, (n + 1,));
    `starts` is true where a word begins, (total,), or None if `tokenize` did not look for words.
    """

    ids: np.ndarray
    bounds: np.ndarray
    starts: np.ndarray | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over all ids and bounds."""
        return hashlib.sha256(self.ids.tobytes() + self.bounds.tobytes()).hexdigest()


def tokenize(tokenizer: Any, texts: Iterable[str], *, words: bool = False) -> Tokens:
    """The token ids of `texts`, none cut off; those without any token are left out.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        texts: read once, a block at a time.
        words: whether to find where words begin.

    Raises:
        ValueError: there are no tokens at all.
    """
    backend = whole_text(tokenizer)
    ids: list[np.ndarray] = []
    starts: list[np.ndarray] = []
    stream = iter(texts)
    while block := list(islice(stream, BLOCK)):
        encode = backend.encode_batch if words else backend.encode_batch_fast
        for encoding in encode(block, add_special_tokens=False):
            if encoding.ids:
                ids.append(np.asarray(encoding.ids, dtype=np.int32))
                if words:
                    # A special token that the text spells out is in no word: a word of its own.
                    word = np.asarray([-1 if w is None else w for w in encoding.word_ids])
                    starts.append(np.append(True, (word[1:] != word[:-1]) | (word[1:] < 0)))
    if not ids:
        raise ValueError("the texts to pretrain on hold no token")
    bounds = np.cumsum([0, *(len(row) for row in ids)])
    return Tokens(np.concatenate(ids), bounds, np.concatenate(starts) if words else None)


class Chunks:
    """Texts cut into as few parts as possible, of nearly equal length; no part holds two texts."""

    per_example = 1

    def __init__(self, tokens: Tokens, longest: int) -> None:
        """Cut `tokens` into parts of at most `longest`."""
        lengths = np.diff(tokens.bounds)
        parts = -(-lengths // longest)
        first = np.repeat(np.cumsum(parts) - parts, parts)
        number = np.arange(parts.sum()) - first
        start, length, count = (np.repeat(of, parts) for of in (tokens.bounds[:-1], lengths, parts))
        self._starts = start + number * length // count
        self._ends = start + (number + 1) * length // count
        self.lengths = self._ends - self._starts

    def spans(self, row: int, generator: np.random.Generator) -> list[slice]:
        """Where in the tokens the only part of example `row` is."""
        return [slice(int(self._starts[row]), int(self._ends[row]))]


class SpanPairs:
    """Two random parts of one text, new ones each time; texts too short for two are left out.

    The text is divided at a random place in its middle half, and of each side a part of at most
    `longest` tokens is drawn. The two never overlap: shared words would make the task too easy.
    """

    per_example = 2

    def __init__(self, tokens: Tokens, longest: int) -> None:
        """Pairs of parts of at most `longest` tokens.

        Raises:
            ValueError: fewer than two texts are long enough; a pair is contrasted with another.
        """
        lengths = np.diff(tokens.bounds)
        usable = lengths >= 2 * SHORTEST_SPAN
        if usable.sum() < 2:
            raise ValueError(
                f"span pairs need at least 2 texts of {2 * SHORTEST_SPAN} tokens or more, got "
                f"{usable.sum()} of {len(lengths)} texts"
            )
        self._starts, self._longest = tokens.bounds[:-1][usable], longest
        self.lengths = lengths[usable]

    def spans(self, row: int, generator: np.random.Generator) -> list[slice]:
        """Where in the tokens the two parts of example `row` are."""
        start, length = int(self._starts[row]), int(self.lengths[row])
        low = max(SHORTEST_SPAN, length // 4)
        cut = int(generator.integers(low, length - low + 1))
        return [
            self._part(start, start + cut, generator),
            self._part(start + cut, start + length, generator),
        ]

    def _part(self, start: int, end: int, generator: np.random.Generator) -> slice:
        length = min(end - start, self._longest)
        first = int(generator.integers(start, end - length + 1))
        return slice(first, first + length)


class Example(TypedDict):
    """Parts of the tokens; random draws for it depend on its number in the stream."""

    number: int
    spans: list[slice]


class Stream(torch.utils.data.Dataset[Example]):
    """`total` examples, epoch after epoch; each epoch has its own order.

    Batches of `batch` consecutive examples have similar lengths and hold no example twice, if there
    are enough examples; those that do not fill a batch wait for another epoch.
    """

    def __init__(self, source: Chunks | SpanPairs, total: int, batch: int, seed: int) -> None:
        self._source, self._total, self._batch, self._seed = source, total, batch, seed
        self._per_epoch = max(1, len(source.lengths) // batch) * batch
        # A reader needs the order of one epoch at a time, or of two where they meet.
        self._order: Callable[[int], np.ndarray] = lru_cache(2)(self._ordered)

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, number: int) -> Example:
        if not 0 <= number < self._total:  # ends an iteration
            raise IndexError(f"example {number} of {self._total}")
        epoch, place = divmod(number, self._per_epoch)
        generator = _generator(self._seed, _SPANS, number)
        return Example(
            number=number, spans=self._source.spans(int(self._order(epoch)[place]), generator)
        )

    def _ordered(self, epoch: int) -> np.ndarray:
        """Rows of the source: shuffled, windows sorted by length, then their batches shuffled."""
        generator, lengths = _generator(self._seed, _ORDER, epoch), self._source.lengths
        rows = np.resize(generator.permutation(len(lengths)), self._per_epoch)
        window = WINDOW * self._batch
        windows = [rows[start : start + window] for start in range(0, len(rows), window)]
        rows = np.concatenate([w[np.argsort(lengths[w], kind="stable")] for w in windows])
        return generator.permutation(rows.reshape(-1, self._batch)).reshape(-1)


class Frame(NamedTuple):
    """The special tokens that a tokenizer puts around a text."""

    before: list[int]
    after: list[int]

    @classmethod
    def of(cls, tokenizer: Any) -> Frame:
        """Those of `tokenizer`."""
        text = whole_text(tokenizer).encode("a", add_special_tokens=False).ids
        framed = whole_text(tokenizer).encode("a", add_special_tokens=True).ids
        at = next(i for i in range(len(framed)) if framed[i : i + len(text)] == text)
        return cls(framed[:at], framed[at + len(text) :])


class Masker:
    """Examples of a `Stream` as a batch whose `labels` are the tokens that were masked.

    Of the tokens, `share` are chosen; of those, 80 % become the mask token, 10 % a random one and
    10 % stay (BERT, arXiv 1810.04805, section 3.1), by DataCollatorForLanguageModeling of
    transformers. With whole words, or `always_mask`, all of them become the mask token. Special
    tokens are never chosen.
    """

    def __init__(
        self,
        tokenizer: Any,
        tokens: Tokens,
        *,
        share: float,
        mask_token: str,
        always_mask: bool = False,
        next_token: bool = False,
        seed: int = 0,
    ) -> None:
        """A collator for examples from `tokens`; it masks whole words where these have `starts`.

        Args:
            tokenizer: the one that gave `tokens`.
            tokens: the examples' spans are parts of them.
            share: share of the tokens that are chosen, in (0, 1).
            mask_token: any token of the vocabulary; it need not be the tokenizer's own mask token.
            always_mask: every chosen token becomes the mask token.
            next_token: never mask the first token of a text, since nothing precedes it.
            seed: of the random choices.
        """
        masking = copy.deepcopy(tokenizer)
        masking.mask_token = mask_token
        always = always_mask or tokens.starts is not None
        self._collator = DataCollatorForLanguageModeling(
            masking,
            whole_word_mask=tokens.starts is not None,
            mlm_probability=share,
            mask_replace_prob=1.0 if always else 0.8,
            random_replace_prob=0.0 if always else 0.1,
        )
        self._tokens, self._next_token, self._seed = tokens, next_token, seed
        self._special = special_ids(tokenizer)
        self._padding = tokenizer.pad_token_id or 0
        self._frame = Frame.of(tokenizer)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` and `labels`, int64, (texts, length of the longest).

        The spans of an example are consecutive texts. Labels are IGNORED where nothing is masked.
        """
        spans = [span for example in examples for span in example["spans"]]
        before, after = (np.array(part, dtype=np.int64) for part in self._frame)
        rows = [np.concatenate([before, self._tokens.ids[span], after]) for span in spans]
        ids = _padded(rows, self._padding)
        mask = _padded([np.ones(len(row), dtype=np.int64) for row in rows], 0)
        kept = torch.isin(ids, torch.from_numpy(self._special)) | (mask == 0)
        if self._next_token:
            kept[:, 0] = True
        draw = _generator(self._seed, _MASKS, examples[0]["number"]).integers(2**63)
        self._collator.generator = torch.Generator().manual_seed(int(draw))
        ids, labels = self._collator.torch_mask_tokens(
            ids, special_tokens_mask=kept, offset_mapping=self._offsets(spans, ids)
        )
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def _offsets(self, spans: list[slice], ids: Tensor) -> Tensor | None:
        """Character offsets as the collator reads them: words do not touch, a word's tokens do."""
        if self._tokens.starts is None:
            return None
        before, after = (np.ones(len(part), dtype=bool) for part in self._frame)
        starts = [np.concatenate([before, self._tokens.starts[span], after]) for span in spans]
        begin = 2 * torch.arange(ids.shape[1]).expand_as(ids)
        follows = ~_padded(starts, True).roll(-1, 1)
        return torch.stack([begin, begin + 1 + follows.long()], 2)


def _padded(rows: list[np.ndarray], value: float) -> Tensor:
    return pad_sequence([torch.from_numpy(row) for row in rows], True, padding_value=value)


def _generator(seed: int, what: int, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, what, number))
