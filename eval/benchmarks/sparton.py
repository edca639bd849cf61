"""The scheme of Sparton (arXiv 2603.25011), written afresh for the benchmark to compare with.

Tile by tile of the vocabulary, the library multiplies the padded states by the weights into at
most 64 MiB of 16-bit logits (but at least 512 terms), and a kernel then takes the maximum over the
tokens and its index; the backward pass is one kernel with float32 atomic sums. As published: the
mask multiplies the logits, padding costs as much as text, the indices are int64 and are kept
whether or not there will be a backward pass, the weights are rounded to the dtype of the states
and the derivative comes from them, and two backward passes may differ in the last bits.

Unlike the published code, blocks have one fixed size instead of one found by trials, and a missing
bias is allowed. On the CPU, where there is no Triton, the reduction and the backward pass are plain
PyTorch operations: the same scheme, but PyTorch's maximum with indices is slow there.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE_BYTES = 64 * 2**20
LEAST_TERMS = 512


def splade_pool(
    hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, triton: bool | None = None
) -> Tensor:
    """max over t of log(1 + relu(mask[b, t] · (hidden[b, t] · weight[v] + bias[v]))).

    Args:
        hidden: padded states, shape (B, T, D), B and T at least 1.
        mask: true where there is a token, shape (B, T).
        weight: shape (V, D), dtype of `hidden`.
        bias: shape (V,), dtype of `hidden`, or None.
        triton: None for Triton's kernels on CUDA and plain operations on the CPU; True for the
            kernels on the CPU, which Triton's interpreter can run.

    Returns:
        Shape (B, V), dtype of `hidden`.
    """
    kernels = hidden.is_cuda if triton is None else triton
    inputs = (hidden.contiguous(), mask.bool().contiguous(), weight.contiguous(), bias)
    pooled: Tensor = _Sparton.apply(*inputs, kernels)  # type: ignore[no-untyped-call]
    return pooled


def tile_terms(rows: int) -> int:
    """Return the terms of a tile for padded states of B · T rows."""
    return max(LEAST_TERMS, TILE_BYTES // (2 * rows) // 256 * 256)


class _Sparton(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, kernels: bool
    ) -> Tensor:
        n_texts, length, _ = hidden.shape
        pooled = hidden.new_empty(n_texts, len(weight))
        winners = torch.empty_like(pooled, dtype=torch.int64)
        product = _compiled_product() if hidden.is_cuda else F.linear
        reduce = _reduce
        if kernels:
            from lsr.eval.benchmarks import sparton_triton

            reduce = sparton_triton.reduce
        width = tile_terms(n_texts * length)
        for first in range(0, len(weight), width):
            columns = slice(first, first + width)
            tile_bias = None if bias is None else bias[columns]
            # The logits get no name, so that one tile is freed before the next is made.
            reduce(
                product(hidden, weight[columns], tile_bias),
                mask,
                pooled[:, columns],
                winners[:, columns],
            )
        ctx.save_for_backward(hidden, weight, pooled, winners)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.kernels = kernels
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, pooled, winners = ctx.saved_tensors
        sums = (
            torch.zeros_like(hidden, dtype=torch.float32),
            torch.zeros_like(weight, dtype=torch.float32),
            torch.zeros(len(weight), device=weight.device),
        )
        backward = _backward
        if ctx.kernels:
            from lsr.eval.benchmarks import sparton_triton

            backward = sparton_triton.backward
        backward(gradient.contiguous(), pooled, winners, hidden, weight, sums)
        hidden_sum, weight_sum, bias_sum = sums
        return (
            hidden_sum.to(hidden.dtype),
            None,
            weight_sum.to(weight.dtype),
            None if ctx.bias_dtype is None else bias_sum.to(ctx.bias_dtype),
            None,
        )


@cache
def _compiled_product() -> Any:
    """The product as the published code runs it; one compilation for each width of a tile."""
    return torch.compile(F.linear, dynamic=False)


def _reduce(logits: Tensor, mask: Tensor, pooled: Tensor, winners: Tensor) -> None:
    """Write a tile's weights and winning tokens, (B, C), from its logits, (B, T, C), a scratch."""
    largest, index = logits.mul_(mask[..., None]).max(1)
    torch.log1p(largest.relu_(), out=pooled)
    winners.copy_(index)


def _backward(
    gradient: Tensor,
    pooled: Tensor,
    winners: Tensor,
    hidden: Tensor,
    weight: Tensor,
    sums: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Add to the float32 sums of the gradients, which have the shapes of states, weight, bias."""
    hidden_sum, weight_sum, bias_sum = sums
    # One text at a time, so that only its gathered rows are in memory.
    for text, weights in enumerate(pooled):
        terms = weights.nonzero()[:, 0]
        tokens = winners[text, terms]
        slopes = gradient[text, terms].float() * torch.exp(-weights[terms].float())
        hidden_sum[text].index_add_(0, tokens, slopes[:, None] * weight[terms])
        weight_sum.index_add_(0, terms, slopes[:, None] * hidden[text, tokens])
        bias_sum.index_add_(0, terms, slopes)
