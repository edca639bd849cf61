"""`lsr grid`: interpolation before feedback, after it, or both, after Li et al. (SIGIR 2022).

The paper (arXiv:2205.00235) asks where a sparse and a dense ranking should be interpolated when the
dense query is moved by feedback. Here either query may be moved:

    none     the moved side alone, by feedback from its own first results
    before   the moved side alone, by feedback from the interpolated first results
    after    by feedback from its own first results, then interpolated with the other side
    both     by feedback from the interpolated first results, then interpolated

Each stage is run with every variant of feedback (method × documents × β). Interpolation is tuned
first, without feedback (`lsr.eval.tuning`); then each stage's variant is chosen. Both are chosen on
the dev split. A dataset without one is cut into folds, and a fold's queries use what is best on the
others. Measured values are kept in a file, so that an interrupted grid goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from lsr.documents import Query
from lsr.eval.datasets import Dataset
from lsr.eval.judged import check_index
from lsr.eval.measures import parse_measures
from lsr.eval.measuring import evaluate_run, names_of_measures
from lsr.eval.results import Result
from lsr.eval.tuning import best_setting, folds, interpolations
from lsr.progress import Progress
from lsr.request import Interpolation, Side, ask
from lsr.run import Ranking, Run
from lsr.search import Searcher
from lsr.search.passes import Batch

SIDES: tuple[Side, ...] = ("dense", "sparse")
STAGES = ("none", "before", "after", "both")
DOCUMENTS = (1, 3, 5, 10)
# The query has α = 1 − β, because only their ratio changes the order of documents.
BETAS = (0.2, 0.4, 0.6, 0.8)
# The number of terms of a moved sparse query.
TERMS = 64
# The paper's interpolation: min-max, and these weights of the sparse side.
NORMALISATIONS = ("min-max",)
ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))
# At most so many dev queries are used; a fixed seed draws them.
DEV_QUERIES = 300
# Queries that are searched together.
BATCH = 256
DEPTH = 1000
BASELINE = "interpolated"
MEASURES = ("nDCG@10", "AP", "RR@10", "R@100", "R@1000")


def variants(side: Side) -> list[dict[str, Any]]:
    """Return the settings of feedback that are compared on a side, for every stage alike."""
    found: list[dict[str, Any]] = [
        {"method": "rocchio", "documents": documents, "alpha": round(1 - beta, 2), "beta": beta}
        for documents in DOCUMENTS
        for beta in BETAS
    ]
    found += [{"method": "average", "documents": documents} for documents in DOCUMENTS]
    if side == "sparse":
        found += [
            {"method": "relevance-model", "documents": documents, "alpha": 0.5, "beta": 0.5}
            for documents in DOCUMENTS
        ]
        found = [variant | {"terms": TERMS} for variant in found]
    return found


@dataclass(frozen=True)
class FeedbackGrid:
    """The findings of the grid on one dataset with one index."""

    # Values on the test queries: BASELINE first, each side alone, and "SIDE feedback: STAGE".
    results: list[Result]
    # The requests (JSON) that were chosen for each system: one, or what each fold chose.
    chosen: dict[str, list[str]]
    # Of every request: the mean of the first measure over the tuning queries.
    means: dict[str, float]
    interpolated: float  # the same without feedback, for the best interpolation


def feedback_grid(
    index: str | os.PathLike[str],
    test: Dataset,
    dev: Dataset | None,
    out: str | os.PathLike[str],
    *,
    measures: Sequence[str] = MEASURES,
    progress: Progress = lambda step, done, total: None,
) -> FeedbackGrid:
    """Measure every side × stage × variant on one index, tuned on `dev` or by folds of `test`.

    Args:
        index: with a dense side.
        test: what the rows are measured on.
        dev: what α and feedback are tuned on; None for cross-validation on `test`.
        out: where values are kept; those found there are reused.
        measures: of ir-measures; the first is what is tuned for.
        progress: see Progress.

    Raises:
        FileNotFoundError: no index there.
        ValueError: no dense side, an unknown measure, too few queries.
    """
    names_of_measures(measures, test)
    check_index(index, test)
    tuning = _sample(dev) if dev else test
    ids = list(tuning.qrels)
    # (queries that settings are chosen on, queries that they are measured on)
    parts = [(ids, list(test.qrels))]
    if not dev:
        parts = [([q for q in ids if q not in set(part)], part) for part in folds(ids)]
    with Searcher(index) as searcher:
        grid = _Grid(searcher, tuning, measures[0], Path(out), progress)
        chosen = grid.choose(parts)
        results = [
            Result(name, test, run, evaluate_run(run, test, measures), None)
            for name, of_query in chosen.items()
            for run in [grid.run(test, of_query)]
        ]
    distinct = {name: list(_groups(of_query)) for name, of_query in chosen.items()}
    return FeedbackGrid(results, distinct, grid.means, grid.interpolated)


class _Grid:
    """Values of requests (as JSON) on the tuning queries, and runs of those chosen."""

    def __init__(
        self, searcher: Searcher, tuning: Dataset, measure: str, out: Path, progress: Progress
    ) -> None:
        self._searcher = searcher
        self._tuning = tuning
        self._measure = measure
        self._kept: int = parse_measures([measure])[measure].params.get("cutoff") or DEPTH
        self._progress = progress
        self._first: dict[str, list[tuple[list[Query], Batch]]] = {}
        self.means: dict[str, float] = {}
        self.interpolated = 0.0
        identity = [
            searcher.manifest.encoder_sha256,
            searcher.manifest.dense_sha256,
            searcher.index.user_data["settings"],
            *(tuning.split, tuning.qrels, measure),
        ]
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
        self._path = out / f"tuning-{key}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._values = _read(self._path)

    def choose(self, parts: Sequence[tuple[list[str], list[str]]]) -> dict[str, dict[str, str]]:
        """Return for each system and test query the request that is best on its tuning queries."""
        alphas, _ = interpolations(
            self._searcher,
            self._tuning,
            self._measure,
            normalisations=NORMALISATIONS,
            alphas=ALPHAS,
            progress=self._progress,
        )
        self.interpolated = max(mean(of_query.values()) for of_query in alphas.values())
        chosen: dict[str, dict[str, str]] = {}
        for tuned_on, measured in parts:
            how: Interpolation = best_setting(alphas, tuned_on)
            plain = {
                BASELINE: _hybrid(how),
                "sparse": _json({"mode": "sparse"}),
                "dense": _json({"mode": "dense"}),
            }
            for name, request in plain.items():
                chosen.setdefault(name, {}).update(dict.fromkeys(measured, request))
            for side in SIDES:
                for stage in STAGES:
                    name = f"{side} feedback: {stage}"
                    values = self._measured(name, _requests(how, side, stage))
                    best = best_setting(values, tuned_on)
                    chosen.setdefault(name, {}).update(dict.fromkeys(measured, best))
        return chosen

    def run(self, dataset: Dataset, chosen: Mapping[str, str]) -> Run:
        """Return the DEPTH best documents of each query by the request that was chosen for it."""
        rankings: dict[str, Ranking] = {}
        for request, query_ids in _groups(chosen).items():
            found = self._rank(dataset, request, DEPTH)
            rankings |= {query_id: found[query_id] for query_id in query_ids}
        return Run({query.id: rankings[query.id] for query in dataset.queries})

    def _measured(self, step: str, requests: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return each request's value of each tuning query; a file keeps them as they come."""
        with self._path.open("a", encoding="utf-8") as file:
            for done, request in enumerate(requests, 1):
                if request not in self._values:
                    run = self._rank(self._tuning, request, self._kept)
                    found = evaluate_run(run, self._tuning, [self._measure]).per_query
                    (self._values[request],) = found.values()
                    file.write(json.dumps([request, self._values[request]]) + "\n")
                    file.flush()
                self.means[request] = mean(self._values[request].values())
                self._progress(step, done, len(requests))
        return {request: self._values[request] for request in requests}

    def _rank(self, dataset: Dataset, request: str, k: int) -> Run:
        # One more hit, because a query's own document is dropped.
        asked = ask("", k=k + 1, **json.loads(request))
        rankings: dict[str, Ranking] = {}
        for queries, batch in self._first_passes(dataset):
            # A single side is not searched to the depth of the interpolation.
            lists = dict(batch.lists) if asked.mode == "hybrid" else {}
            found = self._searcher.passes.answer(replace(batch, lists=lists), asked)
            for query, hits in zip(queries, found, strict=True):
                rankings[query.id] = [(hit.doc_id, hit.score) for hit in hits]
        return Run(rankings).without_self().truncate(k)

    def _first_passes(self, dataset: Dataset) -> list[tuple[list[Query], Batch]]:
        """Yield the queries in batches, each encoded and searched on both sides once."""
        if dataset.split not in self._first:
            passes = self._searcher.passes
            request = ask("", mode="hybrid", interpolation={})
            found = []
            for start in range(0, len(dataset.queries), BATCH):
                queries = dataset.queries[start : start + BATCH]
                batch = passes.encode([query.text for query in queries], request, threads=1)
                passes.search(batch, ("sparse", "dense"), request, Interpolation().depth)
                found.append((queries, batch))
            # One split at a time, because the lists are long.
            self._first = {dataset.split: found}
        return self._first[dataset.split]


