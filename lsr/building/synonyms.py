"""Changing the synonyms of a live index while searches go on."""

from __future__ import annotations

import os
from pathlib import Path

from lsr.building.live import open_live
from lsr.building.synonym_rules import write_rules
from lsr.building.writer import Writer


def change_synonyms(directory: str | os.PathLike[str], rules: str | None) -> None:
    """Store synonyms with an index, in place of those before; nothing is indexed anew.

    The change is a commit, by which open searchers and services see it.

    Args:
        directory: of the index.
        rules: in Solr's format: a line ``car, automobile`` for words that stand for each other, and
            ``colour => color`` for those that are replaced. Each may be several words. None removes
            the synonyms.

    Raises:
        FileNotFoundError: no index there.
        ValueError: a line is no rule, or an entry holds nothing but stop words; nothing changes.
        IndexLockedError: another process builds this index or writes to it.
    """
    directory = Path(directory)
    with open_live(directory, writable=True) as live:
        live.index.set_synonyms(rules)
        write_rules(live.manifest.folder(directory), rules)
        Writer.of(live, directory).commit()
