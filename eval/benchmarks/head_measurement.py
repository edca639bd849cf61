"""One measurement of the head's benchmark: a side's time and memory, in a process of its own."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from lsr.eval.benchmarks.head_baselines import (
    FLOORS,
    SIDES,
    Case,
    Shape,
    bare,
    least_memory,
    make_case,
)

# A measurement goes on until it has this many runs and this many seconds.
REPEATS = 5
SECONDS = 0.5
# Larger than any cache.
COPIED_BYTES = 2**29
# The memory of a process that has only loaded the libraries.
IDLE_BYTES = 2**29

P = ParamSpec("P")
R = TypeVar("R")


class Measurement(NamedTuple):
    """The median milliseconds of one side, and its peak memory above that of its inputs."""

    milliseconds: float
    extra_mib: float


def measure(
    side: str, shape: Shape, active: float, dtype_name: str, device: str, backward: bool
) -> Measurement | None:
    """Measure time and peak memory of one side in a fresh process; None if memory does not suffice.

    The gradients of the inputs, which every side must return, count as extra memory, and so do the
    logits of a bare product.
    """
    try:
        return _measure(side, shape, active, getattr(torch, dtype_name), device, backward)
    except RuntimeError as error:
        # PyTorch has no class for a CPU that is out of memory.
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return None
        raise


def _measure(
    side: str, shape: Shape, active: float, dtype: torch.dtype, device: str, backward: bool
) -> Measurement:
    case = make_case(shape, active, dtype, device)
    compute = SIDES[side].compute
    if backward:
        for tensor in (case.hidden, case.weight, case.bias):
            tensor.requires_grad_()
    # A tiny batch loads the library's code and fills its caches.
    _run(
        compute,
        Case(case.hidden[:1, :1], case.mask[:1, :1], case.weight[:64], case.bias[:64]),
        backward,
    )
    before = _reset_peak(device)
    if side in FLOORS:
        case = bare(case, SIDES[side].packed)
    milliseconds = _median_ms(lambda: _run(compute, case, backward), device)
    return Measurement(milliseconds, _peak_mib(device) - before)


def _run(compute: Callable[[Case], Tensor], case: Case, backward: bool) -> None:
    if backward:
        torch.autograd.grad(compute(case).sum(), [case.hidden, case.weight, case.bias])
    else:
        with torch.inference_mode():
            compute(case)


def _median_ms(run: Callable[[], object], device: str) -> float:
    run()  # touches the memory, and compiles
    found: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(found) < REPEATS or time.perf_counter() < end:
        if device == "cuda":
            found.append(_cuda_ms(run))
        else:
            start = time.perf_counter()
            run()
            found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found)


def _cuda_ms(run: Callable[[], object]) -> float:
    """Return milliseconds by the device's own clock, starting from an idle device."""
    event: Callable[..., Any] = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def bandwidth(device: str) -> float:
    """Return the gigabytes a second that a copy reads and writes in main memory."""
    source = torch.ones(COPIED_BYTES // 4, device=device)
    copy = torch.empty_like(source)
    return 2e-6 * COPIED_BYTES / _median_ms(lambda: copy.copy_(source), device)


def _reset_peak(device: str) -> float:
    """Begin a new peak of memory, and return the memory in use now, in MiB."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _proc_mib("self/status", "VmRSS")


def _peak_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return _proc_mib("self/status", "VmHWM")


def _proc_mib(file: str, field: str) -> float:
    """Return MiB from a file in /proc: VmRSS (resident now), VmHWM (peak) or MemAvailable."""
    for line in Path("/proc", file).read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{file} has no line {field}")


def unavailable(device: str) -> dict[str, str]:
    """Return the sides that cannot run here, with the reason."""
    if device == "cuda":
        if importlib.util.find_spec("triton"):
            return {}
        return dict.fromkeys(("compiled", "sparton"), "needs Triton: `pip install triton`")
    # The compiler that PyTorch would call.
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler):
        return {}
    return {"compiled": f"torch.compile needs a C++ compiler: no {compiler!r}, which CXX may name"}


def in_fresh_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a module's function in a new process, and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def attempt(
    side: str, shape: Shape, active: float, dtype_name: str, device: str, backward: bool
) -> Measurement | None:
    """Run `measure` in a fresh process, or say on stderr that the memory does not suffice."""
    if device == "cpu":
        size = getattr(torch, dtype_name).itemsize
        needed = (least_memory(side, shape, size, backward) + IDLE_BYTES) / 2**20
        available = _proc_mib("meminfo", "MemAvailable")
        if needed > available:
            tell(f"{side}: out of memory: {needed:.0f} MiB needed, {available:.0f} available")
            return None
    try:
        found = in_fresh_process(measure, side, shape, active, dtype_name, device, backward)
    except BrokenProcessPool:
        tell(f"{side}: its process was killed, which is taken as out of memory")
        return None
    if found is None:
        tell(f"{side}: out of memory")
    return found


def tell(line: str) -> None:
    """Say on stderr what the table does not."""
    print(line, file=sys.stderr, flush=True)


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the processor with the number of PyTorch's threads."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else 'CPU'}, {torch.get_num_threads()} threads"
