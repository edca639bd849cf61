"""BM25 in the vocabulary of an encoder's tokenizer: the baseline, on the same index."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from lsr.encoders.tokens import count_terms, own_terms, vocabulary
from lsr.encoders.truncation import Length, Limit
from lsr.idf import inverse_document_frequency


class LexicalEncoder:
    """BM25 as a dot product: saturated term frequency of documents, IDF of queries."""

    def __init__(
        self,
        tokenizer: Any,
        idf: np.ndarray,
        average_length: float,
        k1: float = 1.2,
        b: float = 0.75,
    ) -> None:
        """Make an encoder with known statistics; `fit` computes them.

        Args:
            tokenizer: a fast Hugging Face tokenizer with V terms.
            idf: float32, shape (V,).
            average_length: mean number of tokens of a document, > 0.
            k1: saturation of the term frequency (Robertson & Zaragoza 2009, eq. 3.15).
            b: strength of the length normalisation, in [0, 1].

        Raises:
            ValueError: sizes that differ or an average length that is not positive.
        """
        if len(idf) != len(tokenizer):
            raise ValueError(
                f"`idf` holds {len(idf)} terms but the tokenizer's vocabulary {len(tokenizer)}"
            )
        if not average_length > 0:
            raise ValueError(f"`average_length` must be positive, got {average_length}")
        self.tokenizer = tokenizer
        self.idf = idf
        self.average_length = average_length
        self.k1 = k1
        self.b = b
        self.vocabulary = vocabulary(tokenizer)

    @classmethod
    def fit(cls, tokenizer: Any, batches: Iterable[Sequence[str]]) -> LexicalEncoder:
        """An encoder with the IDF and average length of a corpus, read once, batch by batch.

        Raises:
            ValueError: no batch holds a text with a token.
        """
        df = np.zeros(len(tokenizer), dtype=np.int64)
        n_documents = 0
        n_tokens = 0.0
        for texts in batches:
            counts = count_terms(tokenizer, texts)
            df += np.bincount(counts.indices, minlength=len(df))
            n_documents += len(texts)
            n_tokens += float(counts.data.sum(dtype=np.float64))
        if n_tokens == 0:
            raise ValueError(f"cannot fit IDF: none of {n_documents} documents holds a token")
        return cls(tokenizer, inverse_document_frequency(df, n_documents), n_tokens / n_documents)

    def save(self, folder: Path) -> None:
        """Write the statistics to `folder`/lexical.npz."""
        np.savez(
            folder / "lexical.npz",
            idf=self.idf,
            average_length=self.average_length,
            k1=self.k1,
            b=self.b,
        )

    @classmethod
    def load(cls, tokenizer: Any, folder: Path) -> LexicalEncoder:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: `folder` holds no statistics.
            ValueError: they are truncated, foreign, or of another vocabulary.
        """
        path = folder / "lexical.npz"
        try:
            # We open the file: numpy would leave a truncated one open.
            with path.open("rb") as file, np.load(file) as saved:
                return cls(
                    tokenizer,
                    saved["idf"],
                    float(saved["average_length"]),
                    float(saved["k1"]),
                    float(saved["b"]),
                )
        except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: not the statistics of an encoder: {error}") from error

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the statistics and parameters."""
        digest = hashlib.sha256(np.asarray(self.idf, dtype=np.float32).tobytes())
        digest.update(np.array([self.average_length, self.k1, self.b]).tobytes())
        return digest.hexdigest()

    def own_terms(self, text: str) -> set[int]:
        """The terms that a text itself holds, as numbers in `vocabulary`."""
        return own_terms(self.tokenizer, text)

    @property
    def document_limit(self) -> Limit:
        """There is none: whole documents are read."""
        return Limit(self.tokenizer)

    @property
    def query_limit(self) -> Limit:
        """There is none: whole queries are read."""
        return Limit(self.tokenizer)

    def encode_documents(
        self,
        texts: Sequence[str],
        top_k: int | None = None,
        lengths: list[Length] | None = None,
    ) -> csr_array:
        """tf·(k1 + 1) / (tf + k1·(1 − b + b·length / average_length)), float32, shape (n, V).

        A document's own terms are always kept: `top_k`, which bounds expansion, changes nothing.
        The length of each text is added to `lengths`.
        """
        counts = count_terms(self.tokenizer, texts)
        sizes = np.asarray(counts.sum(axis=1)).ravel()
        if lengths is not None:
            lengths += [Length(int(size), int(size)) for size in sizes]
        norm = self.k1 * (1 - self.b + self.b * sizes / self.average_length)
        per_posting = np.repeat(norm, np.diff(counts.indptr)).astype(np.float32)
        counts.data = counts.data * np.float32(self.k1 + 1) / (counts.data + per_posting)
        return counts

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        """IDF × occurrences of each term, float32, shape (n, V)."""
        counts = count_terms(self.tokenizer, texts)
        counts.data *= self.idf[counts.indices]
        return counts
