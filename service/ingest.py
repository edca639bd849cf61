"""Writes to an index: one thread, a bounded queue, and many operations in one commit."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from lsr.building.live import Live, open_live
from lsr.building.lock import awaited
from lsr.building.truncation import counted_since, sentences
from lsr.building.writer import Encoded, Writer, capped
from lsr.documents import Change, Document, changed, checked_id
from lsr.filter import Filter
from lsr.indexes.buffers import pack_document
from lsr.indexes.lucene import IndexLockedError
from lsr.indexes.manifest import read_manifest
from lsr.service.dispatcher import ClosedError, DeadlineError, OverloadedError

log = logging.getLogger("lsr.service")
# How often the lock of an index is tried while another process holds it, and how often an idle
# writer checks whether another process waits for the lock.
RETRY_SECONDS = 0.05


class Put(NamedTuple):
    """Add documents; a document replaces the one with the same id."""

    documents: tuple[Document, ...]


class Revise(NamedTuple):
    """Change metadata of documents; if one of them does not exist, none is changed."""

    changes: tuple[Change, ...]


class Delete(NamedTuple):
    """Delete documents; if one of them does not exist, none is deleted."""

    ids: tuple[str, ...]


class DeleteMatching(NamedTuple):
    """Delete the documents that match a filter when the operation's turn comes."""

    filter: Filter


Operation = Put | Revise | Delete | DeleteMatching


class Receipt(NamedTuple):
    """An operation is durable, and searches see it."""

    generation: int
    commit: int
    documents: int  # that the operation wrote, changed or deleted


@dataclass(eq=False)
class _Waiting:
    operation: Operation
    deadline: float
    n_bytes: int
    future: Future[Receipt] = field(default_factory=Future)
    n_matching: int = 0  # that a filter matched

    @property
    def n_documents(self) -> int:
        if isinstance(self.operation, DeleteMatching):
            return self.n_matching
        return len(self.operation[0])


