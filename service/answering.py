"""Hits and explanations of the engine as the models that go out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lsr.answers import (
    AnswerHit,
    Expansion,
    Mark,
    Marked,
    QueryTerm,
    State,
    StoredDocument,
    Term,
    Why,
)
from lsr.corpus import Document
from lsr.explanation import Explanation
from lsr.highlight import Match, excerpt, matches
from lsr.request import Request
from lsr.search import Hit, Searcher
from lsr.search import QueryTerm as Expanded
from lsr.service.bodies import SearchBody


def why(explanation: Explanation) -> Why:
    """An explanation to send."""
    terms = [Term.model_construct(**term._asdict()) for term in explanation.terms]
    return Why.model_construct(**{**explanation._asdict(), "terms": terms})


def stored(document: Document) -> StoredDocument:
    """A document to send."""
    return StoredDocument.model_construct(
        id=document.id,
        title=document.title,
        text=document.text,
        metadata=dict(document.metadata),
    )


def expansion(state: State, terms: Sequence[Expanded]) -> Expansion:
    """A query's terms to send."""
    return Expansion.model_construct(
        state=state, terms=[QueryTerm.model_construct(**term._asdict()) for term in terms]
    )


def marked(text: str, found: Sequence[Match]) -> Marked:
    """A text to send, with what matched in it."""
    return Marked.model_construct(
        text=text, marks=[Mark.model_construct(**match._asdict()) for match in found]
    )


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
        self._snippets: Sequence[Marked | None] = [None] * len(hits)
        if body.snippets and hits:
            terms = query_terms(searcher, request)
            self._snippets = [
                snippet(searcher.encoder.tokenizer, hit.document, terms) for hit in hits
            ]
        self._hits = hits
        self._text = body.text

    def hits(self) -> list[AnswerHit]:
        """The hits to send."""
        return [
            AnswerHit.model_construct(
                id=hit.document.id,
                score=hit.score,
                title=hit.document.title,
                text=hit.document.text if self._text else None,
                metadata=dict(hit.document.metadata),
                snippet=part,
                why=reasons and why(reasons),
            )
            for hit, reasons, part in zip(self._hits, self._why, self._snippets, strict=True)
        ]


def query_terms(searcher: Searcher, request: Request) -> dict[str, bool]:
    """Term → whether it is the query's own, of all terms that a text is marked by."""
    return {term.term: term.literal for term in searcher.expand(request)}


def snippet(tokenizer: Any, document: Document, terms: Mapping[str, bool]) -> Marked:
    """The part of a document that shows most of what matched."""
    text = " ".join(document.text.split())
    return marked(*excerpt(text, matches(tokenizer, text, terms)))
