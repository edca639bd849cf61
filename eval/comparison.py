"""Systems beside a baseline on a dataset, with tests of the differences."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from lsr.eval.datasets import Dataset
from lsr.eval.judged import check_index
from lsr.eval.measuring import evaluate_run, names_of_measures, rank_queries
from lsr.eval.results import Result
from lsr.eval.significance import Paired, compare, holm
from lsr.eval.systems import read_run
from lsr.progress import Progress
from lsr.run import Run
from lsr.search import Searcher


class Row(NamedTuple):
    """A system and the baseline by one measure."""

    system: str
    paired: Paired
    # The p values of `paired`, corrected for the number of systems.
    p_ttest_holm: float
    p_randomisation_holm: float

    def record(self) -> dict[str, Any]:
        """Return everything as JSON."""
        pair = self.paired
        return {
            "system": self.system,
            "mean": pair.system,
            "difference": pair.difference,
            "low": pair.low,
            "high": pair.high,
            "p_ttest": pair.p_ttest,
            "p_ttest_holm": self.p_ttest_holm,
            "p_randomisation": pair.p_randomisation,
            "p_randomisation_holm": self.p_randomisation_holm,
            "wins": pair.wins,
            "losses": pair.losses,
            "ties": pair.ties,
        }


@dataclass(frozen=True)
class Comparison:
    """Systems beside a baseline on one dataset."""

    dataset: str
    split: str
    n_queries: int
    baseline: str
    rows: dict[str, list[Row]]  # by measure, a row for each system in the order given

    def record(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "n_queries": self.n_queries,
            "baseline": self.baseline,
            "measures": {
                measure: {
                    "baseline_mean": rows[0].paired.baseline,
                    "systems": [row.record() for row in rows],
                }
                for measure, rows in self.rows.items()
            },
        }

    def of(self, system: str) -> dict[str, Row]:
        """Return the rows of one system by measure; none for the baseline."""
        return {
            measure: row
            for measure, rows in self.rows.items()
            for row in rows
            if row.system == system
        }

    def tables(self) -> list[Table]:
        """Return a table for each measure, for a terminal, with p values corrected by Holm."""
        return [_table(measure, self.baseline, rows) for measure, rows in self.rows.items()]


def compare_systems(
    systems: Sequence[str],
    dataset: Dataset,
    measures: Sequence[str],
    *,
    progress: Progress = lambda step, done, total: None,
) -> Comparison:
    """Compare each system with the first by each measure: see `compare_results`.

    A system is the path of a TREC run file or of an index directory. The DEPTH best
    documents of each query are measured, without the document that has the query's id (BEIR). A
    query that a run lacks counts as 0.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: fewer than 2 systems or queries, an unknown measure, a run file that cannot be
            used or has no query of the dataset.
    """
    if len(systems) < 2:
        raise ValueError(f"a comparison needs at least 2 systems, got {len(systems)}")
    # What is wrong with the arguments is refused before the work, not after it.
    names_of_measures(measures, dataset)
    if missing := [system for system in systems if not Path(system).exists()]:
        raise FileNotFoundError(f"no run file or index directory: {', '.join(missing)}")
    runs = [read_system(system, dataset, progress=progress) for system in systems]
    return compare_results(
        [
            Result(system, dataset, run, evaluate_run(run, dataset, measures), None)
            for system, run in zip(systems, runs, strict=True)
        ]
    )


def compare_results(results: Sequence[Result]) -> Comparison:
    """Compare each system with the first: `significance.compare`, with p corrected by `holm`.

    The correction is over the systems; there is none over the measures.

    Raises:
        ValueError: fewer than 2 results or queries.
    """
    if len(results) < 2:
        raise ValueError(f"a comparison needs at least 2 systems, got {len(results)}")
    first, *others = results
    rows = {}
    for measure, baseline in first.evaluation.per_query.items():
        pairs = [compare(baseline, other.evaluation.per_query[measure]) for other in others]
        ttest = holm([pair.p_ttest for pair in pairs])
        randomisation = holm([pair.p_randomisation for pair in pairs])
        names = [other.system for other in others]
        rows[measure] = [Row(*row) for row in zip(names, pairs, ttest, randomisation, strict=True)]
    dataset = first.dataset
    return Comparison(dataset.name, dataset.split, len(dataset.queries), first.system, rows)


def read_system(
    path: str | os.PathLike[str],
    dataset: Dataset,
    *,
    progress: Progress = lambda step, done, total: None,
) -> Run:
    """Return the run in a TREC run file, or rank a dataset's queries by an index.

    Raises:
        FileNotFoundError: there is no such file, or the directory holds no index.
        ValueError: the run file cannot be used, or has no query of the dataset.
    """
    if Path(path).is_dir():
        check_index(Path(path), dataset)
        with Searcher(Path(path)) as searcher:
            return rank_queries(searcher, dataset, progress=progress)
    return read_run(Path(path), dataset)


def _table(measure: str, baseline: str, rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    # A narrow terminal folds the names, never the numbers.
    table.add_column(measure, overflow="fold")
    for header in (
        "mean",
        "difference",
        "95 % interval",
        "p\n(t test)",
        "p (random-\nisation)",
        "wins/\nlosses/\nties",
    ):
        table.add_column(header, no_wrap=True)
    # As Text, because rich would take brackets in a path for markup.
    table.add_row(Text(baseline), f"{rows[0].paired.baseline:.4f}")
    for row in rows:
        pair = row.paired
        table.add_row(
            Text(row.system),
            f"{pair.system:.4f}",
            f"{pair.difference:+.4f}",
            f"{pair.low:+.4f} {pair.high:+.4f}",
            _shown(row.p_ttest_holm),
            _shown(row.p_randomisation_holm),
            f"{pair.wins}/{pair.losses}/{pair.ties}",
        )
    return table


def _shown(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"
