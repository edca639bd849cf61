"""service/app.py on a real index: the answers are the engine's, errors name their cause."""

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lsr.answers import Answer, Answers, Expansion, ExplainedDocument, StoredDocument
from lsr.building.build import build_index
from lsr.building.synonyms import change_synonyms
from lsr.corpus.corpus import open_corpus
from lsr.encoders.dense import DenseEncoder
from lsr.encoders.lexical import LexicalEncoder
from lsr.request import ask
from lsr.search import Searcher
from lsr.service.app import create_app
from lsr.service.bodies import check_limits
from lsr.service.log import log_to
from lsr.service.settings import Settings

LOCAL = "http://127.0.0.1:8080"
SEARCHES = [
    {"query": "heat flow"},
    {"query": "heat flows", "mode": "words", "words": {"k1": 1.2, "title": 0.5}},
    {"query": "heat 17", "mode": "sparse", "words": {"title": 0.5}},
    {"query": "heat flow", "mode": "learned"},
    {"query": "heat flow", "mode": "dense", "k": 3},
    {"query": "heat flow", "mode": "hybrid", "interpolation": {"alpha": 0.3}},
    {"query": "wing", "mode": "hybrid", "feedback": {"documents": 2}},
    {"query": '"heat flow" -wing title:title'},
    {"query": "+heat* flwo~ year:1955..1960", "mode": "words"},
    {"query": "wing", "filter": {"contains": "heat flow"}, "operators": False},
    {"query": {"heat": 2.0, "wing": 0.5}, "filter": "kind = k1 and year = 1955..1960"},
    {"query": "heat flow shock nose", "mode": "learned", "max_terms": 2, "min_score": 1.0},
    {
        "query": "heat flow",
        "mode": "hybrid",
        "interpolation": {"method": "rrf", "sides": ["words", "learned", "dense"]},
    },
]


@pytest.fixture(scope="module")
def api(built):
    with TestClient(create_app([built], Settings()), base_url=LOCAL) as client:
        yield client


@pytest.fixture
def writable(index):
    settings = Settings(watch_seconds=0.05)
    with TestClient(create_app([index], settings), base_url=LOCAL) as client:
        yield client


@pytest.fixture(scope="module")
def searcher(built):
    with Searcher(built) as opened:
        yield opened


def search(client, name="wings", **body):
    answer = client.post(f"/indexes/{name}/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "request_id"}
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    return answer.json()["error"]


@pytest.mark.parametrize("body", SEARCHES)
def test_a_search_is_the_engine_s(api, searcher, body):
    found = search(api, **body)
    settings = {key: value for key, value in body.items() if key != "query"}
    hits = searcher.search(body["query"], **settings)
    assert found["hits"] and [(hit["id"], hit["score"]) for hit in found["hits"]] == [
        (hit.document.id, hit.score) for hit in hits
    ]
    first, document = found["hits"][0], hits[0].document
    assert (first["title"], first["text"]) == (document.title, document.text)
    assert first["metadata"] == dict(document.metadata)
    assert first["why"] is None and first["snippet"] is None
    assert found["state"] == {
        "index": "wings",
        "generation": searcher.manifest.generation,
        "commit": searcher.commit,
    }
    by_default = "hybrid" if isinstance(body["query"], str) else "learned"
    assert found["mode"] == body.get("mode", by_default)
    assert found["approximate"] == [] and found["took_ms"] > 0


def test_an_index_tells_its_sides_and_the_mode_of_a_text(api):
    state = api.get("/indexes/wings").json()
    assert state["language"] == "en"
    assert (state["sides"], state["mode"]) == (["words", "learned", "dense"], "hybrid")
    assert state["metadata"] == {"kind": ["string"], "year": ["integer"]}
    assert api.get("/indexes").json() == {"indexes": [state]}
    assert search(api, query="heat")["mode"] == "hybrid"
    assert search(api, query={"heat": 1.0})["mode"] == "learned"


def test_the_log_says_the_mode_that_answered(api, log_kept):
    stream = io.StringIO()
    log_to(stream)
    for body in ({"query": "heat"}, {"query": {"heat": 1.0}}, {"query": "heat", "mode": "words"}):
        search(api, **body)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["mode"] for line in lines] == ["hybrid", "learned", "words"]


