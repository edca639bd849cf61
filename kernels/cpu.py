"""The SPLADE head for inference on packed tokens, a chunk of the vocabulary at a time.

Logits exist for one chunk only: (total tokens, CHUNK) and never (batch, length, vocabulary). One
buffer holds every chunk in turn, so that it stays in cache and its pages are touched once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lsr.kernels.reference import Activation, Pooling, activate

# Wide enough to amortise the reduction per text, narrow enough that a chunk of logits of a thousand
# tokens (8 MiB in float32) stays in the last cache level.
CHUNK = 2048


@torch.inference_mode()
def splade_pool(
    hidden: Tensor,
    lengths: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = "relu",
    pooling: Pooling = "max",
) -> Tensor:
    """The same as `lsr.kernels.reference.splade_pool`, in float32, without gradients.

    The maximum is taken before the activation, which is monotone, so that only (B, V) values pass
    through the logarithm.

    Args:
        hidden: packed token states, shape (total tokens, D), float32 or bfloat16.
        lengths: tokens per text, int64, shape (B,), summing to total tokens.
        weight: shape (V, D), dtype of `hidden`.
        bias: shape (V,), float32, or None.
        activation: see `lsr.kernels.reference.activate`.
        pooling: "max" or "sum".

    Returns:
        float32, shape (B, V).

    Raises:
        ValueError: unknown activation or pooling, or lengths that do not sum to the tokens.
    """
    if pooling not in ("max", "sum"):
        raise ValueError(f"`pooling` must be 'max' or 'sum', got {pooling!r}")
    sizes = lengths.tolist()
    if sum(sizes) != hidden.shape[0]:
        raise ValueError(
            f"`lengths` must sum to the {hidden.shape[0]} rows of `hidden`, got {sum(sizes)}"
        )
    n_terms = weight.shape[0]
    pooled = torch.zeros((len(sizes), n_terms), dtype=torch.float32)
    buffer = hidden.new_empty(hidden.shape[0] * min(CHUNK, n_terms))
    for start in range(0, n_terms, CHUNK):
        columns = slice(start, min(start + CHUNK, n_terms))
        chunk = weight[columns]
        logits = buffer[: hidden.shape[0] * len(chunk)].view(hidden.shape[0], len(chunk))
        torch.mm(hidden, chunk.T, out=logits)
        if pooling == "sum":
            logits = logits.float()
            if bias is not None:
                logits += bias[columns]
            logits = activate(logits, activation)
        for row, tokens in enumerate(torch.split_with_sizes(logits, sizes)):
            if len(tokens):
                out = pooled[row, columns]
                out.copy_(tokens.amax(0) if pooling == "max" else tokens.sum(0))
        if pooling == "max" and bias is not None:
            pooled[:, columns] += bias[columns]
    if pooling == "max":
        pooled = activate(pooled, activation)
        pooled[lengths == 0] = 0.0
    return pooled
