"""The forward pass of the SPLADE head as one Triton kernel: product and running maximum, fused.

The vocabulary is on the M side of the product, so that the maximum over tokens stays within a
thread. Tokens are packed and a tile of them may hold parts of several texts: there is no padding,
and many short texts share a tile. A program walks the tokens of a group of whole texts for one
tile of the vocabulary and keeps the running maximum in registers; the grid is persistent. Tiles
are loaded by TMA on Hopper and by pointers on older GPUs. Batch and lengths are run-time values,
so that another batch needs no compilation; D, V and the tile are compile-time constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lsr.kernels.reference import Activation

# Programs under the interpreter, where no device says how many run at once. They are few, so that
# each works on several tiles.
INTERPRETED_PROGRAMS = 3
# Tokens of a group of texts, at most. The last tile of a group is partly empty: a small part of
# so many tokens.
GROUP_TOKENS = 2048
# Groups whose programs run side by side, so that they share tiles of the weights in L2 while their
# own tokens stay there.
GROUPS_TOGETHER = 8


class Tile(NamedTuple):
    """The block sizes of one step of the product, and how the kernel is launched."""

    terms: int
    tokens: int
    depth: int
    warps: int
    stages: int
    # Programs that fit the registers and shared memory of a multiprocessor at once.
    programs: int


# Tiles for 16-bit elements: "short" for texts of up to 48 tokens on average, since a tile is
# reduced once for each text in it. All compile for sm_80, sm_89 and sm_90a without spills
# (tests/kernels/fused_compiled.py). They are not tuned: no GPU has run them yet.
SHORT = 48
TMA_TILES = {"short": Tile(256, 64, 64, 8, 3, 1), "long": Tile(256, 128, 64, 8, 3, 1)}
POINTER_TILES = {"short": Tile(128, 64, 32, 8, 3, 1), "long": Tile(128, 128, 32, 8, 3, 1)}
# Without TF32, tensor cores cannot multiply float32: the product uses ordinary arithmetic.
FLOAT32_TILE = Tile(64, 32, 32, 4, 2, 2)


def forward(
    hidden: Tensor,
    cu_seqlens: Tensor,
    bounds: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation,
    *,
    winners: bool,
    tma: bool | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute pooled weights, float32, (B, V), and with `winners` which token of its text won each.

    Winners are int16 where the longest text allows, else int32, and 0 for a text without tokens.
    Among tied tokens the first wins.

    Args:
        hidden: contiguous; for the rest see `lsr.kernels.reference.splade_pool`.
        cu_seqlens: int32, on the device of `hidden`.
        bounds: the same on the host.
        weight: contiguous.
        bias: contiguous or None.
        activation: see `splade_pool`.
        winners: whether to return winners, which only the backward pass needs.
        tma: whether to load tiles by TMA; None for yes on Hopper and newer. Rows that are not
            aligned to 16 bytes are loaded by pointers in any case.
    """
    n_texts, n_terms = len(bounds) - 1, len(weight)
    longest = max((end - start for start, end in pairwise(bounds)), default=0)
    index = torch.int16 if longest <= torch.iinfo(torch.int16).max else torch.int32
    if n_texts == 0 or n_terms == 0 or len(hidden) == 0:
        pooled = hidden.new_zeros((n_texts, n_terms), dtype=torch.float32)
        return pooled, torch.zeros_like(pooled, dtype=index) if winners else None
    pooled = hidden.new_empty((n_texts, n_terms), dtype=torch.float32)
    won = torch.empty_like(pooled, dtype=index) if winners else None
    if tma is None:
        tma = hidden.is_cuda and torch.cuda.get_device_capability(hidden.device)[0] >= 9
    # TMA needs rows that begin at multiples of 16 bytes.
    aligned = hidden.data_ptr() | weight.data_ptr() | hidden.shape[1] * hidden.element_size()
    tma = tma and aligned % 16 == 0
    tile = choose_tile(hidden.element_size(), len(hidden) / n_texts, tma)
    programs = _programs(hidden, tile)
    n_tiles = triton.cdiv(n_terms, tile.terms)
    # Enough groups that the last round of programs, which is not full, is a small part of all.
    most = min(GROUP_TOKENS, max(4 * tile.tokens, len(hidden) * n_tiles // (8 * programs)))
    groups = group_texts(bounds, most)
    n_groups = len(groups) - 1
    with on_device_of(hidden):
        _pool_kernel[(min(n_groups * n_tiles, programs),)](
            TensorDescriptor.from_tensor(hidden, [tile.tokens, tile.depth]) if tma else hidden,
            TensorDescriptor.from_tensor(weight, [tile.terms, tile.depth]) if tma else weight,
            bias,
            cu_seqlens,
            torch.tensor(groups, dtype=torch.int32).to(hidden.device, non_blocking=True),
            pooled,
            won,
            n_groups,
            len(hidden),
            **constants(hidden.shape[1], n_terms, tile, bias is not None, winners, activation, tma),
            PRECISION=precision(),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return pooled, won


def precision() -> str:
    """Return "tf32" where PyTorch multiplies float32 matrices on CUDA so, else "ieee".

    PyTorch 2.9 and newer have `fp32_precision`. Reading the older `allow_tf32` there raises
    RuntimeError once `fp32_precision` has been set.
    """
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):
        return "tf32" if matmul.fp32_precision == "tf32" else "ieee"
    return "tf32" if matmul.allow_tf32 else "ieee"


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the device of `tensor` the current one, since Triton launches on the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def group_texts(bounds: Sequence[int], most: int) -> list[int]:
    """Split the texts into groups of consecutive ones; return where each begins and the last ends.

    A group has at most `most` tokens, unless it is a single longer text.

    Args:
        bounds: where each of B ≥ 1 texts begins among the tokens and the last ends, B + 1 values.
        most: tokens of a group.
    """
    groups = [0]
    for text in range(1, len(bounds) - 1):
        if bounds[text + 1] - bounds[groups[-1]] > most:
            groups.append(text)
    return [*groups, len(bounds) - 1]


def is_interpreted() -> bool:
    """Whether Triton was imported with TRITON_INTERPRET=1, so that kernels run on the CPU."""
    return not isinstance(_pool_kernel, triton.runtime.JITFunction)


def choose_tile(element_size: int, mean_length: float, tma: bool) -> Tile:
    """Choose the tile by the bytes of an element and the average tokens of a text."""
    if element_size == 4:
        return FLOAT32_TILE
    return (TMA_TILES if tma else POINTER_TILES)["short" if mean_length <= SHORT else "long"]


def constants(
    depth: int,
    n_terms: int,
    tile: Tile,
    bias: bool,
    winners: bool,
    activation: Activation,
    tma: bool,
) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel, except PRECISION."""
    return {
        "D": depth,
        "V": n_terms,
        "HAS_BIAS": bias,
        "WINNERS": winners,
        "TWICE": activation == "log1p_relu",
        "TMA": tma,
        "TOGETHER": GROUPS_TOGETHER,
        "BV": tile.terms,
        "BT": tile.tokens,
        "BK": tile.depth,
    }


def _programs(hidden: Tensor, tile: Tile) -> int:
    if not hidden.is_cuda:
        return INTERPRETED_PROGRAMS
    count: int = torch.cuda.get_device_properties(hidden.device).multi_processor_count
    return tile.programs * count


@triton.jit
def larger(one, other):  # type: ignore[no-untyped-def]
    """Return the maximum, or NaN where either is NaN, as PyTorch does; `tl.max` drops NaN."""
    return tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def larger_and_first(one, place, other, other_place):  # type: ignore[no-untyped-def]
    """Return the larger one and its place; the first of equal ones, or of several NaN."""
    wins = (one > other) | ((one != one) & (other == other))
    ties = (one == other) | ((one != one) & (other != other))
    keeps = wins | (ties & (place < other_place))
    return tl.where(keeps, one, other), tl.where(keeps, place, other_place)


@triton.jit  # type: ignore[untyped-decorator]
def _fold(logits, inside, offset, best, winner, WINNERS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Update the running maximum and its token by the columns of a tile that are `inside`.

    The first NaN wins, and no later value replaces it.
    """
    masked = tl.where(inside[None, :], logits, float("-inf"))
    if WINNERS:
        columns = tl.broadcast_to(tl.arange(0, masked.shape[1])[None, :], masked.shape)
        largest, column = tl.reduce((masked, columns), 1, larger_and_first)
        # `not <=` holds for NaN, unlike `>`.
        better = (best == best) & ~(largest <= best)
        winner = tl.where(better, offset + column, winner)
    else:
        largest = tl.reduce(masked, 1, larger)
    return larger(best, largest), winner


@triton.jit  # type: ignore[untyped-decorator]
def _pool_kernel(  # type: ignore[no-untyped-def]
    hidden,
    weight,
    bias,
    cu_seqlens,
    groups,
    pooled,
    won,
    n_groups,
    n_tokens,
    D: tl.constexpr,
    V: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WINNERS: tl.constexpr,
    TWICE: tl.constexpr,
    TMA: tl.constexpr,
    TOGETHER: tl.constexpr,
    BV: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    N_TILES: tl.constexpr = (V + BV - 1) // BV
    for item in tl.range(tl.program_id(0), n_groups * N_TILES, tl.num_programs(0)):
        band = item // (TOGETHER * N_TILES)
        wide = tl.minimum(n_groups - band * TOGETHER, TOGETHER)
        place = item % (TOGETHER * N_TILES)
        group = band * TOGETHER + place % wide
        first = place // wide * BV
        terms = first + tl.arange(0, BV)
        there = terms < V
        shift = tl.zeros((BV,), tl.float32)
        if HAS_BIAS:
            shift += tl.load(bias + terms, mask=there, other=0.0).to(tl.float32)
        # Pointers past the last row read the last row instead; the results are masked.
        term_rows = tl.minimum(terms, V - 1) - first

        text = tl.load(groups + group)
        last = tl.load(groups + group + 1)
        start = tl.load(cu_seqlens + text)
        end = tl.load(cu_seqlens + text + 1)
        stop = tl.load(cu_seqlens + last)
        best = tl.full((BV,), float("-inf"), tl.float32)
        winner = tl.zeros((BV,), tl.int32)
        # A group of texts without tokens computes one tile, ignores it, and stores zeros.
        for row in tl.range(start, tl.maximum(stop, start + 1), BT):
            tokens = row + tl.arange(0, BT)
            token_rows = tl.minimum(tokens, n_tokens - 1)
            logits = tl.zeros((BV, BT), tl.float32)
            for k in tl.range(0, D, BK):
                if TMA:
                    w = weight.load([first, k])
                    h = hidden.load([row, k])
                else:
                    depth = k + tl.arange(0, BK)
                    # Offsets within a tile fit 32 bits, and take half the registers of pointers.
                    w_at = (
                        weight + first.to(tl.int64) * D + (term_rows[:, None] * D + depth[None, :])
                    )
                    h_at = hidden + token_rows.to(tl.int64)[:, None] * D + depth[None, :]
                    if D % BK == 0:
                        w, h = tl.load(w_at), tl.load(h_at)
                    else:
                        w = tl.load(w_at, mask=(depth < D)[None, :], other=0.0)
                        h = tl.load(h_at, mask=(depth < D)[None, :], other=0.0)
                logits = tl.dot(w, h.T, logits, input_precision=PRECISION)
            # Store the texts that end in this tile.
            while (text < last) & (end <= row + BT):
                inside = (tokens >= start) & (tokens < end)
                best, winner = _fold(logits, inside, row - start, best, winner, WINNERS)
                # A text without tokens is 0, whatever the bias.
                logit = tl.where(end > start, best + shift, 0.0)
                value = tl.log(1.0 + larger(logit, 0.0))
                if TWICE:
                    value = tl.log(1.0 + value)
                into = text.to(tl.int64) * V + terms
                tl.store(pooled + into, value, mask=there)
                if WINNERS:
                    tl.store(won + into, winner.to(won.dtype.element_ty), mask=there)
                best = tl.full((BV,), float("-inf"), tl.float32)
                winner = tl.zeros((BV,), tl.int32)
                text += 1
                start = end
                end = tl.load(cu_seqlens + tl.minimum(text + 1, last))
            # Carry on with the text that continues in the next tile.
            if text < last:
                best, winner = _fold(logits, tokens >= start, row - start, best, winner, WINNERS)
