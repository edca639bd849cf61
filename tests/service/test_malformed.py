"""Malformed requests to the whole service over HTTP: written by hand, and by schemathesis.

Schemathesis makes 30 requests, and in the slow tests LSR_MALFORMED (300 by default).
"""

import http.client
import json
import os
import re
import shutil
import threading
from typing import NamedTuple

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)

from lsr.service.app import create_app
from lsr.service.protocol import protocol
from lsr.service.settings import Settings

COUNTS = [30, pytest.param(int(os.environ.get("LSR_MALFORMED", "300")), marks=pytest.mark.slow)]
# Text that reveals internals of the service.
LEAKS = re.compile(
    r"Traceback|File \\?\"|\.py\\?\"|site-packages|Error\(|org\.apache|<class|0x[\da-f]{9}"
)
SEARCH = "/indexes/wings/search"
JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}


class Reply(NamedTuple):
    """An answer."""

    status: int
    headers: dict
    body: bytes


@pytest.fixture(scope="module")
def service(built, tmp_path_factory, serving):
    """The address of a served copy of an index, and its application."""
    index = shutil.copytree(built, tmp_path_factory.mktemp("malformed") / "wings")
    settings = Settings(body_seconds=2)
    app = create_app([index], settings)
    with serving(app, http=protocol(settings)) as address:
        yield address, app


@pytest.fixture
def ask(service):
    """A function that sends a request exactly as given."""

    def send(method, path, body=None, headers=None, chunked=False):
        connection = http.client.HTTPConnection(*service[0], timeout=60)
        try:
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            with connection.getresponse() as answer:
                return Reply(answer.status, dict(answer.headers), answer.read())
        finally:
            connection.close()

    return send


def check(reply, hurried=False):
    """Check what must be true of any answer; return its error, or None.

    Args:
        reply: the answer.
        hurried: whether the request set a deadline, which may have passed.
    """
    text = reply.body.decode()
    assert reply.status < 500 or (hurried and reply.status == 504), text
    assert not LEAKS.search(text), text
    assert reply.headers["x-request-id"]
    if reply.status < 400:
        if reply.headers.get("content-type") == "application/json":
            json.loads(text, parse_constant=pytest.fail)  # no NaN
        return None
    assert reply.headers["content-type"] == "application/json"
    told = json.loads(text)
    assert told.keys() == {"error", "request_id"}, text
    assert told["request_id"] == reply.headers["x-request-id"]
    assert 8 <= len(told["error"]) <= 1100, text
    return told["error"]


def of(query="heat", **settings):
    return json.dumps({"query": query, **settings})


