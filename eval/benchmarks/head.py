"""Time and memory of the SPLADE head beside other ways to compute it.

    python -m lsr.eval.benchmarks.head [--shape NAME... | all] [--texts N] [--dtype NAME]
                                    [--active SHARE...] [--rounds N] [--plot FILE]

All sides compute the same weights from the same states. They take turns, each in a process of its
own, once forward alone and once with the backward pass. They run on a CUDA device if there is one,
else on the CPU (under Linux, because /proc gives the memory).

eager           the definition as users write it, on padded states
max first       the maximum before the activation, as sentence-transformers does it
compiled        torch.compile of max first
chunked         max first over tiles of the vocabulary
sparton         the scheme of Sparton (arXiv 2603.25011), written afresh in sparton.py
lsr             `lsr.kernels.head.splade_head`
matrix product  the bare library product of states and weights: the floor, over real tokens and,
                padded, over all; it is the floor of the backward pass too, which needs no product

The output is a table and, in the last line, a JSON object with the same numbers:

ms          median over the rounds of each round's median
backward    the difference to the forward pass
faster      eager's time over this
extra MiB   peak memory above that of the inputs; with the backward pass, gradients are part of it
of eager's  its extra memory over eager's
of floor    the time of the bare product of real tokens over this
of padded   the time of the bare product of all tokens over this
GFLOP/s     of the products of real tokens

A side that needs too much memory is "out of memory", and null in the JSON object.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import torch

from lsr.eval.benchmarks import head_roofline as roofline
from lsr.eval.benchmarks.head_baselines import FLOORS, SHAPES, SIDES, Shape, traffic
from lsr.eval.benchmarks.head_measurement import (
    Measurement,
    attempt,
    bandwidth,
    device_name,
    in_fresh_process,
    tell,
    unavailable,
)


class Row(NamedTuple):
    """The medians of one side over the rounds; None where the side to compare with did not run."""

    ms: float
    rounds_ms: list[float]
    backward_ms: float | None
    extra_mib: float
    times_faster_than_eager: float | None
    share_of_eager_memory: float | None
    share_of_floor: float | None  # the bare product's time over this
    share_of_padded_floor: float | None
    gflops: float | None  # of the products of real tokens; forward only


class Pass(NamedTuple):
    """The forward pass alone if `active` is None, else both passes at this share of weights."""

    active: float | None
    sides: dict[str, Row | None]  # None: out of memory

    @property
    def title(self) -> str:
        """The title for people."""
        return (
            "forward"
            if self.active is None
            else f"forward and backward, {100 * self.active:g} % active"
        )


def compare(
    shape: Shape, shares: Sequence[float], dtype_name: str, device: str, rounds: int
) -> list[Pass]:
    """Measure the forward pass, then both passes for each share of active weights."""
    passes: list[Pass] = []
    for active in (None, *shares):
        backward = active is not None
        left_out = [*unavailable(device), *(FLOORS if backward else ())]
        found: dict[str, list[Measurement | None]] = {s: [] for s in SIDES if s not in left_out}
        for _ in range(rounds):
            for side, measured in found.items():
                if None not in measured:
                    measured.append(
                        attempt(side, shape, active or shares[0], dtype_name, device, backward)
                    )
        passes.append(Pass(active, _rows(found, shape, passes[0] if passes else None)))
    return passes


def _rows(
    found: dict[str, list[Measurement | None]], shape: Shape, forward: Pass | None
) -> dict[str, Row | None]:
    ms: dict[str, float] = {}
    extra: dict[str, float] = {}
    for side, rounds in found.items():
        measured = [one for one in rounds if one is not None]
        if len(measured) == len(rounds):
            ms[side] = statistics.median(one.milliseconds for one in measured)
            extra[side] = statistics.median(one.extra_mib for one in measured)
    before = {} if forward is None else {s: row.ms for s, row in forward.sides.items() if row}
    floors = before if forward else ms
    return {
        side: Row(
            ms=ms[side],
            rounds_ms=[one.milliseconds for one in rounds if one],
            backward_ms=ms[side] - before[side] if side in before else None,
            extra_mib=extra[side],
            times_faster_than_eager=_ratio(ms.get("eager"), ms[side]),
            share_of_eager_memory=_ratio(extra[side], extra.get("eager")),
            share_of_floor=_ratio(floors.get(FLOORS[0]), ms[side]),
            share_of_padded_floor=_ratio(floors.get(FLOORS[1]), ms[side]),
            gflops=None if forward else 1e-6 * shape.flop / ms[side],
        )
        if side in ms
        else None
        for side, rounds in found.items()
    }


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def table(passes: Sequence[Pass]) -> str:
    """Return the report as a table for people."""
    columns = {  # title → field, digits after the point
        "ms": ("ms", 2),
        "backward": ("backward_ms", 2),
        "faster": ("times_faster_than_eager", 2),
        "extra MiB": ("extra_mib", 1),
        "of eager's": ("share_of_eager_memory", 3),
        "of floor": ("share_of_floor", 2),
        "of padded": ("share_of_padded_floor", 2),
        "GFLOP/s": ("gflops", 1),
    }
    lines = []
    for one in passes:
        lines.append(f"{one.title:36}" + "".join(f"{title:>11}" for title in columns))
        for side, row in one.sides.items():
            values = [getattr(row, field, None) for field, _ in columns.values()]
            cells = [
                f"{'' if value is None else format(value, f'.{digits}f'):>11}"
                for value, (_, digits) in zip(values, columns.values(), strict=True)
            ]
            lines.append(f"  {side:34}" + ("".join(cells) if row else "  out of memory").rstrip())
    return "\n".join(lines)


def panel(name: str, shape: Shape, forward: Pass, dtype_name: str, device: str) -> roofline.Panel:
    """Return the panel of a shape for the plot."""
    size = getattr(torch, dtype_name).itemsize
    speeds = {side: row.gflops for side, row in forward.sides.items() if row and row.gflops}
    points = {
        side: (shape.flop / traffic(side, shape, size, device), gflops)
        for side, gflops in speeds.items()
        if side not in FLOORS
    }
    return roofline.Panel(describe(name, shape), points, speeds.get(FLOORS[0]))


def describe(name: str, shape: Shape) -> str:
    """Describe a shape for people."""
    return (
        f"shape {name}: {shape.texts} texts of {shape.shortest} to {shape.longest} tokens, "
        f"{shape.tokens} in all, D {shape.size}, V {shape.terms}"
    )


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"a share must be above 0 and at most 1, got {text}")
    return share


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return count


def _parser(device: str) -> argparse.ArgumentParser:
    cuda = device == "cuda"
    parser = argparse.ArgumentParser(
        prog="python -m lsr.eval.benchmarks.head",
        description="Time and memory of the SPLADE head beside other ways to compute it.",
    )
    parser.add_argument(
        "--shape", nargs="+", choices=[*SHAPES, "all"], default=["A" if cuda else "cpu"]
    )
    parser.add_argument("--texts", type=_count, help="at most so many texts of a shape")
    parser.add_argument(
        "--active",
        nargs="+",
        type=_share,
        default=[0.01],
        help="shares of weights above 0, for the backward pass",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16" if cuda else "float32"
    )
    parser.add_argument("--rounds", type=_count, default=3, help="of which medians are taken")
    parser.add_argument("--plot", help="write a roofline plot to this file, PNG or SVG")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its report."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = _parser(device)
    options = parser.parse_args(arguments)
    if options.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib: `pip install matplotlib`")
    for side, reason in unavailable(device).items():
        tell(f"{side}: left out: {reason}")
    heading = f"{options.dtype}, {device_name(device)}"
    gb_per_second = in_fresh_process(bandwidth, device)
    print(f"{heading}, memory {gb_per_second:.1f} GB/s")
    shapes, panels = {}, []
    for name in SHAPES if "all" in options.shape else dict.fromkeys(options.shape):
        shape = SHAPES[name]
        shape = shape._replace(texts=min(shape.texts, options.texts or shape.texts))
        passes = compare(shape, options.active, options.dtype, device, options.rounds)
        print(f"\n{describe(name, shape)}\n{table(passes)}", flush=True)
        shapes[name] = shape._asdict() | {
            "tokens": shape.tokens,
            "passes": [
                {
                    "active": one.active,
                    "sides": {side: row and row._asdict() for side, row in one.sides.items()},
                }
                for one in passes
            ],
        }
        panels.append(panel(name, shape, passes[0], options.dtype, device))
    if options.plot:
        roofline.plot(panels, gb_per_second, heading, options.plot)
    settings = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device_name(device),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "dtype": options.dtype,
        "rounds": options.rounds,
        "left_out": unavailable(device),
        "gb_per_second": gb_per_second,
    }
    print(json.dumps(settings | {"shapes": shapes}))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
