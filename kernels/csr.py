"""The end of the head at inference: pooled weights become sparse before they leave the device."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor


def to_csr(pooled: Tensor, *, top_k: int | None = None, threshold: float = 0.0) -> csr_array:
    """The weights above `threshold`, of each text the `top_k` largest, as a sparse matrix.

    They are chosen on the device of `pooled`, and only they are copied from it. Among equal weights
    the lower term is kept. What is no number is kept, for those to refuse who check.

    Args:
        pooled: weights, shape (B, V).
        top_k: terms kept of a text, at most; None for all.
        threshold: not negative.

    Returns:
        Shape (B, V), dtype of `pooled`, terms ascending in a row.

    Raises:
        ValueError: `top_k` is below 1, or `threshold` negative.
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"`top_k` must be at least 1, got {top_k}")
    if not threshold >= 0:
        raise ValueError(f"`threshold` must be at least 0, got {threshold}")
    kept = ~(pooled <= threshold)
    if top_k is not None and top_k < pooled.shape[1]:
        last = pooled.topk(top_k, dim=1).values[:, -1:]
        larger = ~(pooled <= last)
        tied = pooled == last
        room = top_k - larger.sum(1, keepdim=True)
        if bool((tied.sum(1, keepdim=True) > room).any()):
            tied &= tied.cumsum(1) <= room
        kept &= larger | tied
    rows, terms = kept.nonzero(as_tuple=True)
    values = pooled[rows, terms].cpu().numpy()
    indptr = np.zeros(len(pooled) + 1, dtype=np.int32)
    np.cumsum(torch.bincount(rows, minlength=len(pooled)).cpu().numpy(), out=indptr[1:])
    return csr_array((values, terms.int().cpu().numpy(), indptr), shape=tuple(pooled.shape))
