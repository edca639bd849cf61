"""The command line.

Data on stdout, messages on stderr; exit code 0, 1 (failed) or 2 (bad usage). Everything heavy is
imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lsr.corpus import Corpus
    from lsr.indexing import Build
    from lsr.search import Searcher

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Learned sparse retrieval: index a corpus, search it, see why a document matched.",
)

IndexArgument = Annotated[Path, typer.Argument(metavar="DIR", help="An index directory.")]
CorpusArgument = Annotated[
    str,
    typer.Argument(
        metavar="CORPUS",
        help="A BEIR folder, a JSONL or TSV file (.gz too), an ir_datasets id, pydoc, or "
        "pydoc:PACKAGE,PACKAGE.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Skip and list bad lines instead of stopping.")
]
FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter", help="KEY=VALUE or, for numbers, KEY=LOW..HIGH that a hit must have; repeat."
    ),
]
TermsOption = Annotated[
    int | None, typer.Option("--max-terms", min=1, help="Query terms used, the heaviest.")
]


@contextmanager
def _errors() -> Iterator[None]:
    """What a user can mend becomes a line on stderr and exit code 1; the rest a traceback."""
    from lsr.indexes.jvm import JavaError
    from lsr.indexes.lucene import LuceneError

    try:
        yield
    except KeyboardInterrupt as error:
        typer.echo("lsr: interrupted; a build goes on when it is run again", err=True)
        raise typer.Exit(130) from error
    except (ValueError, KeyError, OSError, LuceneError, JavaError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        typer.echo(f"lsr: {message}", err=True)
        raise typer.Exit(1) from error


@app.command()
def index(
    corpus: CorpusArgument,
    out: Annotated[Path, typer.Option(help="The index directory.")],
    encoder: Annotated[
        str,
        typer.Option(
            help="grafted (the default: BM25 plus an untrained expansion head), lexical (BM25), "
            "a checkpoint directory, or a hub name."
        ),
    ] = "grafted",
    top_k: Annotated[int, typer.Option(min=1, help="Expansion terms kept per document.")] = 256,
    skip_bad: SkipBadOption = False,
) -> None:
    """Build an index; a build that was killed goes on where it was."""
    from lsr.corpus import open_corpus
    from lsr.display import progress_bar
    from lsr.indexing import build_index

    with _errors():
        documents = open_corpus(corpus, skip_bad=skip_bad)
        with progress_bar() as progress:
            build = build_index(documents, out, encoder, top_k=top_k, progress=progress)
    _report(build, documents, f"indexed into {out}")


@app.command()
def add(directory: IndexArgument, corpus: CorpusArgument, skip_bad: SkipBadOption = False) -> None:
    """Add documents to an index, or replace those of the same id, while searches go on."""
    from lsr.corpus import open_corpus
    from lsr.display import progress_bar
    from lsr.indexing import add_documents

    with _errors():
        documents = open_corpus(corpus, skip_bad=skip_bad)
        with progress_bar() as progress:
            build = add_documents(documents, directory, progress=progress)
    _report(build, documents, f"added to {directory}")


@app.command()
def delete(
    directory: IndexArgument,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Document ids.")],
) -> None:
    """Delete documents by id, all or none, while searches go on."""
    from lsr.indexing import delete_documents

    with _errors():
        delete_documents(directory, ids)
    typer.echo(f"deleted {len(ids)} documents from {directory}", err=True)


@app.command()
def merge(directory: IndexArgument) -> None:
    """Merge an index into one segment, which searches fastest; worth it when it is complete."""
    from lsr.indexing import merge_index

    with _errors():
        merge_index(directory)


def _report(build: Build, corpus: Corpus, what: str) -> None:
    # A corpus is read more than once: a bad line is told once.
    bad_lines = sorted(set(corpus.bad_lines))
    for bad in bad_lines:
        typer.echo(f"skipped {bad.path}:{bad.line}: {bad.reason}", err=True)
    parts = [f"{build.n_documents:,} documents {what}"]
    if build.encode_seconds:
        parts.append(f"encoded at {build.n_documents / build.encode_seconds:,.0f} documents/s")
    parts.append(f"quantisation loss {build.quantisation_loss:.2%}")
    if build.n_empty:
        parts.append(f"{build.n_empty} without a term (no query finds them)")
    if bad_lines:
        parts.append(f"{len(bad_lines)} bad lines were skipped")
    typer.echo("; ".join(parts), err=True)


@app.command()
def search(
    directory: IndexArgument,
    text: Annotated[str | None, typer.Argument(help="The query.")] = None,
    weights: Annotated[
        str | None, typer.Option(help='Instead of a text: terms as JSON, {"term": weight}.')
    ] = None,
    queries: Annotated[Path | None, typer.Option(help="Many queries: JSONL or TSV.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Write a TREC run file (with --queries).")
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", help="Hits per query: 10, or 1000 for a run.")
    ] = None,
    filters: FilterOption = None,
    min_score: Annotated[float, typer.Option(help="Smallest score of a hit.")] = 0.0,
    max_terms: TermsOption = None,
    threads: Annotated[int, typer.Option(min=1, help="Java threads (with --queries).")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Print the hits for one query, each with its reasons, or write a run for many."""
    if sum(given is not None for given in (text, weights, queries)) != 1:
        raise typer.BadParameter("give one of: a query text, --weights, --queries")
    if (queries is None) != (run is None):
        raise typer.BadParameter("--queries and --run belong together")
    from lsr.search import Searcher

    with _errors(), Searcher(directory) as searcher:
        limits = {
            "filters": _parse_filters(filters or []),
            "min_score": min_score,
            "max_terms": max_terms,
        }
        if queries is not None and run is not None:
            _write_run(searcher, queries, run, 1000 if k is None else k, threads, limits)
        else:
            query = text if text is not None else _parse_weights(weights or "")
            _print_hits(searcher, query, 10 if k is None else k, limits, as_json)


