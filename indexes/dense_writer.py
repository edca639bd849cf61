"""Changes to the vectors of a generation, in step with the commits of its Lucene index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lsr.indexes.approximate import Kind, build_structure, choose_kind, write_structure
from lsr.indexes.dense import check_vectors
from lsr.indexes.dense_rows import live_places
from lsr.indexes.dense_segments import (
    Segment,
    files,
    read_segment,
    structure_kind,
    structure_name,
    write_segment,
)
from lsr.progress import Progress

# Rows copied at once when segments are merged.
BLOCK = 16_384


class DenseWriter:
    """Writes segments; the caller holds the lock of the index.

    `flush` makes all changes durable and returns what the next Lucene commit must list: only that
    commit makes them part of the index. After it, `clean` removes what is no longer listed.
    """

    def __init__(self, folder: Path, names: Sequence[str], dimension: int) -> None:
        """Continue after a commit, and remove what a crash left of later changes.

        Args:
            folder: of the segments, made if absent.
            names: what the last commit lists; empty before the first commit.
            dimension: D, numbers in a vector.
        """
        self._folder = folder
        self._names = list(names)
        self._dimension = dimension
        self._ids: list[str] = []
        self._vectors: list[np.ndarray] = []
        self._deleted: list[str] = []
        folder.mkdir(exist_ok=True)
        self.clean()
        # A commit's newest name is its largest.
        self._next = 1 + max((int(name.partition("-")[0]) for name in names), default=0)

    def add(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Add documents, or replace those of the same id.

        Args:
            ids: n different ids.
            vectors: float32, shape (n, D).

        Raises:
            ValueError: sizes that differ, or numbers that are not finite.
        """
        check_vectors(ids, vectors)
        if vectors.shape[1] != self._dimension:
            raise ValueError(f"vectors must have {self._dimension} numbers, got {vectors.shape[1]}")
        self._ids += ids
        self._vectors.append(vectors)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete documents by id; unknown ids are no error."""
        if self._ids:
            # A segment's deletions come before its rows.
            self.flush()
        self._deleted += ids

    def flush(self) -> list[str]:
        """Write the changes and return the names that the next commit must list, in order."""
        if self._ids or self._deleted:
            name = self._name()
            write_segment(
                self._folder, name, self._ids, self._vectors, self._dimension, self._deleted
            )
            self._names.append(name)
            self._ids, self._vectors, self._deleted = [], [], []
        return list(self._names)

    def clean(self) -> None:
        """Remove files that the last commit does not list."""
        for path in files(self._folder):
            if path.stem not in self._names:
                path.unlink()

    def merge(self, kind: Kind, progress: Progress = lambda step, done, total: None) -> None:
        """Write all rows as one segment in order of id, and its structure if `kind` asks for one.

        Args:
            kind: see `choose_kind`.
            progress: called while vectors are added to a structure.

        Raises:
            ValueError: `kind` is unknown, or a file is damaged.
        """
        names = [name for name in self.flush() if not structure_kind(name)]
        segments = [read_segment(self._folder, name) for name in names]
        places = live_places(segments)
        ids = sorted(places)
        chosen = choose_kind(kind, len(ids))
        if self._is_merged(segments, ids, chosen):
            return
        name = self._name()
        blocks = (
            self._gather(segments, [places[doc_id] for doc_id in ids[start : start + BLOCK]])
            for start in range(0, len(ids), BLOCK)
        )
        write_segment(self._folder, name, ids, blocks, self._dimension)
        names = [name]
        if chosen != "flat":
            built = build_structure(chosen, read_segment(self._folder, name).vectors, progress)
            names.append(structure_name(name, chosen))
            write_structure(built, self._folder / f"{names[1]}.faiss")
        self._names = names

    def _is_merged(self, segments: list[Segment], ids: list[str], kind: Kind) -> bool:
        found = [structure_kind(name) for name in self._names]
        wanted = [None] if kind == "flat" else [None, kind]
        return found == wanted and segments[0].ids == ids

    def _gather(self, segments: list[Segment], places: list[tuple[int, int]]) -> np.ndarray:
        numbers, rows = np.array(places).T
        vectors = np.empty((len(places), self._dimension), np.float32)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            vectors[here] = segments[number].vectors[rows[here]]
        return vectors

    def _name(self) -> str:
        self._next += 1
        return str(self._next - 1)
