"""Text queries with operators through searches, against Lucene's own parser and plain searches."""

import json
import random
import re

import pytest

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.filter import And, Comparison, Contains, Not, Or
from lsr.indexes import jvm
from lsr.indexes.words import MOST_EXPANSIONS
from lsr.request import ask
from lsr.search import Searcher
from lsr.search.highlight import Match
from lsr.search.notices import of_document, of_query

N = 400


@pytest.fixture(scope="module")
def searcher(tmp_path_factory, dense_model):
    """Some of the standard library's documentation, with all three sides."""
    folder = tmp_path_factory.mktemp("asked")
    documents = list(open_corpus("pydoc"))[:: 8000 // N]
    with (folder / "corpus.jsonl").open("w") as file:
        for number, one in enumerate(documents):
            record = {"_id": one.id, "title": one.title, "text": one.text, **one.metadata}
            file.write(json.dumps(record | {"number": number % 7}) + "\n")
    build_index(
        open_corpus(folder / "corpus.jsonl"), folder / "index", "lexical", dense=dense_model
    )
    with Searcher(folder / "index") as opened:
        yield opened


def ids(hits):
    return sorted(hit.document.id for hit in hits)


def random_query(rng, documents):
    """A query of ours and the same of Lucene's parser, where what decides has a sign."""
    ours, theirs = [], []
    for place in range(rng.randint(1, 4)):
        words = re.findall(r"[A-Za-z]{2,}", rng.choice(documents).content)
        words = [word for word in words if word not in ("AND", "OR", "NOT")]
        at = rng.randrange(len(words))
        kind = rng.choice(["word", "must", "phrase", "not"] if place else ["must", "phrase"])
        phrase = f'"{" ".join(words[at : at + rng.randint(1, 3)])}"'
        clause = {"word": words[at], "must": f"+{words[at]}", "phrase": phrase}.get(kind)
        clause = clause or "-" + rng.choice([phrase, words[at]])
        ours.append(clause)
        theirs.append(f"+{clause}" if kind == "phrase" else clause)
    return " ".join(ours), " ".join(theirs)


def test_phrases_must_and_must_not_match_what_lucene_s_parser_says(searcher, lucene_parser):
    rng = random.Random(19)
    parser = jvm.call(lucene_parser, searcher.index.path)
    documents = searcher.index.documents(searcher.index.matching())
    sizes = []
    for _ in range(80):
        ours, theirs = random_query(rng, documents)
        expected = jvm.call(parser.matching, theirs)
        assert ids(searcher.search(ours, N, mode="words")) == expected, ours
        condition = searcher.asked(ask(ours)).request.filter
        # Other sides match by what they score, but nothing that the conditions exclude.
        for mode in ("sparse", "dense", "hybrid"):
            found = ids(searcher.search(ours, N, mode=mode))
            if condition:
                assert set(found) <= set(searcher.index.matching(condition))
                assert set(expected) <= set(found)
        sizes.append(len(expected))
    assert sum(size > 1 for size in sizes) > 20 and len(set(sizes)) > 10


def test_a_query_without_operators_is_what_it_was(searcher):
    for query in ("copy a file", "the state-of-the-art", 'say "hello', "C++ -40"):
        for mode in ("words", "learned", "sparse", "dense", "hybrid"):
            plain = searcher.search(query, N, mode=mode, operators=False)
            assert searcher.search(query, N, mode=mode) == plain
            assert plain or query != "copy a file"


def test_conditions_are_a_filter_and_the_rest_is_plain_text(searcher):
    query = '"the file" +open -class title:os number:3 -kind:module a~b'
    asked = searcher.asked(ask(query, filter="exists(module)", mode="sparse"))
    assert asked.request.query == "the file open os a~b"
    assert asked.request.filter == And(
        (
            searcher.asked(ask("x", filter="exists(module)")).request.filter,
            Contains("the file"),
            Contains("open"),
            Not(Contains("class")),
            Contains("os", "title"),
            Comparison("number", "=", 3),
            Not(Comparison("kind", "=", "module")),
        )
    )
    assert not asked.request.operators
    assert asked.words == {"file": 1, "open": 1, "os": 1, "b": 1}
    assert asked.names == {"file": "file", "open": "open", "os": "os", "b": "b"}
    for mode in ("words", "learned", "sparse", "dense", "hybrid"):
        found = searcher.search('"the file" -kind:module', N, mode=mode)
        written = searcher.search(
            "the file", N, mode=mode, filter='contains("the file") and kind != module'
        )
        assert found == written and found
        for hit in found[:3]:
            why = searcher.explain('"the file" -kind:module', hit.document.id, mode=mode)
            assert why.score == hit.score
            assert (
                why
                == searcher.explain(
                    "the file", hit.document.id, mode=mode, filter='contains("the file")'
                )
                or mode == "hybrid"
            )


def test_values_of_metadata_are_read_as_the_types_that_the_key_has(searcher):
    def condition(query):
        return searcher.asked(ask(f"x {query}")).request.filter

    assert condition("number:3") == Comparison("number", "=", 3)
    assert str(condition("number:2..4")) == "number = 2..4"
    assert condition('kind:"3"') == Comparison("kind", "=", "3")
    assert condition("kind:3") == Comparison("kind", "=", "3")
    # A value is no filter.
    inside = "'a'or(exists(kind))"
    assert condition(f"kind:{inside}") == Comparison("kind", "=", inside)
    with pytest.raises(ValueError, match='`number = "some"`: .number. holds integers in this'):
        condition("number:some")
    with pytest.raises(ValueError, match='`number = "3"`'):
        condition('number:"3"')


def test_a_value_may_be_of_two_types(tmp_path):
    records = [{"_id": "a", "text": "x", "zip": "5"}, {"_id": "b", "text": "x", "zip": 5}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, records)))
    build_index(open_corpus(tmp_path / "c.jsonl"), tmp_path / "index", "bm25")
    with Searcher(tmp_path / "index") as opened:
        assert ids(opened.search("x zip:5")) == ["a", "b"]
        assert ids(opened.search('x zip:"5"')) == ["a"]
        assert opened.asked(ask("x zip:5")).request.filter == Or(
            (Comparison("zip", "=", "5"), Comparison("zip", "=", 5))
        )