def _write_run(
    searcher: Searcher, queries: Path, run: Path, k: int, threads: int, limits: dict[str, Any]
) -> None:
    from lsr.corpus import read_queries
    from lsr.display import progress_bar
    from lsr.run import Run

    asked = read_queries(queries)
    texts = [query.text for query in asked]
    with progress_bar() as progress:
        ranked = searcher.rank(texts, k, threads=threads, progress=progress, **limits)
    ids = [query.id for query in asked]
    Run(dict(zip(ids, ranked, strict=True))).write_trec(run, "lsr")


def _print_hits(
    searcher: Searcher,
    query: str | dict[str, float],
    k: int,
    limits: dict[str, Any],
    as_json: bool,
) -> None:
    hits = searcher.search(query, k, **limits)
    max_terms = limits["max_terms"]
    reasons = [searcher.explain(query, hit.document.id, max_terms=max_terms) for hit in hits]
    if as_json:
        for hit, why in zip(hits, reasons, strict=True):
            typer.echo(json.dumps(_hit_record(hit, why), ensure_ascii=False))
        return
    from rich.console import Console

    from lsr.display import hit_view

    console = Console()
    for rank, (hit, why) in enumerate(zip(hits, reasons, strict=True), 1):
        console.print(hit_view(rank, hit, why, searcher.encoder.tokenizer))
    if not hits:
        typer.echo("no document matches", err=True)


def _hit_record(hit: Any, reasons: list[Any]) -> dict[str, Any]:
    return {
        "id": hit.document.id,
        "score": hit.score,
        "title": hit.document.title,
        "text": hit.document.text,
        "metadata": dict(hit.document.metadata),
        "terms": [reason._asdict() for reason in reasons],
    }


def _parse_weights(text: str) -> dict[str, float]:
    try:
        weights = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--weights is not valid JSON: {error}") from error
    if not isinstance(weights, dict) or not all(
        isinstance(weight, (int, float)) for weight in weights.values()
    ):
        raise ValueError('--weights must be a JSON object {"term": weight}')
    return weights


def _parse_filters(pairs: list[str]) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ValueError(f"--filter must be KEY=VALUE or KEY=LOW..HIGH, got {pair!r}")
        low, dots, high = value.partition("..")
        try:
            bounds = (float(low) if low else None, float(high) if high else None)
        except ValueError:
            # Not a range: dots in a plain value.
            bounds = (None, None)
        filters[key] = bounds if dots and bounds != (None, None) else value
    return filters


