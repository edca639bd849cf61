"""Filters as trees, JSON and strings; what they match is defined by `filter_matches`."""

import json
import re
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.filter import (
    DEEPEST,
    LONGEST_PATTERN,
    LONGEST_TEXT,
    MOST,
    OPERATORS,
    And,
    Comparison,
    Contains,
    Exists,
    HasAll,
    HasAny,
    In,
    Not,
    Or,
    Range,
    check_size,
    conditions,
)
from lsr.filter_json import from_json, to_json
from lsr.filter_text import LONGEST, parse, read_filter

EXAMPLE = (
    "status in (open, closed) and not amount > 100 and created_at >= 2025-01-01 "
    "and tags has any (a, b) and exists(owner)"
)
TREE = And(
    (
        In("status", ("open", "closed")),
        Not(Comparison("amount", ">", 100)),
        Comparison("created_at", ">=", date(2025, 1, 1)),
        HasAny("tags", ("a", "b")),
        Exists("owner"),
    )
)
NOON = datetime(2025, 1, 1, 12, tzinfo=UTC)

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["and", "NOT", "5", "true", "2025-01-01", "a..b", "\\", '"', "'", "(", "\n"]),
)
KEYS = TEXTS.filter(bool)
NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
DATES = st.one_of(st.dates(), st.datetimes(timezones=st.just(UTC)))
ORDERED = (TEXTS, NUMBERS, DATES)
VALUES = st.one_of(*ORDERED, st.booleans())


def _starts(value):
    day = isinstance(value, date) and not isinstance(value, datetime)
    return datetime(value.year, value.month, value.day, tzinfo=UTC) if day else value


@st.composite
def ranges(draw):
    low, high = (draw(kind) for kind in (draw(st.sampled_from(ORDERED)),) * 2)
    low, high = sorted((low, high), key=_starts)
    missing = draw(st.sampled_from(["none", "none", "low", "high"]))
    if missing == "none" and _starts(low) == _starts(high):
        high = low
    return Range(None if missing == "low" else low, None if missing == "high" else high)


@st.composite
def comparisons(draw):
    operator = draw(st.sampled_from(OPERATORS))
    kinds = [ranges(), VALUES] if operator in ("=", "!=") else [*ORDERED]
    return Comparison(draw(KEYS), operator, draw(st.one_of(*kinds)))


FIELDS = st.sampled_from([None, "title"])
PATTERNS = KEYS.filter(lambda text: not any(map(str.isspace, text)))
CONTAINS = (
    st.builds(Contains, KEYS.filter(str.strip), FIELDS)
    | st.builds(Contains, PATTERNS, FIELDS, st.just("prefix"))
    | st.builds(Contains, PATTERNS, FIELDS, st.just("fuzzy"), st.sampled_from([1, 2]))
)
LISTS = st.lists(VALUES, min_size=1, max_size=4).map(tuple)
FILTERS = st.recursive(
    st.one_of(comparisons(), KEYS.map(Exists), CONTAINS)
    | st.builds(
        lambda kind, *rest: kind(*rest), st.sampled_from([In, HasAny, HasAll]), KEYS, LISTS
    ),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(tuple).map(And),
        st.lists(inner, min_size=2, max_size=3).map(tuple).map(Or),
    ),
    max_leaves=8,
)


@given(FILTERS)
@settings(max_examples=300, deadline=None)
def test_both_forms_give_the_tree_back(tree):
    # The representation tells 1 from True, which Python's == does not.
    assert repr(parse(str(tree))) == repr(tree)
    assert repr(from_json(json.loads(json.dumps(to_json(tree))))) == repr(tree)
    assert str(parse(str(tree))) == str(tree)


