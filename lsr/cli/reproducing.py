"""The command that runs published tables again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsr.cli.arguments import JsonOption
from lsr.cli.errors import user_errors
from lsr.cli.terminal import say

if TYPE_CHECKING:
    from lsr.eval.reproduce import Outcome, Published, Row, Source
    from lsr.progress import Progress


def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(metavar="TABLE", help="A table of --list: beir13, msmarco-dev, dl19, …"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Run only this model of the table.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Run only this dataset of the table.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="The folder of indexes and first passes, ~/.cache/lsr by default."),
    ] = None,
    list_all: Annotated[
        bool,
        typer.Option("--list", help="List the tables and models, and which of them lsr can run."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a published table again and compare: each number is ok, close, off or missing.

    ok differs by at most .003, close by at most .01 (.03 on arguana, climate-fever and trec-covid),
    off by more.

    A number is missing if its model or dataset cannot be had; the reasons are listed, and a
    miniature collection in the package is run instead.

    The exit code is 0 if no number is off or missing, else 1.
    """
    from lsr.eval.cache import default_folder
    from lsr.eval.reproduce import MINIATURE, choose, read_published

    with user_errors():
        published = read_published()
        if list_all:
            _list(published, as_json)
            return
        if table is None:
            raise ValueError(f"name a table (see --list): {', '.join(published.tables)}")
        rows = choose(published, table, model, dataset)
        if table == MINIATURE:
            outcomes = _check_machinery(published, rows, as_json)
        else:
            outcomes = _reproduce(published, rows, cache or default_folder(), as_json)
            if any(outcome.ours is None for outcome in outcomes):
                say("\nThe machinery, on the miniature collection in the package:", err=True)
                outcomes += _check_machinery(published, choose(published, MINIATURE), as_json)
    if any(outcome.verdict in ("off", "missing") for outcome in outcomes):
        raise typer.Exit(1)


def _check_machinery(published: Published, rows: Sequence[Row], as_json: bool) -> list[Outcome]:
    """Outcomes on the miniature, in a cache of its own: an old run would check nothing."""
    with tempfile.TemporaryDirectory() as folder:
        return _reproduce(published, rows, Path(folder), as_json)


def _reproduce(
    published: Published, rows: Sequence[Row], folder: Path, as_json: bool
) -> list[Outcome]:
    """Run rows and print each as it comes; those that are missing last."""
    from lsr.eval.cache import Cache
    from lsr.eval.reproduce import reproduce as run

    outcomes: list[Outcome] = []
    for outcome in run(published, rows, Cache(folder), _watch):
        if as_json:
            typer.echo(json.dumps(_record(published, outcome)))
        elif outcome.ours is not None:
            if not any(earlier.ours is not None for earlier in outcomes):
                say(_HEAD)
            say(_line(outcome))
        outcomes.append(outcome)
    if not as_json:
        _print_missing(outcomes)
        _print_sources(published, outcomes)
        counts = [
            f"{sum(outcome.verdict == verdict for outcome in outcomes)} {verdict}"
            for verdict in ("ok", "close", "off", "missing")
        ]
        say(f"{len(outcomes)} numbers: {', '.join(counts)}")
    return outcomes


@contextmanager
def _watch(what: str) -> Iterator[Progress]:
    from lsr.cli.display import progress_bar

    say(what, err=True)
    with progress_bar() as progress:
        yield progress


_FORMAT = "{:26} {:22} {:8} {:>9} {:>7} {:>8}  {:7}  {}"
_HEAD = _FORMAT.format(
    *("model", "dataset", "measure", "published", "ours", "diff.", "verdict", "source")
)


def _line(outcome: Outcome) -> str:
    row = outcome.row
    numbers = f"{row.published:.4f}", f"{outcome.ours:.4f}", f"{outcome.difference:+.4f}"
    return _FORMAT.format(
        row.model, row.dataset, row.measure, *numbers, outcome.verdict, row.source
    )


def _print_missing(outcomes: Iterable[Outcome]) -> None:
    """Models and datasets that were not measured, with numbered reasons below."""
    numbers: dict[str, int] = {}
    lines: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for outcome in outcomes:
        if outcome.ours is None:
            for reason in outcome.reasons:
                numbers.setdefault(reason, len(numbers) + 1)
            key = (outcome.row.model, outcome.row.dataset, outcome.reasons)
            lines.setdefault(key, []).append(outcome.row.measure)
    for (model, dataset, reasons), measures in lines.items():
        why = "".join(f"[{numbers[reason]}]" for reason in reasons)
        shown = " ".join(dict.fromkeys(measures))
        say(f"missing  {model:26} {dataset:22} {shown:22} {why}")
    for reason, number in numbers.items():
        say(f"[{number}] {reason}")
    if numbers:
        say(
            "What is not on disk is downloaded where there is a network; or copy ~/.ir_datasets "
            "and the hub's cache from there."
        )


def _print_sources(published: Published, outcomes: Iterable[Outcome]) -> None:
    for key in dict.fromkeys(outcome.row.source for outcome in outcomes):
        say(_source_line(key, published.sources[key]))


def _source_line(key: str, source: Source) -> str:
    commit = f"commit {source.commit[:7]}" if source.commit else ""
    parts = [f"{key}: {source.title}", source.url, commit, f"({source.evidence})"]
    return " ".join(filter(None, parts))


def _record(published: Published, outcome: Outcome) -> dict[str, object]:
    return {
        **outcome.row._asdict(),
        "ours": outcome.ours,
        "difference": outcome.difference,
        "verdict": outcome.verdict,
        "reasons": list(outcome.reasons),
        "url": published.sources[outcome.row.source].url,
    }


def _list(published: Published, as_json: bool) -> None:
    """Tables with their models and sources; models with their encoder, or why lsr has none."""
    for name, table in published.tables.items():
        sources: dict[str, list[str]] = {}
        for row in table.rows:
            if row.source not in sources.setdefault(row.model, []):
                sources[row.model].append(row.source)
        if as_json:
            record = {"table": name, "datasets": table.datasets, "models": sources}
            typer.echo(json.dumps(record))
            continue
        say(f"{name}: {len(table.rows)} numbers on {', '.join(table.datasets)}")
        for model_name, keys in sources.items():
            runs = "runs" if published.models[model_name].encoder else "-"
            say(f"  {runs:5} {model_name:31} {', '.join(keys)}")
        say("")
    if as_json:
        for key, source in published.sources.items():
            typer.echo(json.dumps({"source": key, **source._asdict()}))
        for name, model in published.models.items():
            typer.echo(json.dumps({"model": name, **model._asdict()}))
        return
    say("Models that lsr runs, and their encoders:")
    for name, model in published.models.items():
        if model.encoder:
            say(f"  {name:31} {model.encoder}")
    say("\nModels that it cannot run:")
    for name, model in published.models.items():
        if model.obstacle:
            say(f"  {name:31} {model.obstacle}")
    say("\nSources:")
    for key, source in published.sources.items():
        say(f"  {_source_line(key, source)}")
