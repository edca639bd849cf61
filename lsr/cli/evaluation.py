"""Commands that measure, and the demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lsr.cli.arguments import JsonOption
from lsr.cli.errors import user_errors
from lsr.cli.indexing import show_notices
from lsr.cli.terminal import say, terminal

if TYPE_CHECKING:
    from lsr.eval.datasets import Dataset
    from lsr.eval.results import Result

DATASETS = (
    "A BEIR folder, pydoc, an ir_datasets id, or a short name: scifact, cqadupstack, dl19, "
    "nano-beir, lotte/pooled/search, …"
)
MEASURES = "nDCG@10 RR@10 AP R@100 R@1000 Judged@10"
DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help=DATASETS)]
SplitOption = Annotated[str, typer.Option(help="The split whose qrels are used.")]
MeasuresOption = Annotated[str, typer.Option(help="Measures by their names in ir-measures.")]


def evaluate(
    datasets: Annotated[list[str], typer.Argument(metavar="DATASET...", help=DATASETS)],
    systems: Annotated[
        list[str] | None,
        typer.Option(
            "--system",
            metavar="SYSTEM",
            help="[NAME=]SYSTEM[?KEY=VALUE&…]: a TREC run file or a folder of them "
            "(DATASET.trec), an index, or an encoder, whose index is built in the cache. KEY is a "
            "setting of the search (mode=hybrid, interpolation.alpha=0.4, feedback.documents=5), "
            "dense or top_k. May be repeated: all others are compared with the first.",
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--index", help="An index that is measured; it is built if it does not exist."
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Of the index that --index builds, or that is there; default if none."),
    ] = None,
    split: SplitOption = "test",
    measures: MeasuresOption = MEASURES,
    relevant_grade: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The lowest grade that counts as relevant in measures without grades. By default "
            "2 for TREC DL, and 1 for others.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="The folder of indexes and first passes, ~/.cache/lsr by default."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A folder for the report (HTML, Markdown, LaTeX), results.json and TREC runs."
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="A file for the run, with one system and one dataset.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="The number of Java threads.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Measure systems on datasets and test their differences.

    As in BEIR, a document with the id of the query is dropped from the hits.
    """
    named = [*([str(directory)] if directory else []), *(systems or [])]
    if not named:
        raise typer.BadParameter("give at least one --system, or --index")
    from lsr.eval.datasets import load_datasets
    from lsr.eval.measures import split_measures

    with user_errors():
        data = [dataset for name in datasets for dataset in load_datasets(name, split)]
        if relevant_grade is not None:
            data = [dataset._replace(relevant_grade=relevant_grade) for dataset in data]
        if run is not None and len(data) * len(named) > 1:
            raise ValueError(
                f"--run is for 1 system on 1 dataset, got {len(named)} on {len(data)}: use --out"
            )
        if encoder is not None and directory is None:
            raise ValueError("--encoder is for --index; a system names its own: --system ENCODER")
        if directory is not None:
            _build_unless_there(directory, data, encoder)
        results = _evaluate(named, data, split_measures(measures), cache, out, threads, as_json)
        if run is not None:
            results[0].run.write_trec(run, "lsr")


def _build_unless_there(directory: Path, data: list[Dataset], encoder: str | None) -> None:
    from lsr.building.build import build_index
    from lsr.building.encoders import DEFAULT, encoder_name
    from lsr.cli.display import progress_bar
    from lsr.corpus.corpus import open_corpus
    from lsr.indexes.manifest import NAME, read_manifest

    if (directory / NAME).exists():
        built_with = read_manifest(directory).encoder
        if encoder is not None and encoder_name(encoder) != built_with:
            raise ValueError(
                f"{directory} was built with encoder {built_with!r}, not {encoder!r}: leave "
                "--encoder out, or name another directory"
            )
        return
    corpora = {dataset.source or dataset.name for dataset in data}
    if len(corpora) > 1:
        raise ValueError(f"{directory}: one index for {len(corpora)} corpora; use --system ENCODER")
    with progress_bar() as progress:
        build = build_index(
            open_corpus(corpora.pop()), directory, encoder or DEFAULT, progress=progress
        )
    show_notices(build)


