"""eval/benchmarks/sparton.py by its Triton kernels: under Triton's interpreter, or on a GPU.

Run by test_sparton.py in a process of its own: Triton decides at import whether it interprets.
"""

import os

import pytest
import torch

from lsr.eval.benchmarks import sparton, sparton_triton
from lsr.kernels import reference
from lsr.kernels.head import pack

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def inputs(mask, size, with_bias=True):
    depth, n_terms = size
    generator = torch.Generator().manual_seed(mask.numel())
    tensors = [
        torch.randn(*mask.shape, depth, generator=generator),
        torch.randn(n_terms, depth, generator=generator),
        # Most weights are 0, and whole blocks of the backward pass are inactive.
        torch.randn(n_terms, generator=generator) - depth**0.5 if with_bias else None,
    ]
    return [None if one is None else one.to(DEVICE).requires_grad_() for one in tensors]


def gradients(compute, tensors):
    pooled = compute(*tensors)
    loss = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0)).to(pooled)
    used = [tensor for tensor in tensors if tensor is not None]
    return pooled.detach(), torch.autograd.grad((pooled * loss).sum(), used)


MASKS = {
    "full": torch.ones(2, 5, dtype=torch.bool),
    "one token": torch.ones(1, 1, dtype=torch.bool),
    "padding": torch.arange(37) < torch.tensor([3, 0, 37, 20, 1])[:, None],
    "holes": torch.arange(18).remainder(3).eq(1).expand(3, 18),
}


@pytest.mark.parametrize("size", [(17, 1100), (70, 33)], ids=str)
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_equal_the_reference(monkeypatch, name, size, with_bias):
    monkeypatch.setattr(sparton, "TILE_BYTES", 0)  # several tiles of 512 terms, the last ragged
    mask = MASKS[name].to(DEVICE)
    tensors = inputs(mask, size, with_bias)
    found = gradients(lambda h, w, b: sparton.splade_pool(h, mask, w, b, triton=True), tensors)
    expected = gradients(lambda h, w, b: reference.splade_pool(*pack(h, mask), w, b), tensors)
    assert 0 < (expected[0] > 0).double().mean() < 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("period", [16, 20], ids=["same row of a block", "another"])
def test_the_first_of_tied_tokens_wins(period):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, period, 130, generator=generator).repeat(1, 2, 1).to(DEVICE)
    mask = torch.ones(2, 2 * period, dtype=torch.bool, device=DEVICE)
    pooled = logits.new_empty(2, 130)
    winners = torch.empty_like(pooled, dtype=torch.int64)
    sparton_triton.reduce(logits, mask, pooled, winners)
    largest, index = logits[:, :period].max(1)
    assert torch.equal(winners, index)
    torch.testing.assert_close(pooled, torch.log1p(largest))
