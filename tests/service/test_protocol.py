"""service/protocol.py with misbehaving clients, over real sockets."""

import asyncio
import json
import re
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lsr.service import protocol as protocol_module
from lsr.service.gate import Gate
from lsr.service.protocol import MAX_HEAD, MAX_HEADERS, MAX_PIPELINED, MAX_URL, protocol
from lsr.service.settings import Settings

SECONDS = 0.3  # the time limit of a client
LARGE = 8_000_000


async def app(scope, receive, send):
    """Answers with the length of the body; /large has a large answer, /slow is slow."""
    if scope["path"] == "/large":
        response = Response(b"x" * LARGE)
    else:
        if scope["path"] == "/slow":
            await asyncio.sleep(0.2)
        body = await Request(scope, receive).body()
        response = JSONResponse({"path": scope["path"], "read": len(body)})
    await response(scope, receive, send)


@contextmanager
def serving(loop="uvloop", **settings):
    """A server in a thread; gives a function that connects, and the set of its connections."""
    limits = {"header_seconds": SECONDS, "body_seconds": SECONDS, "max_body": 200_000}
    limits = Settings(**(limits | settings))
    config = uvicorn.Config(
        Gate(app, limits, lambda *seen: None),
        http=protocol(limits),
        ws="none",
        lifespan="off",
        loop=loop,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            wait_for(lambda: server.started)

            def connect():
                client = socket.create_connection(listener.getsockname(), timeout=5)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return client

            yield connect, server.server_state.connections
        finally:
            server.should_exit = True
            thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def server(request):
    with serving(request.param) as opened:
        yield opened


@pytest.fixture
def client(server):
    with server[0]() as opened:
        yield opened


def wait_for(condition, seconds=5):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def read_all(client):
    """Return all bytes until the server closes; a reset counts as the end."""
    parts = []
    try:
        while part := client.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        parts.append(b"<reset>")
    return b"".join(parts)


def read_one(client):
    """Return the bytes of one answer; the connection stays open."""
    data = b""
    while not (length := re.search(rb"content-length: (\d+)\r\n(?s:.*?)\r\n\r\n", data)) or (
        len(data) < length.end() + int(length[1])
    ):
        part = client.recv(65_536)
        assert part, data
        data += part
    return data


def answers(data):
    """Return (status, headers, body) of each answer in a stream."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        found.append((int(status.split()[1]), headers, rest[:length]))
        data = rest[length:]
    return found


def refused(data):
    """Return status and error of the only answer in a stream, which is a refusal."""
    ((status, headers, body),) = answers(data)
    told = json.loads(body)
    assert told.keys() == {"error", "request_id"}
    assert re.fullmatch("[0-9a-f]{16}", told["request_id"])
    assert headers["x-request-id"] == told["request_id"]
    assert headers["connection"] == "close"
    return status, told["error"]


def still_answers(server):
    with server[0]() as client:
        client.sendall(b"GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        ((status, _, body),) = answers(read_all(client))
    return status == 200 and json.loads(body)["path"] == "/ok"


def test_a_request_in_pieces(server, client):
    """Each byte is sent separately, but all within the time limit."""
    for byte in b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc":
        client.sendall(bytes([byte]))
    ((status, _, body),) = answers(read_all(client))
    assert (status, json.loads(body)) == (200, {"path": "/a", "read": 3})


def test_a_connection_that_asks_nothing_is_closed(client):
    begun = time.monotonic()
    assert read_all(client) == b""
    assert SECONDS * 0.8 < time.monotonic() - begun < 3


@pytest.mark.parametrize("between", [b"X-A: b\r\n", b"\r\n"])
def test_a_slow_head(server, client, between):
    """Single bytes do not extend the time limit; nor do empty lines before the head."""
    begun = time.monotonic()
    first = b"GET / HTTP/1.1\r\n" if between != b"\r\n" else b"\r\n"
    client.sendall(first)
    client.settimeout(0.05)
    data = b""
    while time.monotonic() - begun < 3:
        try:
            data = client.recv(65_536)
            break
        except TimeoutError:
            client.sendall(between)
    assert SECONDS * 0.8 < time.monotonic() - begun < 3
    if first == b"\r\n":
        assert data == b""
    else:
        client.settimeout(5)
        status, error = refused(data + read_all(client))
        assert status == 408 and f"within {SECONDS} seconds" in error


def test_a_slow_second_head(client):
    """The time limit starts again with each request."""
    client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
    (first,) = answers(read_one(client))
    assert first[0] == 200
    client.sendall(b"GET /b HTT")
    status, error = refused(read_all(client))
    assert status == 408 and "head" in error


def test_a_slow_body(client):
    client.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    begun = time.monotonic()
    status, error = refused(read_all(client))
    assert status == 408 and "body" in error and f"above {SECONDS} seconds" in error
    assert time.monotonic() - begun < 3


def flood(client, head):
    """Send a head as far as the server takes it, and read its answer."""
    try:
        client.sendall(head)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server closed after its answer
    return refused(read_all(client))


@pytest.mark.parametrize(
    ("head", "status", "limit"),
    [
        (b"GET /" + b"a" * MAX_URL + b" HTTP/1.1\r\n\r\n", 414, MAX_URL),
        (b"GET /" + b"a" * 5_000_000, 414, MAX_URL),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n", 431, MAX_HEADERS),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 500_000, 431, MAX_HEADERS),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * MAX_HEAD + b"\r\n\r\n", 431, MAX_HEAD),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 5_000_000, 431, MAX_HEAD),
        (b"GET / HTTP/1.1\r\n" + b"b" * 5_000_000, 431, MAX_HEAD),
        (b"GET / HTTP/1.1\r\n" + (b"A: " + b"b" * 1000 + b"\r\n") * 90, 431, MAX_HEAD),
    ],
)
def test_floods(server, client, head, status, limit):
    found, error = flood(client, head)
    assert found == status and f"at most {limit} " in error
    assert still_answers(server)


def test_heads_within_the_limits(client):
    head = b"GET /" + b"a" * (MAX_URL - 1) + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += (b"A: " + b"b" * 500 + b"\r\n") * (MAX_HEADERS - 2)
    client.sendall(head + b"\r\n")
    ((status, _, _),) = answers(read_all(client))
    assert status == 200


@pytest.mark.parametrize(
    "between",
    [b"0\r\nA: " + b"b" * 5_000_000, b"0\r\n" + b"A: b\r\n" * 100_000, b"1;" + b"e" * 5_000_000],
    ids=["long trailer", "many trailers", "chunk extension"],
)
def test_floods_after_the_head(server, client, between):
    """Bytes that are neither head nor body are limited as well."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    status, error = flood(client, head + between)
    assert status == 431 and "at most" in error
    assert still_answers(server)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"\x00" * 100,
        bytes(range(256)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
        b"GET \xff\xfe HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage(server, client, garbage):
    client.sendall(garbage)
    status, error = refused(read_all(client))
    assert status == 400 and error == "this is not a valid HTTP/1.1 request"
    assert still_answers(server)


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    ],
)
def test_other_protocols(client, head):
    client.sendall(head)
    status, error = refused(read_all(client))
    assert status == 400 and "`Upgrade`" in error


