"""nDCG@10 of words, learned terms and dense vectors: each alone, each pair, and all three.

    python -m lsr.eval.sides COLLECTION... --out DIR [--json]

A COLLECTION is a BEIR folder. Its index, by the default encoder and the default dense model, is
DIR/NAME; one that is there is used. The systems are the modes of a search with the settings that it
has by default, and the same three sides with the settings that `lsr tune` finds on the dev split,
or, where there is none, by folds of the test queries.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.eval.datasets import Dataset, load_dataset
from lsr.eval.measuring import evaluate_run, rank_queries
from lsr.eval.significance import compare, holm
from lsr.eval.tuning import best_setting, cross_validate, weighings
from lsr.indexes.manifest import NAME
from lsr.search import Searcher

MEASURE = "nDCG@10"
SYSTEMS: dict[str, dict[str, Any]] = {
    "words": {"mode": "words"},
    "learned": {"mode": "learned"},
    "dense": {"mode": "dense"},
    "words + learned": {"mode": "sparse"},
    "words + dense": {"mode": "hybrid", "interpolation": {"sides": ["words", "dense"]}},
    "learned + dense": {"mode": "hybrid", "interpolation": {"sides": ["learned", "dense"]}},
    "all three": {"mode": "hybrid"},
}
TUNED = "all three, tuned"
# Each system is tested against these two.
RIVALS = ("words + dense", "learned + dense")


def measure(folder: Path, index: Path) -> dict[str, dict[str, float]]:
    """Return nDCG@10 by system and query id, on the test split of a collection.

    Args:
        folder: of the collection.
        index: its directory; it is built if it is not there.
    """
    if not (index / NAME).exists():
        build_index(open_corpus(folder), index, dense="default", dtype="float32")
    test = load_dataset(folder)
    has_dev = (folder / "qrels" / "dev.tsv").exists()
    found = {}
    with Searcher(index) as searcher:
        for system, settings in SYSTEMS.items():
            found[system] = _values(searcher, test, settings)
        on = load_dataset(folder, "dev") if has_dev else test
        values, _ = weighings(searcher, on, MEASURE)
        if has_dev:
            best = best_setting(values, list(on.qrels))
            found[TUNED] = _values(searcher, test, {"mode": "hybrid", **best.model_dump()})
        else:
            chosen = cross_validate(values, list(test.qrels))
            found[TUNED] = {query_id: values[chosen[query_id]][query_id] for query_id in chosen}
    return found


def _values(searcher: Searcher, dataset: Dataset, settings: Mapping[str, Any]) -> dict[str, float]:
    run = rank_queries(searcher, dataset, settings=settings)
    (values,) = evaluate_run(run, dataset, [MEASURE]).per_query.values()
    return values


def table(values: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Return a record for each collection and system: its mean, and how it differs from RIVALS.

    Args:
        values: collection → system → query id → nDCG@10.

    Returns:
        Differences of means, and p values of the randomisation test, corrected by Holm over the
        systems.
    """
    records = []
    for collection, systems in values.items():
        tests: dict[str, dict[str, Any]] = {name: {} for name in systems}
        for rival in RIVALS:
            others = [name for name in systems if name != rival]
            pairs = [compare(systems[rival], systems[name]) for name in others]
            corrected = holm([pair.p_randomisation for pair in pairs])
            for name, pair, p in zip(others, pairs, corrected, strict=True):
                tests[name] |= {f"over {rival}": pair.difference, f"p {rival}": p}
        records += [
            {"collection": collection, "system": name, MEASURE: mean(of.values()), **tests[name]}
            for name, of in systems.items()
        ]
    return records


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """Return a table: † differs from words + dense, ‡ from learned + dense (p < 0.05, Holm)."""
    collections = list(dict.fromkeys(record["collection"] for record in records))
    lines = [f"| | {' | '.join([*collections, 'mean'])} |", "|---" * (len(collections) + 2) + "|"]
    for system in dict.fromkeys(record["system"] for record in records):
        rows = [record for record in records if record["system"] == system]
        cells = [
            f"{row[MEASURE]:.3f}"
            + "".join(
                mark
                for rival, mark in zip(RIVALS, "†‡", strict=True)
                if row.get(f"p {rival}", 1) < 0.05
            )
            for row in rows
        ]
        cells.append(f"{mean(row[MEASURE] for row in rows):.3f}")
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m lsr.eval.sides")
    parser.add_argument("collections", type=Path, nargs="+", metavar="COLLECTION")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    values = {}
    for folder in options.collections:
        values[folder.name] = measure(folder, options.out / folder.name)
        means = {name: mean(of.values()) for name, of in values[folder.name].items()}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        print(f"{folder.name}: {shown}", file=sys.stderr)
    records = table(values)
    if options.json:
        print(json.dumps(records))
        return
    print(markdown(records))
    print("\n† differs from words + dense, ‡ from learned + dense (p < 0.05, randomisation, Holm)")


if __name__ == "__main__":
    main(sys.argv[1:])
