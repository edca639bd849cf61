"""A Lucene index of impacts, forward vectors and stored documents."""

from __future__ import annotations

import errno
import json
import math
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from lsr.corpus import Document
from lsr.indexes import jvm

Hits = list[tuple[str, int]]
Filter = str | float | bool | tuple[float | None, float | None]
LARGEST_K = 1_000_000
# Characters of metadata that can be filtered by; Lucene refuses terms of 32 KiB.
LONGEST_FILTER = 1000


class LuceneError(RuntimeError):
    """Lucene refused; the message names the index and Lucene's reason."""


class IndexLockedError(LuceneError):
    """Another process writes to the index."""


class LuceneIndex:
    """One Lucene directory. Safe to use from any Python thread: Java calls share one thread."""

    def __init__(self, path: Path, vocabulary: Sequence[str], create: bool, writable: bool) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.n_terms = len(vocabulary)
        terms = _strings(vocabulary)
        self._engine = self._ask(lambda: jvm.engine_class()(str(path), terms, create, writable))

    @classmethod
    def create(cls, path: Path, vocabulary: Sequence[str]) -> LuceneIndex:
        """A new, empty, writable index; what lies at `path` is replaced at the first commit."""
        return cls(path, vocabulary, create=True, writable=True)

    @classmethod
    def open(cls, path: Path, vocabulary: Sequence[str], *, writable: bool = False) -> LuceneIndex:
        """An existing index as of its last commit.

        Raises:
            IndexLockedError: `writable`, and another process writes.
            LuceneError: no index there, or a damaged one.
        """
        return cls(path, vocabulary, create=False, writable=writable)

    def __enter__(self) -> LuceneIndex:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, function: Any) -> Any:
        """The result of a Java call, its exceptions as ours."""

        def run() -> Any:
            engine = jvm.engine_class()  # starts the VM: only then can jnius be imported
            del engine
            from jnius import JavaException

            try:
                return function()
            except JavaException as error:
                told = str(error)
                if "LockObtainFailed" in told:
                    raise IndexLockedError(
                        f"{self.path}: another process is writing to it"
                    ) from error
                if "No space left on device" in told:
                    raise OSError(
                        errno.ENOSPC,
                        "the disk is full; what was committed is safe, and a build goes on from "
                        "there when it is run again",
                        str(self.path),
                    ) from error
                raise LuceneError(
                    f"{self.path}: {error.classname}: {error.innermessage}"
                ) from error

        return jvm.call(run)

    def add(
        self,
        documents: Sequence[Document],
        impacts: csr_array,
        *,
        new: bool = False,
        threads: int = 1,
    ) -> None:
        """Add documents, or replace those of the same id; searches see them after `commit`.

        Args:
            documents: n documents.
            impacts: int32 in [1, 2^24), shape (n, V), indices ascending.
            new: the caller knows that no id is in the index yet, which is faster.
            threads: Java threads.

        Raises:
            ValueError: sizes or impacts that do not fit.
        """
        if impacts.shape != (len(documents), self.n_terms):
            raise ValueError(
                f"`impacts` must have shape {(len(documents), self.n_terms)}, got {impacts.shape}"
            )
        if impacts.nnz and not (1 <= impacts.data.min() and impacts.data.max() < 2**24):
            raise ValueError(
                f"impacts must be in [1, 2^24), got {impacts.data.min()} to {impacts.data.max()}"
            )
        numbers = _integers(len(documents), np.diff(impacts.indptr), impacts.indices, impacts.data)
        strings = b"".join(map(_document, documents))
        self._ask(lambda: self._engine.add(numbers, strings, new, threads))

    def delete(self, ids: Iterable[str]) -> None:
        """Delete documents by id; unknown ids are no error. Seen by searches after `commit`."""
        packed = _strings(ids)
        self._ask(lambda: self._engine.delete(packed))

    def commit(self, user_data: Mapping[str, str]) -> None:
        """Make all since the last commit durable and visible, atomically, with `user_data`."""
        packed = _strings(part for item in user_data.items() for part in item)
        self._ask(lambda: self._engine.commit(packed))

    def refresh(self) -> None:
        """See what has been committed since the index was opened or refreshed."""
        self._ask(lambda: self._engine.refresh())

    def force_merge(self) -> None:
        """Merge into one segment; durable after the next commit."""
        self._ask(lambda: self._engine.forceMerge())

    def close(self) -> None:
        """Give files and lock back; what was not committed is lost."""
        self._ask(lambda: self._engine.close())

    def search(
        self,
        queries: csr_array,
        k: int,
        *,
        filters: Mapping[str, Filter] | None = None,
        min_score: int = 1,
        threads: int = 1,
    ) -> list[Hits]:
        """(id, score) of the k best documents per query, exact; ties by id ascending.

        Args:
            queries: int weights ≥ 1, shape (n, V). Σ weight × impact must stay below 2^24, where
                float32, in which Lucene adds, stops holding every integer.
            k: hits per query, in [1, 1,000,000].
            filters: metadata key → value that a hit must have there (in a list: among others), or
                (low, high) for numbers, both included, None for no bound.
            min_score: smallest score of a hit.
            threads: Java threads; the result does not depend on them.

        Raises:
            ValueError: k, the shape or a filter is out of range.
        """
        if not 1 <= k <= LARGEST_K:
            raise ValueError(f"`k` must be in [1, {LARGEST_K}], got {k}")
        if queries.shape[1] != self.n_terms:
            raise ValueError(f"queries have {queries.shape[1]} terms, the index {self.n_terms}")
        if queries.nnz and queries.data.min() < 1:
            raise ValueError(f"query weights must be at least 1, got {queries.data.min()}")
        parts: list[Any] = [queries.shape[0]]
        for start, end in zip(queries.indptr[:-1], queries.indptr[1:], strict=True):
            parts += [end - start, queries.indices[start:end], queries.data[start:end]]
        numbers = _integers(*parts)
        packed = _filters(filters or {})
        answer = _Reader(
            self._ask(
                lambda: bytes(
                    self._engine.search(numbers, packed, k, min_score, threads).tostring()
                )
            )
        )
        results: list[Hits] = []
        for _ in range(queries.shape[0]):
            hits: Hits = []
            for _ in range(answer.integer()):
                score = answer.integer()
                hits.append((answer.string(), score))
            results.append(hits)
        return results

    def impacts(self, ids: Sequence[str]) -> csr_array:
        """Forward vectors, int32, shape (len(ids), V), in the order asked.

        Raises:
            KeyError: an unknown id.
        """
        indices: list[np.ndarray] = []
        data: list[np.ndarray] = []
        for forward, _ in self._fetch(ids):
            numbers = _vints(forward)
            indices.append(np.cumsum(numbers[0::2]))
            data.append(numbers[1::2])
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in indices])]).astype(np.int64)
        empty = np.empty(0, dtype=np.int64)
        return csr_array(
            (
                np.concatenate([empty, *data]).astype(np.int32),
                np.concatenate([empty, *indices]),
                indptr,
            ),
            shape=(len(ids), self.n_terms),
        )

    def documents(self, ids: Sequence[str]) -> list[Document]:
        """Stored documents in the order asked.

        Raises:
            KeyError: an unknown id.
        """
        return [document for _, document in self._fetch(ids)]

    def _fetch(self, ids: Sequence[str]) -> list[tuple[bytes, Document]]:
        packed = _strings(ids)
        answer = _Reader(self._ask(lambda: bytes(self._engine.fetch(packed).tostring())))
        found = []
        for doc_id in ids:
            if not answer.integer():
                raise KeyError(f"no document {doc_id!r} in {self.path}")
            forward = answer.bytes()
            title, text, metadata = answer.string(), answer.string(), answer.string()
            found.append((forward, Document(doc_id, title, text, json.loads(metadata))))
        return found

    @property
    def n_docs(self) -> int:
        """Live documents."""
        return int(self._ask(lambda: self._engine.documents()))

    @property
    def n_postings(self) -> int:
        """Postings, those of deleted documents that were not merged away included."""
        return int(self._ask(lambda: self._engine.postings()))

    @property
    def size_bytes(self) -> int:
        """Size of the directory."""
        return sum(path.stat().st_size for path in self.path.iterdir())

    @property
    def user_data(self) -> dict[str, str]:
        """What the last commit said of itself; empty before the first."""
        answer = _Reader(self._ask(lambda: bytes(self._engine.userData().tostring())))
        data = {}
        while answer.left:
            key = answer.string()
            data[key] = answer.string()
        return data

    def check(self) -> tuple[bool, str]:
        """Whether Lucene's CheckIndex finds the index clean, and its report."""
        answer = self._ask(lambda: bytes(self._engine.check().tostring()))
        return answer[0] == 1, answer[1:].decode("utf-8")


