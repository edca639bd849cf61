"""The synonyms of an index: a file in Solr's format in its generation's folder.

They belong to queries alone. Documents keep the words that they hold, so that nothing is indexed
anew when synonyms change.
"""

from __future__ import annotations

from pathlib import Path

from lsr.building.durable import write_durably
from lsr.indexes.lucene import LuceneIndex

NAME = "synonyms.txt"


def read_rules(folder: Path) -> str | None:
    """Return the rules of a generation's folder, if there are any."""
    path = folder / NAME
    return path.read_text(encoding="utf-8") if path.exists() else None


def write_rules(folder: Path, rules: str | None) -> None:
    """Store rules in a generation's folder; None removes them."""
    if rules is None:
        (folder / NAME).unlink(missing_ok=True)
    else:
        write_durably(folder / NAME, rules)


def use_rules(index: LuceneIndex) -> None:
    """Give an index the synonyms that lie beside it.

    Raises:
        ValueError: they are no rules.
    """
    folder = index.path.parent
    try:
        index.set_synonyms(read_rules(folder))
    except ValueError as error:
        raise ValueError(f"{folder / NAME}: {error}") from error


def count_rules(rules: str) -> int:
    """Return how many lines hold a rule."""
    lines = map(str.strip, rules.splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


def carry_rules_over(folder: Path, index: LuceneIndex) -> str | None:
    """Keep the synonyms of a generation in the one that follows it, if its analyzer can read them.

    Args:
        folder: of the generation before.
        index: of the generation that follows.

    Returns:
        Why they were dropped, in a sentence; None where they were not, or there were none.
    """
    rules = read_rules(folder)
    try:
        index.set_synonyms(rules)
    except ValueError as error:
        return f"dropped the synonyms, which another language's analyzer cannot read ({error})"
    write_rules(index.path.parent, rules)
    return None