@pytest.mark.parametrize("body", SEARCHES)
def test_reasons_sum_to_the_score(api, body):
    fields = {"words": {"words", "title"}, "learned": {"learned"}, "dense": set()}
    fields["sparse"] = fields["words"] | fields["learned"]
    seen, searched = set(), set()
    for hit in search(api, **body, explain=True)["hits"]:
        why = hit["why"]
        shares = sum(part["share"] for part in why["sides"])
        assert why["score"] == hit["score"] == pytest.approx(shares)
        explained = 0
        for part in why["sides"]:
            searched |= fields[part["side"]]
            of_side = [term for term in why["terms"] if term["field"] in fields[part["side"]]]
            if part["side"] != "dense":
                total = sum(term["contribution"] for term in of_side)
                assert total == pytest.approx(part["score"], abs=1e-12)
            explained += len(of_side)
        assert explained == len(why["terms"])
        seen |= {term["field"] for term in why["terms"]}
        body_of_one = {**body, "id": hit["id"]}
        body_of_one.pop("k", None)
        alone = api.post("/indexes/wings/explain", json=body_of_one).json()
        assert alone["why"] == why and alone["document"]["text"] == hit["text"]
        assert alone["marked"]["text"] == hit["text"]
    # Only d17 has a word of a query in its title.
    assert seen == (searched if "17" in body["query"] else searched - {"title"})


def test_snippets_mark_the_words_that_match(api):
    (hit,) = search(api, query="heat plate", k=1, snippets=True, text=False)["hits"]
    assert hit["text"] is None
    snippet = hit["snippet"]
    words = {snippet["text"][mark["start"] : mark["end"]] for mark in snippet["marks"]}
    assert words == {"heat", "plate"}
    assert all(mark["literal"] for mark in snippet["marks"])


@pytest.mark.parametrize(
    ("path", "model", "body"),
    [
        *(("search", Answer, body | {"explain": True, "snippets": True}) for body in SEARCHES),
        ("search", Answer, {"query": "heat", "text": False}),
        ("search/batch", Answers, {"requests": SEARCHES}),
        ("explain", ExplainedDocument, {"query": "heat", "mode": "hybrid", "id": "d1"}),
        ("expand", Expansion, {"query": "heat", "mode": "hybrid", "feedback": {"documents": 2}}),
        ("documents/d1", StoredDocument, None),
    ],
)
def test_answers_are_what_the_models_say(api, path, model, body):
    """Answers are not made from the models, so each must have exactly their fields and types."""
    url = f"/indexes/wings/{path}"
    answer = api.get(url) if body is None else api.post(url, json=body)
    read = model.model_validate_json(answer.content, strict=True)
    assert read.model_dump() == answer.json()


def test_pages_make_up_the_ranking(api, searcher):
    found, cursor = [], None
    while True:
        body = {"query": "heat flow wing", "mode": "hybrid", "k": 17, "cursor": cursor}
        answer = search(api, **body)
        found += [(hit["id"], hit["score"]) for hit in answer["hits"]]
        cursor = answer["cursor"]
        if cursor is None:
            break
    hits = searcher.search("heat flow wing", 1000, mode="hybrid")
    assert found == [(hit.document.id, hit.score) for hit in hits]


def test_pages_of_sorts_and_groups_are_one_large_answer(api):
    body = {"query": "heat flow wing", "mode": "hybrid", "interpolation": {"depth": 50}}
    for settings in ({"sort": ["-year"]}, {"group": {"key": "year", "hits": 2}, "sort": "kind"}):
        whole = search(api, k=200, **body, **settings)
        assert whole["cursor"] is None and len(whole["hits"]) > 30
        (notice,) = whole["approximate"]
        assert notice.startswith("hits are taken from the first 50 documents of each side, and end")
        found, cursor = [], None
        while True:
            answer = search(api, k=7, cursor=cursor, **body, **settings)
            found += answer["hits"]
            if (cursor := answer["cursor"]) is None:
                break
        assert found == whole["hits"]
    assert all(hit["group"] == hit["metadata"]["year"] for hit in found)


