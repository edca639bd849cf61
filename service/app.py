"""The HTTP API."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi import Path as PathParameter
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic_core import to_json

import lsr
from lsr.answers import (
    Acknowledgement,
    Answer,
    Answers,
    Expansion,
    ExplainedDocument,
    Indexes,
    IndexState,
    Problem,
    StoredDocument,
)
from lsr.documents import Document, change_of
from lsr.request import Request as Asked
from lsr.search import Searcher
from lsr.search.notices import of_document, of_query
from lsr.service import answering, assets, errors
from lsr.service.bodies import (
    BatchBody,
    ChangeBody,
    DeleteBody,
    DocumentBody,
    ExplainBody,
    SearchBody,
    asked_of,
    check_conditions,
    check_limits,
    read_body,
)
from lsr.service.gate import Gate
from lsr.service.ingest import Delete, DeleteMatching, Operation, Put, Receipt, Revise
from lsr.service.searching import answers, state_of, work
from lsr.service.served import Served
from lsr.service.service import Service
from lsr.service.settings import Settings
from lsr.service.stream import read_documents

_OTHER_JSON = re.compile(r"application/[^/\s]+\+json")
Endpoint: TypeAlias = Callable[..., Awaitable[Response]]
NameParameter = Annotated[str, PathParameter(description="an index", max_length=255)]
IdParameter = Annotated[str, PathParameter(description="a document's id", max_length=1000)]
# The errors that any route may answer.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "a value that does not fit this index or its limits"},
    401: {"model": Problem, "description": "no key, or a wrong one"},
    403: {"model": Problem, "description": "the key may not do this"},
    404: {"model": Problem, "description": "no such index or document"},
    405: {"model": Problem, "description": "the path is not for this method"},
    408: {"model": Problem, "description": "the body came too slowly"},
    410: {"model": Problem, "description": "the cursor's generation is gone"},
    413: {"model": Problem, "description": "the body is too large"},
    414: {"model": Problem, "description": "the URL is too long"},
    415: {"model": Problem, "description": "the body is compressed, or is not JSON"},
    422: {"model": Problem, "description": "the body does not fit the model"},
    429: {"model": Problem, "description": "the queue is full: see Retry-After"},
    431: {"model": Problem, "description": "the head of the request is too large"},
    503: {"model": Problem, "description": "stopping, or the index is being built"},
    504: {"model": Problem, "description": "the deadline passed"},
    507: {"model": Problem, "description": "the disk is full; what was acknowledged is safe"},
}


class SearchRoute(APIRoute):
    """A route with an index's name and a body, which it reads without FastAPI.

    FastAPI would take a third of a millisecond longer, and a search takes two milliseconds.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that answers a request."""
        assert self.body_field is not None
        kind = cast(type[BaseModel], self.body_field.field_info.annotation)

        async def answer(request: Request) -> Response:
            content, given = await request.body(), request.headers.get("content-type", "")
            media_type = given.partition(";")[0].strip().lower()
            if not (media_type == "application/json" or _OTHER_JSON.fullmatch(media_type)):
                raise HTTPException(
                    415, f"`Content-Type` must be application/json, got {given[:50]!r}"
                )
            body = read_body(kind, content)
            response = await self.endpoint(request.path_params["name"], body, request)
            return cast(Response, response)

        return answer


def create_app(directories: Sequence[Path], settings: Settings) -> FastAPI:
    """Make the service an ASGI application; indexes are opened when it starts.

    Args:
        directories: directories of indexes; an index has the name of its directory.
        settings: the operator's settings.
    """
    return app_around(lambda: Service(directories, settings), settings)


def app_around(opened: Callable[[], Service], settings: Settings) -> FastAPI:
    """Make an ASGI application that opens a service by `opened` at its start, closed at its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = await asyncio.to_thread(opened)
        try:
            yield
        finally:
            await asyncio.to_thread(app.state.service.close)

    app = FastAPI(
        title="lsr",
        summary="Learned sparse retrieval: search, and why a document matched.",
        version=lsr.__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # these pages load assets from other hosts
        redoc_url=None,
        responses=PROBLEMS,
    )
    errors.install(app)
    _add_searches(app)
    _add_health(app)
    _add_documents(app)
    app.include_router(assets.router)
    app.add_middleware(
        cast(Any, Gate),
        settings=settings,
        observe=lambda *seen: app.state.service.metrics.observe(*seen),
        refusal=lambda: app.state.service.dispatcher.refusal(),
    )
    if settings.cors_origins:
        # Outside the gate: a browser's preflight request carries no key.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
        )
    return app


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operation"])
    async def readyz(response: Response) -> dict[str, str]:
        """Whether requests should be sent here."""
        if app.state.service.stopping:
            response.status_code = 503
            return {"status": "stopping"}
        return {"status": "ready"}

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        text = _service(app).metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/admin/reload", tags=["operation"])
    async def reload() -> Indexes:
        """Look for new generations and commits now."""
        service = _service(app)
        states = [
            await asyncio.to_thread(service.look, served) for served in service.indexes.values()
        ]
        return Indexes(indexes=states)

    @app.get("/indexes", tags=["indexes"])
    async def indexes() -> Indexes:
        """All indexes."""
        return Indexes(indexes=[served.state for served in _service(app).indexes.values()])

    @app.get("/indexes/{name}", tags=["indexes"])
    async def index(name: NameParameter) -> IndexState:
        """One index."""
        return _served(app, name).state


