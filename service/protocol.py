"""HTTP as the server reads it, with limits that uvicorn leaves open.

uvicorn closes idle connections between requests, and nothing else: it waits for ever for the rest
of a request's head, keeps a head of any size, lets any number of requests wait behind one, and
never gives up a client that does not read its answer.

`HttpToolsProtocol` is not part of uvicorn's documented interface. Only this file uses it, and
pyproject.toml bounds uvicorn to versions that pass tests/service/test_protocol.py. Other servers
were tried in place of this file, see docs/LOG.md, 2026-12-01.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lsr.service.gate import LINGER_BYTES, LINGER_SECONDS
from lsr.service.settings import Settings

MAX_HEAD = 64 * 1024  # bytes
MAX_HEADERS = 100
MAX_URL = 16 * 1024  # bytes: an id of 1,000 characters fits, at twelve bytes each
MAX_PIPELINED = 100  # requests that wait for the one before

log = logging.getLogger("lsr.service")


class _RefusedError(Exception):
    """A head is refused; raised to stop the parser."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection. Subclasses set `settings`, see `protocol`."""

    settings: Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start a connection of which nothing is read yet."""
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_size = 0
        # Bytes received since the parser last passed a head or a part of a body on.
        self._kept = 0
        self._lingers = False
        self._thrown_away = 0
        self._refusal: tuple[int, str] | None = None

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection if there are too many, else wait for a head."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            limit = self.settings.max_connections
            self._refuse(503, f"{limit} connections are open, and no more than {limit} may be")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._stop_head_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and check the limits."""
        if self._lingers:
            self._thrown_away += len(data)
            if self._thrown_away > LINGER_BYTES:
                self.transport.abort()
            return
        self._kept += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self._lingers:
            return
        if self._kept > MAX_HEAD:
            self._refuse(431, f"the head of a request must have at most {MAX_HEAD} bytes")
        elif self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            # A head begins after an earlier request, and uvicorn has stopped its own timer.
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that the parser refused, after all earlier ones are answered."""
        status, error = self._refusal or (400, "this is not a valid HTTP/1.1 request")
        self._refuse(status, error)

    # Parser

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._head_size = True, 0

    def on_url(self, url: bytes) -> None:
        """Part of the URL."""
        super().on_url(url)
        if len(self.url) > MAX_URL:
            self._stop(414, f"the URL must have at most {MAX_URL} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; trailers after a chunked body count as well."""
        super().on_header(name, value)
        self._head_size += len(name) + len(value)
        if len(self.headers) > MAX_HEADERS:
            self._stop(431, f"a request must have at most {MAX_HEADERS} headers")
        if self._head_size > MAX_HEAD:
            self._stop(431, f"the head of a request must have at most {MAX_HEAD} bytes")

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head, self._kept = False, 0
        self._stop_head_timer()
        if self.parser.should_upgrade():
            # The parser would take the body for data of another protocol.
            self._stop(400, "this service has no other protocols: leave out `Upgrade` and CONNECT")
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(400, f"at most {MAX_PIPELINED} requests may wait on one connection")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        self._kept = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is there."""
        self._kept = 0
        super().on_message_complete()

    # Timers

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.settings.header_seconds, self._head_missing)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_missing(self) -> None:
        self._head_timer = None
        if self._in_head:
            seconds = self.settings.header_seconds
            self._refuse(408, f"the head of a request must come within {seconds:g} seconds")
        else:
            self.transport.close()  # nothing was asked

    def pause_writing(self) -> None:
        """The client does not read: give it `body_seconds` to read something."""
        super().pause_writing()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._stop_write_timer()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _watch_reader(self, waiting: int) -> None:
        self._write_timer = self.loop.call_later(
            self.settings.body_seconds, self._reader_missing, waiting
        )

    def _reader_missing(self, before: int) -> None:
        waiting = self.transport.get_write_buffer_size()
        if waiting < before:
            self._watch_reader(waiting)
        else:
            log.warning("client does not read its answer", extra={"fields": self._named()})
            self.transport.abort()

    # Refusals

    def _stop(self, status: int, error: str) -> None:
        self._refusal = status, error
        raise _RefusedError(error)

    def _refuse(self, status: int, error: str) -> None:
        """Answer without the app, and close the connection."""
        self._stop_head_timer()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            # The client must not take the refusal for the answer to an earlier request.
            if not (cycle.more_body or self.pipeline):
                cycle.keep_alive = False
                self.flow.pause_reading()
                return
            if cycle.response_started or self.pipeline:
                self.transport.close()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        request_id = secrets.token_hex(8)
        body = json.dumps({"error": error, "request_id": request_id}).encode()
        head = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-request-id: {request_id}",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            *(["retry-after: 1"] if status == 503 else []),
            "connection: close",
        ]
        self.transport.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        self._linger()
        fields = self._named() | {"id": request_id, "status": status, "error": error}
        log.warning("request refused", extra={"fields": fields})

    def _linger(self) -> None:
        """Close the connection after the client has had time to stop sending and to read."""
        if not self.transport.can_write_eof():  # TLS
            self.transport.close()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._lingers = True
        self._head_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _named(self) -> dict[str, Any]:
        return {"client": self.client[0] if self.client else None}


def protocol(settings: Settings) -> type[asyncio.Protocol]:
    """Make the class that uvicorn's Config takes as `http`.

    Args:
        settings: how long clients may take, and how many connections may be open.
    """
    return type("Protocol", (LimitedProtocol,), {"settings": settings})
