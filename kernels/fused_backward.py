"""The backward pass of the SPLADE head in Triton: three regimes, none with atomics.

Of each text and active term one token takes the gradient: G, of shape (total tokens, V), has one
entry for each, d_hidden = G · weight and d_weight = Gᵀ · hidden.

few active terms            the entries of G are listed and sorted by row of the result; one program
                            gathers and sums each row, and several share a long row
many, and long texts        the same for one part of the texts (or terms) after another, so that the
                            list of entries stays small
many, and short texts       two dense products on tensor cores, whose factor G is computed in
                            registers from the winners
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lsr.kernels.fused_forward import on_device_of, precision

Regime = Literal["gather", "one-hot"]

# Gathering one entry takes as long as the dense products spend on so many elements of G (from the
# roofline of an H200, not measured).
GATHER_COST = 144
# How many entries are listed at a time, on average at most. Each takes about 50 bytes.
ENTRIES = 2**22
# How many entries of a row one program sums. Rows can be long: the first token of a text can win
# nearly every term.
PIECE = 1024


class Product(NamedTuple):
    """The block sizes of a one-hot product, and how the kernel is launched."""

    rows: int
    columns: int
    across: int
    warps: int
    stages: int


# By bytes of an element. They are not tuned: no GPU has run them yet.
PRODUCTS = {2: Product(64, 64, 256, 8, 3), 4: Product(64, 32, 64, 4, 2)}


def choose_regime(n_active: int, n_tokens: int, n_terms: int, tensor_cores: bool) -> Regime:
    """Choose the faster one: gathering costs GATHER_COST · n_active, the products n_tokens · V."""
    return "one-hot" if tensor_cores and n_active * GATHER_COST > n_tokens * n_terms else "gather"


def backward(
    gradient: Tensor,
    winners: Tensor,
    cu_seqlens: Tensor,
    bounds: Sequence[int],
    hidden: Tensor,
    weight: Tensor,
    *,
    for_hidden: bool = True,
    for_weight: bool = True,
    regime: Regime | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the gradients of hidden and weight, each in its dtype; None where not wanted.

    Sums are computed in float32 in a fixed order: two runs give the same bits.

    Args:
        gradient: gradient of the maximal logits, float32, contiguous, shape (B, V).
        winners: which token of its text won each term, integer, shape (B, V).
        cu_seqlens: int32, shape (B + 1,), on the device.
        bounds: the same on the host.
        hidden: contiguous, shape (total tokens, D).
        weight: contiguous, shape (V, D).
        for_hidden: whether the gradient of `hidden` is wanted.
        for_weight: whether the gradient of `weight` is wanted.
        regime: None to choose by the number of active entries.
    """
    n_active = int(gradient.count_nonzero())
    if regime is None:
        # Without TF32 no tensor core multiplies float32.
        tensor_cores = hidden.element_size() == 2 or precision() == "tf32"
        regime = choose_regime(n_active, len(hidden), len(weight), tensor_cores)
    d_hidden = torch.empty_like(hidden) if for_hidden else None
    d_weight = torch.empty_like(weight) if for_weight else None
    if regime == "one-hot":
        texts = torch.repeat_interleave(cu_seqlens.diff(), output_size=len(hidden)).int()
        positions = torch.arange(len(hidden), device=hidden.device).int() - cu_seqlens[texts]
        if d_hidden is not None:
            multiply_one_hot(gradient, winners, texts, positions, weight, d_hidden, terms=False)
        if d_weight is not None:
            multiply_one_hot(gradient, winners, texts, positions, hidden, d_weight, terms=True)
        return d_hidden, d_weight
    n_parts = max(1, triton.cdiv(n_active, ENTRIES))
    whole = _entries(gradient, winners, cu_seqlens) if n_parts == 1 else None
    if d_hidden is not None:
        for part in _parts(len(gradient), n_parts):
            starts = cu_seqlens[part.start : part.stop]
            entries = whole or _entries(gradient[part], winners[part], starts)
            first, stop = bounds[part.start], bounds[part.stop]
            gather_sum(
                entries.tokens - first, entries.terms, entries.values, weight, d_hidden[first:stop]
            )
    if d_weight is not None:
        for part in _parts(len(weight), n_parts):
            entries = whole or _entries(gradient[:, part], winners[:, part], cu_seqlens)
            gather_sum(entries.terms, entries.tokens, entries.values, hidden, d_weight[part])
    return d_hidden, d_weight


