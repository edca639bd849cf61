"""Sparse vectors: pruning, quantisation to impacts, concatenation.

Sparse vectors are a ``scipy.sparse.csr_array``, float32, shape (n, vocabulary), indices ascending
in a row, empty rows legal. Impacts are the same with int32 values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array, vstack

# The largest impact that an index keeps: a larger weight counts as this one. At a scale of 64 that
# is a weight of 256. The weights of ordinary encoders stay below 32.
MAX_IMPACT = 2**14 - 1
# The impact of a query's largest weight. PEAK · MAX_IMPACT < 2^24: Lucene's score of one term, a
# float32, is then exact.
PEAK = 2**10


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


def quantise(vectors: csr_array, scale: float) -> csr_array:
    """Return the impacts ``min(rint(weight * scale), MAX_IMPACT)`` as int32, without zeros.

    Halves round to even. The product is taken in float64.

    Raises:
        ValueError: `scale` is not positive and finite, or a weight is negative or not finite.
    """
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"`scale` must be positive and finite, got {scale}")
    _check_weights(vectors)
    return _impacts(vectors, np.minimum(vectors.data.astype(np.float64) * scale, MAX_IMPACT))


def quantise_queries(
    vectors: csr_array, units: np.ndarray | None = None
) -> tuple[csr_array, np.ndarray]:
    """Return the impacts of queries, int32, shape (n, V), and a factor for each, float64, (n,).

    A weight times its row's unit is about its impact times the row's factor. The impacts are
    ``rint(PEAK * weight / largest)``, where `largest` is the largest weight of the row: they are
    the same for a query and for a positive multiple of it, and the largest weight never vanishes.
    Weights below 1 / (2 · PEAK) of the largest do.

    A factor has so few significant bits that its product with any sum of query impact × document
    impact is exact in float64 (if no document impact is above MAX_IMPACT). Scores are such
    products, so that the parts of a score add up to it exactly.

    Args:
        vectors: of the queries, shape (n, V).
        units: float64, shape (n,), above 0; 1 for each row by default.

    Raises:
        ValueError: a weight is negative or not finite.
    """
    _check_weights(vectors)
    n_terms = np.diff(vectors.indptr)
    filled = np.flatnonzero(n_terms)
    largest = np.ones(vectors.shape[0])
    if len(filled):
        largest[filled] = np.maximum.reduceat(vectors.data, vectors.indptr[filled])
    largest[largest == 0] = 1
    # In float32 the multiples of a query agree, whatever their last bits are in float64.
    shares = (vectors.data / np.repeat(largest, n_terms)).astype(np.float32)
    impacts = _impacts(vectors, shares.astype(np.float64) * PEAK)
    _, bits = np.frexp(impacts.sum(axis=1, dtype=np.float64) * MAX_IMPACT)
    mantissa, exponent = np.frexp(largest * (1 if units is None else units) / PEAK)
    kept = 53 - bits
    return impacts, np.ldexp(np.rint(np.ldexp(mantissa, kept)), exponent - kept)


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


def _check_weights(vectors: csr_array) -> None:
    bad = ~(np.isfinite(vectors.data) & (vectors.data >= 0))
    if bad.any():
        where = _describe(vectors, int(np.argmax(bad)))
        raise ValueError(f"weights must be finite and at least 0, got {where}")


def _impacts(vectors: csr_array, scaled: np.ndarray) -> csr_array:
    """`vectors` with the values `scaled`, float64, shape (nnz,), rounded; without zeros."""
    impacts = csr_array(
        (np.rint(scaled).astype(np.int32), vectors.indices.copy(), vectors.indptr.copy()),
        shape=vectors.shape,
    )
    impacts.eliminate_zeros()
    return impacts


def _describe(vectors: csr_array, position: int) -> str:
    row = int(np.searchsorted(vectors.indptr, position, side="right")) - 1
    return f"row {row}, term {vectors.indices[position]}, value {vectors.data[position]}"
