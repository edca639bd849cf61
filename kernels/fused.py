"""The SPLADE head as one Triton kernel: matrix product and running maximum over tokens, fused.

The vocabulary is on the M side of the product, so that the maximum over tokens stays within a
thread. Tokens are packed: a text costs what its tokens cost. The grid is persistent. On Hopper,
tiles come by TMA, on older cards by pointers. Batch and lengths are run-time values, so that
nothing is compiled again for another batch; D and the tile are compile-time.

The backward pass gathers: each row of a gradient is written by one program, as the sum over the
active weights that its token won or its term has, in a fixed order and without atomics.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.tools.tensor_descriptor import TensorDescriptor

from lsr.kernels.cpu import slope
from lsr.kernels.reference import Activation, check_arguments

# Programs where no device says how many it runs at once (the interpreter); few, so that each does
# several tiles.
INTERPRETED_PROGRAMS = 3


class Tile(NamedTuple):
    """What one step of the product works on, and how it is run."""

    terms: int
    tokens: int
    depth: int
    warps: int
    stages: int


# 16-bit elements, by tokens of a tile; with TMA tiles go past the registers, so that they may be
# larger. All compile for sm_80, sm_89 and sm_90a without spills (tests/kernels/fused_compiled.py).
# Not tuned: no GPU has run them yet.
TMA_TILES = {
    32: Tile(128, 32, 64, 4, 3),
    64: Tile(128, 64, 64, 4, 3),
    128: Tile(128, 128, 64, 8, 3),
}
POINTER_TILES = {
    32: Tile(128, 32, 64, 4, 3),
    64: Tile(64, 64, 64, 4, 3),
    128: Tile(64, 128, 64, 8, 3),
}
# Without TF32 there is no tensor core instruction for it: the product runs in ordinary arithmetic.
FLOAT32_TILE = Tile(64, 32, 32, 4, 2)


def splade_pool(
    hidden: Tensor,
    cu_seqlens: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = "relu",
) -> Tensor:
    """The same as `lsr.kernels.reference.splade_pool` with max pooling; for arguments see there.

    `hidden` is float32, bfloat16 or float16, sums run in float32. Among tied tokens the first gets
    the gradient.

    Raises:
        ValueError: shapes that do not fit, or another dtype.
    """
    check_arguments(hidden, cu_seqlens, weight, bias, "max")
    if hidden.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"`hidden` must be float32, bfloat16 or float16, got {hidden.dtype}")
    if activation not in ("relu", "log1p_relu"):
        raise ValueError(f"`activation` must be 'relu' or 'log1p_relu', got {activation!r}")
    # The kernel reads memory in order.
    pooled: Tensor = _FusedPool.apply(  # type: ignore[no-untyped-call]
        hidden.contiguous(),
        cu_seqlens.to(hidden.device).contiguous(),
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
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation,
    ) -> Tensor:
        trained = any(ctx.needs_input_grad)
        pooled, winners = forward(hidden, cu_seqlens, weight, bias, activation, winners=trained)
        ctx.save_for_backward(hidden, cu_seqlens, weight, bias, pooled, winners)
        ctx.activation = activation
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, cu_seqlens, weight, bias, pooled, winners = ctx.saved_tensors
        gradient = gradient * slope(pooled, ctx.activation)
        texts, terms = gradient.nonzero(as_tuple=True)
        values = gradient[texts, terms]
        tokens = cu_seqlens.long()[texts] + winners[texts, terms]
        return (
            gather_sum(tokens, terms, values, weight, len(hidden), hidden.dtype),
            None,
            gather_sum(terms, tokens, values, hidden, len(weight), weight.dtype),
            None if bias is None else gradient.sum(0).to(bias.dtype),
            None,
        )


def forward(
    hidden: Tensor,
    cu_seqlens: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation,
    *,
    winners: bool,
    tma: bool | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Pooled weights, float32, (B, V), and which token of the text won each, of `winners`.

    Winners are int16 where the longest text allows, else int32; 0 for a text without tokens.

    Args:
        hidden: contiguous; for the rest see `splade_pool`.
        cu_seqlens: see `splade_pool`.
        weight: contiguous.
        bias: see `splade_pool`.
        activation: see `splade_pool`.
        winners: False for inference, which needs none.
        tma: None for Hopper and newer where the rows are aligned to 16 bytes.
    """
    n_texts, n_terms = len(cu_seqlens) - 1, len(weight)
    pooled = hidden.new_empty((n_texts, n_terms), dtype=torch.float32)
    longest = int(cu_seqlens.diff().max()) if n_texts else 0
    index = torch.int16 if longest <= torch.iinfo(torch.int16).max else torch.int32
    won = hidden.new_empty((n_texts, n_terms), dtype=index) if winners else None
    if pooled.numel() == 0:
        return pooled, won
    if tma is None:
        tma = hidden.is_cuda and torch.cuda.get_device_capability(hidden.device)[0] >= 9
    # TMA wants rows at multiples of 16 bytes, and no descriptor can be made of no rows.
    aligned = hidden.data_ptr() | weight.data_ptr() | hidden.shape[1] * hidden.element_size()
    tma = tma and aligned % 16 == 0 and len(hidden) > 0
    tile = choose_tile(hidden.element_size(), len(hidden) / n_texts, tma)
    n_tiles = n_texts * triton.cdiv(n_terms, tile.terms)
    _pool_kernel[(min(n_tiles, _programs(hidden)),)](
        TensorDescriptor.from_tensor(hidden, [tile.tokens, tile.depth]) if tma else hidden,
        TensorDescriptor.from_tensor(weight, [tile.terms, tile.depth]) if tma else weight,
        bias,
        cu_seqlens,
        pooled,
        won,
        n_texts,
        n_terms,
        **constants(hidden.shape[1], tile, bias is not None, winners, activation, tma),
        PRECISION="tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return pooled, won


def is_interpreted() -> bool:
    """Whether Triton was imported under TRITON_INTERPRET=1, where kernels run on the CPU."""
    return not isinstance(_pool_kernel, triton.runtime.JITFunction)


def choose_tile(element_size: int, mean_length: float, tma: bool) -> Tile:
    """The narrowest tile that holds a text of mean length, or the widest."""
    if element_size == 4:
        return FLOAT32_TILE
    tiles = TMA_TILES if tma else POINTER_TILES
    return tiles[next((width for width in (32, 64) if mean_length <= width), 128)]


def constants(
    depth: int, tile: Tile, bias: bool, winners: bool, activation: Activation, tma: bool
) -> dict[str, Any]:
    """The compile-time arguments of the forward kernel but for PRECISION."""
    return {
        "D": depth,
        "HAS_BIAS": bias,
        "WINNERS": winners,
        "TWICE": activation == "log1p_relu",
        "TMA": tma,
        "BV": tile.terms,
        "BT": tile.tokens,
        "BK": tile.depth,
    }


def _programs(hidden: Tensor) -> int:
    if not hidden.is_cuda:
        return INTERPRETED_PROGRAMS
    return 2 * torch.cuda.get_device_properties(hidden.device).multi_processor_count


@triton.jit  # type: ignore[untyped-decorator]
def _pool_kernel(  # type: ignore[no-untyped-def]
    hidden,
    weight,
    bias,
    cu_seqlens,
    pooled,
    won,
    n_texts,
    n_terms,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WINNERS: tl.constexpr,
    TWICE: tl.constexpr,
    TMA: tl.constexpr,
    BV: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # Texts are the inner order: programs that run together share a tile of the weights in L2.
    n_tiles = n_texts * tl.cdiv(n_terms, BV)
    for tile in tl.range(tl.program_id(0), n_tiles, tl.num_programs(0)):
        text = tile % n_texts
        first = tile // n_texts * BV
        terms = first + tl.arange(0, BV)
        start = tl.load(cu_seqlens + text).to(tl.int32)
        end = tl.load(cu_seqlens + text + 1).to(tl.int32)
        best = tl.full((BV,), float("-inf"), tl.float32)
        winner = tl.zeros((BV,), tl.int32)
        for row in tl.range(start, end, BT):
            tokens = row + tl.arange(0, BT)
            logits = tl.zeros((BV, BT), tl.float32)
            for k in tl.range(0, D, BK):
                if TMA:
                    w = weight.load([first, k])
                    h = hidden.load([row, k])
                else:
                    depth = k + tl.arange(0, BK)
                    w = tl.load(
                        weight + terms.to(tl.int64)[:, None] * D + depth[None, :],
                        mask=(terms < n_terms)[:, None] & (depth < D)[None, :],
                        other=0.0,
                    )
                    h = tl.load(
                        hidden + tokens.to(tl.int64)[:, None] * D + depth[None, :],
                        mask=(tokens < end)[:, None] & (depth < D)[None, :],
                        other=0.0,
                    )
                logits = tl.dot(w, h.T, logits, input_precision=PRECISION)
            logits = tl.where((tokens < end)[None, :], logits, float("-inf"))
            if WINNERS:
                largest, where = tl.max(
                    logits, axis=1, return_indices=True, return_indices_tie_break_left=True
                )
                winner = tl.where(largest > best, row - start + where, winner)
            else:
                largest = tl.max(logits, axis=1)
            best = tl.maximum(best, largest)
        inside = terms < n_terms
        if HAS_BIAS:
            best += tl.load(bias + terms, mask=inside, other=0.0).to(tl.float32)
        value = tl.log(1.0 + tl.maximum(best, 0.0))
        if TWICE:
            value = tl.log(1.0 + value)
        place = text.to(tl.int64) * n_terms + terms
        tl.store(pooled + place, value, mask=inside)
        if WINNERS:
            tl.store(won + place, winner.to(won.dtype.element_ty), mask=inside)


def gather_sum(
    rows: Tensor, columns: Tensor, values: Tensor, source: Tensor, n_rows: int, dtype: torch.dtype
) -> Tensor:
    """out[r] = Σ values[e] · source[columns[e]] over the entries e with rows[e] = r.

    Summed in float32 in the order of the entries, each row by one program: two runs are equal bit
    by bit.

    Args:
        rows: int64 in [0, n_rows), shape (n,).
        columns: int64, rows of `source`, shape (n,).
        values: float32, shape (n,).
        source: contiguous, shape (m, D).
        n_rows: of the result.
        dtype: of the result.

    Returns:
        Shape (n_rows, D).
    """
    out = source.new_empty((n_rows, source.shape[1]), dtype=dtype)
    if out.numel() == 0:
        return out
    ordered, order = rows.sort(stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(n_rows + 1, device=rows.device))
    width = min(256, triton.next_power_of_2(source.shape[1]))
    grid = (n_rows, triton.cdiv(source.shape[1], width))
    _gather_sum_kernel[grid](
        bounds, columns[order], values[order], source, out, source.shape[1], BN=16, BD=width
    )
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _gather_sum_kernel(  # type: ignore[no-untyped-def]
    bounds, columns, values, source, out, depth, BN: tl.constexpr, BD: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    across = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = across < depth
    total = tl.zeros((BD,), tl.float32)
    end = tl.load(bounds + row + 1)
    for entry in tl.range(tl.load(bounds + row), end, BN):
        entries = entry + tl.arange(0, BN)
        there = entries < end
        column = tl.load(columns + entries, mask=there, other=0)
        value = tl.load(values + entries, mask=there, other=0.0)
        taken = tl.load(
            source + column[:, None] * depth + across[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        )
        total += tl.sum(value[:, None] * taken.to(tl.float32), axis=0)
    tl.store(out + row * depth + across, total.to(out.dtype.element_ty), mask=inside)
