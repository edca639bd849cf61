"""Filters in Lucene against their definition in plain Python, `filter_matches`."""

import math
import random

import numpy as np
import pytest
from scipy.sparse import csr_array

from lsr.documents import Document, metadata_of
from lsr.filter import (
    And,
    Comparison,
    Exists,
    HasAll,
    HasAny,
    In,
    Not,
    Or,
    Range,
    kind_of,
    span_of,
)
from lsr.filter_text import parse
from lsr.indexes.buffers import WordQueries
from lsr.indexes.filters import LONGEST, check_filter, indexed
from lsr.indexes.lucene import LuceneIndex

# Integers around the powers of two where doubles begin to stand for several of them.
INTEGERS = [
    *(
        sign * (2**power + step)
        for power in (0, 52, 53, 54, 62)
        for step in (-1, 0, 1, 3)
        for sign in (1, -1)
    ),
    *(0, 5, 7, 2**63 - 1, -(2**63), 2**63 - 512, 10**17, 10**17 + 1),
]
FLOATS = [0.5, -0.0, 5.0, 0.1, 1e22, 2.0**53, -(2.0**63), 2.0**63, 1e300, 5e-324, -1.5, 7.000001]
STRINGS = [
    "",
    "a",
    "b",
    "B",
    "ab",
    "é",
    "\U0001f600",
    "\uffff",
    "5",
    "true",
    "a" * 1000,
    "a" * 1001,
]
DAYS = [
    *("2025-01-01", "2025-01-02", "2024-12-31T23:59:59.999999Z", "2025-01-01T00:00:00+01:00"),
    *("2025-01-01T12:00", "2025-01-01T12:00:00.000001Z", "1969-12-31", "0001-01-01", "9999-12-31"),
    *("2025-01-02T00:00:00.000001-00:00", "2025-01-01 13:00:00+01:00"),
]
POOLS = {
    "n": INTEGERS,
    "f": FLOATS,
    "mixed": [*INTEGERS[:9], *FLOATS, *STRINGS, True, False],
    "s": STRINGS,
    "flag": [True, False],
    "day": DAYS,
    "when or what": [*DAYS, "soon", "2025", 2025],
    "a.b": [1, 2, "x"],
    "a.c.d": ["x", "y", 2.0],
}


def random_metadata(rng):
    found = {}
    for key in rng.sample(list(POOLS), rng.randint(0, len(POOLS))):
        values = rng.choices(POOLS[key], k=rng.choice([1, 1, 1, 0, 2, 3]))
        found[key] = values[0] if len(values) == 1 and rng.random() < 0.7 else values
    return found


def random_value(rng, key, types):
    """A value that the key's types allow to compare with: one of its pool, mostly."""
    wanted = rng.choice(
        [kind for kind in ("string", "integer", "float", "boolean", "date") if kind in types[key]]
    )
    if wanted == "date":
        return parse(f"d = {rng.choice(DAYS).replace(' ', 'T')}").value
    pool = {
        "string": [value for value in POOLS[key] if isinstance(value, str)] + ["zz"],
        "integer": INTEGERS,
        "float": FLOATS,
        "boolean": [True, False],
    }[wanted]
    return rng.choice(pool)


def random_condition(rng, types):
    key = rng.choice(list(types))
    choice = rng.random()
    if choice < 0.1:
        return Exists(rng.choice([key, key.split(".")[0]]))
    if choice < 0.3:
        values = tuple(random_value(rng, key, types) for _ in range(rng.randint(1, 5)))
        return rng.choice([In, HasAny, HasAll])(key, values)
    value = random_value(rng, key, types)
    kind = kind_of(value)
    if kind == "boolean":
        return Comparison(key, rng.choice(["=", "!="]), value)
    dates = kind == "string" and "date" in types[key] or kind == "string" and len(value) > LONGEST
    if dates:  # a string that is a date, or a very long one, has no order
        return Comparison(key, rng.choice(["=", "!="]), value)
    if choice < 0.5:
        other = random_value(rng, key, types)
        if kind_of(other) == kind and not (kind == "string" and len(other) > LONGEST):
            low, high = sorted((value, other), key=lambda one: span_of(one)[0])
            low, high = rng.choice([(low, high), (low, None), (None, high)])
            return Comparison(key, rng.choice(["=", "!="]), Range(low, high))
    return Comparison(key, rng.choice(["=", "!=", "<", "<=", ">", ">="]), value)