MANY = json.dumps({"query": {f"term{n}": 1.0 for n in range(100_000)}})[:]
BODIES = {
    # numbers
    "NaN weight": ('{"query": {"heat": NaN}}', 422, "weight of 'heat'.*nan"),
    "infinite weight": ('{"query": {"heat": Infinity}}', 422, "weight of 'heat'.*inf"),
    "1e400": ('{"query": {"heat": 1e400}}', 422, "weight of 'heat'.*inf"),
    "huge weight": (of({"heat": 1e300}), 422, r"weight of 'heat'.*1e\+100\], got 1e\+300"),
    "negative weight": (of({"heat": -1}), 422, "weight of 'heat'.*got -1"),
    "zero weight": (of({"heat": 0}), 422, "weight of 'heat'.*got 0"),
    "tiny weight": (of({"heat": 5e-324}), 422, "weight of 'heat'.*5e-324"),
    "text weight": (of({"heat": "much"}), 422, "weight of 'heat'.*much"),
    "nested weight": (of({"heat": {"a": 1}}), 422, "weight of 'heat'"),
    "no terms": (of({}), 400, "`query` is empty"),
    "integer of 5000 digits": ('{"query": "a", "k": ' + "9" * 5000 + "}", 400, "too many digits"),
    "float of 5000 digits": ('{"query": "a", "min_score": ' + "9" * 5000 + ".0}", 422, "min_score"),
    "NaN min_score": ('{"query": "a", "min_score": NaN}', 422, "`min_score`.*nan"),
    "infinite alpha": (
        '{"query": "a", "mode": "hybrid", "interpolation": {"alpha": -Infinity}}',
        422,
        "interpolation.alpha.*inf",
    ),
    # JSON
    "no body": ("", 422, "body"),
    "broken": ('{"query": "a"', 400, "not valid JSON"),
    "two": ('{"query": "a"} {"query": "b"}', 400, "not valid JSON"),
    "word": ("query", 400, "not valid JSON"),
    "single quotes": ("{'query': 'a'}", 400, "not valid JSON"),
    "comment": ('{"query": "a" /* b */}', 400, "not valid JSON"),
    "nested arrays": ("[" * 100_000, 400, "recursion|JSON"),
    "closed nested arrays": ("[" * 100_000 + "]" * 100_000, 400, "recursion"),
    "nested objects": ('{"query":' * 100_000 + "1" + "}" * 100_000, 400, "recursion"),
    "bad UTF-8": (b'{"query": "\xff\xfe"}', 400, "UTF-8|utf-8"),
    "half a character": (b'{"query": "\xe2\x82"}', 400, "UTF-8|utf-8"),
    "UTF-16": ('{"query": "a"}'.encode("utf-16"), (200, 400), None),
    "control character": ('{"query": "a\nb"}', 400, "not valid JSON"),
    "null": ("null", 422, "body"),
    "number": ("3", 422, "body"),
    "array": ('["query"]', 422, "body"),
    "string": ('"query"', 422, "body"),
    # text
    "lone surrogate": (r'{"query": "\ud800"}', (200, 400, 422), None),
    "lone surrogate in a term": (r'{"query": {"\udc00": 1}}', (200, 400, 422), None),
    "lone surrogate in a name": (r'{"query": "a", "\ud800": 1}', 422, "valid string|not a setting"),
    "lone surrogate in a filter": (
        r'{"query": "a", "filter": {"key": "\ud800", "op": "=", "value": "\ud800"}}',
        (200, 400, 422),
        None,
    ),
    "NUL": (r'{"query": "\u0000"}', 200, None),
    "NUL in a term": (r'{"query": {"a\u0000b": 1}}', (200, 400), None),
    "NUL in a filter": (of(filter="'\\u0000' = '\\u0000'"), 400, "no document of this index"),
    "long query": (of("a" * 10_001), 400, "10000 characters, got 10001"),
    "long term": (of({"a" * 100_000: 1}), (200, 400, 422), None),
    "only spaces": (of(" \t\n"), 400, "`query` is empty"),
    "right to left": (of("\u202e\u2066ab\ufeff"), 200, None),
    "Lucene's syntax": (of('heat AND (wing OR "nose" NOT * ? ~ [a TO z] \\'), 200, None),
    # limits
    "too many terms": (of({f"t{n}": 1.0 for n in range(1025)}), 400, "1024 terms, got 1025"),
    "k 0": (of(k=0), 422, "`k` must be in .1, 1000000., got 0"),
    "k below 0": (of(k=-1), 422, "`k`.*got -1"),
    "k above the limit": (of(k=1001), 400, "`k` must be in .1, 1000., got 1001"),
    "k far above": (of(k=10**30), 422, "`k`.*got 10000"),
    "k a fraction": (of(k=1.5), 422, "`k`.*1.5"),
    "k a text": (of(k="ten"), 422, "`k`.*ten"),
    "k true": (of(k=True), (200, 422), None),
    "k null": (of(k=None), 422, "`k`.*None"),
    "max_terms 0": (of(max_terms=0), 422, "`max_terms`.*0"),
    "max_terms 2**70": (of(max_terms=2**70), (200, 400, 422), None),
    "mass 0": (of(mass=0), 422, "`mass`.*got 0"),
    "mass 2": (of(mass=2), 422, "`mass`.*got 2"),
    "rescore alone": (of(rescore=10), 422, "`rescore` needs"),
    "timeout 0": (of(timeout_ms=0), 422, "timeout_ms"),
    "timeout of an age": (of(timeout_ms=10**12), 422, "timeout_ms"),
    "depth 0": (of(mode="hybrid", interpolation={"depth": 0}), 422, "depth.*got 0"),
    "depth 10**9": (of(mode="hybrid", interpolation={"depth": 10**9}), 422, "depth"),
    "10,000 conditions": (
        of(filter={"or": [{"key": f"f{n}", "op": "=", "value": "a"} for n in range(9_000)]}),
        400,
        "`filter` must have at most 100 conditions, got 9000",
    ),
    "10,001 values": (
        of(filter={"key": "kind", "op": "in", "value": ["a"] * 10_001}),
        422,
        "at most 10,000 conditions",
    ),
    "deep filter": (of(filter="not " * 60 + "kind = a"), 422, "at most 50 deep"),
    # types
    "query a number": (of(3), 422, "query"),
    "query true": (of(True), 422, "query"),
    "query null": (of(None), 422, "query"),
    "query an array": (of(["a"]), 422, "query"),
    "no query": ('{"k": 3}', 422, "query"),
    "unknown field": (of(qeury="a"), 422, "`qeury` is not a setting"),
    "unknown nested field": (
        of(mode="hybrid", interpolation={"beta": 1}),
        422,
        "interpolation.beta",
    ),
    "unknown mode": (of(mode="dens"), 422, "`mode` must be one of.*dens"),
    "mode a list": (of(mode=["sparse"]), 422, "`mode`"),
    "feedback a text": (of(feedback="yes"), 422, "`feedback`"),
    "feedback of nothing": (of(feedback={"alpha": 0, "beta": 0}), 422, "`alpha` or `beta`"),
    "feedback's documents": (of(feedback={"documents": 10**6}), 422, "documents"),
    "feedback's iterations": (of(feedback={"iterations": 11}), 422, "iterations"),
    "interpolation of sparse": (
        of(mode="sparse", interpolation={}),
        422,
        "`interpolation` is for mode 'hybrid'",
    ),
    # Without a mode, the index decides: this one has a dense side.
    "interpolation of an index's own mode": (of(interpolation={}), 200, None),
    "interpolation of weights": (
        of({"heat": 1}, interpolation={}),
        400,
        "`interpolation` is for mode 'hybrid', got mode 'learned'",
    ),
    "weights in hybrid": (of({"a": 1}, mode="hybrid"), 422, "needs a text"),
    "weights in words": (of({"a": 1}, mode="words"), 422, "needs a text"),
    "terms of words": (of(mode="words", max_terms=2), 422, "cut learned terms; mode is 'words'"),
    "k1 below 0": (of(words={"k1": -1}), 422, "`words.k1`.*got -1"),
    "b above 1": (of(words={"b": 1.5}), 422, "`words.b`.*got 1.5"),
    "weight of words": (of(words={"weight": 1001}), 422, "`words.weight`.*got 1001"),
    "unknown setting of words": (of(words={"k2": 1}), 422, "words.k2"),
    "sides of sides": (
        of(interpolation={"method": "rrf", "sides": ["sparse", "words", "dense"]}),
        422,
        "'sparse' holds words and learned terms",
    ),
    "one side": (of(interpolation={"method": "rrf", "sides": ["words"]}), 422, "two or three"),
    "sides upside down": (
        of(interpolation={"sides": ["dense", "words"]}),
        422,
        "must be words, learned or sparse, and then dense",
    ),
    "unknown side": (of(interpolation={"sides": ["bm25", "dense"]}), 422, "interpolation.sides"),
    "explain a text": (of(explain="maybe"), 422, "`explain`"),
    "text a number": (of(text=7), 422, "`text`"),
    "filters of older versions": (of(filters={"kind": "a"}), 422, "an expression: write kind = "),
    "filter a list": (of(filter=["a"]), 422, "`filter` must be a string or an object"),
    "filter of one word": (of(filter="kind"), 422, "character 5: expected one of = !="),
    "filter of no operator": (of(filter={"kind": "a"}), 422, "A comparison is written"),
    "filter of null": (of(filter={"key": "kind", "op": "=", "value": None}), 422, "filter.value"),
    "filter of an object": (
        of(filter={"key": "year", "op": "=", "value": {}}),
        422,
        "filter.value",
    ),
    "filter of arrays": (
        of(filter={"key": "year", "op": "in", "value": [[]]}),
        422,
        "filter.value",
    ),
    "filter upside down": (of(filter="year = 3..1"), 422, "low ≤ high"),
    "filter NaN": (
        '{"query": "a", "filter": {"key": "year", "op": "=", "value": NaN}}',
        422,
        "finite, got nan",
    ),
    "filter of no key": (
        of(filter="nothing = a"),
        400,
        "has a value under the key 'nothing'; the keys are ",
    ),
    "filter of another type": (of(filter="year = a"), 400, "'year' holds integers in this index"),
    "filter of 2**70": (of(filter=f"year = {2**70}"), 422, "2.63 − 1"),
    "filter 1e308": (of(filter="year = -1e308..1e308"), 200, None),
    # Python's JSON parser keeps the last value.
    "duplicate keys": ('{"query": "a", "query": "b", "k": 0, "k": 1}', 200, None),
    "__proto__": ('{"query": "a", "__proto__": {"k": 1}}', 422, "__proto__"),
    # cursors
    "cursor empty": (of(cursor=""), 400, "`cursor` must be one"),
    "cursor of words": (of(cursor="next"), 400, "`cursor` must be one"),
    "cursor not ASCII": (of(cursor="é"), 400, "`cursor` must be one"),
    "cursor a surrogate": (r'{"query": "a", "cursor": "\ud800"}', (400, 422), "cursor"),
    "cursor of base64": (of(cursor="AAAA"), 400, "`cursor` must be one"),
    "cursor of null": (of(cursor="bnVsbA=="), 400, "`cursor` must be one"),
    "cursor of brackets": (of(cursor="W1tb" * 400), 400, "`cursor` must be one"),
    "cursor of digits": (of(cursor="OTk5" * 499), 400, "`cursor` must be one"),
    "cursor of an object": (of(cursor="eyJhIjogMX0="), 400, "`cursor` must be one"),
    "cursor long": (of(cursor="A" * 2001), 422, "cursor"),
    "cursor a number": (of(cursor=3), 422, "cursor"),
    # size
    "100,000 terms": (MANY, 413, "at most 1048576 bytes"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_of_a_search(ask, name):
    body, status, why = BODIES[name]
    body = body.encode() if isinstance(body, str) else body
    reply = ask("POST", SEARCH, body, JSON)
    error = check(reply)
    assert reply.status in (status if isinstance(status, tuple) else (status,)), reply
    if why:
        assert error and re.search(why, error), error


@pytest.mark.parametrize("name", ["NaN weight", "nested arrays", "bad UTF-8", "array", "null"])
@pytest.mark.parametrize("path", ["search/batch", "explain", "expand", "documents/d1"])
def test_bodies_elsewhere(ask, path, name):
    body, _, _ = BODIES[name]
    body = body.encode() if isinstance(body, str) else body
    reply = ask("PUT" if "/d1" in path else "POST", f"/indexes/wings/{path}", body, JSON)
    assert check(reply) and reply.status in (400, 422)


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({"requests": []}, 422, "requests"),
        ({"requests": [{"query": "a"}] * 65}, 400, "`requests` must be at most 64, got 65"),
        ({"requests": [{"query": "a"}] * 2000}, 422, "requests"),
        ({"requests": {"query": "a"}}, 422, "requests"),
        ({"requests": [{"query": "a"}, {"query": {"b": -1}}]}, 422, "weight of 'b'"),
        ({"requests": [{"query": "a"}, {"query": "b", "k": 0}]}, 422, "requests.1.*`?k"),
        ({"requests": [3]}, 422, "requests.0"),
        ({"request": []}, 422, "request"),
    ],
)
def test_batches(ask, body, status, why):
    reply = ask("POST", f"{SEARCH}/batch", json.dumps(body), JSON)
    error = check(reply)
    assert reply.status == status and re.search(why, error), reply


