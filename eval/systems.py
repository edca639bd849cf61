"""Systems as `lsr eval` takes them: run files, indexes and encoders with settings; and their cost.

    [NAME=]SYSTEM[?KEY=VALUE&KEY=VALUE…]

SYSTEM is a TREC run file, a folder of them (DATASET.trec, "/" in a name as "-"), an index
directory, or an encoder, whose index is built in the cache. A KEY is a field of
`lsr.request.Request`, nested ones with a dot (interpolation.alpha), or, of an index that is built,
`top_k`, `dense` or `language`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lsr.building.encoders import DEFAULT, OURS, Dtype
from lsr.building.language import check_language
from lsr.encoders.load import resolve
from lsr.eval.cache import Cache, IndexSpec, digest, index_identity
from lsr.eval.datasets import Dataset
from lsr.eval.judged import check_index
from lsr.eval.measures import MEASURES
from lsr.eval.measuring import (
    DEPTH,
    evaluate_run,
    measure_cost,
    names_of_measures,
    rank_queries,
)
from lsr.eval.results import Cost, Result
from lsr.indexes.manifest import NAME
from lsr.paths import is_path, missing
from lsr.progress import Progress
from lsr.request import NESTED, SPARSE, Request, ask, parse_settings
from lsr.run import Run
from lsr.search import Searcher

# Expansion terms kept per document.
TOP_K = 256
# Fields of a Request that a system cannot set.
_NOT_SETTINGS = ("query", "k")


@dataclass(frozen=True)
class System:
    """A way to rank documents for queries."""

    name: str  # in tables
    source: str  # a path, or an encoder's name
    kind: Literal["run", "runs", "index", "encoder"]
    settings: Mapping[str, Any]  # fields of Request
    top_k: int = TOP_K  # of an index that is built
    dense: str | None = None  # its dense model
    language: str = "en"  # of its words
    dtype: Dtype | None = None  # see `build_index`


def parse_system(text: str) -> System:
    """Return the system that `[NAME=]SYSTEM[?KEY=VALUE&…]` stands for; see the module.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a setting is unknown, given twice, out of range, or not for such a system.
    """
    head, _, tail = text.partition("?")
    name, _, source = head.rpartition("=")
    if Path(text).exists():
        name, source, tail = "", text, ""
    elif Path(head).exists():
        name, source = "", head
    if not source:
        raise ValueError(f"system {text!r}: must be [NAME=]SYSTEM[?KEY=VALUE&…], and has no SYSTEM")
    kind = _kind(source)
    pairs = [pair.partition("=") for pair in tail.split("&")] if tail else []
    for key, times in Counter(key for key, _, _ in pairs).items():
        if times > 1:
            raise ValueError(f"system {text!r}: {key!r} is given {times} times")
    build = {key: value for key, _, value in pairs if key in ("top_k", "dense", "language")}
    settings = _settings(text, ["".join(pair) for pair in pairs if pair[0] not in build])
    if pairs and kind in ("run", "runs"):
        raise ValueError(f"system {text!r}: a run file takes no settings, got {tail!r}")
    if build and kind == "index":
        raise ValueError(
            f"system {text!r}: {min(build)!r} is for an index that is built, {source} is there"
        )
    dense = build.get("dense")
    if kind == "encoder" and "mode" not in settings:
        # Said here, because the index may have a dense side that only other systems need.
        try:
            mode = ask("", **settings).resolved(dense=dense is not None).mode
        except ValueError as error:
            raise ValueError(f"system {text!r}: {error}") from error
        settings = {"mode": mode, **settings}
    mode = settings.get("mode")
    if mode in SPARSE and dense:
        raise ValueError(f"system {text!r}: 'dense' is for mode 'dense' or 'hybrid'")
    if mode in ("dense", "hybrid") and kind == "encoder":
        dense = dense or DEFAULT
    top_k = build.get("top_k", str(TOP_K))
    if not (top_k.isdecimal() and int(top_k) >= 1):
        raise ValueError(f"system {text!r}: 'top_k' must be a number from 1 on, got {top_k!r}")
    language = build.get("language", "en")
    try:
        check_language(language)
    except ValueError as error:
        raise ValueError(f"system {text!r}: {error}") from error
    return System(name or text, source, kind, settings, int(top_k), dense, language)


def _kind(source: str) -> Literal["run", "runs", "index", "encoder"]:
    path = Path(source)
    if source in OURS:
        return "encoder"
    if path.is_file():
        return "run"
    if path.is_dir():
        if (path / NAME).exists():
            return "index"
        if (path / "config.json").exists() or (path / "modules.json").exists():
            return "encoder"
        if any(path.glob("*.trec")) or any(path.glob("*.trec.gz")):
            return "runs"
        raise ValueError(
            f"{source}: this folder holds no index ({NAME}), no checkpoint (config.json) and no "
            "run files (*.trec, *.trec.gz)"
        )
    if is_path(source) or source.count("/") > 1:
        raise missing(source, "run file, index directory or checkpoint")
    # Raises if no checkpoint has this name.
    resolve(source)
    return "encoder"


def _settings(text: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return fields of Request from "KEY=VALUE", checked."""
    known = _keys()
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in known and not key.startswith("filters."):
            raise ValueError(
                f"system {text!r}: unknown setting {key!r} with value {value!r}; known are "
                f"{', '.join(known)}"
            )
    try:
        settings = parse_settings(pairs)
        request = ask("", **settings)
    except ValueError as error:
        raise ValueError(f"system {text!r}: {error}") from error
    given = request.model_dump(exclude_unset=True)
    return {key: given[key] for key in settings}


