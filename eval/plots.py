"""Plots of a report as SVG for a page: they take its colours and font, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from lsr.eval.grid import Grid

# Systems are told apart by marker first; the colours are the page's --s0 … --s7.
MARKERS = "osD^vPX<>"
N_COLOURS = 8
WIDTH = 7.5  # inches
PANELS = 2  # side by side
_TEXT, _MUTED, _LINE, _WIN, _LOSS, _GROUND = (f"#0a0b0{number}" for number in range(1, 7))
# What matplotlib writes → what the page understands.
_COLOURS = {
    _TEXT: "currentColor",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    _WIN: "var(--win)",
    _LOSS: "var(--loss)",
    _GROUND: "var(--ground)",
    **{f"#0c0d0{number}": f"var(--s{number})" for number in range(N_COLOURS)},
}
_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are not formulas
    "text.color": _TEXT,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": _MUTED,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.color": _LINE,
    "ytick.labelcolor": _MUTED,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 1.0,
    "font.size": 9,
    "legend.frameon": False,
}


def effects(grid: Grid, measure: int, name: str) -> str:
    """Draw each system's difference from the baseline with its 95 % interval, by dataset.

    A filled marker is a significant difference. `name` begins every id of the SVG.
    """

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        labels: list[str] = []
        headings: list[int] = []
        for place, dataset in enumerate(grid.labels):
            headings.append(len(labels))
            labels.append(_short(dataset))
            for system in range(1, len(grid.systems)):
                found = grid.differences.get((measure, place, system))
                if found:
                    pair, y = found.paired, len(labels)
                    axes.plot([pair.low, pair.high], [y, y], color=_colour(system), linewidth=1.6)
                    style = _marker(system, filled=bool(found.mark))
                    axes.plot(pair.difference, y, markersize=7, **style)
                    text = f"{pair.difference:+.4f}{found.mark}".replace("-", "\N{MINUS SIGN}")
                    _beside(axes, y, text)
                    labels.append(_short(grid.systems[system]))
        axes.axvline(0, color=_MUTED, linewidth=1)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.8)
        axes.tick_params(axis="y", length=0, labelcolor=_TEXT)
        for number in headings:
            axes.get_yticklabels()[number].set_fontweight("bold")
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel(f"difference in {grid.measures[measure]} from {_short(grid.systems[0])}")

    n_rows = len(grid.datasets) * len(grid.systems)
    return _svg(draw, 0.9 + 0.25 * n_rows, name)


def frontier(grid: Grid, name: str) -> str:
    """Draw quality by the first measure against p50 latency, a panel for each dataset.

    A filled marker on the dashed line is a system that no other beats in both.
    """

    def draw(figure: Any) -> None:
        for place, axes in enumerate(_panels(figure, len(grid.datasets))):
            _frontier_panel(axes, grid, place)
            axes.set_title(_short(grid.labels[place]))
            if place % PANELS == 0:
                axes.set_ylabel(grid.measures[0])
            axes.set_xlabel("ms per query, p50")
        timed = [
            system
            for system in range(len(grid.systems))
            if any(row[system].cost for row in grid.rows)
        ]
        _legend(figure, grid, timed)

    n_rows = -(-len(grid.datasets) // PANELS)
    return _svg(draw, 0.5 + 0.22 * len(grid.systems) / 2 + 2.6 * n_rows, name)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of points (cost, quality) that no other beats in both, by rising cost.

    Of equal points all are kept.

    >>> pareto([(2.0, 0.5), (1.0, 0.4), (3.0, 0.45)])
    [1, 0]
    """
    kept = [
        place
        for place, (cost, value) in enumerate(points)
        if not any(
            other != (cost, value) and other[0] <= cost and other[1] >= value for other in points
        )
    ]
    return sorted(kept, key=lambda place: points[place])