@pytest.mark.parametrize(
    ("method", "path", "status", "why"),
    [
        ("GET", "/indexes/none", 404, "no index 'none'"),
        ("POST", "/indexes/none/search", 404, "no index 'none'"),
        ("GET", "/indexes/%2e%2e", 404, r"no index '\.\.'"),
        ("GET", "/indexes/..", 404, "no"),
        ("GET", "/indexes/%00", 400, "control characters"),
        ("GET", "/indexes/" + "a" * 5000, (404, 422), "name|no index"),
        ("GET", "/indexes/%ff%fe", 404, "no index"),
        ("GET", "/indexes/%F0%9F%92%A9", 404, "no index"),
        ("GET", "/indexes/wings%2f", (404, 405), None),
        ("GET", "/indexes/wings/", (404, 405), None),
        ("GET", "/indexes//search", (404, 405), None),
        ("GET", "//", 404, None),
        ("GET", "//etc/passwd", 404, None),
        ("GET", "/page/../../../etc/passwd", 404, None),
        ("GET", "/page/%2e%2e/%2e%2e/settings.py", 404, None),
        ("GET", "/page/..%2fsettings.py", 404, None),
        ("GET", "/page/%2fetc%2fpasswd", 404, None),
        ("GET", "/page/page.js%00.html", 400, "control characters"),
        ("GET", "/page/..%5csettings.py", 404, None),
        ("GET", "/page/" + "../" * 500 + "etc/passwd", 404, None),
        ("GET", "/indexes/wings/documents/none", 404, "none"),
        ("GET", "/indexes/wings/documents/", (404, 405), None),
        ("GET", "/indexes/wings/documents/a/b%2Fc//d", 404, None),
        ("GET", "/indexes/wings/documents/%00", 400, "control characters"),
        ("GET", "/indexes/wings/documents/%ED%A0%80", 404, None),
        ("GET", "/indexes/wings/documents/" + "%E2%82%AC" * 700, 404, None),
        ("GET", "/indexes/wings/documents/" + "a" * 1001, 422, "id"),
        ("GET", "/indexes/wings/documents/..%2f..%2fmanifest.json", 404, None),
        ("DELETE", "/indexes/wings/documents/none", 404, "none"),
        ("DELETE", "/indexes/wings/documents/" + "a" * 1001, 422, "id"),
        ("DELETE", "/indexes/wings", 405, None),
        ("PUT", "/indexes/wings/search", 405, None),
        ("GET", SEARCH, 405, None),
        ("BREW", "/", 400, "valid HTTP"),
        ("PATCH", "/indexes/wings/documents/d1", 422, "body"),
        ("PATCH", "/indexes/wings", 405, None),
        ("GET", "/" + "a" * 17_000, 414, "16384"),
        ("GET", "/indexes?" + "a=b&" * 5000, 414, "16384"),
        ("GET", "/healthz?%00=%ff", 200, None),
        ("GET", "/none?<script>alert(1)</script>", 404, None),
        ("GET", "/<script>alert(1)</script>", 404, None),
    ],
)
def test_paths(ask, method, path, status, why):
    reply = ask(method, path, of() if method in ("POST", "PUT") else None, JSON)
    error = check(reply)
    assert reply.status in (status if isinstance(status, tuple) else (status,)), reply
    if why:
        assert re.search(why, error), error
    if error:
        assert not path[:7] == "/page/." or "root:" not in error


