"""kernels/fused.py against kernels/reference.py: under Triton's interpreter, or on a GPU.

Run by test_fused.py in a process of its own: Triton decides at import whether it interprets.
"""

import os
from itertools import pairwise

import numpy as np
import pytest
import torch

from lsr.kernels import fused, reference
from lsr.kernels.head import splade_head

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
LENGTHS = [[1], [3, 1, 7], [0, 5, 0, 2, 0], [70, 33], [0], []]
# (D, V): no multiples of a tile.
SIZES = [(17, 333), (8, 5)]


@pytest.fixture(scope="module", autouse=True)
def exact_bfloat16():
    """The interpreter multiplies the bit patterns of bfloat16: widen them to float32 before."""
    if not INTERPRETED:
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    original = builder.create_dot

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self, a, b, *rest):
        return original(self, widened(a), widened(b), *rest)

    builder.create_dot = create_dot
    yield
    builder.create_dot = original


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
@pytest.mark.parametrize("lengths", [[3, 1, 7], [70, 33], [0, 140]], ids=str)
def test_winners_are_the_first_of_the_largest_logits(lengths, dtype, tma):
    hidden, bounds, weight, bias = arguments(lengths, (72, 333), dtype)
    hidden, weight, bias = hidden.detach(), weight.detach(), bias.detach()
    # The second half of each text repeats the first: every maximum is there twice.
    hidden = torch.cat([hidden[a:b] for a, b in pairwise(bounds.tolist()) for _ in (0, 1)])
    bounds = bounds * 2
    pooled, winners = fused.forward(hidden, bounds, weight, bias, "relu", winners=True, tma=tma)
    alone, none = fused.forward(hidden, bounds, weight, bias, "relu", winners=False, tma=tma)
    assert none is None
    assert torch.equal(alone, pooled)
    assert winners.dtype == torch.int16
    logits = hidden.double() @ weight.double().T
    step = torch.finfo(torch.float32).eps * 64
    for text, (start, end) in enumerate(pairwise(bounds.tolist())):
        if start == end:
            assert (pooled[text] == 0).all()
            continue
        assert (winners[text] < (end - start) // 2).all()
        largest = logits[start:end].amax(0)
        chosen = logits[start:end].gather(0, winners[text].long()[None])[0]
        torch.testing.assert_close(chosen, largest, rtol=step, atol=step)
        exact = torch.log1p(torch.relu(largest + bias.double()))
        torch.testing.assert_close(pooled[text].double(), exact, rtol=1e-5, atol=1e-5)


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


def test_two_runs_are_equal_bit_by_bit():
    tensors = arguments([40, 12, 33], (17, 333))
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


def test_gather_sum_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 9, (200,), generator=generator).to(DEVICE)
    columns = torch.randint(0, 30, (200,), generator=generator).to(DEVICE)
    values = torch.randn(200, generator=generator).to(DEVICE)
    source = torch.randn(30, 300, generator=generator).to(DEVICE)
    expected = torch.zeros(11, 300, device=DEVICE)
    for row, column, value in zip(rows, columns, values, strict=True):
        expected[row] += value * source[column]
    found = fused.gather_sum(rows, columns, values, source, 11, torch.float32)
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