class _Entries(NamedTuple):
    """The nonzero entries of G, text by text: int32, int32 and float32, shape (n,)."""

    tokens: Tensor
    terms: Tensor
    values: Tensor


def _entries(gradient: Tensor, winners: Tensor, starts: Tensor) -> _Entries:
    """List the entries of the texts that begin at `starts`, which may have one value more."""
    texts, terms = gradient.nonzero(as_tuple=True)
    tokens = starts[texts] + winners[texts, terms]
    return _Entries(tokens, terms.int(), gradient[texts, terms])


def _parts(length: int, n_parts: int) -> Iterator[slice]:
    size = max(1, triton.cdiv(length, n_parts))
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def gather_sum(rows: Tensor, columns: Tensor, values: Tensor, source: Tensor, out: Tensor) -> None:
    """Write out[r] = Σ values[e] · source[columns[e]] over the entries e with rows[e] = r.

    Args:
        rows: int32, in [0, len(out)), shape (n,).
        columns: int32, rows of `source`, shape (n,).
        values: float32, shape (n,).
        source: contiguous, shape (m, D).
        out: contiguous, shape (k, D).
    """
    if out.numel() == 0:
        return
    ordered, order = rows.sort(stable=True)
    each = torch.arange(len(out) + 1, dtype=torch.int32, device=rows.device)
    bounds = torch.searchsorted(ordered, each)
    columns, values = columns[order], values[order]
    starts, ends = bounds[:-1], bounds[1:]
    is_long = ends - starts > PIECE
    _sum_segments(starts, torch.where(is_long, starts, ends), columns, values, source, out)
    rows = is_long.nonzero()[:, 0]
    if len(rows) == 0:
        return
    n_pieces = (ends[rows] - starts[rows] + PIECE - 1) // PIECE
    last = n_pieces.cumsum(0)
    piece = torch.arange(int(last[-1]), device=rows.device)
    row = rows.repeat_interleave(n_pieces)
    begin = starts[row] + PIECE * (piece - (last - n_pieces).repeat_interleave(n_pieces))
    sums = source.new_empty((len(piece), source.shape[1]), dtype=torch.float32)
    _sum_segments(begin, torch.minimum(begin + PIECE, ends[row]), columns, values, source, sums)
    totals = torch.empty_like(out[: len(rows)])
    ones = torch.ones(len(piece), device=rows.device)
    _sum_segments(last - n_pieces, last, piece.int(), ones, sums, totals)
    out[rows] = totals


def _sum_segments(
    starts: Tensor, ends: Tensor, columns: Tensor, values: Tensor, source: Tensor, out: Tensor
) -> None:
    """Write out[i] = Σ values[e] · source[columns[e]] over starts[i] ≤ e < ends[i]."""
    width = min(256, triton.next_power_of_2(source.shape[1]))
    grid = (len(out), triton.cdiv(source.shape[1], width))
    with on_device_of(out):
        _segment_kernel[grid](
            starts, ends, columns, values, source, out, D=source.shape[1], BN=16, BD=width
        )


