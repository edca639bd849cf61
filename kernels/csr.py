"""Pooled weights become a sparse matrix at inference, before they leave the device."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor


def to_csr(pooled: Tensor, *, top_k: int | None = None, threshold: float = 0.0) -> csr_array:
    """Keep the weights above `threshold`, and of each text the `top_k` largest of them.

    They are chosen on the device of `pooled`, and only they are copied to the CPU. Among equal
    weights the term with the lower number is kept. NaN is kept, so that the caller can refuse it.

    Args:
        pooled: weights, shape (B, V).
        top_k: how many terms of a text are kept at most; None for no limit.
        threshold: at least 0.

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
