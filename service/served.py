"""A served index: its open generation, and the change to a newer one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from lsr.answers import IndexState
from lsr.indexes.filters import TYPES
from lsr.indexes.lucene import LuceneError
from lsr.indexes.manifest import read_manifest
from lsr.request import ask
from lsr.search import Searcher

log = logging.getLogger("lsr.service")
WARM = "warm"


class Control(Protocol):
    """`Dispatcher.control`."""

    def __call__(self, function: Callable[[], Any], /) -> Future[Any]: ...


class Served:
    """An open index. `searcher` and `state` change on the dispatcher's thread only."""

    def __init__(self, name: str, directory: Path) -> None:
        """Open the live generation.

        Raises:
            FileNotFoundError, ValueError: see `Searcher`.
        """
        self.name = name
        self.directory = directory
        self.searcher = _opened(directory, None)
        self.state = self._now(self.searcher)
        self._looking = threading.Lock()

    def look(self, control: Control) -> IndexState:
        """Change to a generation or commit that is newer, between two micro-batches.

        A new generation is opened and warmed up here, while the old one answers.

        Args:
            control: runs a function on the thread that owns the searcher.

        Raises:
            FileNotFoundError, ValueError, LuceneError: the new generation cannot be opened. The
                old one keeps answering.
        """
        with self._looking:
            while True:
                newest = read_manifest(self.directory).generation
                if newest != self.state.generation:
                    self._change(control)
                    return self.state
                try:
                    control(self._refresh).result()
                    return self.state
                except (FileNotFoundError, LuceneError):
                    # A build may have ended meanwhile and deleted this generation.
                    if read_manifest(self.directory).generation == newest:
                        raise

    def close(self) -> None:
        """Close the files."""
        self.searcher.close()

    def _change(self, control: Control) -> None:
        newer = _opened(self.directory, self.searcher)
        state = self._now(newer)

        def change() -> Searcher:
            older, self.searcher, self.state = self.searcher, newer, state
            return older

        control(change).result().close()
        log.info(
            "generation %d",
            state.generation,
            extra={"fields": {"index": self.name, "generation": state.generation}},
        )

    def _refresh(self) -> None:
        self.searcher.refresh()
        if self.searcher.commit != self.state.commit:
            self.state = self._now(self.searcher)

    def _now(self, searcher: Searcher) -> IndexState:
        manifest = searcher.manifest
        has = {
            "words": True,
            "learned": manifest.vocabulary_size > 0,
            "dense": manifest.dense is not None,
        }
        mode = ask(WARM).resolved(dense=has["dense"]).mode
        assert mode is not None
        return IndexState(
            index=self.name,
            generation=manifest.generation,
            commit=searcher.commit,
            documents=searcher.index.n_docs,
            terms=manifest.vocabulary_size,
            encoder=manifest.encoder,
            dense=manifest.dense,
            language=manifest.language,
            sides=[side for side, is_there in has.items() if is_there],
            mode=mode,
            metadata={
                key: [kind for kind in TYPES if kind in kinds]
                for key, kinds in sorted(searcher.index.metadata_types.items())
            },
        )


def _opened(directory: Path, before: Searcher | None) -> Searcher:
    """Open a searcher, load its models and warm it up by first searches."""
    searcher = Searcher(directory, before)
    try:
        if before and searcher.encoder is before.encoder:
            # The older searcher still encodes with it on another thread: warm up without encoding.
            for term in searcher.encoder.vocabulary[:1]:
                searcher.search({term: 1.0})
            searcher.search(WARM, mode="words")
        else:
            searcher.search(WARM, mode="sparse")
        if searcher.manifest.dense is not None:
            searcher.search(WARM, mode="dense")
    except BaseException:
        searcher.close()
        raise
    return searcher
