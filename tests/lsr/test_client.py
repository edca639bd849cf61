"""lsr/client.py against the real service, both classes; retries against a scripted one."""

import asyncio
import json
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest

from lsr.building.build import build_index
from lsr.client import AsyncClient, Client, ServiceError
from lsr.corpus.corpus import open_corpus
from lsr.documents import Document
from lsr.facet import Facet
from lsr.filter import Exists
from lsr.request import ask
from lsr.search import Searcher

READ, ADMIN = "a key that may read", "a key that may write"
DOCUMENTS = [
    Document(f"d{n}", f"Title {n}", f"heat flow {'wing ' * (n % 7)}plate{n}", {"part": n % 3})
    for n in range(60)
]


class Waiting:
    """A synchronous wrapper of AsyncClient, so that one test serves both classes."""

    def __init__(self, *arguments, **options):
        self._client = AsyncClient(*arguments, **options)

    def __enter__(self):
        self._runner = asyncio.Runner()
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *error):
        self._runner.run(self._client.__aexit__(*error))
        self._runner.close()

    def __getattr__(self, name):
        return lambda *a, **settings: self._runner.run(getattr(self._client, name)(*a, **settings))

    def pages(self, *arguments, **settings):
        async def collect():
            return [answer async for answer in self._client.pages(*arguments, **settings)]

        return iter(self._runner.run(collect()))


both = pytest.mark.parametrize("kind", [Client, Waiting], ids=["sync", "async"])


def write(path, documents):
    with path.open("w") as file:
        for document in documents:
            record = {"_id": document.id, "title": document.title, "text": document.text}
            file.write(json.dumps(record | document.metadata) + "\n")
    return open_corpus(path)


@pytest.fixture(scope="module")
def served(serving):
    """A context manager that starts a service and returns its URL."""
    from lsr.service.app import create_app
    from lsr.service.protocol import protocol

    @contextmanager
    def serve(directories, settings):
        app = create_app(directories, settings)
        with serving(app, http=protocol(settings)) as (host, port):
            yield f"http://{host}:{port}"

    return serve


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    corpus = write(folder / "corpus.jsonl", DOCUMENTS)
    for name in ("one", "writable"):
        build_index(corpus, folder / name, "lexical")
    return folder


@pytest.fixture(scope="module")
def url(folder, served):
    from lsr.service.settings import Settings

    settings = Settings(read_key=READ, admin_key=ADMIN)
    with served([folder / "one", folder / "writable"], settings) as url:
        yield url


@pytest.fixture(params=[Client, Waiting], ids=["sync", "async"])
def client(url, request):
    """A client with the read key, for an index that does not change."""
    with request.param(url, "one", key=READ) as opened:
        yield opened


@pytest.fixture(params=[Client, Waiting], ids=["sync", "async"])
def writer(url, request):
    with request.param(url, "writable", key=ADMIN) as opened:
        yield opened


@pytest.fixture(scope="module")
def searcher(folder):
    with Searcher(folder / "one") as opened:
        yield opened


def ranking(answer):
    return [(hit.id, hit.score) for hit in answer.hits]


def test_searches_are_the_engines(client, searcher):
    asked = [
        ask("heat wing", k=7),
        ask({"heat": 2.0, "wing": 0.5}, filter="part = 1"),
        ask("heat wing", feedback={"documents": 2}, min_score=0.1),
        ask("heated wings", mode="words", words={"k1": 1.2, "title": 0.5}),
    ]
    asked.append(ask("+heat wing -wings7", filter={"contains": "he", "match": "prefix"}))
    asked.append(ask("heat -wing", operators=False))
    expected = [[(h.document.id, h.score) for h in searcher.search(request)] for request in asked]
    assert all(expected)
    assert [ranking(client.search(request)) for request in asked] == expected
    answers = client.search_batch(asked)
    assert [ranking(answer) for answer in answers] == expected
    assert answers[0].state.index == "one"
    assert [answer.mode for answer in answers] == [
        *("sparse", "learned", "sparse", "words", "sparse", "sparse")
    ]
    answer = client.search("heat wing", k=3, filter="part = 0..1")
    assert ranking(answer) == [
        (h.document.id, h.score) for h in searcher.search("heat wing", 3, filter="part = 0..1")
    ]


