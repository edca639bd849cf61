"""Embeddings by a frozen dense model, computed once and kept on disk.

folder/
  KEY.npy       float32, (texts, D), in the order in which texts first occur, followed by the
                array's SHA-256; KEY is a hash of the texts and the model's weights
  KEY.partial   the part that a pass has written so far
  lock          held by the process that computes; others wait, then read the file
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from lsr.progress import Progress

# How many texts are encoded between two writes, and lost at most if the process is killed.
SHARD = 1024
BATCH = 64
SHA256_BYTES = 32


class Embeddings:
    """Embeddings of known texts, read from a memory-mapped file."""

    def __init__(self, rows: Mapping[bytes, int], table: np.ndarray) -> None:
        self._rows = rows  # digest of a text → row of `table`
        self._table = table  # shape (n, D)

    def __len__(self) -> int:
        return len(self._rows)

    def features(self, texts: Iterable[str], **_: Any) -> dict[str, Tensor]:
        """Return the texts' embeddings as features, in place of a tokenizer's output.

        Returns:
            {"sentence_embedding": float32, shape (n, D)}.
        """
        rows = [self._rows[_digest(text)] for text in texts]
        return {"sentence_embedding": torch.from_numpy(self._table[rows])}


def embed_once(
    dense: Any,
    texts: Callable[[], Iterator[str]],
    folder: Path,
    progress: Progress = lambda step, done, total: None,
) -> Embeddings:
    """Return the embeddings of all distinct texts; they are computed if `folder` lacks them.

    A pass that was killed continues after its last written shard. If several processes need the
    same embeddings, one computes them.

    Args:
        dense: a SentenceTransformer without a Router.
        texts: returns the texts, the same at every call; it is called twice.
        folder: made if absent; it can be deleted at any time.
        progress: called with the name of the step, how many texts are done, and of how many.
    """
    rows: dict[bytes, int] = {}
    for text in texts():
        rows.setdefault(_digest(text), len(rows))
    key = hashlib.sha256(b"".join([_fingerprint(dense).encode(), *rows])).hexdigest()[:16]
    path = folder / f"{key}.npy"
    shape = (len(rows), int(dense.get_embedding_dimension()))
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        table = _read(path, shape)
        if table is None:
            _compute(dense, _first(texts(), rows), shape, path, progress)
            table = np.load(path, mmap_mode="r")
    return Embeddings(rows, table)


def _compute(
    dense: Any, texts: Iterator[str], shape: tuple[int, int], path: Path, progress: Progress
) -> None:
    """Write the file; a partial file lets a killed pass continue."""
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    start = header.tell()
    partial = path.with_suffix(".partial")
    with partial.open("a+b") as file:
        shards = max(0, os.fstat(file.fileno()).st_size - start) // (SHARD * shape[1] * 4)
        done = shards * SHARD
        file.truncate(start + done * shape[1] * 4 if done else 0)
        if not done:
            file.write(header.getvalue())
        texts = islice(texts, done, None)
        while shard := list(islice(texts, SHARD)):
            found = dense.encode(shard, batch_size=BATCH, show_progress_bar=False)
            file.write(np.ascontiguousarray(found, "<f4").data)
            file.flush()
            os.fsync(file.fileno())
            done += len(shard)
            progress("embedding by the frozen base", done, shape[0])
        file.write(_sha256(np.load(partial, mmap_mode="r")))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the file's embeddings; None if it is missing, or damaged, which gives a warning."""
    if not path.exists():
        return None
    try:
        table: np.ndarray = np.load(path, mmap_mode="r")
        if table.shape != shape or table.dtype != np.float32:
            raise ValueError(f"it holds {table.dtype} {table.shape}, not float32 {shape}")
        with path.open("rb") as file:
            file.seek(-SHA256_BYTES, os.SEEK_END)
            if file.read() != _sha256(table):
                raise ValueError("its SHA-256 is not the one that it was written with")
    except (EOFError, ValueError) as error:
        warnings.warn(f"{path} is damaged and computed again: {error}", stacklevel=3)
        return None
    return table


def _first(texts: Iterable[str], rows: Mapping[bytes, int]) -> Iterator[str]:
    """Yield each distinct text, where it first occurs."""
    count = 0
    for text in texts:
        if rows[_digest(text)] == count:
            count += 1
            yield text


def _sha256(table: np.ndarray) -> bytes:
    return hashlib.sha256(table.data).digest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _fingerprint(dense: Any) -> str:
    """Return the SHA-256 of modules, sequence length and weights."""
    about = [type(module).__name__ for module in dense], dense.max_seq_length
    digest = hashlib.sha256(repr(about).encode())
    for name, part in dense.state_dict().items():
        digest.update(name.encode())
        digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