@given(st.text(max_size=40) | st.text("aA1.=<>!(),'\" \\nortidex*~c", max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_filter_or_refused_in_a_sentence(text):
    try:
        tree = parse(text)
    except ValueError as error:
        assert "filter" in str(error)
    else:
        assert repr(parse(str(tree))) == repr(tree)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("and", "or", "not", "exists", "key", "op", "value", "from", "date", "x"),
                    *("contains", "match", "edits"),
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(JSONS)
@settings(max_examples=300, deadline=None)
def test_any_json_is_a_filter_or_refused_in_a_sentence(value):
    try:
        tree = from_json(value)
    except ValueError as error:
        assert "filter" in str(error)
    else:
        assert repr(from_json(to_json(tree))) == repr(tree)


def test_the_example_of_the_readme_in_its_three_forms():
    assert parse(EXAMPLE) == TREE
    assert to_json(TREE) == {
        "and": [
            {"key": "status", "op": "in", "value": ["open", "closed"]},
            {"not": {"key": "amount", "op": ">", "value": 100}},
            {"key": "created_at", "op": ">=", "value": {"date": "2025-01-01"}},
            {"key": "tags", "op": "has any", "value": ["a", "b"]},
            {"exists": "owner"},
        ]
    }
    assert read_filter(EXAMPLE) == read_filter(to_json(TREE)) == read_filter(TREE) == TREE
    assert str(TREE) == (
        'status in ("open", "closed") and not amount > 100 and created_at >= 2025-01-01 '
        'and tags has any ("a", "b") and exists(owner)'
    )


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("kind=function", Comparison("kind", "=", "function")),
        ("year=1950..1960", Comparison("year", "=", Range(1950, 1960))),
        ("year = 1.5 .. 2e3", Comparison("year", "=", Range(1.5, 2000))),
        ("year=..1960", Comparison("year", "=", Range(None, 1960))),
        ("year!=1950..", Comparison("year", "!=", Range(1950, None))),
        ("a.b-c = 1.2.3", Comparison("a.b-c", "=", "1.2.3")),
        ('\'my key\' = "a \\"b\\" \\u00e9\\n"', Comparison("my key", "=", 'a "b" é\n')),
        ("a = 'it\\'s'", Comparison("a", "=", "it's")),
        ("a = '\\ud83d\\ude00'", Comparison("a", "=", "😀")),
        ("a = '5'", Comparison("a", "=", "5")),
        ("a = 5.0", Comparison("a", "=", 5)),
        ("a = -.5", Comparison("a", "=", -0.5)),
        ("a = 9223372036854775807", Comparison("a", "=", 2**63 - 1)),
        ("a = 1e19", Comparison("a", "=", 1e19)),
        ("a = TRUE", Comparison("a", "=", True)),
        ("a = 2025-01-01", Comparison("a", "=", date(2025, 1, 1))),
        ("a = 2025-01-01T13:00+01:00", Comparison("a", "=", NOON)),
        ("notes = inside", Comparison("notes", "=", "inside")),
        ("any = all", Comparison("any", "=", "all")),
        ("a NOT IN (1, x)", Not(In("a", (1, "x")))),
        ("a has all (true)", HasAll("a", (True,))),
        (
            "a=1 or b=1 and not c=1 or d=1",
            Or(
                (
                    Comparison("a", "=", 1),
                    And((Comparison("b", "=", 1), Not(Comparison("c", "=", 1)))),
                    Comparison("d", "=", 1),
                )
            ),
        ),
        (
            "not (a=1 or b=1)",
            Not(Or((Comparison("a", "=", 1), Comparison("b", "=", 1)))),
        ),
        ("((((a=1))))", Comparison("a", "=", 1)),
    ],
)
def test_strings(text, tree):
    assert repr(parse(text)) == repr(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "character 1: expected a key, .* got an empty text"),
        ("a", "character 2: expected one of = != < <= > >=, .*`has`, got the end"),
        ("a = ", "character 4: expected a value or .., got the end"),
        ("status in open", "character 11: expected \\(, got 'open'"),
        ("status in (open, )", r"character 18: expected a value, got '\)'"),
        ("a = 1 b = 2", "character 7: expected .., `and`, `or` or the end, got 'b = 2'"),
        ("a = 1 && b = 2", "character 7: expected .*, got '&& b = 2'"),
        ("(a = 1", r"character 7: expected .*\), got the end"),
        (
            "a = b,c",
            r"character 6: expected .*, got ',c'; several values are written KEY in \(A, B",
        ),
        ("a == 1", "character 4: expected a value or .., got '= 1'"),
        ("a = in", "character 5: .* got in, which needs quotes as a key or value"),
        ("or = 1", "character 1: .* got or, which needs quotes"),
        ("a = 'x", "character 5: the quote ' is never closed"),
        ('a = "\\q"', r"character 5: \\q is not an escape"),
        ("zip = 02139", 'character 7: 02139 begins with 0: write "02139" .* or 2139 '),
        ("a = -007.5", 'write "-007.5" for the string, or -7.5'),
        ("a = 1e999", "character 5: the number 1e999 is too large"),
        ("a = 9223372036854775808", r"must be in \[−2\^63, 2\^63 − 1\], got 9223372036854775808"),
        (f"a = {'9' * 5000}", "the number 99999999999999999999… is too large"),
        ("a = 2025-02-30", "character 5: 2025-02-30 is not a date"),
        ("a = 2025-1-5", "2025-1-5 is not a date"),
        ("a = 5..1", "the bounds of a range must be low ≤ high, got 5..1"),
        ("a = 2025-01-02..2025-01-01", "low ≤ high"),
        ("a = 1..x", 'must be of one type, got 1 and "x"'),
        ("a = ..", "character 7: expected a value, got the end"),
        ("a < 1..2", "a range goes with = and != alone, got <"),
        ("a < true", "true and false have no order, got <"),
        ("a = true..", "true and false have no order"),
        ('"" = 1', "a key must be a string that is not empty"),
        ("a = '\\ud800'", "lone surrogate"),
        (" and ".join(["a = 1"] * 20_000), f"at most {LONGEST:,} characters, got"),
        (" or ".join(["a=1"] * (MOST + 1)), f"at most {MOST:,} conditions"),
        (f"a in ({','.join('1' * 1 for _ in range(MOST))})", f"at most {MOST:,} conditions"),
        ("not " * DEEPEST + "a = 1", f"at most {DEEPEST} deep"),
        ("not " * 20_000 + "a = 1", f"at most {DEEPEST} deep"),
    ],
)
def test_refused_strings_name_the_place_and_what_could_stand_there(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a"], "filter must be an object, got"),
        ({}, "filter must hold key, op and value and nothing else, got nothing"),
        ({"kind": "function"}, "A comparison is written {'key': 'kind', 'op': '=', 'value': 'func"),
        ({"and": []}, "filter.and must be a list of at least one filter"),
        ({"and": [{"exists": "a"}, {"not": 5}]}, r"filter.and\[1\].not must be an object, got 5"),
        ({"and": [], "or": []}, "filter must hold and and nothing else, got 'and', 'or'"),
        ({"key": "a", "op": "~", "value": 1}, "filter.op must be one of =, .*; got '~'"),
        ({"key": "a", "op": "="}, "filter must hold key, op and value and nothing else"),
        ({"key": "a", "op": "in", "value": "b"}, "filter.value must be a list for 'in', got 'b'"),
        ({"key": "a", "op": "in", "value": []}, "filter: a list of at least one value"),
        ({"key": "a", "op": "in", "value": [None]}, r"filter.value\[0\] must be a string"),
        ({"key": 5, "op": "=", "value": 1}, "filter: a key must be a string"),
        ({"key": "a", "op": "=", "value": None}, "filter.value must be a string, .*got None"),
        ({"key": "a", "op": "=", "value": {"date": "x"}}, "filter.value.date must be an ISO 8601"),
        ({"key": "a", "op": "=", "value": {"from": None}}, "a range needs a bound"),
        ({"key": "a", "op": "=", "value": 2**63}, r"filter: an integer must be in \[−2\^63"),
        ({"key": "a", "op": "=", "value": 10**400}, "one of 401 digits"),
        ({"exists": "a\ud800"}, "lone surrogate"),
        ({"and": [{"exists": "a"}] * (MOST + 1)}, f"at most {MOST:,} conditions"),
    ],
)
def test_refused_json_names_the_place(value, message):
    with pytest.raises(ValueError, match=message):
        from_json(value)