def test_cursors_are_held_to_their_request(api, writable, index, corpus_of, tmp_path):
    cursor = search(api, query="heat flow", k=3)["cursor"]
    url = "/indexes/wings/search"
    other = {"query": "flow", "cursor": cursor}
    assert "another request" in error_of(api.post(url, json=other), 400)
    for bad in ("abc", "", cursor[:-7], "W10=", "bnVsbA==", "ä"):
        answer = api.post(url, json={"query": "heat flow", "cursor": bad})
        assert "`cursor` must be one that an answer gave" in error_of(answer, 400)
    cursor = search(writable, query="heat flow", k=3)["cursor"]
    build_index(open_corpus(corpus_of(tmp_path / "c.jsonl", 50)), index, "lexical")
    writable.post("/admin/reload")
    answer = writable.post(url, json={"query": "heat flow", "cursor": cursor})
    assert "of generation 1, the index is at 2" in error_of(answer, 410)


def test_paging_ends_where_the_operator_says(built):
    settings = Settings(max_k=10, max_depth=25)
    with TestClient(create_app([built], settings), base_url=LOCAL) as client:
        url = "/indexes/wings/search"
        answer = client.post(url, json={"query": "heat", "k": 11})
        assert error_of(answer, 400) == "`k` must be in [1, 10], got 11"
        first = search(client, query="heat flow wing", k=10)
        second = search(client, query="heat flow wing", k=10, cursor=first["cursor"])
        body = {"query": "heat flow wing", "k": 10, "cursor": second["cursor"]}
        assert "paging reaches 25 hits" in error_of(client.post(url, json=body), 400)
        last = search(client, **{**body, "k": 5})
        assert len(last["hits"]) == 5 and last["cursor"] is None


def test_a_batch_is_its_searches(api):
    answers = api.post("/indexes/wings/search/batch", json={"requests": SEARCHES}).json()
    for body, answer in zip(SEARCHES, answers["answers"], strict=True):
        alone = search(api, **body)
        assert (answer["hits"], answer["cursor"]) == (alone["hits"], alone["cursor"])
    url = "/indexes/wings/search/batch"
    many = {"requests": [{"query": "heat"}] * 65}
    assert error_of(api.post(url, json=many), 400) == "`requests` must be at most 64, got 65"
    bad = {"requests": [{"query": "heat"}, {"query": {"zzzz": 1}}]}
    told = "request 2 of 2: query term 'zzzz' is not in the index's vocabulary"
    assert error_of(api.post(url, json=bad), 400) == told


def test_expand(api, searcher):
    body = {"query": "heat flow", "feedback": {"documents": 5}}
    terms = api.post("/indexes/wings/expand", json=body).json()["terms"]
    expected = searcher.expand("heat flow", feedback={"documents": 5})
    assert terms == [term._asdict() for term in expected]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 422, "`query`"),
        ({"query": "x", "k": 0}, 422, "`k` must be in [1, 1000000], got 0"),
        ({"query": "x", "nope": 1}, 422, "`nope` is not a setting"),
        ({"query": {"heat": -1}}, 422, "the weight of 'heat' must be in [1e-100, 1e+100], got -1"),
        ({"query": {"zzzz": 1}}, 400, "'zzzz' is not in the index's vocabulary"),
        ({"query": "x" * 10_001}, 400, "`query` must have at most 10000 characters"),
        ({"query": {f"t{i}": 1 for i in range(1025)}}, 400, "at most 1024 terms, got 1025"),
        ({"query": "x", "filter": " or ".join(["a = 1"] * 101)}, 400, "at most 100 conditions"),
        ({"query": "x", "filters": {"kind": "k1"}}, 422, "`filters` has become `filter`, an expr"),
        ({"query": "\ud800"}, 422, "lone surrogate"),
        (
            {"query": "x", "words": 3},
            422,
            "is a group of settings, such as words.weight=0.75; got 3",
        ),
        ([], 422, "`body`: Input should be a valid dictionary"),
        ({"query": "x", "mode": "dense", "interpolation": {}}, 422, "is for mode 'hybrid'"),
    ],
)
def test_bad_requests_are_told_why(api, body, status, told):
    raw = json.dumps(body).encode()
    url = "/indexes/wings/search"
    answer = api.post(url, content=raw, headers={"Content-Type": "application/json"})
    assert told in error_of(answer, status)