def _integers(*parts: Any) -> bytes:
    return b"".join(np.ascontiguousarray(part, dtype="<i4").tobytes() for part in parts)


def _strings(values: Iterable[str]) -> bytes:
    encoded = [value.encode("utf-8") for value in values]
    return b"".join(struct.pack("<i", len(value)) + value for value in encoded)


def _pairs(pairs: Sequence[tuple[str, str]]) -> bytes:
    return _integers(len(pairs)) + _strings(part for pair in pairs for part in pair)


def _ranges(ranges: Sequence[tuple[str, *tuple[float, ...]]]) -> bytes:
    packed = (_strings([key]) + struct.pack(f"<{len(of)}d", *of) for key, *of in ranges)
    return _integers(len(ranges)) + b"".join(packed)


def _filters(filters: Mapping[str, Filter]) -> bytes:
    """What a hit must have: metadata that equals, numbers between bounds."""
    equal: list[tuple[str, str]] = []
    between: list[tuple[str, *tuple[float, ...]]] = []
    for key, value in filters.items():
        if isinstance(value, tuple):
            low, high = value
            low = -math.inf if low is None else float(low)
            high = math.inf if high is None else float(high)
            if not low <= high:
                raise ValueError(f"filter {key!r}: the bounds must be low ≤ high, got {value}")
            between.append((key, low, high))
        else:
            equal.append((key, _filterable(value)))
    return _pairs(equal) + _ranges(between)


