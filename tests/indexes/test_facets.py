"""Facets in Lucene against a plain count over the metadata."""

import random
from collections import Counter

import numpy as np
import pytest
from scipy.sparse import csr_array

from lsr.documents import Document, metadata_of
from lsr.facet import Counted, Counts, Facet, RangeCount, ValueCount, read_facet
from lsr.filter import And, Comparison, Exists, Not, Or, Range
from lsr.filter_text import parse
from lsr.indexes.lucene import LuceneIndex

INTEGERS = [0, 1, -1, 5, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 10**17 + 1]
FLOATS = [0.5, -0.0, 5.0, 0.1, 1e22, 2.0**53, -(2.0**63), 2.0**63, 1e300, 5e-324, -1.5, 1.0]
STRINGS = ["", "a", "b", "B", "é", "\U0001f600", "\uffff", "5", "true", "a" * 1000]
LONG = ["a" * 1001, "b" * 5000 + "\U0001f600", "é" * 1002]
DAYS = ["2025-01-01", "2025-01-02", "2024-12-31T23:59:59.999999Z", "2025-01-01T01:00+02:00", "now"]
POOLS = {
    "n": INTEGERS,
    "f": FLOATS,
    "mixed": [*INTEGERS, *FLOATS, *STRINGS, *LONG, True, False],
    "s": STRINGS + LONG,
    "flag": [True, False],
    "day": DAYS,
    "a.b: c": [1, 2, "x", 2.0],
    "many": [f"v{n}" for n in range(300)],
}
RANGES = {
    "n": [Range(0, 5), Range(None, 0), Range(2**53 + 1, None), Range(-(2**63), 2**63 - 1)],
    "f": [Range(0, 5), Range(0.1, 0.5), Range(None, -1.5), Range(1, None)],
    "mixed": [Range(-1, 1), Range("a", "b"), Range(None, "B"), Range(2**53, None)],
    "s": [Range("a", "z"), Range(None, ""), Range("é", None)],
    "day": [parse("d = 2025-01-01..2025-01-01").value, parse("d = ..2024-12-31").value],
    "many": [Range("v1", "v2")],
}


def random_metadata(rng):
    found = {}
    for key in rng.sample(list(POOLS), rng.randint(0, len(POOLS))):
        values = rng.choices(POOLS[key], k=rng.choice([1, 1, 1, 0, 2, 3, 9]))
        found[key] = values[0] if len(values) == 1 and rng.random() < 0.7 else values
    return found


def random_facet(rng):
    key = rng.choice(list(POOLS))
    if key in RANGES and rng.random() < 0.4:
        return Facet(key, ranges=tuple(rng.choices(RANGES[key], k=rng.randint(1, 4))))
    return Facet(key, rng.choice([1, 2, 5, 10, 1000]))


def random_filter(rng, depth=0):
    choice = rng.random()
    if depth < 2 and choice < 0.4:
        parts = tuple(random_filter(rng, depth + 1) for _ in range(2))
        return rng.choice([And, Or, lambda parts: Not(parts[0])])(parts)
    key = rng.choice(list(RANGES))
    if choice < 0.6:
        return Exists(key)
    return Comparison(key, "=", rng.choice(RANGES[key]))


def values_of(metadata, key):
    """The different values of a key, with whether they are true or false: 1 equals True."""
    given = metadata.get(key, [])
    values = map(one_of_equals, given if isinstance(given, list) else [given])
    return {(isinstance(value, bool), value) for value in values}


def one_of_equals(value):
    whole = isinstance(value, float) and value.is_integer() and -(2**63) <= value < 2**63
    return int(value) if whole else value


def order(counted):
    value = counted.value
    kind = 0 if isinstance(value, bool) else 2 if isinstance(value, str) else 1
    return -counted.documents, kind, value


def expected_counts(metadata, condition, facets, matches):
    passing = [of for of in metadata.values() if condition is None or matches(condition, of)]
    found = []
    for facet in facets:
        having = [values_of(of, facet.key) for of in passing]
        n = sum(map(bool, having))
        if facet.ranges:
            ranges = [Comparison(facet.key, "=", one) for one in facet.ranges]
            counts = [sum(matches(one, of) for of in passing) for one in ranges]
            of_ranges = list(map(RangeCount, facet.ranges, counts))
            found.append(Counted(facet.key, n, [], 0, of_ranges))
            continue
        counter = Counter(value for values in having for value in values)
        ranked = sorted((ValueCount(v, n) for (_, v), n in counter.items()), key=order)
        shown = ranked[: facet.limit]
        found.append(Counted(facet.key, n, shown, len(ranked) - len(shown), []))
    return Counts(len(passing), found)


def as_told(counts):
    """Counts in a form in which 1, 1.0 and True differ."""
    return repr(counts)


