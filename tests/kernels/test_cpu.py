"""kernels/cpu.py against kernels/reference.py."""

import pytest
import torch

from lsr.kernels import cpu, reference


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    "lengths", [[1], [3, 1, 7], [0, 5, 0, 2, 0], [0], []], ids=lambda sizes: str(sizes)
)
def test_equals_reference(monkeypatch, activation, pooling, with_bias, lengths):
    monkeypatch.setattr(cpu, "CHUNK", 64)  # several chunks, the last one ragged
    torch.manual_seed(len(lengths))
    hidden = torch.randn(sum(lengths), 17)
    weight = torch.randn(333, 17)
    bias = torch.randn(333) if with_bias else None
    sizes = torch.tensor(lengths, dtype=torch.int64)
    truth = reference.splade_pool(
        hidden.double(),
        sizes,
        weight.double(),
        bias.double() if bias is not None else None,
        activation,
        pooling,
    )
    got = cpu.splade_pool(hidden, sizes, weight, bias, activation, pooling)
    assert got.shape == (len(lengths), 333)
    torch.testing.assert_close(got.double(), truth, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_no_worse_than_the_naive_computation_in_bfloat16():
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(40, 64), torch.randn(500, 64), torch.randn(500)
    sizes = torch.tensor([25, 15])
    h16, w16 = hidden.bfloat16(), weight.bfloat16()
    truth = reference.splade_pool(h16.double(), sizes, w16.double(), bias.double())
    naive = reference.splade_pool(h16, sizes, w16, bias.bfloat16())
    got = cpu.splade_pool(h16, sizes, w16, bias)
    assert (got - truth).abs().max() <= (naive.double() - truth).abs().max() + 1e-3


@pytest.mark.parametrize("module", [cpu, reference])
def test_errors(module):
    hidden, weight = torch.randn(4, 3), torch.randn(5, 3)
    with pytest.raises(ValueError, match="must sum to the 4 rows of `hidden`, got 3"):
        module.splade_pool(hidden, torch.tensor([3]), weight)
    with pytest.raises(ValueError, match="`pooling` must be 'max' or 'sum', got 'mean'"):
        module.splade_pool(hidden, torch.tensor([4]), weight, pooling="mean")
    with pytest.raises(ValueError, match="`activation` must be .* got 'gelu'"):
        module.splade_pool(hidden, torch.tensor([4]), weight, activation="gelu")
