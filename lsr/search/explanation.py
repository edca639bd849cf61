"""Why a document has its score: what each term and each side added."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from scipy.sparse import csr_array


class Contribution(NamedTuple):
    """What one term added to a sparse score; contributions sum to it exactly."""

    term: str
    query_weight: float
    document_weight: float
    contribution: float
    share: float  # of the sparse score, in [0, 1]
    literal_in_query: bool  # the query's own token, not an expansion
    literal_in_document: bool
    from_feedback: bool = False  # not in the query before feedback moved it


class Explanation(NamedTuple):
    """Why a document has its score."""

    score: float
    sparse: float  # what the sparse side added to `score`, after normalisation and α
    dense: float  # what the dense side added
    sparse_score: float | None  # before these; None where the side has no part in the score
    dense_score: float | None
    terms: list[Contribution]  # of `sparse_score`, largest contribution first


def contributions(
    query: csr_array,
    document: csr_array,
    factor: float,
    document_scale: float,
    vocabulary: Sequence[str],
    *,
    asked: Collection[int],
    own: Collection[int],
    before: Collection[int] | None = None,
) -> list[Contribution]:
    """Return each term that query and document share, largest contribution first.

    Args:
        query: impacts, int32, shape (1, V).
        document: impacts, int32, shape (1, V).
        factor: the score is this times Σ query impact × document impact.
        document_scale: what the document's impacts are divided by.
        vocabulary: V terms.
        asked: terms of the query's own text.
        own: terms of the document's own text.
        before: terms of the query before feedback; None where there was none.
    """
    q = dict(zip(query.indices.tolist(), query.data.tolist(), strict=True))
    d = dict(zip(document.indices.tolist(), document.data.tolist(), strict=True))
    shared = sorted(q.keys() & d.keys(), key=lambda term: (-q[term] * d[term], term))
    total = sum(q[term] * d[term] for term in shared)
    return [
        Contribution(
            vocabulary[term],
            q[term] * (factor * document_scale),
            d[term] / document_scale,
            q[term] * d[term] * factor,
            q[term] * d[term] / total,
            term in asked,
            term in own,
            before is not None and term not in before,
        )
        for term in shared
    ]
