"""A folder that tells what an evaluation found: a page, Markdown, LaTeX, JSON and run files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lsr.eval import tables
from lsr.eval.drilldown import Documents, Explain
from lsr.eval.grid import Grid, arrange
from lsr.eval.page import render
from lsr.eval.results import Result


def publish(
    results: Sequence[Result],
    folder: Path,
    *,
    documents: Documents | None = None,
    explain: Explain | None = None,
) -> Path:
    """Write a report of `results` and return the path of its page.

    The first system is the baseline. Below `folder`, which is made, are written:

    - report.html: tables, plots, and single queries to look into; one file, which loads nothing;
    - report.md, report.tex: the tables of quality, the latter for the booktabs package;
    - results.json: everything but the documents, with the values of every query;
    - runs/SYSTEM.DATASET.trec: the run files.

    The same results give the same bytes.

    Args:
        results: every system on every dataset, by the same measures.
        folder: where to; what has these names there is replaced.
        documents: dataset name, ids → the documents there by id, for titles and texts.
        explain: system, dataset name, query id, document id → what each term added to the score;
            nothing where a system has no reasons. Asked for the first EXPLAINED documents only.

    Raises:
        ImportError: jinja2 or matplotlib is missing.
        ValueError: the results are no grid (see `arrange`), or an id cannot be in a run file.
    """
    grid = arrange(results)
    page = render(grid, documents=documents, explain=explain)
    runs = _run_names(grid)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for place, row in enumerate(grid.rows):
        for system, result in enumerate(row):
            name = runs[place][system]
            result.run.write_trec(folder / "runs" / name, tag=_word(result.system))
    for name, text in (
        ("results.json", json.dumps(_record(grid, runs), ensure_ascii=False, indent=1) + "\n"),
        ("report.md", _markdown(grid)),
        ("report.tex", _latex(grid)),
        ("report.html", page),
    ):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return folder / "report.html"


def _markdown(grid: Grid) -> str:
    parts = [f"# Evaluation: {tables.markdown_text(' · '.join(grid.systems))}\n"]
    parts += [tables.markdown(table) for table in tables.quality(grid)]
    if notes := tables.legend(grid):
        parts.append(tables.markdown_text(" ".join(notes)) + "\n")
    return "\n".join(parts)


def _latex(grid: Grid) -> str:
    notes = tables.legend(grid)
    parts = ["% For \\usepackage{booktabs}; names beyond Latin letters need LuaLaTeX or XeLaTeX.\n"]
    for number, table in enumerate(tables.quality(grid), 1):
        parts.append(tables.latex(table, f"tab:quality-{number}", notes))
    return "\n".join(parts)


def _record(grid: Grid, runs: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {
        "baseline": grid.systems[0],
        "systems": grid.systems,
        "datasets": [
            {
                "name": dataset.name,
                "label": label,
                "split": dataset.split,
                "n_queries": len(dataset.queries),
                "measures": names,
            }
            for dataset, label, names in zip(grid.datasets, grid.labels, grid.names, strict=True)
        ],
        "results": [
            _result(grid, place, system, f"runs/{runs[place][system]}")
            for place in range(len(grid.datasets))
            for system in range(len(grid.systems))
        ],
    }


def _result(grid: Grid, place: int, system: int, run: str) -> dict[str, Any]:
    result = grid.rows[place][system]
    differences = {}
    for measure, name in enumerate(grid.names[place]):
        if found := grid.differences.get((measure, place, system)):
            differences[name] = {**found.paired._asdict(), "p_randomisation_holm": found.p}
    return {
        "system": result.system,
        "dataset": grid.labels[place],
        "run": run,
        "means": result.evaluation.means,
        "cost": result.cost._asdict() if result.cost else None,
        "differences": differences,
        "per_query": result.evaluation.per_query,
    }


def _run_names(grid: Grid) -> list[list[str]]:
    """A file name for each result, all different also where case does not count."""
    taken: set[str] = set()
    names: list[list[str]] = []
    for label in grid.labels:
        names.append([])
        for system in grid.systems:
            stem = name = f"{_word(system)}.{_word(label)}"
            number = 1
            while name.casefold() in taken:
                number += 1
                name = f"{stem}-{number}"
            taken.add(name.casefold())
            names[-1].append(f"{name}.trec")
    return names


def _word(name: str) -> str:
    """`name` as a part of a file name: letters, digits and a few marks."""
    return re.sub(r"[^\w.+@=-]+", "-", name).strip("-.")[:80] or "unnamed"