@pytest.mark.parametrize(
    ("headers", "statuses", "why"),
    [
        ({}, (400, 415, 422), "Content-Type|JSON|body"),
        ({"Content-Type": "text/plain"}, (400, 415, 422), "Content-Type|JSON|body"),
        ({"Content-Type": "application/xml"}, (400, 415, 422), "Content-Type|JSON|body"),
        ({"Content-Type": "multipart/form-data"}, (400, 415, 422), "Content-Type|JSON|body"),
        ({"Content-Type": "\xff"}, (400, 415, 422), "Content-Type|JSON|body"),
        ({"Content-Type": "application/json; charset=utf-16"}, (200, 400, 415), None),
        ({**JSON, "Content-Encoding": "gzip"}, (415,), "'gzip'"),
        ({**JSON, "Content-Encoding": "x" * 1000}, (415,), "`Content-Encoding`"),
        ({**JSON, "X-Request-ID": "a\tb"}, (200,), None),
        ({**JSON, "Accept": "text/csv"}, (200,), None),
        ({**JSON, "Authorization": "Bearer \xff"}, (200,), None),
        ({**JSON, "Host": "evil.example"}, (403,), "`Host`"),
        ({**JSON, "Origin": "https://evil.example"}, (403,), "`Origin`"),
        ({**JSON, "X-Forwarded-For": "'; DROP TABLE"}, (200,), None),
        ({**JSON, "X-HTTP-Method-Override": "DELETE"}, (200,), None),
        ({**JSON, "Range": "bytes=0-1"}, (200,), None),
        ({**JSON, **{f"X-{n}": "a" for n in range(200)}}, (431,), "100 headers"),
        ({**JSON, "Cookie": "a=b; " * 20_000}, (431,), "65536 bytes"),
    ],
)
def test_headers(ask, headers, statuses, why):
    reply = ask("POST", SEARCH, of(), headers)
    error = check(reply)
    assert reply.status in statuses, reply
    if why:
        assert re.search(why, error), error


