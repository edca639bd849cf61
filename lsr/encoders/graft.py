"""An untrained LM head on a sentence encoder, from which the default model's training started.

The trunk (all-MiniLM-L6-v2) was trained for dense retrieval and has no masked-LM head. Its token
states still lie near the embeddings of words with their meaning, so that its embedding matrix can
be the head once each term's logit is standardised over the tokens of the corpus: a term is active
if its logit is unusually high for that term, not if its embedding happens to be long.
"""

from __future__ import annotations

import hashlib
import random
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import TRUNK_LENGTH
from lsr.encoders.tokens import own_terms
from lsr.encoders.truncation import Length, Limit
from lsr.vectors import prune

if TYPE_CHECKING:
    import torch

    from lsr.encoders.masked_lm import MaskedLMEncoder

# Documents that the head is calibrated on, drawn from the whole corpus.
SAMPLE = 256
# Only these terms expand a document: nobody searches by word pieces, punctuation or [unused…].
WORD = re.compile("[a-z]{2,}|[0-9]+")


class GraftedEncoder:
    """Documents as BM25 of their own terms plus the head's expansion; queries as IDF of tokens.

    w_d(t) = bm25(t, d) + expansion · log(1 + relu(max_i (h_i·E_t − μ_t) / σ_t − θ))

    h_i are the trunk's states of the text's first 256 tokens, E its word embeddings, μ_t and σ_t
    mean and deviation of term t's logit over the tokens of the corpus, and θ the threshold at which
    the target number of terms is active on average.
    Queries are inference-free: no trunk runs for them (Geng et al. 2024, arXiv:2411.04403, §3.2).
    """

    def __init__(
        self,
        lexical: LexicalEncoder,
        mean: np.ndarray,
        deviation: np.ndarray,
        threshold: float,
        expansion: float = 0.7,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make an encoder with a known calibration; `fit` computes one.

        Args:
            lexical: BM25 fitted on the corpus, in the trunk's vocabulary of V terms.
            mean: μ, float32, shape (V,).
            deviation: σ > 0, float32, shape (V,).
            threshold: θ, in standard deviations.
            expansion: weight of the head relative to BM25.
            dtype: of the head's and the trunk's matrix products, see MaskedLMEncoder.

        Raises:
            ValueError: the calibration is of another vocabulary.
        """
        n_terms = len(lexical.vocabulary)
        if mean.shape != (n_terms,) or deviation.shape != (n_terms,):
            raise ValueError(
                f"the calibration has {len(mean)} and {len(deviation)} terms, the vocabulary "
                f"{n_terms}"
            )
        self.lexical = lexical
        self.mean = mean
        self.deviation = deviation
        self.threshold = threshold
        self.expansion = expansion
        self.dtype = dtype
        self.tokenizer = lexical.tokenizer
        self.vocabulary = lexical.vocabulary

    @classmethod
    def fit(
        cls, tokenizer: Any, batches: Iterable[Sequence[str]], target_terms: int = 120
    ) -> GraftedEncoder:
        """Calibrate an encoder on a corpus, which is read once, batch by batch.

        Args:
            tokenizer: the trunk's.
            batches: the texts of the corpus.
            target_terms: how many terms of a document the head makes active, on average.

        Raises:
            ValueError: no batch holds a text with a token.
        """
        from lsr.encoders.calibrate import largest_surpluses, logit_statistics, token_states
        from lsr.encoders.trunk import TrunkWithHead, head, load_trunk

        sample: list[str] = []
        lexical = LexicalEncoder.fit(tokenizer, _sampled(batches, sample))
        nothing = np.zeros(len(lexical.vocabulary), np.float32)
        model = TrunkWithHead(load_trunk(), head(nothing + 1, nothing)).eval()
        states, cu_seqlens, _ = token_states(model, tokenizer, sample, TRUNK_LENGTH)
        embeddings = load_trunk().get_input_embeddings().weight.detach()
        mean, deviation = logit_statistics(states, embeddings)
        encoder = cls(lexical, mean.numpy(), deviation.numpy(), 0.0)
        decoder = encoder._decoder
        weight, bias = decoder.weight.detach(), decoder.bias.detach()
        wanted = target_terms * len(sample)
        surplus = largest_surpluses(states, cu_seqlens, weight, bias, wanted)
        # If fewer terms than wanted are above their mean, all of them are active.
        if len(surplus) > wanted and surplus[wanted] > 0:
            encoder.threshold = float(surplus[wanted - 1])
        return encoder

    def save(self, folder: Path) -> None:
        """Write calibration and statistics to `folder`/graft.npz and lexical.npz."""
        self.lexical.save(folder)
        np.savez(
            folder / "graft.npz",
            mean=self.mean,
            deviation=self.deviation,
            threshold=self.threshold,
            expansion=self.expansion,
        )

    @classmethod
    def load(cls, tokenizer: Any, folder: Path, dtype: torch.dtype | None = None) -> GraftedEncoder:
        """Read what `save` wrote; the trunk is read when the first document is encoded.

        Raises:
            FileNotFoundError: `folder` holds no calibration.
            ValueError: it is truncated, not a calibration, or of another vocabulary.
        """
        lexical = LexicalEncoder.load(tokenizer, folder)
        path = folder / "graft.npz"
        try:
            # We open the file: numpy would leave a truncated one open.
            with path.open("rb") as file, np.load(file) as saved:
                return cls(
                    lexical,
                    saved["mean"],
                    saved["deviation"],
                    float(saved["threshold"]),
                    float(saved["expansion"]),
                    dtype,
                )
        except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: not the calibration of an encoder: {error}") from error

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the calibration and the statistics."""
        digest = hashlib.sha256(self.lexical.fingerprint.encode())
        for part in (self.mean, self.deviation, np.array([self.threshold, self.expansion])):
            digest.update(part.tobytes())
        return digest.hexdigest()

    def own_terms(self, text: str) -> set[int]:
        """Return the terms that the text itself holds, as numbers in `vocabulary`."""
        return own_terms(self.tokenizer, text)

    @property
    def document_limit(self) -> Limit:
        """How much of a document the head reads; own terms come from the whole document."""
        special = self.tokenizer.num_special_tokens_to_add()
        return Limit(self.tokenizer, TRUNK_LENGTH, special)

    @property
    def query_limit(self) -> Limit:
        """No limit: whole queries are read."""
        return Limit(self.tokenizer)

    def encode_documents(
        self,
        texts: Sequence[str],
        top_k: int | None = None,
        lengths: list[Length] | None = None,
    ) -> csr_array:
        """Encode own terms and expansion, float32, shape (n, V).

        Args:
            texts: n documents.
            top_k: how many terms of the head are kept, the heaviest; own terms are always kept.
            lengths: a list to which each text's length, and how much the head read, is appended.
        """
        head = self._head.encode_documents(texts, lengths=lengths)
        if top_k is not None:
            head = prune(head, top_k)
        vectors = self.lexical.encode_documents(texts) + head * np.float32(self.expansion)
        vectors.sort_indices()
        return csr_array(vectors, dtype=np.float32)

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        """Encode queries as the IDF of each token, however often it occurs; float32, (n, V)."""
        weighted = self.lexical.encode_queries(texts)
        weighted.data = self.lexical.idf[weighted.indices]
        return weighted

    @property
    def _decoder(self) -> torch.nn.Linear:
        from lsr.encoders.trunk import head

        words = np.array([WORD.fullmatch(term) is not None for term in self.vocabulary])
        shift = np.where(words, -self.mean / self.deviation - self.threshold, -np.inf)
        return head(1 / self.deviation, shift.astype(np.float32))

    @cached_property
    def _head(self) -> MaskedLMEncoder:
        from lsr.encoders.trunk import head_encoder

        return head_encoder(self.tokenizer, self._decoder, self.dtype)


def _sampled(batches: Iterable[Sequence[str]], sample: list[str]) -> Iterator[Sequence[str]]:
    """Yield the batches, and fill `sample` with SAMPLE of their texts (reservoir, Vitter 1985)."""
    generator = random.Random(0)
    seen = 0
    for texts in batches:
        for text in texts:
            seen += 1
            if len(sample) < SAMPLE:
                sample.append(text)
            elif (slot := generator.randrange(seen)) < SAMPLE:
                sample[slot] = text
        yield texts
