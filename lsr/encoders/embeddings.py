"""Embeddings by a frozen dense model, computed once and kept on disk.

folder/
  KEY.npy       float32, (texts, D), in the order in which texts first come, and behind the array
                its SHA-256; KEY is of the texts and the model's weights
  KEY.partial   as far as a pass has come
  lock          held by the process that computes; others wait, and read
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

# Texts encoded between two writes; what a kill can lose.
SHARD = 1024
BATCH = 64
SHA256_BYTES = 32


class Embeddings:
    """Embeddings of known texts, read from a memory-mapped file."""

    def __init__(self, rows: Mapping[bytes, int], table: np.ndarray) -> None:
        self._rows = rows  # of `table`, (n, D), by the digest of a text
        self._table = table

    def __len__(self) -> int:
        return len(self._rows)

    def features(self, texts: Iterable[str], **_: Any) -> dict[str, Tensor]:
        """What a dense model's modules come to, in place of a tokenizer's output.

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
    """The embeddings of all distinct texts; those that lie in `folder` are read.

    A pass that was killed goes on after its last SHARD texts. Of several processes that ask for the
    same one computes.

    Args:
        dense: a SentenceTransformer of one route.
        texts: gives the texts, the same at every call; it is called twice.
        folder: made if absent; it can be deleted at any time.
        progress: told what is being done, how many texts of it are done, and of how many.
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
    """Write the file, through one that a killed pass goes on with."""
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
    """The file's embeddings; None where there are none, with a warning if it is damaged."""
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
    """Each text where it first comes."""
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
    """SHA-256 over modules, sequence length and weights."""
    about = [type(module).__name__ for module in dense], dense.max_seq_length
    digest = hashlib.sha256(repr(about).encode())
    for name, part in dense.state_dict().items():
        digest.update(name.encode())
        digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