def test_pipelining(client):
    """Requests sent at once are answered one after the other."""
    requests = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (n, n, b"a" * n)
        for n in range(20)
    )
    client.sendall(requests + b"GET /end HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    found = [(status, json.loads(body)) for status, _, body in answers(read_all(client))]
    assert found == [
        *((200, {"path": f"/{n}", "read": n}) for n in range(20)),
        (200, {"path": "/end", "read": 0}),
    ]


@pytest.mark.parametrize("after", [b"\x00garbage", b"GET / HTTP/1.1\r\nA b\r\n\r\n"])
def test_garbage_after_a_request(client, after):
    """The request is answered; the refusal of what follows must not look like its answer."""
    client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + after)
    ((status, _, body),) = answers(read_all(client))
    assert (status, json.loads(body)["path"]) == (200, "/slow")


def test_garbage_behind_waiting_requests(server, client):
    """No answer is better than one that looks like the answer to another request."""
    client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + b"\x00")
    assert read_all(client) in (b"", b"<reset>")
    assert still_answers(server)


def test_too_many_requests_in_line(server, client):
    client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" * (MAX_PIPELINED + 2))
    assert read_all(client) in (b"", b"<reset>")
    assert still_answers(server)


def test_garbage_in_a_body(client):
    client.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    time.sleep(0.05)  # the app is reading the body
    client.sendall(b"zz\r\n")
    status, error = refused(read_all(client))
    assert status == 400 and "valid HTTP" in error


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body(server, client, chunked):
    """The refusal arrives although the client has not finished sending."""
    size = 5_000_000
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    framed = b"%x\r\n%s\r\n" % (size, b"a" * size) if chunked else b"a" * size
    client.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n" + framed)
    if chunked:
        client.sendall(b"0\r\n\r\n")
    status, error = refused(read_all(client))
    assert status == 413 and "at most 200000 bytes" in error


