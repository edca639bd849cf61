"""Changing the synonyms of a live index while searches go on."""

from __future__ import annotations

import os
from pathlib import Path

from lsr.building.live import open_live
from lsr.building.synonym_rules import check_rules, losses, read_rules, write_rules
from lsr.building.writer import Writer
from lsr.indexes.manifest import read_manifest


def change_synonyms(directory: str | os.PathLike[str], rules: str | None) -> list[str]:
    """Store synonyms with an index, in place of those before; nothing is indexed anew.

    The change is a commit, by which open searchers and services see it.

    Args:
        directory: of the index.
        rules: in Solr's format: a line ``car, automobile`` for words that stand for each other, and
            ``colour => color`` for those that are replaced. Each may be several words. None removes
            the synonyms. Those before need not be readable.

    Returns:
        Sentences on entries of which the analyzer drops signs.

    Raises:
        FileNotFoundError: no index there.
        ValueError: a line is no rule, or the analyzer keeps no word of an entry; nothing changes.
        IndexLockedError: another process builds this index or writes to it.
    """
    directory = Path(directory)
    if rules is not None:
        check_rules(rules)
    with open_live(directory, writable=True, synonyms=False) as live:
        live.index.set_synonyms(rules)
        told = losses(rules, live.index) if rules is not None else []
        write_rules(live.manifest.folder(directory), rules)
        Writer.of(live, directory).commit()
    return told


def stored_synonyms(directory: str | os.PathLike[str]) -> str | None:
    """Return the synonyms of an index as they were stored, if it has any.

    Raises:
        FileNotFoundError: no index there.
        ValueError: they are not UTF-8.
    """
    directory = Path(directory)
    return read_rules(read_manifest(directory).folder(directory))
