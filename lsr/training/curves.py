"""The curves of a run as a picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw each logged quantity by step in a panel; without matplotlib nothing is written."""
    logged = [entry for entry in history if "loss" in entry]
    if not logged or not importlib.util.find_spec("matplotlib"):
        return
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    names = [
        name
        for name, value in logged[-1].items()
        if isinstance(value, float) and name not in ("epoch", "step")
    ]
    figure, grid = plt.subplots(
        (len(names) + 1) // 2,
        2,
        figsize=(10, 2.4 * ((len(names) + 1) // 2)),
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid.flat, names, strict=False):
        points = [(entry["step"], entry[name]) for entry in logged if name in entry]
        axes.plot(*zip(*points, strict=True))
        axes.set(title=name.replace("_", " "), xlabel="optimiser step")
    figure.savefig(path)
    plt.close(figure)