def _json(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _hybrid(how: Interpolation, feedback: Mapping[str, Any] | None = None) -> str:
    settings: dict[str, Any] = {"mode": "hybrid", "interpolation": how.model_dump()}
    return _json(settings | ({"feedback": feedback} if feedback else {}))


def _requests(how: Interpolation, side: Side, stage: str) -> list[str]:
    if stage == "none":  # this stage does not interpolate
        return [_json({"mode": side, "feedback": variant}) for variant in variants(side)]
    return [
        _hybrid(how, variant | {"side": side, "interpolate": stage}) for variant in variants(side)
    ]


def _groups(chosen: Mapping[str, str]) -> dict[str, list[str]]:
    """Return for each request the queries that it was chosen for."""
    groups: dict[str, list[str]] = {}
    for query_id, request in chosen.items():
        groups.setdefault(request, []).append(query_id)
    return groups


def _sample(dev: Dataset) -> Dataset:
    """Return at most DEV_QUERIES of its queries, always the same ones."""
    if len(dev.queries) <= DEV_QUERIES:
        return dev
    kept = np.random.default_rng(0).permutation(sorted(dev.qrels))[:DEV_QUERIES].tolist()
    queries = [query for query in dev.queries if query.id in set(kept)]
    return dev._replace(queries=queries, qrels={query.id: dev.qrels[query.id] for query in queries})


def _read(path: Path) -> dict[str, dict[str, float]]:
    """Read what an earlier grid measured. A truncated last line is measured again."""
    values: dict[str, dict[str, float]] = {}
    if not path.exists():
        return values
    whole = 0
    content = path.read_bytes()
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        settings, of_query = json.loads(line)
        values[settings] = of_query
        whole += len(line)
    if whole < len(content):
        path.write_bytes(content[:whole])
    return values
