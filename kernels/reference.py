"""The definition of the SPLADE head: every other file in this folder is held against this one."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Activation = Literal["relu", "log1p_relu"]
Pooling = Literal["max", "sum"]


def activate(logits: Tensor, activation: Activation) -> Tensor:
    """Return log(1 + relu(x)) for "relu", log(1 + log(1 + relu(x))) for "log1p_relu", elementwise.

    "relu" is SPLADE (Formal et al. 2021, eq. 1); "log1p_relu" is the l0-activation of OpenSearch's
    inference-free models (arXiv 2504.14839). The names are those of sentence-transformers.

    Raises:
        ValueError: for any other name.
    """
    if activation == "relu":
        return torch.log1p(torch.relu(logits))
    if activation == "log1p_relu":
        return torch.log1p(torch.log1p(torch.relu(logits)))
    raise ValueError(f"`activation` must be 'relu' or 'log1p_relu', got {activation!r}")


def check_arguments(
    hidden: Tensor, cu_seqlens: Tensor, weight: Tensor, bias: Tensor | None, pooling: Pooling
) -> list[int]:
    """Check the arguments of `splade_pool`, and return `cu_seqlens` as a list.

    Raises:
        ValueError: an argument does not fit; the message says what was expected and what was given.
    """
    if pooling not in ("max", "sum"):
        raise ValueError(f"`pooling` must be 'max' or 'sum', got {pooling!r}")
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            "`hidden` (total tokens, D) and `weight` (V, D) must have the same D, got shapes "
            f"{tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if hidden.dtype != weight.dtype:
        raise ValueError(
            f"`hidden` and `weight` must have one dtype, got {hidden.dtype} and {weight.dtype}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"`bias` must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    bounds = cu_seqlens.tolist() if cu_seqlens.ndim == 1 else []
    if not bounds or bounds[0] != 0 or bounds[-1] != hidden.shape[0] or bounds != sorted(bounds):
        raise ValueError(
            f"`cu_seqlens` must ascend from 0 to the {hidden.shape[0]} rows of `hidden`, got "
            f"{bounds if len(bounds) <= 10 else [*bounds[:4], '…', *bounds[-4:]]}"
        )
    return bounds


def splade_pool(
    hidden: Tensor,
    cu_seqlens: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = "relu",
    pooling: Pooling = "max",
) -> Tensor:
    """y[b, v] = max (or sum) over the tokens t of text b of f(hidden[t] · weight[v] + bias[v]).

    Among tokens that tie for a maximum, the first gets the gradient. As in `torch.max`, a NaN logit
    wins over all others, the first NaN over later ones. Where `hidden` has a NaN, every path gives
    the same gradients. Where `weight` has one, or either is infinite, they differ: a dense product,
    as here, carries 0 · NaN to tokens that won nothing, a path that gathers winners does not.

    Args:
        hidden: packed token states, shape (total tokens, D), text after text without padding.
        cu_seqlens: where each text begins and the last ends, integer, shape (B + 1,), from 0 to
            total tokens, ascending; a text without tokens gives zeros.
        weight: output embeddings, shape (V, D), dtype of `hidden`.
        bias: shape (V,) or None.
        activation: f, see `activate`.
        pooling: "max" (SPLADE v2 and later) or "sum" (SPLADE v1).

    Returns:
        Shape (B, V), in the dtype of `hidden`, but float32 where that has 16 bits.

    Raises:
        ValueError: unknown activation or pooling, or shapes that do not fit.
    """
    bounds = check_arguments(hidden, cu_seqlens, weight, bias, pooling)
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    values = activate(logits, activation)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    texts = [values[start:end] for start, end in pairwise(bounds)]
    # A text without tokens has no maximum: it gets the sum of no values, which is 0.
    rows = [
        tokens.max(0).values if pooling == "max" and len(tokens) else tokens.sum(0)
        for tokens in texts
    ]
    return torch.stack(rows) if rows else values[:0]