def random_filter(rng, types, depth=0):
    choice = rng.random()
    if depth > 3 or choice < 0.5:
        return random_condition(rng, types)
    if choice < 0.65:
        return Not(random_filter(rng, types, depth + 1))
    parts = tuple(random_filter(rng, types, depth + 1) for _ in range(rng.randint(2, 3)))
    return rng.choice([And, Or])(parts)


class Collection:
    """An index of several segments, with what should be in it: metadata and impacts by id."""

    def __init__(self, path, rng):
        self.rng = rng
        self.index = LuceneIndex.create(path, ["a", "b"])
        self.metadata, self.impacts = {}, {}
        self.added = 0

    def change(self, n_new, n_replaced, n_deleted):
        old = list(self.metadata)
        ids = [f"d{self.added + i}" for i in range(n_new)]
        self.added += n_new
        ids += self.rng.sample(old, min(n_replaced, len(old)))
        documents = [
            Document(
                doc_id,
                text=" ".join(self.rng.choices(["wing", "heat", "flow"], k=self.rng.randint(0, 4))),
                metadata=random_metadata(self.rng),
            )
            for doc_id in ids
        ]
        impacts = np.array(
            [[self.rng.randint(0, 3), self.rng.randint(1, 9)] for _ in ids], np.int32
        )
        self.index.add(documents, csr_array(impacts))
        for document, row in zip(documents, impacts, strict=True):
            self.metadata[document.id] = metadata_of(document.metadata)
            self.impacts[document.id] = row
        gone = self.rng.sample(sorted(self.metadata), min(n_deleted, len(self.metadata) - 1))
        self.index.delete(gone)
        for doc_id in gone:
            del self.metadata[doc_id], self.impacts[doc_id]
        self.index.commit({})

    def check(self, condition, matches):
        expected = sorted(
            d for d, metadata in self.metadata.items() if matches(condition, metadata)
        )
        assert self.index.matching(condition) == expected, str(condition)
        assert self.index.count(condition) == len(expected)
        passing = self.index.passing(condition)
        assert passing.sum() == len(expected)
        in_place = []
        for name, n in self.index.segments():
            in_place += self.index.ids_of_segment(name, n)
        assert sorted(in_place[number] for number in np.flatnonzero(passing).tolist()) == expected
        query = np.array([[self.rng.randint(1, 5), self.rng.randint(0, 2)]], np.int32)
        k = self.rng.choice([1, 3, 1000])
        (hits,) = self.index.search(csr_array(query), k, filter=condition)
        scores = [(int(self.impacts[doc_id] @ query[0]), doc_id) for doc_id in expected]
        ranked = sorted((-score, doc_id) for score, doc_id in scores if score > 0)
        assert hits == [(doc_id, -score) for score, doc_id in ranked[:k]], str(condition)
        words = WordQueries([{"wing": (3, 0), "heat": (1, 0)}], 0.9, 0.4)
        (everything,) = self.index.search(csr_array(query), 1000, words=words)
        (hits,) = self.index.search(csr_array(query), k, words=words, filter=condition)
        assert hits == [hit for hit in everything if hit[0] in set(expected)][:k], str(condition)


def compare(path, seed, rounds, filters, matches):
    rng = random.Random(seed)
    collection = Collection(path, rng)
    with collection.index:
        collection.change(60, 0, 0)
        for _ in range(rounds):
            collection.change(rng.randint(1, 30), rng.randint(0, 10), rng.randint(0, 25))
            types = collection.index.metadata_types
            for _ in range(filters):
                collection.check(random_filter(rng, types), matches)


def test_random_filters_match_what_their_definition_says(tmp_path, matches):
    compare(tmp_path / "index", 0, 6, 50, matches)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_thousands_of_random_filters_match_what_their_definition_says(tmp_path, seed, matches):
    compare(tmp_path / "index", seed, 20, 50, matches)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """An index of three segments: a number a document, and its digits as a string."""
    values = [*INTEGERS, *FLOATS]
    folder = tmp_path_factory.mktemp("numbers")
    with LuceneIndex.create(folder / "index", ["a"]) as index:
        for part in range(3):
            of_part = range(part, len(values), 3)
            batch = [
                Document(f"d{n}", metadata={"x": values[n], "s": str(values[n])}) for n in of_part
            ]
            index.add(batch, csr_array(np.ones((len(batch), 1), dtype=np.int32)), new=True)
            index.commit({})
        yield index, {f"d{n}": {"x": value} for n, value in enumerate(values)}


