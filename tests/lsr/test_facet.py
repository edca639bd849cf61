"""Facets as strings and as JSON."""

from datetime import UTC, date, datetime

import pytest

from lsr.facet import Facet, read_facet
from lsr.filter import Range

FORMS = [
    ("kind", {"key": "kind"}, Facet("kind")),
    (" kind : 50 ", {"key": "kind", "limit": 50}, Facet("kind", 50)),
    ('"dc:date x"', {"key": "dc:date x"}, Facet("dc:date x")),
    ("'a\\'b\": c': 3", {"key": "a'b\": c", "limit": 3}, Facet("a'b\": c", 3)),
    (
        "year: ..1950, 1951..2000,2000..",
        {"key": "year", "ranges": [{"to": 1950}, {"from": 1951, "to": 2000}, "2000.."]},
        Facet("year", ranges=(Range(None, 1950), Range(1951, 2000), Range(2000, None))),
    ),
    (
        "at: 2025-01-01..2025-01-31, 2025-02-01T12:00:00Z..",
        {
            "key": "at",
            "ranges": [
                {"from": {"date": "2025-01-01"}, "to": {"date": "2025-01-31"}},
                {"from": {"date": "2025-02-01T12:00:00Z"}},
            ],
        },
        Facet(
            "at",
            ranges=(
                Range(date(2025, 1, 1), date(2025, 1, 31)),
                Range(datetime(2025, 2, 1, 12, tzinfo=UTC), None),
            ),
        ),
    ),
    (
        'name: "a, b".."c: d", x..',
        {"key": "name", "ranges": [{"from": "a, b", "to": "c: d"}, "x.."]},
        Facet("name", ranges=(Range("a, b", "c: d"), Range("x", None))),
    ),
    ("year: 1950", {"key": "year", "limit": 1950}, Facet("year", 1950)),
    ("price: 0.5..1e3", {"key": "price", "ranges": ["0.5..1e3"]}, None),
]


@pytest.mark.parametrize(("text", "json", "facet"), FORMS)
def test_forms_of_one_facet(text, json, facet):
    found = read_facet(text)
    assert found == read_facet(json) == read_facet(found) == read_facet(str(found))
    assert facet in (None, found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "a facet must be KEY, KEY: LIMIT or KEY: RANGE, RANGE, got ''"),
        ("a b", "got 'a b'; a key needs quotes"),
        ("kind:", "a facet must be KEY"),
        ("kind: 0", r"the limit of a facet must be in \[1, 10,000\], got 0"),
        ("kind: 10001", r"must be in \[1, 10,000\], got 10001"),
        ("year: 5-10", "facet 'year: 5-10': expected a range: LOW..HIGH, LOW.. or ..HIGH; got"),
        ("year: 5..10,", "a range is missing, or a quote is never closed"),
        ("year: 5..10, ,6..", "expected a range"),
        ("year: 'a..", "a range is missing, or a quote is never closed"),
        ("year: 10..5", "facet 'year: 10..5': the bounds of a range must be low ≤ high, got 10..5"),
        ("year: 1..a", "the bounds of a range must be of one type"),
        ("year: 05..7", "05 begins with 0"),
        ("and: 5", "expected a key"),
        (5, "a facet must be a string or an object, got 5"),
        ({}, "a facet must hold key, .* got nothing"),
        ({"key": "a", "k": 1}, "got 'key', 'k'"),
        ({"key": 5}, "a key must be a string"),
        ({"key": "a", "limit": True}, "must be a whole number, got True"),
        ({"key": "a", "limit": "5"}, "must be a whole number, got '5'"),
        ({"key": "a", "limit": 5, "ranges": ["1.."]}, "a limit of values or ranges, got both"),
        ({"key": "a", "ranges": "1.."}, "ranges must be a list of at least one, got '1..'"),
        ({"key": "a", "ranges": []}, "ranges must be a list of at least one"),
        ({"key": "a", "ranges": [{}]}, r"ranges\[0\] must be a range"),
        ({"key": "a", "ranges": ["1..", 5]}, r"ranges\[1\] must be a range .* got 5"),
        (
            {"key": "a", "ranges": [{"from": {"date": "x"}}]},
            r"ranges\[0\].from.date must be an",
        ),
        ({"key": "a", "ranges": ["1.."] * 101}, "at most 100 ranges, got 101"),
    ],
)
def test_what_is_no_facet(given, message):
    with pytest.raises(ValueError, match=message):
        read_facet(given)
