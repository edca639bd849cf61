"""What a user should know of a query or a document that an encoder could not use as a whole."""

from __future__ import annotations

from collections.abc import Collection

from lsr.documents import Document
from lsr.encoders.truncation import Length, Limit
from lsr.request import Request, Side
from lsr.search.asked import Asked
from lsr.search.explanation import Explanation
from lsr.search.searcher import Searcher


def of_query(searcher: Searcher, request: Request, *, found: bool) -> list[str]:
    """Return sentences on a query of which something was not read, is not known or excludes all.

    Args:
        searcher: what was searched.
        request: what was asked.
        found: whether there are hits. Without any, filter and terms are looked at.

    Raises:
        ValueError: see `Searcher.search`.
    """
    asked = searcher.asked(request)
    query, condition = asked.request.query, asked.request.filter
    sides = searcher.sides(request)
    notices = list(asked.notices)
    manifest = searcher.manifest
    if not found and condition and not searcher.index.count(condition):
        notices.append(f"no document matches `{condition}`")
    elif not found:
        notices += _unknown(searcher, asked, sides)
    if sides & {"sparse", "learned"} and isinstance(query, str):
        length = _length(searcher.encoder.query_limit, query)
        notices += _unread("the query", length, f"encoder {manifest.encoder!r}")
    if "dense" in sides and isinstance(query, str):
        assert searcher.dense_encoder is not None
        length = _length(searcher.dense_encoder.query_limit, query)
        notices += _unread("the query", length, f"dense model {manifest.dense!r}")
    return notices


def _unknown(searcher: Searcher, asked: Asked, sides: Collection[Side]) -> list[str]:
    """Return a sentence on a query of which neither words nor learned terms are left."""
    if "dense" in sides:
        return []
    query = asked.request.query
    lacks = []
    if isinstance(query, str) and not {"words", "sparse"}.isdisjoint(sides):
        if asked.words:
            return []
        language = searcher.manifest.language
        lacks.append(f"no word that the analyzer of language {language!r} keeps")
        if asked.patterns:
            lacks.append("no pattern that stands for a word of the index")
    # An index of words alone has no terms that a query could hold.
    if searcher.encoder.vocabulary and not {"learned", "sparse"}.isdisjoint(sides):
        if searcher.expand(query, operators=False):
            return []
        lacks.append(f"no term that encoder {searcher.manifest.encoder!r} knows")
    return [f"the query holds {' and '.join(lacks)}: nothing can match it"]


def of_document(
    searcher: Searcher, request: Request, document: Document, why: Explanation
) -> list[str]:
    """Return why a document is no hit, and what was not read of it if no learned term matches.

    Args:
        searcher: of the index.
        request: what was asked.
        document: as the index stores it.
        why: its score for the request.

    Raises:
        ValueError: see `Searcher.search`.
    """
    manifest = searcher.manifest
    notices = []
    condition = searcher.asked(request).request.filter
    if condition and not searcher.index.matches(condition, document.id):
        notices.append(f"the document does not match `{condition}`, and so it is no hit")
    learned = why.score_of("sparse", "learned")
    if learned is not None and not any(part.field == "learned" for part in why.terms):
        head = "the head of " if manifest.encoder == "grafted" else ""
        length = _length(searcher.encoder.document_limit, document.content)
        notices += _unread("the document", length, f"{head}encoder {manifest.encoder!r}")
    return notices


def _length(limit: Limit, text: str) -> Length:
    if limit.tokens is None:
        return Length(0, 0)  # everything is read
    (length,) = limit.lengths([text])
    return length


def _unread(what: str, length: Length, model: str) -> list[str]:
    if not length.unread:
        return []
    return [
        f"{what} has {length.tokens:,} tokens, of which {model} reads the first {length.read:,}: "
        "what follows them matches nothing"
    ]
