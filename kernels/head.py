"""The SPLADE head: the function that encoders and training call. It chooses the implementation."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from typing import Literal

import torch
from packaging.version import Version
from torch import Tensor

from lsr.kernels import cpu, reference
from lsr.kernels.reference import Activation, Pooling

Implementation = Literal["auto", "triton", "cpu", "reference"]

# The first with host-side tensor descriptors, which kernels/fused_forward.py builds.
OLDEST_TRITON = "3.4"
# Ampere: the first with bfloat16, asynchronous copies and a maximum that keeps NaN.
OLDEST_CAPABILITY = (8, 0)

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
        mask: true (or 1) where there is a token, shape (B, T); padding may be at any place.
        activation: f, see `lsr.kernels.reference.activate`.
        pooling: "max" or "sum".
        impl: "reference" (plain PyTorch, holds all logits), "cpu" (packed tokens and chunks of the
            vocabulary, on any device), "triton" (one kernel; for what it needs see
            `missing_for_triton`), or "auto" for the fastest that can compute this.

    Returns:
        Shape (B, V), float32, or float64 where `hidden` is.

    Raises:
        ValueError: an argument does not fit; the message says which, and what was expected.
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
        missing = missing_for_triton(hidden, pooling) if hidden.is_cuda else None
        impl = "triton" if hidden.is_cuda and missing is None else "cpu"
        _log_once(impl, str(hidden.device), missing)
    elif impl == "triton" and (missing := missing_for_triton(hidden, pooling)):
        raise ValueError(f"`impl` 'triton' needs {missing}")
    if impl == "triton":
        from lsr.kernels import fused

        return fused.splade_pool(hidden, cu_seqlens, weight, bias, activation)
    if impl == "cpu":
        return cpu.splade_pool(hidden, cu_seqlens, weight, bias, activation, pooling)
    if impl == "reference":
        return reference.splade_pool(hidden, cu_seqlens, weight, bias, activation, pooling)
    raise ValueError(f"`impl` must be 'auto', 'triton', 'cpu' or 'reference', got {impl!r}")


def missing_for_triton(hidden: Tensor, pooling: Pooling) -> str | None:
    """Say what the Triton kernels lack for this call; None where they can run."""
    if pooling != "max":
        return f"`pooling` 'max', got {pooling!r}"
    if hidden.dtype == torch.float64:
        return "states in float32, bfloat16 or float16, got torch.float64"
    if torch.version.hip:
        return f"an NVIDIA GPU, and this PyTorch is built for ROCm {torch.version.hip}"
    if not importlib.util.find_spec("triton"):
        return "Triton: `pip install triton`"
    import triton

    if Version(triton.__version__) < Version(OLDEST_TRITON):
        return f"Triton {OLDEST_TRITON} or newer, found {triton.__version__}"
    if hidden.is_cuda:
        capability = torch.cuda.get_device_capability(hidden.device)
        if capability < OLDEST_CAPABILITY:
            return (
                f"a GPU of compute capability {'.'.join(map(str, OLDEST_CAPABILITY))} or higher, "
                f"and {hidden.device} has {'.'.join(map(str, capability))}"
            )
        return None
    from lsr.kernels import fused_forward

    if not fused_forward.is_interpreted():
        return f"states on a CUDA device, got {hidden.device}"
    return None


def pack(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pack padded states: shape (total tokens, D), and cu_seqlens, int32, shape (B + 1,).

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
    # Without padding, the states are packed already.
    return hidden.flatten(0, 1) if bool(tokens.all()) else hidden[tokens], cu_seqlens


@cache
def _log_once(impl: str, device: str, missing: str | None) -> None:
    if missing is None:
        logger.info("the SPLADE head runs by %r on %s", impl, device)
    else:
        logger.warning("the SPLADE head runs by %r on %s: 'triton' needs %s", impl, device, missing)
