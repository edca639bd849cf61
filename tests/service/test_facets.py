"""Totals and facets over HTTP: of the state that an answer names, and the same on every page."""

import random
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from lsr.client import Client
from lsr.documents import Document
from lsr.filter_text import parse
from lsr.search import Searcher
from lsr.service.app import create_app
from lsr.service.protocol import protocol
from lsr.service.settings import Settings

FACETS = ["kind", "year: 3", "year: ..1954, 1955..1964, 1960.."]
RANGES = [(0, 1954), (1955, 1964), (1960, 9999)]


@pytest.fixture(scope="module")
def api(built):
    settings = Settings()
    with TestClient(create_app([built], settings), base_url="http://127.0.0.1:8080") as client:
        yield client


def expected(metadata):
    """The total and FACETS by a plain count; `metadata`: of the documents that pass."""
    found = []
    for key, limit in (("kind", 10), ("year", 3)):
        counted = Counter(of[key] for of in metadata)
        ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        found.append(
            {
                "key": key,
                "documents": len(metadata),
                "values": [{"value": value, "documents": n} for value, n in ranked[:limit]],
                "others": max(0, len(ranked) - limit),
                "ranges": [],
            }
        )
    of_ranges = [sum(low <= of["year"] <= high for of in metadata) for low, high in RANGES]
    ranges = ("..1954", "1955..1964", "1960..")
    found.append(
        {
            "key": "year",
            "documents": len(metadata),
            "values": [],
            "others": 0,
            "ranges": [
                {"range": name, "documents": n} for name, n in zip(ranges, of_ranges, strict=True)
            ],
        }
    )
    return len(metadata), found


