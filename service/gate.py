"""The gate in front of the API: it checks keys and limits, gives each request an id, and logs it.

It is plain ASGI: answers and bodies stream through, at a cost of some tens of microseconds.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from hashlib import sha256
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lsr.service.settings import Settings

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Observe = Callable[[str, str, int, float], None]
Need = Literal["open", "read", "admin"]

log = logging.getLogger("lsr.service")

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Requests that need no key, and those that the read key may make; all others need the admin key.
_OPEN = re.compile(r"GET (/healthz|/readyz|/openapi\.json|/|/page/.+)", re.DOTALL)
_SEARCHES = r"POST /indexes/[^/]+/(search|search/batch|explain|expand)"
_READ = re.compile(
    rf"GET (/metrics|/indexes|/indexes/[^/]+|/indexes/[^/]+/documents/.+)|{_SEARCHES}", re.DOTALL
)
_LOOKED_AT = (
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"host",
    b"origin",
    b"transfer-encoding",
    b"x-api-key",
    b"x-request-id",
)
# Requests that wait in the queue for the engine.
_QUEUED = re.compile(_SEARCHES)
# The length of this body is not bounded; the route bounds its lines.
_STREAM = re.compile(r"POST /indexes/[^/]+/documents")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))

# A client that is still sending its body when it is answered may not see the answer if the
# connection closes at once. So much of the body is read and thrown away before closing.
LINGER_SECONDS = 2.0
LINGER_BYTES = 2**24


def needs(method: str, path: str) -> Need:
    """Return which key a request needs: none ("open"), the read key or the admin key.

    Args:
        method: HTTP method, in capitals.
        path: percent-decoded, without a query string.
    """
    asked = f"{'GET' if method == 'HEAD' else method} {path}"
    if _OPEN.fullmatch(asked):
        return "open"
    return "read" if _READ.fullmatch(asked) else "admin"


class Gate:
    """ASGI middleware around the API."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        observe: Observe,
        refusal: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Wrap an app.

        Args:
            app: the application behind the gate.
            settings: keys and limits.
            observe: called for each request with method, route ("/indexes/{name}"; "none" if no
                route matched), status (499: the client left before it was answered) and seconds.
            refusal: returns why the queue is full, or None; a request is then refused before any
                work is done for it.
        """
        self.app = app
        self.settings = settings
        self.observe = observe
        self.refusal = refusal
        keys: tuple[tuple[Need, SecretStr | None], ...] = (
            ("read", settings.read_key),
            ("admin", settings.admin_key),
        )
        self._keys = [(name, _digest(key.get_secret_value().encode())) for name, key in keys if key]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        else:
            await send({"type": "websocket.close", "code": 1008})  # the API has no web sockets

    def check(self, exchange: _Exchange) -> None:
        """Raise for a request that may not pass.

        Raises:
            HTTPException: 401, 403, 413, 415 or 400.
        """
        headers, longest = exchange.headers, exchange.longest
        if self._keys:
            self._check_key(exchange)
        else:
            _check_local(headers, self.settings)
        if _CONTROL.search(exchange.scope["path"]):
            # Routes would match a path with a newline at its end, too.
            raise HTTPException(400, "the path must not hold control characters")
        coding = headers.of(b"content-encoding").strip().lower()
        if coding not in ("", "identity"):
            raise HTTPException(415, f"`Content-Encoding` must be identity, got {coding[:50]!r}")
        length = headers.of(b"content-length") or "0"
        if not (length.isascii() and length.isdigit()):
            raise HTTPException(400, "`Content-Length` must be a whole number")
        # Python does not read numbers of thousands of digits.
        if longest is not None and (len(length) > 18 or int(length) > longest):
            raise _too_large(longest)

    def _check_key(self, exchange: _Exchange) -> None:
        scope, given = exchange.scope, exchange.headers.keys()
        digest = _digest(given[0]) if len(given) == 1 and given[0] else None
        exchange.fingerprint = digest.hex()[:8] if digest else None
        method, need = scope["method"], needs(scope["method"], scope["path"])
        if need == "open":
            return
        if need == "admin" and not self.settings.admin_key:
            raise HTTPException(403, f"{method} of this path needs an admin key, and none is set")
        if len(given) > 1:
            raise _no_key(f"a request has one key, got {len(given)}")
        if digest is None:
            raise _no_key("a key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`")
        may: Need | None = None
        for name, known in self._keys:  # all of them, so that the time gives nothing away
            if hmac.compare_digest(known, digest):
                may = name
        if may is None:
            raise _no_key("the key is not one of this service")
        if may == "read" and need == "admin":
            raise HTTPException(403, f"the read key may not {method} this path")


class _Headers:
    """The headers of a request that the gate looks at."""

    def __init__(self, scope: Scope) -> None:
        self._all: dict[bytes, list[bytes]] = {name: [] for name in _LOOKED_AT}
        for name, value in scope["headers"]:
            if name in self._all:
                self._all[name].append(value)

    def of(self, name: bytes) -> str:
        values = self._all[name]
        return values[0].decode("latin-1") if values else ""

    def request_id(self) -> str:
        given = self.of(b"x-request-id")
        return given if _ID.fullmatch(given) else secrets.token_hex(8)

    def has_body(self) -> bool:
        return bool(self._all[b"transfer-encoding"]) or self.of(b"content-length").strip("0") != ""

    def keys(self) -> list[bytes]:
        """Return all keys that a request carries; it should carry one."""
        keys = [key.strip() for key in self._all[b"x-api-key"]]
        for value in self._all[b"authorization"]:
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                keys.append(key.strip())
        return keys


class _Exchange:
    """One request and its answer."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self._begun, self._ended = time.perf_counter(), 0.0
        self._gate, self.scope = gate, scope
        self._receive, self._send = receive, send
        self.headers = _Headers(scope)
        self._id = self.headers.request_id()
        self._expects = self.headers.has_body()  # whether more of the body is to come
        endless = _STREAM.fullmatch(f"{scope['method']} {scope['path']}")
        self.longest = None if endless else gate.settings.max_body
        self._gone = self._silent = False
        self._status = 0
        # What is logged of a key: enough to distinguish keys, too little to guess one.
        self.fingerprint: str | None = None
        self._in = self._out = 0
        state = scope.setdefault("state", {})
        state["request_id"] = self._id
        state["log"] = {}

    async def run(self) -> None:
        try:
            try:
                self._gate.check(self)
                await self._check_room()
                await self._gate.app(self.scope, self.receive, self.send)
            except HTTPException as refusal:
                if self._status:
                    raise
                await self._answer(refusal.status_code, refusal.detail, refusal.headers)
            except ClientDisconnect:
                pass  # the client is gone
            except Exception:
                log.exception("internal error", extra={"fields": self._named()})
                if self._status:
                    raise  # half an answer is sent: the server must break the connection
                await self._answer(500, "internal error")
        finally:
            # Log after the answer, which is sent at the next turn of the event loop.
            asyncio.get_running_loop().call_soon(self._note)

    async def _check_room(self) -> None:
        """Raise HTTPException 429 if the queue is full.

        The body is read before, so that the connection can be used again.
        """
        if not _QUEUED.fullmatch(f"{self.scope['method']} {self.scope['path']}"):
            return
        if reason := self._gate.refusal():
            while self._expects:
                await self.receive()
            raise HTTPException(429, reason, {"Retry-After": "1"})

    async def receive(self) -> Message:
        """Return the next part of the body.

        Raises:
            HTTPException: 408 or 413.
        """
        if not self._expects:
            message = await self._receive()
            self._gone = self._gone or message["type"] == "http.disconnect"
            return message
        seconds = self._gate.settings.body_seconds
        try:
            async with asyncio.timeout(seconds):
                message = await self._receive()
        except TimeoutError:
            self._silent = True
            raise HTTPException(
                408, f"the body must come without pauses above {seconds:g} seconds"
            ) from None
        if message["type"] == "http.disconnect":
            self._gone, self._expects = True, False
            return message
        self._in += len(message.get("body", b""))
        self._expects = message.get("more_body", False)
        if self.longest is not None and self._in > self.longest:
            raise _too_large(self.longest)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = 499 if self._gone else message["status"]
            message["headers"] = self._completed(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self._out += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._ended = time.perf_counter()
                if self._expects and not self._silent:
                    await self._send({**message, "more_body": True})
                    await self._linger()
                    message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)
        if self._ended:
            # Let the event loop send the answer before the rest is done here.
            await asyncio.sleep(0)

    def _completed(self, given: Any) -> list[tuple[bytes, bytes]]:
        headers = list(given)
        names = {name.lower() for name, _ in headers}
        headers.append((b"x-request-id", self._id.encode()))
        if b"x-content-type-options" not in names:
            headers.append((b"x-content-type-options", b"nosniff"))
        if b"cache-control" not in names:
            headers.append((b"cache-control", b"no-store"))
        if self._expects:
            # Otherwise the rest of the body would be read as the client's next request.
            headers.append((b"connection", b"close"))
        return headers

    async def _linger(self) -> None:
        """Read and drop for a while what the client still sends."""
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while self._expects and left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    self._expects = message.get("more_body", False)
        except TimeoutError:
            pass  # it has had its time; the server closes the connection

    async def _answer(self, status: int, error: str, headers: Any = None) -> None:
        body = json.dumps({"error": error, "request_id": self._id}).encode()
        if self.scope["method"] == "HEAD":
            body = b""
        sent = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), value.encode()) for name, value in (headers or {}).items()),
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": sent})
        await self.send({"type": "http.response.body", "body": body})

    def _named(self) -> dict[str, Any]:
        scope = self.scope
        return {"id": self._id, "method": scope["method"], "path": scope["path"]}

    def _note(self) -> None:
        """Log and count the request; never its query string, body or key."""
        scope, status = self.scope, self._status or 499
        seconds = (self._ended or time.perf_counter()) - self._begun
        client = scope.get("client")
        fields = self._named() | {
            "status": status,
            "ms": round(1000 * seconds, 3),
            "bytes_in": self._in,
            "bytes_out": self._out,
            "client": client[0] if client else None,
            "key": self.fingerprint,
            **scope["state"]["log"],
        }
        level = logging.ERROR if status == 500 else logging.INFO
        if log.isEnabledFor(level):
            # `log.log` would spend half its time on finding the line that called it.
            extra = {"fields": fields}
            log.handle(
                log.makeRecord(log.name, level, __file__, 0, "request", (), None, extra=extra)
            )
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", "none")
        self._gate.observe(method, route, status, seconds)


def _check_local(headers: _Headers, settings: Settings) -> None:
    """Refuse requests that another site's page makes from a browser on this machine.

    Without a key the service listens on this machine only. A page of another site has an Origin of
    its own, or a host name of its own that has been pointed to this machine.

    Raises:
        HTTPException: 403.
    """
    host, origin = headers.of(b"host"), headers.of(b"origin")
    name = _name(f"//{host}")
    if "." in name and not _is_loopback(name):
        raise HTTPException(403, f"`Host` {host[:100]!r} is not this machine, and no key is set")
    allowed = not origin or "*" in settings.cors_origins or origin in settings.cors_origins
    if not (allowed or _is_loopback(_name(origin))):
        raise HTTPException(403, f"`Origin` {origin[:100]!r} is not among LSR_CORS_ORIGINS")


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ".invalid"


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _digest(key: bytes) -> bytes:
    # Digests have one length, so that comparing them does not give away the length of a key.
    return sha256(key).digest()


def _no_key(reason: str) -> HTTPException:
    return HTTPException(401, reason, {"WWW-Authenticate": "Bearer"})


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body must have at most {limit} bytes")