def test_json_of_one_filter_and_of_one_side_of_a_range():
    assert from_json({"and": [{"exists": "a"}]}) == Exists("a")
    assert from_json({"key": "a", "op": "not in", "value": [1]}) == Not(In("a", (1,)))
    range_of = {"key": "a", "op": "=", "value": {"from": None, "to": 5.0}}
    assert from_json(range_of) == Comparison("a", "=", Range(None, 5))


def test_depth_and_size_are_bounded_in_trees_and_json():
    tree = Exists("a")
    for _ in range(DEEPEST - 1):
        tree = Not(tree)
    check_size(tree)
    assert from_json(to_json(tree)) == tree
    with pytest.raises(ValueError, match=f"at most {DEEPEST} deep"):
        read_filter(Not(tree))
    with pytest.raises(ValueError, match=f"at most {DEEPEST} deep"):
        from_json({"not": to_json(tree)})
    with pytest.raises(ValueError, match=f"at most {MOST:,} conditions"):
        read_filter(In("a", tuple(range(MOST))))


def test_conditions_are_in_order():
    assert [condition.key for condition in conditions(TREE)] == [
        *("status", "amount", "created_at", "tags", "owner")
    ]


def test_values_of_python_are_brought_into_one_form():
    assert repr(Comparison("a", "=", 5.0)) == repr(Comparison("a", "=", np.int64(5)))
    assert repr(Comparison("a", "=", np.float32(0.5))) == repr(Comparison("a", "=", 0.5))
    cet = datetime(2025, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    assert Comparison("a", "=", cet) == Comparison("a", "=", NOON)
    assert Comparison("a", "=", NOON.replace(tzinfo=None)) == Comparison("a", "=", NOON)
    assert In("a", [1, 2]) == In("a", (1, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Comparison("a", "=", None), "a value must be a string, .* got None"),
        (lambda: Comparison("a", "=", float("nan")), "a number must be finite, got nan"),
        (lambda: Comparison("a", "~", 1), "the operator of a comparison must be one of"),
        (lambda: Comparison("", "=", 1), "a key must be a string that is not empty"),
        (lambda: In("a", ()), "a list of at least one value is needed"),
        (lambda: In("a", "abc"), "a list of at least one value is needed, got 'abc'"),
        (lambda: And((Exists("a"),)), "at least 2 filters are needed"),
        (lambda: Or((Exists("a"), "b = 1")), "a filter must hold filters, got 'b = 1'"),
        (lambda: Not("a = 1"), "a filter must hold filters"),
        (lambda: Range(date(2025, 1, 1), 5), "must be of one type, got 2025-01-01 and 5"),
        (
            lambda: Comparison("a", "=", datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))),
            "not in the years 1 to 9999 of UTC",
        ),
    ],
)
def test_refused_trees(make, message):
    with pytest.raises(ValueError, match=message):
        make()


