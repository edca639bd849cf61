"""No learned terms: an index of words alone, which Lucene scores by BM25."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from lsr.encoders.truncation import Length, Limit


class WordsAlone:
    """An encoder whose vectors have no terms. Nothing is computed, and no model is needed."""

    vocabulary: list[str] = []
    tokenizer = None
    fingerprint = hashlib.sha256(b"bm25").hexdigest()
    document_limit = Limit(None)
    query_limit = Limit(None)

    def own_terms(self, text: str) -> set[int]:
        """Return the terms that a text itself holds: there are none."""
        return set()

    def encode_documents(
        self,
        texts: Sequence[str],
        top_k: int | None = None,
        lengths: list[Length] | None = None,
    ) -> csr_array:
        """Return empty vectors, float32, shape (n, 0).

        The length of each text is added to `lengths`: it has no tokens.
        """
        if lengths is not None:
            lengths += [Length(0, 0)] * len(texts)
        return csr_array((len(texts), 0), dtype=np.float32)

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        """Return empty vectors, float32, shape (n, 0)."""
        return csr_array((len(texts), 0), dtype=np.float32)
