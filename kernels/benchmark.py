"""Time and memory of the SPLADE head beside plain PyTorch.

    python -m lsr.kernels.benchmark [--shape NAME] [--dtype NAME] [--active SHARE] [--plot FILE]

All sides compute the same weights from the same states, in turns, in a process of their own each,
forward alone and with the backward pass; on a CUDA device if there is one, else on the CPU (where
memory is measured on Linux only).

eager           the definition as users write it, on padded states
max first       the maximum before the activation, as sentence-transformers does it
compiled        torch.compile of max first (CUDA only: the CPU compiler does not fuse the two)
chunked         library products over tiles of the vocabulary, each reduced at once, on padded
                states: the scheme of Sparton (arXiv 2603.25011) in plain PyTorch
lsr             `lsr.kernels.head.splade_head`
matrix product  the bare library product of real tokens and weights: the floor
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

REPEATS = 5
CHUNK = 4096


class Shape(NamedTuple):
    """A batch of texts whose lengths go evenly from the shortest to the longest."""

    texts: int
    longest: int
    shortest: int
    size: int  # D
    terms: int  # V

    @property
    def tokens(self) -> int:
        """Real tokens of the batch."""
        return int(torch.linspace(self.shortest, self.longest, self.texts).long().sum())


SHAPES = {
    "cpu": Shape(16, 128, 30, 384, 30_522),  # a training batch on a laptop
    "A": Shape(512, 256, 256, 768, 30_522),  # BERT-base, documents at full length
    "A-real": Shape(512, 256, 16, 768, 30_522),  # the same with padding
    "A-queries": Shape(512, 32, 32, 768, 30_522),
    "B": Shape(32, 512, 512, 768, 250_002),  # XLM-R
    "C": Shape(64, 128, 128, 4096, 32_000),  # a decoder LLM
    "D": Shape(64, 128, 128, 4096, 128_256),
    "E": Shape(512, 256, 256, 384, 30_522),  # MiniLM
}


class Case(NamedTuple):
    """Padded states, mask, weight, and bias of a batch."""

    hidden: Tensor  # (B, T, D)
    mask: Tensor  # (B, T)
    weight: Tensor  # (V, D)
    bias: Tensor  # (V,)


class Measurement(NamedTuple):
    """Of one side: median milliseconds, and peak memory above that of its inputs."""

    milliseconds: float
    extra_mib: float


def make_case(shape: Shape, active: float, dtype: torch.dtype, device: str) -> Case:
    """Random states and weights, and a bias that leaves a share `active` of the weights."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, device=device)

    hidden = normal(shape.texts, shape.longest, shape.size)
    weight = normal(shape.terms, shape.size).div_(shape.size**0.5)
    lengths = torch.linspace(shape.shortest, shape.longest, shape.texts, device=device).long()
    mask = torch.arange(shape.longest, device=device) < lengths[:, None]
    sample = weight[:: max(1, shape.terms // 500)]
    largest = torch.stack(
        [(row[kept] @ sample.T).amax(0) for row, kept in zip(hidden, mask, strict=True)]
    )
    threshold = largest.flatten().sort().values[int((1 - active) * (largest.numel() - 1))]
    bias = torch.full((shape.terms,), -float(threshold), device=device)
    return Case(hidden.to(dtype), mask, weight.to(dtype), bias.to(dtype))


def eager(case: Case) -> Tensor:
    """See the module's docstring."""
    values = torch.log1p(torch.relu(case.hidden @ case.weight.T + case.bias))
    return (values * case.mask[..., None]).amax(1)


def max_first(case: Case) -> Tensor:
    """See the module's docstring."""
    logits = case.hidden @ case.weight.T + case.bias
    masked = logits.masked_fill(~case.mask[..., None], float("-inf"))
    return torch.log1p(torch.relu(masked.amax(1)))


def compiled(case: Case) -> Tensor:
    """See the module's docstring."""
    return torch.compile(max_first, dynamic=False)(case)


def chunked(case: Case) -> Tensor:
    """See the module's docstring."""
    columns = range(0, len(case.weight), CHUNK)
    tiles = (
        case._replace(weight=case.weight[at : at + CHUNK], bias=case.bias[at : at + CHUNK])
        for at in columns
    )
    return torch.cat([max_first(tile) for tile in tiles], 1)


def ours(case: Case) -> Tensor:
    """See the module's docstring."""
    return splade_head(case.hidden, case.weight, case.bias, mask=case.mask)


def matrix_product(case: Case) -> Tensor:
    """See the module's docstring."""
    packed, _ = pack(case.hidden, case.mask)
    return torch.mm(packed, case.weight.T)


SIDES: dict[str, Callable[[Case], Tensor]] = {
    "eager": eager,
    "max first": max_first,
    "compiled": compiled,
    "chunked": chunked,
    "lsr": ours,
    "matrix product": matrix_product,
}


def measure(
    side: str, shape: Shape, active: float, dtype_name: str, device: str, backward: bool
) -> Measurement:
    """Time and peak memory of one side; to be called in a fresh process.

    The gradients of the inputs, which every side must return, count as extra memory.
    """
    case = make_case(shape, active, getattr(torch, dtype_name), device)
    compute = SIDES[side]
    inputs = [case.hidden, case.weight, case.bias]
    if backward:
        for tensor in inputs:
            tensor.requires_grad_()
    # Code and caches of the library, on a batch too small to count.
    small = Case(case.hidden[:1, :1], case.mask[:1, :1], case.weight[:64], case.bias[:64])
    _run(compute, small, list(small[:1] + small[2:]), backward)
    before = _reset_peak(device)
    milliseconds = []
    for number in range(REPEATS + 1):
        start = time.perf_counter()
        _run(compute, case, inputs, backward)
        if device == "cuda":
            torch.cuda.synchronize()
        if number:  # the first run touches the memory, and compiles
            milliseconds.append(1000 * (time.perf_counter() - start))
    return Measurement(statistics.median(milliseconds), _peak_mib(device) - before)


def _run(
    compute: Callable[[Case], Tensor], case: Case, inputs: list[Tensor], backward: bool
) -> None:
    if backward:
        torch.autograd.grad(compute(case).sum(), inputs)
    else:
        with torch.inference_mode():
            compute(case)


def _reset_peak(device: str) -> float:
    """Begin a new peak of memory at what is in use now, which is returned, in MiB."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status_mib("VmRSS")


def _peak_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return _status_mib("VmHWM")


def _status_mib(field: str) -> float:
    """A line of /proc/self/status: VmRSS, what is resident now, or VmHWM, its peak."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no line {field}")


def compare(
    shape: Shape, active: float, dtype_name: str, device: str, rounds: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Medians over the rounds: pass → side → milliseconds, extra MiB, and both over eager's."""
    report: dict[str, dict[str, dict[str, float]]] = {}
    spawn = multiprocessing.get_context("spawn")
    for name, backward in (("forward", False), ("forward and backward", True)):
        left_out = {"matrix product"} if backward else set()
        if device == "cpu":
            left_out.add("compiled")
        sides = [side for side in SIDES if side not in left_out]
        found: dict[str, list[Measurement]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                    job = pool.submit(measure, side, shape, active, dtype_name, device, backward)
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
                # Of the products over real tokens; the backward pass has none that it must do.
                "gflops": 2e-6 * shape.tokens * shape.size * shape.terms / milliseconds,
            }
    return report


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = []
    for name, sides in report.items():
        lines.append(
            f"{name:24}{'ms':>9}{'faster':>9}{'extra MiB':>11}{'of eager':>10}{'GFLOP/s':>10}"
        )
        for side, row in sides.items():
            lines.append(
                f"  {side:22}{row['ms']:9.1f}{row['times_faster_than_eager']:9.2f}"
                f"{row['extra_mib']:11.1f}{row['share_of_eager_memory']:10.3f}"
                f"{row['gflops']:10.1f}"
            )
    return "\n".join(lines)


def plot(report: dict[str, Any], title: str, path: str) -> None:
    """Each side's forward pass by extra memory and speed; the library's product is the roof."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for side, row in report["forward"].items():
        if side == "matrix product":
            axes.axhline(row["gflops"], color="grey", linestyle="--", label=side)
        else:
            axes.scatter(max(row["extra_mib"], 0.1), row["gflops"], label=side)
    axes.set(
        xscale="log", xlabel="extra memory, MiB", ylabel="GFLOP/s over real tokens", title=title
    )
    axes.legend()
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its report."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description="The SPLADE head beside plain PyTorch.")
    parser.add_argument("--shape", choices=SHAPES, default="A" if cuda else "cpu")
    parser.add_argument("--active", type=float, default=0.01, help="share of weights above 0")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16" if cuda else "float32"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", help="write a picture, PNG or SVG")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    device = "cuda" if cuda else "cpu"
    name = torch.cuda.get_device_name() if cuda else "CPU"
    shape = SHAPES[options.shape]
    report = compare(shape, options.active, options.dtype, device, options.rounds)
    title = f"shape {options.shape}: {shape._asdict()}, {options.dtype}, {name}"
    if options.plot:
        plot(report, title, options.plot)
    if options.json:
        settings = {"shape": options.shape, "dtype": options.dtype, "device": name}
        print(json.dumps(settings | {"torch": torch.__version__, "report": report}))
    else:
        print(f"{title}\n{table(report)}")


if __name__ == "__main__":
    main()
