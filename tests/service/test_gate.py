"""service/gate.py around a small app."""

import asyncio
import io
import json
import time
from datetime import datetime, timedelta
from hashlib import sha256

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from lsr.service import gate as gate_module
from lsr.service.gate import Gate, needs
from lsr.service.log import log_to
from lsr.service.settings import Settings

READ, ADMIN = "read-key-0123456789", "admin-key-0123456789"


class Route:
    path = "/indexes/{name}/search"


async def app(scope, receive, send):
    """Answers with what it read; /boom and similar paths misbehave."""
    request = Request(scope, receive)
    path = scope["path"]
    scope["route"] = Route()
    if path == "/boom":
        raise RuntimeError("the secret detail")
    if path == "/half":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"so f", "more_body": True})
        raise RuntimeError("the secret detail")
    if path == "/early":
        response = Response("early", 200, {"Cache-Control": "max-age=60"})
    else:
        body = await request.body()
        scope["state"]["log"]["hits"] = 3
        response = JSONResponse({"read": len(body), "id": scope["state"]["request_id"]})
    await response(scope, receive, send)


@pytest.fixture
def lines(log_kept):
    """A function that returns the lines of the log as objects."""
    stream = io.StringIO()
    log_to(stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def seen():
    return []


@pytest.fixture
def gated(seen):
    """A function that makes a gate with settings."""
    return lambda inner=app, **settings: Gate(
        inner, Settings(**settings), lambda *what: seen.append(what)
    )


def call(gate, method="GET", path="/x", headers=(), parts=(), state=None):
    """One request as ASGI: (status, headers, body).

    Args:
        gate: the app.
        method: of HTTP.
        path: percent-decoded.
        headers: pairs of bytes.
        parts: of the body; the client is silent after the last, if it is None.
        state: what the server put into the scope.
    """
    sent = []

    async def run():
        left = list(parts) or [b""]

        async def receive():
            if not left:
                return {"type": "http.disconnect"}
            if left[0] is None:
                await asyncio.Event().wait()
            part = left.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(left)}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"query=unspeakable",
            "headers": list(headers),
            "client": ("192.0.2.7", 5),
        }
        if state is not None:
            scope["state"] = state
        await gate(scope, receive, send)

    asyncio.run(run())
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


def key(value):
    return [(b"authorization", b"Bearer " + value.encode())]


def error(body, headers):
    """Return the error in an answer, and check the body's format."""
    told = json.loads(body)
    assert told.keys() == {"error", "request_id"}
    assert told["request_id"].encode() == headers[b"x-request-id"]
    return told["error"]


@pytest.mark.parametrize(
    ("method", "path", "need"),
    [
        ("GET", "/", "open"),
        ("HEAD", "/healthz", "open"),
        ("GET", "/readyz", "open"),
        ("GET", "/openapi.json", "open"),
        ("GET", "/page/page.js", "open"),
        ("GET", "/metrics", "read"),
        ("GET", "/indexes", "read"),
        ("GET", "/indexes/a", "read"),
        ("POST", "/indexes/a/search", "read"),
        ("POST", "/indexes/a/search/batch", "read"),
        ("POST", "/indexes/a/explain", "read"),
        ("POST", "/indexes/a/expand", "read"),
        ("GET", "/indexes/a/documents/b/c\n", "read"),
        ("PUT", "/indexes/a/documents/b", "admin"),
        ("DELETE", "/indexes/a/documents/b", "admin"),
        ("POST", "/indexes/a/documents", "admin"),
        ("POST", "/indexes/a/delete", "admin"),
        ("POST", "/admin/reload", "admin"),
        # Unknown paths need the admin key.
        ("POST", "/", "admin"),
        ("GET", "/page", "admin"),
        ("GET", "//", "admin"),
        ("GET", "/healthz\n", "admin"),
        ("GET", "/healthz/", "admin"),
        ("GET", "/x/healthz", "admin"),
        ("POST", "/indexes/a/search\n", "admin"),
        ("POST", "/indexes/a/b/search", "admin"),
        ("POST", "/indexes//search", "admin"),
        ("DELETE", "/indexes/a", "admin"),
        ("OPTIONS", "/indexes/a/search", "admin"),
        ("GET /healthz", "", "admin"),
        ("", "", "admin"),
    ],
)
def test_needs(method, path, need):
    assert needs(method, path) == need