def test_what_is_not_there(api):
    body = {"query": "heat", "id": "nope"}
    assert error_of(api.post("/indexes/wings/explain", json=body), 404) == (
        "no document 'nope' in this index"
    )
    answer = api.get("/indexes/wings/documents/nope")
    assert error_of(answer, 404) == "no document 'nope' in this index"
    answer = api.post("/indexes/none/search", json={"query": "heat"})
    assert error_of(answer, 404) == "no index 'none' here, only wings"
    assert error_of(api.get("/elsewhere"), 404) == "no /elsewhere here"
    assert error_of(api.put("/indexes"), 405) == "PUT is not for /indexes"


def test_metadata_come_back_and_can_be_filtered_by_at_once(writable):
    url = "/indexes/wings/documents"
    given = {"by": {"name": "é", "n": 2**53 + 1}, "sizes": [1, 2.5, None], "no": None, "ok": [True]}
    kept = {"by.name": "é", "by.n": 2**53 + 1, "sizes": [1, 2.5], "ok": [True]}
    n = {"key": "by.n", "op": "=", "value": 2**53 + 1}
    filters = [n, f"by.n = {2**53 + 1}..{2**60}", {"and": [n, "x"][:1]}, "sizes = 2.5", "ok = true"]
    body = {"query": "heat", "filter": "by.n = 1"}
    refused = error_of(writable.post("/indexes/wings/search", json=body), 400)
    assert refused.startswith("filter `by.n = 1`: no document of this index has a value under the")
    record = json.dumps({"id": "m2", "text": "heat", "metadata": given})
    writable.put(f"{url}/m1", json={"text": "heat heat", "metadata": given})
    writable.post(url, content=record, headers={"Content-Type": "application/x-ndjson"})
    for doc_id in ("m1", "m2"):
        assert json.loads(writable.get(f"{url}/{doc_id}").content)["metadata"] == kept
    for one in filters:
        hits = search(writable, query="heat", filter=one)["hits"]
        assert [hit["id"] for hit in hits] == ["m1", "m2"]
        assert hits[0]["metadata"] == kept
    assert search(writable, query="heat", filter=f"by.n = {2**53}")["hits"] == []
    for doc_id in ("m1", "m2"):
        writable.delete(f"{url}/{doc_id}")


def test_metadata_are_changed_and_seen_at_once(writable, monkeypatch):
    url = "/indexes/wings/documents/d7"
    before = writable.get(url).json()
    hits = [
        search(writable, query="heat", mode=mode, k=200)["hits"] for mode in ("learned", "dense")
    ]
    monkeypatch.setattr(LexicalEncoder, "encode_documents", None)
    monkeypatch.setattr(DenseEncoder, "encode_documents", None)
    change = {"metadata": {"kind": "new", "year": None, "of": {"tags": ["a", "b"]}}}
    told = writable.patch(url, json=change).json()
    found = search(writable, query="heat", filter="kind = new", facets=["of.tags"])
    assert (told["documents"], told["commit"]) == (1, found["state"]["commit"])
    kept = {"kind": "new", "of.tags": ["a", "b"]}
    assert writable.get(url).json() == before | {"metadata": kept}
    assert [hit["id"] for hit in found["hits"]] == ["d7"] and found["total"] == 1
    dense = search(writable, query="heat", filter="kind = new", mode="dense")["hits"]
    assert [hit["id"] for hit in dense] == ["d7"]
    assert found["facets"][0]["values"] == [{"value": value, "documents": 1} for value in "ab"]
    for mode, of_mode in zip(("learned", "dense"), hits, strict=True):
        again = search(writable, query="heat", mode=mode, k=200)["hits"]
        for hit in of_mode:
            hit["metadata"] = kept if hit["id"] == "d7" else hit["metadata"]
        assert again == of_mode
    unknown = writable.patch("/indexes/wings/documents/nobody", json=change)
    assert error_of(unknown, 404) == "no document 'nobody' in this index"