def _add_searches(app: FastAPI) -> None:
    def post(path: str, model: type[BaseModel]) -> Callable[[Endpoint], Endpoint]:
        def added(endpoint: Endpoint) -> Endpoint:
            app.router.add_api_route(
                "/indexes/{name}" + path,
                endpoint,
                methods=["POST"],
                tags=["search"],
                response_model=model,
                route_class_override=SearchRoute,
            )
            return endpoint

        return added

    @post("/search", Answer)
    async def search(name: NameParameter, body: SearchBody, http: Request) -> Response:
        """Search by a text or by term weights."""
        (answer,) = await answers(_service(app), _served(app, name), [body], http.scope)
        return _json(answer)

    @post("/search/batch", Answers)
    async def batch(name: NameParameter, body: BatchBody, http: Request) -> Response:
        """Search many times in one state of the index."""
        most = _service(app).settings.max_batch
        if len(body.requests) > most:
            raise ValueError(f"`requests` must be at most {most}, got {len(body.requests)}")
        found = await answers(_service(app), _served(app, name), body.requests, http.scope)
        return _json({"answers": found})

    @post("/explain", ExplainedDocument)
    async def explain(name: NameParameter, body: ExplainBody, http: Request) -> Response:
        """Why a document has its score for a request."""
        served, request = _served(app, name), asked_of(body)
        check_limits(request, _service(app).settings)

        def explained(searcher: Searcher) -> tuple[Any, ...]:
            document = _document(searcher, body.id)
            (why,) = searcher.explanations(request, [body.id])
            found = searcher.highlighter(request)(document.text)
            notices = of_query(searcher, request, found=why.score != 0)
            return document, why, found, notices + of_document(searcher, request, document, why)

        outcome = await work(_service(app), served, explained, http.scope)
        document, why, found, notices = outcome.value
        return _json(
            {
                "state": state_of(served, outcome),
                "document": answering.stored(document),
                "why": answering.why(why),
                "marked": answering.marked(document.text, found),
                "notices": notices,
            }
        )

    @post("/expand", Expansion)
    async def expand(name: NameParameter, body: Asked, http: Request) -> Response:
        """The terms of the expanded query, after feedback if the request has it."""
        served = _served(app, name)
        check_limits(body, _service(app).settings)
        outcome = await work(
            _service(app), served, lambda searcher: searcher.expand(body), http.scope
        )
        terms = [term._asdict() for term in outcome.value]
        return _json({"state": state_of(served, outcome), "terms": terms})


