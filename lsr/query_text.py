"""Text queries: words to look for, and operators that say what must match and what must not.

::

    heat flow           words: each one scores, none must match
    "heat flow"         a phrase that must match, in title and text
    +wing  -plate       a word that must match, and one that must not
    -"flat plate"       a phrase that must not match
    title:wing          a word of the title that must match; title:"heat flow" and -title:wing too
    kind:function       a value that the metadata must have, if they have this key
    year:1950..1960     a range of values, as in `lsr.filter`
    aero*               all words that begin so
    wing~1  wing~2      all words that differ by so many edits; wing~ is as in `lsr.filter`

Patterns may have + or -, and stand in the title: ``+aero*``, ``-title:wing~1``. What must match
scores too, metadata aside. Everything else is plain text, and a text without operators is as it is:

- An operator begins after white space or at the start: ``well-known``, ``C++``, ``5" disk`` are
  plain.
- + and - stand before a letter, a quote or a field: ``-40``, ``+1``, ``a - b``, ``--flag`` are
  plain.
- A field is ``title`` or a key of the metadata, and nothing is between it, its colon and its
  value: ``title: wing``, ``http://x``, ``10:30`` are plain.
- Where a quote that opens a phrase is never closed, all of the text is plain.
- Each of these quotes opens and closes phrases: " “ ” „ ‟ ＂ « ». An apostrophe is none.
- Marks of the direction of writing, which nobody sees, are ignored.
- A phrase, a word and a value have at most 1,000 characters and a pattern 100: what is longer is
  plain, and a notice says so, as for a quote that is never closed.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Literal, NamedTuple

from lsr.filter import LONGEST_PATTERN, LONGEST_TEXT, Match, excerpt, usual_edits

# Operators of a query.
MOST_OPERATORS = 100
TITLE = "title"
_QUOTES = '"“”„‟＂«»'
# Marks of the direction of writing: copied text brings them along.
_MARKS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_OPERATOR = re.compile(rf"[{_QUOTES}+\-:*~]")
_START = re.compile(r"(?<!\S)([+-]?)(?=\S)")
_FIELD = re.compile(rf"([^\s{_QUOTES}:]+):(?=[^\s:])")
_PHRASE = re.compile(rf"[{_QUOTES}]([^{_QUOTES}]*)[{_QUOTES}]")
_OPENING = re.compile(rf"[{_QUOTES}]")
_WORD = re.compile(rf"[^\s{_QUOTES}]*[^\s{_QUOTES},;]")
_OF_PATTERN = rf"[^\W_][^\s{_QUOTES}*~:/()\[\]{{}}<>=,;&|@#]*"
_PUNCTUATION = r"[,.;:!?)\]]*(?!\S)"
_PATTERN = re.compile(rf"({_OF_PATTERN})(\*|~[12]?){_PUNCTUATION}")
_NO_PATTERN = re.compile(rf"{_OF_PATTERN}~[\d.]+{_PUNCTUATION}")
_DISTANCE = re.compile(r"~\d*")


class Clause(NamedTuple):
    """What one operator asks for."""

    text: str  # its words or pattern, or a value of metadata
    sign: Literal["", "+", "-"]
    field: str | None  # TITLE or a key of the metadata
    match: Match
    edits: int
    quoted: bool
    written: str

    @property
    def longest(self) -> int:
        """How many characters its text may have."""
        return LONGEST_TEXT if self.match == "words" else LONGEST_PATTERN

    @property
    def of_metadata(self) -> bool:
        """Whether it asks for a value of metadata."""
        return self.field not in (None, TITLE)

    @property
    def decides(self) -> bool:
        """Whether it decides what matches, and does not only score."""
        return bool(self.sign or self.field or self.match == "words")

    @property
    def scores(self) -> bool:
        """Whether it is looked for."""
        return self.sign != "-" and not self.of_metadata


class QueryText(NamedTuple):
    """A text query as it was read."""

    text: str  # all that is looked for, without operators: what encoders read
    words: str  # of that, all but patterns
    clauses: tuple[Clause, ...]
    notices: tuple[str, ...]  # on what looks like an operator and is none


def read_query(text: str, keys: Container[str] = ()) -> QueryText:
    """Read a text query.

    Args:
        text: any text.
        keys: of the metadata, that may be fields.
    """
    if not _OPERATOR.search(text):
        return QueryText(text, text, (), ())
    given, text = text, _MARKS.sub("", text)
    found: list[tuple[int, int, Clause]] = []
    notices: list[str] = []
    end = 0
    for start in _START.finditer(text):
        if start.start() < end:
            continue  # inside a phrase
        at = start.end()
        field = _FIELD.match(text, at)
        if field and (field[1] == TITLE or field[1] in keys):
            at = field.end()
        else:
            field = None
        if _OPENING.match(text, at) and not _PHRASE.match(text, at):
            return _plain(
                given,
                f"the quote {text[at]} at character {at + 1} is never closed: all of the query is "
                "plain text",
            )
        clause, end = _clause(text, start, field[1] if field else None, at)
        if clause and len(clause.text) > clause.longest:
            what = "an operator" if clause.match == "words" else "a pattern"
            notices.append(
                f"{excerpt(clause.written)} is plain text: {what} takes at most "
                f"{clause.longest:,} characters, got {len(clause.text):,}"
            )
        elif clause:
            found.append((start.start(), end, clause))
            if clause.quoted and (distance := _DISTANCE.match(text, end)):
                notices.append(
                    f"{clause.written}{distance[0]}: the words of a phrase follow each other, and "
                    f"{distance[0]} is plain text"
                )
        elif odd := _NO_PATTERN.match(text, at):
            notices.append(f"{odd[0]} is plain text: a word takes ~, ~1 or ~2")
    if len(found) > MOST_OPERATORS:
        return _plain(
            given,
            f"the query has {len(found):,} operators, of at most {MOST_OPERATORS}: all of it is "
            "plain text",
        )
    if not found:
        return QueryText(given, given, (), tuple(notices))
    return QueryText(
        _without(text, found, patterns=True),
        _without(text, found, patterns=False),
        tuple(clause for _, _, clause in found),
        tuple(notices),
    )


def _plain(text: str, notice: str) -> QueryText:
    return QueryText(text, text, (), (notice,))


def _clause(
    text: str, start: re.Match[str], field: str | None, at: int
) -> tuple[Clause | None, int]:
    """Return what the operator asks for whose words begin at a place, if it is one, and its end."""
    sign = start[1]
    match: Match = "words"
    edits = 0
    of_metadata = field not in (None, TITLE)
    if phrase := _PHRASE.match(text, at):
        words, end = phrase[1], phrase.end()
    elif (pattern := _PATTERN.match(text, at)) and not of_metadata:
        words, kind, end = pattern[1], pattern[2], pattern.end(2)
        match = "prefix" if kind == "*" else "fuzzy"
        edits = 0 if kind == "*" else int(kind[1:] or usual_edits(words))
    elif (word := _WORD.match(text, at)) and (sign or field):
        words, end = word[0], word.end()
    else:
        return None, 0
    # A sign before a number is the number's own.
    if sign and not (field or phrase or words[0].isalpha()):
        return None, 0
    if not words.strip() and not of_metadata:
        return None, end
    written = text[start.start() : end]
    return Clause(words, sign, field, match, edits, bool(phrase), written), end  # type: ignore[arg-type]


def _without(text: str, found: list[tuple[int, int, Clause]], *, patterns: bool) -> str:
    """Return the text without operators and what is not looked for, with patterns' words or not."""
    parts = []
    last = 0
    for start, end, clause in found:
        parts.append(text[last:start])
        if clause.scores and (patterns or clause.match == "words"):
            parts.append(f" {clause.text} ")
        last = end
    parts.append(text[last:])
    return " ".join("".join(parts).split())