def _evaluate(
    named: list[str],
    data: list[Dataset],
    measures: list[str],
    folder: Path | None,
    out: Path | None,
    threads: int,
    as_json: bool,
) -> list[Result]:
    """Evaluate, print dataset by dataset, write under `out`."""
    from contextlib import ExitStack
    from dataclasses import replace

    from lsr.cli.display import progress_bar
    from lsr.eval import report
    from lsr.eval.cache import Cache, default_folder
    from lsr.eval.evidence import Evidence
    from lsr.eval.page import require_libraries
    from lsr.eval.publish import publish
    from lsr.eval.systems import check, evaluate_system, parse_system

    if out is not None:
        require_libraries()
    systems = [parse_system(text) for text in named]
    check(data, systems, measures)
    cache = Cache(folder or default_folder())
    if any(system.kind in ("index", "encoder") for system in systems):
        say(f"cache: {cache.folder}", err=True)
    results: list[Result] = []
    records: list[dict[str, Any]] = []
    for dataset in data:
        of_dataset = []
        for system in systems:
            say(f"{dataset.label}: {system.name}", err=True)
            with progress_bar() as progress:
                result = evaluate_system(
                    system,
                    dataset,
                    measures,
                    cache=cache,
                    beside=systems,
                    threads=threads,
                    progress=progress,
                )
            if out is not None:
                report.write_run(out, result)
                # What is on disk need not stay in memory; what a page shows of it does.
                result = replace(result, run=result.run.truncate(report.KEPT))
            of_dataset.append(result)
        records += _print_dataset(of_dataset, len(data) == 1, as_json)
        results += of_dataset
    records += _print_averages(report.averages(results, measures), as_json)
    if out is not None:
        report.write_records(out, records)
        with ExitStack() as opened:
            evidence = Evidence(data, systems, cache, opened)
            page = publish(results, out, documents=evidence.documents, explain=evidence.explain)
        say(f"{page} (and .md, .tex, results.json, runs/)", err=True)
    return results


def _print_dataset(results: list[Result], alone: bool, as_json: bool) -> list[dict[str, Any]]:
    """Print all systems on one dataset; return their records."""
    from lsr.eval import report

    found = report.differences(results)
    records = [report.record(result, found) for result in results]
    if as_json:
        for record in records:
            typer.echo(json.dumps(record))
        return records
    console = terminal()
    console.print(report.table(results, found), "")
    if found:
        for table in found.tables() if alone else ():
            console.print(table, "")
        console.print(f"† better, ‡ worse than {found.baseline}: randomisation test, p < 0.05.")
        console.print(_note(found.n_queries, len(results) - 1), "", soft_wrap=True)
    return records


def _print_averages(averages: list[Any], as_json: bool) -> list[dict[str, Any]]:
    from lsr.eval import report

    records = []
    for average in averages:
        of_systems = [report.average_record(average, system) for system in average.means]
        records += of_systems
        if not as_json:
            terminal().print(report.average_table(average), "")
            continue
        for record in of_systems:
            typer.echo(json.dumps(record))
    return records


def compare(
    dataset: DatasetArgument,
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_INDEX...",
            help="TREC run files or indexes; the first is the baseline. At most 1,000 documents "
            "of a query are looked at.",
        ),
    ],
    split: SplitOption = "test",
    measures: MeasuresOption = "nDCG@10 RR@10 R@100",
    as_json: JsonOption = False,
) -> None:
    """Test whether systems differ from a baseline on the queries of a dataset.

    As in BEIR, a document with the id of the query is dropped from the hits.
    """
    if len(systems) < 2:
        raise typer.BadParameter("give a baseline and at least one system to compare with it")
    from lsr.cli.display import progress_bar
    from lsr.eval.comparison import compare_systems
    from lsr.eval.datasets import load_dataset
    from lsr.eval.measures import split_measures

    with user_errors():
        data = load_dataset(dataset, split)
        with progress_bar() as progress:
            found = compare_systems(systems, data, split_measures(measures), progress=progress)
    if as_json:
        typer.echo(json.dumps(found.record()))
        return
    console = terminal()
    for table in found.tables():
        console.print(table, "")
    console.print(_note(found.n_queries, len(systems) - 1), soft_wrap=True)


def _note(n_queries: int, n_comparisons: int) -> str:
    corrected = f"corrected by Holm for {n_comparisons} comparisons with the baseline"
    return f"{n_queries} queries; p values {corrected}"


def demo(
    out: Annotated[
        Path, typer.Option(help="The folder of its indexes. Indexes that are there are used again.")
    ],
) -> None:
    """Index the documentation of the standard library, search it, and evaluate the hits."""
    from lsr.cli.demo import run_demo

    with user_errors():
        run_demo(out)
