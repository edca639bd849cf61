"""Every kernel of kernels/fused_*.py compiles for GPUs that are not here: spills and memory.

Run by test_fused.py in a process of its own, without Triton's interpreter.
"""

import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from lsr.kernels import fused_backward, fused_forward

PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
# Shared memory of a block, bytes.
LIMITS = {"sm_80": 163 * 1024, "sm_89": 99 * 1024, "sm_90a": 227 * 1024}
DEPTH, TERMS = 768, 30_522
DTYPES = [
    (torch.bfloat16, "ieee"),
    (torch.float16, "ieee"),
    (torch.float32, "ieee"),
    (torch.float32, "tf32"),
]


class Absent:
    """The parts of a Triton driver that compiling needs."""

    def __init__(self, architecture):
        self.architecture = int(architecture.removeprefix("sm_").removesuffix("a"))

    def get_current_target(self):
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self):
        # A kernel caches the target of each device number, so each architecture has its own.
        return self.architecture

    def get_current_stream(self, device=None):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")


def resources(compiled, architecture):
    """Registers, spilled bytes, shared bytes, and counts of wgmma and TMA instructions."""
    ptx = compiled.asm["ptx"]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [PTXAS, "-v", f"--gpu-name={architecture}", file.name, "-o", "/dev/null"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    stores, loads = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", told).groups()
    return {
        "registers": int(re.search(r"Used (\d+) registers", told)[1]),
        "spilled": int(stores) + int(loads),
        "shared": compiled.metadata.shared,
        "wgmma": ptx.count("wgmma.mma_async"),
        "tma": ptx.count("cp.async.bulk.tensor"),
    }


@pytest.fixture
def target(request):
    driver.set_active(Absent(request.param))
    return request.param


@pytest.mark.parametrize("target", LIMITS, indirect=True)
@pytest.mark.parametrize(
    ("winners", "activation", "with_bias"),
    [(True, "relu", True), (False, "log1p_relu", False), (False, "relu", True)],
)
@pytest.mark.parametrize("mean_length", [32, 128])
@pytest.mark.parametrize(("dtype", "precision"), DTYPES, ids=str)
@pytest.mark.parametrize(("depth", "n_terms"), [(384, 30_522), (4096, 250_002)])
def test_forward(
    target, dtype, precision, mean_length, winners, activation, with_bias, depth, n_terms
):
    tma = target == "sm_90a"
    tile = fused_forward.choose_tile(dtype.itemsize, mean_length, tma)
    # Only shapes and dtypes matter, not the values.
    hidden = torch.empty(1, dtype=dtype).expand(4096, depth)
    weight = torch.empty(1, dtype=dtype).expand(n_terms, depth)
    if tma:
        strides = (depth, 1)
        hidden = TensorDescriptor(hidden, [4096, depth], strides, [tile.tokens, tile.depth])
        weight = TensorDescriptor(weight, [n_terms, depth], strides, [tile.terms, tile.depth])
    compiled = fused_forward._pool_kernel.warmup(
        hidden,
        weight,
        torch.empty(n_terms, dtype=dtype) if with_bias else None,
        torch.empty(33, dtype=torch.int32),
        torch.empty(9, dtype=torch.int32),
        torch.empty(32, n_terms),
        torch.empty(32, n_terms, dtype=torch.int16) if winners else None,
        8,
        4096,
        **fused_forward.constants(depth, n_terms, tile, with_bias, winners, activation, tma),
        PRECISION=precision,
        num_warps=tile.warps,
        num_stages=tile.stages,
        grid=(1,),
    )
    found = resources(compiled, target)
    print(target, tile, winners, found)
    assert found["spilled"] == 0
    assert tile.programs * found["shared"] <= LIMITS[target]
    # The registers of a multiprocessor are enough for this many programs.
    assert tile.programs * tile.warps * 32 * found["registers"] <= 65_536
    if tma:
        assert found["tma"] > 0
        # float32 without TF32 has no tensor core instruction.
        assert (found["wgmma"] > 0) == (DTYPES.index((dtype, precision)) != 2)


@pytest.mark.parametrize("target", LIMITS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("depth", [384, 768, 4096])
def test_segmented_backward(target, dtype, depth):
    compiled = fused_backward._segment_kernel.warmup(
        torch.empty(TERMS, dtype=torch.long),
        torch.empty(TERMS, dtype=torch.long),
        torch.empty(10_000, dtype=torch.int32),
        torch.empty(10_000),
        torch.empty(4096, depth, dtype=dtype),
        torch.empty(TERMS, depth, dtype=dtype),
        D=depth,
        BN=16,
        BD=256,
        grid=(1,),
    )
    found = resources(compiled, target)
    print(target, dtype, found)
    assert found["spilled"] == 0
    assert found["shared"] <= LIMITS[target]


@pytest.mark.parametrize("target", LIMITS, indirect=True)
@pytest.mark.parametrize("terms", [True, False])
@pytest.mark.parametrize(("dtype", "precision"), DTYPES, ids=str)
def test_one_hot_backward(target, dtype, precision, terms):
    tile = fused_backward.PRODUCTS[dtype.itemsize]
    hidden, weight = torch.empty(4096, DEPTH, dtype=dtype), torch.empty(TERMS, DEPTH, dtype=dtype)
    compiled = fused_backward._one_hot_kernel.warmup(
        torch.empty(32, TERMS),
        torch.empty(32, TERMS, dtype=torch.int16),
        torch.empty(4096, dtype=torch.int32),
        torch.empty(4096, dtype=torch.int32),
        hidden if terms else weight,
        weight if terms else hidden,
        4096,
        **fused_backward.one_hot_constants(TERMS, DEPTH, tile, terms),
        PRECISION=precision,
        num_warps=tile.warps,
        num_stages=tile.stages,
        grid=(1,),
    )
    found = resources(compiled, target)
    print(target, tile, terms, found)
    assert found["spilled"] == 0
    assert found["shared"] <= LIMITS[target]
    if target == "sm_90a" and (dtype, precision) != (torch.float32, "ieee"):
        assert found["wgmma"] > 0
