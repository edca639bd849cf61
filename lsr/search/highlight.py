"""Which words of a text a query matches, and the part of the text that shows most of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lsr.encoders.tokens import whole_text
from lsr.indexes.readings import Word

EXCERPT = 300  # characters
# Within so many characters from its end an excerpt looks for a space.
WORD = 30


class Match(NamedTuple):
    """A part of a text, ``text[start:end]``, with a term or a word of the query."""

    start: int
    end: int
    term: str
    literal: bool


def matches(tokenizer: Any, text: str, terms: Mapping[str, bool]) -> list[Match]:
    """Every word of `text` with a token among `terms`, in order.

    Args:
        tokenizer: the encoder's, a fast one.
        text: of a document.
        terms: term → whether it is the query's own. A word with several terms takes an own one,
            and among equals its first.
    """
    encoding = whole_text(tokenizer).encode(text, add_special_tokens=False)
    found: dict[int, str] = {}
    for word, token in zip(encoding.word_ids, encoding.tokens, strict=True):
        if word is None or token not in terms:
            continue
        if word not in found or (terms[token] and not terms[found[word]]):
            found[word] = token
    return [
        Match(*span, found[word], terms[found[word]])
        for word in sorted(found)
        if (span := encoding.word_to_chars(word))
    ]


def word_matches(
    words: Iterable[Word], added: Iterable[str], own: Mapping[str, str]
) -> list[Match]:
    """Return the words of a text that are words of the query, in order.

    Args:
        words: of the text.
        added: words that feedback added to the query.
        own: the query's own words → as it writes them.
    """
    shown = {word: (word, False) for word in added} | {w: (name, True) for w, name in own.items()}
    return [Match(word.start, word.end, *shown[word.word]) for word in words if word.word in shown]


def without_overlaps(matched: Iterable[Match]) -> list[Match]:
    """Return matches in order; of those that overlap the query's own, and then the longest."""
    ordered = sorted(matched, key=lambda m: (not m.literal, m.start - m.end, m.start))
    taken = bytearray(max((match.end for match in ordered), default=0))
    kept = []
    for match in ordered:
        if not any(taken[match.start : match.end]):
            taken[match.start : match.end] = b"\1" * (match.end - match.start)
            kept.append(match)
    return sorted(kept)


def excerpt(text: str, matched: Sequence[Match], size: int = EXCERPT) -> tuple[str, list[Match]]:
    """Return the part of a text with the most matches, and these matches by their place in it.

    It begins and ends at a word where it can, and shows with "…" where the text goes on.

    Args:
        text: of a document.
        matched: in order, without overlaps.
        size: the length of the part, in characters.
    """
    start = kept = 0
    if len(text) > size and matched:
        ends = [match.end for match in matched]
        inside = [
            bisect_right(ends, first.start + size) - number for number, first in enumerate(matched)
        ]
        first = inside.index(max(inside))
        start = min(matched[first].start, len(text) - size)
        kept = ends[first + inside[first] - 1]
        # A text may have no spaces, as Chinese has none: no match is given up for one.
        if (space := text.find(" ", start, matched[first].start)) >= 0:
            start = space + 1
    end = start + size
    if end < len(text) and (space := text.rfind(" ", max(kept, end - WORD), end + 1)) >= 0:
        end = space
    before = "… " if start else ""
    after = " …" if end < len(text) else ""
    shift = len(before) - start
    return before + text[start:end] + after, [
        match._replace(start=match.start + shift, end=match.end + shift)
        for match in matched
        if start <= match.start and match.end <= end
    ]