def test_totals_and_facets(client, searcher):
    answer = client.search("heat wing", k=2, filter="part < 2", facets=["part", "part: 1..2"])
    counts = searcher.counts("heat", filter="part < 2", facets=["part", "part: 1..2"])
    assert answer.model_dump(include={"total", "facets"}) == counts.to_json()
    assert (answer.total, answer.facets[0].values[0].documents) == (40, 20)
    again = client.search("heat wing", k=2, facets=[Facet("part", 1)])
    assert (again.total, again.facets[0].others) == (60, 2)


def test_what_answers_show(client):
    plain = client.search("heat wing", k=2).hits[0]
    assert plain.text and plain.snippet is None and plain.why is None
    shown = client.search("heat wing", k=2, explain=True, snippets=True, text=False).hits[0]
    assert shown.text is None and (shown.id, shown.score) == (plain.id, plain.score)
    assert sum(term.contribution for term in shown.why.terms) == shown.score
    assert any(mark.literal for mark in shown.snippet.marks)
    explained = client.explain("heat wing", plain.id)
    assert explained.why == shown.why and explained.document.text == plain.text
    assert explained.marked.text == plain.text


def test_an_expansion_can_be_searched_for(client):
    terms = client.expand("heat wing").terms
    weights = {term.term: term.weight for term in terms}
    assert ranking(client.search(weights)) == ranking(client.search("heat wing", mode="learned"))


def test_pages_follow_each_other(client):
    everything = ranking(client.search("heat wing", k=100))
    assert len(everything) == len(DOCUMENTS)
    pages = list(
        client.pages(
            "heat wing", k=13, filter={"key": "part", "op": "=", "value": {"from": 0, "to": 2}}
        )
    )
    assert [len(page.hits) for page in pages] == [13, 13, 13, 13, 8]
    assert [hit for page in pages for hit in ranking(page)] == everything


@pytest.mark.parametrize("doc_id", ["a/b//c", ".", "..", "ü#?&=+;", "a%2Fb", "日本/../語", "-"])
def test_any_id_is_put_read_and_deleted(writer, doc_id):
    document = Document(doc_id, "A title", "quux text", {"year": 1999, "tags": ["a", "b"]})
    put = writer.put(document)
    assert put.documents == 1
    stored = writer.document(doc_id)
    assert Document(**stored.model_dump()) == document
    answer = writer.search("quux")
    assert [hit.id for hit in answer.hits] == [doc_id]
    assert (answer.state.generation, answer.state.commit) >= (put.generation, put.commit)
    assert writer.delete(doc_id).commit > put.commit
    with pytest.raises(ServiceError) as error:
        writer.document(doc_id)
    assert error.value.status == 404 and doc_id in error.value.message


def test_metadata_are_changed(writer):
    writer.put(Document("m/1", text="quux", metadata={"year": 1999, "tags": ["a"], "of": "x"}))
    changed = writer.patch("m/1", {"year": 2000, "tags": None, "by": {"name": "y"}})
    assert changed.documents == 1
    kept = {"year": 2000, "of": "x", "by.name": "y"}
    assert writer.document("m/1").metadata == kept
    assert [hit.metadata for hit in writer.search("quux", filter="year = 2000").hits] == [kept]
    writer.delete("m/1")
    with pytest.raises(ServiceError, match="no document 'm/1' in this index") as error:
        writer.patch("m/1", {"year": 2001})
    assert error.value.status == 404


def test_documents_are_added_from_any_iterable(writer):
    documents = [
        Document("n1", text="nozzle one"),
        {"_id": "n2", "text": "nozzle two", "metadata": {"part": 9}},
        writer.document("d1"),
    ]
    assert writer.add(document for document in documents).documents == 3
    assert writer.document("n2").metadata == {"part": 9}
    assert writer.document("d1") == documents[2]
    assert writer.put({"id": "n1", "text": "nozzle again"}).documents == 1
    assert writer.document("n1").text == "nozzle again"
    with pytest.raises(ServiceError, match="line 2: ") as error:
        writer.add([{"id": "n3", "text": "nozzle"}, {"text": "no id"}])
    assert error.value.status == 400
    for doc_id in ("n1", "n2"):
        writer.delete(doc_id)


def test_documents_are_deleted_by_filter(writer):
    writer.add({"id": f"f{n}", "text": "quux", "metadata": {"nozzle": n}} for n in range(5))
    assert writer.delete_matching("nozzle in (0, 3)").documents == 2
    with pytest.raises(ServiceError, match="`no = 1`: no document of this index has") as error:
        writer.delete_matching("no = 1")
    assert error.value.status == 400
    with pytest.raises(ValueError, match="character 9: expected a value"):
        writer.delete_matching("nozzle = ")
    assert {hit.id for hit in writer.search("quux").hits} == {"f1", "f2", "f4"}
    assert writer.delete_matching(Exists("nozzle")).documents == 3
    # Their segment is gone, and the key with it.
    with pytest.raises(ServiceError, match="value under the key 'nozzle'"):
        writer.delete_matching({"exists": "nozzle"})