def test_a_word_that_all_documents_hold_is_found_where_it_must_match(tmp_path, lucene_parser):
    texts = [f"wing number{n} {'flutter' if n % 50 == 0 else 'plate'}" for n in range(2000)]
    lines = [json.dumps({"_id": str(n), "text": text}) for n, text in enumerate(texts)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    build_index(open_corpus(tmp_path / "c.jsonl"), tmp_path / "index", "bm25")
    with Searcher(tmp_path / "index") as opened:
        parser = jvm.call(lucene_parser, opened.index.path)
        assert (
            len(opened.search("wing number7", 2000)) == 1
        )  # the weight of wing is next to nothing
        for query in ("+wing number7", "+wi* number7", "wing number7 -flutter"):
            found = opened.search(query, 2000)
            assert ids(found) == jvm.call(parser.matching, query), query
            assert found[0].document.id == "7"
        assert len(found) == 1960


@pytest.mark.parametrize("query", ["-file", "kind:function", '-"a b" -kind:x'])
def test_a_query_that_looks_for_nothing_is_refused(searcher, query):
    with pytest.raises(ValueError, match="only says what must match or must not: add a word"):
        searcher.search(query)


def test_patterns_score_as_the_words_that_they_stand_for(searcher):
    asked = searcher.asked(ask("read* wing", mode="words"))
    expected = searcher.index.expand("read", None, N).words
    assert {"read", "reader"} <= set(expected)
    assert set(asked.words) == {"wing", *expected}
    idf = searcher.passes.statistics.idf(list(expected))
    for word in expected:  # each weighs as the most frequent one
        assert asked.words[word] * idf[word] == pytest.approx(min(idf.values()))
    assert asked.names == {"wing": "wing"}
    found = searcher.search("read*", N, mode="words")
    assert ids(found) == searcher.index.matching(Contains("read", None, "prefix"))
    why = searcher.explain("read*", found[0].document.id, mode="words")
    assert {term.term for term in why.terms} <= set(expected)
    assert not any(term.literal_in_query for term in why.terms)
    assert why.score == sum(term.contribution for term in why.terms) == found[0].score


def test_fuzzy_words_weigh_less_with_each_edit(searcher):
    asked = searcher.asked(ask("fil~1", mode="words"))
    expected = searcher.index.expand("fil", 1, N).words
    idf = searcher.passes.statistics.idf(list(expected))
    least = min(idf.values())
    assert {0, 1} >= set(expected.values()) and "file" in expected
    for word, edits in expected.items():
        share = 1 - edits / 3
        assert asked.words[word] * idf[word] == pytest.approx(share * least)
    # Two edits of two letters leave nothing, but such a word matches, and so it must score.
    asked = searcher.asked(ask("fi~2", mode="words"))
    expected = searcher.index.expand("fi", 2, MOST_EXPANSIONS).words
    idf = searcher.passes.statistics.idf(list(expected))
    assert 2 in expected.values() and set(asked.words) == set(expected)
    for word, edits in expected.items():
        share = max(0.1, 1 - edits / 2)
        assert asked.words[word] * idf[word] == pytest.approx(share * min(idf.values()))


@pytest.mark.parametrize("query", ["+q~1", "+x~2"])
def test_words_of_which_edits_leave_nothing_are_hits(tmp_path, query):
    texts = ["a", "ab", "x", "zebra"]
    lines = [json.dumps({"_id": text, "text": text}) for text in texts]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    build_index(open_corpus(tmp_path / "c.jsonl"), tmp_path / "index", "bm25", language="standard")
    with Searcher(tmp_path / "index") as opened:
        request = ask(query, mode="words")
        found = opened.search(request)
        assert len(found) == opened.counts(request).total > 0
        assert of_query(opened, request, found=True) == []
        assert of_query(opened, ask("vvvvv~1", mode="words"), found=False) == [
            "vvvvv~1 stands for no word of the index",
            "the query holds no word that the analyzer of language 'standard' keeps and no pattern "
            "that stands for a word of the index: nothing can match it",
        ]


def test_what_is_not_read_is_said(searcher):
    def said(query, **settings):
        request = ask(query, **settings)
        return of_query(searcher, request, found=bool(searcher.search(request)))

    assert said('"of the" file') == [
        "\"of the\": the analyzer of language 'en' keeps no word of it, so that it is no condition"
    ]
    total = searcher.index.expand("s", None, 1).total
    assert total > MOST_EXPANSIONS
    assert said("s*") == [
        f"s* stands for {total} words of the index, of which 50 score: the nearest, and then "
        "those in most documents"
    ]
    assert said("file qqq*") == ["qqq* stands for no word of the index"]
    assert said("file +qqq") == ['no document matches `contains("qqq")`']
    assert said("file", filter="number > 6") == ["no document matches `number > 6`"]
    assert said('say "file')[0].startswith("the quote")
    assert said('say "file', operators=False) == []


def test_an_explained_document_that_is_no_hit_is_said_to_be_none(searcher):
    request = ask("file +open", mode="words", filter="number > 2")
    hits = set(ids(searcher.search(request, N)))
    others = set(searcher.index.matching()) - hits
    assert hits and others
    for doc_id in [*sorted(hits)[:5], *sorted(others)[:5]]:
        (document,) = searcher.index.documents([doc_id])
        said = of_document(searcher, request, document, searcher.explain(request, doc_id))
        assert said == (
            []
            if doc_id in hits
            else [
                'the document does not match `number > 2 and contains("open")`, and so it is no hit'
            ]
        )
    assert not searcher.index.matches(Contains("file"), "nobody")


def test_texts_show_the_words_of_phrases_and_patterns(searcher):
    highlight = searcher.highlighter(ask('"heat flow" -wing aero* title:x', mode="words"))
    text = "Heat of the wing, flows; os x"
    assert highlight(text) == [
        Match(0, 4, "heat", True),
        Match(18, 23, "flow", True),
        Match(28, 29, "x", True),
    ]
    highlight = searcher.highlighter(ask("read*", mode="words"))
    assert highlight("a reader, reading") == [
        Match(2, 8, "reader", False),
        Match(10, 17, "read", False),
    ]


def test_many_queries_are_plain_unless_they_are_to_be_read(searcher):
    queries = ['"the file" -class', "file +open", "file", "read*", {"file": 1.0}]
    settings = {"mode": "learned"}
    plain = searcher.rank(queries, N, **settings)
    assert plain == searcher.rank(queries, N, operators=False, **settings)
    read = searcher.rank(queries, N, operators=True, **settings)
    for query, of_plain, of_read in zip(queries, plain, read, strict=True):
        found = searcher.search(query, N, **settings)
        assert of_read == [(hit.document.id, hit.score) for hit in found]
        assert (of_read != of_plain) == (query in queries[:2] + queries[3:4])
    texts = queries[:4]
    for mode in ("words", "sparse", "hybrid"):
        read = searcher.rank(texts, N, operators=True, mode=mode)
        one_by_one = [searcher.rank([text], N, operators=True, mode=mode)[0] for text in texts]
        assert [dict(of) for of in read] == [pytest.approx(dict(of)) for of in one_by_one]
        assert [len(of) for of in read] == [
            len(searcher.search(text, N, mode=mode)) for text in texts
        ]


def test_feedback_moves_what_is_read(searcher):
    settings = {"mode": "words", "feedback": {"documents": 2, "terms": 30}}
    condition = 'contains("the file") and not contains("class")'
    found = searcher.search('"the file" -class', N, **settings)
    assert found == searcher.search("the file", N, filter=condition, **settings)
    moved = searcher.explain("read*", searcher.search("read*")[0].document.id, **settings)
    own = set(searcher.index.expand("read", None, N).words)
    for term in moved.terms:
        assert term.from_feedback == (term.term not in own)
