"""The command line: `lsr index`, `lsr search`, `lsr explain`, `lsr eval`, `lsr doctor`.

Data on stdout, messages on stderr; exit code 0, 1 (failed) or 2 (bad usage). Everything heavy is
imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lsr.search import Contribution

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

IndexArgument = Annotated[Path, typer.Argument(metavar="DIR", help="An index directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON lines, for programs.")]


@contextmanager
def _errors() -> Iterator[None]:
    """What a user can mend becomes a line on stderr and exit code 1; the rest a traceback."""
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        typer.echo(f"lsr: {message}", err=True)
        raise typer.Exit(1) from error


@app.command()
def index(
    corpus: Annotated[
        str,
        typer.Argument(help="A BEIR folder, a JSONL or TSV file, an ir_datasets id, or pydoc."),
    ],
    out: Annotated[Path, typer.Option(help="The index directory.")],
    encoder: Annotated[
        str, typer.Option(help="lexical (BM25), a checkpoint directory, or a hub name.")
    ] = "lexical",
    top_k: Annotated[int, typer.Option(min=1, help="Terms kept per document.")] = 256,
    skip_bad: Annotated[
        bool, typer.Option(help="Skip and list bad lines instead of stopping.")
    ] = False,
) -> None:
    """Build an index; a build that was killed goes on where it was."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from lsr.corpus import open_corpus
    from lsr.indexing import build_index

    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} documents"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with _errors(), bar:
        documents = open_corpus(corpus, skip_bad=skip_bad)
        task = bar.add_task(f"indexing {corpus}", total=None)
        build_index(
            documents, out, encoder, top_k=top_k, progress=lambda n: bar.update(task, completed=n)
        )
    # A corpus may be read twice: a bad line is told once.
    bad_lines = sorted(set(documents.bad_lines))
    for bad in bad_lines:
        typer.echo(f"skipped {bad.path}:{bad.line}: {bad.reason}", err=True)
    skipped = f"; {len(bad_lines)} bad lines were skipped" if bad_lines else ""
    typer.echo(f"indexed into {out}{skipped}", err=True)


@app.command()
def search(
    directory: IndexArgument,
    text: Annotated[str | None, typer.Argument(help="The query.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Many queries: JSONL or TSV.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Write a TREC run file (with --queries).")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Hits per query.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Print the hits for one query, each with its reasons, or write a run for many."""
    from lsr.search import Searcher

    if (text is None) == (queries is None) or (queries is None) != (run is None):
        raise typer.BadParameter("give either a query text, or --queries with --run")
    with _errors(), Searcher(directory) as searcher:
        if queries is not None and run is not None:
            from lsr.corpus import read_queries
            from lsr.run import Run

            asked = read_queries(queries)
            ranked = searcher.rank([query.text for query in asked], k)
            Run(dict(zip([query.id for query in asked], ranked, strict=True))).write_trec(
                run, "lsr"
            )
            return
        assert text is not None
        for rank, hit in enumerate(searcher.search(text, k), 1):
            reasons = searcher.explain(text, hit.document.id)
            if as_json:
                typer.echo(
                    json.dumps(
                        {
                            "id": hit.document.id,
                            "score": hit.score,
                            "title": hit.document.title,
                            "terms": [reason._asdict() for reason in reasons],
                        }
                    )
                )
                continue
            typer.echo(f"{rank:3} {hit.score:8.3f}  {hit.document.id}  {hit.document.title}")
            terms = "  ".join(f"{reason.term} {reason.share:.0%}" for reason in reasons[:6])
            typer.echo(f"             {terms}")


@app.command()
def explain(
    directory: IndexArgument,
    text: Annotated[str, typer.Argument(help="The query.")],
    doc_id: Annotated[str, typer.Argument(help="A document's id.")],
    as_json: JsonOption = False,
) -> None:
    """Show what each matched term added to the score of a document."""
    from lsr.search import Searcher

    with _errors(), Searcher(directory) as searcher:
        reasons = searcher.explain(text, doc_id)
    if as_json:
        typer.echo(json.dumps([reason._asdict() for reason in reasons]))
    else:
        _print_chart(reasons)


def _print_chart(reasons: list[Contribution]) -> None:
    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Table

    table = Table("term", "query", "document", "q × d", "share", "", box=None)
    for reason in reasons:
        table.add_row(
            reason.term,
            f"{reason.query_weight:.3f} {'literal' if reason.literal_in_query else 'expanded'}",
            f"{reason.document_weight:.3f} "
            f"{'literal' if reason.literal_in_document else 'expanded'}",
            f"{reason.contribution:.4f}",
            f"{reason.share:.1%}",
            Bar(1.0, 0.0, reason.share, width=30),
        )
    console = Console()
    console.print(table)
    console.print(f"score {sum(reason.contribution for reason in reasons):.4f}")


@app.command(name="eval")
def evaluate_command(
    dataset: Annotated[str, typer.Argument(help="A BEIR folder or an ir_datasets id.")],
    directory: Annotated[Path, typer.Option("--index", help="An index of its corpus.")],
    split: Annotated[str, typer.Option(help="Which qrels.")] = "test",
    measures: Annotated[str, typer.Option(help="Names of ir-measures.")] = "nDCG@10 RR@10 R@100",
    as_json: JsonOption = False,
) -> None:
    """Measure an index on a dataset's queries, by the BEIR rules (own id dropped)."""
    from lsr.eval.datasets import load_dataset
    from lsr.eval.measures import evaluate
    from lsr.run import Run
    from lsr.search import Searcher

    with _errors(), Searcher(directory) as searcher:
        data = load_dataset(dataset, split)
        ranked = searcher.rank([query.text for query in data.queries], k=1001)
        run = Run(dict(zip([query.id for query in data.queries], ranked, strict=True)))
        result = evaluate(run.without_self().truncate(1000), data.qrels, measures.split())
    if as_json:
        typer.echo(json.dumps({"means": result.means, "per_query": result.per_query}))
        return
    for name, value in result.means.items():
        typer.echo(f"{name:10} {value:.4f}")


@app.command()
def doctor(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="An index to check.")
    ] = None,
) -> None:
    """Show which Java is used and why, and check an index."""
    from lsr.indexes.jvm import find_runtime, find_runtimes

    with _errors():
        chosen = find_runtime()
        for runtime in find_runtimes():
            state = f"rejected: {runtime.rejected}" if runtime.rejected else "suitable"
            mark = "→" if runtime.home == chosen.home else " "
            typer.echo(
                f"{mark} Java {runtime.version} at {runtime.home} ({runtime.source}; "
                f"vector module: {'yes' if runtime.has_vector else 'no'}; {state})"
            )
        if directory is None:
            return
        from lsr.search import Searcher

        with Searcher(directory) as searcher:
            clean, report = searcher.index.check()
            typer.echo(f"{directory}: {searcher.index.n_docs} documents, {searcher.manifest}")
    typer.echo(report)
    if not clean:
        sys.exit(1)