@pytest.mark.parametrize("operator", ["=", "!=", "<", "<=", ">", ">="])
def test_integers_and_floats_compare_exactly(numbers, operator, matches):
    index, metadata = numbers
    for value in (*INTEGERS, *FLOATS, 4.9999999, math.nextafter(2.0**53, 0)):
        condition = Comparison("x", operator, value)
        expected = sorted(doc_id for doc_id in metadata if matches(condition, metadata[doc_id]))
        assert index.matching(condition) == expected, str(condition)


def added(path, *metadata):
    index = LuceneIndex.create(path / "index", ["a"])
    documents = [Document(f"d{n}", metadata=of) for n, of in enumerate(metadata)]
    index.add(documents, csr_array(np.ones((len(documents), 1), dtype=np.int32)), new=True)
    index.commit({})
    return index


@pytest.mark.parametrize("text", ["x" * 1000, "x" * 1001, "é" * 40_000])
def test_a_string_of_any_length_equals_only_itself(tmp_path, text):
    with added(tmp_path, {"x": text}, {"x": "x"}) as index:
        assert index.matching(Comparison("x", "=", text)) == ["d0"]
        assert index.matching(Comparison("x", "=", text[:-1] + "y")) == []
        assert index.matching(Comparison("x", ">", text[:1000])) == (
            ["d0"] if len(text) > 1000 else []
        )


def test_long_lists_and_deep_trees_are_evaluated(tmp_path):
    with added(tmp_path, *({"x": n, "day": f"2025-01-{n:02}"} for n in range(1, 31))) as index:
        evens = tuple(range(0, 9000, 2))
        assert index.count(In("x", evens)) == 15
        days = " or ".join(f"day = 2025-01-{n:02}" for n in range(1, 29, 2))
        assert (
            index.count(parse(f"({days}) and {' and '.join(f'x != {n}' for n in range(40, 60))}"))
            == 14
        )
        assert index.count(parse("not " * 40 + "x = 5")) == 1


def test_an_index_forgets_filters_that_its_changes_outdate(tmp_path):
    with (
        added(tmp_path, {"x": 1}, {"x": 2}) as writer,
        LuceneIndex.open(tmp_path / "index", ["a"]) as index,
    ):
        condition = parse("x = 1 or not exists(x)")
        assert index.matching(condition) == ["d0"]
        one = csr_array(np.ones((1, 1), dtype=np.int32))
        writer.add([Document("d2", metadata={"x": 1})], one)
        writer.commit({})
        assert index.matching(condition) == ["d0"]
        index.refresh()
        assert index.matching(condition) == ["d0", "d2"]
        writer.delete(["d0"])
        writer.commit({})
        index.refresh()
        assert index.matching(condition) == ["d2"]
        writer.add([Document("d2")], one)
        writer.force_merge()
        writer.commit({})
        index.refresh()
        assert index.matching(condition) == ["d2"]
        state = index.state
        index.refresh()
        assert index.state == state


TYPES = {
    "zip": frozenset({"string"}),
    "year": frozenset({"integer"}),
    "price": frozenset({"integer", "float"}),
    "flag": frozenset({"boolean"}),
    "day": frozenset({"string", "date"}),
    "owner.name": frozenset({"string"}),
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "yaer = 1",
            "no document of this index has a value under the key 'yaer'; the keys are year",
        ),
        ("exists(own)", r"under the key 'own'; .*owner.name \(string\)"),
        ("owner = x", "under the key 'owner'; the keys are owner.name"),
        (
            "zip = 12345",
            "'zip' holds strings in this index, and 12345 is a number: write zip = \"12345\";",
        ),
        ("zip > 5", 'write zip > "5"'),
        ("zip = 2025-01-01", 'is a date: write zip = "2025-01-01"'),
        ("zip in (a, 5)", "'zip' holds strings .* 5 is a number"),
        ("year = '1950'", '"1950" is a string: write year = 1950'),
        ("year = abc", r'"abc" is a string; the keys are'),
        ("price = true", "'price' holds integers and floats in this index, and true is a boolean"),
        ("flag = 'true'", "write flag = true"),
        ("day = 5", "'day' holds strings and dates in this index, and 5 is a number"),
        ("day >= '2025-01-01'", '"2025-01-01" is a string, .* write 2025-01-01 without quotes'),
        (f"zip < {'x' * 1001}", "must have at most 1,000 characters, got 1,001"),
        ("year = 1 and not (zip = a or x = 1)", "the key 'x'"),
    ],
)
def test_filters_that_do_not_fit_an_index_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        check_filter(parse(text), TYPES)