def test_what_the_service_says_of_itself(client, url):
    assert client.ready()
    assert [state.index for state in client.indexes()] == ["one", "writable"]
    state = client.index()
    assert (state.index, state.documents, state.encoder) == ("one", 60, "lexical")
    assert client.index("writable").index == "writable"
    with Client(url, key=ADMIN) as admin:
        assert [state.index for state in admin.reload()] == ["one", "writable"]


def test_refusals_are_told_in_the_services_words(client):
    with pytest.raises(ServiceError, match=r"the read key may not .* \(status 403, request ") as no:
        client.reload()
    assert no.value.status == 403 and no.value.request_id in str(no.value)
    with pytest.raises(ServiceError, match="no index 'two' here, only one, writable"):
        client.search("heat", "two")
    with pytest.raises(ServiceError, match="`k` must be in"):
        client.search("heat", k=100_000)


@both
def test_which_index_must_be_clear(url, kind):
    with kind(url, key=READ) as client:
        assert client.search("heat", "one").state.index == "one"
        with pytest.raises(ValueError, match="`index` must be one of one, writable: name one"):
            client.search("heat")
    with kind(url) as client, pytest.raises(ServiceError, match="a key is needed"):
        client.indexes()


@both
def test_settings_are_checked_before_anything_is_sent(kind):
    with kind("http://127.0.0.1:9", "one") as client:
        with pytest.raises(ValueError, match="`k` must be in"):
            client.search("heat", k=0)
        with pytest.raises(ValueError, match="`size` is not a setting of a request"):
            client.search("heat", size=3)
        with pytest.raises(ValueError, match="`explain` is not a setting of a request"):
            client.expand("heat", explain=True)
        with pytest.raises(ValueError, match="`id` of a document must be a string, got None"):
            client.put({"text": "no id"})
    with pytest.raises(ValueError, match="`url` must begin with http:// or https://"):
        kind("localhost:8080")