class Changing:
    """An index of several segments with deletions, and the metadata that should be in it."""

    def __init__(self, path, seed):
        self.rng = random.Random(seed)
        self.index = LuceneIndex.create(path, ["a"])
        self.metadata = {}
        self.added = 0

    def change(self):
        ids = [f"d{self.added + n}" for n in range(self.rng.randint(1, 60))]
        self.added += len(ids)
        ids += self.rng.sample(sorted(self.metadata), min(5, len(self.metadata)))
        documents = [Document(doc_id, metadata=random_metadata(self.rng)) for doc_id in ids]
        self.index.add(documents, csr_array(np.ones((len(ids), 1), np.int32)))
        self.metadata |= {of.id: metadata_of(of.metadata) for of in documents}
        gone = self.rng.sample(sorted(self.metadata), len(self.metadata) // 8)
        self.index.delete(gone)
        for doc_id in gone:
            del self.metadata[doc_id]
        self.index.commit({})

    def check(self, filters, matches):
        for _ in range(filters):
            facets = [random_facet(self.rng) for _ in range(self.rng.randint(0, 3))]
            facets = [facet for facet in facets if facet.key in self.index.metadata_types]
            condition = random_filter(self.rng) if self.rng.random() < 0.8 else None
            try:
                found = self.index.counts(condition, facets)
            except ValueError:
                assert self.added < 100  # a key or a type is not there yet
                continue
            expected = expected_counts(self.metadata, condition, facets, matches)
            assert as_told(found) == as_told(expected), (str(condition), facets)


def test_random_facets_are_those_of_a_plain_count(tmp_path, matches):
    changing = Changing(tmp_path / "index", 0)
    with changing.index:
        segments = []
        for _ in range(7):
            changing.change()
            changing.check(20, matches)
            segments.append(len(changing.index.segments()))
        assert max(segments) > 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_thousands_of_random_facets_are_those_of_a_plain_count(tmp_path, seed, matches):
    changing = Changing(tmp_path / "index", seed)
    with changing.index:
        for _ in range(20):
            changing.change()
            changing.check(50, matches)
        changing.index.force_merge()
        changing.index.commit({})
        changing.check(50, matches)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """An index of a few documents, each in a segment of its own."""
    metadata = [
        {"kind": ["a", "b", "a"], "year": 1950, "tall": True},
        {"kind": "b", "year": [1950, 1950.0, 1951.5], "tall": [True, False]},
        {"kind": "c" * 3000, "year": "unknown", "of": {"day": "2025-01-01"}},
        {"kind": [], "of": {"day": "2025-01-02T12:00Z"}},
    ]
    with LuceneIndex.create(tmp_path_factory.mktemp("kinds") / "index", ["a"]) as index:
        for number, of in enumerate(metadata):
            document = Document(f"d{number}", metadata=metadata_of(of))
            index.add([document], csr_array(np.ones((1, 1), np.int32)), new=True)
            index.commit({})
        assert len(index.segments()) == len(metadata)
        yield index


@pytest.mark.parametrize(
    ("facet", "expected"),
    [
        ("kind", (3, [("b", 2), ("a", 1), ("c" * 3000, 1)], 0, [])),
        ("kind: 1", (3, [("b", 2)], 2, [])),
        ("year", (3, [(1950, 2), (1951.5, 1), ("unknown", 1)], 0, [])),
        ("tall", (2, [(True, 2), (False, 1)], 0, [])),
        ("of.day", (2, [("2025-01-01", 1), ("2025-01-02T12:00Z", 1)], 0, [])),
        ("of.day: 2025-01-02.., ..2025-01-01", (2, [], 0, [1, 1])),
        ("year: ..1950, 1950..1952", (3, [], 0, [2, 2])),
    ],
)
def test_what_is_counted(kinds, facet, expected):
    facet = read_facet(facet)
    (found,) = kinds.counts(None, [facet]).facets
    documents, values, others, ranges = expected
    of_ranges = list(map(RangeCount, facet.ranges, ranges))
    wanted = Counted(facet.key, documents, [ValueCount(*of) for of in values], others, of_ranges)
    assert as_told(found) == as_told(wanted)


def test_totals_without_facets(kinds):
    assert kinds.counts() == Counts(4, [])
    assert kinds.counts(parse("kind = b")) == Counts(2, [])


@pytest.mark.parametrize(
    ("facet", "message"),
    [
        (
            "knd",
            "facet 'knd': no document .* the key 'knd'; the keys are kind .string., of",
        ),
        ("of", "no document of this index has a value under the key 'of'"),
        ("kind: 1..2", "facet 'kind: 1..2': .* 'kind' holds strings in this index, and 1 is a num"),
        ("tall: 1..2", "'tall' holds booleans in this index"),
    ],
)
def test_a_facet_that_does_not_fit(kinds, facet, message):
    with pytest.raises(ValueError, match=message):
        kinds.counts(None, [read_facet(facet)])


def test_an_index_without_metadata(tmp_path):
    with LuceneIndex.create(tmp_path / "index", ["a"]) as index:
        assert index.counts() == Counts(0, [])
        with pytest.raises(ValueError, match="there is no metadata"):
            index.counts(None, [Facet("kind")])
