"""Hits and explanations of the engine as they go out.

What is returned here has the fields of the model of `lsr.answers` that the docstring names. Not
the models themselves: an explained answer is made of hundreds of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from lsr.documents import Document
from lsr.request import Request
from lsr.search import Hit, Searcher
from lsr.search.explanation import Explanation
from lsr.search.highlight import Match, excerpt, matches
from lsr.service.bodies import SearchBody

Fields: TypeAlias = dict[str, Any]


def why(explanation: Explanation) -> Fields:
    """An explanation: Why."""
    return {**explanation._asdict(), "terms": [term._asdict() for term in explanation.terms]}


def stored(document: Document) -> Fields:
    """A document: StoredDocument."""
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": dict(document.metadata),
    }


def marked(text: str, found: Sequence[Match]) -> Fields:
    """A text, with what matched in it: Marked."""
    return {"text": text, "marks": [match._asdict() for match in found]}


class Shown:
    """What one answer shows of its hits besides themselves, worked out on the engine's thread."""

    def __init__(
        self, searcher: Searcher, body: SearchBody, request: Request, hits: Sequence[Hit]
    ) -> None:
        """Explain and mark the hits of a request as `body` says."""
        ids = [hit.document.id for hit in hits]
        self._why: Sequence[Explanation | None] = [None] * len(hits)
        if body.explain and hits:
            self._why = searcher.explanations(request, ids)
        self._snippets: Sequence[Fields | None] = [None] * len(hits)
        if body.snippets and hits:
            terms = query_terms(searcher, request)
            self._snippets = [
                snippet(searcher.encoder.tokenizer, hit.document, terms) for hit in hits
            ]
        self._hits = hits
        self._text = body.text

    def hits(self) -> list[Fields]:
        """The hits: AnswerHit."""
        return [
            {
                "id": hit.document.id,
                "score": hit.score,
                "title": hit.document.title,
                "text": hit.document.text if self._text else None,
                "metadata": dict(hit.document.metadata),
                "snippet": part,
                "why": reasons and why(reasons),
            }
            for hit, reasons, part in zip(self._hits, self._why, self._snippets, strict=True)
        ]


def query_terms(searcher: Searcher, request: Request) -> dict[str, bool]:
    """Term → whether it is the query's own, of all terms that a text is marked by."""
    return {term.term: term.literal for term in searcher.expand(request)}


def snippet(tokenizer: Any, document: Document, terms: Mapping[str, bool]) -> Fields:
    """The part of a document that shows most of what matched: Marked."""
    text = " ".join(document.text.split())
    return marked(*excerpt(text, matches(tokenizer, text, terms)))
