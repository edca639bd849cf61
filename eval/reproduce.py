"""Published tables, run again: what was published, what we measure, and how far apart they are.

`published.json` holds the numbers with their sources. A row is re-run where lsr can load the
model's checkpoint and both checkpoint and data are there or can be fetched; what cannot is
missing, with the reasons. `miniature/` is a collection in the package that checks the machinery.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lsr.building.encoders import OURS
from lsr.eval.cache import Cache
from lsr.eval.datasets import SHORT_NAMES, Dataset, load_dataset
from lsr.eval.measures import with_relevant_grade
from lsr.eval.systems import TOP_K, System, evaluate_system
from lsr.progress import Progress

# The table, and the dataset, of the collection that checks the machinery.
MINIATURE = "miniature"
# In place of a dataset: a source's own mean of MEAN_MEASURE over all datasets of a table.
MEAN = "mean"
MEAN_MEASURE = "nDCG@10"

# The largest differences that are called "ok" and "close". The same engine gives "ok" again;
# other engines, quantisation, truncation and rounding make differences that are "close".
OK = 0.003
CLOSE = 0.01
# The bound of "close" on datasets where published runs of one checkpoint differ by more.
CLOSE_ON = {"arguana": 0.03, "climate-fever": 0.03, "trec-covid": 0.03}

# Hosts that ir_datasets downloads a collection from, by the first part of its id.
HOSTS = {
    "beir": "https://public.ukp.informatik.tu-darmstadt.de",
    "msmarco-passage": "https://msmarco.z22.web.core.windows.net",
}
# Seconds that a host has to answer anything at all.
TIMEOUT_S = 5.0
# More terms than any vocabulary has, so that no document vector is cut.
_ALL_TERMS = 1_000_000


class Source(NamedTuple):
    """Where numbers were published."""

    title: str
    url: str  # "" for our own
    commit: str = ""  # of the repository that the numbers were read in
    evidence: str = ""  # how they were read


class Row(NamedTuple):
    """One published number."""

    table: str
    model: str
    dataset: str  # as `load_dataset` knows it, MINIATURE or MEAN
    measure: str  # of ir-measures
    published: float
    source: str  # a key of Published.sources


class Table(NamedTuple):
    """Rows that are published together."""

    datasets: list[str]
    rows: list[Row]


class Model(NamedTuple):
    """A published model: the encoder that lsr can load for it, or why there is none."""

    encoder: str  # as `lsr eval --system` takes it; "" where lsr cannot run the model
    obstacle: str  # "" where it can
    mb: int = 0  # size of its weights, roughly; 0 if there is nothing to download
    gated: bool = False  # whether the hub wants its conditions accepted first
    # Fields of Request. Most published figures are those of learned terms alone.
    settings: Mapping[str, Any] = {"mode": "learned"}


class Published(NamedTuple):
    """All that published.json holds, by name."""

    sources: dict[str, Source]
    models: dict[str, Model]
    tables: dict[str, Table]
    downloads: dict[str, int]  # what ir_datasets fetches at once → MB


class Outcome(NamedTuple):
    """The outcome of a row: measured, or missing for reasons."""

    row: Row
    ours: float | None
    reasons: tuple[str, ...] = ()

    @property
    def difference(self) -> float | None:
        """Our value minus the published one."""
        return None if self.ours is None else self.ours - self.row.published

    @property
    def verdict(self) -> str:
        """ok, close, off or missing."""
        if self.ours is None:
            return "missing"
        return verdict(self.row.dataset, self.row.published, self.ours)


def verdict(dataset: str, published: float, ours: float) -> str:
    """Return "ok" for a difference up to OK, "close" up to CLOSE (see CLOSE_ON), else "off".

    >>> verdict("scifact", 0.700, 0.703), verdict("scifact", 0.700, 0.691)
    ('ok', 'close')
    """
    # Rounded, because floats add noise to a difference of four or five decimals.
    difference = round(abs(ours - published), 9)
    if difference <= OK:
        return "ok"
    return "close" if difference <= CLOSE_ON.get(dataset, CLOSE) else "off"


def read_published() -> Published:
    """Read published.json, which describes its own layout."""
    path = Path(__file__).with_name("published.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    tables = {}
    for name, table in found["tables"].items():
        rows = []
        for entry in table["rows"]:
            values = {dataset: dict(of) for dataset, of in entry["values"].items()}
            if "mean" in entry:
                values[MEAN] = {MEAN_MEASURE: entry["mean"]}
            rows += [
                Row(name, entry["model"], dataset, measure, value, entry["source"])
                for dataset, of in values.items()
                for measure, value in of.items()
            ]
        tables[name] = Table(table["datasets"], rows)
    return Published(
        {key: Source(**source) for key, source in found["sources"].items()},
        {
            name: Model(**{"encoder": "", "obstacle": "", **model})
            for name, model in found["models"].items()
        },
        tables,
        found["downloads"],
    )


def choose(
    published: Published, table: str, model: str | None = None, dataset: str | None = None
) -> list[Row]:
    """Return the rows of a table that lsr can run, for one model or dataset if given.

    Means over all datasets are left out where one dataset is asked for.

    Raises:
        ValueError: no such table; no such model or dataset in it; lsr cannot run the model.
    """
    if table not in published.tables:
        raise ValueError(f"no table {table!r}; there are {', '.join(published.tables)}")
    found = published.tables[table]
    runnable = [row for row in found.rows if published.models[row.model].encoder]
    if model is not None:
        if model not in {row.model for row in found.rows}:
            known = ", ".join(dict.fromkeys(row.model for row in runnable))
            raise ValueError(f"no model {model!r} in table {table}; of those lsr can run: {known}")
        if obstacle := published.models[model].obstacle:
            raise ValueError(f"lsr cannot run {model}: {obstacle}")
    if dataset is not None and dataset not in found.datasets:
        known = ", ".join(found.datasets)
        raise ValueError(f"no dataset {dataset!r} in table {table}; there are {known}")
    rows = [
        row for row in runnable if model in (None, row.model) and dataset in (None, row.dataset)
    ]
    if not rows:
        raise ValueError(f"table {table} has no number of {model} on {dataset}")
    return rows


def reproduce(
    published: Published,
    rows: Sequence[Row],
    cache: Cache,
    watch: Callable[[str], AbstractContextManager[Progress]],
) -> Iterator[Outcome]:
    """Run rows again, dataset by dataset and then model by model; means come last.

    Args:
        published: see `read_published`.
        rows: see `choose`.
        cache: indexes and first passes; what is in it is not done again.
        watch: gives the progress of what is described to it, such as "scifact: splade-v3".
    """
    models = dict.fromkeys(row.model for row in rows)
    missing = {model: _missing_model(published.models[model]) for model in models}
    found: dict[tuple[str, str], float] = {}
    for name in dict.fromkeys(row.dataset for row in rows if row.dataset != MEAN):
        of_dataset = [row for row in rows if row.dataset == name]
        wanted = dict.fromkeys(row.model for row in of_dataset)
        with _brief_downloads(name):
            fetch = any(not missing[model] for model in wanted)
            dataset = _load(name, published.downloads, fetch)
            for model in wanted:
                asked = [row for row in of_dataset if row.model == model]
                of_model = published.models[model]
                outcomes = _run(asked, of_model, missing[model], dataset, cache, watch)
                for outcome in outcomes:
                    if outcome.ours is not None and outcome.row.measure == MEAN_MEASURE:
                        found[model, name] = outcome.ours
                yield from outcomes
    for row in rows:
        if row.dataset == MEAN:
            yield _mean(row, published.tables[row.table].datasets, found)


def _run(
    rows: Sequence[Row],
    model: Model,
    missing: str,
    dataset: Dataset | str,
    cache: Cache,
    watch: Callable[[str], AbstractContextManager[Progress]],
) -> list[Outcome]:
    """Return the outcomes of the rows of one model on one dataset."""
    if missing or isinstance(dataset, str):
        reasons = (missing, dataset if isinstance(dataset, str) else "")
        return [Outcome(row, None, tuple(filter(None, reasons))) for row in rows]
    measures = list(dict.fromkeys(row.measure for row in rows))
    top_k = TOP_K if _is_ours(model.encoder) else _ALL_TERMS
    # Not the dtype that this CPU is fast in: tables must not depend on the CPU.
    system = System(rows[0].model, model.encoder, "encoder", model.settings, top_k, dtype="float32")
    try:
        with watch(f"{rows[0].dataset}: {rows[0].model}") as progress:
            result = evaluate_system(system, dataset, measures, cache=cache, progress=progress)
    except (OSError, ValueError) as error:
        return [Outcome(row, None, (str(error),)) for row in rows]
    graded = with_relevant_grade(measures, dataset.relevant_grade)
    names = dict(zip(measures, graded, strict=True))
    return [Outcome(row, result.evaluation.means[names[row.measure]]) for row in rows]


def _mean(row: Row, datasets: Sequence[str], found: Mapping[tuple[str, str], float]) -> Outcome:
    lacking = [name for name in datasets if (row.model, name) not in found]
    if lacking:
        reason = f"a mean over {len(datasets)} datasets, of which {len(lacking)} were not measured"
        return Outcome(row, None, (reason,))
    return Outcome(row, sum(found[row.model, name] for name in datasets) / len(datasets))


def _load(name: str, downloads: Mapping[str, int], fetch: bool) -> Dataset | str:
    """Return a dataset, or the reason why it cannot be had.

    Where its host does not answer, ir_datasets is asked for what it has on disk; where it does,
    `fetch` says whether to download.
    """
    if name == MINIATURE:
        return load_dataset(Path(__file__).with_name(MINIATURE))
    if Path(name).is_dir():
        # `load_dataset` would take it, and whatever it holds be compared with the real one.
        return f"{name}: the folder of this name in the working directory hides it; run elsewhere"
    host = _host(name)
    no_answer = unreachable(host)
    if not (fetch or no_answer):
        return f"{name}: not looked for, since no model can be had"
    import requests

    try:
        return load_dataset(name)
    except (OSError, ValueError) as error:
        if no_answer and isinstance(error, ConnectionError | requests.RequestException):
            size = f"{downloads[_archive(name)]:,} MB"
            return f"{name} ({size}): not on disk, and {host} does not answer: {no_answer}"
        return f"{name}: {error}"


def _host(name: str) -> str:
    return HOSTS[SHORT_NAMES[name].partition("/")[0]]


def _archive(name: str) -> str:
    """Return what ir_datasets downloads for a dataset, a key of Published.downloads."""
    collection = SHORT_NAMES[name].partition("/")[0]
    return name.partition("/")[0] if collection == "beir" else collection


@contextmanager
def _brief_downloads(name: str) -> Iterator[None]:
    """ir_datasets gives up after a second where the host of a dataset does not answer."""
    brief = {"IR_DATASETS_DL_TIMEOUT": "1", "IR_DATASETS_DL_TRIES": "1"}
    if name == MINIATURE or not unreachable(_host(name)):
        brief = {}
    before = {key: os.environ.get(key) for key in brief}
    os.environ.update(brief)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key)
            if value is not None:
                os.environ[key] = value


def _is_ours(encoder: str) -> bool:
    return encoder in OURS


def _missing_model(model: Model) -> str:
    """Return `missing_checkpoint` with the size of the download."""
    if not (reason := missing_checkpoint(model.encoder)):
        return ""
    gate = "; the hub wants its conditions accepted first" if model.gated else ""
    return f"{reason} (about {model.mb} MB{gate})"


def missing_checkpoint(encoder: str) -> str:
    """Return why an encoder cannot be had; "" if it is there, or if the hub gives a small file."""
    if _is_ours(encoder):
        return ""
    from huggingface_hub import constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(encoder, local_files_only=True)
        return ""
    except LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            return f"{encoder}: not in the hub cache, and HF_HUB_OFFLINE is set"
    hub = constants.ENDPOINT
    if no_answer := unreachable(hub):
        return f"{encoder}: not in the hub cache, and {hub} does not answer: {no_answer}"
    try:
        hf_hub_download(encoder, "config.json", etag_timeout=TIMEOUT_S)
    except (HfHubHTTPError, OSError) as error:
        # Such as a licence that has to be accepted first.
        return f"{encoder}: {error}"
    return ""


@functools.cache
def unreachable(url: str) -> str:
    """Return why a host does not answer within TIMEOUT_S; "" if it does. Tried once a process."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        # An answer all the same.
        error.close()
        return ""
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
