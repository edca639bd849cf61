"""The synonyms of an index: a file in Solr's format in its generation's folder.

The words of queries have them, and so do texts that a filter asks for by `contains`, also where it
says what is deleted. Documents keep the words that they hold, so that nothing is indexed anew when
synonyms change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lsr.building.durable import write_durably
from lsr.filter import excerpt
from lsr.indexes.lucene import LuceneIndex

NAME = "synonyms.txt"
# The ends of lines as Java reads them: others, such as U+2028, stand inside a line.
_END = re.compile(r"\r\n|\n|\r")
# Words of a rule. Lucene stores each beside each.
MOST_ENTRIES = 1_000
# A character that a backslash makes plain.
_ESCAPED = re.compile(r"\\(.)")
# Signs that join words or stand after them: a reader expects that they do not count.
_JOINING = frozenset("-‐–'’./()")


def read_rules(folder: Path) -> str | None:
    """Return the rules of a generation's folder, if there are any.

    Raises:
        ValueError: the file is not UTF-8.
    """
    path = folder / NAME
    try:
        return path.read_text(encoding="utf-8") if path.exists() else None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from error


def write_rules(folder: Path, rules: str | None) -> None:
    """Store rules in a generation's folder; None removes them."""
    if rules is None:
        (folder / NAME).unlink(missing_ok=True)
    else:
        write_durably(folder / NAME, rules)


def use_rules(index: LuceneIndex) -> None:
    """Give an index the synonyms that lie beside it.

    Raises:
        ValueError: they are no rules; the message says how others are stored.
    """
    folder = index.path.parent
    try:
        index.set_synonyms(read_rules(folder))
    except ValueError as error:
        raise ValueError(
            f"{folder / NAME} cannot be read: {error}. `lsr synonyms DIR FILE` stores others in "
            "its place, `lsr synonyms DIR --remove` removes them"
        ) from error


def count_rules(rules: str) -> int:
    """Return how many lines hold a rule."""
    return sum(1 for _ in _lines(rules))


def check_rules(rules: str) -> None:
    """Raise ValueError where a line gives no word a synonym, or has more than MOST_ENTRIES.

    Lucene would pass over the one, and take very long for the other.
    """
    for number, line in _lines(rules):
        sides = [[one for one in map(str.strip, side) if one] for side in _sides(line)]
        entries = sum(map(len, sides))
        if entries > MOST_ENTRIES:
            raise ValueError(
                f"synonyms, line {number}: the rule has {entries:,} entries, of at most "
                f"{MOST_ENTRIES:,}"
            )
        if not all(sides) or entries < 2:
            raise ValueError(
                f"synonyms, line {number}: {excerpt(line)} gives no word a synonym; a rule is "
                "'car, automobile' or 'colour => color'"
            )


def losses(rules: str, index: LuceneIndex) -> list[str]:
    """Return a sentence on each entry whose signs the analyzer drops: C++ is read as c.

    Args:
        rules: those of the index.
        index: with the analyzer that reads them.
    """
    entries = [
        (number, _ESCAPED.sub(r"\1", entry).strip())
        for number, line in _lines(rules)
        for side in _sides(line)
        for entry in side
    ]
    told = []
    for (number, entry), words in zip(
        entries, index.words([entry for _, entry in entries]), strict=True
    ):
        kept = {place for word in words for place in range(word.start, word.end)}
        if any(
            not (place in kept or sign.isalnum() or sign.isspace() or sign in _JOINING)
            for place, sign in enumerate(entry)
        ):
            read = " ".join(word.word for word in words)
            told.append(f"synonyms, line {number}: {excerpt(entry)} is read as {excerpt(read)}")
    return told


def _lines(rules: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is to hold a rule."""
    for number, line in enumerate(_END.split(rules), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line


def _sides(line: str) -> list[list[str]]:
    """Return the entries of a rule: those before the arrow and those after it, or all."""
    return [_split(side, ",") for side in _split(line, "=>")]


def _split(text: str, sign: str) -> list[str]:
    """Return what stands between the places of a sign before which there is no backslash."""
    parts, at = [], 0
    for part in _ESCAPED.sub("  ", text).split(sign):
        parts.append(text[at : at + len(part)])
        at += len(part) + len(sign)
    return parts


def carry_rules_over(folder: Path, index: LuceneIndex) -> str | None:
    """Keep the synonyms of a generation in the one that follows it, if its analyzer can read them.

    Args:
        folder: of the generation before.
        index: of the generation that follows.

    Returns:
        Why they were dropped, in a sentence; None where they were not, or there were none.
    """
    try:
        rules = read_rules(folder)
        index.set_synonyms(rules)
    except ValueError as error:
        return (
            f"dropped the synonyms, which the analyzer of language {index.language!r} cannot read "
            f"({error})"
        )
    write_rules(index.path.parent, rules)
    return None
