"""The definition of the SPLADE head: every other file in this folder is held against this one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Activation = Literal["relu", "log1p_relu"]
Pooling = Literal["max", "sum"]


def activate(logits: Tensor, activation: Activation) -> Tensor:
    """log(1 + relu(x)) for "relu", log(1 + log(1 + relu(x))) for "log1p_relu", elementwise.

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


def splade_pool(
    hidden: Tensor,
    lengths: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = "relu",
    pooling: Pooling = "max",
) -> Tensor:
    """y[b, v] = max (or sum) over the tokens t of text b of f(hidden[t] · weight[v] + bias[v]).

    Args:
        hidden: packed token states, shape (total tokens, D), text after text without padding.
        lengths: tokens per text, int64, shape (B,), summing to total tokens; 0 gives zeros.
        weight: output embeddings, shape (V, D).
        bias: shape (V,) or None.
        activation: f, see `activate`.
        pooling: "max" (SPLADE v2 and later) or "sum" (SPLADE v1).

    Returns:
        Shape (B, V), in the dtype of `hidden`.

    Raises:
        ValueError: unknown activation or pooling, or lengths that do not sum to the tokens.
    """
    if pooling not in ("max", "sum"):
        raise ValueError(f"`pooling` must be 'max' or 'sum', got {pooling!r}")
    total = int(lengths.sum())
    if total != hidden.shape[0]:
        raise ValueError(
            f"`lengths` must sum to the {hidden.shape[0]} rows of `hidden`, got {total}"
        )
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    values = activate(logits, activation)
    rows = [
        values.new_zeros(values.shape[1])
        if len(tokens) == 0
        else (tokens.amax(0) if pooling == "max" else tokens.sum(0))
        for tokens in torch.split_with_sizes(values, lengths.tolist())
    ]
    return torch.stack(rows) if rows else values.new_zeros((0, values.shape[1]))
