"""Commands that search an index and give reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lsr.cli.arguments import IndexArgument, JsonOption, TermsOption
from lsr.cli.errors import user_errors
from lsr.cli.terminal import say, terminal

if TYPE_CHECKING:
    from lsr.documents import Query
    from lsr.request import Request
    from lsr.run import Ranking
    from lsr.search import Hit, Searcher
    from lsr.search.explanation import Explanation

# Ids of queries that a message names.
SHOWN = 5
ModeOption = Annotated[
    str | None,
    typer.Option(
        help="words (BM25), learned (the encoder's terms), sparse (both in one pass), dense, or "
        "hybrid (sparse and dense, interpolated). By default hybrid for an index that was built "
        "with --dense, else sparse."
    ),
]
FeedbackOption = Annotated[
    bool,
    typer.Option("--feedback", help="Search again with the query moved towards its first results."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Another setting of the search, such as interpolation.alpha=0.4, "
        "interpolation.method=rrf, feedback.documents=5, feedback.interpolate=after, mass=0.9 or "
        "rescore=200. May be repeated.",
    ),
]
FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="EXPR",
        help="What each hit must match, such as 'kind = function and year >= 1950' or "
        "'tags has any (a, b) and not contains(title, draft)'. May be repeated: all must match.",
    ),
]

FacetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--facet",
        metavar="FACET",
        help="What to count among all documents that pass the filter: the most frequent values of "
        "a key ('kind', or 'kind: 50' for fifty), or ranges ('year: ..1950, 1951..2000'). May be "
        "repeated. With --json they are on a last line, with the total.",
    ),
]
SortOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sort",
        metavar="KEY",
        help="Order the hits by a key of metadata: year, or -year for descending; documents "
        "without it come last. May be repeated: ties are ordered by the next one, then by score.",
    ),
]
RerankOption = Annotated[
    str | None,
    typer.Option(
        "--rerank",
        metavar="MODEL",
        help="A cross-encoder (a directory or a hub name) that orders the first 50 hits, or "
        "--set rerank.documents=N. It changes their order, not their scores.",
    ),
]
GroupOption = Annotated[
    str | None,
    typer.Option(
        "--group",
        metavar="KEY",
        help="One hit for each value of this key of metadata, or --set group.hits=N. A document "
        "without it is a group of its own.",
    ),
]


def search(
    directory: IndexArgument,
    text: Annotated[
        str | None,
        typer.Argument(
            help='The query. It may hold "a phrase", +must, -not, title:word, KEY:value, prefix*, '
            "fuzzy~1. Before one that begins with - write --, after all options: -- '-heat car'."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help='Terms in place of a text, as JSON: {"term": weight}.')
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            help="A file of many queries (JSONL or TSV), with --run. They are plain text."
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="The TREC run file that is written, with --queries.")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("-k", help="The number of hits of a query: 10 by default, 1000 in a run."),
    ] = None,
    mode: ModeOption = None,
    feedback: FeedbackOption = False,
    settings: SetOption = None,
    filters: FilterOption = None,
    facets: FacetOption = None,
    sort: SortOption = None,
    group: GroupOption = None,
    rerank: RerankOption = None,
    min_score: Annotated[float | None, typer.Option(help="The smallest score of a hit.")] = None,
    max_terms: TermsOption = None,
    threads: Annotated[
        int, typer.Option(min=1, help="The number of Java threads, with --queries.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Print the hits of one query, each with its reasons, or write the run of many queries."""
    if sum(given is not None for given in (text, weights, queries)) != 1:
        raise typer.BadParameter("give one of: a query text, --weights, --queries")
    if (queries is None) != (run is None):
        raise typer.BadParameter("--queries and --run belong together")
    if queries is not None and facets:
        raise typer.BadParameter("--facet does not depend on a query: it is not for --queries")
    if text is not None:
        _refuse_empty(text)
    from lsr.search import Searcher

    with user_errors(), Searcher(directory) as searcher:
        pairs = (settings or []) + [f"filter={expression}" for expression in filters or []]
        asked = request_settings(mode, feedback, pairs)
        if min_score is not None:
            asked["min_score"] = min_score
        if max_terms is not None:
            asked["max_terms"] = max_terms
        if facets:
            asked["facets"] = facets
        if sort:
            asked["sort"] = sort
        if rerank is not None:
            asked["rerank"] = {"model": rerank, **asked.get("rerank", {})}
        if group is not None:
            asked["group"] = {"key": group, **asked.get("group", {})}
        count = asked.pop("k", 10 if queries is None else 1000)
        if k is not None:
            count = k
        if queries is not None and run is not None:
            _write_run(searcher, queries, run, count, threads, asked)
        else:
            query = text if text is not None else _parse_weights(weights or "")
            _refuse_empty(query)
            _print_hits(searcher, query, count, asked, as_json)


def _refuse_empty(query: str | dict[str, float]) -> None:
    from lsr.request import is_empty

    if is_empty(query):
        raise typer.BadParameter("the query is empty: give at least one word")


def _write_run(
    searcher: Searcher, queries: Path, run: Path, k: int, threads: int, settings: dict[str, Any]
) -> None:
    from lsr.cli.display import progress_bar
    from lsr.corpus.records import read_queries
    from lsr.run import Run

    if not run.parent.is_dir():
        raise FileNotFoundError(f"{run.parent}: no such directory to write the run into")
    settings = {"operators": False} | settings
    asked = read_queries(queries)
    texts = [query.text for query in asked]
    with progress_bar() as progress:
        ranked = searcher.rank(texts, k, threads=threads, progress=progress, **settings)
    ids = [query.id for query in asked]
    found = dict(zip(ids, ranked, strict=True))
    Run(found).write_trec(run, "lsr")
    _tell_of_queries(searcher, asked, found, settings)


