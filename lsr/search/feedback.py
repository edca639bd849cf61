"""Feedback: a query moved towards the vectors of documents taken for relevant.

The caller chooses these documents. Terms are not filtered by their spelling or frequency. Anserini
leaves out terms of one character or of more than 20, and those in more than a tenth of the
documents. That suits words. But a term of a WordPiece vocabulary may be a piece or a single digit,
and an encoder has already weighed common terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from lsr.request import Feedback
from lsr.vectors import prune


def move_dense(
    query: np.ndarray, relevant: np.ndarray, negatives: np.ndarray, how: Feedback
) -> np.ndarray:
    """Return the moved dense query, float32, shape (D,).

    ``average`` is the mean of the query and the relevant documents, ``rocchio`` is ::

        α·query + β·mean(relevant) − γ·mean(negatives)

    (Li et al., Pseudo Relevance Feedback with Deep Language Models and Dense Retrievers,
    arXiv:2108.11044). Neither the vectors nor the result are normalised, so inner products of the
    result are not cosines even if the query's are. Without relevant documents the query is returned
    unchanged. Without negatives nothing is subtracted.

    Args:
        query: float, shape (D,).
        relevant: vectors of documents taken for relevant, shape (k, D).
        negatives: vectors of documents taken for not relevant, shape (b, D).
        how: `method`, and for rocchio `alpha`, `beta` and `gamma`.

    Raises:
        ValueError: the method is "relevance-model", which is about terms, or shapes do not agree.
    """
    if how.method == "relevance-model":
        raise ValueError("method 'relevance-model' is for side 'sparse'")
    for name, vectors in (("relevant", relevant), ("negatives", negatives)):
        if vectors.ndim != 2 or vectors.shape[1:] != query.shape:
            raise ValueError(
                f"`{name}` must have shape (n, {query.shape[0]}), the query's width: "
                f"got {vectors.shape}"
            )
    if not len(relevant):
        return query.astype(np.float32)
    moved: np.ndarray = query.astype(np.float64)
    if how.method == "average":
        moved = (moved + relevant.sum(axis=0, dtype=np.float64)) / (1 + len(relevant))
    else:
        moved = how.alpha * moved + how.beta * relevant.mean(axis=0, dtype=np.float64)
        if len(negatives):
            moved -= how.gamma * negatives.mean(axis=0, dtype=np.float64)
    return moved.astype(np.float32)


def move_sparse(
    query: csr_array, relevant: csr_array, scores: np.ndarray, negatives: csr_array, how: Feedback
) -> csr_array:
    """Return the moved sparse query, float32, shape (1, V), indices ascending, no zeros.

    With ``|x|`` for the Euclidean norm and x̂ for x / |x|, the methods are ::

        rocchio           α·q̂ + β·mean(d̂) − γ·mean(n̂), weights that are not above 0 dropped
        average           mean of q̂ and all d̂
        relevance-model   (α·p(t|q) + β·p(t|R)) / (α + β)

    Weights of queries and of documents are on different scales (their encoders differ, or their
    texts' lengths do), which is why every vector is normalised before it is added, as in Anserini.
    Unlike there, the mean is not normalised again: documents that agree move the query further
    than documents that do not. (Rocchio, 1971, as in Manning et al., Introduction to Information
    Retrieval, eq. 9.3.)

    The relevance model is RM3: p(t|x) = weight / sum of weights, and p(t|R) is proportional to
    Σ_d p(t|d)·score_d for the `terms` heaviest terms, others have 0 (Lavrenko and Croft, SIGIR
    2001; Abdul-Jaleel et al., UMass at TREC 2004). Scores below 0, as cosines can be, count as 0;
    if none is above 0, all documents count the same. Negatives are not used.

    Of the moved query's terms are kept: the query's own, always; and of the others, heaviest
    first, as many as there is room for in `terms`, which counts own terms in, and only such as
    `heaviest` keeps of the moved query by `mass` and `ratio`. So feedback never loses a term
    of the query, and adds nothing to a query that already has `terms` terms. (Anserini cuts the
    documents' mean instead, so that own terms come on top.)

    The result is then scaled to the query's norm. That ranks the same, and scores stay in the
    first pass's range.

    The query is returned unchanged if there are no relevant documents, or if no weight is above 0.
    A query without terms becomes the documents' part alone, with norm 1.

    Args:
        query: float32, shape (1, V).
        relevant: documents taken for relevant, float32, shape (k, V).
        scores: of these documents in the first pass, shape (k,); for the relevance model.
        negatives: documents taken for not relevant, float32, shape (b, V).
        how: method, weights and cuts.

    Raises:
        ValueError: shapes do not agree; of a relevance model, `alpha` and `beta` are both 0, or a
            score is not finite.
    """
    if query.shape[0] != 1:
        raise ValueError(f"`query` must have one row, got shape {query.shape}")
    if scores.shape != (relevant.shape[0],):
        raise ValueError(
            f"`scores` must have one score for each of {relevant.shape[0]} documents, "
            f"got shape {scores.shape}"
        )
    own = query.indices
    if not relevant.shape[0]:
        return _finished(query.shape, own, query.data)
    if how.method == "relevance-model":
        terms, weights = _relevance_model(query, relevant, scores, how)
    else:
        terms, weights = _rocchio(query, relevant, negatives, how)
    # Weights are compared in float32, in which weights that should be equal are equal.
    kept = _keep(_finished(query.shape, terms, weights), own, how)
    if not kept.nnz:
        return _finished(query.shape, own, query.data)
    norm = float(_norms([query])[0]) or 1.0
    scale = norm / float(_norms([kept])[0])
    return _finished(query.shape, kept.indices, kept.data.astype(np.float64) * scale)


def heaviest(
    vectors: csr_array, terms: int | None, mass: float | None, ratio: float | None
) -> csr_array:
    """Return the vectors with only each row's heaviest terms, same shape and dtype.

    A term is kept if every cut that is not None keeps it. In order of weight, and of equal
    weights in order of term id, these are: `terms`, the first so many; `mass`, the fewest first
    ones whose weights add up to at least this share of the row's sum; `ratio`, those that weigh at
    least this share of the row's first. Shares are compared in float32. A row never depends on
    other rows; of a row with terms at least one is kept.

    Args:
        vectors: weights above 0, shape (n, V).
        terms: at least 1.
        mass: in (0, 1].
        ratio: in (0, 1].

    Raises:
        ValueError: a cut is out of its range.
    """
    for name, share in (("mass", mass), ("ratio", ratio)):
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"`{name}` must be in (0, 1], got {share}")
    kept = np.ones(vectors.nnz, dtype=bool)
    for start, end in zip(vectors.indptr[:-1], vectors.indptr[1:], strict=True):
        weights = vectors.data[start:end].astype(np.float64)
        if ratio is not None and len(weights):
            kept[start:end] &= weights >= np.float32(ratio * weights.max())
        # A mass of 1 keeps all terms, even those too small to change a rounded sum.
        if mass is not None and mass < 1:
            order = np.argsort(-weights, kind="stable")
            sums = np.cumsum(weights[order])
            before = np.concatenate(([0.0], sums[:-1])).astype(np.float32)
            kept[start + order[before >= np.float32(mass * sums[-1:])]] = False
    result = _select(vectors, kept)
    return result if terms is None else prune(result, terms)


# Plain arrays from here on: with a few hundred terms scipy's overhead exceeds the sums.
_Terms = tuple[np.ndarray, np.ndarray]  # term ids, ascending, and float64 weights above 0


def _rocchio(query: csr_array, relevant: csr_array, negatives: csr_array, how: Feedback) -> _Terms:
    n_relevant, n_negatives = relevant.shape[0], negatives.shape[0]
    if how.method == "average":
        factors = np.full(1 + n_relevant, 1 / (1 + n_relevant))
        vectors = [query, relevant]
    else:
        # Negatives come last; without any there is no row for their factor.
        factors = np.repeat(
            [how.alpha, how.beta / n_relevant, -how.gamma / max(n_negatives, 1)],
            [1, n_relevant, n_negatives],
        )
        vectors = [query, relevant, negatives]
    return _weighted_sum(vectors, factors * _inverse(_norms(vectors)))


def _relevance_model(
    query: csr_array, relevant: csr_array, scores: np.ndarray, how: Feedback
) -> _Terms:
    if how.alpha + how.beta == 0:
        raise ValueError("`alpha` or `beta` must be above 0")
    if not np.isfinite(scores).all():
        raise ValueError(f"`scores` must be finite, got {scores.tolist()}")
    weights = np.maximum(scores.astype(np.float64), 0)
    if not weights.any():
        weights = np.ones(len(scores))
    model = _weighted_sum([relevant], weights / weights.sum() * _inverse(_sums([relevant])))
    expansion = _vector(query.shape, *model)
    if how.terms is not None:
        expansion = prune(_finished(query.shape, *model), how.terms)
    both = [query, expansion]
    return _weighted_sum(both, np.array([how.alpha, how.beta]) * _inverse(_sums(both)))


def _keep(moved: csr_array, own: np.ndarray, how: Feedback) -> csr_array:
    """Return the moved query's terms, shape (1, V), that are its own or pass the cuts."""
    is_own = np.isin(moved.indices, own)
    kept = ~is_own
    if how.mass is not None or how.ratio is not None:
        kept &= np.isin(moved.indices, heaviest(moved, None, how.mass, how.ratio).indices)
    if how.terms is not None:
        room = max(how.terms - int(is_own.sum()), 0)
        others = np.flatnonzero(kept)
        # Among equal weights the lower term comes first.
        order = np.argsort(-moved.data[others], kind="stable")
        kept[others[order[room:]]] = False
    return _select(moved, is_own | kept)


def _weighted_sum(parts: Sequence[csr_array], factors: np.ndarray) -> _Terms:
    """Return Σ factor·row over all rows of the parts; only weights above 0 count.

    Rows are added in order, so that equal inputs give equal bits.
    """
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    data = np.concatenate([part.data.astype(np.float64) for part in parts])
    terms, positions = np.unique(
        np.concatenate([part.indices for part in parts]), return_inverse=True
    )
    weights = np.bincount(positions, data * np.repeat(factors, lengths), len(terms))
    positive = weights > 0
    return terms[positive], weights[positive]


def _select(vectors: csr_array, kept: np.ndarray) -> csr_array:
    """Return the vectors with only the entries where `kept`, bool, shape (nnz,), is true."""
    indptr = np.concatenate(([0], np.cumsum(kept)))[vectors.indptr].astype(vectors.indptr.dtype)
    return csr_array((vectors.data[kept], vectors.indices[kept], indptr), shape=vectors.shape)


def _sums(parts: Sequence[csr_array], power: int = 1) -> np.ndarray:
    """Return for each row of the parts, in order, the sum of its weights to a power, float64."""
    sums = []
    for part in parts:
        of_part = np.zeros(part.shape[0])
        filled = np.flatnonzero(np.diff(part.indptr))
        if len(filled):
            values = part.data.astype(np.float64) ** power
            of_part[filled] = np.add.reduceat(values, part.indptr[filled])
        sums.append(of_part)
    return np.concatenate(sums)


def _norms(parts: Sequence[csr_array]) -> np.ndarray:
    norms: np.ndarray = np.sqrt(_sums(parts, 2))
    return norms


def _inverse(values: np.ndarray) -> np.ndarray:
    """Return 1 / value, and 0 for 0, so that an empty vector stays empty."""
    inverse = np.zeros_like(values)
    np.divide(1.0, values, out=inverse, where=values > 0)
    return inverse


def _vector(shape: tuple[int, int], terms: np.ndarray, weights: np.ndarray) -> csr_array:
    return csr_array((weights, terms, np.array([0, len(terms)], terms.dtype)), shape=shape)


def _finished(shape: tuple[int, int], terms: np.ndarray, weights: np.ndarray) -> csr_array:
    """Return one row, float32, indices ascending, without zeros."""
    weights = weights.astype(np.float32)
    order = np.argsort(terms)
    order = order[weights[order] != 0]
    return _vector(shape, terms[order], weights[order])