def _add_documents(app: FastAPI) -> None:
    @app.get(
        "/indexes/{name}/documents/{id:path}", tags=["documents"], response_model=StoredDocument
    )
    async def get(name: NameParameter, id: IdParameter, http: Request) -> Response:  # noqa: A002
        """A document as the index keeps it."""

        def found(searcher: Searcher) -> Document:
            return _document(searcher, id)

        outcome = await work(_service(app), _served(app, name), found, http.scope)
        return _json(answering.stored(outcome.value))

    @app.put("/indexes/{name}/documents/{id:path}", tags=["documents"])
    async def put(name: NameParameter, id: IdParameter, body: DocumentBody) -> Acknowledgement:  # noqa: A002
        """Add a document, or replace it."""
        served = _served(app, name)
        put = Put((body.document(id),))
        return _acknowledged(served, await _write(app, served, put))

    @app.patch("/indexes/{name}/documents/{id:path}", tags=["documents"])
    async def patch(name: NameParameter, id: IdParameter, body: ChangeBody) -> Acknowledgement:  # noqa: A002
        """Change a document's metadata; nothing is encoded anew."""
        served = _served(app, name)
        revise = Revise((change_of(id, body.metadata),))
        return _acknowledged(served, await _write(app, served, revise))

    @app.delete("/indexes/{name}/documents/{id:path}", tags=["documents"])
    async def delete(name: NameParameter, id: IdParameter) -> Acknowledgement:  # noqa: A002
        """Delete a document."""
        served = _served(app, name)
        return _acknowledged(served, await _write(app, served, Delete((id,))))

    @app.post("/indexes/{name}/delete", tags=["documents"])
    async def delete_matching(name: NameParameter, body: DeleteBody) -> Acknowledgement:
        """Delete all documents that match a filter; the answer says how many they were."""
        served = _served(app, name)
        check_conditions(body.filter)
        return _acknowledged(served, await _write(app, served, DeleteMatching(body.filter)))

    @app.post(
        "/indexes/{name}/documents",
        tags=["documents"],
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/x-ndjson": {
                        "schema": {"type": "string"},
                        "example": '{"id": "d1", "text": "Some text."}\n',
                    }
                },
            }
        },
    )
    async def post(name: NameParameter, http: Request) -> Acknowledgement:
        """Add or replace the documents of an NDJSON stream, a group at a time.

        When a line is bad, the documents of the groups before it stay; the error says how many.
        """
        served = _served(app, name)
        receipt: Receipt | None = None
        durable = 0
        try:
            async for group in read_documents(http.stream(), _service(app).settings.max_body):
                receipt = await _write(app, served, Put(tuple(group)))
                durable += len(group)
        except ValueError as error:
            raise ValueError(f"{error} ({durable} documents before it are durable)") from error
        except HTTPException as error:  # raised by the gate: the client was too slow
            detail = f"{error.detail} ({durable} documents are durable)"
            raise HTTPException(error.status_code, detail, error.headers) from error
        if receipt is None:
            raise ValueError("the stream holds no documents")
        return _acknowledged(served, receipt._replace(documents=durable))


def _document(searcher: Searcher, doc_id: str) -> Document:
    (document,) = searcher.index.documents([doc_id])
    return document


async def _write(app: FastAPI, served: Served, operation: Operation) -> Receipt:
    service = _service(app)
    deadline = time.monotonic() + service.settings.write_timeout_ms / 1000
    # `submit` waits while the queue of writes is full, so that the client is slowed down too.
    with service.metrics.stage_seconds.labels("write").time():
        submit = service.ingests[served.name].submit
        return await asyncio.wrap_future(await asyncio.to_thread(submit, operation, deadline))


def _acknowledged(served: Served, receipt: Receipt) -> Acknowledgement:
    return Acknowledgement(
        index=served.name,
        generation=receipt.generation,
        commit=receipt.commit,
        documents=receipt.documents,
    )


def _service(app: FastAPI) -> Service:
    return cast(Service, app.state.service)


def _served(app: FastAPI, name: str) -> Served:
    indexes = _service(app).indexes
    if name not in indexes:
        raise KeyError(f"no index {name!r} here, only {', '.join(sorted(indexes))}")
    return indexes[name]


def _json(content: Mapping[str, Any]) -> Response:
    return Response(to_json(content), media_type="application/json")
