"""The roofline plot of the head's benchmark: how near each side comes to the machine's limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# A colour for each side, so that all panels agree. Ours is last and stands out.
STYLES = {
    "eager": ("o", "tab:blue"),
    "max first": ("s", "tab:orange"),
    "compiled": ("^", "tab:green"),
    "chunked": ("D", "tab:purple"),
    "sparton": ("v", "tab:brown"),
    "lsr": ("*", "tab:red"),
}


class Panel(NamedTuple):
    """The forward pass for one shape."""

    title: str
    points: dict[str, tuple[float, float]]  # side → FLOP per byte, GFLOP/s
    product: float | None  # GFLOP/s of the bare library product, if it ran


def plot(panels: Sequence[Panel], gb_per_second: float, heading: str, path: str) -> None:
    """Write a picture, PNG or SVG by its name, with a panel for each shape, one below the other.

    The x axis is a side's arithmetic intensity: the products of real tokens, in FLOP, over the
    bytes that it moves by `head_baselines.traffic`. The y axis is its speed over real tokens, so
    that a side pays for padding. The roofs were measured: memory bandwidth times intensity, and the
    bare library product of real tokens. A side may stand above the slanted roof where a cache holds
    what was counted as moved, and above the level one because the bare product writes all logits.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    figure, grid = plt.subplots(
        len(panels), figsize=(9, 0.8 + 4.6 * len(panels)), squeeze=False, layout="constrained"
    )
    figure.suptitle(heading)
    for axes, panel in zip(grid[:, 0], panels, strict=True):
        intensities = [intensity for intensity, _ in panel.points.values()]
        ridge = [panel.product / gb_per_second] if panel.product else []
        left, right = (
            min(intensities + ridge, default=1) / 3,
            max(intensities + ridge, default=1) * 3,
        )
        top = ridge[0] if ridge else right
        roof = {"color": "black", "linewidth": 1.5}
        axes.plot(
            [left, top],
            [gb_per_second * left, gb_per_second * top],
            linestyle=":",
            label=f"memory, {gb_per_second:.3g} GB/s",
            **roof,
        )
        if panel.product:
            axes.plot(
                [top, right],
                [panel.product] * 2,
                linestyle="--",
                label=f"bare product, {panel.product:.3g} GFLOP/s",
                **roof,
            )
        for side, (intensity, gflops) in panel.points.items():
            marker, colour = STYLES.get(side, ("x", "grey"))
            axes.scatter(
                intensity,
                gflops,
                s=220 if marker == "*" else 70,
                marker=marker,
                color=colour,
                zorder=3,
                label=f"{side}, {gflops:.3g} GFLOP/s",
            )
        speeds = [speed for _, speed in panel.points.values()] + [panel.product or 1.0]
        axes.set(
            xscale="log",
            yscale="log",
            xlim=(left, right),
            ylim=(min(speeds) / 2, max(speeds) * 2),
            xlabel="arithmetic intensity, FLOP of real tokens per byte moved",
            ylabel="forward speed, GFLOP/s over real tokens",
            title=panel.title,
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.25)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path)
    plt.close(figure)
