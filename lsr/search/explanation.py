"""Why a document has its score: what each term, each word and each side added."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lsr.documents import MetadataValue
from lsr.indexes.lucene import WORD_SCALE
from lsr.request import Side


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
    # "learned" for the encoder's terms; "words", of title and text; "title", words of it alone.
    field: str = "learned"


class SideScore(NamedTuple):
    """What one side added to a score."""

    side: Side
    share: float  # of the document's score, after normalisation and α; shares sum to it
    score: float  # of the side itself


class Boosted(NamedTuple):
    """What one boost added to a score."""

    key: str
    form: str
    values: list[MetadataValue]  # of the document under the key
    addend: float


class Explanation(NamedTuple):
    """Why a document has its score: the sum of its sides' shares and of its boosts' addends."""

    score: float
    sides: list[SideScore]
    # Of all sides that Lucene searches, largest contribution first; of each they sum to its score.
    terms: list[Contribution]
    boosts: Sequence[Boosted] = ()

    def score_of(self, *sides: Side) -> float | None:
        """Return the score of the first of these sides that has a part in the score."""
        found = {part.side: part.score for part in self.sides}
        return next((found[side] for side in sides if side in found), None)


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
    """Return each learned term that query and document share, without shares of the score.

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
    return [
        Contribution(
            vocabulary[term],
            q[term] * (factor * document_scale),
            d[term] / document_scale,
            q[term] * d[term] * factor,
            0.0,
            term in asked,
            term in own,
            before is not None and term not in before,
        )
        for term in shared
    ]


def word_contributions(
    weights: Mapping[str, tuple[int, int]],
    scores: np.ndarray,
    factor: float,
    names: Mapping[str, str],
    before: Collection[str] | None = None,
) -> list[Contribution]:
    """Return each word that query and document share, without shares of the score.

    Args:
        weights: of one query, as in WordQueries.
        scores: of the document, int64, shape (words, 2), as `LuceneIndex.word_scores` gives them.
        factor: the score is this times Σ weight × score.
        names: word → as the query writes it.
        before: words of the query before feedback; None where there was none.
    """
    return [
        Contribution(
            names.get(word, word),
            weight * (factor * WORD_SCALE),
            score / WORD_SCALE,
            weight * score * factor,
            0.0,
            word in names,
            True,
            before is not None and word not in before,
            field,
        )
        for (word, of_fields), of_document in zip(weights.items(), scores.tolist(), strict=True)
        for field, weight, score in zip(("words", "title"), of_fields, of_document, strict=True)
        if weight and score
    ]


def with_shares(parts: Sequence[Contribution]) -> list[Contribution]:
    """Return the parts of one score with their shares of it, largest contribution first."""
    total = sum(part.contribution for part in parts)
    ordered = sorted(parts, key=lambda part: (-part.contribution, part.field, part.term))
    return [part._replace(share=part.contribution / total) for part in ordered]