DOCUMENT = {
    "n": 5,
    "f": 5.5,
    "s": "5",
    "flag": True,
    "tags": ["a", "b", 7],
    "day": "2025-01-01",
    "at": "2025-01-01T23:30:00-01:00",
    "owner.name": "Ann",
    "none": [],
}


@pytest.mark.parametrize(
    "text",
    [
        *("n = 5", "n = 5.0", "n != 6", "n >= 5", "n < 5.5", "n = 5..6", "n in (4, 5)"),
        *("f > 5", "f = 5..", "s = '5'", "s != 5", "s < a", "flag = true", "flag != false"),
        *("tags = a", "tags > 6", "tags has any (x, b)", "tags has all (a, 7)", "tags != c"),
        *("day = 2025-01-01", "day <= 2025-01-01", "day >= 2025-01-01", "day < 2025-01-02"),
        *("day = '2025-01-01'", "at = 2025-01-02", "at > 2025-01-01", "at < 2025-01-03"),
        *("at = 2025-01-02T00:30:00Z", "at = 2025-01-01..2025-01-02", "exists(owner)"),
        *("exists(owner.name)", "not exists(name)", "not exists(none)", "x != 1", "not x > 1"),
        *("x not in (1)", "n = 5 and (n = 6 or flag = true)"),
    ],
)
def test_what_a_document_matches(text, matches):
    assert matches(parse(text), DOCUMENT)


