"""The report of the feedback grid: comparisons of stages, and a plot like the paper's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from lsr.eval.feedback_grid import DOCUMENTS, SIDES, STAGES, FeedbackGrid
from lsr.eval.significance import Paired, compare, holm
from lsr.request import Side

MARKERS = dict(zip(STAGES, "s^Do", strict=True))


def stage_comparisons(
    grid: FeedbackGrid, measure: str
) -> list[tuple[Side, str, str, Paired, float]]:
    """Return (side, first stage, second stage, difference of the second, p) of every two stages.

    p is of the randomisation test, corrected by Holm over the comparisons of this grid.
    """
    values = {result.system: result.evaluation.per_query[measure] for result in grid.results}
    found = [
        (side, first, second, compare(values[_name(side, first)], values[_name(side, second)]))
        for side in SIDES
        for first, second in combinations(STAGES, 2)
    ]
    corrected = holm([pair.p_randomisation for *_, pair in found])
    return [(*row, p) for row, p in zip(found, corrected, strict=True)]


def write_stages(grids: Mapping[str, FeedbackGrid], measure: str, folder: Path) -> None:
    """Write stages.md, chosen.json and stages.svg.

    Args:
        grids: one for each dataset, all of one encoder.
        measure: the measure that settings were tuned for.
        folder: made if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"# Where to interpolate: {measure}",
        "",
        "Mean of the second stage − mean of the first, on the test queries; * p < 0.05 (paired "
        "randomisation test, Holm over the comparisons of a dataset).",
        "",
        "| dataset | moved side | " + " | ".join(f"{b} − {a}" for a, b in _pairs()) + " |",
        "|---|---|" + "---|" * len(_pairs()),
    ]
    for dataset, grid in grids.items():
        rows = stage_comparisons(grid, measure)
        for side in SIDES:
            cells = [
                f"{pair.difference:+.4f}{'*' if p < 0.05 else ''}"
                for of_side, _, _, pair, p in rows
                if of_side == side
            ]
            lines.append(f"| {dataset} | {side} | " + " | ".join(cells) + " |")
    (folder / "stages.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    chosen = {
        dataset: {name: [json.loads(how) for how in of] for name, of in grid.chosen.items()}
        for dataset, grid in grids.items()
    }
    (folder / "chosen.json").write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")
    plot_stages(grids, measure, folder / "stages.svg")


def plot_stages(grids: Mapping[str, FeedbackGrid], measure: str, path: Path) -> None:
    """Draw the tuning queries' mean against the documents of feedback, a line for each stage.

    Each point is the best of its variants; the dashed line is interpolation without feedback on
    the same queries.

    Raises:
        ImportError: matplotlib is missing.
    """
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "lsr"
    figure = Figure(figsize=(3.2 * len(grids), 5.6), layout="constrained")
    panels = figure.subplots(len(SIDES), len(grids), squeeze=False)
    for column, (dataset, grid) in enumerate(grids.items()):
        for row, side in enumerate(SIDES):
            axes = panels[row][column]
            for stage in STAGES:
                heights = [_best(grid.means, side, stage, k) for k in DOCUMENTS]
                axes.plot(DOCUMENTS, heights, marker=MARKERS[stage], label=stage, markersize=5)
            axes.axhline(grid.interpolated, color="0.4", linestyle="--", linewidth=1)
            axes.set_xticks(DOCUMENTS)
            axes.set_title(f"{dataset}, {side} query moved", fontsize=9)
            axes.set_xlabel("documents of feedback")
            axes.set_ylabel(measure)
    panels[0][0].legend(fontsize=8, frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _name(side: str, stage: str) -> str:
    return f"{side} feedback: {stage}"


def _pairs() -> Sequence[tuple[str, str]]:
    return list(combinations(STAGES, 2))


def _best(means: Mapping[str, float], side: str, stage: str, documents: int) -> float:
    found = []
    for request, mean in means.items():
        asked: dict[str, Any] = json.loads(request)
        feedback = asked["feedback"]
        moved = feedback.get("side", asked["mode"])
        where = feedback.get("interpolate", "none")
        if (moved, where, feedback["documents"]) == (side, stage, documents):
            found.append(mean)
    return max(found)