def wins(grid: Grid, place: int, measure: int, name: str) -> str:
    """Draw each query's difference from the baseline, sorted, a panel for each system."""
    baseline = grid.values(measure, place, 0)
    sorted_differences = []
    for system in range(1, len(grid.systems)):
        values = grid.values(measure, place, system)
        sorted_differences.append(
            sorted((values[query] - baseline[query] for query in baseline), reverse=True)
        )
    limit = 1.08 * max(max(map(abs, each), default=0.0) for each in sorted_differences) or 1.0

    def draw(figure: Any) -> None:
        panels = _panels(figure, len(sorted_differences))
        for number, (axes, values) in enumerate(zip(panels, sorted_differences, strict=True)):
            edges = range(len(values) + 1)
            ups = [max(value, 0.0) for value in values]
            downs = [min(value, 0.0) for value in values]
            axes.fill_between(edges, [*ups, ups[-1]], step="post", facecolor=_WIN, edgecolor="none")
            axes.fill_between(
                edges,
                [*downs, downs[-1]],
                step="post",
                facecolor="none",
                edgecolor=_LOSS,
                hatch="/////",
                linewidth=0.8,
            )
            axes.axhline(0, color=_MUTED, linewidth=0.8)
            axes.set_xlim(0, len(values))
            axes.set_ylim(-limit, limit)
            axes.set_title(_short(grid.systems[number + 1]))
            won, lost = sum(value > 0 for value in values), sum(value < 0 for value in values)
            axes.text(0.02, 0.94, f"{won} won", transform=axes.transAxes, va="top", color=_WIN)
            axes.text(
                *(0.98, 0.06, f"{lost} lost"), transform=axes.transAxes, ha="right", color=_LOSS
            )
            axes.set_xlabel(f"{len(values):,} queries, sorted")
            if number % PANELS == 0:
                axes.set_ylabel(f"difference in {grid.measures[measure]}")

    return _svg(draw, 2.4 * -(-len(sorted_differences) // PANELS), name)


def _frontier_panel(axes: Any, grid: Grid, place: int) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    row = grid.rows[place]
    timed = [
        (system, max(result.cost.p50_ms, 1e-3)) for system, result in enumerate(row) if result.cost
    ]
    points = [(p50, grid.mean(0, place, system)) for system, p50 in timed]
    best = pareto(points)
    axes.plot(
        [points[number][0] for number in best],
        [points[number][1] for number in best],
        color=_MUTED,
        linestyle="--",
        drawstyle="steps-post",
        linewidth=1,
    )
    for number, ((system, _), point) in enumerate(zip(timed, points, strict=True)):
        axes.plot(*point, markersize=8, **_marker(system, filled=number in best))
    axes.set_xscale("log")
    if points:
        # At least a decade, so that small differences look small.
        low, high = min(point[0] for point in points), max(point[0] for point in points)
        room = max(1.5, (10 * low / high) ** 0.5)
        axes.set_xlim(low / room, high * room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.2)
    axes.grid()
    axes.set_axisbelow(True)


def _svg(draw: Callable[[Any], None], height: float, name: str) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser has the fonts that matplotlib lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        written = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    return _for_page(written.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """The <svg> element alone, with ids of its own and the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    # The size is the page's matter; its proportions are in viewBox.
    svg = re.sub(r'^<svg ([^>]*?)\bheight="[^"]*" ', r"<svg \1", svg)
    svg = re.sub(r'^<svg ([^>]*?)\bwidth="[^"]*" ', r"<svg \1", svg)
    svg = svg.replace("<svg ", '<svg aria-hidden="true" ', 1)
    return re.sub("#0[ac]0[bd]0[0-9]", lambda found: _COLOURS[found[0]], svg)


def _panels(figure: Any, count: int) -> list[Any]:
    n_rows = -(-count // PANELS)
    grid = figure.subplots(n_rows, min(count, PANELS), squeeze=False)
    flat = [axes for row in grid for axes in row]
    for axes in islice(flat, count, None):
        axes.set_visible(False)
    return flat[:count]


def _legend(figure: Any, grid: Grid, systems: Sequence[int]) -> None:
    from matplotlib.lines import Line2D

    figure.legend(
        [Line2D([], [], markersize=7, **_marker(system, filled=True)) for system in systems],
        [_short(grid.systems[system]) for system in systems],
        loc="outside lower center",
        ncols=min(3, len(systems)),
    )


def _marker(system: int, *, filled: bool) -> dict[str, Any]:
    colour = _colour(system)
    return {
        "marker": MARKERS[system % len(MARKERS)],
        "linestyle": "none",
        "markeredgecolor": colour,
        "markerfacecolor": colour if filled else _GROUND,
        "markeredgewidth": 1.5,
    }


def _colour(system: int) -> str:
    return f"#0c0d0{system % N_COLOURS}"


def _beside(axes: Any, y: int, text: str) -> None:
    place = axes.get_yaxis_transform()
    axes.text(1.02, y, text, transform=place, va="center", color=_MUTED)


def _short(name: str) -> str:
    """`name` on one line of at most 40 characters; matplotlib hides what begins with "_"."""
    name = " ".join(name.split())
    name = name if len(name) <= 40 else f"{name[:39]}…"
    return f"\u200b{name}" if name.startswith("_") else name