@pytest.mark.parametrize("given", [b"a", b"A.b-c_9" * 9, b"x" * 64])
def test_a_request_keeps_its_id(gated, given):
    status, headers, body = call(gated(), headers=[(b"x-request-id", given)])
    assert (status, headers[b"x-request-id"]) == (200, given)
    assert json.loads(body)["id"] == given.decode()


@pytest.mark.parametrize("given", [b"", b"x" * 65, b"a b", b"a\n", b"\xe9", b'"', None])
def test_an_id_that_is_no_id_is_replaced(gated, given):
    headers = [] if given is None else [(b"x-request-id", given)]
    gate = gated()
    ids = {call(gate, headers=headers)[1][b"x-request-id"] for _ in range(3)}
    assert len(ids) == 3 and given not in ids
    assert all(len(one) == 16 for one in ids)


def test_the_servers_state_stays(gated):
    state = {"mine": 1}
    call(gated(), state=state)
    assert state["mine"] == 1 and state["log"] == {"hits": 3}


@pytest.mark.parametrize(
    ("headers", "status", "why"),
    [
        ([], 401, "a key is needed"),
        (key(""), 401, "a key is needed"),
        ([(b"authorization", b"")], 401, "a key is needed"),
        ([(b"authorization", b"Basic " + READ.encode())], 401, "a key is needed"),
        (key("wrong"), 401, "not one of this service"),
        (key(READ[:-1]), 401, "not one of this service"),
        (key(READ + "x"), 401, "not one of this service"),
        (key("x" * 1_000_000), 401, "not one of this service"),
        ([(b"authorization", b"Bearer \xff\xfe")], 401, "not one of this service"),
        ([(b"x-api-key", "clé".encode())], 401, "not one of this service"),
        (key(READ) * 2, 401, "one key, got 2"),
        (key(READ) + key("wrong"), 401, "one key, got 2"),
        (key(READ) + [(b"x-api-key", READ.encode())], 401, "one key, got 2"),
        (key(READ), 200, None),
        (key(ADMIN), 200, None),
        ([(b"authorization", b" bearer   " + READ.encode() + b" ")], 200, None),
        ([(b"x-api-key", READ.encode())], 200, None),
        # A proxy's own credentials beside lsr's key.
        ([(b"authorization", b"Basic eDp5"), (b"x-api-key", READ.encode())], 200, None),
    ],
)
def test_keys(gated, headers, status, why):
    gate = gated(read_key=READ, admin_key=ADMIN)
    found, sent, body = call(gate, "GET", "/indexes", headers)
    assert found == status
    if why:
        assert why in error(body, sent)
        assert sent[b"www-authenticate"] == b"Bearer"
    else:
        assert b"www-authenticate" not in sent


def test_the_read_key_may_not_write(gated):
    gate = gated(read_key=READ, admin_key=ADMIN)
    status, headers, body = call(gate, "POST", "/admin/reload", key(READ))
    assert status == 403 and "the read key may not POST" in error(body, headers)
    assert call(gate, "POST", "/admin/reload", key(ADMIN))[0] == 200
    assert call(gate, "POST", "/admin/reload")[0] == 401


def test_without_an_admin_key_nobody_writes(gated):
    gate = gated(read_key=READ)
    for headers in ([], key("wrong"), key(READ)):
        status, sent, body = call(gate, "POST", "/admin/reload", headers)
        assert status == 403 and "needs an admin key, and none is set" in error(body, sent)


def test_without_a_read_key_reading_needs_the_admin_key(gated):
    gate = gated(admin_key=ADMIN)
    assert [call(gate, "GET", "/indexes", h)[0] for h in ([], key(READ), key(ADMIN))] == [
        401,
        401,
        200,
    ]


def test_all_keys_are_compared(gated, monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(gate_module.hmac, "compare_digest", compare)
    gate = gated(read_key=READ, admin_key=ADMIN)
    for value in (READ, ADMIN, "x", "x" * 1000):
        compared.clear()
        call(gate, "GET", "/indexes", key(value))
        assert compared == [(32, 32), (32, 32)]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"host", b"127.0.0.1:8080")], 200),
        ([(b"host", b"[::1]:8080")], 200),
        ([(b"host", b"localhost")], 200),
        ([(b"host", b"testserver")], 200),
        ([(b"host", b"evil.example:8080")], 403),
        ([(b"host", b"127.0.0.1.evil.example")], 403),
        ([(b"host", b"localhost@evil.example")], 403),
        ([(b"host", b"[::1")], 403),
        ([(b"host", b"localhost"), (b"origin", b"http://localhost:8080")], 200),
        ([(b"host", b"localhost"), (b"origin", b"https://good.example")], 200),
        ([(b"host", b"localhost"), (b"origin", b"https://evil.example")], 403),
        ([(b"host", b"localhost"), (b"origin", b"http://intranet")], 403),
        ([(b"host", b"localhost"), (b"origin", b"null")], 403),
    ],
)
def test_without_keys_pages_from_elsewhere_are_refused(gated, headers, status):
    gate = gated(cors_origins=("https://good.example",))
    found, sent, body = call(gate, "POST", "/admin/reload", headers)
    assert found == status
    if status == 403:
        assert "`Host`" in error(body, sent) or "`Origin`" in error(body, sent)


