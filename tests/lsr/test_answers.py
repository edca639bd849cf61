"""Searcher.answer, expand and explanations: many requests at once, positions, query terms."""

import json
from itertools import product

import numpy as np
import pytest

from lsr.building.build import add_documents, build_index
from lsr.corpus.corpus import open_corpus
from lsr.request import ask
from lsr.search import Position, Searcher

WORDS = "heat flow wing plate layer pressure shock nose cone cylinder boundary theory".split()
SETTINGS = [
    {},
    {"mode": "dense"},
    {"mode": "hybrid"},
    {"mode": "hybrid", "interpolation": {"method": "rrf"}},
    {"mode": "hybrid", "feedback": {}},
    {"feedback": {"documents": 2}},
    {"filter": "part = 1"},
    {"mode": "hybrid", "filter": "part = 1"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, dense_model):
    folder = tmp_path_factory.mktemp("answers")
    write_corpus(folder / "corpus.jsonl", "d", 200)
    build_index(
        open_corpus(folder / "corpus.jsonl"),
        folder / "index",
        "lexical",
        dense=dense_model,
    )
    return folder


def write_corpus(path, prefix, n):
    rng = np.random.default_rng(n)
    with path.open("w") as file:
        for number in range(n):
            # Few words, so that scores are often equal.
            text = " ".join(rng.choice(WORDS, rng.integers(1, 5)))
            record = {"_id": f"{prefix}{number}", "text": text, "part": number % 3}
            file.write(json.dumps(record) + "\n")


@pytest.fixture(scope="module")
def searcher(folder):
    with Searcher(folder / "index") as opened:
        yield opened


def listed(hits):
    return [(hit.document.id, hit.score) for hit in hits]


def test_requests_of_all_kinds_together_get_what_each_gets_alone(searcher):
    queries = ["heat flow", "wing", "shock at the nose", "", {"heat": 2.0}]
    requests = [
        ask(query, k=k, **settings)
        for query, settings, k in product(queries, SETTINGS, (3, 40))
        if isinstance(query, str) or settings.get("mode", "sparse") == "sparse"
    ]
    together = searcher.answer(requests, threads=2)
    assert [listed(hits) for hits in together] == [
        listed(searcher.search(request)) for request in requests
    ]
    assert sum(len(hits) for hits in together) > 1000


def test_one_that_fails_leaves_the_others_alone(searcher):
    requests = [ask("heat"), ask({"nonsenseterm": 1.0}), ask("flow")]
    first, error, last = searcher.answer(requests)
    assert isinstance(error, ValueError) and "nonsenseterm" in str(error)
    assert listed(first) == listed(searcher.search("heat"))
    assert listed(last) == listed(searcher.search("flow"))
    assert searcher.answer([]) == []


@pytest.mark.parametrize("settings", SETTINGS)
def test_pages_are_the_ranking_in_pieces(searcher, settings):
    whole = listed(searcher.search("heat flow wing", 120, **settings))
    found, place = [], None
    while True:
        (page,) = searcher.answer([ask("heat flow wing", k=7, **settings)], [place])
        found += listed(page)
        if len(page) < 7:
            break
        place = Position(page[-1].score, page[-1].document.id, len(found))
    assert found[:120] == whole[: len(found)] and len(found) >= len(whole)
    assert len({doc_id for doc_id, _ in found}) == len(found)


def test_pages_never_reorder_or_repeat_while_documents_come_in(folder, tmp_path):
    build_index(open_corpus(folder / "corpus.jsonl"), tmp_path / "index", "lexical")
    with Searcher(tmp_path / "index") as searcher:
        found, place = [], None
        for number in range(8):
            # Words are scored by statistics that follow every commit.
            (page,) = searcher.answer([ask("heat wing", k=5, mode="learned")], [place])
            found += listed(page)
            place = Position(page[-1].score, page[-1].document.id, len(found))
            # Most of these rank above the cursor's place: the search must go deeper.
            path = tmp_path / "more.jsonl"
            path.write_text(
                "".join(
                    json.dumps({"_id": f"new{number}-{i}", "text": "heat wing"}) + "\n"
                    for i in range(30)
                )
            )
            add_documents(open_corpus(path), tmp_path / "index")
            searcher.refresh()
        assert len(found) == 40 and len({doc_id for doc_id, _ in found}) == 40
        assert found == sorted(found, key=lambda hit: (-hit[1], hit[0]))


def test_expand_is_what_is_searched_for(searcher):
    terms = searcher.expand("heat of the flow")
    vector = searcher.encoder.encode_queries(["heat of the flow"])
    assert {t.term: t.weight for t in terms} == {
        searcher.encoder.vocabulary[i]: w
        for i, w in zip(vector.indices.tolist(), vector.data.tolist(), strict=True)
    }
    assert [t.weight for t in terms] == sorted((t.weight for t in terms), reverse=True)
    assert all(t.literal and not t.from_feedback for t in terms)
    weights = {t.term: t.weight for t in terms}
    of_text = searcher.search("heat of the flow", mode="learned")
    assert listed(searcher.search(weights)) == listed(of_text)
    assert searcher.expand("heat", mode="dense") == searcher.expand("heat")
    assert searcher.expand("") == []


def test_expand_marks_what_feedback_added(searcher):
    terms = searcher.expand("heat", mode="sparse", feedback={"documents": 30})
    own, added = [t for t in terms if not t.from_feedback], [t for t in terms if t.from_feedback]
    assert [t.term for t in own] == ["heat"] and own[0].literal
    assert added and not any(t.literal for t in added)
    dense_only = {"mode": "hybrid", "feedback": {"side": "dense", "interpolate": "none"}}
    assert searcher.expand("heat", **dense_only) == searcher.expand("heat")


@pytest.mark.parametrize("settings", SETTINGS)
def test_explanations_of_many_are_those_of_each(searcher, settings):
    request = ask("heat flow", **settings)
    ids = [hit.document.id for hit in searcher.search(request)]
    together = searcher.explanations(request, ids)
    assert together == [searcher.explain(request, doc_id) for doc_id in ids]
    assert [why.score for why in together] == [hit.score for hit in searcher.search(request)]


def test_postings_of_the_query_s_terms_are_counted(searcher):
    before = searcher.postings
    searcher.search("heat flow", mode="learned")
    searcher.search("heat", mode="dense")
    ids = [f"d{number}" for number in range(200)]
    vectors = searcher.index.impacts(ids).toarray() > 0
    terms = [searcher.encoder.vocabulary.index(term) for term in ("heat", "flow")]
    of_terms = vectors[:, terms].sum()
    assert searcher.postings - before == of_terms > 0
    searcher.search("heat flow", mode="sparse")
    of_words = searcher.index.word_frequencies(["heat", "flow"])[1].sum()
    assert searcher.postings - before == 2 * of_terms + of_words
