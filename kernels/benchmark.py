"""Time and memory of the SPLADE head beside plain PyTorch, on the CPU (memory: on Linux).

    python -m lsr.kernels.benchmark [--active SHARE] [--rounds N] [--json]

All sides compute the same weights from the same states in turns, in a process of their own each,
forward alone and with the backward pass. "eager" is the definition as users write it, on padded
states; "max first" takes the maximum before the activation, as sentence-transformers does; "matrix
product" is the bare product of packed states and weights, which no side can be faster than.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsr.kernels.head import pack, splade_head

BATCH, LENGTH, SHORTEST = 16, 128, 30
SIZE, TERMS = 384, 30_522
REPEATS = 5


class Case(NamedTuple):
    """Padded states, mask, weight, and bias of a batch."""

    hidden: Tensor  # (B, T, D)
    mask: Tensor  # (B, T)
    weight: Tensor  # (V, D)
    bias: Tensor  # (V,)


class Measurement(NamedTuple):
    """Of one side: median milliseconds, and the peak of the resident set above its start."""

    milliseconds: float
    extra_mib: float


def make_case(active: float, dtype: torch.dtype) -> Case:
    """A batch of texts of 30 to 128 tokens; the bias leaves a share `active` of the weights."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(BATCH, LENGTH, SIZE, generator=generator)
    weight = torch.randn(TERMS, SIZE, generator=generator) / SIZE**0.5
    lengths = torch.linspace(SHORTEST, LENGTH, BATCH).long()
    mask = torch.arange(LENGTH) < lengths[:, None]
    largest = torch.stack(
        [(row[kept] @ weight[::50].T).amax(0) for row, kept in zip(hidden, mask, strict=True)]
    )
    bias = torch.full((TERMS,), -float(largest.quantile(1 - active)))
    return Case(hidden.to(dtype), mask, weight.to(dtype), bias.to(dtype))


def eager(case: Case) -> Tensor:
    """The definition on padded states."""
    values = torch.log1p(torch.relu(case.hidden @ case.weight.T + case.bias))
    return (values * case.mask[..., None]).amax(1)


def max_first(case: Case) -> Tensor:
    """The order of sentence-transformers: mask, maximum, activation."""
    logits = case.hidden @ case.weight.T + case.bias
    masked = logits.masked_fill(~case.mask[..., None], float("-inf"))
    return torch.log1p(torch.relu(masked.amax(1)))


def ours(case: Case) -> Tensor:
    """`lsr.kernels.head.splade_head`."""
    return splade_head(case.hidden, case.weight, case.bias, mask=case.mask)


def matrix_product(case: Case) -> Tensor:
    """The bare product over real tokens, into memory that is there already."""
    packed, _ = pack(case.hidden, case.mask)
    return torch.mm(packed, case.weight.T)


SIDES: dict[str, Callable[[Case], Tensor]] = {
    "eager": eager,
    "max first": max_first,
    "lsr": ours,
    "matrix product": matrix_product,
}


def measure(side: str, active: float, dtype_name: str, backward: bool) -> Measurement:
    """Time and peak memory of one side; to be called in a fresh process.

    The gradients of the inputs, which every side must return, count as extra memory.
    """
    case = make_case(active, getattr(torch, dtype_name))
    compute = SIDES[side]
    inputs = [case.hidden, case.weight, case.bias]
    if backward:
        for tensor in inputs:
            tensor.requires_grad_()
    # Code and caches of the library, on a batch too small to count.
    small = Case(case.hidden[:1, :1], case.mask[:1, :1], case.weight[:64], case.bias[:64])
    _run(compute, small, list(small[:1] + small[2:]), backward)
    before = _reset_peak()
    milliseconds = []
    for number in range(REPEATS + 1):
        start = time.perf_counter()
        _run(compute, case, inputs, backward)
        if number:  # the first run touches the memory
            milliseconds.append(1000 * (time.perf_counter() - start))
    return Measurement(statistics.median(milliseconds), _status_mib("VmHWM") - before)


def _run(
    compute: Callable[[Case], Tensor], case: Case, inputs: list[Tensor], backward: bool
) -> None:
    if backward:
        torch.autograd.grad(compute(case).sum(), inputs)
    else:
        with torch.inference_mode():
            compute(case)


def _status_mib(field: str) -> float:
    """A line of /proc/self/status: VmRSS, what is resident now, or VmHWM, its peak."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no line {field}")


def _reset_peak() -> float:
    """Begin a new peak of resident memory at what is resident now, which is returned, in MiB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status_mib("VmRSS")


def compare(active: float, dtype_name: str, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Medians over the rounds: pass → side → milliseconds, extra MiB, and both over eager's."""
    report: dict[str, dict[str, dict[str, float]]] = {}
    spawn = multiprocessing.get_context("spawn")
    for name, backward in (("forward", False), ("forward and backward", True)):
        sides = [side for side in SIDES if not (backward and side == "matrix product")]
        found: dict[str, list[Measurement]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                    job = pool.submit(measure, side, active, dtype_name, backward)
                    found[side].append(job.result())
        report[name] = {}
        for side, measured in found.items():
            milliseconds = statistics.median(m.milliseconds for m in measured)
            extra = statistics.median(m.extra_mib for m in measured)
            base = report[name].get("eager", {"ms": milliseconds, "extra_mib": extra})
            report[name][side] = {
                "ms": milliseconds,
                "extra_mib": extra,
                "times_faster_than_eager": base["ms"] / milliseconds,
                "share_of_eager_memory": extra / base["extra_mib"],
            }
    return report


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = []
    for name, sides in report.items():
        lines.append(f"{name:24}{'ms':>9}{'faster':>9}{'extra MiB':>11}{'of eager':>10}")
        for side, row in sides.items():
            lines.append(
                f"  {side:22}{row['ms']:9.1f}{row['times_faster_than_eager']:9.2f}"
                f"{row['extra_mib']:11.1f}{row['share_of_eager_memory']:10.3f}"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its report."""
    parser = argparse.ArgumentParser(description="The SPLADE head beside plain PyTorch.")
    parser.add_argument("--active", type=float, default=0.01, help="share of weights above 0")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    report = compare(options.active, options.dtype, options.rounds)
    print(json.dumps(report) if options.json else table(report))


if __name__ == "__main__":
    main()
