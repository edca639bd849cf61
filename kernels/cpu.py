"""The SPLADE head on packed tokens, a chunk of the vocabulary at a time; differentiable.

Logits exist for one chunk only: (total tokens, CHUNK) and never (batch, length, vocabulary). One
buffer holds every chunk in turn, so that it stays in cache and its pages are touched once. No
logits are kept for the backward pass, which computes again which token won each active term. It is
made of PyTorch operations, so it also runs on CUDA without Triton.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
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
    """The same as `lsr.kernels.reference.splade_pool`, which documents arguments and errors.

    The maximum is taken before the activation, which is monotone, so that only (B, V) values pass
    through the logarithm.
    """
    bounds = check_arguments(hidden, cu_seqlens, weight, bias, pooling)
    arguments = (hidden, bounds, weight, bias, activation, pooling)
    pooled: Tensor = _SpladePool.apply(*arguments)  # type: ignore[no-untyped-call]
    return pooled


class _SpladePool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        bounds: list[int],
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation,
        pooling: Pooling,
    ) -> Tensor:
        pooled = _forward(hidden, bounds, weight, bias, activation, pooling)
        ctx.save_for_backward(hidden, weight, bias, pooled)
        ctx.bounds, ctx.activation, ctx.pooling = bounds, activation, pooling
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, pooled = ctx.saved_tensors
        for_hidden, _, for_weight, for_bias, _, _ = ctx.needs_input_grad
        # Sums over chunks and texts run in float32 at least, whatever the dtype of the parameters.
        d_hidden = torch.zeros_like(hidden, dtype=pooled.dtype) if for_hidden else None
        d_weight = torch.zeros_like(weight) if for_weight else None
        if ctx.pooling == "max":
            gradient = logit_gradient(gradient, pooled, ctx.activation)
            d_bias = gradient.sum(0) if for_bias else None
            if int(gradient.count_nonzero()) < DENSE * gradient.numel():
                _backward_sparse(gradient, hidden, ctx.bounds, weight, d_hidden, d_weight)
            else:
                _backward_dense(gradient, hidden, ctx.bounds, weight, d_hidden, d_weight)
        else:
            d_bias = gradient.new_zeros(len(weight), dtype=pooled.dtype) if for_bias else None
            _backward_sum(
                gradient,
                hidden,
                ctx.bounds,
                weight,
                bias,
                ctx.activation,
                d_hidden,
                d_weight,
                d_bias,
            )
        return (
            None if d_hidden is None else d_hidden.to(hidden.dtype),
            None,
            d_weight,
            None if d_bias is None else d_bias.to(bias.dtype),
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
        _reduce(logits, bounds, pooling, pooled[:, columns])
        if pooling == "max" and bias is not None:
            pooled[:, columns] += bias[columns]
    if pooling == "max":
        pooled = activate(pooled, activation)
        pooled[torch.tensor(bounds).diff() == 0] = 0.0
    return pooled


def _reduce(logits: Tensor, bounds: list[int], pooling: Pooling, out: Tensor) -> None:
    """Write each text's maximum (or sum) over its tokens to `out`.

    A text without tokens has no maximum: the caller overwrites its row.

    Args:
        logits: shape (total tokens, chunk).
        bounds: B + 1 positions in `logits`.
        pooling: "max" or "sum".
        out: shape (B, chunk).
    """
    if not logits.is_cpu:
        # One kernel launch for all texts. On a CPU this operation would use a single core.
        offsets = torch.tensor(bounds, device=logits.device)
        out.copy_(torch.segment_reduce(logits, pooling, offsets=offsets))
        return
    texts = [(row, bounds) for row, bounds in enumerate(pairwise(bounds)) if bounds[0] < bounds[1]]
    if pooling == "max" and logits.dtype == out.dtype:
        # NumPy on one core is as fast as PyTorch's amax on two. Amax runs many short parallel
        # parts, which take ten times as long when another program uses one of the cores.
        values, maxima = logits.numpy(), out.numpy()
        with np.errstate(invalid="ignore"):
            for row, (start, end) in texts:
                np.maximum.reduce(values[start:end], axis=0, out=maxima[row])
        return
    for row, (start, end) in texts:
        tokens = logits[start:end]
        out[row].copy_(tokens.amax(0) if pooling == "max" else tokens.sum(0))


def logit_gradient(gradient: Tensor, activated: Tensor, activation: Activation) -> Tensor:
    """Return gradient · f'(x), computed from y = f(x); exactly 0 where y is 0.

    An inactive term passes nothing on, also where `gradient` is infinite or NaN.

    relu: f'(x) = 1 / (1 + x) = exp(−y). log1p_relu, with u = log(1 + x) = exp(y) − 1:
    f'(x) = 1 / ((1 + u)(1 + x)) = exp(−y − u).

    Args:
        gradient: of y, any shape.
        activated: y, the same shape.
        activation: f, see `lsr.kernels.reference.activate`.
    """
    slope = -activated if activation == "relu" else -activated - torch.expm1(activated)
    return (gradient * slope.exp_()).masked_fill_(activated <= 0, 0.0)


def _backward_sparse(
    gradient: Tensor,
    hidden: Tensor,
    bounds: list[int],
    weight: Tensor,
    d_hidden: Tensor | None,
    d_weight: Tensor | None,
) -> None:
    """Fill d_hidden and d_weight, which are zero, text by text from the active terms.

    Of each text and term, the token with the largest logit gets the gradient; the first in a tie.

    Args:
        gradient: gradient of the maximal logits, shape (B, V), mostly 0.
        hidden: shape (total tokens, D).
        bounds: B + 1 positions in `hidden`.
        weight: shape (V, D).
        d_hidden: shape of `hidden`, or None where no gradient is needed.
        d_weight: shape of `weight`, or None.
    """
    used = gradient.any(0).nonzero()[:, 0]
    place = used.new_empty(len(weight))
    place[used] = torch.arange(len(used), device=used.device)
    sums = gradient.new_zeros(len(used) if d_weight is not None else 0, weight.shape[1])
    for row, (first, last) in enumerate(pairwise(bounds)):
        terms = gradient[row].nonzero()[:, 0]
        tokens = slice(first, last)
        for start in range(0, len(terms), CHUNK):
            active = terms[start : start + CHUNK]
            rows = weight[active]
            best = (hidden[tokens] @ rows.T).argmax(0)
            weights = gradient[row, active][:, None]
            if d_hidden is not None:
                d_hidden[tokens].index_add_(0, best, weights * rows)
            if d_weight is not None:
                sums.index_add_(0, place[active], weights * hidden[tokens][best])
    if d_weight is not None:
        d_weight[used] = sums.to(weight.dtype)


def _backward_dense(
    gradient: Tensor,
    hidden: Tensor,
    bounds: list[int],
    weight: Tensor,
    d_hidden: Tensor | None,
    d_weight: Tensor | None,
) -> None:
    """Compute the same as `_backward_sparse`, by matrix products over all terms."""
    buffer = hidden.new_empty(len(hidden) * min(CHUNK, len(weight)))
    for columns in _chunks(len(weight)):
        logits = _logits(hidden, weight[columns], buffer)
        best = [
            logits[start:end].argmax(0) if start < end else None for start, end in pairwise(bounds)
        ]
        # The gradient of the logits: one entry for each text and term.
        d_logits = logits.zero_()
        for row, winners in enumerate(best):
            if winners is not None:
                tokens = d_logits[bounds[row] : bounds[row + 1]]
                tokens.scatter_(0, winners[None], gradient[row, columns][None].to(logits.dtype))
        if d_hidden is not None:
            d_hidden += d_logits @ weight[columns]
        if d_weight is not None:
            d_weight[columns] = d_logits.T @ hidden


def _backward_sum(
    gradient: Tensor,
    hidden: Tensor,
    bounds: list[int],
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation,
    d_hidden: Tensor | None,
    d_weight: Tensor | None,
    d_bias: Tensor | None,
) -> None:
    """Write the gradients of sum pooling: every token with a positive logit has one."""
    buffer = hidden.new_empty(len(hidden) * min(CHUNK, len(weight)))
    lengths = torch.tensor(bounds, device=hidden.device).diff()
    for columns in _chunks(len(weight)):
        logits = _logits(hidden, weight[columns], buffer).to(gradient.dtype)
        if bias is not None:
            logits = logits + bias[columns]
        spread = gradient[:, columns].repeat_interleave(lengths, dim=0)
        d_logits = logit_gradient(spread, activate(logits, activation), activation)
        if d_bias is not None:
            d_bias[columns] = d_logits.sum(0)
        d_logits = d_logits.to(hidden.dtype)
        if d_hidden is not None:
            d_hidden += d_logits @ weight[columns]
        if d_weight is not None:
            d_weight[columns] = d_logits.T @ hidden