@pytest.mark.parametrize(
    "text",
    ["zip = '5'", "year = 5.5", "price > 5", "flag != true", "day = '2025-01-01'", "day > soon"]
    + ["day = 2025-01-01..", "exists(owner)", "exists(owner.name)", "price in (1, 2.5)"],
)
def test_filters_that_fit(text):
    check_filter(parse(text), TYPES)


def test_the_keys_that_an_error_names_are_few_and_the_nearest_first():
    types = {f"k{n:02}": frozenset({"integer"}) for n in range(20)} | {
        "colour": frozenset({"string"})
    }
    with pytest.raises(
        ValueError, match=r"the keys are colour \(string\), k00 .*k08 .* and 11 more$"
    ):
        check_filter(parse("color = red"), types)
    with pytest.raises(ValueError, match="there is no metadata$"):
        check_filter(parse("color = red"), {})


def test_types_are_those_of_all_segments_and_follow_commits(tmp_path):
    with LuceneIndex.create(tmp_path / "index", ["a"]) as writer:
        writer.commit({})
        with LuceneIndex.open(tmp_path / "index", ["a"]) as index:
            assert index.metadata_types == {}
            one = csr_array(np.ones((1, 1), dtype=np.int32))
            writer.add([Document("d", metadata={"x": 1, "a": {"b": ["c"]}})], one)
            writer.commit({})
            writer.add([Document("e", metadata={"é": True, "x": [1.5, "2025-01-01"]})], one)
            writer.commit({})
            index.refresh()
            assert index.metadata_types == {
                "x": {"integer", "float", "string", "date"},
                "a.b": {"string"},
                "é": {"boolean"},
            }


def test_a_key_of_deleted_documents_alone_is_no_error(tmp_path):
    with added(tmp_path, {"gone": 1}, {"x": 1}) as index:
        index.delete(["d0"])
        index.commit({})
        assert index.matching(parse("gone = 1")) == index.matching(parse("exists(gone)")) == []
        assert index.matching(parse("gone != 1")) == ["d1"]


def test_what_is_indexed_of_metadata():
    found = indexed({"a.b.c": ["x", "x", 1, 1.0, True], "empty": [], "day": "1970-01-01T00:00:01Z"})
    assert found.terms == [
        ("string.a.b.c", "x"),
        ("boolean.a.b.c", "true"),
        ("string.day", "1970-01-01T00:00:01Z"),
    ]
    assert found.longs == [("integer.a.b.c", 1), ("date.day", 1_000_000)]
    assert found.doubles == [("float.a.b.c", 1.0)]
    assert found.keys == ["a", "a.b", "a.b.c", "day"]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"x": math.nan}, "document 'd': x must be finite, got nan"),
        ({"x": object()}, "document 'd': x must be a string, .* got object"),
        ({"x": b"a"}, "document 'd': x must be a string, .* got bytes"),
        ({"x": [{"a": 1}]}, "an item of x must be a string, .* got an object"),
        (
            {"x": 2**63},
            r"document 'd': x must be an integer in \[−2\^63, .* got 9223372036854775808",
        ),
        ({"x": [1, -(10**50)]}, "an item of x must be an integer .* got a larger one"),
    ],
)
def test_what_metadata_cannot_hold_is_refused_and_not_left_out(tmp_path, metadata, message):
    with LuceneIndex.create(tmp_path / "index", ["a"]) as index:
        one = csr_array(np.ones((1, 1), dtype=np.int32))
        with pytest.raises(ValueError, match=message):
            index.add([Document("d", metadata=metadata)], one)


def test_metadata_of_metadata_are_the_same():
    once = metadata_of({"a": {"b": {"c": 1}, "d": None}, "e": [1, "x", None, False]})
    assert once == {"a.b.c": 1, "e": [1, "x", False]}
    assert metadata_of(once) == once