class Ingest:
    """Writes to one index. Operations take effect in the order in which they were submitted.

    Waiting operations are applied together and committed once. The index's write lock is held while
    operations keep coming. It is released soon after the last one, or between two commits when
    another process waits for it to build, add, delete or merge; meanwhile operations wait.
    """

    def __init__(
        self,
        directory: Path,
        on_commit: Callable[[int, int], object],
        *,
        capacity: int = 1024,
        capacity_bytes: int = 2**25,
        group: int = 512,
        idle_seconds: float = 2.0,
    ) -> None:
        """Start the thread. The index is opened at the first operation.

        Args:
            directory: the index's directory.
            on_commit: called with generation and commit when a group is durable and before it is
                acknowledged, to make it visible. Its exceptions become those of the operations.
            capacity: how many operations may wait.
            capacity_bytes: bytes of their documents together; one operation may be larger.
            group: documents that go into one commit; one operation may have more.
            idle_seconds: how long the lock is held after the last operation.
        """
        self._directory = directory
        self._on_commit = on_commit
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._group = group
        self._idle_seconds = idle_seconds
        self._changed = threading.Condition()
        # Guarded by `_changed`:
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0  # of the waiting operations
        self._closed = False
        # Used by the thread only:
        self._live: Live | None = None  # the open one, or the last one, whose models are reused
        self._writer: Writer | None = None
        self._opened = ExitStack()
        self._thread = threading.Thread(target=self._run, name="lsr-ingest", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation, deadline: float) -> Future[Receipt]:
        """Put an operation into the queue; wait while the queue is full.

        The future raises KeyError (an id to delete or to change is not in the index), ValueError
        (weights that cannot be stored, or a filter that does not fit the index), IndexLockedError
        (another process held the lock until the deadline), DeadlineError (the operation was not
        begun by then), ClosedError, or the exception of the commit, after which the operation may
        be durable or not.

        Args:
            operation: with at least one document, change or id.
            deadline: in seconds of time.monotonic; an operation not begun by then is dropped.

        Raises:
            ValueError: an id or metadata that cannot be stored, or an empty operation.
            OverloadedError: the queue was full until the deadline.
            ClosedError: the service is stopping.
        """
        waiting = _Waiting(operation, deadline, _checked_bytes(operation))
        with self._changed:
            while not self._closed and self._is_full(waiting.n_bytes):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise OverloadedError(
                        f"{len(self._waiting)} writes of {self._bytes} bytes are waiting, and no "
                        f"more than {self._capacity} of {self._capacity_bytes} may: try again later"
                    )
                self._changed.wait(left)
            if self._closed:
                raise ClosedError("the service is stopping")
            self._waiting.append(waiting)
            self._bytes += waiting.n_bytes
            self._changed.notify_all()
        return waiting.future

    def close(self, timeout: float) -> None:
        """Finish the accepted operations, and stop the thread.

        Args:
            timeout: seconds; operations not begun by then raise ClosedError.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        _fail(self._take(self._everything), ClosedError("the service has stopped: not written"))

    def _is_full(self, n_bytes: int) -> bool:
        room = self._capacity_bytes - self._bytes
        return bool(self._waiting) and (len(self._waiting) >= self._capacity or n_bytes > room)

    def _run(self) -> None:
        while self._has_work():
            try:
                writer = self._open()
            except IndexLockedError as error:
                self._wait_for_lock(error)
            except Exception as error:
                log.exception("%s cannot be opened for writing", self._directory)
                self._shut()
                _fail(self._take(self._everything), error)
            else:
                self._write(writer, self._next_group())
                if self._writer and awaited(self._directory):
                    self._shut()
        self._shut()

    def _has_work(self) -> bool:
        """Wait for an operation; return False when no more will come."""
        idle = time.monotonic() + self._idle_seconds
        while True:
            with self._changed:
                if not (self._waiting or self._closed):
                    self._changed.wait(RETRY_SECONDS if self._writer else None)
                if self._waiting or self._closed:
                    return bool(self._waiting)
            if self._writer and (time.monotonic() >= idle or awaited(self._directory)):
                self._shut()

    def _open(self) -> Writer:
        """Return a writer of the live generation."""
        if self._writer and self._live:
            if read_manifest(self._directory) == self._live.manifest:
                return self._writer
            # The lock keeps builds out: someone has replaced the directory by another index.
            self._shut()
        with ExitStack() as opened:
            live = opened.enter_context(
                open_live(self._directory, writable=True, before=self._live, wait=0)
            )
            writer = Writer.of(live, self._directory)
            self._opened = opened.pop_all()
        # It is kept after closing for its models, without the dense vectors, which take memory.
        self._live, self._writer = replace(live, dense=None), writer
        return writer

    def _shut(self) -> None:
        """Close the index; uncommitted changes are lost."""
        self._writer = None
        try:
            self._opened.close()
        except Exception:
            # All acknowledged writes are durable, and the lock is released in any case.
            log.exception("%s: closing it after writing", self._directory)

    def _wait_for_lock(self, error: IndexLockedError) -> None:
        _fail(self._take(self._late), error)
        with self._changed:
            left = [waiting.deadline - time.monotonic() for waiting in self._waiting]
            if left:
                self._changed.wait(max(0.0, min(RETRY_SECONDS, *left)))

    def _everything(self) -> list[_Waiting]:
        return list(self._waiting)

    def _late(self) -> list[_Waiting]:
        now = time.monotonic()
        return [waiting for waiting in self._waiting if now >= waiting.deadline]

    def _first(self) -> list[_Waiting]:
        """Return as many operations as go into one commit."""
        group: list[_Waiting] = []
        n_documents = 0
        for waiting in self._waiting:
            n_documents += waiting.n_documents
            # What a filter matches is known when all writes before it are committed.
            by_filter = isinstance(waiting.operation, DeleteMatching)
            if group and (by_filter or n_documents > self._group):
                break
            group.append(waiting)
            if by_filter:
                break
        return group

    def _take(self, which: Callable[[], list[_Waiting]]) -> list[_Waiting]:
        """Take operations out of the queue, and leave out those that their callers cancelled."""
        with self._changed:
            taken = which()
            gone = set(taken)
            self._waiting = deque(one for one in self._waiting if one not in gone)
            self._bytes -= sum(waiting.n_bytes for waiting in taken)
            self._changed.notify_all()
        return [waiting for waiting in taken if waiting.future.set_running_or_notify_cancel()]

    def _next_group(self) -> list[_Waiting]:
        _fail(self._take(self._late), DeadlineError("the deadline passed before the write began"))
        return self._take(self._first)

    def _write(self, writer: Writer, group: Sequence[_Waiting]) -> None:
        capped_before, read_before = writer.n_capped, dict(writer.truncation)
        try:
            applied = _apply(writer, group)
            if not applied:
                return
            commit = writer.commit()
        except Exception as error:
            log.exception("%s: %d operations are not committed", self._directory, len(group))
            self._shut()
            _fail((waiting for waiting in group if not waiting.future.done()), error)
            return
        if n_capped := writer.n_capped - capped_before:
            reason = capped(n_capped, writer.impact_scale)
            log.warning("%s: commit %d: %s", self._directory, commit, reason)
        assert self._live
        manifest = self._live.manifest
        added = counted_since(writer.truncation, read_before)
        for sentence in sentences(added, manifest.encoder, manifest.dense, quiet=True):
            log.info("%s: commit %d: %s", self._directory, commit, sentence)
        generation = manifest.generation
        try:
            self._on_commit(generation, commit)
        except Exception as error:
            log.exception("%s: commit %d is not visible", self._directory, commit)
            _fail(applied, error)
            return
        for waiting in applied:
            waiting.future.set_result(Receipt(generation, commit, waiting.n_documents))


def _checked_bytes(operation: Operation) -> int:
    """Return the bytes of an operation; raise ValueError if it cannot be written."""
    if isinstance(operation, DeleteMatching):
        return len(str(operation.filter).encode())
    if not operation[0]:
        raise ValueError(f"{type(operation).__name__} must have at least one document, got none")
    if isinstance(operation, Delete):
        return sum(len(checked_id(doc_id).encode()) for doc_id in operation.ids)
    if isinstance(operation, Revise):
        return sum(len(json.dumps(change).encode()) for change in operation.changes)
    for document in operation.documents:
        checked_id(document.id)
    return sum(len(pack_document(document)) for document in operation.documents)


def _fail(group: Iterable[_Waiting], error: Exception) -> None:
    for waiting in group:
        waiting.future.set_exception(error)


def _apply(writer: Writer, group: Sequence[_Waiting]) -> list[_Waiting]:
    """Apply operations in order, without committing; return those that did not fail by themselves.

    Of several changes to one id, only the last reaches the index.
    """
    parts: list[Encoded] = []
    first_rows: dict[_Waiting, tuple[int, int]] = {}
    for puts, encoded in _encode(writer, [one for one in group if isinstance(one.operation, Put)]):
        row = 0
        for waiting in puts:
            first_rows[waiting] = (len(parts), row)
            row += waiting.n_documents
        parts.append(encoded)
    last: dict[str, tuple[int, int] | None] = {}  # id → part and row; None: delete it
    revised: dict[str, Document] = {}  # by id, with metadata other than in the part or the index

    def now(doc_id: str) -> Document | None:
        if doc_id in revised or doc_id not in last:
            return revised.get(doc_id) or writer.index.stored([doc_id])[0]
        place = last[doc_id]
        return parts[place[0]].documents[place[1]] if place else None

    applied = []
    for waiting in group:
        if isinstance(waiting.operation, Delete | Revise):
            ids = _ids(waiting.operation)
            unknown = [doc_id for doc_id in ids if now(doc_id) is None]
            if unknown:
                _fail([waiting], KeyError(f"no document {unknown[0]!r} in this index"))
                continue
        if isinstance(waiting.operation, Delete):
            for doc_id in waiting.operation.ids:
                last[doc_id] = None
                revised.pop(doc_id, None)
        elif isinstance(waiting.operation, Revise):
            for change in waiting.operation.changes:
                document = now(change.id)
                assert document
                revised[change.id] = changed(document, change)
        elif isinstance(waiting.operation, DeleteMatching):
            try:
                matching = writer.index.matching(waiting.operation.filter)
            except ValueError as error:
                _fail([waiting], error)
                continue
            waiting.n_matching = len(matching)
            last.update(dict.fromkeys(matching))
        elif waiting in first_rows:
            part, row = first_rows[waiting]
            for n, document in enumerate(waiting.operation.documents):
                last[document.id] = (part, row + n)
                revised.pop(document.id, None)
        else:
            continue
        applied.append(waiting)
    # Deletions come first, as a segment of vectors stores them before its rows.
    writer.delete([doc_id for doc_id, place in last.items() if place is None])
    for number, encoded in enumerate(parts):
        rows = [place[1] for place in last.values() if place and place[0] == number]
        if rows:
            chosen = encoded.rows(rows)
            documents = [revised.pop(of.id, of) for of in chosen.documents]
            writer.add(chosen._replace(documents=documents))
    if revised:
        writer.revise(list(revised.values()))
    return applied


def _ids(operation: Delete | Revise) -> Sequence[str]:
    if isinstance(operation, Delete):
        return operation.ids
    return [change.id for change in operation.changes]


def _encode(
    writer: Writer, puts: Sequence[_Waiting]
) -> Iterator[tuple[Sequence[_Waiting], Encoded]]:
    """Encode all in one batch; if that fails, one by one, so that only the bad ones fail."""
    if not puts:
        return
    documents = [
        document
        for put in puts
        if isinstance(put.operation, Put)
        for document in put.operation.documents
    ]
    try:
        encoded = writer.encode(documents)
    except Exception as error:
        if len(puts) == 1:
            _fail(puts, error)
            return
        for put in puts:
            yield from _encode(writer, [put])
    else:
        yield puts, encoded
