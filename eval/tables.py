"""The tables of a report, made once and written as Markdown, LaTeX and (by the page) HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from lsr.eval.grid import ALPHA, BETTER, WORSE, Difference, Grid
from lsr.eval.results import Result

MISSING = "–"


class Cell(NamedTuple):
    """One cell; numbers have a value to sort by."""

    text: str
    value: float | None = None
    best: bool = False
    mark: str = ""


class Table(NamedTuple):
    """Rows below headings; the first `names` columns are text, the others numbers."""

    caption: str
    headings: list[str]
    names: int
    rows: list[list[Cell]]


def quality(grid: Grid) -> list[Table]:
    """Return the means of each system: a table a measure, or one table if there is one dataset."""
    measures, places = range(len(grid.measures)), range(len(grid.datasets))
    if len(places) == 1:
        count = len(grid.datasets[0].queries)
        caption = f"{grid.labels[0]}, {count:,} {'query' if count == 1 else 'queries'}"
        columns = [_column(grid, measure, 0) for measure in measures]
        return [_table(caption, grid, grid.measures, columns)]
    tables = []
    for measure in measures:
        means = [grid.overall(measure, system) for system in range(len(grid.systems))]
        columns = [_column(grid, measure, place) for place in places]
        columns.append(_best([_number(mean) for mean in means]))
        tables.append(_table(grid.measures[measure], grid, [*grid.labels, "mean"], columns))
    return tables


def differences(grid: Grid, measure: int) -> Table | None:
    """Return each system's difference to the baseline; None if there is only the baseline."""
    rows = []
    for place, label in enumerate(grid.labels):
        for system, name in enumerate(grid.systems):
            if found := grid.differences.get((measure, place, system)):
                rows.append([Cell(label), Cell(name), *_difference(found)])
    if not rows:
        return None
    headings = ["dataset", "system", "mean", "difference", "95 % interval", "p", "wins", "losses"]
    caption = f"{grid.measures[measure]}: difference from {grid.systems[0]}"
    return _without_dataset(Table(caption, [*headings, "ties"], 2, rows), grid)


def costs(grid: Grid) -> Table | None:
    """Return quality by the first measure beside cost; None if no result has a cost."""
    if all(result.cost is None for row in grid.rows for result in row):
        return None
    measure = grid.measures[0]
    headings = [
        *("dataset", "system", measure, "index MB", "postings per query", "query encoding µs"),
        *("p50 ms", "p95 ms", "documents/s"),
    ]
    rows = []
    for place, label in enumerate(grid.labels):
        values = _column(grid, 0, place)
        for result, value in zip(grid.rows[place], values, strict=True):
            rows.append([Cell(label), Cell(result.system), value, *_cost(result)])
    return _without_dataset(Table(f"{measure} and what it costs", headings, 2, rows), grid)


def legend(grid: Grid) -> list[str]:
    """Return sentences that say what bold type and marks mean."""
    if len(grid.systems) == 1:
        return []
    others = len(grid.systems) - 1
    corrected = f", corrected by Holm's method over the {others} systems" if others > 1 else ""
    several = ["The mean over datasets is not tested."] if len(grid.datasets) > 1 else []
    for place, names in enumerate(grid.names):
        graded = [name for name in names if name not in grid.measures]
        if graded:
            several.append(f"On {grid.labels[place]}: {', '.join(graded)}.")
    if groups := list(dict.fromkeys(d.group for d in grid.datasets if d.group)):
        several.append(f"In the mean {', '.join(groups)} counts as one dataset.")
    return [
        f"The baseline is {grid.systems[0]}.",
        "Bold: the best of a column.",
        f"{BETTER} significantly better, {WORSE} significantly worse than the baseline: p < {ALPHA}"
        f" by a paired two-sided randomisation test{corrected}.",
        "There is no correction over datasets and measures.",
        *several,
    ]


def markdown(table: Table) -> str:
    """Return a table in GitHub's Markdown below its caption."""
    lines = [
        f"**{markdown_text(table.caption)}**",
        "",
        _pipes([markdown_text(heading) for heading in table.headings]),
        _pipes(["---"] * table.names + ["---:"] * (len(table.headings) - table.names)),
    ]
    for row in table.rows:
        lines.append(
            _pipes(
                [f"**{c.text}**{c.mark}" if c.best else markdown_text(c.text) + c.mark for c in row]
            )
        )
    return "\n".join(lines) + "\n"


