"""The engine's hits and explanations in the form in which they are sent.

Each function returns a dictionary with the fields of the model of `lsr.answers` that its docstring
names. It does not make the model itself: an explained answer would take hundreds of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from lsr.documents import Document
from lsr.request import Request
from lsr.search import Hit, Searcher
from lsr.search.explanation import Explanation
from lsr.search.highlight import Match, excerpt
from lsr.service.bodies import SearchBody

Fields: TypeAlias = dict[str, Any]


def why(explanation: Explanation) -> Fields:
    """Return an explanation with the fields of Why."""
    return {
        "score": explanation.score,
        "sides": [part._asdict() for part in explanation.sides],
        "terms": [term._asdict() for term in explanation.terms],
        "boosts": [boost._asdict() for boost in explanation.boosts],
    }


def stored(document: Document) -> Fields:
    """Return a document with the fields of StoredDocument."""
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": dict(document.metadata),
    }


def marked(text: str, found: Sequence[Match]) -> Fields:
    """Return a text and what matched in it, with the fields of Marked."""
    return {"text": text, "marks": [match._asdict() for match in found]}


class Shown:
    """The hits of one answer with their explanations and snippets, made on the engine's thread."""

    def __init__(
        self, searcher: Searcher, body: SearchBody, request: Request, hits: Sequence[Hit]
    ) -> None:
        """Explain the hits and mark their texts, where `body` asks for it."""
        ids = [hit.document.id for hit in hits]
        self._why: Sequence[Explanation | None] = [None] * len(hits)
        if body.explain and hits:
            self._why = searcher.explanations(request, ids)
        self._snippets: Sequence[Fields | None] = [None] * len(hits)
        if body.snippets and hits:
            highlight = searcher.highlighter(request)
            self._snippets = [snippet(hit.document, highlight) for hit in hits]
        self._hits = hits
        self._text = body.text

    def hits(self) -> list[Fields]:
        """Return the hits with the fields of AnswerHit."""
        return [
            {
                "id": hit.document.id,
                "score": hit.score,
                "title": hit.document.title,
                "text": hit.document.text if self._text else None,
                "metadata": dict(hit.document.metadata),
                "group": hit.group,
                "rerank": hit.rerank and hit.rerank._asdict(),
                "snippet": part,
                "why": reasons and why(reasons),
            }
            for hit, reasons, part in zip(self._hits, self._why, self._snippets, strict=True)
        ]


def snippet(document: Document, highlight: Callable[[str], list[Match]]) -> Fields:
    """Return the part of a document with the most matches, with the fields of Marked."""
    text = " ".join(document.text.split())
    return marked(*excerpt(text, highlight(text)))