@triton.jit  # type: ignore[untyped-decorator]
def _segment_kernel(  # type: ignore[no-untyped-def]
    starts,
    ends,
    columns,
    values,
    source,
    out,
    D: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    across = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = across < D
    total = tl.zeros((BD,), tl.float32)
    end = tl.load(ends + row)
    for entry in tl.range(tl.load(starts + row), end, BN):
        entries = entry + tl.arange(0, BN)
        there = entries < end
        column = tl.load(columns + entries, mask=there, other=0).to(tl.int64)
        value = tl.load(values + entries, mask=there, other=0.0)
        taken = tl.load(
            source + column[:, None] * D + across[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        )
        total += tl.sum(value[:, None] * taken.to(tl.float32), axis=0)
    tl.store(out + row * D + across, total.to(out.dtype.element_ty), mask=inside)


def multiply_one_hot(
    gradient: Tensor,
    winners: Tensor,
    texts: Tensor,
    positions: Tensor,
    source: Tensor,
    out: Tensor,
    *,
    terms: bool,
) -> None:
    """Write Gᵀ · source if `terms`, else G · source, to `out`; G is never stored.

    G[t, v] is the gradient of term v in the text of token t if t won it, else 0. It is rounded to
    the dtype of `source`, as autograd rounds the gradient of logits.

    Args:
        gradient: float32, contiguous, shape (B, V).
        winners: integer, contiguous, shape (B, V).
        texts: number of each token's text, int32, shape (total tokens,).
        positions: position of each token in its text, int32, shape (total tokens,).
        source: contiguous, shape (total tokens, D) if `terms`, else (V, D).
        out: contiguous, shape (V, D) if `terms`, else (total tokens, D).
        terms: whether the rows of `out` are terms.
    """
    if out.numel() == 0:
        return
    if len(source) == 0:
        out.zero_()
        return
    tile = PRODUCTS[source.element_size()]
    grid = (triton.cdiv(len(out), tile.rows), triton.cdiv(source.shape[1], tile.across))
    with on_device_of(out):
        _one_hot_kernel[grid](
            gradient,
            winners,
            texts,
            positions,
            source,
            out,
            len(texts),
            **one_hot_constants(gradient.shape[1], source.shape[1], tile, terms),
            PRECISION=precision(),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )


def one_hot_constants(n_terms: int, depth: int, tile: Product, terms: bool) -> dict[str, int]:
    """Return the compile-time arguments of the one-hot kernel, except PRECISION."""
    return {
        "V": n_terms,
        "D": depth,
        "TERMS": terms,
        "BR": tile.rows,
        "BC": tile.columns,
        "BD": tile.across,
    }


@triton.jit  # type: ignore[untyped-decorator]
def _one_hot_kernel(  # type: ignore[no-untyped-def]
    gradient,
    winners,
    texts,
    positions,
    source,
    out,
    n_tokens,
    V: tl.constexpr,
    D: tl.constexpr,
    TERMS: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
    BD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows = tl.program_id(0) * BR + tl.arange(0, BR)
    across = tl.program_id(1) * BD + tl.arange(0, BD)
    n_rows = V if TERMS else n_tokens
    n_columns = n_tokens if TERMS else V
    total = tl.zeros((BR, BD), tl.float32)
    if not TERMS:
        text = tl.load(texts + rows, mask=rows < n_rows, other=0).to(tl.int64)
        position = tl.load(positions + rows, mask=rows < n_rows, other=-1)
    for column in tl.range(0, n_columns, BC):
        columns = column + tl.arange(0, BC)
        if TERMS:
            text = tl.load(texts + columns, mask=columns < n_columns, other=0).to(tl.int64)
            position = tl.load(positions + columns, mask=columns < n_columns, other=-1)
            at = text[None, :] * V + rows[:, None]
            wanted = position[None, :]
        else:
            at = text[:, None] * V + columns[None, :]
            wanted = position[:, None]
        inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
        winner = tl.load(winners + at, mask=inside, other=-2).to(tl.int32)
        value = tl.load(gradient + at, mask=inside & (winner == wanted), other=0.0)
        taken = tl.load(
            source + columns.to(tl.int64)[:, None] * D + across[None, :],
            mask=(columns < n_columns)[:, None] & (across < D)[None, :],
            other=0.0,
        )
        total = tl.dot(value.to(taken.dtype), taken, total, input_precision=PRECISION)
    tl.store(
        out + rows.to(tl.int64)[:, None] * D + across[None, :],
        total.to(out.dtype.element_ty),
        mask=(rows < n_rows)[:, None] & (across < D)[None, :],
    )