def test_changes_at_the_same_time_are_all_kept(writable):
    url = "/indexes/wings/documents/d7"

    def change(n):
        if n % 8 == 5:
            document = {"text": f"heat {n}", "metadata": {"put": n}}
            return writable.put(url, json=document).json()["commit"]
        return writable.patch(url, json={"metadata": {f"key{n}": n, "last": n}}).json()["commit"]

    with ThreadPoolExecutor(8) as pool:
        commits = list(pool.map(change, range(24)))
    last_put = max(commits[n] for n in range(24) if n % 8 == 5)
    found = writable.get(url).json()
    kept = found["metadata"]
    assert found["text"] == f"heat {kept['put']}" and "kind" not in kept
    # Where a PUT came last, no change is left.
    assert commits[kept["put"]] == last_put
    assert commits[kept.get("last", kept["put"])] == max(commits)
    for n in range(24):
        if n % 8 != 5 and commits[n] > last_put:
            assert kept[f"key{n}"] == n
        if commits[n] < last_put:
            assert f"key{n}" not in kept


def test_documents_are_written_and_seen_at_once(writable):
    url = "/indexes/wings/documents"
    document = {"title": "A", "text": "heat heat heat", "metadata": {"kind": "new", "tags": ["x"]}}
    before = writable.get("/indexes/wings").json()
    put = writable.put(f"{url}/a/b%2Fc%20d", json=document)
    assert put.status_code == 400 and "white space in id" in put.text
    put = writable.put(f"{url}/a/b%2Fé", json=document).json()
    assert (put["documents"], put["generation"]) == (1, 1) and put["commit"] > before["commit"]
    stored = writable.get(f"{url}/a/b%2Fé").json()
    assert stored == {"id": "a/b/é", **document}
    filtered = {"query": "heat", "filter": "kind = new"}
    assert [hit["id"] for hit in search(writable, **filtered)["hits"]] == ["a/b/é"]
    assert [hit["id"] for hit in search(writable, **filtered, mode="dense")["hits"]] == ["a/b/é"]
    writable.put(f"{url}/a/b%2Fé", json={"text": "flow"})
    assert search(writable, **filtered)["hits"] == []
    gone = writable.delete(f"{url}/a/b%2Fé").json()
    assert gone["commit"] > put["commit"]
    assert error_of(writable.get(f"{url}/a/b%2Fé"), 404)
    assert "a/b/é" in error_of(writable.delete(f"{url}/a/b%2Fé"), 404)
    assert writable.get("/indexes/wings").json()["documents"] == before["documents"]
    # Three writes were acknowledged, and two refused.
    assert 'lsr_stage_seconds_count{stage="write"} 5.0' in writable.get("/metrics").text


def test_a_stream_of_documents(writable):
    lines = [json.dumps({"_id": f"s{i}", "text": f"flutter of panel{i}"}) for i in range(1000)]
    headers = {"Content-Type": "application/x-ndjson"}

    def stream(of):
        return writable.post("/indexes/wings/documents", content=iter(of), headers=headers)

    body = "\n".join(lines).encode()
    cut = [body[start : start + 777] for start in range(0, len(body), 777)]
    assert stream(cut).json()["documents"] == 1000
    assert writable.get("/indexes/wings").json()["documents"] == 1200
    assert writable.get("/indexes/wings/documents/s999").json()["text"] == "flutter of panel999"
    # Groups before a bad line are kept, and the error says how many documents they hold.
    more = [line.replace('"s', '"t') for line in lines]
    bad = "\n".join([*more[:700], "nonsense", *more[700:]]).encode()
    told = error_of(stream([bad]), 400)
    assert "line 701: invalid JSON" in told and "(512 documents before it are durable)" in told
    assert writable.get("/indexes/wings").json()["documents"] == 1712
    assert "holds no documents" in error_of(stream([b"\n \n"]), 400)
    long = b'{"_id": "l", "text": "' + b"x" * 2**21
    assert "line 1: a line must have at most 1048576 bytes" in error_of(stream([long]), 400)


