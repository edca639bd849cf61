"""Results of systems on datasets as a grid, and how each system differs from the first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lsr.eval.comparison import compare_results
from lsr.eval.datasets import Dataset
from lsr.eval.results import Result
from lsr.eval.significance import Paired

ALPHA = 0.05
BETTER, WORSE = "†", "‡"


class Difference(NamedTuple):
    """The difference of a system to the baseline on one dataset by one measure."""

    paired: Paired
    p: float  # of the randomisation test, corrected by Holm over the systems

    @property
    def mark(self) -> str:
        """BETTER or WORSE if the difference is significant, else an empty string."""
        if self.p >= ALPHA:
            return ""
        return BETTER if self.paired.difference > 0 else WORSE


@dataclass(frozen=True)
class Grid:
    """One result for every system on every dataset; the first system is the baseline.

    Methods take the positions of a measure, a dataset and a system in these lists.
    """

    systems: list[str]
    datasets: list[Dataset]
    labels: list[str]  # names of the datasets as shown, all different
    measures: list[str]  # as shown: without the grade if datasets have different ones
    names: list[list[str]]  # the measures' own names on each dataset
    rows: list[list[Result]]  # by dataset, then by system
    # Keyed by measure, dataset and other system. A dataset with one query has no differences.
    differences: dict[tuple[int, int, int], Difference]

    def mean(self, measure: int, place: int, system: int) -> float:
        """The mean over the queries of the dataset at `place`."""
        return self.rows[place][system].evaluation.means[self.names[place][measure]]

    def values(self, measure: int, place: int, system: int) -> Mapping[str, float]:
        """Return the values at `place` by query id."""
        return self.rows[place][system].evaluation.per_query[self.names[place][measure]]

    def mark(self, measure: int, place: int, system: int) -> str:
        """Return the mark of the difference at `place`; empty for the baseline."""
        found = self.differences.get((measure, place, system))
        return found.mark if found else ""

    def overall(self, measure: int, system: int) -> float:
        """Return the mean over datasets; those of one group (CQADupStack) are averaged first."""
        groups: dict[str, list[float]] = {}
        for place, dataset in enumerate(self.datasets):
            key = f"group {dataset.group}" if dataset.group else f"dataset {place}"
            groups.setdefault(key, []).append(self.mean(measure, place, system))
        means = [sum(values) / len(values) for values in groups.values()]
        return sum(means) / len(means)


def arrange(results: Sequence[Result]) -> Grid:
    """Arrange `results` as a grid; systems and datasets keep the order of their first appearance.

    Raises:
        ValueError: there are no results, a system has none or two on a dataset, or the results are
            of different measures or queries.
    """
    if not results:
        raise ValueError("`results` must hold at least one result, got none")
    systems = list(dict.fromkeys(result.system for result in results))
    datasets = {(result.dataset.name, result.dataset.split): result.dataset for result in results}
    found: dict[tuple[str, str, str], Result] = {}
    for result in results:
        key = (result.dataset.name, result.dataset.split, result.system)
        if key in found:
            raise ValueError(f"{key[2]}: two results on {key[0]}, split {key[1]!r}")
        found[key] = result
    for name, split in datasets:
        for system in systems:
            if (name, split, system) not in found:
                raise ValueError(f"{system}: no result on {name}, split {split!r}")
    rows = [[found[name, split, system] for system in systems] for name, split in datasets]
    names = [_names(row) for row in rows]
    return Grid(
        systems=systems,
        datasets=list(datasets.values()),
        labels=_labels(list(datasets.values())),
        measures=_shown(names),
        names=names,
        rows=rows,
        differences=_differences(rows, names),
    )


def _names(row: Sequence[Result]) -> list[str]:
    """Return the measures of one dataset."""
    names = list(row[0].evaluation.means)
    for result in row:
        if list(result.evaluation.means) != names:
            raise ValueError(
                f"{result.system} on {result.dataset.name}: measured by "
                f"{', '.join(result.evaluation.means)}, {row[0].system} by {', '.join(names)}"
            )
    return names


def _shown(names: Sequence[Sequence[str]]) -> list[str]:
    """Return a name for each measure, whose least relevant grade may differ between datasets."""
    if all(list(each) == list(names[0]) for each in names):
        return list(names[0])
    bare = [[re.sub(r"\(rel=\d+\)|rel=\d+,|,rel=\d+", "", name) for name in each] for each in names]
    for each in bare:
        if each != bare[0]:
            raise ValueError(
                f"datasets measured by {', '.join(bare[0])} and by {', '.join(each)}: they must "
                "be the same but for rel"
            )
    return bare[0]


def _differences(
    rows: Sequence[Sequence[Result]], names: Sequence[Sequence[str]]
) -> dict[tuple[int, int, int], Difference]:
    found = {}
    for place, row in enumerate(rows):
        if len(row) < 2 or len(row[0].dataset.queries) < 2:
            continue
        compared = compare_results(row)
        for measure, name in enumerate(names[place]):
            for system, other in enumerate(compared.rows[name], 1):
                found[measure, place, system] = Difference(other.paired, other.p_randomisation_holm)
    return found


def _labels(datasets: Sequence[Dataset]) -> list[str]:
    """Return labels of datasets, with the split or the whole name where labels would be equal."""
    labels = [dataset.label for dataset in datasets]
    if len(set(labels)) < len(labels):
        labels = [f"{dataset.label} ({dataset.split})" for dataset in datasets]
    if len(set(labels)) < len(labels):
        labels = [f"{dataset.name} ({dataset.split})" for dataset in datasets]
    return labels
