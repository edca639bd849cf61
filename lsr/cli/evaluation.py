"""Commands that measure, and the demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lsr.cli.arguments import JsonOption, TermsOption
from lsr.cli.errors import user_errors

DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="A BEIR folder, an ir_datasets id, or pydoc.")
]
SplitOption = Annotated[str, typer.Option(help="Which qrels.")]
MeasuresOption = Annotated[str, typer.Option(help="Names of ir-measures.")]


def evaluate(
    dataset: DatasetArgument,
    directory: Annotated[
        Path, typer.Option("--index", help="An index of its corpus; built if there is none.")
    ],
    encoder: Annotated[str, typer.Option(help="For an index that is built.")] = "default",
    split: SplitOption = "test",
    measures: MeasuresOption = "nDCG@10 RR@10 R@100 R@1000",
    run: Annotated[Path | None, typer.Option(help="Write the TREC run file too.")] = None,
    max_terms: TermsOption = None,
    threads: Annotated[int, typer.Option(min=1, help="Java threads of the run.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Measure an index on a dataset's queries, by the BEIR rules (own id dropped)."""
    from lsr.corpus import open_corpus
    from lsr.display import progress_bar
    from lsr.eval.datasets import load_dataset
    from lsr.eval.report import measure_index
    from lsr.indexes.manifest import NAME
    from lsr.indexing import build_index
    from lsr.search import Searcher

    with user_errors():
        data = load_dataset(dataset, split)
        if not (directory / NAME).exists():
            with progress_bar() as progress:
                build_index(open_corpus(dataset), directory, encoder, progress=progress)
        with Searcher(directory) as searcher, progress_bar() as progress:
            report = measure_index(
                searcher,
                data,
                measures.split(),
                max_terms=max_terms,
                threads=threads,
                progress=progress,
            )
    if run is not None:
        report.run.write_trec(run, "lsr")
    if as_json:
        typer.echo(json.dumps(report.record()))
        return
    from rich.console import Console

    Console().print(report.table())


def compare(
    dataset: DatasetArgument,
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_INDEX...",
            help="TREC run files or index directories, 1,000 documents of a query at most; the "
            "first is the baseline.",
        ),
    ],
    split: SplitOption = "test",
    measures: MeasuresOption = "nDCG@10 RR@10 R@100",
    as_json: JsonOption = False,
) -> None:
    """Test whether systems differ from a baseline on a dataset's queries (own id dropped)."""
    if len(systems) < 2:
        raise typer.BadParameter("give a baseline and at least one system to compare with it")
    from lsr.display import progress_bar
    from lsr.eval.comparison import compare_systems
    from lsr.eval.datasets import load_dataset

    with user_errors():
        data = load_dataset(dataset, split)
        with progress_bar() as progress:
            found = compare_systems(systems, data, measures.split(), progress=progress)
    if as_json:
        typer.echo(json.dumps(found.record()))
        return
    from rich.console import Console

    console = Console()
    for table in found.tables():
        console.print(table, "")
    note = f"p values corrected by Holm for {len(systems) - 1} comparisons with the baseline"
    console.print(f"{found.n_queries} queries; {note}", soft_wrap=True)


def demo(
    out: Annotated[Path, typer.Option(help="Where its indexes go; found there, they are reused.")],
) -> None:
    """Index the standard library's documentation, search it with reasons, and evaluate."""
    from lsr.demo import run_demo

    with user_errors():
        run_demo(out)
