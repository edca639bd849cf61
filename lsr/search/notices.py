"""What a user should know of a query or a document that an encoder could not use as a whole."""

from __future__ import annotations

from lsr.documents import Document
from lsr.encoders.truncation import Length, Limit
from lsr.request import Request
from lsr.search.explanation import Explanation
from lsr.search.passes import first_sides, last_sides
from lsr.search.searcher import Searcher


def of_query(searcher: Searcher, request: Request, *, found: bool) -> list[str]:
    """Return sentences on a query of which something was not read or is not known.

    Args:
        searcher: what was searched.
        request: what was asked.
        found: whether there are hits. Without any, the query is looked at for terms.
    """
    query = request.query
    sides = {*last_sides(request), *first_sides(request)}
    notices = []
    manifest = searcher.manifest
    if "sparse" in sides:
        if not found and not searcher.expand(query):
            notices.append(
                f"the query holds no term that encoder {manifest.encoder!r} knows: "
                "nothing can match it"
            )
        if isinstance(query, str):
            length = _length(searcher.encoder.query_limit, query)
            notices += _unread("the query", length, f"encoder {manifest.encoder!r}")
    if "dense" in sides and isinstance(query, str):
        assert searcher.dense_encoder is not None
        length = _length(searcher.dense_encoder.query_limit, query)
        notices += _unread("the query", length, f"dense model {manifest.dense!r}")
    return notices


def of_document(searcher: Searcher, document: Document, why: Explanation) -> list[str]:
    """Return what was not read of a document whose sparse score is 0.

    Args:
        searcher: of the index.
        document: as the index stores it.
        why: its score for a query; with a sparse score above 0 the list is empty.
    """
    manifest = searcher.manifest
    notices = []
    if why.sparse_score == 0:
        head = "the head of " if manifest.encoder == "grafted" else ""
        length = _length(searcher.encoder.document_limit, document.content)
        notices += _unread("the document", length, f"{head}encoder {manifest.encoder!r}")
    return notices


def _length(limit: Limit, text: str) -> Length:
    (length,) = limit.lengths([text])
    return length


def _unread(what: str, length: Length, model: str) -> list[str]:
    if not length.unread:
        return []
    return [
        f"{what} has {length.tokens:,} tokens, of which {model} reads the first {length.read:,}: "
        "what follows them matches nothing"
    ]