def markdown_text(text: str) -> str:
    """Return `text` on one line, with everything escaped that Markdown or HTML would interpret."""
    text = " ".join(text.split())
    # Table cells end at any bar, also an escaped one in some readers.
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = text.replace("|", "&#124;")
    return re.sub(r"([\\`*_\[\]~$])", r"\\\1", text)


def latex(table: Table, label: str, notes: Sequence[str]) -> str:
    """Return a LaTeX table for the booktabs package, with notes below it."""
    head = [latex_text(heading) for heading in table.headings]
    columns = "l" * table.names + "r" * (len(table.headings) - table.names)
    note = latex_text(" ".join(notes))
    for mark, command in _LATEX_MARKS.items():
        note = note.replace(mark, command) if mark else note
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex_text(table.caption)}}}",
        rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {' & '.join(head)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(map(_latex_cell, row))} \\\\" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        *([rf"  \par\smallskip\footnotesize {note}"] if note else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """Return `text` on one line, with every character escaped that LaTeX would interpret."""
    # A bracket or star after the end of a row would be an argument of it, two dashes one longer.
    return re.sub(r"[\\&%$#_{}~^<>\[\]*`'|-]", _latex_escape, " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{character: f"{{{character}}}" for character in "[]*"},
    # Plain, but never two in a row.
    **{character: f"{character}{{}}" for character in "'-"},
}
_LATEX_MARKS = {"": "", BETTER: r"$^{\dagger}$", WORSE: r"$^{\ddagger}$"}


def _latex_escape(found: re.Match[str]) -> str:
    character = found[0]
    if character in "'-" and found.string[found.end() : found.end() + 1] != character:
        return character
    return _LATEX[character]


def _latex_cell(cell: Cell) -> str:
    if cell.value is None:
        return latex_text(cell.text).replace(MISSING, "--")
    text = re.sub(r"[-+]", r"$\g<0>$", cell.text).replace("<", "$<$")
    return (rf"\textbf{{{text}}}" if cell.best else text) + _LATEX_MARKS[cell.mark]


def _column(grid: Grid, measure: int, place: int) -> list[Cell]:
    return _best(
        [
            _number(grid.mean(measure, place, system), grid.mark(measure, place, system))
            for system in range(len(grid.systems))
        ]
    )


def _best(cells: Sequence[Cell]) -> list[Cell]:
    """Mark the best cells: all that are shown as the highest number."""
    highest = f"{max(cell.value or 0.0 for cell in cells):.4f}"
    return [cell._replace(best=len(cells) > 1 and cell.text == highest) for cell in cells]


def _table(
    caption: str, grid: Grid, headings: Sequence[str], columns: Sequence[list[Cell]]
) -> Table:
    rows = [[Cell(name), *cells] for name, *cells in zip(grid.systems, *columns, strict=True)]
    return Table(caption, ["system", *headings], 1, rows)


def _without_dataset(table: Table, grid: Grid) -> Table:
    """Return the table without its first column if that is the same in every row."""
    if len(grid.datasets) > 1:
        return table
    caption = f"{table.caption}, {grid.labels[0]}"
    return Table(caption, table.headings[1:], table.names - 1, [row[1:] for row in table.rows])


def _number(value: float, mark: str = "") -> Cell:
    return Cell(f"{value:.4f}", value, mark=mark)


def _difference(found: Difference) -> list[Cell]:
    pair = found.paired
    return [
        _number(pair.system),
        Cell(f"{pair.difference:+.4f}", pair.difference, mark=found.mark),
        Cell(f"{pair.low:+.4f} to {pair.high:+.4f}", pair.low),
        Cell(f"{found.p:.4f}" if found.p >= 0.0001 else "<0.0001", found.p),
        *(Cell(str(count), count) for count in (pair.wins, pair.losses, pair.ties)),
    ]


def _cost(result: Result) -> list[Cell]:
    cost = result.cost
    if cost is None:
        return [Cell(MISSING)] * 6
    return [
        Cell(f"{cost.index_bytes / 1e6:,.1f}", cost.index_bytes / 1e6),
        Cell(f"{cost.postings:,.0f}", cost.postings),
        Cell(f"{cost.encode_query_us:,.0f}", cost.encode_query_us),
        Cell(f"{cost.p50_ms:,.2f}", cost.p50_ms),
        Cell(f"{cost.p95_ms:,.2f}", cost.p95_ms),
        Cell(f"{cost.encode_docs_per_second:,.0f}", cost.encode_docs_per_second),
    ]


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
