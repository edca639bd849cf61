"""What the tests of Triton kernels share."""

import os

import numpy as np
import pytest


@pytest.fixture(scope="module")
def exact_bfloat16():
    """The interpreter multiplies the bit patterns of bfloat16: widen them to float32 before."""
    if os.environ.get("TRITON_INTERPRET") != "1":
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