def test_with_keys_any_host_will_do(gated):
    gate = gated(admin_key=ADMIN)
    elsewhere = [(b"host", b"search.example"), (b"origin", b"https://x.example")]
    assert call(gate, "GET", "/indexes", key(ADMIN) + elsewhere)[0] == 200


@pytest.mark.parametrize("length", [b"1025", b"10000000", b"9" * 5000])
def test_a_long_body_is_refused_unread(gated, length):
    headers = [(b"content-length", length)]
    status, sent, body = call(gated(max_body=1024), "POST", "/x", headers, [b"a"])
    assert status == 413 and "at most 1024 bytes" in error(body, sent)


@pytest.mark.parametrize("length", [b"-1", b"1.5", b"+5", "٣".encode(), b"\xb2", b"1_0", b" 5"])
def test_a_length_that_is_none(gated, length):
    status, sent, body = call(gated(), "POST", "/x", [(b"content-length", length)])
    assert status == 400 and "`Content-Length`" in error(body, sent)


def test_a_body_of_the_limit_passes(gated):
    chunked = [(b"transfer-encoding", b"chunked")]
    for headers in (chunked, [(b"content-length", b"1024")]):
        status, sent, body = call(gated(max_body=1024), "POST", "/x", headers, [b"a" * 512] * 2)
        assert (status, json.loads(body)["read"]) == (200, 1024)
        assert b"connection" not in sent


def test_a_chunked_body_is_counted(gated):
    headers = [(b"transfer-encoding", b"chunked")]
    parts = [b"a" * 512] * 1000
    status, sent, body = call(gated(max_body=1024), "POST", "/x", headers, parts)
    assert status == 413 and "at most 1024 bytes" in error(body, sent)
    assert sent[b"connection"] == b"close"


def test_a_stream_of_documents_may_be_long(gated):
    headers = [(b"transfer-encoding", b"chunked")]
    gate = gated(max_body=1024)
    status, _, body = call(gate, "POST", "/indexes/a/documents", headers, [b"a" * 512] * 100)
    assert (status, json.loads(body)["read"]) == (200, 51_200)


def test_compressed_bodies_are_refused_by_name(gated):
    headers = [(b"content-encoding", b"gzip"), (b"content-length", b"3")]
    status, sent, body = call(gated(), "POST", "/x", headers, [b"a" * 3])
    assert status == 415 and "'gzip'" in error(body, sent)
    assert call(gated(), headers=[(b"content-encoding", b"identity")])[0] == 200


def test_a_silent_client(gated):
    headers = [(b"content-length", b"9")]
    begun = time.monotonic()
    status, sent, body = call(gated(body_seconds=0.05), "POST", "/x", headers, [b"a", None])
    assert status == 408 and "pauses above 0.05 seconds" in error(body, sent)
    assert sent[b"connection"] == b"close"
    assert time.monotonic() - begun < 1  # it does not wait longer for a silent client


def test_a_silent_client_of_an_app_that_answers_exceptions(gated):
    """The app turns HTTPException into an answer, as FastAPI does."""

    async def inner(scope, receive, send):
        try:
            await Request(scope, receive).body()
        except HTTPException as refusal:
            answer = JSONResponse({"detail": refusal.detail}, refusal.status_code)
            await answer(scope, receive, send)

    headers = [(b"content-length", b"9")]
    gate = gated(inner, body_seconds=0.05)
    status, sent, _ = call(gate, "POST", "/x", headers, [b"a", None])
    assert (status, sent[b"connection"]) == (408, b"close")


