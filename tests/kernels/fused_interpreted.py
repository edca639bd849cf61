"""kernels/fused*.py against kernels/reference.py: under Triton's interpreter, or on a GPU.

Run by test_fused.py in a process of its own: Triton decides at import whether it interprets.
"""

import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import ReduceOps

from lsr.kernels import fused, fused_backward, fused_forward, reference
from lsr.kernels.head import splade_head

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
LENGTHS = [[1], [3, 1, 7], [0, 5, 0, 2, 0], [70, 33], [0], []]
# (D, V), not multiples of a tile.
SIZES = [(17, 333), (8, 5)]


pytestmark = pytest.mark.usefixtures("exact_bfloat16", "fast_reductions")


@pytest.fixture
def fast_reductions(monkeypatch):
    """Use NumPy for our own maxima, which the interpreter would run in a loop over elements."""
    if INTERPRETED:
        by_element = ReduceOps.apply_impl

        def apply(self, inputs):
            if self.combine_fn == fused_forward.larger:
                return self.min_max(inputs[0], val_reduce_op=np.max)
            if self.combine_fn == fused_forward.larger_and_first:
                return self.min_max(inputs[0], val_reduce_op=np.max, idx_reduce_op=np.argmax)
            return by_element(self, inputs)

        monkeypatch.setattr(ReduceOps, "apply_impl", apply)


@pytest.fixture
def small_tiles(monkeypatch, fast_reductions):
    """Tiles so small that few tokens fill several, and that our own maxima can be interpreted."""
    monkeypatch.setattr(fused_forward, "FLOAT32_TILE", fused_forward.Tile(16, 16, 16, 1, 2, 1))
    if INTERPRETED:
        monkeypatch.setattr(ReduceOps, "apply_impl", ReduceOps.generic_reduce)


def arguments(lengths, size, dtype=torch.float32, with_bias=True):
    depth, n_terms = size
    generator = torch.Generator().manual_seed(len(lengths))
    tensors = [
        torch.randn(sum(lengths), depth, generator=generator),
        torch.randn(n_terms, depth, generator=generator),
        torch.randn(n_terms, generator=generator) if with_bias else None,
    ]
    hidden, weight, bias = (
        None if tensor is None else tensor.to(DEVICE, dtype).requires_grad_() for tensor in tensors
    )
    bounds = torch.tensor([0, *lengths], device=DEVICE).cumsum(0).int()
    return hidden, bounds, weight, bias


def gradients(module, hidden, bounds, weight, bias, *options):
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    pooled = module.splade_pool(hidden, bounds, weight, bias, *options)
    generator = torch.Generator().manual_seed(0)
    loss = torch.randn(pooled.shape, generator=generator).to(pooled)
    return pooled.detach(), torch.autograd.grad((pooled * loss).sum(), inputs)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_values_and_gradients_equal_the_reference(lengths, size, with_bias, activation):
    tensors = arguments(lengths, size, with_bias=with_bias)
    found = gradients(fused, *tensors, activation)
    expected = gradients(reference, *tensors, activation)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_larger_vocabulary():
    tensors = arguments([30, 70], (72, 1009))
    expected = gradients(reference, *tensors)
    torch.testing.assert_close(gradients(fused, *tensors), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tma", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "lengths",
    [[3, 1, 7], [70, 33], [0, 140, 0, 0], [5] * 30, [31, 32, 0, 33, 64, 1], [0, 0]],
    ids=str,
)
def test_winners_are_the_first_of_the_largest_logits(lengths, dtype, tma, monkeypatch):
    """Whole numbers: sums are exact in any order, and maxima tie often."""
    monkeypatch.setattr(fused_forward, "GROUP_TOKENS", 100)
    generator = torch.Generator().manual_seed(0)

    def whole(*sizes):
        return torch.randint(-3, 4, sizes, generator=generator).to(DEVICE, dtype)

    hidden, weight, bias = whole(sum(lengths), 72), whole(333, 72), whole(333)
    bounds = torch.tensor([0, *lengths], device=DEVICE).cumsum(0).int()
    given = (hidden, bounds, bounds.tolist(), weight, bias, "relu")
    pooled, winners = fused_forward.forward(*given, winners=True, tma=tma)
    alone, none = fused_forward.forward(*given, winners=False, tma=tma)
    assert none is None
    assert torch.equal(alone, pooled)
    assert winners.dtype == torch.int16
    logits = hidden.double() @ weight.double().T
    for text, (start, end) in enumerate(pairwise(bounds.tolist())):
        if start == end:
            assert (pooled[text] == 0).all() and (winners[text] == 0).all()
            continue
        # torch.max gives the first of the largest.
        largest, first = logits[start:end].max(0)
        assert torch.equal(winners[text].long(), first)
        exact = torch.log1p(torch.relu(largest + bias.double()))
        torch.testing.assert_close(pooled[text].double(), exact, rtol=1e-5, atol=1e-6)


