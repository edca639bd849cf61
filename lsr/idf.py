"""The inverse document frequency of BM25."""

from __future__ import annotations

import numpy as np


def inverse_document_frequency(document_frequency: np.ndarray, n_documents: int) -> np.ndarray:
    """idf = ln(1 + (N − df + 0.5) / (df + 0.5)), float32, shape of `document_frequency`.

    Robertson & Zaragoza 2009 with Lucene's 1 + inside, which keeps it positive. Terms that no
    document holds get the largest value, not 0: a query's rare word must not vanish.
    """
    df = document_frequency.astype(np.float64)
    return np.log1p((n_documents - df + 0.5) / (df + 0.5)).astype(np.float32)
