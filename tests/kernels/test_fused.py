"""kernels/fused.py: each kind of check in its own process, since Triton is set up at import."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from lsr.kernels import fused_backward, fused_forward

HERE = Path(__file__).parent


def check(file, **environment):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / file]
    without = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    result = subprocess.run(
        command, env=without | environment, cwd=HERE.parents[1], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-5000:]
    assert " passed" in result.stdout


@pytest.mark.slow
def test_against_the_reference_under_the_interpreter():
    check("fused_interpreted.py", TRITON_INTERPRET="1")


@pytest.mark.slow
def test_every_tile_compiles_for_hopper_ada_and_ampere(tmp_path):
    check("fused_compiled.py", TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_against_the_reference_on_the_gpu():
    check("fused_interpreted.py")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"fp32_precision": "tf32"}, "tf32"),
        ({"fp32_precision": "ieee"}, "ieee"),
        ({"fp32_precision": "none"}, "ieee"),
        ({"allow_tf32": True}, "tf32"),
        ({"allow_tf32": False}, "ieee"),
    ],
    ids=str,
)
def test_the_precision_is_read_from_the_newer_and_the_older_setting(monkeypatch, setting, expected):
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(**setting))
    assert fused_forward.precision() == expected


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="an older PyTorch")
def test_the_precision_set_for_all_of_pytorch_is_read():
    """With PyTorch's newer attributes set, reading `allow_tf32` raises."""
    before = torch.backends.fp32_precision
    try:
        for value, expected in (("tf32", "tf32"), ("ieee", "ieee")):
            torch.backends.fp32_precision = value
            assert fused_forward.precision() == expected
    finally:
        torch.backends.fp32_precision = before


class Kernel:
    """Stands for a kernel, and records the device of each launch."""

    def __init__(self, devices):
        self.devices, self.launches = devices, []

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.launches.append(self.devices[-1])


def test_kernels_are_launched_on_the_device_of_their_tensors(monkeypatch):
    devices = ["cuda:0"]

    @contextlib.contextmanager
    def on_device_of(tensor):
        devices.append(tensor.device)
        yield
        devices.pop()

    kernels = []
    for module, names in (
        (fused_forward, ["_pool_kernel"]),
        (fused_backward, ["_segment_kernel", "_one_hot_kernel"]),
    ):
        monkeypatch.setattr(module, "on_device_of", on_device_of)
        for name in names:
            kernels.append(Kernel(devices))
            monkeypatch.setattr(module, name, kernels[-1])
    hidden, weight = torch.ones(4, 8), torch.ones(5, 8)
    bounds = torch.tensor([0, 4]).int()
    pooled, winners = fused_forward.forward(
        hidden, bounds, [0, 4], weight, None, "relu", winners=True
    )
    for regime in ("gather", "one-hot"):
        fused_backward.backward(
            torch.ones_like(pooled),
            torch.zeros_like(winners),
            bounds,
            [0, 4],
            hidden,
            weight,
            regime=regime,
        )
    assert [kernel.launches for kernel in kernels] == [[hidden.device] * n for n in (1, 2, 2)]


def test_the_device_of_a_cuda_tensor_is_made_the_current_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: f"guard of {device}")
    tensor = SimpleNamespace(is_cuda=True, device="cuda:1")
    assert fused_forward.on_device_of(tensor) == "guard of cuda:1"
    with fused_forward.on_device_of(torch.ones(1)):
        pass