def test_a_refused_body_is_not_asked_for(client):
    client.sendall(
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\nExpect: 100-continue\r\n\r\n"
    )
    ((status, _, _),) = answers(read_one(client))
    assert status == 413


def test_a_body_is_asked_for(client):
    client.sendall(
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    )
    assert client.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"abc")
    ((status, _, body),) = answers(read_one(client))
    assert (status, json.loads(body)["read"]) == (200, 3)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc",
    ],
)
def test_a_client_that_stops_sending(server, client, sent):
    """A half-closed connection counts as closed: it ends, whatever was requested."""
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)
    begun = time.monotonic()
    assert read_all(client) == b""
    assert time.monotonic() - begun < 2
    assert still_answers(server)


def test_a_client_that_does_not_read(server):
    connect, connections = server
    with connect() as idle:
        wait_for(lambda: len(connections) == 1)
        idle.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: not connections)
        assert len(read_all(idle)) < LARGE


def test_a_client_that_reads_slowly(server):
    """The whole answer takes longer than the limit, but the client never pauses that long."""
    with server[0]() as slow:
        slow.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        size, begun = 0, time.monotonic()
        while part := slow.recv(200_000):
            size += len(part)
            time.sleep(0.01)
        assert size > LARGE
        assert time.monotonic() - begun > SECONDS


def test_too_many_connections():
    with serving(max_connections=2, header_seconds=5) as (connect, connections):
        with connect(), connect():
            wait_for(lambda: len(connections) == 2)
            with connect() as third:
                data = read_all(third)
            assert b"\r\nretry-after: 1\r\n" in data
            status, error = refused(data)
            assert status == 503 and "no more than 2" in error
        wait_for(lambda: not connections)
        assert still_answers((connect, connections))


def test_a_refused_client_that_goes_on(monkeypatch):
    """The server discards a limited amount for a limited time, then ends the connection."""
    monkeypatch.setattr(protocol_module, "LINGER_SECONDS", 0.2)
    with serving() as (connect, connections):
        with connect() as client:
            client.sendall(b"\x00")
            wait_for(lambda: len(connections) == 1)
            begun = time.monotonic()
            wait_for(lambda: not connections)
            assert time.monotonic() - begun > 0.1
    monkeypatch.setattr(protocol_module, "LINGER_SECONDS", 60)
    monkeypatch.setattr(protocol_module, "LINGER_BYTES", 100_000)
    with serving() as (connect, connections):
        with connect() as client:
            client.sendall(b"\x00")
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for _ in range(1000):
                    client.sendall(b"x" * 10_000)
                    time.sleep(0.001)
            wait_for(lambda: not connections)


def test_nothing_is_left(server):
    """All connections of the earlier tests have ended."""
    wait_for(lambda: not server[1])