def _filterable(value: str | float | bool) -> str:
    """A value of metadata as the string it is found by: 3 and 3.0 are the same, true is true."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def _document(document: Document) -> bytes:
    strings: list[tuple[str, str]] = []
    numbers: list[tuple[str, *tuple[float, ...]]] = []
    for key, value in document.metadata.items():
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, (str, int, float)):
                continue
            if len(filterable := _filterable(part)) <= LONGEST_FILTER:
                strings.append((key, filterable))
            if not isinstance(part, (bool, str)) and abs(part) <= sys.float_info.max:
                numbers.append((key, float(part)))
    stored = (document.id, document.title, document.text, json.dumps(dict(document.metadata)))
    return _strings(stored) + _pairs(strings) + _ranges(numbers)


def _vints(packed: bytes) -> np.ndarray:
    values = []
    value = shift = 0
    for byte in packed:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            values.append(value)
            value = shift = 0
    return np.array(values, dtype=np.int64)


class _Reader:
    """Reads an answer of the engine from front to back."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._packed) - self._at

    def integer(self) -> int:
        (value,) = struct.unpack_from("<i", self._packed, self._at)
        self._at += 4
        return int(value)

    def bytes(self) -> bytes:
        size = self.integer()
        self._at += size
        return self._packed[self._at - size : self._at]

    def string(self) -> str:
        return self.bytes().decode("utf-8")
