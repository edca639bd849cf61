"""Nearest neighbours by inner product among dense vectors, by faiss, with exact scores."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

import numpy as np

from lsr.indexes.approximate import Kind, Structure, build_structure, choose_kind, faiss_module
from lsr.indexes.dense_rows import Selection, assemble, read_rows
from lsr.indexes.dense_segments import Segment, norms

# Queries that are passed to faiss together.
BATCH = 64


class DenseIndex:
    """Vectors of documents, from the files that a commit lists or from arrays in memory.

    Scores are inner products computed in float64 from the stored vectors and rounded to float32,
    the same wherever a row lies. The hits are exact too, unless there is a structure (see
    `choose_kind`): then faiss finds several times k candidates among the rows that the structure
    covers. Rows added later are all compared; rows deleted or replaced later are never found.
    Any thread may use it.
    """

    def __init__(self, ids: Sequence[str], vectors: np.ndarray, *, kind: Kind = "flat") -> None:
        """Index n documents in memory. `open` reads an index from files.

        Args:
            ids: n different document ids.
            vectors: float32, shape (n, D).
            kind: see `choose_kind`.

        Raises:
            ImportError: faiss is not installed.
            ValueError: sizes differ, an id occurs twice, a number is not finite, or `kind` is
                unknown.
        """
        faiss_module()
        check_vectors(ids, vectors)
        if len(set(ids)) != len(ids):
            raise ValueError(f"`ids` must differ, got {len(set(ids))} among {len(ids)}")
        vectors = np.ascontiguousarray(vectors)
        largest = float(norms(vectors).max(initial=0.0))
        chosen = choose_kind(kind, len(ids))
        structure = (
            None if chosen == "flat" else Structure(chosen, build_structure(chosen, vectors))
        )
        segment = Segment(list(ids), vectors, [], largest, vectors.nbytes)
        self._folder: Path | None = None
        self._rows = assemble((), {"": segment}, structure)

    @classmethod
    def open(cls, folder: Path, names: Sequence[str]) -> DenseIndex:
        """Open the vectors of the segments that a commit lists.

        Args:
            folder: of the segments.
            names: at least one.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is truncated or foreign.
        """
        index = cls.__new__(cls)
        index._folder = folder
        index._rows = read_rows(folder, tuple(names), None)
        return index

    def refresh(self, names: Sequence[str]) -> None:
        """Take in the segments that a newer commit lists. Known segments are not read again.

        A search that runs meanwhile sees either the old segments or the new ones.

        Raises:
            FileNotFoundError: a file is missing; nothing has changed.
            ValueError: a file is truncated or foreign; nothing has changed.
        """
        assert self._folder is not None
        if tuple(names) != self._rows.names:
            self._rows = read_rows(self._folder, tuple(names), self._rows)

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self._rows.row_of)

    @property
    def ids(self) -> list[str]:
        """The ids of all documents, ascending."""
        return sorted(self._rows.row_of)

    @property
    def dimension(self) -> int:
        """D, the numbers in a vector."""
        return int(self._rows.base.shape[1])

    @property
    def kind(self) -> Kind:
        """The structure in use: "flat", "hnsw" or "ivf-pq"."""
        return self._rows.structure.kind if self._rows.structure else "flat"

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the commit lists; none for an index in memory."""
        return self._rows.names

    @property
    def size_bytes(self) -> int:
        """Size of the files, or of the vectors in memory."""
        structure = self._rows.structure
        return sum(segment.size_bytes for segment in self._rows.segments.values()) + (
            structure.size_bytes if structure else 0
        )

    def check(self) -> None:
        """Read the files that are otherwise read at the first search.

        Raises:
            ValueError: a file is truncated or foreign.
        """
        if self._rows.structure:
            self._rows.structure.check()

    def search(
        self, queries: np.ndarray, k: int, allowed: Selection | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return (id, score) of the k documents of largest inner product, ties by id ascending.

        Args:
            queries: float32, shape (m, D).
            k: hits per query, at least 1; where there are fewer documents, all of them.
            allowed: the rows that may be found, from `select`; None allows all.

        Raises:
            ValueError: `k` or the shape is out of range, or a number is not finite.
        """
        rows = self._rows
        if k < 1:
            raise ValueError(f"`k` must be at least 1, got {k}")
        if queries.ndim != 2 or queries.shape[1] != rows.base.shape[1]:
            raise ValueError(
                f"`queries` must have shape (m, {rows.base.shape[1]}), got {queries.shape}"
            )
        if not np.isfinite(queries).all():
            raise ValueError("`queries` must be finite")
        selection = rows.everything if allowed is None else allowed
        k = min(k, selection.n)
        if not k:
            return [[] for _ in queries]
        found: list[list[tuple[str, float]]] = []
        for start in range(0, len(queries), BATCH):
            batch = np.ascontiguousarray(queries[start : start + BATCH], np.float32)
            candidates = rows.candidates(batch, k, selection)
            found += map(rows.best, batch, candidates, repeat(k))
        return found

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return the rows of documents, int64, shape (len(ids),); −1 for an unknown id.

        A row is the same until `refresh`.
        """
        row_of = self._rows.row_of
        return np.fromiter((row_of.get(doc_id, -1) for doc_id in ids), np.int64, len(ids))

    def ids_of(self, rows: Sequence[int]) -> list[str]:
        """Return the documents whose vectors rows hold, or held before these were deleted."""
        ids = self._rows.ids
        return [ids[row] for row in rows]

    def select(self, chosen: np.ndarray) -> Selection:
        """Return a selection of rows for searches until `refresh`.

        Args:
            chosen: bool, shape (rows,); what it says of rows of deleted documents does not count.

        Raises:
            ValueError: another shape.
        """
        if chosen.shape != self._rows.alive.shape:
            raise ValueError(
                f"`chosen` must have shape {self._rows.alive.shape}, got {chosen.shape}"
            )
        return self._rows.select(chosen)

    @property
    def alive(self) -> np.ndarray:
        """Which rows are those of documents that are not deleted, bool, shape (rows,)."""
        return self._rows.alive

    @property
    def n_base(self) -> int:
        """The number of rows that stay the same while the first of `names` does."""
        return len(self._rows.base)

    def is_exact(self, k: int, allowed: Selection | None = None) -> bool:
        """Whether `search` with these arguments compares all vectors."""
        rows = self._rows
        if rows.structure is None:
            return True
        selection = rows.everything if allowed is None else allowed
        return not rows.asked(min(k, selection.n), selection)

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Return the stored vectors of `ids` in their order, float32, shape (len(ids), D).

        Raises:
            KeyError: an unknown id.
        """
        rows = self._rows
        return rows.gather(rows.numbers(ids))

    def scores(self, query: np.ndarray, ids: Sequence[str]) -> np.ndarray:
        """Return inner products as `search` gives them, float32, shape (len(ids),).

        Args:
            query: float32, shape (D,).
            ids: in any order.

        Raises:
            KeyError: an unknown id.
        """
        rows = self._rows
        return rows.scores(np.asarray(query, np.float32), rows.numbers(ids))


def check_vectors(ids: Sequence[str], vectors: np.ndarray) -> None:
    """Raises ValueError where these are not finite float32 vectors of these ids."""
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != len(ids):
        raise ValueError(
            f"`vectors` must be float32 of shape ({len(ids)}, D), got {vectors.dtype} of shape "
            f"{vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise ValueError(f"vectors must be finite, that of document {ids[row]!r} is not")