def search(api, status=200, **body):
    answer = api.post("/indexes/wings/search", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.parametrize("mode", ["words", "learned", "sparse", "dense", "hybrid"])
@pytest.mark.parametrize("condition", [None, "kind = k1 and year < 1960", "year > 3000"])
def test_they_do_not_depend_on_query_mode_and_page(api, built, matches, mode, condition):
    with Searcher(built) as searcher:
        stored = searcher.index.documents(searcher.index.matching())
        passes = [
            of.metadata for of in stored if not condition or matches(parse(condition), of.metadata)
        ]
        total, facets = expected(passes)
        counts = searcher.counts("any", filter=condition, facets=FACETS)
        assert counts.to_json() == {"total": total, "facets": facets}
    body = {"query": "heat flow", "mode": mode, "filter": condition, "k": 7}
    plain = search(api, **body)
    assert (plain["total"], plain["facets"]) == (total, [])
    cursor, pages = None, 0
    while pages < 4:
        answer = search(api, **body, facets=FACETS, cursor=cursor)
        assert (answer["total"], answer["facets"]) == (total, facets)
        pages += 1
        cursor = answer["cursor"]
        if cursor is None:
            break
    if pages > 1:  # facets may be left out of what follows, or be others
        first = search(api, **body, facets=FACETS)
        (with_them, without) = (
            search(api, **body, cursor=first["cursor"], facets=asked) for asked in (FACETS, [])
        )
        assert with_them["hits"] == without["hits"] and without["facets"] == []


def test_they_belong_to_what_operators_demand_and_exclude(api, built):
    with Searcher(built) as searcher:
        stored = searcher.index.documents(searcher.index.matching())
    for text, meets in (
        ("+heat -cone wing", lambda words: "heat" in words and "cone" not in words),
        ('"heat wing"', lambda words: ("heat", "wing") in zip(words, words[1:], strict=False)),
    ):
        passing = [
            of.metadata for of in stored if meets(of.text.split()) and of.metadata["year"] < 1965
        ]
        total, facets = expected(passing)
        assert 0 < total < 190
        for mode in ("words", "hybrid"):
            answer = search(api, query=text, mode=mode, filter="year < 1965", facets=FACETS)
            assert (answer["total"], answer["facets"]) == (total, facets)


def test_a_batch_may_ask_for_different_facets(api):
    requests = [{"query": "heat", "facets": [facet]} for facet in FACETS] + [{"query": "heat"}]
    answer = api.post("/indexes/wings/search/batch", json={"requests": requests}).json()
    found = [of["facets"] for of in answer["answers"]]
    alone = [search(api, **request) for request in requests]
    assert found == [of["facets"] for of in alone]
    assert len({str(of["hits"]) for of in answer["answers"]}) == 1


@pytest.mark.parametrize(
    ("facets", "status", "message"),
    [
        (
            ["colour"],
            400,
            "facet 'colour': no document .* the keys are kind .string., year .integer.",
        ),
        (["kind: 1..5"], 400, "'kind' holds strings in this index"),
        (["year: 9-5"], 422, "expected a range: LOW..HIGH"),
        (["kind"] * 21, 422, "at most 20"),
        ([{"key": "kind", "limit": 0}], 422, "the limit of a facet must be in"),
        ("kind", 422, "`facets`"),
        (
            [{"key": "year", "ranges": ["1.."] * 60}] * 2,
            400,
            "at most 100 ranges together, got 120",
        ),
    ],
)
def test_what_is_refused(api, facets, status, message):
    assert re.search(message, search(api, status, query="x", facets=facets)["error"])


@pytest.mark.parametrize("rounds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_they_are_those_of_the_state_that_the_answer_names(index, serving, rounds):
    """While documents are written and deleted, each answer is of its commit, sorted and grouped."""
    with Searcher(index) as searcher:
        first = searcher.commit
        stored = searcher.index.documents(searcher.index.matching())
    settings = Settings()
    app = create_app([index], settings)
    done, answers, writes = threading.Event(), [], []

    def read(url):
        with Client(url) as client:
            asked = {"facets": FACETS, "filter": "year < 1965", "k": 500}
            while not done.is_set():
                for order in ({"sort": ["-year", "kind"]}, {"group": {"key": "kind"}}):
                    answers.append((order, client.search("heat wing", **asked, **order)))

    def write(url, name):
        choice = random.Random(name)
        with Client(url) as client:
            for _ in range(rounds):
                documents = [
                    Document(
                        f"{name}{choice.randrange(20)}-{n}",
                        text="heat",
                        metadata={"kind": f"k{choice.randrange(12)}", "year": 1950 + n * 3},
                    )
                    for n in range(choice.randint(1, 6))
                ]
                put = client.add(documents)
                writes.append((put, documents, []))
                gone = client.delete(documents[0].id)
                writes.append((gone, [], [documents[0].id]))

    with (
        serving(app, http=protocol(settings)) as (host, port),
        ThreadPoolExecutor(4) as pool,
    ):
        url = f"http://{host}:{port}"
        readers = [pool.submit(read, url) for _ in range(2)]
        writers = [pool.submit(write, url, name) for name in "ab"]
        try:
            for future in writers:
                future.result()
        finally:
            done.set()
        for future in readers:
            future.result()
    state = {of.id: of.metadata for of in stored}
    by_commit, seen = {first: dict(state)}, set()
    for commit in range(first + 1, max(of.commit for of, _, _ in writes) + 1):
        for made, documents, deleted in writes:  # each writer's own, in their order
            if made.commit == commit:
                state |= {of.id: of.metadata for of in documents}
                for doc_id in deleted:
                    del state[doc_id]
        by_commit[commit] = dict(state)
    for order, answer in answers:
        seen.add(answer.state.commit)
        now = by_commit[answer.state.commit]
        passing = [of for of in now.values() if of["year"] < 1965]
        assert all(now[hit.id] == hit.metadata for hit in answer.hits)
        kinds = [hit.metadata["kind"] for hit in answer.hits]
        if "sort" in order:
            keys = [(-hit.metadata["year"], hit.metadata["kind"]) for hit in answer.hits]
            assert keys == sorted(keys) and len(keys) > 20
        else:
            # Every document of the collection holds one of the words.
            assert sorted(kinds) == sorted({of["kind"] for of in passing})
            assert [hit.group for hit in answer.hits] == kinds
        facets = [of.model_dump() for of in answer.facets]
        assert (answer.total, facets) == expected(passing)
    assert len(seen) > rounds / 2
