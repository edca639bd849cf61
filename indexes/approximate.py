"""faiss structures that find a query's likely neighbours without comparing it to every vector."""

from __future__ import annotations

import errno
import importlib
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from lsr.progress import Progress

Kind = Literal["auto", "flat", "hnsw", "ivf-pq"]
KINDS: tuple[Kind, ...] = get_args(Kind)

HNSW_FROM = 100_000
IVF_PQ_FROM = 1_000_000
# Vectors for each centroid: faiss' k-means warns below the first number, the second is enough.
TRAIN_LEAST, TRAIN_MOST = 39, 64
# An 8-bit code has 256 centroids.
IVF_PQ_LEAST = 256 * TRAIN_LEAST
# Candidates for each hit, and their least number. Exact scores then choose among them.
OVERFETCH, FETCH_LEAST = {"hnsw": 4, "ivf-pq": 10}, 128
# Links of a vector, and candidates that are looked at while the links are made.
LINKS, EF_CONSTRUCTION = 32, 100
# Vectors added at once.
BLOCK = 8192


def choose_kind(kind: Kind, n: int) -> Kind:
    """Return the structure that `kind` stands for when there are n vectors.

    "auto" is flat below 100,000 vectors, HNSW below 1,000,000, and IVF-PQ from there. Measured on
    one core with 200,000 vectors of 384 numbers in 2,000 clusters: flat takes 8.5 ms a query. HNSW
    takes 0.4 ms for 10 hits and finds all of the best, and 1.4 ms for 100 and finds 99.6% of them.
    So an exact answer costs 4 ms at most below 100,000. A graph is built on one thread, 3,800
    vectors/s at 200,000 and fewer with more: from 1,000,000 on it would take minutes, and faiss'
    guidelines advise lists and codes where memory is short. "ivf-pq" becomes flat below 9,984
    vectors, because so few cannot train its codes.

    Raises:
        ValueError: `kind` is not one of these.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "auto":
        kind = "flat" if n < HNSW_FROM else "hnsw" if n < IVF_PQ_FROM else "ivf-pq"
    return "flat" if kind == "ivf-pq" and n < IVF_PQ_LEAST or not n else kind


def build_structure(
    kind: Kind, vectors: np.ndarray, progress: Progress = lambda step, done, total: None
) -> Any:
    """Build a faiss index over the rows of `vectors`. The same vectors give the same bytes.

    "hnsw" keeps 8 bits a number: it finds the same candidates as float32 in half the time. "ivf-pq"
    has 4·√n lists, after faiss' guidelines, and a byte for eight numbers: with ten candidates for
    each hit it finds what a byte for four numbers finds. Both were measured on 40,000 clustered
    vectors of 384 numbers.

    Args:
        kind: "hnsw" or "ivf-pq".
        vectors: float32, shape (n, D), contiguous; a memory-mapped file will do.
        progress: called while vectors are added, step "linking vectors".
    """
    faiss = faiss_module()
    n, dimension = vectors.shape
    if kind == "hnsw":
        quantiser = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexHNSWSQ(dimension, quantiser, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        index.train(_sample(vectors, BLOCK * 8))
    else:
        lists = max(1, min(int(4 * n**0.5), n // TRAIN_LEAST))
        parts = max(of for of in range(1, dimension // 8 + 2) if dimension % of == 0)
        index = faiss.index_factory(dimension, f"IVF{lists},PQ{parts}", faiss.METRIC_INNER_PRODUCT)
        index.train(_sample(vectors, max(lists, 256 * 4) * TRAIN_MOST))
    # Several threads that add to one graph would build a different graph each time.
    with faiss_threads(1 if kind == "hnsw" else 0):
        for start in range(0, n, BLOCK):
            index.add(np.ascontiguousarray(vectors[start : start + BLOCK]))
            progress("linking vectors", min(start + BLOCK, n), n)
    return index


def write_structure(index: Any, path: Path) -> None:
    """Write a faiss index to a file, which is durable when this returns.

    Raises:
        OSError: it cannot be written.
    """
    try:
        faiss_module().write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(errno.EIO, f"faiss could not write it: {error}", str(path)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


class Structure:
    """A faiss structure over the rows of a segment. One in a file is read at its first search."""

    def __init__(self, kind: Kind, built: Any = None, path: Path | None = None) -> None:
        """Wrap a structure that was built, or the one in a file.

        Raises:
            FileNotFoundError: no such file.
        """
        self.kind = kind
        self.size_bytes = 0
        self._index = built
        self._path = path
        self._lock = threading.Lock()
        if path is not None:
            # The file is kept open: a writer may remove its name before the first search.
            self._file = path.open("rb")
            self.size_bytes = os.fstat(self._file.fileno()).st_size
            weakref.finalize(self, self._file.close)

    def fetch(self, k: int, share: float = 1.0) -> int:
        """Return how many candidates to ask for when k hits are wanted.

        Args:
            k: hits.
            share: of the rows that may be found, in (0, 1]. A graph leads to the others too, and so
                the best may stand far down. Where at least half may be found, a sixth more
                candidates must do, lest a filter make a search much slower.
        """
        wider = min(1 / share, 1.15) if share >= 0.5 else 1 / share
        return max(int(OVERFETCH[self.kind] * k * wider), FETCH_LEAST)

    def search(self, queries: np.ndarray, n: int, selector: Any = None) -> np.ndarray:
        """Return the rows of n candidates a query, int64, shape (m, n); −1 fills a short row.

        Args:
            queries: float32, shape (m, D), contiguous.
            n: candidates.
            selector: a faiss IDSelector of the rows that may be found; None allows all rows.

        Raises:
            ValueError: the file is truncated or foreign.
        """
        faiss, index = faiss_module(), self._opened()
        if self.kind == "hnsw":
            params = faiss.SearchParametersHNSW(efSearch=n, sel=selector)
        else:
            # An eighth of the lists, and at least 16.
            probes = min(index.nlist, max(16, index.nlist // 8))
            params = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        _, rows = index.search(queries, n, params=params)
        return np.asarray(rows)

    def check(self) -> None:
        """Read the file unless it has been read.

        Raises:
            ValueError: it is truncated or foreign.
        """
        self._opened()

    def _opened(self) -> Any:
        with self._lock:
            if self._index is None:
                faiss = faiss_module()
                try:
                    self._index = faiss.read_index(faiss.PyCallbackIOReader(self._file.read))
                except RuntimeError as error:
                    raise ValueError(
                        f"{self._path}: not a faiss index, or a truncated one: {error}"
                    ) from error
                self._file.close()
            return self._index


def faiss_module() -> Any:
    """Import faiss at its first use.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ImportError(
            f"dense vectors are searched by faiss: `pip install faiss-cpu` ({error})"
        ) from error


def _sample(vectors: np.ndarray, size: int) -> np.ndarray:
    if len(vectors) <= size:
        return np.ascontiguousarray(vectors)
    rows = np.random.default_rng(0).choice(len(vectors), size, replace=False)
    return np.ascontiguousarray(vectors[np.sort(rows)])


@contextmanager
def faiss_threads(n: int) -> Iterator[None]:
    """Run faiss on n threads; 0 leaves the number as it is."""
    faiss = faiss_module()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