def test_what_is_still_sent_is_thrown_away_for_a_while(gated, monkeypatch):
    """The answer is sent first, and ends when the client has finished."""
    monkeypatch.setattr(gate_module, "LINGER_SECONDS", 0.1)
    order = []

    async def run(silent):
        parts = [b"x"] * 3

        async def receive():
            if not parts:
                assert silent
                await asyncio.Event().wait()
            order.append("read")
            part = parts.pop()
            return {"type": "http.request", "body": part, "more_body": bool(parts) or silent}

        async def send(message):
            order.append((message["type"].rpartition(".")[2], message.get("more_body")))

        scope = {"type": "http", "method": "POST", "path": "/early", "query_string": b""}
        scope["headers"] = [(b"content-length", b"3")]
        await gated()(scope, receive, send)

    for silent in (False, True):
        order.clear()
        asyncio.run(run(silent))
        assert order == [("start", None), ("body", True), *["read"] * 3, ("body", False)]


def test_so_much_and_no_more_is_thrown_away(gated, monkeypatch):
    monkeypatch.setattr(gate_module, "LINGER_BYTES", 10)
    parts = [b"12345"] * 100
    call(gated(), "POST", "/early", [(b"transfer-encoding", b"chunked")], parts)
    read = []

    async def run():
        async def receive():
            read.append(1)
            return {"type": "http.request", "body": b"12345", "more_body": True}

        async def send(message):
            pass

        scope = {"type": "http", "method": "POST", "path": "/early", "query_string": b""}
        scope["headers"] = [(b"transfer-encoding", b"chunked")]
        await gated()(scope, receive, send)

    asyncio.run(run())
    assert len(read) == 2


def test_security_headers(gated):
    _, headers, _ = call(gated())
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"cache-control"] == b"no-store"
    _, headers, _ = call(gated(), path="/early")
    assert headers[b"cache-control"] == b"max-age=60"


def test_errors_tell_nothing(gated, lines):
    status, headers, body = call(gated(), path="/boom", headers=[(b"x-request-id", b"mine")])
    assert (status, error(body, headers)) == (500, "internal error")
    failure, request = lines()
    assert failure["level"] == "error" and failure["id"] == request["id"] == "mine"
    assert "the secret detail" in failure["traceback"]
    assert request["status"] == 500 and request["level"] == "error"


def test_an_error_in_the_middle_of_an_answer_breaks_it(gated, lines):
    with pytest.raises(RuntimeError, match="secret"):
        call(gated(), path="/half")
    failure, request = lines()
    assert "the secret detail" in failure["traceback"]
    assert request["status"] == 200 and request["bytes_out"] == 4


def test_a_client_that_left_is_no_error(gated, lines, seen):
    async def inner(scope, receive, send):
        await Request(scope, receive).body()

    async def gone():
        return {"type": "http.disconnect"}

    async def send(message):
        raise AssertionError("nobody is there")

    scope = {"type": "http", "method": "POST", "path": "/x", "query_string": b""}
    scope["headers"] = [(b"content-length", b"3")]
    asyncio.run(gated(inner)(scope, gone, send))
    (request,) = lines()
    assert request["status"] == 499 and seen[0][2] == 499
    with pytest.raises(ClientDisconnect):
        asyncio.run(inner(scope, gone, send))


def test_an_answer_that_nobody_waits_for(gated, seen):
    """FastAPI answers a client that has left; this must not count as a bad request."""

    async def inner(scope, receive, send):
        try:
            await Request(scope, receive).body()
        except ClientDisconnect:
            await Response("a body is missing", 400)(scope, receive, send)

    async def gone():
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    scope = {"type": "http", "method": "POST", "path": "/x", "query_string": b""}
    scope["headers"] = [(b"content-length", b"3")]
    asyncio.run(gated(inner)(scope, gone, send))
    assert seen[0][2] == 499


def test_a_line_for_each_request(gated, lines):
    headers = [*key(READ), (b"content-length", b"5"), (b"x-request-id", b"r1")]
    call(gated(read_key=READ), "POST", "/indexes/a/search", headers, [b"12345"])
    (line,) = lines()
    assert line.pop("ms") >= 0
    assert datetime.fromisoformat(line.pop("time")).utcoffset() == timedelta(0)
    assert line == {
        "level": "info",
        "message": "request",
        "id": "r1",
        "method": "POST",
        "path": "/indexes/a/search",
        "status": 200,
        "bytes_in": 5,
        "bytes_out": len(b'{"read":5,"id":"r1"}'),
        "client": "192.0.2.7",
        "key": sha256(READ.encode()).hexdigest()[:8],
        "hits": 3,
    }


