"""The service behind the routes: several indexes, one dispatcher, and a writer for each index."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lsr.answers import IndexState
from lsr.service.dispatcher import Dispatcher
from lsr.service.ingest import Ingest
from lsr.service.metrics import Metrics
from lsr.service.served import Served
from lsr.service.settings import Settings

log = logging.getLogger("lsr.service")


class Service:
    """Open indexes by name, kept up to date."""

    def __init__(self, directories: Sequence[str | os.PathLike[str]], settings: Settings) -> None:
        """Open the indexes.

        Args:
            directories: directories of indexes; an index has the name of its directory.
            settings: the operator's settings.

        Raises:
            FileNotFoundError, ValueError: an index cannot be opened, or two have one name.
        """
        paths = [Path(directory) for directory in directories]
        self.settings = settings
        self.metrics = Metrics()
        self.stopping = False
        self.indexes: dict[str, Served] = {}
        self.ingests: dict[str, Ingest] = {}
        names = [path.resolve().name for path in paths]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two indexes are called {name!r}: rename a directory")
        try:
            for name, path in zip(names, paths, strict=True):
                self.indexes[name] = Served(name, path)
        except BaseException:
            self._close_indexes()
            raise
        self.dispatcher = Dispatcher(
            self.metrics,
            queue=settings.queue,
            micro_batch=settings.micro_batch,
            threads=settings.threads,
        )
        for served in self.indexes.values():
            self.ingests[served.name] = Ingest(served.directory, partial(self._written, served))
            self._note(served.state)
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="lsr-watcher", daemon=True)
        self._watcher.start()

    def look(self, served: Served) -> IndexState:
        """Change to a newer generation or commit, see `Served.look`."""
        state = served.look(self.dispatcher.control)
        self._note(state)
        return state

    def close(self) -> None:
        """Finish the accepted requests and writes, and close all files."""
        self.stopping = True
        self._stop.set()
        self._watcher.join()
        for ingest in self.ingests.values():
            ingest.close(self.settings.drain_seconds)
        self.dispatcher.close()
        self._close_indexes()

    def _written(self, served: Served, generation: int, commit: int) -> None:
        """Make a durable write visible to searches before it is acknowledged."""
        self.look(served)

    def _close_indexes(self) -> None:
        for served in self.indexes.values():
            served.close()

    def _watch(self) -> None:
        while not self._stop.wait(self.settings.watch_seconds):
            for served in self.indexes.values():
                try:
                    self.look(served)
                except Exception:
                    # The open generation keeps answering, and the next look tries again.
                    log.exception("index %r: a newer state cannot be opened", served.name)

    def _note(self, state: IndexState) -> None:
        self.metrics.generation.labels(state.index).set(state.generation)
        self.metrics.commit.labels(state.index).set(state.commit)
        self.metrics.documents.labels(state.index).set(state.documents)
