"""The two Triton kernels of sparton.py: the maximum over tokens, the backward pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def reduce(logits: Tensor, mask: Tensor, pooled: Tensor, winners: Tensor) -> None:
    """Write the weights and the winning tokens of a tile of the vocabulary.

    Args:
        logits: contiguous, shape (B, T, C).
        mask: bool, contiguous, shape (B, T).
        pooled: written, shape (B, C), columns of a contiguous (B, V).
        winners: written, int64, else as `pooled`.
    """
    n_texts, length, n_terms = logits.shape
    _reduce_kernel[(triton.cdiv(n_terms, 128), n_texts)](
        logits,
        mask.view(torch.uint8),
        pooled,
        winners,
        length,
        n_terms,
        pooled.stride(0),
        BT=16,
        BC=128,
        num_warps=4,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _reduce_kernel(  # type: ignore[no-untyped-def]
    logits, mask, pooled, winners, length, n_terms, stride, BT: tl.constexpr, BC: tl.constexpr
):
    terms = tl.program_id(0) * BC + tl.arange(0, BC)
    text = tl.program_id(1).to(tl.int64)
    inside = terms < n_terms
    # Each row of the block follows its own tokens, so that rows meet once, after the loop.
    best = tl.zeros((BT, BC), tl.float32)
    winner = tl.zeros((BT, BC), tl.int32)
    for token in tl.range(0, length, BT):
        tokens = token + tl.arange(0, BT)
        kept = tl.load(mask + text * length + tokens, mask=tokens < length, other=0)
        values = tl.load(
            logits + (text * length + tokens)[:, None] * n_terms + terms[None, :],
            mask=(tokens < length)[:, None] & inside[None, :],
            other=0.0,
        )
        values = values.to(tl.float32) * kept.to(tl.float32)[:, None]
        winner = tl.where(values > best, tokens[:, None], winner)
        best = tl.maximum(best, values)
    largest = tl.max(best, axis=0)
    first = tl.min(tl.where(best == largest[None, :], winner, length), axis=0)
    place = text * stride + terms
    tl.store(pooled + place, tl.log(1.0 + largest).to(pooled.dtype.element_ty), mask=inside)
    tl.store(winners + place, first.to(tl.int64), mask=inside)


def backward(
    gradient: Tensor,
    pooled: Tensor,
    winners: Tensor,
    hidden: Tensor,
    weight: Tensor,
    sums: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Add the gradients of states, weight and bias to `sums`.

    Args:
        gradient: of `pooled`, contiguous.
        pooled: weights, contiguous, shape (B, V).
        winners: token of each, int64, contiguous, shape (B, V).
        hidden: contiguous, shape (B, T, D).
        weight: contiguous, shape (V, D).
        sums: float32, contiguous, of the shapes (B, T, D), (V, D) and (V,).
    """
    n_texts, length, depth = hidden.shape
    _backward_kernel[(triton.cdiv(len(weight), 16), triton.cdiv(n_texts, 4))](
        gradient,
        pooled,
        winners,
        hidden,
        weight,
        *sums,
        n_texts,
        length,
        len(weight),
        depth,
        BB=4,
        BV=16,
        BD=64,
        num_warps=4,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(  # type: ignore[no-untyped-def]
    gradient,
    pooled,
    winners,
    hidden,
    weight,
    hidden_sum,
    weight_sum,
    bias_sum,
    n_texts,
    length,
    n_terms,
    depth,
    BB: tl.constexpr,
    BV: tl.constexpr,
    BD: tl.constexpr,
):
    terms = (tl.program_id(0) * BV + tl.arange(0, BV)).to(tl.int64)
    texts = (tl.program_id(1) * BB + tl.arange(0, BB)).to(tl.int64)
    inside = (texts < n_texts)[:, None] & (terms < n_terms)[None, :]
    place = texts[:, None] * n_terms + terms[None, :]
    weights = tl.load(pooled + place, mask=inside, other=0.0).to(tl.float32)
    active = weights > 0.0
    used = tl.max(active.to(tl.int32), axis=0) > 0
    if tl.max(used.to(tl.int32), axis=0) == 0:
        return
    slopes = tl.load(gradient + place, mask=active, other=0.0).to(tl.float32) * tl.exp(-weights)
    rows = texts[:, None] * length + tl.load(winners + place, mask=active, other=0)
    tl.atomic_add(bias_sum + terms, tl.sum(slopes, axis=0), mask=used)
    for start in tl.range(0, depth, BD):
        across = start + tl.arange(0, BD)
        there = across < depth
        here = active[:, :, None] & there[None, None, :]
        states = rows[:, :, None] * depth + across[None, None, :]
        h = tl.load(hidden + states, mask=here, other=0.0).to(tl.float32)
        both = terms[:, None] * depth + across[None, :]
        kept = used[:, None] & there[None, :]
        w = tl.load(weight + both, mask=kept, other=0.0).to(tl.float32)
        tl.atomic_add(weight_sum + both, tl.sum(slopes[:, :, None] * h, axis=0), mask=kept)
        tl.atomic_add(hidden_sum + states, slopes[:, :, None] * w[None, :, :], mask=here)
