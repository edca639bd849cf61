"""The SPLADE head on packed tokens, a chunk of the vocabulary at a time; differentiable.

Logits exist for one chunk only: (total tokens, CHUNK) and never (batch, length, vocabulary). One
buffer holds every chunk in turn, so that it stays in cache and its pages are touched once. Nothing
of them is kept for the backward pass: which token a term's maximum came from is found again there,
for the active terms only. Made of PyTorch operations, it runs on CUDA without Triton too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lsr.kernels.reference import Activation, Pooling, activate, check_arguments

# Wide enough to amortise the reduction per text, narrow enough that a chunk of logits of a thousand
# tokens (8 MiB in float32) stays in the last cache level.
CHUNK = 2048
# Share of active weights above which a backward pass of dense products is faster than one that
# gathers (measured, see docs/LOG.md).
DENSE = 0.025


def splade_pool(
    hidden: Tensor,
    cu_seqlens: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = "relu",
    pooling: Pooling = "max",
) -> Tensor:
    """The same as `lsr.kernels.reference.splade_pool`; for arguments and errors see there.

    The maximum is taken before the activation, which is monotone, so that only (B, V) values pass
    through the logarithm. Where tokens tie for a maximum, the gradient goes to one of them.
    """
    check_arguments(hidden, cu_seqlens, weight, bias, pooling)
    arguments = (hidden, cu_seqlens, weight, bias, activation, pooling)
    pooled: Tensor = _SpladePool.apply(*arguments)  # type: ignore[no-untyped-call]
    return pooled


class _SpladePool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        cu_seqlens: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation,
        pooling: Pooling,
    ) -> Tensor:
        pooled = _forward(hidden, cu_seqlens.tolist(), weight, bias, activation, pooling)
        ctx.save_for_backward(hidden, cu_seqlens, weight, bias, pooled)
        ctx.activation, ctx.pooling = activation, pooling
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, cu_seqlens, weight, bias, pooled = ctx.saved_tensors
        bounds = cu_seqlens.tolist()
        # Sums over chunks and texts run in float32 at least, whatever the dtype of the parameters.
        d_hidden = torch.zeros_like(hidden, dtype=pooled.dtype)
        d_weight = torch.zeros_like(weight)
        if ctx.pooling == "max":
            gradient = gradient * slope(pooled, ctx.activation)
            d_bias = gradient.sum(0)
            if int(gradient.count_nonzero()) < DENSE * gradient.numel():
                _backward_sparse(gradient, hidden, bounds, weight, d_hidden, d_weight)
            else:
                _backward_dense(gradient, hidden, bounds, weight, d_hidden, d_weight)
        else:
            d_bias = torch.zeros(len(weight), dtype=pooled.dtype, device=pooled.device)
            _backward_sum(
                gradient, hidden, bounds, weight, bias, ctx.activation, d_hidden, d_weight, d_bias
            )
        return (
            d_hidden.to(hidden.dtype),
            None,
            d_weight,
            None if bias is None else d_bias.to(bias.dtype),
            None,
            None,
        )


def _chunks(n_terms: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, n_terms)) for start in range(0, n_terms, CHUNK)]


def _logits(hidden: Tensor, weight: Tensor, buffer: Tensor) -> Tensor:
    """`hidden` @ `weight`.T in the front of `buffer`."""
    logits = buffer[: len(hidden) * len(weight)].view(len(hidden), len(weight))
    return torch.mm(hidden, weight.T, out=logits)


def _forward(
    hidden: Tensor,
    bounds: list[int],
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation,
    pooling: Pooling,
) -> Tensor:
    n_terms = len(weight)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    pooled = hidden.new_zeros((len(bounds) - 1, n_terms), dtype=dtype)
    buffer = hidden.new_empty(len(hidden) * min(CHUNK, n_terms))
    for columns in _chunks(n_terms):
        logits = _logits(hidden, weight[columns], buffer)
        if pooling == "sum":
            logits = logits.to(dtype)
            if bias is not None:
                logits = logits + bias[columns]
            logits = activate(logits, activation)
        for row in range(len(bounds) - 1):
            tokens = logits[bounds[row] : bounds[row + 1]]
            if len(tokens):
                pooled[row, columns].copy_(tokens.amax(0) if pooling == "max" else tokens.sum(0))
        if pooling == "max" and bias is not None:
            pooled[:, columns] += bias[columns]
    if pooling == "max":
        pooled = activate(pooled, activation)
        pooled[torch.tensor(bounds).diff() == 0] = 0.0
    return pooled


def slope(activated: Tensor, activation: Activation) -> Tensor:
    """f'(x) from y = f(x): 0 where y is 0.

    relu: 1 / (1 + x) = exp(−y). log1p_relu, with u = log(1 + x) = exp(y) − 1:
    1 / ((1 + u)(1 + x)) = exp(−y − u).
    """
    slope = -activated if activation == "relu" else -activated - torch.expm1(activated)
    return slope.exp_().masked_fill_(activated <= 0, 0.0)


def _backward_sparse(
    gradient: Tensor,
    hidden: Tensor,
    bounds: list[int],
    weight: Tensor,
    d_hidden: Tensor,
    d_weight: Tensor,
) -> None:
    """Write d_hidden and d_weight, which are zero, text by text for the active terms alone.

    Args:
        gradient: of the maximal logits, shape (B, V), mostly 0.
        hidden: shape (total tokens, D).
        bounds: B + 1 positions in `hidden`.
        weight: shape (V, D).
        d_hidden: shape of `hidden`.
        d_weight: shape of `weight`.
    """
    used = gradient.any(0).nonzero()[:, 0]
    place = used.new_empty(len(weight))
    place[used] = torch.arange(len(used), device=used.device)
    sums = d_hidden.new_zeros(len(used), weight.shape[1])
    for row in range(len(bounds) - 1):
        terms = gradient[row].nonzero()[:, 0]
        tokens = slice(bounds[row], bounds[row + 1])
        for start in range(0, len(terms), CHUNK):
            active = terms[start : start + CHUNK]
            rows = weight[active]
            best = (hidden[tokens] @ rows.T).argmax(0)
            weights = gradient[row, active][:, None]
            d_hidden[tokens].index_add_(0, best, weights * rows)
            sums.index_add_(0, place[active], weights * hidden[tokens][best])
    d_weight[used] = sums.to(weight.dtype)


def _backward_dense(
    gradient: Tensor,
    hidden: Tensor,
    bounds: list[int],
    weight: Tensor,
    d_hidden: Tensor,
    d_weight: Tensor,
) -> None:
    """The same as `_backward_sparse` by matrix products over all terms."""
    buffer = hidden.new_empty(len(hidden) * min(CHUNK, len(weight)))
    for columns in _chunks(len(weight)):
        logits = _logits(hidden, weight[columns], buffer)
        best = [
            logits[bounds[row] : bounds[row + 1]].argmax(0)
            if bounds[row] < bounds[row + 1]
            else None
            for row in range(len(bounds) - 1)
        ]
        # The gradient of the logits: one entry a text and term.
        d_logits = logits.zero_()
        for row, winners in enumerate(best):
            if winners is not None:
                tokens = d_logits[bounds[row] : bounds[row + 1]]
                tokens.scatter_(0, winners[None], gradient[row, columns][None].to(logits.dtype))
        d_hidden += d_logits @ weight[columns]
        d_weight[columns] = d_logits.T @ hidden


def _backward_sum(
    gradient: Tensor,
    hidden: Tensor,
    bounds: list[int],
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation,
    d_hidden: Tensor,
    d_weight: Tensor,
    d_bias: Tensor,
) -> None:
    """Write the gradients of sum pooling, which every token with a positive logit takes part in."""
    buffer = hidden.new_empty(len(hidden) * min(CHUNK, len(weight)))
    lengths = torch.tensor(bounds, device=hidden.device).diff()
    for columns in _chunks(len(weight)):
        logits = _logits(hidden, weight[columns], buffer).to(gradient.dtype)
        if bias is not None:
            logits = logits + bias[columns]
        spread = gradient[:, columns].repeat_interleave(lengths, dim=0)
        d_logits = spread * slope(activate(logits, activation), activation)
        d_bias[columns] = d_logits.sum(0)
        d_logits = d_logits.to(hidden.dtype)
        d_hidden += d_logits @ weight[columns]
        d_weight[columns] = d_logits.T @ hidden
