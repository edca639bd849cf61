"""Commands that search an index and give reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lsr.cli.arguments import IndexArgument, JsonOption, TermsOption
from lsr.cli.errors import user_errors

if TYPE_CHECKING:
    from lsr.search import Searcher

FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter", help="KEY=VALUE or, for numbers, KEY=LOW..HIGH that a hit must have; repeat."
    ),
]


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

    with user_errors(), Searcher(directory) as searcher:
        limits = {
            "filters": parse_filters(filters or []),
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


def parse_filters(pairs: list[str]) -> dict[str, Any]:
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


def explain(
    directory: IndexArgument,
    text: Annotated[str, typer.Argument(help="The query.")],
    doc_id: Annotated[str, typer.Argument(help="A document's id.")],
    max_terms: TermsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what each matched term added to the score of a document."""
    from lsr.search import Hit, Searcher

    with user_errors(), Searcher(directory) as searcher:
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