NAN, INF = float("nan"), float("inf")
# Which of the 20 tokens of the third text are replaced; its tokens lie in two tiles of 16.
NOT_FINITE = {
    "the first": {0: NAN},
    "in the first tile, then finite ones": {3: NAN},
    "in the second tile": {18: NAN},
    "several": {5: NAN, 6: NAN, 17: NAN},
    "before and after infinity": {2: INF, 4: NAN, 17: INF, 19: -INF},
    "infinities": {4: -INF, 5: INF, 6: INF, 17: INF},
    "nothing but negative infinity": dict.fromkeys(range(20), -INF),
}


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("changes", NOT_FINITE.values(), ids=NOT_FINITE)
@pytest.mark.parametrize("tma", [True, False])
def test_logits_that_are_not_finite(changes, tma):
    """With a depth of 1, logits are single products, so that the values put in are the logits."""
    generator = torch.Generator().manual_seed(0)
    lengths = [3, 0, 20, 5]
    hidden, weight, bias = (torch.randn(n, generator=generator) for n in (sum(lengths), 16, 16))
    for token, value in changes.items():
        hidden[3 + token] = value
    hidden, weight, bias = hidden[:, None].to(DEVICE), weight[:, None].to(DEVICE), bias.to(DEVICE)
    bounds = torch.tensor([0, *lengths], device=DEVICE).cumsum(0).int()
    expected = reference.splade_pool(hidden, bounds, weight, bias)
    given = (hidden, bounds, bounds.tolist(), weight, bias, "relu")
    alone, _ = fused_forward.forward(*given, winners=False, tma=tma)
    pooled, winners = fused_forward.forward(*given, winners=True, tma=tma)
    for found in (alone, pooled):
        torch.testing.assert_close(found, expected, equal_nan=True)
    # torch.max returns the first NaN, or else the first of the largest values.
    assert torch.equal(winners[2].long(), (hidden[3:23] @ weight.T).max(0).indices)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.usefixtures("small_tiles")
