"""What an evaluation found, to be read: a page, Markdown and LaTeX."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lsr.eval import tables
from lsr.eval.drilldown import Documents, Explain
from lsr.eval.grid import Grid, arrange
from lsr.eval.page import render
from lsr.eval.results import Result


def publish(
    results: Sequence[Result],
    folder: str | os.PathLike[str],
    *,
    documents: Documents | None = None,
    explain: Explain | None = None,
) -> Path:
    """Write a report of `results` and return the path of its page.

    The first system is the baseline. Below `folder`, which is made, are written:

    - report.html: tables, plots, and single queries to look into; one file, which loads nothing;
    - report.md, report.tex: the tables of quality, the latter for the booktabs package.

    The same results give the same bytes.

    Args:
        results: every system on every dataset, by the same measures.
        folder: where to; what has these names there is replaced.
        documents: dataset name, ids → the documents there by id, for titles and texts.
        explain: system, dataset name, query id, document id → what each term added to the score;
            nothing where a system has no reasons. Asked for the first EXPLAINED documents only.

    Raises:
        ImportError: jinja2 or matplotlib is missing.
        ValueError: the results are no grid (see `arrange`).
    """
    folder = Path(folder)
    grid = arrange(results)
    page = render(grid, documents=documents, explain=explain)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
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
