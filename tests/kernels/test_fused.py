"""kernels/fused.py: each kind of check in its own process, since Triton is set up at import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
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
