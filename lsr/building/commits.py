"""Commits of both sides of an index: each lists the vectors that belong to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TypeVar

from lsr.indexes.dense_segments import KEY, listed
from lsr.indexes.dense_writer import DenseWriter
from lsr.indexes.lucene import LuceneIndex

T = TypeVar("T")
# The key of a commit's user data for its number.
COMMIT = "commit"


def commit_number(index: LuceneIndex) -> int:
    """The number of the last commit; 0 if the index is older than the numbering of commits."""
    return int(index.user_data.get(COMMIT, "0"))


def commit_both(
    index: LuceneIndex, user_data: Mapping[str, str], writer: DenseWriter | None
) -> int:
    """Commit both sides: the vectors are durable before the commit that lists them.

    Args:
        index: open for writing.
        user_data: what the commit says of itself; its number and its vectors are added.
        writer: of the vectors; None where there are none.

    Returns:
        The number of the commit.
    """
    number = commit_number(index) + 1
    data = {**user_data, COMMIT: str(number)}
    if writer is None:
        index.commit(data)
    else:
        index.commit({**data, KEY: json.dumps(writer.flush())})
        writer.clean()
    return number


def both_sides(index: LuceneIndex, read: Callable[[list[str]], T]) -> T:
    """Return `read` of the names of the dense segments that belong to the commit `index` sees.

    A writer removes a segment once a newer commit does not list it. If `index` still sees an older
    commit, the file may be gone: then the index is refreshed and the newer names are read.
    """
    while True:
        names = listed(index.user_data) or []
        try:
            return read(names)
        except FileNotFoundError:
            index.refresh()
            if listed(index.user_data) == names:
                raise