@pytest.mark.parametrize(
    "text",
    [
        *("n = '5'", "n != 5", "n < 5", "n > 5", "s = 5", "flag = 'true'", "f = 5", "f = 5..5.4"),
        *("tags = 8..9", "tags = c", "tags has all (a, c)", "tags != a", "tags not in (a, x)"),
        *("day > 2025-01-01", "day < 2025-01-01", "at = 2025-01-01", "at <= 2025-01-01"),
        *("exists(own)", "exists(none)", "x = 1", "tags = 1..6", "n = 5 and n = 6"),
    ],
)
def test_what_a_document_does_not_match(text, matches):
    assert not matches(parse(text), DOCUMENT)


@pytest.mark.parametrize(
    ("text", "tree", "as_json"),
    [
        ("contains('heat flow')", Contains("heat flow"), {"contains": "heat flow"}),
        ("contains(wing)", Contains("wing"), {"contains": "wing"}),
        (
            "CONTAINS( title , wing )",
            Contains("wing", "title"),
            {"contains": "wing", "field": "title"},
        ),
        ("contains(title)", Contains("title"), {"contains": "title"}),
        (
            "contains(aero*)",
            Contains("aero", None, "prefix"),
            {"contains": "aero", "match": "prefix"},
        ),
        ('contains("aero*")', Contains("aero*"), {"contains": "aero*"}),
        (
            'contains(title, "a,b"*)',
            Contains("a,b", "title", "prefix"),
            {"contains": "a,b", "field": "title", "match": "prefix"},
        ),
        (
            "contains(wing~)",
            Contains("wing", None, "fuzzy", 1),
            {"contains": "wing", "match": "fuzzy", "edits": 1},
        ),
        (
            "contains(laminar~)",
            Contains("laminar", None, "fuzzy", 2),
            {"contains": "laminar", "match": "fuzzy", "edits": 2},
        ),
        ("contains(laminar~1)", Contains("laminar", None, "fuzzy", 1), None),
        ("contains = contains", Comparison("contains", "=", "contains"), None),
        ("contains in (contains)", In("contains", ("contains",)), None),
    ],
)
def test_contains(text, tree, as_json):
    assert parse(text) == tree == parse(str(tree)) == from_json(to_json(tree))
    if as_json:
        assert to_json(tree) == as_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contains()", "filter, character 10: expected a value, got ')'"),
        ("contains(a b)", "expected a comma, ) or one of * ~ ~1 ~2, got 'b)'"),
        ("contains(wing~3)", "character 10: wing~3 is no pattern: * stands at the end of a word"),
        ("contains(*)", "* is no pattern"),
        ("contains(text, wing)", "into the title alone (title), got 'text'"),
        ('contains("a b"*)', "a pattern must be one word, got 'a b'"),
        ('contains(" ")', "needs a text that is not empty, got ' '"),
        (f"contains({'x' * (LONGEST_TEXT + 1)})", "words must have at most 1,000 characters"),
        (f"contains({'x' * (LONGEST_PATTERN + 1)}*)", "prefix must have at most 100 characters"),
    ],
)
def test_contains_refuses(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"contains": 5}, "filter: `contains` needs a text that is not empty, got 5"),
        ({"contains": "x", "key": "y"}, "filter must hold contains and nothing else"),
        ({"contains": "x", "match": "like"}, "`match` must be one of words, prefix, fuzzy, got"),
        ({"contains": "x", "edits": 1}, "`edits` must be 0 with match 'words', got 1"),
        ({"contains": "x", "match": "fuzzy"}, "`edits` must be 1 or 2 with match 'fuzzy', got 0"),
        ({"contains": "x", "match": "fuzzy", "edits": 1.0}, "`edits` must be 1 or 2 .* got 1.0"),
        ({"contains": "x", "match": []}, "`match` must be one of"),
    ],
)
def test_contains_refuses_json(given, message):
    with pytest.raises(ValueError, match=message):
        from_json(given)
