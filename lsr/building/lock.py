"""Who may change an index: one process or thread at a time, and only a directory of ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lsr.indexes.lucene import IndexLockedError
from lsr.indexes.manifest import NAME

LOCK, WAITING = "build.lock", "build.waiting"
# How long to wait for another process: a service gives way after one commit.
LOCK_SECONDS, POLL_SECONDS = 10.0, 0.02


@contextmanager
def locked(directory: Path, wait: float | None = None) -> Iterator[None]:
    """Hold the right to change an index, its manifest included.

    Args:
        directory: of the index.
        wait: how many seconds another process may still hold it; None for LOCK_SECONDS.

    Raises:
        IndexLockedError: another process, or another thread of this one, holds it.
    """
    until = time.monotonic() + (LOCK_SECONDS if wait is None else wait)

    def acquired(name: str) -> AbstractContextManager[object]:
        left = max(0.0, until - time.monotonic())
        return FileLock(directory / name).acquire(timeout=left, poll_interval=POLL_SECONDS)

    try:
        # Held while waiting, so that a process that writes all the time sees it and gives way.
        with acquired(WAITING):
            held = acquired(LOCK)
    except Timeout as error:
        raise IndexLockedError(
            f"{directory}: another process is building it or writing to it"
        ) from error
    with held:
        yield


def awaited(directory: Path) -> bool:
    """Whether another process waits for the right to change an index."""
    if not (directory / WAITING).exists():
        return False  # FileLock would make the directory of an index that has been moved away
    try:
        with FileLock(directory / WAITING).acquire(timeout=0):
            return False
    except Timeout:
        return True


def refuse_foreign(directory: Path) -> None:
    """Raise FileExistsError where a path is a file, or holds files and is not an index."""
    if not directory.exists() or (directory / NAME).exists():
        return
    if not directory.is_dir():
        raise FileExistsError(f"{directory} is a file: an index needs a directory")
    foreign = sorted(
        path.name
        for path in directory.iterdir()
        if path.name not in (LOCK, WAITING) and not path.name.startswith("generation-")
    )
    if foreign:
        raise FileExistsError(
            f"{directory} is not an index and not empty (it holds {foreign[0]!r}): nothing was "
            "written"
        )
