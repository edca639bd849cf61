"""Results for people and programs: tables for a terminal, JSON records, averages, run files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from lsr.eval.comparison import Comparison, compare_results
from lsr.eval.grid import ALPHA, BETTER, WORSE
from lsr.eval.measures import with_relevant_grade
from lsr.eval.results import Result
from lsr.eval.systems import file_name
from lsr.training.run_files import write_whole

# Documents of a query that stay in memory once a run is written.
KEPT = 100
_COSTS = {
    "documents": lambda cost: f"{cost.n_documents:,}",
    "index MB": lambda cost: f"{cost.index_bytes / 1e6:.1f}",
    "encoded documents/s": lambda cost: f"{cost.encode_docs_per_second:,.0f}",
    "query encoding µs": lambda cost: f"{cost.encode_query_us:,.0f}",
    "postings a query": lambda cost: f"{cost.postings:,.0f}",
    "query ms, p50": lambda cost: f"{cost.p50_ms:.1f}",
    "query ms, p95": lambda cost: f"{cost.p95_ms:.1f}",
}


class Average(NamedTuple):
    """Means over several datasets that count alike, whatever their numbers of queries."""

    name: str
    datasets: list[str]
    means: dict[str, dict[str, float]]  # system → measure, as asked for → mean


def differences(results: Sequence[Result]) -> Comparison | None:
    """Return the comparison of systems with the first; None if there is nothing to test."""
    if len(results) < 2 or len(results[0].dataset.queries) < 2:
        return None
    return compare_results(results)


def averages(results: Sequence[Result], measures: Sequence[str]) -> list[Average]:
    """Return means over datasets: over each group (such as CQADupStack's twelve), and over all.

    In the mean over all, a group counts as one dataset. A single dataset has no mean.

    Args:
        results: every system on every dataset.
        measures: as asked for; a dataset's own names may say a grade, see `with_relevant_grade`.
    """
    values: dict[str, dict[str, dict[str, float]]] = {}  # dataset → system → measure → mean
    groups: dict[str, list[str]] = {}
    for result in results:
        label = result.dataset.label
        shown = with_relevant_grade(measures, result.dataset.relevant_grade)
        means = [result.evaluation.means[name] for name in shown]
        values.setdefault(label, {})[result.system] = dict(zip(measures, means, strict=True))
        members = groups.setdefault(result.dataset.group or label, [])
        if label not in members:
            members.append(label)
    found = []
    for group, members in groups.items():
        if len(members) > 1:
            found.append(_average(group, members, values))
            values[group] = found[-1].means
    if len(groups) > 1:
        found.append(_average("mean", list(groups), values))
    return found


def _average(
    name: str, members: list[str], values: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> Average:
    means = {
        system: {
            measure: mean(values[member][system][measure] for member in members)
            for measure in of_system
        }
        for system, of_system in values[members[0]].items()
    }
    return Average(name, members, means)


def table(results: Sequence[Result], found: Comparison | None = None) -> Table:
    """Return a table with a column for each system: quality, with marks of `found`, then cost."""
    dataset = results[0].dataset
    shown = _table(f"{dataset.label}, {len(dataset.queries)} queries", [r.system for r in results])
    marks = {
        (row.system, measure): BETTER if row.paired.difference > 0 else WORSE
        for measure, rows in (found.rows if found else {}).items()
        for row in rows
        if row.p_randomisation_holm < ALPHA
    }
    for measure in results[0].evaluation.means:
        cells = (
            f"{result.evaluation.means[measure]:.4f}{marks.get((result.system, measure), '')}"
            for result in results
        )
        shown.add_row(Text(measure), *cells)
    costs = [result.cost for result in results]
    if any(cost is not None for cost in costs):
        for name in _COSTS:
            shown.add_row(name, *(_COSTS[name](cost) if cost else "–" for cost in costs))
    return shown


def average_table(average: Average) -> Table:
    """Return a table of means with a column for each system."""
    title = f"{average.name} of {len(average.datasets)}"
    shown = _table(title, list(average.means))
    for measure in next(iter(average.means.values())):
        shown.add_row(Text(measure), *(f"{means[measure]:.4f}" for means in average.means.values()))
    return shown


def _table(title: str, systems: Sequence[str]) -> Table:
    shown = Table(box=None, pad_edge=False)
    # As Text, because rich takes brackets for markup. Narrow terminals fold names, never numbers.
    shown.add_column(Text(title), overflow="fold")
    for system in systems:
        shown.add_column(Text(system), overflow="fold", min_width=9)
    return shown


def record(result: Result, found: Comparison | None = None) -> dict[str, Any]:
    """Return a result with its values per query and its tests, as JSON."""
    rows = found.of(result.system) if found else {}
    return {
        "dataset": result.dataset.name,
        "split": result.dataset.split,
        "system": result.system,
        "n_queries": len(result.dataset.queries),
        "means": result.evaluation.means,
        "cost": result.cost._asdict() if result.cost else None,
        "baseline": found.baseline if found and rows else None,
        "tests": {measure: row.record() for measure, row in rows.items()},
        "per_query": result.evaluation.per_query,
    }


def average_record(average: Average, system: str) -> dict[str, Any]:
    """Return a system's means over datasets, as JSON."""
    return {
        "average": average.name,
        "datasets": average.datasets,
        "system": system,
        "means": average.means[system],
    }


def write_run(folder: Path, result: Result) -> Path:
    """Write folder/runs/SYSTEM/DATASET.trec; `--system folder/runs/SYSTEM` reads it.

    A name that no folder can have is changed and gets a digest, so that no two are the same.
    """
    name = re.sub(r"[^\w.=+-]+", "-", result.system).strip("-.")
    if name != result.system:
        name += f"-{hashlib.sha256(result.system.encode()).hexdigest()[:6]}"
    path = folder / "runs" / name / f"{file_name(result.dataset)}.trec"
    path.parent.mkdir(parents=True, exist_ok=True)
    result.run.write_trec(path, "lsr")
    return path


def write_records(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write folder/results.json, a list of what `record` and `average_record` give."""
    write_whole(folder / "results.json", json.dumps(list(records), indent=1))
