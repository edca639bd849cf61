"""The SPLADE head: the one function that encoders and training call, which chooses the path."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from lsr.kernels import cpu, reference
from lsr.kernels.reference import Activation, Pooling

Implementation = Literal["auto", "triton", "cpu", "reference"]

logger = logging.getLogger(__name__)


def splade_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    mask: Tensor | None = None,
    activation: Activation = "relu",
    pooling: Pooling = "max",
    impl: Implementation = "auto",
) -> Tensor:
    """y[b, v] = max over the tokens t of text b of f(hidden[b, t] · weight[v] + bias[v]).

    Differentiable in hidden, weight and bias; logits of shape (batch, length, V) never exist.

    Args:
        hidden: token states, packed, shape (total tokens, D), with `cu_seqlens`; or padded, shape
            (B, T, D), with `mask`. Under autocast, they are cast to its dtype.
        weight: output embeddings, shape (V, D); cast to the dtype of `hidden`, as autocast would.
        bias: shape (V,) or None.
        cu_seqlens: where each text begins and the last ends, integer, shape (B + 1,).
        mask: true (or 1) where there is a token, shape (B, T); tokens may lie anywhere.
        activation: f, see `lsr.kernels.reference.activate`.
        pooling: "max" or "sum".
        impl: "reference" (plain PyTorch, holds all logits), "cpu" (packed tokens and chunks of the
            vocabulary, on any device), "triton" (one kernel, CUDA only, max pooling, not float64),
            or "auto" for the fastest that can compute this.

    Returns:
        Shape (B, V), float32, or float64 where `hidden` is.

    Raises:
        ValueError: an argument does not fit, named with what was expected.
    """
    if (cu_seqlens is None) == (mask is None):
        raise ValueError("give `cu_seqlens` with packed or `mask` with padded states, and not both")
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    if mask is not None:
        hidden, cu_seqlens = pack(hidden, mask)
    assert cu_seqlens is not None
    weight = weight.to(hidden.dtype)
    if impl == "auto":
        impl = _choose(hidden, pooling)
        _log_once(impl, str(hidden.device))
    if impl == "triton":
        return _fused(hidden, cu_seqlens, weight, bias, activation, pooling)
    if impl == "cpu":
        return cpu.splade_pool(hidden, cu_seqlens, weight, bias, activation, pooling)
    if impl == "reference":
        return reference.splade_pool(hidden, cu_seqlens, weight, bias, activation, pooling)
    raise ValueError(f"`impl` must be 'auto', 'triton', 'cpu' or 'reference', got {impl!r}")


def _choose(hidden: Tensor, pooling: Pooling) -> Implementation:
    fusible = hidden.is_cuda and pooling == "max" and hidden.dtype != torch.float64
    return "triton" if fusible and importlib.util.find_spec("triton") else "cpu"


def _fused(
    hidden: Tensor,
    cu_seqlens: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation,
    pooling: Pooling,
) -> Tensor:
    if not importlib.util.find_spec("triton"):
        raise ValueError("`impl` 'triton' needs Triton: `pip install triton`")
    if pooling != "max":
        raise ValueError(f"`impl` 'triton' needs `pooling` 'max', got {pooling!r}")
    from lsr.kernels import fused, fused_forward

    if not (hidden.is_cuda or fused_forward.is_interpreted()):
        raise ValueError(f"`impl` 'triton' needs states on a CUDA device, got {hidden.device}")
    return fused.splade_pool(hidden, cu_seqlens, weight, bias, activation)


def pack(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Padded states as packed ones: shape (total tokens, D), and cu_seqlens, int32, (B + 1,).

    Raises:
        ValueError: shapes that do not fit.
    """
    if hidden.ndim != 3 or mask.shape != hidden.shape[:2]:
        raise ValueError(
            f"`hidden` must have shape (B, T, D) and `mask` (B, T), got {tuple(hidden.shape)} and "
            f"{tuple(mask.shape)}"
        )
    tokens = mask.bool()
    lengths = tokens.sum(1)
    cu_seqlens = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int()
    # Without padding they are packed as they lie.
    return hidden.flatten(0, 1) if bool(tokens.all()) else hidden[tokens], cu_seqlens


@cache
def _log_once(impl: str, device: str) -> None:
    logger.info("the SPLADE head runs by %r on %s", impl, device)