STREAMS = {
    "empty": (b"", 400, "no documents"),
    "empty lines": (b"\n\n\r\n  \n", 400, "no documents"),
    "not JSON": (b'{"id": "m1", "text": "a"}\nwhat\n', 400, "line 2"),
    "an array": (b'{"id": "m1", "text": "a"}\n[]\n', 400, "line 2"),
    "a number": (b"3\n", 400, "line 1"),
    "no id": (b'{"text": "a"}\n', 400, "line 1.*id"),
    "id a number": (b'{"id": 3, "text": "a"}\n', (200, 400), None),
    "id empty": (b'{"id": "", "text": "a"}\n', 400, "line 1.*id"),
    "id null": (b'{"id": null, "text": "a"}\n', 400, "line 1.*id"),
    "id long": (b'{"id": "' + b"a" * 100_000 + b'", "text": "a"}\n', 400, "line 1"),
    "id a surrogate": (b'{"id": "\\ud800", "text": "a"}\n', 400, "line 1"),
    "text a surrogate": (b'{"id": "m1", "text": "\\ud800"}\n', (200, 400), None),
    "id with a NUL": (b'{"id": "a\\u0000b", "text": "a"}\n', (200, 400), None),
    "text a number": (b'{"id": "m1", "text": 3}\n', 400, "line 1.*text"),
    "title a list": (b'{"id": "m1", "title": [], "text": "a"}\n', 400, "line 1.*title"),
    "metadata nested": (
        b'{"id": "m1", "text": "a", "metadata": {"a": {"b": 1}}}\n',
        200,
        None,
    ),
    "metadata a text": (b'{"id": "m1", "text": "a", "metadata": "b"}\n', 400, "line 1: metadata"),
    "metadata null": (b'{"id": "m1", "text": "a", "metadata": null}\n', 200, None),
    "metadata of null": (b'{"id": "m1", "text": "a", "metadata": {"a": null}}\n', 200, None),
    "metadata with objects in a list": (
        b'{"id": "m1", "text": "a", "by": [{"name": "b"}]}\n',
        400,
        "line 1: an item of by must be a string.*got an object",
    ),
    "metadata with a key twice": (
        b'{"id": "m1", "text": "a", "a.b": 1, "metadata": {"a": {"b": 2}}}\n',
        400,
        "line 1: a.b is given twice",
    ),
    "metadata with a vector": (
        b'{"id": "m1", "text": "a", "vector": [' + b"0.5, " * 383 + b"0.5]}\n",
        400,
        "line 1: vector: a list of 384 numbers is not metadata",
    ),
    "metadata NaN": (b'{"id": "m1", "text": "a", "year": NaN}\n', 400, "line 1: year must be fin"),
    "metadata 1e999": (
        b'{"id": "m1", "text": "a", "metadata": {"year": 1e999}}\n',
        400,
        "line 1: year must be finite",
    ),
    "metadata 2**70": (
        b'{"id": "m1", "text": "a", "metadata": {"year": 1180591620717411303424}}\n',
        400,
        "line 1: year must be an integer in",
    ),
    "5000 digits": (b'{"id": "m1", "text": "a", "year": ' + b"9" * 5000 + b"}\n", 400, "line 1"),
    "another type of a field": (
        b'{"id": "m1", "text": "a", "metadata": {"year": "old"}}\n',
        (200, 400),
        None,
    ),
    "bad UTF-8": (b'{"id": "m1", "text": "\xff"}\n', 400, "line 1"),
    "nested": (b'{"id": "m1", "text": ' + b"[" * 100_000 + b"\n", 400, "line 1"),
    "NULs": (b"\0" * 1000 + b"\n", 400, "line 1"),
    "long line": (b'{"id": "m1", "text": "' + b"a" * 2**20 + b'"}\n', 400, "line 1.*1048576"),
    "long line without end": (b"a" * 10_000_000, 400, "line 1.*1048576"),
    "long second line": (b'{"id": "m1", "text": "a"}\n' + b"a" * 2_000_000, 400, "line 2.*1048576"),
    "no newline at the end": (b'{"id": "m1", "text": "a"}\n{"id": "m2", "text": "b"}', 200, None),
    "carriage returns": (b'{"id": "m1", "text": "a"}\r\n', 200, None),
    "byte order mark": (b'\xef\xbb\xbf{"id": "m1", "text": "a"}\n', (200, 400), None),
    "the same id twice": (b'{"id": "m1", "text": "a"}\n{"id": "m1", "text": "b"}\n', 200, None),
}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_streams_of_documents(ask, name, chunked):
    body, status, why = STREAMS[name]
    pieces = (body[at : at + 50_000] for at in range(0, len(body), 50_000))
    reply = ask("POST", "/indexes/wings/documents", pieces if chunked else body, LINES, chunked)
    error = check(reply)
    assert reply.status in (status if isinstance(status, tuple) else (status,)), reply
    if why:
        assert re.search(why, error), error


