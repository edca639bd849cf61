"""Every tile of kernels/fused.py compiles for GPUs that are not here: spills, memory, instructions.

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

from lsr.kernels import fused

PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
# Shared memory of a block, bytes.
LIMITS = {"sm_80": 163 * 1024, "sm_89": 99 * 1024, "sm_90a": 227 * 1024}
DEPTH, TERMS = 768, 30_522


class Absent:
    """As much of a Triton driver as compiling asks for."""

    def __init__(self, architecture):
        self.architecture = int(architecture.removeprefix("sm_").removesuffix("a"))

    def get_current_target(self):
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self):
        # A kernel remembers the target of each device: one number for each.
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
@pytest.mark.parametrize("winners", [True, False])
@pytest.mark.parametrize("mean_length", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_forward(target, dtype, mean_length, winners):
    tma = target == "sm_90a"
    tile = fused.choose_tile(dtype.itemsize, mean_length, tma)
    hidden, weight = torch.empty(4096, DEPTH, dtype=dtype), torch.empty(TERMS, DEPTH, dtype=dtype)
    compiled = fused._pool_kernel.warmup(
        TensorDescriptor.from_tensor(hidden, [tile.tokens, tile.depth]) if tma else hidden,
        TensorDescriptor.from_tensor(weight, [tile.terms, tile.depth]) if tma else weight,
        torch.empty(TERMS, dtype=dtype),
        torch.empty(33, dtype=torch.int32),
        torch.empty(32, TERMS),
        torch.empty(32, TERMS, dtype=torch.int16) if winners else None,
        32,
        TERMS,
        **fused.constants(DEPTH, tile, True, winners, "relu", tma),
        PRECISION="ieee",
        num_warps=tile.warps,
        num_stages=tile.stages,
        grid=(1,),
    )
    found = resources(compiled, target)
    print(target, tile, winners, found)
    assert found["spilled"] == 0
    assert found["shared"] <= LIMITS[target]
    if tma:
        assert found["tma"] > 0
        # float32 without TF32 has no tensor core instruction.
        assert (found["wgmma"] > 0) == (dtype == torch.bfloat16)


@pytest.mark.parametrize("target", LIMITS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_backward(target, dtype):
    compiled = fused._gather_sum_kernel.warmup(
        torch.empty(TERMS + 1, dtype=torch.long),
        torch.empty(10_000, dtype=torch.long),
        torch.empty(10_000),
        torch.empty(4096, DEPTH, dtype=dtype),
        torch.empty(TERMS, DEPTH, dtype=dtype),
        DEPTH,
        BN=16,
        BD=256,
        grid=(1,),
    )
    found = resources(compiled, target)
    print(target, dtype, found)
    assert found["spilled"] == 0
    assert found["shared"] <= LIMITS[target]
