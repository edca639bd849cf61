"""Maximal marginal relevance: hits that differ from those before them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def marginal_relevance(
    relevances: Sequence[float], similarities: np.ndarray, relevance: float
) -> list[int]:
    """Return the places of n hits, each the best of those left (Carbonell and Goldstein, 1998).

    The best has the largest λ · relevance − (1 − λ) · similarity to the hit before it that is
    nearest. Relevances are those given, from 0 for the least to 1 for the largest; where all are
    equal they are 1. Among equals the first is taken.

    Args:
        relevances: of n hits.
        similarities: of each pair, float64, shape (n, n).
        relevance: λ, in [0, 1].
    """
    scores = np.asarray(relevances, np.float64)
    low, high = scores.min(initial=np.inf), scores.max(initial=-np.inf)
    scaled = (scores - low) / (high - low) if high > low else np.ones(len(scores))
    left = list(range(len(scores)))
    nearest = np.zeros(len(scores))  # nothing is before the first hit
    chosen: list[int] = []
    while left:
        values = relevance * scaled[left] - (1 - relevance) * nearest[left]
        place = left.pop(int(np.argmax(values)))
        chosen.append(place)
        near = similarities[place]
        nearest = near.copy() if len(chosen) == 1 else np.maximum(nearest, near)
    return chosen


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of n vectors, shape (n, n); 0 where one has no length.

    Args:
        vectors: float64, shape (n, D).
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return np.asarray(units @ units.T)
