"""Exact nearest neighbours by inner product among dense vectors, by faiss."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Neighbours that faiss is asked for beyond k, among which ties are put in order.
SPARE = 16
# What faiss' float32 sums may be off by, relative to ‖query‖ · ‖vector‖.
ERROR = 1e-5
# Queries whose neighbours' vectors are in memory at once.
BATCH = 64


class DenseIndex:
    """Vectors in rows, and the document id of each row."""

    def __init__(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """An index of n documents.

        Args:
            ids: n different document ids.
            vectors: float32, shape (n, D).

        Raises:
            ImportError: faiss is not installed.
            ValueError: sizes that differ, no vectors, equal ids, or numbers that are not finite.
        """
        self._faiss = _faiss()
        if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != len(ids):
            raise ValueError(
                f"`vectors` must be float32 of shape ({len(ids)}, D), got {vectors.dtype} of shape "
                f"{vectors.shape}"
            )
        if not len(vectors):
            raise ValueError("`vectors` must have at least one row, got none")
        if len(set(ids)) != len(ids):
            raise ValueError(f"`ids` must differ, got {len(set(ids))} among {len(ids)}")
        if not np.isfinite(vectors).all():
            row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
            raise ValueError(f"vectors must be finite, that of document {ids[row]!r} is not")
        # In order of id: of equal scores the lower row then comes first.
        order = sorted(range(len(ids)), key=lambda row: ids[row])
        self.ids = [ids[row] for row in order]
        self.vectors = np.ascontiguousarray(vectors[order])

    def search(self, queries: np.ndarray, k: int) -> tuple[list[list[str]], np.ndarray]:
        """(ids, scores) of the k documents with the largest inner products, ties by id ascending.

        Scores are computed in float64 and rounded to float32, the same wherever a row lies.

        Args:
            queries: float32, shape (m, D).
            k: hits per query, at least 1; an index of fewer documents returns all of them.

        Returns:
            m lists of min(k, n) ids, and float32 scores of shape (m, min(k, n)).

        Raises:
            ValueError: `k` or the shape is out of range.
        """
        if k < 1:
            raise ValueError(f"`k` must be at least 1, got {k}")
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"`queries` must have shape (m, {self.vectors.shape[1]}), got {queries.shape}"
            )
        k = min(k, len(self.ids))
        found = [
            self._nearest(np.ascontiguousarray(queries[start : start + BATCH], np.float32), k)
            for start in range(0, len(queries), BATCH)
        ]
        rows = np.concatenate([np.empty((0, k), np.int64), *(rows for rows, _ in found)])
        scores = np.concatenate([np.empty((0, k), np.float32), *(scores for _, scores in found)])
        return [[self.ids[row] for row in of_query] for of_query in rows.tolist()], scores

    def _nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores, both (m, k)."""
        norms = np.linalg.norm(queries, axis=1) * np.linalg.norm(self.vectors, axis=1).max()
        asked = k + SPARE
        while True:
            asked = min(asked, len(self.ids))
            rough, rows = self._faiss.knn(
                queries, self.vectors, asked, metric=self._faiss.METRIC_INNER_PRODUCT
            )
            # What faiss left out may still belong to the first k where its last is this near.
            near = rough[:, -1] >= rough[:, k - 1] - 2 * ERROR * norms
            if asked == len(self.ids) or not near.any():
                break
            asked *= 2
        exact = np.einsum("md,mad->ma", queries.astype(np.float64), self.vectors[rows])
        scores = exact.astype(np.float32)
        order = np.lexsort((rows, -scores))[:, :k]
        return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)

    def save(self, folder: Path) -> None:
        """Write vectors.npy and ids.json to `folder`, the ids last."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ids.json").unlink(missing_ok=True)
        with (folder / "vectors.npy").open("wb") as file:
            np.save(file, self.vectors)
            file.flush()
            os.fsync(file.fileno())
        temporary = folder / "ids.json.tmp"
        temporary.write_text(json.dumps(self.ids), encoding="utf-8")
        temporary.replace(folder / "ids.json")

    @classmethod
    def load(cls, folder: Path) -> DenseIndex:
        """The index that `save` wrote.

        Raises:
            FileNotFoundError: there is none, or one that was not written to its end.
            ValueError: a file is truncated or foreign.
        """
        ids, vectors = folder / "ids.json", folder / "vectors.npy"
        if not ids.exists():
            raise FileNotFoundError(f"{folder}: no dense index (ids.json is written last)")
        try:
            return cls(json.loads(ids.read_text(encoding="utf-8")), np.load(vectors))
        except (EOFError, ValueError, TypeError) as error:
            raise ValueError(f"{folder}: not a dense index, or a truncated one: {error}") from error


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ImportError(
            f"dense vectors are searched by faiss: `pip install faiss-cpu` ({error})"
        ) from error
