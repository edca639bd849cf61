"""Metadata of documents, changed in a live index: nothing is encoded anew."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from lsr.building.live import open_live
from lsr.building.writer import Writer
from lsr.documents import Change, changed
from lsr.progress import Progress

# Documents that are changed at once.
SHARD = 512


def change_metadata(
    directory: str | os.PathLike[str],
    changes: Sequence[Change],
    *,
    progress: Progress = lambda step, done, total: None,
) -> int:
    """Change the metadata of documents of the live index, all or none, while searches go on.

    Learned terms, words, own terms and vectors stay as they are. Of several changes of one document
    each is applied to what those before it made.

    Args:
        directory: of the index.
        changes: see `lsr.documents.change_of`.
        progress: see Progress.

    Returns:
        How many documents were changed.

    Raises:
        FileNotFoundError: no index there.
        KeyError: an unknown id; nothing is changed.
        IndexLockedError: another process builds this index or writes to it.
    """
    directory = Path(directory)
    by_id: dict[str, list[Change]] = {}
    for change in changes:
        by_id.setdefault(change.id, []).append(change)
    with open_live(directory, writable=True) as live:
        writer = Writer.of(live, directory)
        ids = iter(by_id)
        done = 0
        while shard := list(islice(ids, SHARD)):
            documents = live.index.documents(shard)
            for number, document in enumerate(documents):
                for change in by_id[document.id]:
                    document = changed(document, change)
                documents[number] = document
            writer.revise(documents)
            done += len(shard)
            progress("changing", done, len(by_id))
        if done:
            writer.commit()
    return done
