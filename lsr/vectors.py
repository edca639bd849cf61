"""Sparse vectors: pruning, quantisation to impacts, concatenation.

Sparse vectors are a ``scipy.sparse.csr_array``, float32, shape (n, vocabulary), indices ascending
in a row, empty rows legal. Impacts are the same with int32 values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array, vstack

# Lucene's scores are float32, which holds every integer up to here.
EXACT = 2**24
QUERY_SCALE = 64.0


def prune(vectors: csr_array, top_k: int) -> csr_array:
    """Return the vectors with only the `top_k` largest weights of each row, same shape and dtype.

    Among equal weights the lower term id is kept.

    Raises:
        ValueError: `top_k` is below 1.
    """
    if top_k < 1:
        raise ValueError(f"`top_k` must be at least 1, got {top_k}")
    lengths = np.diff(vectors.indptr)
    rows = np.repeat(np.arange(vectors.shape[0]), lengths)
    order = np.lexsort((vectors.indices, -vectors.data, rows))
    rank = np.arange(vectors.nnz) - np.repeat(vectors.indptr[:-1], lengths)
    kept = np.sort(order[rank < top_k])
    indptr = np.zeros_like(vectors.indptr)
    np.cumsum(np.minimum(lengths, top_k), out=indptr[1:])
    return csr_array((vectors.data[kept], vectors.indices[kept], indptr), shape=vectors.shape)


def quantise(vectors: csr_array, scale: float, max_impact: int = 65535) -> csr_array:
    """Return the impacts ``rint(weight * scale)`` as int32; weights that round to 0 are dropped.

    Halves round to even. The product is taken in float64.

    Raises:
        ValueError: `scale` is not positive and finite, `max_impact` is not in [1, 2^31 - 1], a
            weight is negative or not finite, or an impact exceeds `max_impact`.
    """
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"`scale` must be positive and finite, got {scale}")
    if not 1 <= max_impact <= np.iinfo(np.int32).max:
        raise ValueError(f"`max_impact` must be in [1, 2147483647], got {max_impact}")
    bad = ~(np.isfinite(vectors.data) & (vectors.data >= 0))
    if bad.any():
        where = _describe(vectors, int(np.argmax(bad)))
        raise ValueError(f"weights must be finite and at least 0, got {where}")
    scaled = np.rint(vectors.data.astype(np.float64) * scale)
    if scaled.size and scaled.max() > max_impact:
        position = int(np.argmax(scaled))
        raise ValueError(
            f"impacts must be in [0, {max_impact}], got {scaled[position]:.0f} at scale {scale} "
            f"for {_describe(vectors, position)}"
        )
    impacts = csr_array(
        (scaled.astype(np.int32), vectors.indices.copy(), vectors.indptr.copy()),
        shape=vectors.shape,
    )
    impacts.eliminate_zeros()
    return impacts


def quantise_queries(vectors: csr_array, largest: int) -> tuple[csr_array, np.ndarray]:
    """Return the impacts of queries, int32, shape (n, V), and each query's scale, float64, (n,).

    A query's scale is a power of two: QUERY_SCALE, or less where its weights times the largest
    impact of a document could otherwise reach EXACT.

    Args:
        vectors: of the queries.
        largest: impact of all documents; 0 where they have none.

    Raises:
        ValueError: a weight is negative or not finite.
    """
    room = EXACT / max(largest, 1)
    scales = np.full(vectors.shape[0], QUERY_SCALE)
    for row in range(len(scales)):
        weights = vectors.data[vectors.indptr[row] : vectors.indptr[row + 1]].astype(np.float64)
        while np.rint(weights * scales[row]).sum() >= room:
            scales[row] /= 2
    scaled = vectors.data.astype(np.float64) * np.repeat(scales, np.diff(vectors.indptr))
    scaled = csr_array((scaled, vectors.indices, vectors.indptr), shape=vectors.shape)
    return quantise(scaled, 1.0, EXACT), scales


def concatenate(parts: Sequence[csr_array]) -> csr_array:
    """Return the rows of all `parts` in order, in one matrix of the parts' dtype.

    Raises:
        ValueError: there are no parts, or they differ in vocabulary size or dtype.
    """
    if not parts:
        raise ValueError("`parts` must hold at least one matrix, got none")
    for i, part in enumerate(parts):
        if part.shape[1] != parts[0].shape[1] or part.dtype != parts[0].dtype:
            raise ValueError(
                f"`parts` must agree in vocabulary size and dtype: part 0 has {parts[0].shape[1]} "
                f"terms ({parts[0].dtype}), part {i} has {part.shape[1]} ({part.dtype})"
            )
    # vstack's own work takes longer than a copy of one query.
    return csr_array(parts[0], copy=True) if len(parts) == 1 else csr_array(vstack(parts, "csr"))


def rows(vectors: csr_array, numbers: Sequence[int]) -> csr_array:
    """Return rows of `vectors` in the order asked, as `vectors[numbers]` does, but faster for few.

    Args:
        vectors: shape (n, V).
        numbers: of rows, in [0, n).
    """
    parts = [slice(vectors.indptr[number], vectors.indptr[number + 1]) for number in numbers]
    return csr_array(
        (
            np.concatenate([vectors.data[:0], *(vectors.data[part] for part in parts)]),
            np.concatenate([vectors.indices[:0], *(vectors.indices[part] for part in parts)]),
            np.cumsum([0, *(part.stop - part.start for part in parts)], dtype=vectors.indptr.dtype),
        ),
        shape=(len(numbers), vectors.shape[1]),
    )


def _describe(vectors: csr_array, position: int) -> str:
    row = int(np.searchsorted(vectors.indptr, position, side="right")) - 1
    return f"row {row}, term {vectors.indices[position]}, value {vectors.data[position]}"
