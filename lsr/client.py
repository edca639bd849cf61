"""A Python client of the search service, synchronous (`Client`) and asynchronous (`AsyncClient`).

    with Client("http://127.0.0.1:8080", "pydoc") as client:
        for hit in client.search("copy a file", mode="hybrid", k=5).hits:
            print(hit.score, hit.id)

Each kind of request is defined once, as a function that makes a `Call`. Each of these functions is
a method of both classes, which differ only in how they wait.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Generic, ParamSpec, Self, TypeAlias, TypeVar, overload
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from lsr import answers
from lsr.answers import Acknowledgement, Answer, Expansion, IndexState, StoredDocument
from lsr.documents import Document
from lsr.filter import Filter
from lsr.filter_text import read_filter
from lsr.request import Request, ask

P = ParamSpec("P")
T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
Outcome: TypeAlias = httpx.Response | httpx.TransportError
Query: TypeAlias = str | Map[str, float] | Request
# A mapping has "id" or "_id", "title", "text" and "metadata".
OneDocument: TypeAlias = Document | StoredDocument | Map[str, Any]

# Settings beside those of a Request, on what an answer shows: see the service's SearchBody.
SHOWS = ("cursor", "explain", "snippets", "text", "timeout_ms")
PAUSE, LONGEST_PAUSE = 0.1, 30.0  # seconds before another attempt; doubled each time


class ServiceError(RuntimeError):
    """The service answered with an error, or with something unexpected.

    `status` is HTTP's, `message` the service's own sentence, `request_id` what its log calls it.
    """

    def __init__(self, status: int, message: str, request_id: str) -> None:
        super().__init__(f"{message} (status {status}, request {request_id})")
        self.status = status
        self.message = message
        self.request_id = request_id


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request to the service, and how to read its answer."""

    read: Callable[[bytes], T]
    method: str
    path: str  # below the path of the index if `within` is true
    index: str | None = None
    body: Any = None  # sent as JSON
    documents: Any = None  # sent as NDJSON, in place of a body
    within: bool = True
    repeatable: bool = True  # whether it may be sent again after a broken connection
    statuses: tuple[int, ...] = (200,)

    def arguments(self, lines: Callable[[Any], Any]) -> dict[str, Any]:
        """Return the arguments for httpx's `request`; `lines` turns documents into NDJSON."""
        inside = f"/indexes/{quote(self.index or '', safe='')}" if self.within else ""
        arguments = {"method": self.method, "url": inside + self.path}
        if self.documents is not None:
            headers = {"Content-Type": "application/x-ndjson"}
            return {**arguments, "content": lines(self.documents), "headers": headers}
        return arguments if self.body is None else {**arguments, "json": self.body}

    def pause(self, outcome: Outcome, attempt: int) -> float | None:
        """Return the seconds to wait before another attempt; None if there should be none."""
        if isinstance(outcome, (httpx.NetworkError, httpx.RemoteProtocolError)):
            return min(PAUSE * 2**attempt, LONGEST_PAUSE) if self.repeatable else None
        refused = {429, 503}.difference(self.statuses)
        if isinstance(outcome, httpx.TransportError) or outcome.status_code not in refused:
            return None
        if isinstance(self.documents, (Iterator, AsyncIterable)):
            return None  # some documents have already been taken from it
        after = outcome.headers.get("Retry-After", "")
        return min(float(after), LONGEST_PAUSE) if after.isdecimal() else 1.0

    def result(self, outcome: Outcome) -> T:
        """Return the parsed answer, or raise the error that the outcome stands for."""
        if isinstance(outcome, httpx.TransportError):
            kind = TimeoutError if isinstance(outcome, httpx.TimeoutException) else ConnectionError
            reason = str(outcome) or type(outcome).__name__
            raise kind(f"{outcome.request.url}: {reason}") from outcome
        if outcome.status_code in self.statuses:
            return self.read(outcome.content)
        try:
            problem = answers.Problem.model_validate_json(outcome.content)
        except ValidationError:  # something between here and the service answered
            message = f"{outcome.url}: {outcome.reason_phrase}: {outcome.text[:200]}"
            raise ServiceError(outcome.status_code, message, "unknown") from None
        raise ServiceError(outcome.status_code, problem.error, problem.request_id)


def search(query: Query, index: str | None = None, **settings: Any) -> Call[Answer]:
    """Return the k best documents. Settings are the fields of `Request` and those in SHOWS."""
    body = _body(query, settings, SHOWS)
    return Call(Answer.model_validate_json, "POST", "/search", index, body)


def search_batch(
    queries: Iterable[Query], index: str | None = None, **settings: Any
) -> Call[list[Answer]]:
    """Return the answers to several queries, all from the same state of the index."""
    body = {"requests": [_body(query, settings, SHOWS) for query in queries]}
    return Call(_answers, "POST", "/search/batch", index, body)


