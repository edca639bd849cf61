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
    """The output, and the gradients of a random loss over a share `keep` of the outputs."""
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
    """The reference is double on the rounded inputs; the tolerance is one step of the dtype."""
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
        # In a near tie another token may get the gradient: so the mean error, not the largest.
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
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_first_of_tied_tokens_gets_the_gradient(monkeypatch, dense, dtype):
    """Whole numbers: logits are exact in any order of summation, and maxima tie often."""
    monkeypatch.setattr(cpu, "DENSE", dense)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randint(-1, 2, size, generator=generator).to(dtype).requires_grad_()
        for size in ((12, 9), (1009, 9))
    )
    logits = (hidden @ weight.T).detach()
    assert ((logits[:8] == logits[:8].amax(0)).sum(0) > 1).double().mean() > 0.2
    cu_seqlens = torch.tensor([0, 8, 8, 12])
    pooled = cpu.splade_pool(hidden, cu_seqlens, weight)
    (found,) = torch.autograd.grad(pooled.sum(), hidden)
    expected = torch.zeros(12, 9, dtype=torch.float64)
    for tokens in (slice(0, 8), slice(8, 12)):
        largest, first = logits[tokens].double().max(0)
        slopes = (largest > 0) / (1 + largest.relu())
        expected[tokens].index_add_(0, first, slopes[:, None] * weight.detach().double())
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=4 * step, atol=100 * step)


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("dense", [0.0, 2.0], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    ("value", "scale"),
    [(float("nan"), 1.0), (1e200, 1e150), (-1e200, 1e150)],
    ids=["nan", "inf", "-inf"],
)
def test_logits_that_are_not_finite(monkeypatch, pooling, activation, dense, value, scale):
    monkeypatch.setattr(cpu, "DENSE", dense)
    hidden, cu_seqlens, weight, bias = arguments([3, 0, 20, 5], torch.float64)
    with torch.no_grad():
        hidden[10, 2] = value
        weight[:7] *= scale
    expected = gradients(reference, hidden, cu_seqlens, weight, bias, activation, pooling)
    assert not expected[0].isfinite().all()
    found = gradients(cpu, hidden, cu_seqlens, weight, bias, activation, pooling)
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("dense", [0.0, 2.0], ids=["dense", "sparse"])
def test_an_infinite_gradient_of_an_inactive_term_stays_out(monkeypatch, pooling, dense):
    """The square root has one at 0."""
    monkeypatch.setattr(cpu, "DENSE", dense)
    hidden, cu_seqlens, weight, bias = arguments([3, 0, 20], torch.float64)
    found, expected = (
        torch.autograd.grad(
            module.splade_pool(hidden, cu_seqlens, weight, bias, "relu", pooling).sqrt().sum(),
            [hidden, weight, bias],
        )
        for module in (cpu, reference)
    )
    assert all(gradient.isfinite().all() for gradient in expected)
    torch.testing.assert_close(found, expected)


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


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("keep", [1.0, 0.02], ids=["dense", "sparse"])
@pytest.mark.parametrize("trained", [0, 1, 2], ids=["hidden", "weight", "bias"])
def test_frozen_inputs_get_no_gradient(pooling, keep, trained):
    hidden, cu_seqlens, weight, bias = arguments([5, 3], torch.float64)
    inputs = [tensor.detach() for tensor in (hidden, weight, bias)]
    _, expected = gradients(reference, hidden, cu_seqlens, weight, bias, "relu", pooling, keep=keep)
    inputs[trained].requires_grad_()
    pooled = cpu.splade_pool(inputs[0], cu_seqlens, inputs[1], inputs[2], "relu", pooling)
    generator = torch.Generator().manual_seed(0)
    loss = torch.randn(pooled.shape, generator=generator, dtype=torch.float64)
    loss *= torch.rand(pooled.shape, generator=generator) < keep
    (pooled * loss).sum().backward()
    torch.testing.assert_close(inputs[trained].grad, expected[trained])
    assert sum(tensor.grad is not None for tensor in inputs) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_on_cuda_without_triton(pooling):
    tensors = [tensor.detach().cuda() for tensor in arguments([0, 5, 0, 2, 0], torch.float64)]
    hidden, cu_seqlens, weight, bias = tensors
    for tensor in (hidden, weight, bias):
        tensor.requires_grad_()
    expected = gradients(reference, hidden, cu_seqlens, weight, bias, "relu", pooling)
    found = gradients(cpu, hidden, cu_seqlens, weight, bias, "relu", pooling)
    torch.testing.assert_close(found, expected)


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