@pytest.mark.parametrize(
    ("path", "body", "status", "why"),
    [
        ("d1", {"text": 3}, 422, "text"),
        ("d1", {"txt": "a"}, 422, "txt"),
        ("d1", {"title": None}, 422, "title"),
        ("d1", {"metadata": []}, 422, "metadata"),
        ("d1", {"metadata": {"a": {"b": 1}}}, 200, None),
        ("d1", {"metadata": {"a": {"b": 1}, "a.b": 1}}, 400, "a.b is given twice"),
        ("d1", {"metadata": {"a": None}}, 200, None),
        ("d1", {"metadata": None}, 200, None),
        ("d1", {"metadata": {"a": [1, 2]}}, 200, None),
        ("d1", {"metadata": {"a": [1, [2]]}}, 400, "an item of a must be a string.*got list"),
        ("d1", {"metadata": {"a": [{"b": 1}]}}, 400, "an item of a must be .*got an object"),
        ("d1", {"metadata": {"v": [0.5] * 101}}, 400, "v: a list of 101 numbers is not metadata"),
        ("d1", {"metadata": {"year": 2**70}}, 400, "year must be an integer in"),
        ("d1", {"metadata": {"year": 2**63 - 1}}, 200, None),
        ("d1", {"metadata": {"": "a"}}, (200, 400, 422), None),
        ("d1", {"metadata": {f"f{n}": "a" for n in range(5000)}}, (200, 400, 422), None),
        ("a" * 1001, {"text": "a"}, 422, "id"),
        ("%E2%82%AC" * 700, {"text": "a"}, (200, 400, 422), None),
        ("%00", {"text": "a"}, (200, 400, 422), None),
        ("%0a", {"text": "a"}, (200, 400, 422), None),
        ("a/../b", {"text": "a"}, (200, 400, 422), None),
    ],
)
def test_documents(ask, path, body, status, why):
    reply = ask("PUT", f"/indexes/wings/documents/{path}", json.dumps(body), JSON)
    error = check(reply)
    assert reply.status in (status if isinstance(status, tuple) else (status,)), reply
    if why:
        assert re.search(why, error), error


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({"metadata": {"a": None, "b": {"c": [1, None]}}}, 200, None),
        ({"metadata": {}}, 400, "a change of document 'd1' must name a key of metadata"),
        ({"metadata": {"a": {}}}, 400, "must name a key"),
        ({}, 422, "metadata"),
        ({"metadata": None}, 422, "metadata"),
        ({"metadata": {"a": 1}, "text": "a"}, 422, "text"),
        ({"metadata": {"a": {"b": 1}, "a.b": None}}, 400, "a.b is given twice"),
        ({"metadata": {"a": [[1]]}}, 400, "an item of a must be a string"),
        ({"metadata": {"year": 2**70}}, 400, "year must be an integer in"),
    ],
)
def test_changes(ask, body, status, why):
    reply = ask("PATCH", "/indexes/wings/documents/d1", json.dumps(body), JSON)
    error = check(reply)
    assert reply.status == status, reply
    assert not why or re.search(why, error), error


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_bodies_of_10_megabytes(ask, method, chunked):
    path = SEARCH if method == "POST" else "/indexes/wings/documents/d1"
    body = b'{"query": "' + b"a" * 10_000_000 + b'"}'
    pieces = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    reply = ask(method, path, pieces if chunked else body, JSON, chunked)
    assert reply.status == 413 and "at most 1048576 bytes" in check(reply)