def test_a_bias_that_is_not_finite():
    hidden, bounds, weight, bias = arguments([3, 0, 2], (4, 5))
    with torch.no_grad():
        bias[:3] = torch.tensor([NAN, INF, -INF])
    expected = reference.splade_pool(hidden, bounds, weight, bias)
    with torch.no_grad():
        alone = fused.splade_pool(hidden, bounds, weight, bias)
    assert expected[0].isnan().tolist() == [True, False, False, False, False]
    for found in (alone, fused.splade_pool(hidden, bounds, weight, bias)):
        torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("regime", ["gather", "one-hot"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize(
    ("value", "scale"), [(NAN, 1.0), (1e30, 1e20), (-1e30, 1e20)], ids=["nan", "inf", "-inf"]
)
def test_gradients_of_logits_that_are_not_finite(regime, activation, value, scale, monkeypatch):
    monkeypatch.setattr(fused_backward, "choose_regime", lambda *given: regime)
    hidden, bounds, weight, bias = arguments([3, 0, 20, 5], (4, 40))
    with torch.no_grad():
        hidden[10, 2] = value
        weight[:7] *= scale
    expected = gradients(reference, hidden, bounds, weight, bias, activation)
    assert not expected[0].isfinite().all()
    found = gradients(fused, hidden, bounds, weight, bias, activation)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_an_infinite_gradient_of_an_inactive_term_stays_out():
    """The square root has one at 0."""
    hidden, bounds, weight, bias = arguments([3, 0, 20], (4, 40))
    found, expected = (
        torch.autograd.grad(
            module.splade_pool(hidden, bounds, weight, bias).sqrt().sum(), [hidden, weight, bias]
        )
        for module in (fused, reference)
    )
    assert all(gradient.isfinite().all() for gradient in expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_long_texts_have_wide_winners():
    hidden = torch.zeros(40_000, 8, device=DEVICE)
    hidden[39_998] = 1
    bounds = torch.tensor([0, 40_000], device=DEVICE).int()
    weight = torch.ones(3, 8, device=DEVICE)
    given = (hidden, bounds, [0, 40_000], weight, None, "relu")
    pooled, winners = fused_forward.forward(*given, winners=True)
    assert winners.dtype == torch.int32
    assert winners.tolist() == [[39_998] * 3]
    torch.testing.assert_close(pooled, torch.full_like(pooled, 9.0).log())


def test_groups_are_whole_texts():
    bounds = [0, 3, 3, 10, 11, 30, 30]
    assert fused_forward.group_texts(bounds, 10) == [0, 3, 4, 5, 6]
    assert fused_forward.group_texts(bounds, 11) == [0, 4, 5, 6]
    assert fused_forward.group_texts(bounds, 1) == [0, 1, 2, 3, 4, 5, 6]
    assert fused_forward.group_texts(bounds, 99) == [0, 6]
    assert fused_forward.group_texts([0, 5], 1) == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_worse_than_the_naive_computation_in_the_same_dtype(dtype):
    tensors = arguments([25, 15, 0, 9], (64, 333), dtype)
    double = tuple(
        tensor.detach().double().requires_grad_() if tensor.is_floating_point() else tensor
        for tensor in tensors
    )
    truth, true_gradients = gradients(reference, *double)
    naive, naive_gradients = gradients(reference, *tensors)
    found, found_gradients = gradients(fused, *tensors)
    step = torch.finfo(dtype).eps
    for ours, theirs, exact, like in zip(
        (found, *found_gradients),
        (naive, *naive_gradients),
        (truth, *true_gradients),
        (found, tensors[0], tensors[2], tensors[3]),
        strict=True,
    ):
        assert ours.dtype == like.dtype
        error = (ours.double() - exact).abs().mean()
        assert error <= (theirs.double() - exact).abs().mean() + step * exact.abs().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_runs_are_equal_bit_by_bit(dtype):
    tensors = arguments([40, 12, 33], (17, 333), dtype)
    first, second = (gradients(fused, *tensors) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(map(torch.equal, first[1], second[1]))


def test_non_contiguous_inputs():
    hidden, bounds, weight, bias = arguments([5, 3], (17, 333))
    expected = gradients(fused, hidden, bounds, weight, bias)
    strided = [tensor.detach().T.contiguous().T.requires_grad_() for tensor in (hidden, weight)]
    assert not strided[0].is_contiguous()
    every_other = torch.stack([bias.detach(), -bias.detach()], 1)[:, 0].requires_grad_()
    assert every_other.stride() == (2,)
    found = gradients(fused, strided[0], bounds, strided[1], every_other)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("regime", ["gather", "one-hot"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lengths", [[40, 0, 1, 90], [0], [7] * 20], ids=str)
@pytest.mark.parametrize("size", [(72, 333), (17, 1009)], ids=str)
def test_both_ways_back_equal_a_dense_product(regime, dtype, lengths, size, monkeypatch):
    # Small enough for several parts, and for rows of several pieces.
    monkeypatch.setattr(fused_backward, "ENTRIES", 500)
    monkeypatch.setattr(fused_backward, "PIECE", 32)
    hidden, bounds, weight, _ = arguments(lengths, size, dtype, with_bias=False)
    generator = torch.Generator().manual_seed(0)
    shape = (len(lengths), len(weight))
    value = torch.randn(shape, generator=generator)
    value[torch.rand(shape, generator=generator) < 0.3] = 0
    share = torch.rand(shape, generator=generator) ** 4  # few tokens win most terms
    longest = torch.tensor(lengths)[:, None]
    value[longest.expand(shape) == 0] = 0
    winner = (share * longest).int()
    chosen = torch.zeros(len(hidden), len(weight), dtype=torch.float64)
    for text, start in enumerate(bounds.tolist()[:-1]):
        if lengths[text]:
            rows = chosen[start : start + lengths[text]]
            rows.scatter_(0, winner[text].long()[None], value[text].double()[None])
    found = fused_backward.backward(
        value.to(DEVICE),
        winner.to(DEVICE),
        bounds,
        bounds.tolist(),
        hidden.detach(),
        weight.detach(),
        regime=regime,
    )
    chosen = chosen.to(DEVICE)
    expected = (chosen @ weight.detach().double(), chosen.T @ hidden.detach().double())
    # The result is rounded to its dtype; the one-hot factor is rounded too.
    step = max(torch.finfo(dtype).eps, 1e-6)
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        allowed = 2 * step * exact.abs().amax() if exact.numel() else 0.0
        assert torch.allclose(ours.double(), exact, rtol=2 * step, atol=float(allowed))


def test_the_regime_follows_the_number_of_active_entries():
    choose = fused_backward.choose_regime
    # Texts of 32 tokens: gathering costs less up to 32 / 144 of the weights.
    assert choose(20_000, 3_200, 1_000, True) == "gather"
    assert choose(23_000, 3_200, 1_000, True) == "one-hot"
    assert choose(23_000, 3_200, 1_000, False) == "gather"
    # For texts of 200 tokens it always costs less.
    assert choose(100_000, 20_000, 1_000, True) == "gather"


def test_frozen_inputs_get_no_gradient():
    hidden, bounds, weight, bias = arguments([5, 3], (17, 333))
    weight, bias = weight.detach(), bias.detach()
    expected = torch.autograd.grad(
        reference.splade_pool(hidden, bounds, weight, bias).sum(), hidden
    )
    found = torch.autograd.grad(fused.splade_pool(hidden, bounds, weight, bias).sum(), hidden)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    hidden, weight = hidden.detach(), weight.requires_grad_()
    expected = torch.autograd.grad(
        reference.splade_pool(hidden, bounds, weight, bias).sum(), weight
    )
    found = torch.autograd.grad(fused.splade_pool(hidden, bounds, weight, bias).sum(), weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_gather_sum_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 9, (200,), generator=generator).int().to(DEVICE)
    columns = torch.randint(0, 30, (200,), generator=generator).int().to(DEVICE)
    values = torch.randn(200, generator=generator).to(DEVICE)
    source = torch.randn(30, 300, generator=generator).to(DEVICE)
    expected = torch.zeros(11, 300, device=DEVICE)
    for row, column, value in zip(rows, columns, values, strict=True):
        expected[row] += value * source[column]
    found = torch.full((11, 300), float("nan"), device=DEVICE)
    fused_backward.gather_sum(rows, columns, values, source, found)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_head_takes_padded_states():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, 17, generator=generator).to(DEVICE)
    weight = torch.randn(40, 17, generator=generator).to(DEVICE)
    mask = (torch.arange(7) < torch.tensor([7, 0, 3])[:, None]).to(DEVICE)
    expected = splade_head(hidden, weight, mask=mask, impl="reference")
    found = splade_head(hidden, weight, mask=mask, impl="triton")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_errors():
    hidden, bounds, weight, _ = arguments([4], (8, 5))
    with pytest.raises(ValueError, match="must be float32, bfloat16 or float16, got torch.float64"):
        fused.splade_pool(hidden.double(), bounds, weight.double())
    with pytest.raises(ValueError, match="`activation` must be 'relu' or 'log1p_relu', got 'gelu'"):
        fused.splade_pool(hidden, bounds, weight, activation="gelu")
    with pytest.raises(ValueError, match="`cu_seqlens` must ascend"):
        fused.splade_pool(hidden, bounds + 1, weight)
