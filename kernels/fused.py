"""The SPLADE head in Triton, for CUDA: one kernel forward, three ways back, differentiable.

Kept for the backward pass: the pooled weights, and which token won each of them (in 16 bits where
texts are shorter than 32,768 tokens).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lsr.kernels.cpu import logit_gradient
from lsr.kernels.fused_backward import backward
from lsr.kernels.fused_forward import forward
from lsr.kernels.reference import Activation, check_arguments


def splade_pool(
    hidden: Tensor,
    cu_seqlens: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = "relu",
) -> Tensor:
    """The same as `lsr.kernels.reference.splade_pool` with max pooling, which documents arguments.

    `hidden` is float32, bfloat16 or float16; sums are computed in float32. Two runs give the same
    bits.

    Raises:
        ValueError: shapes that do not fit, another dtype, or an unknown activation.
    """
    bounds = check_arguments(hidden, cu_seqlens, weight, bias, "max")
    if hidden.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"`hidden` must be float32, bfloat16 or float16, got {hidden.dtype}")
    if activation not in ("relu", "log1p_relu"):
        raise ValueError(f"`activation` must be 'relu' or 'log1p_relu', got {activation!r}")
    # The kernels expect contiguous memory.
    pooled: Tensor = _FusedPool.apply(  # type: ignore[no-untyped-call]
        hidden.contiguous(),
        cu_seqlens.to(hidden.device, torch.int32).contiguous(),
        bounds,
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        activation,
    )
    return pooled


class _FusedPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        cu_seqlens: Tensor,
        bounds: list[int],
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation,
    ) -> Tensor:
        trained = any(ctx.needs_input_grad)
        pooled, winners = forward(
            hidden, cu_seqlens, bounds, weight, bias, activation, winners=trained
        )
        ctx.save_for_backward(hidden, cu_seqlens, weight, bias, pooled, winners)
        ctx.activation, ctx.bounds = activation, bounds
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, cu_seqlens, weight, bias, pooled, winners = ctx.saved_tensors
        gradient = logit_gradient(gradient, pooled, ctx.activation).contiguous()
        d_hidden, d_weight = backward(
            gradient,
            winners,
            cu_seqlens,
            ctx.bounds,
            hidden,
            weight,
            for_hidden=ctx.needs_input_grad[0],
            for_weight=ctx.needs_input_grad[3],
        )
        d_bias = gradient.sum(0).to(bias.dtype) if ctx.needs_input_grad[4] else None
        return d_hidden, None, None, d_weight, d_bias, None