def _keys() -> list[str]:
    keys = []
    for key in Request.model_fields:
        if key in NESTED:
            keys += [f"{key}.{field}" for field in NESTED[key].model_fields]
        elif key not in _NOT_SETTINGS:
            keys.append(key)
    return [*keys, "top_k", "dense"]


def check(datasets: Sequence[Dataset], systems: Sequence[System], measures: Sequence[str]) -> None:
    """Refuse what cannot be evaluated together, before any of it is.

    Raises:
        FileNotFoundError: a folder of runs lacks one of a dataset.
        ValueError: an unknown measure; two systems or datasets of one name; or one run file for
            several datasets.
    """
    for dataset in datasets:
        names_of_measures(measures, dataset)
    for what, names in (
        ("systems", [system.name for system in systems]),
        ("datasets", [file_name(dataset) for dataset in datasets]),
    ):
        for name, times in Counter(names).items():
            if times > 1:
                raise ValueError(f"{times} {what} are called {name!r}: names must differ")
    for system in systems:
        if system.kind == "run" and len(datasets) > 1:
            raise ValueError(
                f"{system.source} is one run file for {len(datasets)} datasets: give a folder "
                f"that holds {file_name(datasets[0])}.trec, …"
            )
        for dataset in datasets if system.kind == "runs" else ():
            run_file(system, dataset)


def evaluate_system(
    system: System,
    dataset: Dataset,
    measures: Sequence[str] = MEASURES,
    *,
    cache: Cache,
    beside: Sequence[System] = (),
    threads: int = 1,
    progress: Progress = lambda step, done, total: None,
) -> Result:
    """Measure quality and cost of a system on a dataset; what the cache has is not done again.

    The cost was measured when the run was made; a run file has none.

    Args:
        system: the system to measure.
        dataset: queries and judgements.
        measures: names of ir-measures; see `with_relevant_grade`.
        cache: indexes and runs.
        beside: other systems of the evaluation, whose indexes this one may share.
        threads: Java threads of the run.
        progress: see Progress.

    Raises:
        ValueError: a run file cannot be used, or settings do not fit an index.
    """
    run: Run
    cost: Cost | None = None
    if system.kind in ("run", "runs"):
        run = read_run(run_file(system, dataset), dataset)
    else:
        directory = index_of(system, beside, dataset, cache, progress)
        if system.kind == "index":
            check_index(directory, dataset)
        run, cost = _first_pass(system, directory, dataset, cache, threads, progress)
    return Result(system.name, dataset, run, evaluate_run(run, dataset, measures), cost)


def run_file(system: System, dataset: Dataset) -> Path:
    """Return the run file of a system for a dataset.

    Raises:
        FileNotFoundError: a folder of runs lacks it.
    """
    if system.kind == "run":
        return Path(system.source)
    plain = Path(system.source) / f"{file_name(dataset)}.trec"
    for path in (plain, plain.with_name(f"{plain.name}.gz")):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{system.source}: no {plain.name} or {plain.name}.gz in this folder")


def read_run(path: Path, dataset: Dataset) -> Run:
    """Read the DEPTH best hits of a run file (also .gz), without queries' own documents.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be used, has no query of the dataset, or none of its documents is
            judged for any query.
    """
    run = Run.read_trec(path)
    if run.keys().isdisjoint(dataset.qrels):
        raise ValueError(
            f"{path}: none of its {len(run)} queries is among the {len(dataset.qrels)} of "
            f"{dataset.name}, split {dataset.split!r}"
            + (f": {next(iter(run))!r} here, {dataset.queries[0].id!r} there" if run else "")
        )
    judged = {doc_id for grades in dataset.qrels.values() for doc_id in grades}
    if not any(doc_id in judged for ranking in run.values() for doc_id, _ in ranking):
        first = next(doc_id for ranking in run.values() for doc_id, _ in ranking)
        raise ValueError(
            f"{path}: none of its documents is among the {len(judged)} judged ones of "
            f"{dataset.name}, split {dataset.split!r}: {first!r} here, {min(judged)!r} there"
        )
    return run.without_self().truncate(DEPTH)


def file_name(dataset: Dataset) -> str:
    """Return the name of a dataset's run file, without suffix."""
    return dataset.label.replace("/", "-")


def index_of(
    system: System,
    beside: Sequence[System],
    dataset: Dataset,
    cache: Cache,
    progress: Progress = lambda step, done, total: None,
) -> Path:
    """Return the index that a system searches, and build it if it is not there.

    A system that searches no dense side uses the index with one that another system needs, unless
    an index without it exists already.
    """
    if system.kind == "index":
        return Path(system.source)
    plain = IndexSpec(dataset, system.source, system.top_k, None, system.dtype, system.language)
    dense = system.dense
    if dense is None and not (cache.index_path(plain, progress) / NAME).exists():
        same = (
            other.dense
            for other in beside
            if (other.source, other.top_k, other.language, other.dtype)
            == (system.source, system.top_k, system.language, system.dtype)
        )
        dense = next(filter(None, same), None)
    return cache.index(plain._replace(dense=dense), progress)


def _first_pass(
    system: System,
    directory: Path,
    dataset: Dataset,
    cache: Cache,
    threads: int,
    progress: Progress,
) -> tuple[Run, Cost]:
    about = {
        "system": system.source,
        "dataset": dataset.name,
        "index": index_identity(directory),
        "settings": dict(system.settings),
        "queries": digest([list(query) for query in dataset.queries]),
        "depth": DEPTH,
    }

    def compute() -> tuple[Run, Cost]:
        with Searcher(directory) as searcher:
            settings = system.settings
            run = rank_queries(
                searcher, dataset, settings=settings, threads=threads, progress=progress
            )
            return run, measure_cost(searcher, dataset, settings=settings, progress=progress)

    return cache.first_pass(about, compute)
