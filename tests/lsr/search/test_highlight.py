"""lsr/search/highlight.py: which words match, and the part of a text that shows them."""

import numpy as np
import pytest

from lsr.encoders.load import default_tokenizer
from lsr.indexes.readings import Word
from lsr.search.highlight import (
    EXCERPT,
    Match,
    excerpt,
    matches,
    without_overlaps,
    word_matches,
)


@pytest.fixture(scope="module")
def tokenizer():
    return default_tokenizer()


def test_matches_are_whole_words_in_the_case_of_the_text(tokenizer):
    text = "Memoize the HEAT; heated, reheat. Naïve memo"
    found = matches(tokenizer, text, {"heat": True, "memo": False})
    assert [(text[m.start : m.end], m.term, m.literal) for m in found] == [
        ("Memoize", "memo", False),
        ("HEAT", "heat", True),
        ("memo", "memo", False),
    ]
    (naive,) = matches(tokenizer, text, {"naive": True})
    assert text[naive.start : naive.end] == "Naïve"
    assert matches(tokenizer, text, {}) == []
    assert matches(tokenizer, "", {"heat": True}) == []


def test_a_word_of_several_terms_takes_the_query_s_own(tokenizer):
    pieces = tokenizer.tokenize("memoize")
    assert len(pieces) > 1
    first, last = pieces[0], pieces[-1]
    (match,) = matches(tokenizer, "memoize", {first: False, last: True})
    assert (match.term, match.literal) == (last, True)
    (match,) = matches(tokenizer, "memoize", {first: False, last: False})
    assert (match.term, match.literal) == (first, False)


def test_words_of_the_query_are_marked_where_the_text_has_them():
    text = "Heated wings and heat"
    words = [Word("heat", 0, 6), Word("wing", 7, 12), Word("heat", 17, 21)]
    assert word_matches(words, [], {"heat": "heating"}) == [
        Match(0, 6, "heating", True),
        Match(17, 21, "heating", True),
    ]
    assert [text[m.start : m.end] for m in word_matches(words, [], {"wing": "wing"})] == ["wings"]
    assert word_matches([], [], {"heat": "heat"}) == []
    (match,) = word_matches(words, ["wing"], {})
    assert (match.term, match.literal) == ("wing", False)


def test_of_overlapping_matches_the_query_s_own_are_kept_and_then_the_longest():
    own, longer = Match(2, 5, "own", True), Match(0, 9, "longer", False)
    after, same = Match(5, 7, "after", False), Match(2, 5, "same", False)
    assert without_overlaps([longer, same, after, own]) == [own, after]
    assert without_overlaps([after, same, longer]) == [longer]
    assert without_overlaps([Match(4, 8, "b", True), Match(0, 5, "a", True)]) == [
        Match(0, 5, "a", True)
    ]
    assert without_overlaps([]) == []


def test_offsets_count_code_points(tokenizer):
    text = "\U0001f525\U0001f525 heat \U0001f525"
    assert matches(tokenizer, text, {"heat": True}) == [Match(3, 7, "heat", True)]


def test_excerpt_moves_the_matches_along(tokenizer):
    text = "filler " * 100 + "the heat flows and heat is lost " + "filler " * 100
    part, matched = excerpt(text, matches(tokenizer, text, {"heat": True, "lost": False}))
    assert part.startswith("… ") and part.endswith(" …") and len(part) <= EXCERPT + 4
    assert [(part[m.start : m.end], m.literal) for m in matched] == [
        ("heat", True),
        ("heat", True),
        ("lost", False),
    ]


@pytest.mark.parametrize("size", [1, 7, 30, 299, 300])
def test_excerpts_of_any_size_mark_the_same_words(tokenizer, size):
    text = "".join(f"heat{' ' * (i % 3 + 1)}flow " for i in range(60))
    matched = matches(tokenizer, text, {"flow": True})
    part, inside = excerpt(text, matched, size)
    assert all(part[match.start : match.end] == "flow" for match in inside)
    assert len(inside) == part.count("flow") or size < 4


def test_an_excerpt_is_the_part_with_the_most_matches():
    random = np.random.default_rng(0)
    for _ in range(50):
        starts = np.flatnonzero(random.random(2000) < 0.02) * 3
        matched = [Match(int(start), int(start) + 2, "x", True) for start in starts]
        size = int(random.integers(5, 800))
        letters = random.choice(["x", " "], 6000, p=random.choice([[1, 0], [0.9, 0.1]]))
        _, inside = excerpt("".join(letters), matched, size)
        most = max(
            sum(first.start <= match.start and match.end <= first.start + size for match in matched)
            for first in matched
        )
        assert len(inside) == most


def test_a_short_text_is_whole(tokenizer):
    matched = matches(tokenizer, "some heat", {"heat": True})
    assert excerpt("some heat", matched) == ("some heat", matched)
    assert excerpt("", []) == ("", [])