def explain(
    query: Query, doc_id: str, index: str | None = None, **settings: Any
) -> Call[answers.ExplainedDocument]:
    """Return a document, and why it has its score."""
    read = answers.ExplainedDocument.model_validate_json
    return Call(read, "POST", "/explain", index, _body(query, settings) | {"id": doc_id})


def expand(query: Query, index: str | None = None, **settings: Any) -> Call[Expansion]:
    """Return the terms that a query is expanded to."""
    return Call(Expansion.model_validate_json, "POST", "/expand", index, _body(query, settings))


def document(doc_id: str, index: str | None = None) -> Call[StoredDocument]:
    """Return a document as the index stores it."""
    return Call(StoredDocument.model_validate_json, "GET", _path(doc_id), index)


def add(
    documents: Iterable[OneDocument] | AsyncIterable[OneDocument], index: str | None = None
) -> Call[Acknowledgement]:
    """Add or replace documents; they are sent one by one, as fast as the service accepts them.

    If the service refuses them midway (429, 503), a list is sent again; an iterator cannot be.
    `AsyncClient` takes asynchronous iterables as well.
    """
    return _write("POST", "/documents", index, documents=documents)


def put(document: OneDocument, index: str | None = None) -> Call[Acknowledgement]:
    """Add or replace one document."""
    body = _as_json(document)
    doc_id = body.pop("id") if "id" in body else body.pop("_id", None)
    if not isinstance(doc_id, str):
        raise ValueError(f"`id` of a document must be a string, got {doc_id!r}")
    return _write("PUT", _path(doc_id), index, body=body)


def patch(doc_id: str, metadata: Map[str, Any], index: str | None = None) -> Call[Acknowledgement]:
    """Change a document's metadata; nothing is encoded anew. None takes a key away."""
    return _write("PATCH", _path(doc_id), index, body={"metadata": dict(metadata)})


def delete(doc_id: str, index: str | None = None) -> Call[Acknowledgement]:
    """Delete a document."""
    return _write("DELETE", _path(doc_id), index)


def delete_matching(
    filter: str | Map[str, Any] | Filter,  # noqa: A002
    index: str | None = None,
) -> Call[Acknowledgement]:
    """Delete all documents that match a filter; the answer says how many they were."""
    return _write("POST", "/delete", index, body={"filter": str(read_filter(filter))})


def indexes() -> Call[list[IndexState]]:
    """Return the state of all indexes of the service."""
    return Call(_states, "GET", "/indexes", within=False)


def index(name: str | None = None) -> Call[IndexState]:
    """Return the state of one index."""
    return Call(IndexState.model_validate_json, "GET", "", name)


def ready() -> Call[bool]:
    """Return whether the service takes requests."""
    return Call(lambda body: b"ready" in body, "GET", "/readyz", within=False, statuses=(200, 503))


def reload() -> Call[list[IndexState]]:
    """Make the service look for new generations and commits now."""
    return Call(_states, "POST", "/admin/reload", within=False)


def _write(method: str, path: str, index: str | None, **content: Any) -> Call[Acknowledgement]:
    read = Acknowledgement.model_validate_json
    return Call(read, method, path, index, **content, repeatable=False)


def _answers(content: bytes) -> list[Answer]:
    return answers.Answers.model_validate_json(content).answers


def _states(content: bytes) -> list[IndexState]:
    return answers.Indexes.model_validate_json(content).indexes


def _body(query: Query, settings: Map[str, Any], shown: Iterable[str] = ()) -> dict[str, Any]:
    """Return the JSON of a request, after the same checks of its settings as the service makes."""
    shows = {key: settings[key] for key in shown if key in settings}
    asked = {key: settings[key] for key in settings if key not in shows}
    return ask(query, **asked).model_dump(mode="json", exclude_unset=True) | shows


def _path(doc_id: str) -> str:
    # Dots are escaped too: "." and ".." have a meaning in paths.
    return f"/documents/{quote(doc_id, safe='').replace('.', '%2E')}"


def _as_json(document: OneDocument) -> dict[str, Any]:
    if isinstance(document, Map):
        return dict(document)
    fields = {name: getattr(document, name) for name in ("id", "title", "text")}
    return fields | {"metadata": dict(document.metadata)}


def _line(document: OneDocument) -> bytes:
    return json.dumps(_as_json(document), allow_nan=False).encode() + b"\n"


async def _async_lines(documents: Any) -> AsyncIterator[bytes]:
    if isinstance(documents, AsyncIterable):
        async for document in documents:
            yield _line(document)
    else:
        for document in documents:
            yield _line(document)


