"""The bodies of HTTP requests, which extend a Request, and the service's limits on them."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from typing import Annotated, Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from lsr.documents import Document, metadata_of
from lsr.filter import Filter, conditions
from lsr.request import AnyFilter, Request, is_empty
from lsr.search import Position
from lsr.service.settings import Settings

Body = TypeVar("Body", bound=BaseModel)
EXAMPLES: list[JsonValue] = [
    {"query": "copy a file with its metadata", "k": 10},
    {"query": {"copy": 2.0, "metadata": 1.0}, "filter": "kind = function", "explain": True},
    {"query": "copy a file", "mode": "sparse", "words": {"weight": 0.5, "title": 0.3}},
    {
        "query": "copy a file",
        "filter": {"key": "tags", "op": "has any", "value": ["files", "paths"]},
    },
    {"query": "copy a file", "filter": "year >= 1990", "facets": ["kind", "year: ..1999, 2000.."]},
    {"query": "copy a file", "mode": "hybrid", "interpolation": {"alpha": 0.3}, "feedback": {}},
]


class GoneError(Exception):
    """The cursor belongs to a generation that no longer exists."""


class SearchBody(Request):
    """A request, and what to show in its answer."""

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES})

    cursor: Annotated[str, Field(max_length=2000)] | None = Field(
        default=None, description="of an answer to the same request: the hits that follow"
    )
    explain: bool = Field(default=False, description="why each hit has its score")
    snippets: bool = Field(default=False, description="where the query's words are in each hit")
    text: bool = Field(default=True, description="the whole text of each hit")
    timeout_ms: Annotated[int, Field(ge=1, le=600_000)] | None = Field(
        default=None, description="deadline; by default, and at most, the service's"
    )

    def after(self, request: Request, generation: int) -> Position | None:
        """Return the hit that `cursor` stands for; None without a cursor.

        Raises:
            ValueError: the cursor is not one of ours, or belongs to another request.
            GoneError: the cursor belongs to another generation.
        """
        if self.cursor is None:
            return None
        try:
            of, digest, score, doc_id, rank = json.loads(base64.urlsafe_b64decode(self.cursor))
            place = Position(float(score), str(doc_id), int(rank))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError("`cursor` must be one that an answer gave") from error
        if not (math.isfinite(place.score) and place.rank > 0):
            raise ValueError("`cursor` must be one that an answer gave")
        if digest != _digest(request):
            raise ValueError(
                "`cursor` belongs to another request: only `k` and `facets` may differ"
            )
        if of != generation:
            raise GoneError(
                f"`cursor` is of generation {of}, the index is at {generation}: search again"
            )
        return place


def read_body(kind: type[Body], content: bytes) -> Body:
    """Read a body as a model.

    Raises:
        ValueError: the body is not JSON.
        RequestValidationError: there is no body, or it does not fit the model.
    """
    if not content:
        missing = {"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}
        raise RequestValidationError([missing])
    try:
        given = json.loads(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"the body is not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, too many digits, nested too deeply
        raise ValueError(f"the body cannot be read: {unread(error)}") from error
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(
            [{**detail, "loc": ("body", *detail["loc"])} for detail in error.errors()]
        ) from error


def unread(error: BaseException) -> str:
    """Say why a body could not be read."""
    reason = str(error)
    return "a number has too many digits" if "integer string conversion" in reason else reason


def asked_of(body: Request) -> Request:
    """Return the engine's part of a body, without the fields of the service."""
    return Request.model_construct(**{name: getattr(body, name) for name in Request.model_fields})


class BatchBody(BaseModel):
    """Requests that are answered from one state of the index."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"requests": EXAMPLES}]}
    )

    requests: Annotated[list[SearchBody], Field(min_length=1, max_length=1024)]


class ExplainBody(Request):
    """A request and one document."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "copy a file", "id": "shutil.copy2"}]}
    )

    id: Annotated[str, Field(min_length=1, max_length=1000)] = Field(description="a document's id")


class DeleteBody(BaseModel):
    """Which documents to delete."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"filter": "year < 1990"}]}
    )

    filter: AnyFilter = Field(
        description="what they match, see the filter of a search, synonyms included"
    )


class DocumentBody(BaseModel):
    """A document to write, without its id."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [{"title": "A title", "text": "Some text.", "metadata": {"year": 2026}}]
        },
    )

    title: str = ""
    text: str = ""
    metadata: dict[str, Any] | None = Field(
        default=None,
        description="strings, numbers, booleans and lists of these; members of an object get "
        "dotted keys, and null is absent",
    )

    def document(self, doc_id: str) -> Document:
        """Return the document with this id.

        Raises:
            ValueError: a value that metadata cannot hold.
        """
        return Document(doc_id, self.title, self.text, metadata_of(self.metadata or {}))


class ChangeBody(BaseModel):
    """What to change of a document."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={"examples": [{"metadata": {"status": "closed", "owner": None}}]},
    )

    metadata: dict[str, Any] = Field(
        description="values to set by key, as of a document; null takes a key away, and the "
        "members of an object of that name. Keys that are not named stay"
    )


def cursor_after(request: Request, generation: int, place: Position) -> str:
    """Return the cursor that asks for the hits after `place`."""
    parts = [generation, _digest(request), place.score, place.doc_id, place.rank]
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


def check_limits(request: Request, settings: Settings, rank: int = 0) -> None:
    """Check a request against the operator's limits.

    Args:
        request: the request as it came.
        settings: the limits.
        rank: how many hits come before the requested ones.

    Raises:
        ValueError: a limit is exceeded.
    """
    query = request.query
    if is_empty(query):
        raise ValueError("`query` is empty: it must hold a word")
    if isinstance(query, str):
        if len(query) > settings.max_query:
            raise ValueError(
                f"`query` must have at most {settings.max_query} characters, got {len(query)}"
            )
    elif len(query) > settings.max_query_terms:
        raise ValueError(
            f"`query` must have at most {settings.max_query_terms} terms, got {len(query)}"
        )
    if request.k > settings.max_k:
        raise ValueError(f"`k` must be in [1, {settings.max_k}], got {request.k}")
    if rank + request.k > settings.max_depth:
        raise ValueError(
            f"paging reaches {settings.max_depth} hits, asked for {rank + 1} to {rank + request.k}"
        )
    if request.filter:
        check_conditions(request.filter)
    if request.rerank and request.rerank.model not in settings.rerankers:
        allowed = ", ".join(settings.rerankers) or "none (set LSR_RERANKERS)"
        raise ValueError(
            f"`rerank.model` must be one that this service allows, {allowed}, got "
            f"{request.rerank.model!r}"
        )
    if request.rerank and request.rerank.documents > settings.max_rerank:
        raise ValueError(
            f"`rerank.documents` must be in [1, {settings.max_rerank}], got "
            f"{request.rerank.documents}"
        )
    n_ranges = sum(len(facet.ranges) for facet in request.facets)
    if n_ranges > MOST_CONDITIONS:
        raise ValueError(
            f"`facets` must have at most {MOST_CONDITIONS} ranges together, got {n_ranges}"
        )


def check_conditions(given: Filter) -> None:
    """Raise ValueError where a filter has more conditions than a service evaluates."""
    n = sum(1 for _ in conditions(given))
    if n > MOST_CONDITIONS:
        raise ValueError(f"`filter` must have at most {MOST_CONDITIONS} conditions, got {n}")


MOST_CONDITIONS = 100


def _digest(request: Request) -> str:
    settings = request.model_dump_json(exclude={"k", "facets"})
    return hashlib.sha256(settings.encode("utf-8", "surrogatepass")).hexdigest()[:16]