def test_the_log_holds_no_key_and_no_query(gated, lines, capsys):
    gate = gated(read_key=READ, admin_key=ADMIN)
    wrong = "a-wrong-key-that-is-long"
    for value in (READ, ADMIN, wrong):
        for header in (b"authorization", b"x-api-key"):
            given = [(header, (b"Bearer " if header[0] == 97 else b"") + value.encode())]
            for path in ("/indexes/a/search", "/boom"):
                length = [(b"content-length", b"11")]
                call(gate, "POST", path, given + length, [b"unspeakable"])
    written = json.dumps(lines()) + "".join(capsys.readouterr())
    assert written.count('"message": "request"') == 12
    for secret in (READ, ADMIN, wrong, "unspeakable"):
        assert secret not in written


def test_a_path_cannot_forge_a_line(gated, lines):
    call(gated(), path='/x\n{"level": "info"}\x1b[31m\ud800')
    (line,) = lines()
    assert line["path"] == '/x\n{"level": "info"}\x1b[31m\ud800'


def test_what_is_observed(gated, seen):
    gate = gated(read_key=READ)
    call(gate, "POST", "/indexes/a/search", key(READ))
    call(gate, "POST", "/indexes/a/search")
    call(gate, "BREW", "/indexes/a/search", key(READ))
    assert [what[:3] for what in seen] == [
        ("POST", "/indexes/{name}/search", 200),
        ("POST", "none", 401),
        ("other", "none", 403),
    ]
    assert all(0 <= what[3] < 1 for what in seen)


def test_head_has_no_body(gated):
    status, headers, body = call(gated(read_key=READ), "HEAD", "/indexes")
    assert (status, body, headers[b"content-length"]) == (401, b"", b"0")


def test_other_scopes(gated):
    """Lifespan events are passed on; web sockets are refused."""
    reached, sent = [], []

    async def inner(scope, receive, send):
        reached.append(scope["type"])

    async def send(message):
        sent.append(message)

    gate = gated(inner)
    asyncio.run(gate({"type": "lifespan"}, None, send))
    asyncio.run(gate({"type": "websocket", "path": "/"}, None, send))
    assert reached == ["lifespan"] and sent == [{"type": "websocket.close", "code": 1008}]


def test_through_a_client(gated):
    """The same through httpx, with a body in chunks."""

    async def run():
        transport = httpx.ASGITransport(gated(max_body=1024))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def chunks(count):
                for _ in range(count):
                    yield b"a" * 512

            fine = await client.post("/x", content=chunks(2))
            large = await client.post("/x", content=chunks(3))
            return fine, large

    fine, large = asyncio.run(run())
    assert fine.json()["read"] == 1024
    assert large.status_code == 413 and large.json()["request_id"] == large.headers["x-request-id"]


def test_it_costs_little(gated):
    """It costs some tens of microseconds; the bound is higher, for busy machines."""

    async def inner(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message):
        pass

    gate = gated(inner, read_key=READ, admin_key=ADMIN)
    headers = [*key(READ), (b"content-length", b"2"), (b"host", b"localhost")]

    async def best():
        times = []
        for _ in range(200):
            scope = {"type": "http", "method": "POST", "path": "/indexes/a/search"}
            begun = time.perf_counter()
            await gate({**scope, "headers": headers}, receive, send)
            times.append(time.perf_counter() - begun)
        return min(times)

    assert asyncio.run(best()) < 500e-6


def test_a_full_queue_is_told_before_the_app_is_asked():
    asked, full = [], [True]

    async def app(scope, receive, send):
        asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    gate = Gate(app, Settings(), lambda *seen: None, lambda: "64 are waiting" if full[0] else None)

    async def call(path, method="POST"):
        parts = [
            {"type": "http.request", "body": b"a", "more_body": True},
            {"type": "http.request", "body": b"b", "more_body": False},
        ]
        sent = []
        headers = [(b"host", b"localhost"), (b"content-length", b"2")]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}

        async def receive():
            return parts.pop(0)

        async def send(message):
            sent.append(message)

        await gate(scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"], len(parts)

    for action in ("search", "search/batch", "explain", "expand"):
        status, headers, body, left = asyncio.run(call(f"/indexes/wings/{action}"))
        assert status == 429 and b"64 are waiting" in body and headers[b"retry-after"] == b"1"
        # The body was read, so the connection can be used again.
        assert left == 0 and b"connection" not in headers
    assert not asked
    assert asyncio.run(call("/indexes/wings/documents"))[0] == 200
    assert asyncio.run(call("/healthz", "GET"))[0] == 200
    full[0] = False
    assert asyncio.run(call("/indexes/wings/search"))[0] == 200
