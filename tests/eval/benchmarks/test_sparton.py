"""eval/benchmarks/sparton.py: plain PyTorch here, Triton's kernels in a separate process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lsr.eval.benchmarks import sparton
from lsr.kernels import reference
from lsr.kernels.head import pack

HERE = Path(__file__).parent


def check(**environment):
    pytest.importorskip("triton", reason="Triton is not installed")
    file = HERE / "sparton_interpreted.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    without = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    result = subprocess.run(
        command, env=without | environment, cwd=HERE.parents[2], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-5000:]
    assert " passed" in result.stdout


@pytest.mark.slow
def test_against_the_reference_under_the_interpreter():
    check(TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_against_the_reference_on_the_gpu():
    check()


def gradients(compute, tensors):
    pooled = compute(*tensors)
    loss = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))
    used = [tensor for tensor in tensors if tensor is not None]
    return pooled.detach(), torch.autograd.grad((pooled * loss).sum(), used)


@pytest.mark.parametrize("with_bias", [True, False])
def test_plain_operations_equal_the_reference(monkeypatch, with_bias):
    monkeypatch.setattr(sparton, "TILE_BYTES", 0)  # several tiles of 512 terms, the last ragged
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(11) < torch.tensor([3, 0, 11, 7])[:, None]
    mask[2, 5] = False
    tensors = [
        torch.randn(4, 11, 17, generator=generator).requires_grad_(),
        torch.randn(1100, 17, generator=generator).requires_grad_(),
        (torch.randn(1100, generator=generator) - 4).requires_grad_() if with_bias else None,
    ]
    found = gradients(lambda h, w, b: sparton.splade_pool(h, mask, w, b), tensors)
    expected = gradients(lambda h, w, b: reference.splade_pool(*pack(h, mask), w, b), tensors)
    assert 0 < (expected[0] > 0).double().mean() < 1
    assert (found[0][1] == 0).all()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_weights_and_gradients_have_the_dtypes_of_the_inputs():
    generator = torch.Generator().manual_seed(1)
    sizes = ((2, 5, 8), (30, 8), (30,))
    tensors = [torch.randn(size, generator=generator).bfloat16().requires_grad_() for size in sizes]
    mask = torch.ones(2, 5, dtype=torch.bool)
    pooled = sparton.splade_pool(tensors[0], mask, *tensors[1:])
    slopes = torch.autograd.grad(pooled.sum(), tensors)
    assert {one.dtype for one in (pooled, *slopes)} == {torch.bfloat16}
    exact = reference.splade_pool(
        *pack(tensors[0].double(), mask), *(t.double() for t in tensors[1:])
    )
    torch.testing.assert_close(pooled.double(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("rows", "terms"), [(32 * 128, 8192), (512 * 256, 512), (1000, 33_536), (2**20, 512)]
)
def test_a_tile_is_64_mib_of_16_bit_logits_or_512_terms(rows, terms):
    assert sparton.tile_terms(rows) == terms
