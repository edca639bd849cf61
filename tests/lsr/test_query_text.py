"""The text query language: what is an operator, and what stays plain."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.filter import LONGEST_PATTERN, LONGEST_TEXT
from lsr.query_text import MOST_OPERATORS, Clause, read_query

KEYS = {"kind", "year"}


def clause(text, written, sign="", field=None, match="words", edits=0):
    return Clause(text, sign, field, match, edits, written[-1] in '"”“＂»«', written)


@pytest.mark.parametrize(
    ("query", "text", "clauses"),
    [
        ('"heat flow" wing', "heat flow wing", [clause("heat flow", '"heat flow"')]),
        ("“heat flow”", "heat flow", [clause("heat flow", "“heat flow”")]),
        ("-„heat flow“ x", "x", [clause("heat flow", "-„heat flow“", "-")]),
        (
            "„heat flow” ‟a”",
            "heat flow a",
            [clause("heat flow", "„heat flow”"), clause("a", "‟a”")],
        ),
        ("+＂heat flow＂", "heat flow", [clause("heat flow", "+＂heat flow＂", "+")]),
        ("title:«a b»", "a b", [clause("a b", "title:«a b»", field="title")]),
        ("»a b« ”c”", "a b c", [clause("a b", "»a b«"), clause("c", "”c”")]),
        ("cat +dog -fish", "cat dog", [clause("dog", "+dog", "+"), clause("fish", "-fish", "-")]),
        ('cat -"a fish"', "cat", [clause("a fish", '-"a fish"', "-")]),
        ('+"1"', "1", [clause("1", '+"1"', "+")]),
        ("+well-known, x", "well-known , x", [clause("well-known", "+well-known", "+")]),
        ("-don't x", "x", [clause("don't", "-don't", "-")]),
        ("+C++ x", "C++ x", [clause("C++", "+C++", "+")]),
        ("title:wing x", "wing x", [clause("wing", "title:wing", field="title")]),
        ('-title:"a b" x', "x", [clause("a b", '-title:"a b"', "-", "title")]),
        ("kind:function x", "x", [clause("function", "kind:function", field="kind")]),
        ("-year:1950 x", "x", [clause("1950", "-year:1950", "-", "year")]),
        ("kind:a* x", "x", [clause("a*", "kind:a*", field="kind")]),
        ("aero* x", "aero x", [clause("aero", "aero*", match="prefix")]),
        ("+aero*", "aero", [clause("aero", "+aero*", "+", match="prefix")]),
        ("wing~, x", "wing , x", [clause("wing", "wing~", match="fuzzy", edits=1)]),
        ("laminar~", "laminar", [clause("laminar", "laminar~", match="fuzzy", edits=2)]),
        ("-wing~2 x", "x", [clause("wing", "-wing~2", "-", match="fuzzy", edits=2)]),
        ("title:wi*", "wi", [clause("wi", "title:wi*", field="title", match="prefix")]),
        ('rock "n" roll', "rock n roll", [clause("n", '"n"')]),
    ],
)
def test_operators(query, text, clauses):
    read = read_query(query, KEYS)
    assert read.text == text
    assert list(read.clauses) == clauses
    assert read.notices == ()


@pytest.mark.parametrize(
    "query",
    [
        "",
        "  heat \n flow ",
        "well-known state-of-the-art",
        "C++ and C#",
        "+1 -40 +-5",
        "a - b + c -- d",
        "ls --flag -_private",
        "note: this",
        "http://x.org/a:b",
        "at 10:30",
        "std::vector title:: kind:",
        '5" disk and 3" disk',
        "don't say 'this'",
        "**kwargs f(*args) 2*3 *bold*",
        "~/folder a~b",
        ":-) -_-",
        '"" " "',
        r"\-escaped",
        "other:field",
    ],
)
def test_plain_text_stays_plain(query):
    assert read_query(query, KEYS) == (query, query, (), ())


@pytest.mark.parametrize(
    ("query", "notice"),
    [
        ('+say "hello', 'the quote " at character 6 is never closed: all of the query is plain'),
        ('a " b', 'the quote " at character 3 is never closed'),
        ("-title:“x", "the quote “ at character 8 is never closed"),
        ("+a " * (MOST_OPERATORS + 1), "the query has 101 operators, of at most 100: all of it is"),
        ("wing~3 x", "wing~3 is plain text: a word takes ~, ~1 or ~2"),
        ("wing~0.8", "wing~0.8 is plain text"),
    ],
)
def test_what_cannot_be_read_is_plain_and_said(query, notice):
    read = read_query(query)
    assert (read.text, read.words, read.clauses) == (query, query, ())
    assert notice in read.notices[0]


def test_a_phrase_has_no_distance():
    read = read_query('"heat flow"~2')
    assert read.notices == (
        '"heat flow"~2: the words of a phrase follow each other, and ~2 is plain text',
    )
    assert [one.text for one in read.clauses] == ["heat flow"]


@pytest.mark.parametrize(
    ("before", "after", "longest", "what"),
    [
        ('-"', '"', LONGEST_TEXT, "an operator"),
        ("-", "", LONGEST_TEXT, "an operator"),
        ("kind:", "", LONGEST_TEXT, "an operator"),
        ("-", "*", LONGEST_PATTERN, "a pattern"),
        ("+title:", "~2", LONGEST_PATTERN, "a pattern"),
    ],
)
def test_what_is_too_long_is_plain_and_said(before, after, longest, what):
    read = read_query(f"{before}{'x' * longest}{after} +y", KEYS)
    assert len(read.clauses) == 2 and read.notices == ()
    read = read_query(f"{before}{'x' * (longest + 1)}{after} +y", KEYS)
    assert read.clauses == (clause("y", "+y", "+"),)
    (notice,) = read.notices
    assert notice.endswith(
        f" is plain text: {what} takes at most {longest:,} characters, got {longest + 1:,}"
    )
    assert len(notice) < 300


@pytest.mark.parametrize("mark", "\u200e\u200f\u202a\u202e\u2066\u2069")
def test_marks_of_direction_turn_no_operator_off(mark):
    query = 'wing -plate +"heat flow" -title:a kind:b aero* x~1'
    for place in (" ", "-", "+", ":", '"', "*"):
        assert read_query(mark + query.replace(place, mark + place + mark), KEYS) == read_query(
            query, KEYS
        )
    plain = f"5{mark} well-known"
    assert read_query(plain) == (plain, plain, (), ())


def test_patterns_are_read_by_encoders_and_are_no_words():
    read = read_query("heat aero* +flo* wing~")
    assert read.text == "heat aero flo wing"
    assert read.words == "heat"


@given(st.text("ab1:\"“”„«»＂+-*~ ,.\ntitle'\u200e", max_size=40) | st.text(max_size=40))
@settings(max_examples=1000, deadline=None)
def test_any_text_is_read(query):
    read = read_query(query, {"a", "b"})
    for one in read.clauses:
        assert one.written in re.sub("[\u200e\u200f\u202a-\u202e\u2066-\u2069]", "", query)
        assert one.text in one.written
        assert one.decides or one.scores
        assert one.text.strip() or one.of_metadata
    if not read.clauses:
        assert read.text == read.words == query
    else:
        assert " ".join(read.text.split()) == read.text
        # What is denied is not looked for, and what remains is in its order.
        rest = iter(query)
        assert all(character in rest for character in read.text.replace(" ", ""))
    assert read_query(query, {"a", "b"}) == read


@given(st.text(st.characters(exclude_characters='"“”„‟＂«»+-:*~')))
def test_text_without_the_characters_of_operators_comes_back(query):
    assert read_query(query, {"a", "b"}) == (query, query, (), ())
