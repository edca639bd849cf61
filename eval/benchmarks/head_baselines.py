"""The baselines of the head's benchmark: batches, other ways to compute it, and their least cost.

Every side takes a `Case`; all but the bare products return the same weights, shape (B, V).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lsr.eval.benchmarks import sparton
from lsr.kernels.head import splade_head

CHUNK = 4096


class Shape(NamedTuple):
    """A batch of padded texts with ascending lengths (see `lengths`)."""

    texts: int  # B
    longest: int  # T
    shortest: int
    size: int  # D
    terms: int  # V
    skew: float = 1.0  # at 1 the lengths ascend evenly; above 1 most texts are short

    def lengths(self) -> Tensor:
        """Return the real tokens of each text, int64, shape (B,)."""
        share = torch.linspace(0, 1, self.texts, dtype=torch.float64) ** self.skew
        return (self.shortest + share * (self.longest - self.shortest)).long()

    @property
    def tokens(self) -> int:
        """The real tokens of the batch."""
        return int(self.lengths().sum())

    @property
    def rows(self) -> int:
        """The tokens and the padding of the batch."""
        return self.texts * self.longest

    @property
    def flop(self) -> int:
        """The FLOP of the products of real tokens and weights, which every side must do."""
        return 2 * self.tokens * self.size * self.terms


SHAPES = {
    "cpu": Shape(16, 128, 30, 384, 30_522),  # a training batch on a laptop
    "A": Shape(512, 256, 256, 768, 30_522),  # BERT-base, documents at full length
    "A-real": Shape(512, 256, 16, 768, 30_522, skew=2.7),  # the same, 80 real tokens on average
    "A-queries": Shape(512, 32, 32, 768, 30_522),  # A′
    "B": Shape(32, 512, 512, 768, 250_002),  # XLM-R
    "C": Shape(64, 128, 128, 4096, 32_000),  # a decoder LLM
    "D": Shape(64, 128, 128, 4096, 128_256),
    "E": Shape(512, 256, 256, 384, 30_522),  # MiniLM
}


class Case(NamedTuple):
    """The padded states, mask, weight and bias of a batch."""

    hidden: Tensor  # (B, T, D)
    mask: Tensor  # (B, T)
    weight: Tensor  # (V, D)
    bias: Tensor  # (V,)
    logits: Tensor | None = None  # where a bare product writes its result


def make_case(shape: Shape, active: float, dtype: torch.dtype, device: str) -> Case:
    """Make random states and weights, and a bias that leaves a share `active` of the weights."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, device=device)

    hidden = normal(shape.texts, shape.longest, shape.size).to(dtype)
    weight = normal(shape.terms, shape.size).div_(shape.size**0.5).to(dtype)
    lengths = shape.lengths().to(device)
    mask = torch.arange(shape.longest, device=device) < lengths[:, None]
    sample = weight[:: max(1, shape.terms // 500)].float()
    largest = torch.stack(
        [(row[kept].float() @ sample.T).amax(0) for row, kept in zip(hidden, mask, strict=True)]
    )
    threshold = largest.flatten().sort().values[int((1 - active) * (largest.numel() - 1))]
    bias = torch.full((shape.terms,), -float(threshold), device=device)
    return Case(hidden, mask, weight, bias.to(dtype))


def eager(case: Case) -> Tensor:
    """The definition as users write it, on padded states."""
    values = torch.log1p(torch.relu(F.linear(case.hidden, case.weight, case.bias)))
    return (values * case.mask[..., None]).amax(1)


def max_first(case: Case) -> Tensor:
    """The maximum before the activation, as sentence-transformers does it."""
    logits = F.linear(case.hidden, case.weight, case.bias)
    masked = logits.masked_fill(~case.mask[..., None], float("-inf"))
    return torch.log1p(torch.relu(masked.amax(1)))


def compiled(case: Case) -> Tensor:
    """torch.compile of max first, for the shape at hand."""
    return _compiled_max_first()(case)


@cache
def _compiled_max_first() -> Callable[[Case], Tensor]:
    return torch.compile(max_first, dynamic=False)


def chunked(case: Case) -> Tensor:
    """Max first over tiles of the vocabulary."""
    columns = range(0, len(case.weight), CHUNK)
    tiles = (
        case._replace(weight=case.weight[at : at + CHUNK], bias=case.bias[at : at + CHUNK])
        for at in columns
    )
    return torch.cat([max_first(tile) for tile in tiles], 1)


def published(case: Case) -> Tensor:
    """See `lsr.eval.benchmarks.sparton`."""
    return sparton.splade_pool(case.hidden, case.mask, case.weight, case.bias)


def ours(case: Case) -> Tensor:
    """See `lsr.kernels.head.splade_head`."""
    return splade_head(case.hidden, case.weight, case.bias, mask=case.mask)


def matrix_product(case: Case) -> Tensor:
    """The bare library product of a case that `bare` gave, without bias: all logits, (n, V)."""
    return torch.mm(case.hidden.flatten(0, 1), case.weight.T, out=case.logits)


def bare(case: Case, packed: bool) -> Case:
    """Return the case for `matrix_product`: one text of the n real tokens, with or without padding.

    Its logits are allocated before, so that the product does not pay for new memory.
    """
    rows = case.hidden[case.mask] if packed else case.hidden.flatten(0, 1)
    logits = rows.new_empty(len(rows), len(case.weight))
    return Case(rows[None], case.mask.new_ones(1, len(rows)), case.weight, case.bias, logits)


class Side(NamedTuple):
    """A way to compute the weights, with its known costs."""

    compute: Callable[[Case], Tensor]
    passes: int  # over all logits in main memory, writing or reading, in the forward pass
    held: int  # copies of all logits at once in the forward pass, at least
    held_for_backward: int  # the same with the backward pass
    packed: bool = False  # whether padding is left out
    tile: Callable[[Shape], int] = lambda shape: shape.terms  # terms of one product


SIDES = {
    # Product, relu, log1p, mask, maximum: all but the first read, all but the last write.
    "eager": Side(eager, passes=8, held=2, held_for_backward=4),
    "max first": Side(max_first, passes=4, held=2, held_for_backward=3),
    "compiled": Side(compiled, passes=2, held=1, held_for_backward=2),
    "chunked": Side(chunked, passes=4, held=0, held_for_backward=1, tile=lambda shape: CHUNK),
    "sparton": Side(
        published,
        passes=2,
        held=0,
        held_for_backward=0,
        tile=lambda shape: sparton.tile_terms(shape.rows),
    ),
    "lsr": Side(ours, passes=0, held=0, held_for_backward=0, packed=True),
    "matrix product": Side(matrix_product, passes=1, held=1, held_for_backward=1, packed=True),
    "matrix product, padded": Side(matrix_product, passes=1, held=1, held_for_backward=1),
}
# Bare products compute no weights and have no backward pass.
FLOORS = ("matrix product", "matrix product, padded")


def traffic(name: str, shape: Shape, element_size: int, device: str) -> int:
    """Return the bytes that a side's forward pass moves at least, to and from memory.

    They are e · (c · n · D + V · D + V + p · n · V) + o · B · V. This assumes that each operation
    reads its inputs and writes its outputs once, and that caches keep nothing between operations:

    e   the size of an element
    n   tokens: the real ones where the side packs them, else B · T
    c   reads and writes of the states: one for each product, that is for each tile of the
        vocabulary, and for lsr two more to pack them
    p   passes over the logits, see `SIDES`; 0 for lsr, which is taken as one operation (on the CPU
        its chunks of logits are small enough for the caches)
    o   bytes of a result: e, for lsr those of float32, for Sparton e and 8 for the index, none for
        a bare product
    """
    side = SIDES[name]
    rows = shape.tokens if side.packed else shape.rows
    states = -(-shape.terms // side.tile(shape)) + (2 if name == "lsr" else 0)
    # Without Triton the mask is an operation of its own.
    passes = side.passes + (2 if name == "sparton" and device == "cpu" else 0)
    results = {"lsr": max(4, element_size), "sparton": element_size + 8} | dict.fromkeys(FLOORS, 0)
    inputs = states * rows * shape.size + shape.terms * (shape.size + 1)
    moved = element_size * (inputs + passes * rows * shape.terms)
    return moved + results.get(name, element_size) * shape.texts * shape.terms


def least_memory(name: str, shape: Shape, element_size: int, backward: bool) -> int:
    """Return the bytes that a side needs at least: inputs, gradients, copies of all logits."""
    side = SIDES[name]
    rows = shape.tokens if side.packed else shape.rows
    held = side.held_for_backward if backward else side.held
    inputs = shape.rows * shape.size + shape.terms * (shape.size + 1)
    return element_size * (inputs * (2 if backward else 1) + held * rows * shape.terms)