def test_a_new_generation_is_taken_over_without_being_asked(writable, index, corpus_of, tmp_path):
    assert search(writable, query="heat")["state"]["generation"] == 1
    build_index(open_corpus(corpus_of(tmp_path / "c.jsonl", 50, seed=3)), index, "lexical")
    deadline = time.monotonic() + 30
    while search(writable, query="heat")["state"]["generation"] == 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    state = writable.get("/indexes/wings").json()
    assert (state["generation"], state["documents"], state["dense"]) == (2, 50, None)
    assert (state["sides"], state["mode"]) == (["words", "learned"], "sparse")
    assert search(writable, query="heat")["mode"] == "sparse"
    answer = writable.post("/indexes/wings/search", json={"query": "heat", "mode": "hybrid"})
    assert "no dense side" in error_of(answer, 400)


def test_writes_wait_for_a_build_and_then_give_up(index):
    from lsr.building.lock import locked

    settings = Settings(write_timeout_ms=300)
    with TestClient(create_app([index], settings), base_url=LOCAL) as client:
        with locked(index):
            answer = client.put("/indexes/wings/documents/x", json={"text": "heat"})
            assert error_of(answer, 503) and answer.headers["Retry-After"]
            assert search(client, query="heat")["hits"]
        # Opening the index to write may itself take longer than these 300 ms.
        deadline = time.monotonic() + 60
        while client.put("/indexes/wings/documents/x", json={"text": "heat"}).status_code != 200:
            assert time.monotonic() < deadline


def test_health_and_numbers(api):
    assert api.get("/healthz").json() == {"status": "ok"}
    assert api.get("/readyz").json() == {"status": "ready"}
    search(api, query="heat")
    text = api.get("/metrics").text
    for name in (
        'lsr_requests_total{method="POST",route="/indexes/{name}/search",status="200"}',
        'lsr_stage_seconds_count{stage="queue"}',
        'lsr_stage_seconds_count{stage="engine"}',
        'lsr_stage_seconds_count{stage="format"}',
        'lsr_index_generation{index="wings"} 1.0',
        'lsr_index_documents{index="wings"} 200.0',
        "lsr_queued_requests 0.0",
        'lsr_query_postings_total{index="wings"}',
    ):
        assert name in text, name


def test_overload_is_refused_and_deadlines_hold(built):
    settings = Settings(queue=2, micro_batch=1)
    with TestClient(create_app([built], settings), base_url=LOCAL) as client:
        service = client.app.state.service
        held, leave = threading.Event(), threading.Event()

        def hold():
            held.set()
            assert leave.wait(30)

        service.dispatcher.control(hold)
        assert held.wait(10)
        url = "/indexes/wings/search"
        late = client.post(url, json={"query": "heat", "timeout_ms": 50})
        assert "deadline" in error_of(late, 504)
        waiting = [
            threading.Thread(target=client.post, args=(url,), kwargs={"json": {"query": "heat"}})
        ]
        waiting[0].start()
        while service.dispatcher._queued < 2:
            time.sleep(0.001)
        full = client.post(url, json={"query": "heat"})
        assert "requests are waiting" in error_of(full, 429) and full.headers["Retry-After"] == "1"
        assert client.get("/healthz").status_code == 200
        leave.set()
        waiting[0].join(30)
        assert search(client, query="heat")["hits"]


def test_indexes_are_told_apart_by_name(built, index):
    two = index.rename(index.with_name("two"))
    with TestClient(create_app([built, two], Settings()), base_url=LOCAL) as client:
        names = [state["index"] for state in client.get("/indexes").json()["indexes"]]
        assert names == ["wings", "two"]
        client.delete("/indexes/two/documents/d0")
        assert client.get("/indexes/two").json()["documents"] == 199
        assert client.get("/indexes/wings").json()["documents"] == 200
    with pytest.raises(ValueError, match="two indexes are called 'wings'"):
        with TestClient(create_app([built, Path(built, "..", "wings")], Settings())):
            pass
    with pytest.raises(FileNotFoundError):
        with TestClient(create_app([built.with_name("absent")], Settings())):
            pass


