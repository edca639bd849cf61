"""Files of dense vectors: segments that are written once, named by the commits of a Lucene index.

dense/
  7.npy              float32, shape (n, D); absent where n is 0
  7.json             the ids of the rows, and ids that are deleted before those rows are added
  7-hnsw.faiss       a structure over all rows of segment 7

A commit's user data list the names ("7", "7-hnsw") that belong to the index, in order: only these
are read. No commit gives a name to other vectors than one before it. A writer removes what its last
commit does not list, right after that commit; a reader that misses a file looks at the newer commit
that the file is not in.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lsr.indexes.approximate import KINDS, Kind, Structure

# The key of a commit's user data.
KEY = "dense"
FILE = re.compile(r"\d+(-[a-z-]+)?\.(npy|json|faiss)")


class Segment(NamedTuple):
    """Ids to delete, and rows to add after that. Later rows replace earlier rows of the same id."""

    ids: list[str]  # of the rows
    vectors: np.ndarray  # float32, (n, D)
    deleted: list[str]
    largest_norm: float  # of the rows
    size_bytes: int = 0


def listed(user_data: Mapping[str, str]) -> list[str] | None:
    """Return the names that a commit lists; None if the index has no dense side."""
    return json.loads(user_data[KEY]) if KEY in user_data else None


def structure_name(segment: str, kind: Kind) -> str:
    """Return the name of a structure over a segment."""
    return f"{segment}-{kind}"


def structure_kind(name: str) -> Kind | None:
    """Return the kind of structure that has this name; None if it names a segment."""
    _, _, found = name.partition("-")
    return next((kind for kind in KINDS if kind == found), None)


def norms(vectors: np.ndarray) -> np.ndarray:
    """‖row‖, float32, shape (n,)."""
    # numpy's norm would copy all vectors.
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", vectors, vectors)), np.float32)


def write_segment(
    folder: Path,
    name: str,
    ids: Sequence[str],
    blocks: Iterable[np.ndarray],
    dimension: int,
    deleted: Sequence[str] = (),
) -> None:
    """Write a segment, which is durable when this returns.

    Args:
        folder: of the segments.
        name: not used before.
        ids: of n rows.
        blocks: float32, shapes (·, D), n rows together.
        dimension: D.
        deleted: ids.

    Raises:
        OSError: the disk is full.
    """
    try:
        largest = _write_vectors(folder / f"{name}.npy", len(ids), blocks, dimension)
        content = {
            "dimension": dimension,
            "largest_norm": largest,
            "ids": list(ids),
            "deleted": list(deleted),
        }
        with (folder / f"{name}.json").open("w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC, "the disk is full; what was committed is safe", str(folder)
        ) from error
    sync_folder(folder)


def _write_vectors(path: Path, n: int, blocks: Iterable[np.ndarray], dimension: int) -> float:
    """Write the vectors and return their largest norm."""
    largest = 0.0
    if not n:
        return largest
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n, dimension)}
        np.lib.format.write_array_header_2_0(file, header)
        for block in blocks:
            largest = max(largest, float(norms(block).max()))
            file.write(np.ascontiguousarray(block, "<f4").data)
        file.flush()
        os.fsync(file.fileno())
    return largest


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_segment(folder: Path, name: str) -> Segment:
    """Read a segment; its vectors are memory-mapped.

    Raises:
        FileNotFoundError: a file of it is missing.
        ValueError: a file is truncated or foreign.
    """
    path = folder / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ids, deleted = content["ids"], content["deleted"]
        dimension, largest_norm = int(content["dimension"]), float(content["largest_norm"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not a dense segment, or a truncated one: {error}") from error
    size_bytes = path.stat().st_size
    vectors = np.empty((0, dimension), np.float32)
    if ids:
        path = folder / f"{name}.npy"
        try:
            mapped = np.load(path, mmap_mode="r")
        except (EOFError, ValueError) as error:
            raise ValueError(f"{path}: not vectors, or truncated: {error}") from error
        if mapped.shape != (len(ids), dimension) or mapped.dtype != np.float32:
            raise ValueError(
                f"{path}: expected float32 of shape {(len(ids), dimension)}, got {mapped.dtype} of "
                f"shape {mapped.shape}"
            )
        # A plain array over the same pages: numpy's memmap costs time at each slice.
        vectors = np.asarray(mapped)
        size_bytes += path.stat().st_size
    return Segment(ids, vectors, deleted, largest_norm, size_bytes)


def read_structure(folder: Path, name: str) -> Structure:
    """Open a structure, which is read at its first search.

    Raises:
        FileNotFoundError: its file is missing.
    """
    kind = structure_kind(name)
    assert kind is not None
    return Structure(kind, path=folder / f"{name}.faiss")


def files(folder: Path) -> list[Path]:
    """Return the files of segments and structures in a folder."""
    return [path for path in folder.iterdir() if FILE.fullmatch(path.name)]