@app.command()
def explain(
    directory: IndexArgument,
    text: Annotated[str, typer.Argument(help="The query.")],
    doc_id: Annotated[str, typer.Argument(help="A document's id.")],
    max_terms: TermsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what each matched term added to the score of a document."""
    from lsr.search import Hit, Searcher

    with _errors(), Searcher(directory) as searcher:
        reasons = searcher.explain(text, doc_id, max_terms=max_terms)
        (document,) = searcher.index.documents([doc_id])
    hit = Hit(document, sum(reason.contribution for reason in reasons))
    if as_json:
        typer.echo(json.dumps(_hit_record(hit, reasons), ensure_ascii=False))
        return
    from rich.console import Console

    from lsr.display import chart, snippet

    console = Console()
    literal = {reason.term for reason in reasons if reason.literal_in_document}
    console.print(snippet(searcher.encoder.tokenizer, document.text, literal), "")
    console.print(chart(reasons))
    console.print(f"score {hit.score:.4f}")


@app.command(name="eval")
def evaluate_command(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="A BEIR folder, an ir_datasets id, or pydoc.")
    ],
    directory: Annotated[
        Path, typer.Option("--index", help="An index of its corpus; built if there is none.")
    ],
    encoder: Annotated[str, typer.Option(help="For an index that is built.")] = "grafted",
    split: Annotated[str, typer.Option(help="Which qrels.")] = "test",
    measures: Annotated[
        str, typer.Option(help="Names of ir-measures.")
    ] = "nDCG@10 RR@10 R@100 R@1000",
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

    with _errors():
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


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe that ships (lsr recipes), or a file.")],
    out: Annotated[Path, typer.Option(help="The run directory; a killed run in it goes on.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="What to train on: a BEIR folder, a JSONL or TSV file, an ir_datasets id; for "
            "recipes of pseudo-queries a corpus."
        ),
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Its small form: minutes on a laptop, no downloads.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE over the recipe, as training.seed=1; repeat."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train an encoder by a recipe, and measure it on held-out queries before and after."""
    pairs = dict(_setting(text) for text in settings or [])
    if data is not None:
        pairs["data.source"] = json.dumps(data)
    _train(recipe, out, pairs, tiny=tiny, as_json=as_json)


@app.command()
def adapt(
    corpus: CorpusArgument,
    out: Annotated[Path, typer.Option(help="The run directory; a killed run in it goes on.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE over the recipe, as training.seed=1; repeat."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an inference-free encoder for a corpus from nothing but the corpus."""
    pairs = dict(_setting(text) for text in settings or [])
    _train("adapt", out, pairs | {"data.source": json.dumps(corpus)}, tiny=False, as_json=as_json)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this one whole.")] = None,
) -> None:
    """List the recipes that ship: papers, deviations, expected results."""
    from dataclasses import asdict

    from lsr.training.recipe import load_recipe, names

    with _errors():
        if name is not None:
            typer.echo(json.dumps(asdict(load_recipe(name)), indent=2))
            return
        for each in names():
            found = load_recipe(each)
            typer.echo(f"{each}\n  {found.paper}\n  Deviates: {found.deviations}")
            typer.echo(f"  Expected: {found.expected}\n")


def _setting(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not (key and found):
        raise typer.BadParameter(f"--set wants KEY=VALUE, got {text!r}")
    return key, value


def _train(recipe: str, out: Path, settings: dict[str, str], *, tiny: bool, as_json: bool) -> None:
    from lsr.display import progress_bar
    from lsr.eval.learning import learn
    from lsr.training.guard import TrainingStopped
    from lsr.training.recipe import load_recipe

    with _errors():
        loaded = load_recipe(recipe, tiny=tiny, settings=settings)
        try:
            with progress_bar() as progress:
                learned = learn(loaded, out, progress)
        except TrainingStopped as error:
            typer.echo(f"lsr: training was stopped: {error}", err=True)
            raise typer.Exit(1) from error
        except ImportError as error:
            typer.echo(f'lsr: {error}; training needs `pip install "lsr-search[train]"`', err=True)
            raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(learned.record()))
        return
    from rich.console import Console

    console = Console()
    console.print(learned.table())
    if learned.curve:
        console.print("", learned.curve_table())
    console.print(
        f"\nmodel: {learned.model}\nnext:  lsr index CORPUS --encoder {learned.model} --out DIR"
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where its indexes go; found there, they are reused.")],
) -> None:
    """Index the standard library's documentation, search it with reasons, and evaluate."""
    from lsr.demo import run_demo

    with _errors():
        run_demo(out)


@app.command()
def doctor(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="An index to check.")
    ] = None,
) -> None:
    """Show which Java is used and why, and check an index."""
    from lsr.indexes.jvm import anserini_jar, find_runtime, find_runtimes

    with _errors():
        chosen = find_runtime()
        for runtime in find_runtimes():
            state = f"rejected: {runtime.rejected}" if runtime.rejected else "suitable"
            mark = "→" if runtime.home == chosen.home else " "
            typer.echo(
                f"{mark} Java {runtime.version} at {runtime.home} ({runtime.source}; "
                f"vector module: {'yes' if runtime.has_vector else 'no'}; {state})"
            )
        typer.echo(f"  Lucene from {anserini_jar()}")
        if directory is None:
            return
        from dataclasses import asdict

        from lsr.search import Searcher

        with Searcher(directory) as searcher:
            clean, report = searcher.index.check()
            typer.echo(f"{directory}: {searcher.index.n_docs:,} documents")
            for key, value in asdict(searcher.manifest).items():
                typer.echo(f"  {key}: {value}")
    typer.echo(report if not clean else "  CheckIndex: clean")
    if not clean:
        sys.exit(1)


if __name__ == "__main__":  # torchrun --nproc-per-node N -m lsr.cli train …
    app()
