"""The weights of an index's sides, tuned on judged queries and stored with it: `lsr tune`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from lsr.building.lock import locked
from lsr.building.tuning import Tuned, write_tuning
from lsr.eval.datasets import Dataset
from lsr.eval.judged import check_index
from lsr.eval.measures import parse_measures
from lsr.eval.measuring import evaluate_run, names_of_measures, rank_queries
from lsr.indexes.manifest import read_manifest
from lsr.progress import Progress
from lsr.request import Interpolation, Request, Words, ask
from lsr.run import Run
from lsr.search import Searcher

# Of words beside learned terms.
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 4.0)
ALPHAS = tuple(round(0.05 * step, 2) for step in range(21))
NORMALISATIONS = ("min-max", "theoretical", "z-score")
FOLDS = 5


@dataclass(frozen=True)
class Tuning:
    """The result of tuning."""

    dataset: str
    split: str
    measure: str
    n_queries: int
    best: Tuned  # on all queries, which is stored
    tuned: float  # its mean, which is too high: it was chosen on these queries
    cross_validated: float  # the mean where each fold's was chosen on the others
    sides: dict[str, float]  # the mean of each side alone, by its name and the words' weight
    # Words' weight → normalisation → α → mean; without a dense side "sparse" → 1 → mean.
    means: dict[float, dict[str, dict[float, float]]]

    def record(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            **vars(self),
            "best": self.best.model_dump(),
            "means": {
                str(weight): {
                    name: {str(alpha): value for alpha, value in of.items()}
                    for name, of in of_weight.items()
                }
                for weight, of_weight in self.means.items()
            },
        }


def folds(query_ids: Sequence[str], n: int = FOLDS) -> list[list[str]]:
    """Divide query ids into `n` parts of nearly equal size, whatever the order of the ids.

    Raises:
        ValueError: there are fewer ids than parts.
    """
    if len(query_ids) < n:
        raise ValueError(f"{n} folds need at least {n} queries, got {len(query_ids)}")
    shuffled = np.random.default_rng(0).permutation(sorted(query_ids)).tolist()
    return [shuffled[part::n] for part in range(n)]


def best_setting(values: Mapping[Any, Mapping[str, float]], query_ids: Sequence[str]) -> Any:
    """Return the setting with the highest mean over these queries; the first of equal ones.

    Args:
        values: setting → query id → value of a measure.
        query_ids: the queries of the mean.
    """
    return max(values, key=lambda setting: round(mean(values[setting][q] for q in query_ids), 12))


def cross_validate(
    values: Mapping[Any, Mapping[str, float]], query_ids: Sequence[str], n: int = FOLDS
) -> dict[str, Any]:
    """Return for each query the setting that is best on the other folds.

    Args:
        values: setting → query id → value of a measure.
        query_ids: all queries.
        n: folds.

    Raises:
        ValueError: see `folds`.
    """
    chosen: dict[str, Any] = {}
    for part in folds(query_ids, n):
        others = [query_id for query_id in query_ids if query_id not in set(part)]
        chosen |= dict.fromkeys(part, best_setting(values, others))
    return chosen


def tune(
    directory: str | os.PathLike[str],
    dataset: Dataset,
    measure: str = "nDCG@10",
    *,
    normalisations: Sequence[str] = NORMALISATIONS,
    store: bool = True,
    progress: Progress = lambda step, done, total: None,
) -> Tuning:
    """Find the weights of an index's sides: of words, and where there are vectors α and the norm.

    Each weight of WEIGHTS gives one sparse pass. Every α of ALPHAS and normalisation then orders
    the union of its list and the dense one anew; documents that one side did not return are scored
    exactly. The setting with the best mean over the queries is stored. Searches without settings of
    their own use it.

    Raises:
        FileNotFoundError: no index there.
        ValueError: an unknown measure or normalisation, fewer than FOLDS queries, or an index of
            words alone, where there is nothing to weigh.
        IndexLockedError: another process builds this index or writes to it.
    """
    directory = Path(directory)
    folds(list(dataset.qrels))
    names_of_measures([measure], dataset)
    check_index(directory, dataset)
    with Searcher(directory) as searcher:
        if not searcher.encoder.vocabulary and searcher.manifest.dense is None:
            raise ValueError(
                f"{directory} holds words alone: there is nothing to weigh them against"
            )
        values, alone = weighings(
            searcher, dataset, measure, normalisations=normalisations, progress=progress
        )
        folder = searcher.manifest.folder(directory)
    means: dict[float, dict[str, dict[float, float]]] = {}
    for setting, of_query in sorted(values.items(), key=lambda item: _in_tables(item[0])):
        how = setting.interpolation
        name, alpha = (how.normalisation, how.alpha) if "dense" in alone else ("sparse", 1.0)
        means.setdefault(setting.words.weight, {}).setdefault(name, {})[alpha] = mean(
            of_query.values()
        )
    query_ids = list(dataset.qrels)
    best: Tuned = best_setting(values, query_ids)
    chosen = cross_validate(values, query_ids)
    if store:
        with locked(directory):
            if read_manifest(directory).folder(directory) != folder:
                raise ValueError(f"{directory} was built anew meanwhile: tune it again")
            write_tuning(folder, best)
    return Tuning(
        dataset=dataset.name,
        split=dataset.split,
        measure=measure,
        n_queries=len(query_ids),
        best=best,
        tuned=mean(values[best].values()),
        cross_validated=mean(values[chosen[query_id]][query_id] for query_id in query_ids),
        sides={side: mean(of_query.values()) for side, of_query in alone.items()},
        means=means,
    )


def weighings(
    searcher: Searcher,
    dataset: Dataset,
    measure: str,
    *,
    normalisations: Sequence[str] = NORMALISATIONS,
    progress: Progress = lambda step, done, total: None,
) -> tuple[dict[Tuned, dict[str, float]], dict[str, dict[str, float]]]:
    """Return the measure by setting and query id, and by side alone and query id.

    Settings that are nearer to the default come first. Where there are no learned terms, words have
    one weight, since it changes nothing.

    Raises:
        ValueError: an unknown measure or normalisation.
    """
    values: dict[Tuned, dict[str, float]] = {}
    alone: dict[str, dict[str, float]] = {}
    weights = WEIGHTS if searcher.encoder.vocabulary else (Words().weight,)
    for done, weight in enumerate(weights):
        words = Words(weight=weight)
        progress("tuning", done, len(weights))
        if searcher.manifest.dense is None:
            sides = {"sparse": _sparse(searcher, dataset, measure, words)}
            values[Tuned(words=words)] = sides["sparse"]
        else:
            found, sides = interpolations(
                searcher, dataset, measure, words=words, normalisations=normalisations
            )
            alone["dense"] = sides["dense"]
            values |= {Tuned(words=words, interpolation=how): of for how, of in found.items()}
        alone[f"sparse {weight:g}"] = sides["sparse"]
    progress("tuning", len(weights), len(weights))
    nearest = sorted(values, key=lambda setting: abs(setting.words.weight - Words().weight))
    return {setting: values[setting] for setting in nearest}, alone


def _in_tables(setting: Tuned) -> tuple[float, int, float]:
    how = setting.interpolation
    return setting.words.weight, NORMALISATIONS.index(how.normalisation), how.alpha


def _sparse(searcher: Searcher, dataset: Dataset, measure: str, words: Words) -> dict[str, float]:
    """Return the measure of mode sparse by query id."""
    run = rank_queries(searcher, dataset, settings={"mode": "sparse", "words": words.model_dump()})
    (values,) = evaluate_run(run, dataset, [measure]).per_query.values()
    return values


def interpolations(
    searcher: Searcher,
    dataset: Dataset,
    measure: str,
    *,
    words: Words | None = None,
    normalisations: Sequence[str] = NORMALISATIONS,
    alphas: Sequence[float] = ALPHAS,
    progress: Progress = lambda step, done, total: None,
) -> tuple[dict[Interpolation, dict[str, float]], dict[str, dict[str, float]]]:
    """Return the measure by setting and query id, and by side and query id.

    Of a normalisation the values of α that are nearer to the default come first.

    Raises:
        ValueError: no dense side, or an unknown measure or normalisation.
    """
    cutoff = parse_measures([measure])[measure].params.get("cutoff")
    ids = [query.id for query in dataset.queries]
    how_words = {} if words is None else {"words": words.model_dump()}
    request = ask("", mode="hybrid", interpolation={}, **how_words)
    depth = Interpolation().depth
    # One more hit, because a query's own document is dropped.
    kept = depth if cutoff is None else cutoff + 1
    passes = searcher.passes
    batch = passes.encode([query.text for query in dataset.queries], request, threads=1)
    passes.search(batch, ("sparse", "dense"), request, depth)

    def measured(rankings: Sequence[Sequence[tuple[str, float]]]) -> dict[str, float]:
        run = Run({q: hits[:kept] for q, hits in zip(ids, rankings, strict=True)}).without_self()
        (values,) = evaluate_run(run, dataset, [measure]).per_query.values()
        return values

    sides = {side: measured(batch.lists[side]) for side in ("sparse", "dense")}
    values: dict[Interpolation, dict[str, float]] = {}
    for name in normalisations:
        asked = _with(request, name)
        columns = []
        for hits in passes.interpolated(replace(batch, lists=dict(batch.lists)), asked):
            # At α = ½ each share is half of that side's normalised score.
            found = sorted(hits)
            shares = np.array([hit.shares for hit in found]).reshape(-1, 2) * 2
            columns.append(([hit.doc_id for hit in found], shares))
        for alpha in sorted(alphas, key=lambda alpha: abs(alpha - Interpolation().alpha)):
            rankings = [_best(doc_ids, shares, alpha, kept) for doc_ids, shares in columns]
            how = _with(request, name, alpha).interpolation
            assert how is not None
            values[how] = measured(rankings)
            progress("tuning", len(values), len(normalisations) * len(alphas))
    return values, sides


def _with(request: Request, normalisation: str, alpha: float = 0.5) -> Request:
    how = {"normalisation": normalisation, "alpha": alpha}
    return ask(request, interpolation=how)


def _best(
    doc_ids: Sequence[str], shares: np.ndarray, alpha: float, k: int
) -> list[tuple[str, float]]:
    """Return the k best by α·sparse + (1 − α)·dense; `doc_ids` ascend, so ties are in order."""
    scores = alpha * shares[:, 0] + (1 - alpha) * shares[:, 1]
    order = np.argsort(-scores, kind="stable")[:k]
    return [(doc_ids[place], float(scores[place])) for place in order]
