"""The rows of all segments of dense vectors taken together, and their search by faiss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsr.indexes.approximate import Structure, faiss_module, faiss_threads
from lsr.indexes.dense_segments import (
    Segment,
    norms,
    read_segment,
    read_structure,
    structure_kind,
)

# Neighbours beyond k that faiss returns, so that ties can be put in order.
SPARE = 16
# The largest error of faiss' float32 sums, relative to ‖query‖ · ‖vector‖.
ERROR = 1e-5
# Rows whose products are in memory at once.
BLOCK = 4096
# A structure serves for up to 1 in 100 of the rows that may be found. For more, all of these rows
# are compared, which is exact and no slower: for 4,000 of 200,000 a graph took 17 ms, comparing all
# took 10 ms. Behind a filter a row costs three times as much, and a candidate the same: 1 in 33.
WIDEST = 100
# Selections of up to so many rows are scored at once, which is exact: faiss would first look at the
# bit of each row of the index, 0.4 ms for 200,000.
FEW = 1000


class Selection(NamedTuple):
    """The rows that a search may find."""

    base: Any  # a faiss IDSelector; None selects all rows
    n_base: int
    tail: Any
    n_tail: int
    few: np.ndarray | None  # their numbers, where they are no more than FEW

    @property
    def n(self) -> int:
        return self.n_base + self.n_tail


class Rows(NamedTuple):
    """The rows of one commit's segments. It never changes; a newer commit gets a new one."""

    names: tuple[str, ...]
    segments: dict[str, Segment]  # by name, in order
    ids: list[str]  # of each row: first the base with its dead rows, then the tail
    row_of: dict[str, int]  # of each live id
    base: np.ndarray  # the first segment's vectors, mapped
    tail: np.ndarray  # the live vectors of all others, in memory
    alive: np.ndarray  # bool, of each row
    everything: Selection
    structure: Structure | None  # over the base
    largest_norm: float

    def numbers(self, ids: Sequence[str]) -> np.ndarray:
        try:
            return np.array([self.row_of[doc_id] for doc_id in ids], np.int64)
        except KeyError as error:
            raise KeyError(f"no vector of document {error.args[0]!r}") from None

    def select(self, chosen: np.ndarray) -> Selection:
        """Return the live rows among those chosen, bool, shape (rows,)."""
        return _select(chosen & self.alive, len(self.base))

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        vectors = np.empty((len(numbers), self.base.shape[1]), np.float32)
        in_base = numbers < len(self.base)
        vectors[in_base] = self.base[numbers[in_base]]
        vectors[~in_base] = self.tail[numbers[~in_base] - len(self.base)]
        return vectors

    def scores(self, query: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return scores. Products of float32 are exact in float64, and each row is summed alone."""
        found = [np.empty(0, np.float32)]
        for start in range(0, len(numbers), BLOCK):
            vectors = self.gather(numbers[start : start + BLOCK])
            products = np.multiply(vectors, query, dtype=np.float64)
            found.append(products.sum(axis=1).astype(np.float32))
        return np.concatenate(found)

    def best(self, query: np.ndarray, numbers: np.ndarray, k: int) -> list[tuple[str, float]]:
        """Return the k best of these rows."""
        scores = self.scores(query, numbers)
        if len(numbers) > k:
            near = scores >= np.partition(scores, -k)[-k]
            numbers, scores = numbers[near], scores[near]
        ids = [self.ids[number] for number in numbers.tolist()]
        hits = zip(ids, scores.tolist(), strict=True)
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]

    def candidates(self, queries: np.ndarray, k: int, selection: Selection) -> list[np.ndarray]:
        """Return for each query rows that hold its k best, or very likely do (by a structure)."""
        if selection.few is not None:
            return [selection.few] * len(queries)
        asked = self.asked(k, selection)
        if self.structure is None or not asked:
            return self._exhaustive(queries, k, selection)
        rows = self.structure.search(queries, asked, selection.base)
        if selection.n_tail:
            n = min(k + SPARE, selection.n_tail)
            _, since = _knn(queries, self.tail, n, selection.tail)
            since[since >= 0] += len(self.base)
            rows = np.concatenate([rows, since], axis=1)
        found = [of_query[of_query >= 0] for of_query in rows]
        # A graph may lead to too few of the allowed rows.
        few = [number for number, of_query in enumerate(found) if len(of_query) < k]
        if few:
            for number, of_query in zip(
                few, self._exhaustive(queries[few], k, selection), strict=True
            ):
                found[number] = of_query
        return found

    def asked(self, k: int, selection: Selection) -> int:
        """Return how many candidates the structure gives for k hits; 0 if all rows are compared."""
        if self.structure is None or not selection.n_base or selection.few is not None:
            return 0
        asked = self.structure.fetch(k, selection.n_base / len(self.base))
        widest = WIDEST if selection.base is None else WIDEST / 3
        return 0 if asked > selection.n_base / widest else asked

    def _exhaustive(self, queries: np.ndarray, k: int, selection: Selection) -> list[np.ndarray]:
        found = [np.empty(0, np.int64)] * len(queries)
        slack = 2 * ERROR * norms(queries) * self.largest_norm
        asked, left = k + SPARE, np.arange(len(queries))
        while len(left):
            asked = min(asked, selection.n)
            rough, rows = self._scan(queries[left], asked, selection)
            for number, of_query in zip(left.tolist(), rows, strict=True):
                found[number] = of_query
            if asked == selection.n:
                break
            # A row that faiss left out may belong to the first k if its last score is this near.
            left = left[rough[:, -1] >= rough[:, k - 1] - slack[left]]
            asked *= 2
        return found

    def _scan(
        self, queries: np.ndarray, n: int, selection: Selection
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rough scores, descending, and rows of the n nearest, each of shape (m, n)."""
        parts = []
        if selection.n_base:
            parts.append(_knn(queries, self.base, min(n, selection.n_base), selection.base))
        if selection.n_tail:
            rough, rows = _knn(queries, self.tail, min(n, selection.n_tail), selection.tail)
            parts.append((rough, rows + len(self.base)))
        if len(parts) == 1:
            return parts[0]
        rough, rows = (np.concatenate(both, axis=1) for both in zip(*parts, strict=True))
        order = np.argsort(-rough, axis=1, kind="stable")[:, :n]
        return np.take_along_axis(rough, order, 1), np.take_along_axis(rows, order, 1)


def _knn(
    queries: np.ndarray, vectors: np.ndarray, n: int, selector: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of the n nearest, (m, n); vectors are read where they lie."""
    faiss = faiss_module()
    scores = np.empty((len(queries), n), np.float32)
    rows = np.empty((len(queries), n), np.int64)
    pointers = [faiss.swig_ptr(array) for array in (queries, vectors, scores, rows)]
    sizes = queries.shape[1], len(queries), len(vectors), n
    # Threads divide queries among them. For one query they would wait and block the sparse side.
    with faiss_threads(1 if len(queries) == 1 else 0):
        faiss.knn_inner_product(*pointers[:2], *sizes, *pointers[2:], selector)
    return scores, rows


def _select(chosen: np.ndarray, n_base: int) -> Selection:
    base, in_base = _selector(chosen[:n_base])
    tail, in_tail = _selector(chosen[n_base:])
    n = in_base + in_tail
    few = np.flatnonzero(chosen) if n <= FEW and n < len(chosen) else None
    return Selection(base, in_base, tail, in_tail, few)


def _selector(chosen: np.ndarray) -> tuple[Any, int]:
    """The IDSelector of these rows, and their number."""
    n = int(chosen.sum())
    if n == len(chosen):  # faiss is faster without a selector, most of all for many queries
        return None, n
    return faiss_module().IDSelectorBitmap(np.packbits(chosen, bitorder="little")), n


def read_rows(folder: Path, names: tuple[str, ...], before: Rows | None) -> Rows:
    """Return the rows of the named segments. Segments that `before` has are not read again.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated or foreign, or there is no segment.
    """
    segments: dict[str, Segment] = {}
    structure = None
    for name in names:
        if before is not None and name in before.names:
            if structure_kind(name):
                structure = before.structure
            else:
                segments[name] = before.segments[name]
        elif structure_kind(name):
            structure = read_structure(folder, name)
        else:
            segments[name] = read_segment(folder, name)
    if not segments:
        raise ValueError(f"{folder}: the commit lists no segment of vectors")
    return assemble(names, segments, structure)


def assemble(
    names: tuple[str, ...], segments: dict[str, Segment], structure: Structure | None
) -> Rows:
    """Return the rows of at least one segment; `structure` covers the rows of the first."""
    base, *others = segments.values()
    row_of = dict(zip(base.ids, range(len(base.ids)), strict=True))
    for segment in others:
        for doc_id in segment.deleted:
            row_of.pop(doc_id, None)
    kept: list[list[int]] = [[] for _ in others]
    ids: list[list[str]] = [[] for _ in others]
    for doc_id, (number, row) in live_places(others).items():
        kept[number].append(row)
        ids[number].append(doc_id)
    tail_ids = [doc_id for of_segment in ids for doc_id in of_segment]
    row_of.update(zip(tail_ids, count(len(base.ids)), strict=False))
    tail = [segment.vectors[rows] for segment, rows in zip(others, kept, strict=True) if rows]
    empty = np.empty((0, base.vectors.shape[1]), np.float32)
    alive = np.zeros(len(base.ids) + len(tail_ids), bool)
    alive[np.fromiter(row_of.values(), np.int64, len(row_of))] = True
    return Rows(
        names=names,
        segments=segments,
        ids=base.ids + tail_ids,
        row_of=row_of,
        base=base.vectors,
        tail=np.concatenate([empty, *tail]),
        alive=alive,
        everything=_select(alive, len(base.ids)),
        structure=structure,
        largest_norm=max(segment.largest_norm for segment in segments.values()),
    )


def live_places(segments: Sequence[Segment]) -> dict[str, tuple[int, int]]:
    """Of each live document, the number of the segment that its vector is in, and the row there."""
    places: dict[str, tuple[int, int]] = {}
    for number, segment in enumerate(segments):
        for doc_id in segment.deleted:
            places.pop(doc_id, None)
        places.update((doc_id, (number, row)) for row, doc_id in enumerate(segment.ids))
    return places