class Method(Generic[P, T]):
    """A method of both clients, with the signature of a function that makes a `Call`."""

    def __init__(self, call: Callable[P, Call[T]]) -> None:
        self._call = call

    @overload
    def __get__(self, client: Client, _: object) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, _: object) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Client | AsyncClient | None, _: object) -> Callable[P, Any]:
        if client is None:
            return self._call

        @wraps(self._call)
        def method(*arguments: P.args, **settings: P.kwargs) -> Any:
            return client.send(self._call(*arguments, **settings))

        return method


class _Service(Generic[Http]):
    _connect: Callable[..., Http]

    def __init__(
        self,
        url: str,
        index: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 90.0,
        retries: int = 3,
        transport: Any = None,
    ) -> None:
        """Make a client; it sends nothing yet.

        Args:
            url: of the service, such as http://127.0.0.1:8080.
            index: used by calls that name none; not needed if the service has only one.
            key: the read key or the admin key.
            timeout: longest silence of the service, in seconds; a write may take 60.
            retries: how often to repeat a request that got 429 or 503, after the pause that the
                service asks for (at most LONGEST_PAUSE seconds), or, except for writes, one whose
                connection broke.
            transport: an httpx transport, if connections are not made as usual.

        Raises:
            ValueError: `url` is not an HTTP URL.
        """
        if httpx.URL(url).scheme not in ("http", "https") or not httpx.URL(url).host:
            raise ValueError(f"`url` must begin with http:// or https:// and a host, got {url!r}")
        self._index, self._retries = index, retries
        options = {"base_url": url, "timeout": timeout, "transport": transport}
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http: Http = self._connect(headers=headers, **options)

    search = Method(search)
    search_batch = Method(search_batch)
    explain = Method(explain)
    expand = Method(expand)
    document = Method(document)
    add = Method(add)
    put = Method(put)
    patch = Method(patch)
    delete = Method(delete)
    delete_matching = Method(delete_matching)
    indexes = Method(indexes)
    index = Method(index)
    ready = Method(ready)
    reload = Method(reload)

    def _named(self, call: Call[T]) -> Call[T] | None:
        """Return the call with the name of its index; None if that is not known yet."""
        name = call.index or self._index
        return replace(call, index=name) if name or not call.within else None

    def _name(self, states: list[IndexState]) -> None:
        names = sorted(state.index for state in states)
        if len(names) != 1:
            raise ValueError(f"`index` must be one of {', '.join(names)}: name one")
        (self._index,) = names


class Client(_Service[httpx.Client]):
    """A client of the search service. Threads may share one.

    Its methods raise ServiceError if the service answers with an error, ConnectionError or
    TimeoutError if it cannot be reached, and ValueError for invalid settings.
    """

    _connect = httpx.Client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def pages(self, query: Query, index: str | None = None, **settings: Any) -> Iterator[Answer]:
        """Yield answers of k hits each, up to the last hit."""
        while True:
            answer = self.search(query, index, **settings)
            yield answer
            if answer.cursor is None:
                return
            settings["cursor"] = answer.cursor

    def send(self, call: Call[T]) -> T:
        """Send a call, repeat it if needed, and return the service's answer."""
        while not (named := self._named(call)):
            self._name(self.indexes())
        outcome = self._send(named)
        for attempt in range(self._retries):
            if (pause := named.pause(outcome, attempt)) is None:
                break
            time.sleep(pause)
            outcome = self._send(named)
        return named.result(outcome)

    def _send(self, call: Call[Any]) -> Outcome:
        try:
            return self._http.request(**call.arguments(lambda documents: map(_line, documents)))
        except httpx.TransportError as error:
            return error


class AsyncClient(_Service[httpx.AsyncClient]):
    """A client of the search service for asyncio: the methods of `Client`, to be awaited."""

    _connect = httpx.AsyncClient

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def pages(
        self, query: Query, index: str | None = None, **settings: Any
    ) -> AsyncIterator[Answer]:
        """See `Client.pages`."""
        while True:
            answer = await self.search(query, index, **settings)
            yield answer
            if answer.cursor is None:
                return
            settings["cursor"] = answer.cursor

    async def send(self, call: Call[T]) -> T:
        """See `Client.send`."""
        while not (named := self._named(call)):
            self._name(await self.indexes())
        outcome = await self._send(named)
        for attempt in range(self._retries):
            if (pause := named.pause(outcome, attempt)) is None:
                break
            await asyncio.sleep(pause)
            outcome = await self._send(named)
        return named.result(outcome)

    async def _send(self, call: Call[Any]) -> Outcome:
        try:
            return await self._http.request(**call.arguments(_async_lines))
        except httpx.TransportError as error:
            return error
