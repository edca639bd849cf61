"""Filters of indexes/lucene.py against Python's own comparison of the numbers."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.sparse import csr_array

from lsr.documents import Document, metadata_of
from lsr.indexes.lucene import LuceneIndex

# Around powers of two where doubles begin to stand for several integers, around powers of ten,
# where decimals get longer, and beyond the largest double.
CENTRES = [0, 5, 2**53, 2**53 + 4, 2**54, 10**16, 10**17, 2**63, 2**64, 2**70, 10**22, 10**40]
NUMBERS: list[int | float] = sorted(
    {sign * (centre + step) for centre in CENTRES for step in range(-3, 4) for sign in (1, -1)}
    | {10**400, -(10**400), 10**400 + 1, int(1.7976931348623157e308)}
)
NUMBERS += [0.5, -0.0, 5.0, 0.1, 1e22, 2.0**53, -(2.0**63), 1e300, 5e-324, 1.7976931348623157e308]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """An index in three segments: each document has a number, and its digits as a string."""
    folder = tmp_path_factory.mktemp("numbers")
    with LuceneIndex.create(folder / "index", ["a"]) as index:
        for part in range(3):
            of_part = range(part, len(NUMBERS), 3)
            batch = [
                Document(f"d{n}", metadata={"x": NUMBERS[n], "digits": json.dumps(NUMBERS[n])})
                for n in of_part
            ]
            index.add(batch, csr_array(np.ones((len(batch), 1), dtype=np.int32)), new=True)
            index.commit({})
        yield index


def found(index, key, value):
    return index.matching({key: value})


def meeting(condition):
    return sorted(f"d{n}" for n, number in enumerate(NUMBERS) if condition(number))


@pytest.mark.parametrize("part", range(5))
def test_equality_is_that_of_numbers_however_they_are_written(numbers, part):
    for number in NUMBERS[part::5]:
        expected = meeting(lambda other, number=number: Fraction(other) == Fraction(number))
        assert found(numbers, "x", number) == expected
        assert found(numbers, "x", json.dumps(number)) == expected
        if abs(number) < 2**53 and float(number).is_integer():
            assert found(numbers, "x", float(number)) == expected
            assert found(numbers, "x", f"{number:.1f}") == expected
            assert found(numbers, "x", f"{int(number)}00e-2") == expected


BOUNDS = [None, *(number for number in NUMBERS if abs(Fraction(number)) < 2**1024)]


@pytest.mark.parametrize("low", BOUNDS[::9] + BOUNDS[-3:], ids=lambda low: f"{low!r:.20}")
def test_ranges_are_those_of_exact_numbers(numbers, low):
    for high in BOUNDS[::2]:
        if low is not None and high is not None and low > high:
            continue
        expected = meeting(
            lambda n, high=high: (low is None or low <= n) and (high is None or n <= high)
        )
        assert found(numbers, "x", (low, high)) == expected, high


def test_strings_are_no_numbers(numbers):
    assert found(numbers, "digits", (None, None)) == []
    assert found(numbers, "digits", (2**53, None)) == []
    assert found(numbers, "digits", "5.00") == []
    assert len(found(numbers, "digits", "5.0")) == 1
    assert found(numbers, "x", "five") == []


@pytest.mark.parametrize("text", ["x" * 1000, "x" * 1001, "é" * 40_000])
def test_a_string_of_any_length_is_found_by_the_whole_of_it(tmp_path, text):
    with LuceneIndex.create(tmp_path / "index", ["a"]) as index:
        documents = [Document("one", metadata={"x": text}), Document("other", metadata={"x": "x"})]
        index.add(documents, csr_array(np.ones((2, 1), dtype=np.int32)), new=True)
        index.commit({})
        assert found(index, "x", text) == ["one"]
        assert found(index, "x", text[:-1] + "y") == []


def test_an_item_of_a_list_is_enough(tmp_path):
    with LuceneIndex.create(tmp_path / "index", ["a"]) as index:
        items = [1, 2.5, True, "b", 2**60 + 1]
        index.add(
            [Document("d", metadata={"x": items, "none": []})],
            csr_array(np.ones((1, 1), dtype=np.int32)),
        )
        index.commit({})
        for value in (*items, "2.50", "true", (2, 3), (2**60 + 1, 2**60 + 1)):
            assert found(index, "x", value) == ["d"]
        for value in (2, "a", False, (2.6, 2**60), 2**60):
            assert found(index, "x", value) == []
        assert index.documents(["d"])[0].metadata == {"x": items, "none": []}


def test_the_keys_are_those_of_all_segments_and_follow_commits(tmp_path):
    with LuceneIndex.create(tmp_path / "index", ["a"]) as writer:
        writer.commit({})
        with LuceneIndex.open(tmp_path / "index", ["a"]) as index:
            with pytest.raises(ValueError, match="filter 'x': .* there is no metadata"):
                index.check_filters({"x": 1})
            one = csr_array(np.ones((1, 1), dtype=np.int32))
            writer.add([Document("d", metadata={"x": 1, "a": {"b": ["c"]}})], one)
            writer.commit({})
            writer.add([Document("e", metadata={"é": "1"})], one)
            writer.commit({})
            index.refresh()
            assert index.metadata_keys == {"x", "a.b", "é"}
            index.check_filters({"x": 1, "a.b": 1})
            with pytest.raises(ValueError, match="filter 'b': .*the keys are a.b, x, é$"):
                index.check_filters({"x": 1, "b": 1})
            writer.add([Document("f", metadata={f"k{n:02}": n for n in range(20)})], one)
            writer.commit({})
            index.refresh()
            with pytest.raises(ValueError, match=r"a.b, k00, .*k08 and 13 more$"):
                index.check_filters(["b"])


def test_a_key_of_deleted_documents_alone_is_no_error(tmp_path):
    with LuceneIndex.create(tmp_path / "index", ["a"]) as index:
        documents = [Document("d", metadata={"gone": 1}), Document("e", metadata={"x": 1})]
        index.add(documents, csr_array(np.ones((2, 1), dtype=np.int32)))
        index.commit({})
        index.delete(["d"])
        index.commit({})
        index.check_filters(["gone", "x"])
        assert found(index, "gone", 1) == found(index, "gone", (0, 2)) == []


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"x": math.nan}, "document 'd': x must be finite, got nan"),
        ({"x": object()}, "document 'd': x must be a string, .* got object"),
        ({"x": b"a"}, "document 'd': x must be a string, .* got bytes"),
        ({"x": [{"a": 1}]}, "an item of x must be a string, .* got an object"),
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
