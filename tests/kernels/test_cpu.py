"""kernels/cpu.py against kernels/reference.py: values, gradients, and their precision."""

import pytest
import torch

from lsr.kernels import cpu, reference

LENGTHS = [[1], [3, 1, 7], [0, 5, 0, 2, 0], [0], [], [40, 12]]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks of the vocabulary, the last one ragged."""
    monkeypatch.setattr(cpu, "CHUNK", 64)


def arguments(lengths, dtype=torch.float32, with_bias=True, n_terms=333, size=17):
    generator = torch.Generator().manual_seed(len(lengths))
    tensors = [
        torch.randn(sum(lengths), size, generator=generator),
        torch.randn(n_terms, size, generator=generator),
        torch.randn(n_terms, generator=generator) if with_bias else None,
    ]
    hidden, weight, bias = (
        None if tensor is None else tensor.to(dtype).requires_grad_() for tensor in tensors
    )
    return hidden, torch.tensor([0, *lengths]).cumsum(0), weight, bias


def gradients(module, hidden, cu_seqlens, weight, bias, *options, keep=1.0):
    """Output and gradients of a random loss on a share `keep` of the outputs."""
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    pooled = module.splade_pool(hidden, cu_seqlens, weight, bias, *options)
    generator = torch.Generator().manual_seed(0)
    loss = torch.randn(pooled.shape, generator=generator, dtype=torch.float64)
    loss *= torch.rand(pooled.shape, generator=generator) < keep
    found = torch.autograd.grad((pooled * loss.to(pooled.dtype)).sum(), inputs)
    return pooled.detach(), found


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("keep", [1.0, 0.02], ids=["dense", "sparse"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_values_and_gradients_equal_the_reference_in_double(
    activation, pooling, with_bias, keep, lengths
):
    tensors = arguments(lengths, torch.float64, with_bias)
    expected = gradients(reference, *tensors, activation, pooling, keep=keep)
    found = gradients(cpu, *tensors, activation, pooling, keep=keep)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("dense", [0.0, 2.0], ids=["dense", "sparse"])
def test_gradcheck(monkeypatch, pooling, activation, dense):
    monkeypatch.setattr(cpu, "DENSE", dense)
    hidden, cu_seqlens, weight, bias = arguments([3, 0, 4], torch.float64, n_terms=70, size=5)
    assert torch.autograd.gradcheck(
        lambda h, w, b: cpu.splade_pool(h, cu_seqlens, w, b, activation, pooling),
        (hidden, weight, bias),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dense", [0.0, 2.0], ids=["dense", "sparse"])
def test_no_worse_than_the_naive_computation_in_the_same_dtype(monkeypatch, dtype, dense):
    """Held against double on the rounded inputs; plus a tolerance of one step of the dtype."""
    monkeypatch.setattr(cpu, "DENSE", dense)
    tensors = arguments([25, 15, 0, 9], dtype, size=64)
    double = tuple(
        tensor.detach().double().requires_grad_() if tensor.is_floating_point() else tensor
        for tensor in tensors
    )
    truth, true_gradients = gradients(reference, *double)
    naive, naive_gradients = gradients(reference, *tensors)
    found, found_gradients = gradients(cpu, *tensors)
    assert found.dtype == torch.float32
    step = torch.finfo(dtype).eps
    for ours, theirs, exact in zip(
        (found, *found_gradients), (naive, *naive_gradients), (truth, *true_gradients), strict=True
    ):
        # A near tie may give a gradient to another token: mean error, not the largest.
        error = (ours.double() - exact).abs().mean()
        assert error <= (theirs.double() - exact).abs().mean() + step * exact.abs().mean()


def test_gradients_have_the_dtype_of_their_parameters():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        tensors = arguments([5, 3], dtype)
        _, found = gradients(cpu, *tensors)
        assert {gradient.dtype for gradient in found} == {dtype}


@pytest.mark.parametrize("dense", [0.0, 2.0], ids=["dense", "sparse"])
def test_two_runs_are_equal_bit_by_bit(monkeypatch, dense):
    monkeypatch.setattr(cpu, "DENSE", dense)
    tensors = arguments([40, 12, 33])
    first, second = (gradients(cpu, *tensors) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(map(torch.equal, first[1], second[1]))


@pytest.mark.parametrize("dense", [0.0, 2.0], ids=["dense", "sparse"])
def test_tied_tokens_share_nothing_and_lose_nothing(monkeypatch, dense):
    """One of the tied tokens gets the whole gradient."""
    monkeypatch.setattr(cpu, "DENSE", dense)
    hidden, _, weight, bias = arguments([6], torch.float64)
    repeated = torch.cat([hidden, hidden]).detach().requires_grad_()
    once = gradients(cpu, hidden, torch.tensor([0, 6]), weight, bias)
    twice = gradients(cpu, repeated, torch.tensor([0, 12]), weight, bias)
    torch.testing.assert_close(twice[0], once[0])
    torch.testing.assert_close(twice[1][0][:6] + twice[1][0][6:], once[1][0])
    torch.testing.assert_close(twice[1][1:], once[1][1:])


def test_non_contiguous_inputs():
    hidden, cu_seqlens, weight, bias = arguments([5, 3], torch.float64)
    expected = gradients(cpu, hidden, cu_seqlens, weight, bias)
    strided = [
        torch.stack([tensor.detach(), tensor.detach()], -1)[..., 0].requires_grad_()
        for tensor in (hidden, weight, bias)
    ]
    assert not strided[0].is_contiguous()
    found = gradients(cpu, strided[0], cu_seqlens, strided[1], strided[2])
    torch.testing.assert_close(found, expected)


def test_frozen_inputs_get_no_gradient():
    hidden, cu_seqlens, weight, bias = arguments([5, 3])
    weight, bias = weight.detach(), bias.detach()
    cpu.splade_pool(hidden, cu_seqlens, weight, bias).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None and bias.grad is None


@pytest.mark.parametrize("module", [cpu, reference])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cu_seqlens": torch.tensor([0, 3])}, "must ascend from 0 to the 4 rows of `hidden`"),
        ({"cu_seqlens": torch.tensor([1, 4])}, r"`hidden`, got \[1, 4\]"),
        ({"cu_seqlens": torch.tensor([0, 5, 2, 4])}, r"must ascend .* got \[0, 5, 2, 4\]"),
        ({"cu_seqlens": torch.tensor(4)}, "`cu_seqlens` must ascend"),
        ({"pooling": "mean"}, "`pooling` must be 'max' or 'sum', got 'mean'"),
        ({"activation": "gelu"}, "`activation` must be .* got 'gelu'"),
        ({"weight": torch.randn(5, 2)}, r"must have the same D, got shapes \(4, 3\) and \(5, 2\)"),
        ({"weight": torch.randn(5, 3).half()}, "one dtype, got torch.float32 and torch.float16"),
        ({"bias": torch.randn(4)}, r"`bias` must have shape \(5,\), got \(4,\)"),
    ],
)
def test_errors(module, change, message):
    given = {
        "hidden": torch.randn(4, 3),
        "cu_seqlens": torch.tensor([0, 4]),
        "weight": torch.randn(5, 3),
    }
    with pytest.raises(ValueError, match=message):
        module.splade_pool(**given | change)
