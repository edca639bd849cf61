"""The readings of a query: the ways through its words and the synonyms that stand beside them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Word(NamedTuple):
    """A word of a text, as an analyzer makes it: lower-cased, and mostly stemmed."""

    word: str
    # The characters of the text that it was made from.
    start: int
    end: int
    position: int = 0  # in the text; stop words leave gaps
    length: int = 1  # in positions: a synonym may stand beside several words
    is_synonym: bool = False


def alternatives(words: Sequence[Word]) -> Iterator[list[list[Word]]]:
    """Yield the words of a query from left to right: of each part all that may stand there.

    Args:
        words: of one query, as `LuceneIndex.query_words` gives them.
    """
    first = 0
    while first < len(words):
        last, end = first, words[first].position + 1
        while last < len(words) and words[last].position < end:
            end = max(end, words[last].position + words[last].length)
            last += 1
        yield _paths(words[first:last], words[first].position)
        first = last


def _paths(words: Sequence[Word], start: int) -> list[list[Word]]:
    """Return the words of a part that follow each other, from a position on, in each way."""
    beginning = _beginning(words)
    positions = sorted(beginning)
    paths: list[list[Word]] = []
    unfinished: list[tuple[list[Word], int]] = [([], start)]
    while unfinished:
        path, position = unfinished.pop()
        at = bisect_left(positions, position)
        if at == len(positions):
            paths.append(path)
            continue
        # Where a stop word is left out, the next word begins later.
        following = beginning[positions[at]]
        unfinished += [([*path, word], word.position + word.length) for word in following[::-1]]
    return paths


def count_readings(words: Sequence[Word]) -> int:
    """Return how many ways there are through the words of a query, without walking them."""
    beginning = _beginning(words)
    positions = sorted(beginning)
    counts = [1] * (len(positions) + 1)  # from the position of this rank to the end
    for rank in range(len(positions) - 1, -1, -1):
        counts[rank] = sum(
            counts[bisect_left(positions, word.position + word.length)]
            for word in beginning[positions[rank]]
        )
    return counts[0]


def _beginning(words: Sequence[Word]) -> dict[int, list[Word]]:
    """Return position → the words that begin there."""
    beginning: dict[int, list[Word]] = {}
    for word in words:
        beginning.setdefault(word.position, []).append(word)
    return beginning