def test_the_openapi_document_loads_nothing_and_shows_examples(api):
    described = api.get("/openapi.json").json()
    body = described["components"]["schemas"]["SearchBody"]
    assert body["examples"] and described["paths"]["/indexes/{name}/search"]
    assert api.get("/docs").status_code == 404


def test_pages_of_other_origins_may_call_where_the_operator_says(built):
    key = "k" * 16
    settings = Settings(cors_origins=("https://a.example",), read_key=key)
    with TestClient(create_app([built], settings), base_url=LOCAL) as client:
        asked = {
            "Origin": "https://a.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        preflight = client.options("/indexes/wings/search", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://a.example"
        asked["Origin"] = "https://b.example"
        assert "Access-Control-Allow-Origin" not in client.options("/", headers=asked).headers
        given = {"Authorization": f"Bearer {key}", "Origin": "https://a.example"}
        answer = client.post("/indexes/wings/search", json={"query": "heat"}, headers=given)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"


def test_a_path_with_a_newline_is_no_document(writable):
    answer = writable.delete("/indexes/wings/documents/d1%0a")
    assert "control characters" in error_of(answer, 400)
    assert writable.get("/indexes/wings/documents/d1").status_code == 200


def test_a_full_disk_is_told_and_searches_go_on(writable, monkeypatch):
    import errno

    from lsr.building.writer import Writer

    def full(self):
        raise OSError(errno.ENOSPC, "the disk is full", "/somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", full)
        answer = writable.put("/indexes/wings/documents/x", json={"text": "heat"})
        assert error_of(answer, 507) == "the disk is full"
    assert search(writable, query="heat")["hits"]
    assert writable.put("/indexes/wings/documents/x", json={"text": "heat"}).status_code == 200


@pytest.mark.parametrize("query", ["", " \n", {}])
def test_an_empty_query_is_refused(api, query):
    for path, extra in (("search", {}), ("explain", {"id": "d1"}), ("expand", {})):
        answer = api.post(f"/indexes/wings/{path}", json={"query": query} | extra)
        assert error_of(answer, 400) == "`query` is empty: it must hold a word"


def test_a_query_without_a_known_term_is_an_answer_with_a_notice(api):
    notice = "the query holds no term that encoder 'lexical' knows: nothing can match it"
    found = search(api, query="🦓", mode="learned")
    assert (found["hits"], found["notices"]) == ([], [notice])
    assert search(api, query="🦓", mode="sparse")["notices"] == []  # a word, but in no document
    (told,) = search(api, query="the", mode="words")["notices"]
    assert told.startswith("the query holds no word that the analyzer of language 'en' keeps")
    assert search(api, query="heat")["notices"] == []
    assert search(api, query="zebra")["notices"] == []  # known, but in no document
    (hit,) = search(api, query="heat", k=1)["hits"]
    body = {"query": "🦓", "id": hit["id"], "mode": "learned"}
    answer = api.post("/indexes/wings/explain", json=body).json()
    assert (answer["why"]["score"], answer["notices"]) == (0, [notice])


def test_an_index_of_words_alone_is_searched_and_changed(tmp_path):
    (tmp_path / "corpus.tsv").write_text("d1\tThe cat sat.\nd2\tHeat flows.\n")
    build_index(open_corpus(tmp_path / "corpus.tsv"), tmp_path / "words", "bm25")
    settings = Settings(watch_seconds=0.05)
    with TestClient(create_app([tmp_path / "words"], settings), base_url=LOCAL) as client:
        assert client.put("/indexes/words/documents/d3", json={"text": "More heat."}).is_success
        found = client.post("/indexes/words/search", json={"query": "heat", "explain": True})
        assert [hit["id"] for hit in found.json()["hits"]] == ["d2", "d3"]
        nothing = client.post("/indexes/words/search", json={"query": "the"}).json()
        assert nothing["notices"] == [
            "the query holds no word that the analyzer of language 'en' keeps: nothing can match it"
        ]
        refused = client.post("/indexes/words/search", json={"query": "x", "mode": "learned"})
        assert refused.status_code == 400
        assert "this index has no learned terms" in refused.json()["error"]


def test_operators_of_a_text_are_read(api):
    found = search(api, query='"heat flow" wing -nose', k=200, explain=True, snippets=True)
    plain = search(api, query='"heat flow" wing -nose', k=200, operators=False)
    assert 0 < len(found["hits"]) < len(plain["hits"])
    for hit in found["hits"]:
        assert "heat flow" in hit["text"] and "nose" not in hit["text"]
        assert {"heat", "flow"} <= {mark["term"] for mark in hit["snippet"]["marks"]}
    assert search(api, query='say "heat')["notices"] == [
        'the quote " at character 5 is never closed: all of the query is plain text'
    ]
    assert search(api, query="heat +nothing")["notices"] == [
        'no document matches `contains("nothing")`'
    ]
    error = error_of(api.post("/indexes/wings/search", json={"query": "-wing"}), 400)
    assert error == (
        "the query '-wing' only says what must match or must not: add a word to look for"
    )
    body = {"query": '"heat flow"', "id": found["hits"][0]["id"]}
    answer = api.post("/indexes/wings/explain", json=body).json()
    assert {"heat", "flow"} <= {term["term"] for term in answer["why"]["terms"]}
    first = search(api, query='"heat flow"', k=3)
    second = search(api, query='"heat flow"', k=3, cursor=first["cursor"])
    both = search(api, query='"heat flow"', k=6)["hits"]
    assert [hit["id"] for hit in first["hits"] + second["hits"]] == [hit["id"] for hit in both]


def test_what_contains_words_is_deleted(writable):
    before = {hit["id"] for hit in search(writable, query="wing +heat", k=200)["hits"]}
    body = {"filter": 'contains("heat flow")'}
    deleted = writable.post("/indexes/wings/delete", json=body).json()["documents"]
    after = {hit["id"] for hit in search(writable, query="wing +heat", k=200)["hits"]}
    assert 0 < deleted and after < before
    assert search(writable, query='"heat flow"')["hits"] == []


def test_synonyms_are_seen_without_a_restart(writable, index):
    before = search(writable, query="+warmth")
    assert before["hits"] == []
    change_synonyms(index, "warmth, heat")
    state = writable.post("/admin/reload").json()["indexes"][0]
    found = search(writable, query="+warmth", k=200)
    assert found["state"]["commit"] == state["commit"] == before["state"]["commit"] + 1
    heat = search(writable, query="+heat", k=200)
    assert {hit["id"] for hit in found["hits"]} == {hit["id"] for hit in heat["hits"]} != set()


def test_boosts_are_explained_and_cross_encoders_are_those_allowed(api):
    boosts = [{"key": "year", "form": "gaussian", "origin": 1960, "scale": 5, "weight": 2}]
    found = search(api, query="heat", mode="words", boosts=boosts, explain=True)
    for hit in found["hits"]:
        (boost,) = hit["why"]["boosts"]
        assert boost["key"] == "year" and 0 < boost["addend"] <= 2
        shares = sum(side["share"] for side in hit["why"]["sides"])
        assert shares + boost["addend"] == pytest.approx(hit["score"])
    body = {"query": "heat", "rerank": {"model": "some/model"}}
    told = error_of(api.post("/indexes/wings/search", json=body), 400)
    assert told == (
        "`rerank.model` must be one that this service allows, none (set LSR_RERANKERS), got "
        "'some/model'"
    )
    allowing = Settings(rerankers=("some/model",))
    body["rerank"]["documents"] = 101
    with pytest.raises(ValueError, match=r"`rerank.documents` must be in \[1, 100\], got 101"):
        check_limits(ask(**body), allowing)


def test_a_key_that_is_refused_harms_no_other_write(writable):
    url = "/indexes/wings/documents"
    for metadata in ({"": 1}, {"k" * 40_000: 1}):
        for call, body in ((writable.put, {"text": "x"}), (writable.patch, {})):
            answer = call(f"{url}/d1", json=body | {"metadata": metadata})
            assert "a key of metadata must" in error_of(answer, 400)
    assert writable.patch(f"{url}/d1", json={"metadata": {"k": 1}}).is_success
    keys = list(writable.get("/indexes/wings").json()["metadata"])
    # What is offered can be asked for.
    assert search(writable, query="heat", facets=keys)["hits"] and "k" in keys
