"""Words beside learned terms: searches, reasons and feedback, compared with plain loops."""

import functools
import json
import math
import random
from collections import Counter
from itertools import product
from operator import add

import numpy as np
import pytest

from lsr.building.build import add_documents, build_index, delete_documents, merge_index
from lsr.corpus.corpus import open_corpus
from lsr.indexes.lucene import WORD_SCALE
from lsr.request import Feedback, Words, ask
from lsr.search import Searcher
from lsr.search.highlight import Match
from lsr.search.notices import of_query

STEMS = (
    "heat flow wing plate layer pressure shock nose cone cylinder boundary theory speed drag lift "
    "mach body angle attack tunnel"
).split()
# Forms that the analyzer makes one word of, and the WordPiece tokenizer does not.
WORDS = [*STEMS, "heating", "flows", "wings", "plates", "the", "of"]
N = 240
QUERIES = ["heat flow", "the wings of the wings at supersonic speed", "shock", "plates plate cone"]
SETTINGS = [
    {},
    {"weight": 0.25},
    {"weight": 7.5, "k1": 2.0, "b": 1.0},
    {"k1": 0.0, "title": 0.5},
    {"weight": 40.0, "k1": 1.2, "b": 0.75, "title": 3.0},
]


def write(path, numbers, rng):
    with path.open("w") as file:
        for number in numbers:
            title = " ".join(rng.choices(WORDS, k=rng.randrange(4)))
            # Some longer than the lengths that Lucene keeps exactly.
            text = " ".join(rng.choices(WORDS, k=1 + int(rng.expovariate(1 / 15))))
            record = {"_id": f"d{number}", "title": title, "text": text}
            file.write(json.dumps(record) + "\n")
    return open_corpus(path)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory, dense_model):
    """An index made by several commits, from which documents were deleted and merged away."""
    folder = tmp_path_factory.mktemp("words")
    rng = random.Random(11)
    index = folder / "index"
    build_index(write(folder / "0.jsonl", range(N // 2), rng), index, "lexical", dense=dense_model)
    gone = [f"d{number}" for number in range(0, N // 2, 7)]
    delete_documents(index, gone)
    merge_index(index)
    for part, start in enumerate((N // 2, 3 * N // 4), 1):
        add_documents(write(folder / f"{part}.jsonl", range(start, start + N // 4), rng), index)
    with Searcher(index) as opened:
        assert len(list(opened.index.path.glob("*.si"))) > 1
        yield opened


@pytest.fixture(scope="module")
def oracle(searcher, brute_force):
    return brute_force(searcher, searcher.index.matching())


def check(searcher, oracle, batch, side, request, hits, real):
    """Hits are those of the query's whole numbers, which differ from `real` by rounding alone."""
    impacts = searcher.passes.impacts(batch, side, request)
    whole, slack = oracle.whole_numbers(impacts, request.words or Words())
    (factor,) = impacts.factors
    best = sorted(zip(oracle.ids, whole, strict=True), key=lambda hit: (-hit[1], hit[0]))
    expected = [(doc_id, score * factor) for doc_id, score in best if score]
    assert [(hit.document.id, hit.score) for hit in hits] == expected
    assert (np.abs(np.array(whole) * factor - real) <= slack + 1e-6 * real).all()
    # So small a difference that the comparison tells something.
    assert (slack < 0.05 * real.max()).all()


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("mode", ["words", "sparse", "learned"])
def test_scores_are_those_of_the_formula_and_ranks_those_of_whole_numbers(
    searcher, oracle, mode, settings
):
    how = Words(**settings)
    for query in QUERIES:
        of_words = {} if mode == "learned" else {"words": settings}
        request = ask(query, mode=mode, k=N, **of_words)
        batch = searcher.passes.encode([query], request, 1)
        real = np.zeros(len(oracle.ids))
        if mode != "words":
            real += oracle.learned(searcher.encoder.encode_queries([query]))
        if mode != "learned":
            weight = how.weight * oracle.scale if mode == "sparse" else 1.0
            real += oracle.words(oracle.counts(query), how, weight)
        found = searcher.search(request)
        assert len(found) > 10
        check(searcher, oracle, batch, mode, request, found, real)


def test_words_are_stemmed_and_learned_terms_are_not(searcher):
    def ids(query, mode):
        return {hit.document.id for hit in searcher.search(query, N, mode=mode)}

    assert ids("heating", "words") == ids("heat", "words")
    assert ids("heating", "learned") != ids("heat", "learned")
    assert list(searcher.asked(ask("the Heating of heated wings")).words) == ["heat", "wing"]


def test_the_weight_of_words_is_for_mode_sparse_alone(searcher):
    for query in QUERIES:
        alone = searcher.rank([query], N, mode="words")
        for weight in (0, 0.001, 3.7, 1000):
            assert searcher.rank([query], N, mode="words", words={"weight": weight}) == alone
        learned = searcher.rank([query], N, mode="learned")
        assert searcher.rank([query], N, mode="sparse", words={"weight": 0}) == learned
        assert searcher.rank([query], N, mode="sparse") not in (alone, learned)
        # A thousand times the learned terms: their order decides among equals only.
        (heavy,) = searcher.rank([query], N, mode="sparse", words={"weight": 1000})
        scores = dict(alone[0])
        of_words = [scores.get(doc_id, 0.0) for doc_id, _ in heavy]
        steps = np.diff(of_words)
        assert (steps <= 0.02).all()
    with pytest.raises(
        ValueError, match="`words` are for modes words, sparse and hybrid, got mode"
    ):
        searcher.search("heat", mode="learned", words={"weight": 9})


def parts_of(why, side):
    """Contributions of the terms that belong to a side."""
    fields = {"learned": ["learned"], "words": ["words", "title"], "dense": []}
    fields["sparse"] = [*fields["learned"], *fields["words"]]
    return [term.contribution for term in why.terms if term.field in fields[side]]


RRF = {"method": "rrf", "sides": ("words", "learned", "dense")}


@pytest.mark.parametrize(
    ("settings", "sides"),
    [
        ({"mode": "words"}, ["words"]),
        ({"mode": "words", "words": {"title": 0}}, ["words"]),
        ({"mode": "words", "words": {"title": 2.5}}, ["words"]),
        ({"mode": "learned"}, ["learned"]),
        ({"mode": "sparse"}, ["sparse"]),
        ({"mode": "sparse", "words": {"weight": 3.3, "title": 0.7, "k1": 2}}, ["sparse"]),
        ({"mode": "sparse", "feedback": {}}, ["sparse"]),
        ({}, ["sparse", "dense"]),
        ({"mode": "hybrid", "words": {"title": 2.0}}, ["sparse", "dense"]),
        ({"mode": "hybrid", "interpolation": {"sides": ("words", "dense")}}, ["words", "dense"]),
        (
            {"mode": "hybrid", "interpolation": {"sides": ("learned", "dense")}},
            ["learned", "dense"],
        ),
        ({"mode": "hybrid", "interpolation": RRF}, ["words", "learned", "dense"]),
        (
            {"mode": "hybrid", "interpolation": RRF, "words": {"title": 1.5}, "feedback": {}},
            ["words", "learned", "dense"],
        ),
    ],
)
def test_terms_sum_to_their_side_and_shares_to_the_score(searcher, settings, sides):
    seen = Counter()
    for query in QUERIES:
        request = ask(query, k=12, **settings)
        for hit in searcher.search(request):
            why = searcher.explain(request, hit.document.id)
            assert why.score == hit.score
            assert [part.side for part in why.sides] == sides
            assert functools.reduce(add, (part.share for part in why.sides)) == why.score
            for part in why.sides:
                if part.side != "dense":
                    assert sum(parts_of(why, part.side)) == part.score
            if len(sides) == 1:
                assert why.sides[0].score == why.score
            for term in why.terms:
                assert term.query_weight * term.document_weight == pytest.approx(term.contribution)
                seen[term.field] += 1
    expected = {"learned"} if {"learned", "sparse"} & set(sides) else set()
    if {"words", "sparse"} & set(sides):
        expected |= {"words", "title"} if (request.words or Words()).title else {"words"}
    assert seen.keys() == expected


def test_reasons_of_words_are_those_of_the_formula(searcher, oracle):
    how = Words(weight=2.0, title=0.5)
    query = "the Heating of wings, heated"
    request = ask(query, mode="sparse", words=how.model_dump(), k=N)
    names = {"heat": "Heating", "wing": "wings"}
    batch = searcher.passes.encode([query], request, 1)
    (factor,) = searcher.passes.impacts(batch, "sparse", request).factors
    # Half a whole number. Its size follows from the heaviest of words and learned terms.
    step = 0.5 * factor * WORD_SCALE + 1e-6
    assert step < 0.05
    for hit in searcher.search(request)[:40]:
        number = oracle.ids.index(hit.document.id)
        found = {
            (term.field, term.term): term
            for term in searcher.explain(request, hit.document.id).terms
            if term.field != "learned"
        }
        expected = {}
        for word, count in oracle.counts(query).items():
            for field, weight in (("words", 1.0), ("title", how.title)):
                bm25 = oracle.bm25(word, ["words", "title"].index(field), number, how)
                if bm25:
                    of_query = how.weight * oracle.scale * weight * count * oracle.idf(word)
                    expected[field, names[word]] = (of_query, bm25)
        assert found.keys() == expected.keys()
        for key, (of_query, of_document) in expected.items():
            term = found[key]
            assert term.query_weight == pytest.approx(of_query, abs=step)
            assert term.document_weight == pytest.approx(of_document, abs=0.5 / 1024 + 1e-9)
            assert term.literal_in_query and not term.from_feedback


# Feedback.


def relevance_model_slowly(query, documents, scores, how):
    """RM3 over words, before it is scaled: {word: weight}."""
    of_query = {word: count / sum(query.values()) for word, count in query.items()}
    total = sum(scores)
    model = Counter()
    for document, score in zip(documents, scores, strict=True):
        for word, count in document.items():
            model[word] += score / total * count / sum(document.values())
    heaviest = sorted(model, key=lambda word: (-np.float32(model[word]), word))[: how.terms]
    held = sum(model[word] for word in heaviest)
    moved = Counter()
    for word, weight in of_query.items():
        moved[word] += how.alpha * weight
    for word in heaviest:
        moved[word] += how.beta * model[word] / held
    return kept(moved, query, how)


def rocchio_slowly(query, documents, how):
    """Rocchio without negatives, before it is scaled: {word: weight}."""

    def unit(vector):
        norm = math.sqrt(sum(weight * weight for weight in vector.values()))
        return {word: weight / norm for word, weight in vector.items()}

    moved = Counter()
    for word, weight in unit(query).items():
        moved[word] += how.alpha * weight
    for document in documents:
        for word, weight in unit(document).items():
            moved[word] += how.beta * weight / len(documents)
    return kept(moved, query, how)


def kept(moved, query, how):
    others = sorted(
        (word for word in moved if word not in query),
        key=lambda word: (-np.float32(moved[word]), word),
    )[: max(how.terms - len(query), 0)]
    return {word: weight for word, weight in moved.items() if word in query or word in others}


def scaled(moved, query):
    factor = math.hypot(*query.values()) / math.hypot(*moved.values())
    return {word: weight * factor for word, weight in moved.items()}


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "relevance-model", "documents": 4, "terms": 8},
        {"method": "relevance-model", "documents": 7, "terms": 5, "alpha": 0.3, "beta": 0.7},
        {"method": "rocchio", "documents": 5, "terms": 9},
    ],
)
def test_feedback_over_words_is_that_of_their_counts(searcher, oracle, settings):
    how = Feedback(**settings)
    for query in QUERIES:
        own = oracle.counts(query)
        request = ask(query, mode="words", k=N, feedback=settings)
        first = searcher.search(query, how.documents, mode="words")
        counts = [oracle.counts(hit.document.content) for hit in first]
        if how.method == "rocchio":
            moved = rocchio_slowly(own, counts, how)
        else:
            moved = relevance_model_slowly(own, counts, [hit.score for hit in first], how)
        batch = searcher.passes.encode([query], request, 1)
        searcher.passes.feed_back(batch, request)
        (words,) = batch.words
        assert words == pytest.approx(scaled(moved, own), rel=1e-5)
        assert len(words) > len(own)
        found = searcher.search(request)
        check(searcher, oracle, batch, "words", request, found, oracle.words(words))
        terms = searcher.explain(request, found[0].document.id).terms
        written = {text.lower() for text in query.split()}
        assert any(term.from_feedback for term in terms)
        for term in terms:
            assert term.from_feedback == (term.term not in written)


def test_feedback_in_mode_sparse_moves_learned_terms_and_words(searcher, oracle):
    how = Feedback(documents=4, terms=9)
    query = "heat flow"
    request = ask(query, mode="sparse", feedback=how.model_dump(), k=N)
    first = searcher.search(query, how.documents, mode="sparse")
    batch = searcher.passes.encode([query], request, 1)
    before = batch.sparse.copy()
    searcher.passes.feed_back(batch, request)
    own = oracle.counts(query)
    counts = [oracle.counts(hit.document.content) for hit in first]
    assert batch.words[0] == pytest.approx(scaled(rocchio_slowly(own, counts, how), own), rel=1e-5)
    dictionaries = [
        dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
        for row in (
            oracle.impacts[[oracle.ids.index(hit.document.id)]].astype(np.float64) for hit in first
        )
    ]
    of_query = dict(zip(before.indices.tolist(), before.data.tolist(), strict=True))
    moved = scaled(rocchio_slowly(of_query, dictionaries, how), of_query)
    after = dict(zip(batch.sparse.indices.tolist(), batch.sparse.data.tolist(), strict=True))
    assert after == pytest.approx(moved, rel=1e-5)
    expected = oracle.learned(batch.sparse)
    expected += oracle.words(batch.words[0], weight=Words().weight * oracle.scale)
    check(searcher, oracle, batch, "sparse", request, searcher.search(request), expected)
    terms = searcher.explain(request, first[0].document.id).terms
    for field in ("learned", "words"):
        marks = {term.term: term.from_feedback for term in terms if term.field == field}
        assert True in marks.values()
        assert not any(marks.get(word, False) for word in ("heat", "flow"))
    # The terms by which the index is searched are those of the moved query.
    assert len(searcher.expand(request)) == len(after)


# What a request is by default, and what it may not be.


def test_the_default_is_all_that_the_index_has(searcher, tmp_path):
    assert searcher.rank(QUERIES, 9) == searcher.rank(QUERIES, 9, mode="hybrid")
    assert searcher.sides(ask("heat")) == {"sparse", "dense"}
    build_index(write(tmp_path / "c.jsonl", range(40), random.Random(1)), tmp_path / "i", "lexical")
    with Searcher(tmp_path / "i") as without:
        assert without.rank(QUERIES, 9) == without.rank(QUERIES, 9, mode="sparse")
        assert without.sides(ask("heat")) == {"sparse"}


def test_term_weights_are_searched_as_learned_terms(searcher):
    weights = {"heat": 1.5, "flow": 0.5}
    learned = searcher.search(weights, 9, mode="learned")
    assert searcher.search(weights, 9) == learned and len(learned) == 9
    assert searcher.sides(ask(weights)) == {"learned"}
    why = searcher.explain(weights, learned[0].document.id)
    assert [part.side for part in why.sides] == ["learned"]
    for mode in ("words", "sparse", "dense", "hybrid"):
        for call in (searcher.search, lambda query, **s: searcher.rank([query], **s)):
            with pytest.raises(ValueError, match=f"mode '{mode}' needs a text: term weights have"):
                call(weights, mode=mode)


def test_a_query_of_stop_words_alone_has_no_words(searcher):
    request = ask("the of and", mode="words")
    assert searcher.search(request) == []
    (notice,) = of_query(searcher, request, found=False)
    assert notice == (
        "the query holds no word that the analyzer of language 'en' keeps: nothing can match it"
    )
    assert of_query(searcher, ask("heat", mode="words"), found=False) == []
    # Learned terms know them.
    assert searcher.search("the of and", mode="learned")
    assert of_query(searcher, ask("the of and", mode="sparse"), found=True) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "words"},
        {"mode": "words", "feedback": {"method": "relevance-model", "documents": 3}},
        {"mode": "sparse"},
        {"mode": "sparse", "words": {"title": 2.0}, "feedback": {"documents": 3}},
        {"mode": "hybrid"},
        {"mode": "hybrid", "interpolation": RRF},
        {"mode": "hybrid", "feedback": {"side": "both"}},
    ],
)
def test_other_queries_of_a_batch_change_nothing(searcher, settings):
    rng = random.Random(5)
    asked = [" ".join(rng.choices([*WORDS, "unseen", "x"], k=rng.randrange(6))) for _ in range(30)]
    asked += ["", "the of", *QUERIES]
    alone = [searcher.search(query, 15, **settings) for query in asked]
    expected = [[(hit.document.id, hit.score) for hit in hits] for hits in alone]
    assert searcher.rank(asked, 15, **settings) == expected
    order = list(range(len(asked)))
    rng.shuffle(order)
    shuffled = searcher.rank([asked[number] for number in order], 15, threads=2, **settings)
    assert shuffled == [expected[number] for number in order]
    assert searcher.answer([ask(query, k=15, **settings) for query in asked]) == alone


def test_texts_and_term_weights_have_their_own_defaults_in_one_batch(searcher):
    batch = ["heat flow", {"wing": 2.5}, "shock", {"heat": 1.0, "cone": 3.0}, ""]
    found = searcher.rank(batch, 7)
    assert found == [searcher.rank([query], 7)[0] for query in batch]
    assert found[0] == searcher.rank(["heat flow"], 7, mode="hybrid")[0]
    assert found[1] == searcher.rank([{"wing": 2.5}], 7, mode="learned")[0]


def test_terms_and_words_of_the_query_are_highlighted(searcher):
    text = "Heated wings, the heat"

    def marked(**settings):
        found = searcher.highlighter(ask("heating the wing", **settings))(text)
        return [(text[match.start : match.end], match.term, match.literal) for match in found]

    words = [("Heated", "heating", True), ("wings", "wing", True), ("heat", "heating", True)]
    assert marked(mode="words") == words
    assert marked(mode="learned") == [("the", "the", True)]
    both = [*words[:2], ("the", "the", True), words[2]]
    for settings in ({"mode": "sparse"}, {"mode": "dense"}, {}):
        assert marked(**settings) == both
    highlight = searcher.highlighter(ask({"heat": 1.0}))
    assert highlight(text) == [Match(18, 22, "heat", True)]
    moved = searcher.highlighter(ask("cone", mode="words", feedback={"documents": 3, "terms": 30}))
    assert len(moved(" ".join(STEMS))) > 3


# What changes with the index.


@pytest.mark.parametrize("mode", ["words", "sparse"])
def test_a_commit_changes_idf_and_average_lengths(tmp_path, brute_force, mode):
    rng = random.Random(2)
    build_index(write(tmp_path / "a.jsonl", range(30), rng), tmp_path / "index", "lexical")
    query = "heat shock"
    with Searcher(tmp_path / "index") as opened:
        before = opened.search(query, 30, mode=mode)
        with (tmp_path / "b.jsonl").open("w") as file:
            for number in range(60):
                record = {"_id": f"e{number}", "text": "heat " + "filler " * 35}
                file.write(json.dumps(record) + "\n")
        add_documents(open_corpus(tmp_path / "b.jsonl"), tmp_path / "index")
        opened.refresh()
        after = {hit.document.id: hit.score for hit in opened.search(query, 200, mode=mode)}
        oracle = brute_force(opened, opened.index.matching())
        real = oracle.words(oracle.counts(query))
        if mode == "sparse":
            real *= Words().weight * oracle.scale
            real += oracle.learned(opened.encoder.encode_queries([query]))
        request = ask(query, mode=mode, k=200)
        batch = opened.passes.encode([query], request, 1)
        check(opened, oracle, batch, mode, request, opened.search(request), real)
        changed = [
            (hit.score, after[hit.document.id])
            for hit in before
            if "shock" in hit.document.content.split()
        ]
        assert changed and all(abs(new / old - 1) > 0.02 for old, new in changed)
    with Searcher(tmp_path / "index") as fresh:
        found = fresh.search(query, 200, mode=mode)
        assert {hit.document.id: hit.score for hit in found} == after


def test_every_pair_of_sides_is_fused_as_the_sides_alone_say(searcher):
    for first, method in product(("words", "learned", "sparse"), ("convex", "rrf")):
        how = {"sides": (first, "dense"), "method": method, "missing": "zero", "depth": 30}
        found = searcher.search("heat flow", 60, mode="hybrid", interpolation=how)
        lists = [
            {hit.document.id: hit.score for hit in searcher.search("heat flow", 30, mode=side)}
            for side in (first, "dense")
        ]
        expected = Counter()
        for scores in lists:
            low, high = min(scores.values()), max(scores.values())
            for rank, (doc_id, score) in enumerate(scores.items(), 1):
                share = (
                    0.5 * (score - low) / (high - low) if method == "convex" else 1 / (60 + rank)
                )
                expected[doc_id] += share
        assert {hit.document.id: hit.score for hit in found} == pytest.approx(dict(expected))
        order = [(-hit.score, hit.document.id) for hit in found]
        assert order == sorted(order)