STATE = {"index": "one", "generation": 1, "commit": 2}
ANSWER = {
    "state": STATE,
    "mode": "sparse",
    "hits": [],
    "total": 0,
    "facets": [],
    "cursor": None,
    "approximate": [],
    "took_ms": 1.0,
}
INDEX = STATE | {"documents": 1, "terms": 2, "encoder": "e", "dense": None, "language": "en"}
INDEX |= {"sides": ["words", "learned"], "mode": "sparse", "metadata": {}}
ACKNOWLEDGED = STATE | {"documents": 2}
BUSY = httpx.Response(
    429, headers={"Retry-After": "2"}, json={"error": "the queue is full", "request_id": "r1"}
)
BUILT = httpx.Response(
    503, headers={"Retry-After": "1000"}, json={"error": "being built", "request_id": "r2"}
)
GONE_WRONG = httpx.Response(502, text="<html>bad gateway</html>")


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that clients asked for; no time passes."""
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    # Patched only in the client: the service runs in the same process.
    monkeypatch.setattr("lsr.client.time", SimpleNamespace(sleep=waited.append))
    monkeypatch.setattr("lsr.client.asyncio", SimpleNamespace(sleep=sleep))
    return waited


class Scripted(httpx.MockTransport):
    """A service that returns the outcomes in a list one by one, and keeps the requests."""

    def __init__(self, *outcomes):
        self.left, self.sent = list(outcomes), []
        super().__init__(lambda request: self._next(request))

    def _next(self, request):
        self.sent.append((request.method, request.url.raw_path.decode(), request.content))
        outcome = self.left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, httpx.Response):
            return httpx.Response(
                outcome.status_code, headers=outcome.headers, content=outcome.content
            )
        return httpx.Response(200, json=outcome)


@both
def test_refused_requests_are_sent_again_when_the_service_says(kind, pauses):
    service = Scripted(BUSY, BUILT, ANSWER)
    with kind("http://service", "one", transport=service) as client:
        assert client.search("heat").state.commit == 2
    # A Retry-After of an hour is cut to the longest pause.
    assert pauses == [2.0, 30.0] and len(service.sent) == 3
    service = Scripted(BUSY, BUSY)
    with kind("http://service", "one", retries=1, transport=service) as client:
        with pytest.raises(ServiceError, match="the queue is full") as error:
            client.put({"id": "a", "text": "b"})
    assert error.value.status == 429 and len(service.sent) == 2 and not service.left


@both
def test_other_refusals_are_final(kind, pauses):
    service = Scripted(GONE_WRONG)
    with kind("http://service", "one", transport=service) as client:
        with pytest.raises(ServiceError, match="Bad Gateway: <html>bad gateway") as error:
            client.search("heat")
    assert (error.value.status, error.value.request_id) == (502, "unknown")
    stopping = httpx.Response(503, json={"status": "stopping"})
    with kind("http://service", transport=Scripted(stopping)) as client:
        assert client.ready() is False
    assert pauses == []


@both
def test_broken_connections_are_tried_again_but_for_writes(kind, pauses):
    broken = httpx.ReadError("reset by peer"), httpx.RemoteProtocolError("disconnected")
    with kind("http://service", "one", transport=Scripted(*broken, ANSWER)) as client:
        assert client.search("heat").hits == []
    assert pauses == [0.1, 0.2]
    for call in (
        lambda client: client.put({"id": "a", "text": "b"}),
        lambda client: client.delete("a"),
        lambda client: client.delete_matching("a = 1"),
        lambda client: client.add([]),
    ):
        service = Scripted(*broken)
        with kind("http://service", "one", transport=service) as client:
            with pytest.raises(ConnectionError, match="http://service/.*: reset by peer"):
                call(client)
        assert len(service.sent) == 1
    silent = Scripted(httpx.ReadTimeout(""))
    with kind("http://service", "one", transport=silent) as client:
        with pytest.raises(TimeoutError, match="/indexes/one/search: ReadTimeout"):
            client.search("heat")


@both
def test_a_refused_stream_is_sent_again_where_it_can_be(kind, pauses):
    documents = [{"id": "a", "text": "b"}, Document("c", text="d")]
    service = Scripted(BUILT, ACKNOWLEDGED)
    with kind("http://service", "one", transport=service) as client:
        assert client.add(documents).documents == 2
    assert service.sent[0] == service.sent[1]
    assert [json.loads(line)["id"] for line in service.sent[0][2].splitlines()] == ["a", "c"]
    service = Scripted(BUILT, ACKNOWLEDGED)
    with kind("http://service", "one", transport=service) as client:
        with pytest.raises(ServiceError, match="being built"):
            client.add(iter(documents))
    assert len(service.sent) == 1
    with kind("http://service", "one", transport=Scripted(ACKNOWLEDGED)) as client:
        with pytest.raises(ValueError, match="not JSON compliant"):
            client.add([{"id": "a", "text": "a", "metadata": {"year": float("nan")}}])


def test_documents_are_taken_as_they_are_sent():
    taken, seen = [], []

    def documents():
        for n in range(4):
            taken.append(n)
            yield {"id": f"d{n}", "text": ""}

    class Counting(httpx.BaseTransport):
        def handle_request(self, request):
            for _ in request.stream:
                seen.append(len(taken))
            return httpx.Response(200, json=ACKNOWLEDGED)

    with Client("http://service", "one", transport=Counting()) as client:
        client.add(documents())
    assert seen == [1, 2, 3, 4]


def test_asynchronous_iterables_are_added():
    async def documents():
        yield {"id": "a", "text": "b"}
        yield Document("c", text="d")

    async def run():
        service = Scripted(ACKNOWLEDGED)
        async with AsyncClient("http://service", "one", transport=service) as client:
            await client.add(documents())
        return service.sent[0]

    method, path, content = asyncio.run(run())
    assert (method, path) == ("POST", "/indexes/one/documents")
    assert [json.loads(line)["id"] for line in content.splitlines()] == ["a", "c"]


def test_the_only_index_is_found_once():
    service = Scripted({"indexes": [INDEX]}, ANSWER, ANSWER)
    with Client("http://service", transport=service) as client:
        client.search("heat")
        client.search("heat")
    assert [path for _, path, _ in service.sent] == ["/indexes", *["/indexes/one/search"] * 2]


def test_shows_are_the_services_and_the_import_is_light():
    from lsr.client import SHOWS
    from lsr.request import Request
    from lsr.service.bodies import SearchBody

    assert set(SHOWS) == SearchBody.model_fields.keys() - Request.model_fields.keys()
    heavy = "{'torch', 'transformers', 'numpy', 'scipy', 'fastapi', 'lsr.search'}"
    code = f"import sys, lsr.client; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
