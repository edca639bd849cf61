"""The Searcher on a small index of random words: scores, limits, filters, threads, reasons."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.indexes import exact
from lsr.request import ask
from lsr.search import Searcher

WORDS = (
    "heat flow wing plate layer pressure shock nose cone cylinder boundary theory speed drag lift "
    "mach body angle attack tunnel jet nozzle flutter beam shell panel stress buckling fatigue"
).split()
N = 400


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    rng = np.random.default_rng(0)
    with (folder / "corpus.jsonl").open("w") as file:
        for number in range(N):
            text = " ".join(rng.choice(WORDS, rng.integers(1, 12)))
            record = {
                "_id": f"d{number}",
                "text": text,
                "year": 1950 + number % 20,
                "serial": 2**53 + number,
                "open": number % 3 == 0,
                "tags": ["odd" if number % 2 else "even", f"tenth{number % 10}"],
                "long": "x" * 40_000,
            }
            file.write(json.dumps(record) + "\n")
    build_index(open_corpus(folder / "corpus.jsonl"), folder / "index", "lexical")
    with Searcher(folder / "index") as opened:
        yield opened


def queries(n):
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 5))) for _ in range(n)]


def test_hits_are_those_of_brute_force_and_explanations_sum_to_their_scores(searcher):
    ids = [f"d{number}" for number in range(N)]
    impacts = searcher.index.impacts(ids)
    for query in queries(20):
        request = ask(query, mode="learned")
        batch = searcher.passes.encode([query], request, 1)
        vector, _, (factor,) = searcher.passes.impacts(batch, "learned", request)
        (expected,) = exact.search(impacts, ids, vector, 10)
        hits = searcher.search(query, 10, mode="learned")
        found = [(hit.document.id, hit.score) for hit in hits]
        assert found == [(doc_id, score * factor) for doc_id, score in expected]
        for hit in hits:
            why = searcher.explain(query, hit.document.id, mode="learned")
            assert why[:2] == (hit.score, [("learned", hit.score, hit.score)])
            reasons = why.terms
            assert sum(reason.contribution for reason in reasons) == hit.score
            assert sum(reason.share for reason in reasons) == pytest.approx(1)
            for reason in reasons:
                assert reason.query_weight * reason.document_weight == reason.contribution
                assert reason.literal_in_query and reason.literal_in_document
                assert not reason.from_feedback and reason.field == "learned"


def test_quantised_scores_are_those_of_the_weights_within_the_step(searcher):
    query = "heat flow boundary"
    weights = searcher.encoder.encode_queries([query])
    hits = searcher.search(query, 50, mode="learned")
    documents = [hit.document for hit in hits]
    vectors = searcher.encoder.encode_documents([document.content for document in documents])
    expected = (vectors @ weights.T).toarray()[:, 0]
    np.testing.assert_allclose([hit.score for hit in hits], expected, rtol=0.02)


@pytest.mark.parametrize(
    ("n", "threads"), [(100, 16), pytest.param(2000, 64, marks=pytest.mark.slow)]
)
def test_queries_from_many_threads_get_the_serial_answers(searcher, n, threads):
    asked = [f"{query} {number}" for number, query in enumerate(queries(n))]
    assert len(set(asked)) == n
    serial = [searcher.search(query, 5) for query in asked]
    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(lambda query: searcher.search(query, 5), asked)) == serial
    ranked = searcher.rank(asked, 5, threads=2)
    assert ranked == [[(hit.document.id, hit.score) for hit in hits] for hits in serial]


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("year = 1955", lambda n: n % 20 == 5),
        ("year = 1955.0", lambda n: n % 20 == 5),
        (f"serial = {2**53 + 8}", lambda n: n == 8),
        (f"serial = {2**53 + 9}", lambda n: n == 9),
        (f"serial = {2**53 + 9}..{2**53 + 13}", lambda n: 9 <= n <= 13),
        ("year = 1955..1957", lambda n: 5 <= n % 20 <= 7),
        ("year = ..1951.5", lambda n: n % 20 <= 1),
        ("year > 1967", lambda n: n % 20 >= 18),
        ("open = true", lambda n: n % 3 == 0),
        ("tags = odd", lambda n: n % 2 == 1),
        ("tags has all (odd) and year < 1955 and open != false", lambda n: n % 60 in (3, 21)),
        (f"long = {'x' * 40_000}", lambda n: True),
        (f"long = {'x' * 40_001}", lambda n: False),
        ("not exists(year) or year = 1900", lambda n: False),
    ],
)
def test_filters(searcher, condition, kept):
    everything = searcher.search("heat flow", N)
    expected = [hit for hit in everything if kept(int(hit.document.id[1:]))]
    assert searcher.search("heat flow", N, filter=condition) == expected
    ranked = searcher.rank(["heat flow"], N, filter=condition)[0]
    assert ranked == [(hit.document.id, hit.score) for hit in expected]


def test_totals_and_facets_belong_to_the_filter_and_not_to_the_query(searcher):
    facets = ["tags: 3", "year: ..1954, 1955..", "long: 1"]
    for query in ("heat", {"wing": 2.0}, "qqqq"):
        counts = searcher.counts(query, filter="open = true", facets=facets, k=1)
        assert counts.total == 134
        tags, years, long = counts.facets
        assert [tuple(of) for of in tags.values] == [("even", 67), ("odd", 67), ("tenth0", 14)]
        assert [of.documents for of in years.ranges] == [34, 100]
        assert (tags.others, long.values[0]) == (9, ("x" * 40_000, 134))
    assert searcher.search("heat", facets=facets) == searcher.search("heat")
    assert searcher.counts("heat").total == N


def test_bad_filters_are_named(searcher):
    with pytest.raises(ValueError, match="the bounds of a range must be low ≤ high"):
        searcher.search("heat", filter="year = 1960..1950")
    with pytest.raises(ValueError, match='"1955" is a string: write year = 1955;'):
        searcher.search("heat", filter="year = '1955'")
    for ask_for in (searcher.search, lambda *a, **s: searcher.rank([a[0]], **s)):
        with pytest.raises(ValueError, match="`yaer = 1950`: no document .* the keys are year"):
            ask_for("heat", filter="year = 1950 and yaer = 1950")
    with pytest.raises(ValueError, match="filter `yaer = 1950`"):
        searcher.explain("heat", "d0", filter="yaer = 1950")


def test_min_score_and_max_terms(searcher):
    everything = searcher.search("heat flow wing", N)
    floor = everything[30].score
    assert searcher.search("heat flow wing", N, min_score=floor) == [
        hit for hit in everything if hit.score >= floor
    ]
    assert searcher.rank(["heat flow wing", "flow"], N, min_score=floor) == [
        [(hit.document.id, hit.score) for hit in searcher.search(query, N, min_score=floor)]
        for query in ("heat flow wing", "flow")
    ]
    assert searcher.search("heat flow wing", N, min_score=1e30) == []
    doc_id = everything[0].document.id
    learned = {"mode": "learned"}
    (heaviest, *_) = searcher.expand("heat flow wing")
    (reason,) = searcher.explain("heat flow wing", doc_id, **learned, max_terms=1).terms
    assert reason.term == heaviest.term
    cut = searcher.search("heat flow wing", 5, **learned, max_terms=1)
    assert cut == searcher.search(reason.term, 5, **learned)
    # Words are not cut.
    terms = searcher.explain("heat flow wing", doc_id, max_terms=1).terms
    assert {term.term for term in terms if term.field == "learned"} == {reason.term}
    assert {term.term for term in terms if term.field == "words"} == {
        word for word in ("heat", "flow", "wing") if word in everything[0].document.text.split()
    }
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`min_score` must be finite and at least 0"):
            searcher.search("heat", min_score=bad)
        with pytest.raises(ValueError, match="`min_score` must be finite and at least 0"):
            searcher.rank(["heat"], min_score=bad)
    with pytest.raises(ValueError, match=r"`max_terms` must be in \[1, 1000000\], got 0"):
        searcher.search("heat", max_terms=0)


@pytest.mark.parametrize("k", [0, -3, 10**7])
def test_absurd_k(searcher, k):
    with pytest.raises(ValueError, match=rf"`k` must be in \[1, 1000000\], got {k}"):
        searcher.search("heat", k)


# Factors for a query's weights; most are not powers of two.
MULTIPLES = (1e-30, 0.007, 0.01, 0.125, 1 / 3, 3.7, 1e4, 1e30)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_terms": 3},
        {"mass": 0.75},
        {"mass": 0.5, "rescore": 30},
        {"feedback": {"method": "rocchio", "documents": 5}},
        {"feedback": {"method": "relevance-model", "documents": 5, "terms": 10}},
    ],
)
def test_a_multiple_of_a_query_has_its_ranking_and_multiples_of_its_scores(searcher, settings):
    weights = {"heat": 1.0, "flow": 1.9, "wing": 0.33, "layer": 0.1, "mach": 1.0}
    (expected,) = searcher.rank([weights], 50, **settings)
    assert len(expected) == 50
    for multiple in MULTIPLES:
        asked = {term: weight * multiple for term, weight in weights.items()}
        (found,) = searcher.rank([asked], 50, **settings)
        assert [doc_id for doc_id, _ in found] == [doc_id for doc_id, _ in expected]
        scores = [score * multiple for _, score in expected]
        assert [score for _, score in found] == pytest.approx(scores, rel=1e-6)
        floor = found[20][1]
        assert searcher.rank([asked], 50, min_score=floor, **settings) == [
            [hit for hit in found if hit[1] >= floor]
        ]
        for doc_id, score in found[:3]:
            why = searcher.explain(asked, doc_id, **settings)
            assert why.score == score == sum(term.contribution for term in why.terms)
        terms = {term.term: term.weight for term in searcher.expand(asked, **settings)}
        for term in {"heat", "flow"} & terms.keys() if "feedback" not in settings else ():
            assert terms[term] == pytest.approx(asked[term], rel=1e-6)


def test_no_query_of_known_terms_finds_nothing(searcher):
    everything = [hit.document.id for hit in searcher.search({"heat": 1.0}, N)]
    for weight in (0.007, 1e-100, 1e100):
        assert [hit.document.id for hit in searcher.search({"heat": weight}, N)] == everything
    # Next to the largest weight, a tiny one may be rounded to 0.
    beside = searcher.search({"heat": 1.0, "flow": 1e-100}, N)
    assert [hit.document.id for hit in beside] == everything
    alike = dict.fromkeys(searcher.encoder.vocabulary, 0.3)
    assert len(searcher.search(alike, N)) == N
    for weight in (0.0, 1e-101, 1e101, -1.0):
        with pytest.raises(ValueError, match=r"'heat' must be in \[1e-100, 1e\+100\], got "):
            searcher.search({"heat": weight})


def test_huge_weights_keep_scores_exact(searcher):
    weights = dict.fromkeys(set(WORDS) & set(searcher.encoder.vocabulary), 10_000.0)
    hits = searcher.search(weights, 20)
    for hit in hits:
        reasons = searcher.explain(weights, hit.document.id).terms
        assert sum(reason.contribution for reason in reasons) == hit.score
    assert len(hits) == 20


def test_texts_and_weights_mix_in_one_batch(searcher):
    batch = ["heat flow", {"wing": 2.5}, "", "unseen zzz", {}]
    ranked = searcher.rank(batch, 7)
    assert ranked == [searcher.rank([query], 7)[0] for query in batch]
    assert [len(hits) for hits in ranked] == [7, 7, 0, 0, 0]
    assert searcher.rank([]) == []


def test_torch_is_not_imported_for_a_query_that_needs_no_model(searcher):
    directory = searcher.index.path.parents[1]
    code = (
        "import sys; from pathlib import Path; from lsr.search import Searcher\n"
        f"with Searcher(Path({str(directory)!r})) as searcher: assert searcher.search('heat')\n"
        "assert not {'torch', 'sentence_transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("query", ["flow " * 5000, "🙂 東京 \x00 ﷽", "[SEP] [CLS]", "\n\t"])
def test_odd_texts_are_answered(searcher, query):
    assert isinstance(searcher.search(query), list)


def test_a_process_that_closes_nothing_ends_in_silence(built):
    code = (
        "from lsr.search import Searcher\n"
        f"searcher = Searcher({str(built)!r}); print(len(searcher.search('heat')))"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(ended.stdout) > 0 and ended.stderr == ""