def _tell_of_queries(
    searcher: Searcher, queries: list[Query], found: dict[str, Ranking], settings: dict[str, Any]
) -> None:
    """Say on stderr which queries have no hits, and of which something was not read."""
    from lsr.request import ask
    from lsr.search.notices import of_query

    without = [query.id for query in queries if not found[query.id]]
    if without:
        have = "has" if len(without) == 1 else "have"
        say(
            f"{len(without):,} of {len(queries):,} queries {have} no hits and no line in the run: "
            f"{_some(without)}",
            err=True,
        )
    told: dict[str, str] = {}
    for query in queries:
        request = ask(query.text, **settings)
        notices = of_query(searcher, request, found=bool(found[query.id]))
        told |= {query.id: "; ".join(notices)} if notices else {}
    for query_id in list(told)[:SHOWN]:
        say(f"query {query_id!r}: {told[query_id]}", err=True)
    if len(told) > SHOWN:
        say(f"the like is true of {len(told) - SHOWN:,} more: {_some([*told][SHOWN:])}", err=True)


def _some(ids: list[str]) -> str:
    more = f", … ({len(ids) - SHOWN:,} more)" if len(ids) > SHOWN else ""
    return ", ".join(map(repr, ids[:SHOWN])) + more


def _print_hits(
    searcher: Searcher,
    query: str | dict[str, float],
    k: int,
    settings: dict[str, Any],
    as_json: bool,
) -> None:
    from lsr.request import ask
    from lsr.search.notices import of_query

    hits = searcher.search(query, k, **settings)
    for reason in searcher.approximations(query, **settings):
        say(f"approximate: {reason}", err=True)
    for notice in of_query(searcher, ask(query, k=k, **settings), found=bool(hits)):
        say(f"notice: {notice}", err=True)
    if not hits:
        say("no document matches", err=True)
    reasons = [searcher.explain(query, hit.document.id, **settings) for hit in hits]
    request = ask(query, k=k, **settings)
    counts = searcher.counts(request)
    if searcher.asked(request).request.filter and not request.facets:
        passing = "document passes" if counts.total == 1 else "documents pass"
        say(f"{counts.total:,} {passing} the {_conditions(request)}", err=True)
    if as_json:
        for hit, why in zip(hits, reasons, strict=True):
            typer.echo(json.dumps(_hit_record(hit, why), ensure_ascii=False))
        if request.facets:
            typer.echo(json.dumps(counts.to_json(), ensure_ascii=False))
        return
    from lsr.cli.display import facets_view, hit_view

    console = terminal()
    highlight = searcher.highlighter(request)
    for rank, (hit, why) in enumerate(zip(hits, reasons, strict=True), 1):
        console.print(hit_view(rank, hit, why, highlight))
    if request.facets:
        console.print(facets_view(counts))


def _conditions(request: Request) -> str:
    return "filter" if request.filter else "conditions of the query"


def request_settings(mode: str | None, feedback: bool, pairs: list[str] | None) -> dict[str, Any]:
    """Settings of a request from the command line's options."""
    from lsr.request import parse_settings

    settings = ({} if mode is None else {"mode": mode}) | parse_settings(pairs or [])
    if "query" in settings:
        raise ValueError("`query` is an argument of the command, not a setting")
    if feedback:
        settings.setdefault("feedback", {})
    return settings


def _hit_record(hit: Hit, why: Explanation) -> dict[str, Any]:
    return {
        "id": hit.document.id,
        "score": hit.score,
        "title": hit.document.title,
        "text": hit.document.text,
        "metadata": dict(hit.document.metadata),
        "group": hit.group,
        "rerank": hit.rerank and hit.rerank._asdict(),
        "sides": [part._asdict() for part in why.sides],
        "terms": [reason._asdict() for reason in why.terms],
        "boosts": [boost._asdict() for boost in why.boosts],
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


def explain(
    directory: IndexArgument,
    text: Annotated[
        str,
        typer.Argument(
            help="The query. Before one that begins with - write --, after all options."
        ),
    ],
    doc_id: Annotated[str, typer.Argument(help="The id of a document.")],
    mode: ModeOption = None,
    feedback: FeedbackOption = False,
    settings: SetOption = None,
    max_terms: TermsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what each term (and in mode hybrid each side) added to the score of a document."""
    _refuse_empty(text)
    from lsr.request import ask
    from lsr.search import Hit, Searcher
    from lsr.search.notices import of_document, of_query

    with user_errors(), Searcher(directory) as searcher:
        asked = request_settings(mode, feedback, settings)
        if max_terms is not None:
            asked["max_terms"] = max_terms
        why = searcher.explain(text, doc_id, **asked)
        (document,) = searcher.index.documents([doc_id])
        notices = of_query(searcher, ask(text, **asked), found=why.score != 0)
        for notice in notices + of_document(searcher, ask(text, **asked), document, why):
            say(f"notice: {notice}", err=True)
        if as_json:
            typer.echo(json.dumps(_hit_record(Hit(document, why.score), why), ensure_ascii=False))
            return
        from lsr.cli.display import chart, number, shares, snippet

        console = terminal()
        highlight = searcher.highlighter(ask(text, **asked))
        console.print(snippet(document.text, highlight), "")
        if why.terms:
            console.print(chart(why.terms))
        console.print(f"score {number(why.score, 4)}", shares(why))