def memory():
    """The resident memory of this process, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux' /proc")
def test_memory_is_bounded(ask):
    """40 bodies of 10 MB and 40 endless lines at a time are refused, and not held in memory."""

    def send(number):
        if number % 2:
            ask("POST", SEARCH, (b"a" * 100_000 for _ in range(100)), JSON, True)
        else:
            pieces = (b"a" * 100_000 for _ in range(100))
            ask("POST", "/indexes/wings/documents", pieces, LINES, True)

    def round_of():
        threads = [threading.Thread(target=send, args=(n,)) for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    round_of()
    before = memory()
    round_of()
    assert memory() - before < 100 * 2**20


def test_a_search_still_works(ask):
    reply = ask("POST", SEARCH, of("heat flow"), JSON)
    assert check(reply) is None and len(json.loads(reply.body)["hits"]) == 10


def examples(count):
    """Hypothesis' settings for this many examples, which are the same in every run."""
    return hypothesis_settings(
        max_examples=max(1, round(count)),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """Make the body of a stream from a value, by `str`."""
    return str(value).encode("utf-8", "surrogatepass")


OPERATIONS = {
    found.ok().label: found.ok()
    for found in schemathesis.openapi.from_dict(
        create_app([], Settings()).openapi()
    ).get_all_operations()
}
# Operations whose bodies can be wrong, not only their paths.
WITH_MODEL = [one for one in OPERATIONS if re.match("PUT|POST .*/(search|explain|expand)", one)]
CHECKS = [content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize("label", OPERATIONS)
def test_generated(service, label, mode, count):
    """No server errors; documented statuses; bodies that match the schema; errors in our format."""
    operation = OPERATIONS[label]
    documented = operation.definition.raw["responses"]
    host, port = service[0]
    statuses = set()

    def run(n, **fixed):
        cases = operation.as_strategy(generation_mode=GenerationMode(mode), **fixed)

        @seed(0)
        @examples(n)
        @given(case=cases)
        def send(case):
            answer = case.call(base_url=f"http://{host}:{port}")
            case.validate_response(answer, checks=CHECKS)
            statuses.add(answer.status_code)
            assert answer.status_code == 414 or str(answer.status_code) in documented
            headers = {name.lower(): values[0] for name, values in answer.headers.items()}
            reply = Reply(answer.status_code, headers, answer.content)
            check(reply, hurried=b"timeout_ms" in (answer.request.body or b""))

        send()

    share = count / 24
    if "{name}" not in label:
        if mode == "positive":  # such requests cannot be wrong
            run(share / 10)
            assert statuses == {200}
        return
    run(share / 4)  # with any name of an index
    if mode == "positive" or label in WITH_MODEL:
        run(share, path_parameters={"name": "wings"})
    assert mode == "negative" or count < 1000 or {200, 404} & statuses


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(["id", "_id", "title", "text", "contents", "metadata", "year", "kind", "x"])
RECORDS = st.dictionaries(NAMES, st.text(max_size=8) | VALUES, max_size=6)
LIKELY = st.fixed_dictionaries({"id": st.text("abc/%é\0", min_size=1), "text": st.text()})


@pytest.mark.parametrize("count", COUNTS)
def test_generated_streams(service, count):
    """Lines with fields of any type are accepted, or refused with their line numbers."""

    @seed(0)
    @examples(count / 10)
    @given(records=st.lists(LIKELY | RECORDS, max_size=4), cut=st.booleans())
    def send(records, cut):
        body = "\n".join(json.dumps(record) for record in records)[: -1 if cut else None]
        connection = http.client.HTTPConnection(*service[0], timeout=60)
        connection.request("POST", "/indexes/wings/documents", body, LINES)
        answer = connection.getresponse()
        reply = Reply(answer.status, dict(answer.headers), answer.read())
        connection.close()
        error = check(reply)
        assert reply.status in (200, 400)
        assert error is None or re.search(r"line \d|no documents", error), error

    send()
