"""Rankings of an index for a dataset's queries, their quality, and their cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lsr.eval.datasets import Dataset
from lsr.eval.measures import (
    Evaluation,
    check_grades,
    evaluate,
    parse_measures,
    with_relevant_grade,
)
from lsr.eval.results import Cost, Result
from lsr.progress import Progress
from lsr.request import ask
from lsr.run import Run
from lsr.search import Searcher

# The documents of a query that are measured.
DEPTH = 1000
# Queries that are timed, one after the other, at LATENCY_K hits.
LATENCY_QUERIES = 500
LATENCY_K = 10


def measure_index(
    searcher: Searcher,
    dataset: Dataset,
    measures: Sequence[str],
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    threads: int = 1,
    progress: Progress = lambda step, done, total: None,
) -> Result:
    """Measure quality and cost of an index on a dataset, by the BEIR rules (own id dropped).

    Args:
        searcher: the index.
        dataset: queries and judgements.
        measures: names of ir-measures.
        name: the system's name in tables; by default the encoder's name.
        settings: fields of `lsr.request.Request`.
        threads: Java threads of the run; times are those of single queries.
        progress: see Progress.

    Raises:
        ValueError: an unknown measure or setting.
    """
    # A misspelt measure is refused before the work, not after it.
    names_of_measures(measures, dataset)
    run = rank_queries(searcher, dataset, settings=settings, threads=threads, progress=progress)
    cost = measure_cost(searcher, dataset, settings=settings, progress=progress)
    evaluation = evaluate_run(run, dataset, measures)
    return Result(name or searcher.manifest.encoder, dataset, run, evaluation, cost)


def rank_queries(
    searcher: Searcher,
    dataset: Dataset,
    *,
    settings: Mapping[str, Any] | None = None,
    threads: int = 1,
    progress: Progress = lambda step, done, total: None,
) -> Run:
    """Rank the DEPTH best documents of an index for each query, without the query's own id."""
    texts = [query.text for query in dataset.queries]
    # One more hit, because a query's own document is dropped.
    ranked = searcher.rank(texts, DEPTH + 1, threads=threads, progress=progress, **(settings or {}))
    ids = [query.id for query in dataset.queries]
    return Run(dict(zip(ids, ranked, strict=True))).without_self().truncate(DEPTH)


def names_of_measures(measures: Sequence[str], dataset: Dataset) -> list[str]:
    """Return the names of measures with the lowest relevant grade of a dataset.

    Raises:
        ValueError: see `parse_measures` and `check_grades`; or a cutoff is deeper than rankings are
            measured.
    """
    names = with_relevant_grade(measures, dataset.relevant_grade)
    parsed = parse_measures(names)
    check_grades(parsed.values(), dataset.qrels)
    for name, measure in parsed.items():
        cutoff = measure.params.get("cutoff", 1)
        if cutoff > DEPTH:
            raise ValueError(
                f"{name!r}: the cutoff must be in [1, {DEPTH}], the documents of a query that are "
                f"measured, got {cutoff}"
            )
    return names


def evaluate_run(run: Run, dataset: Dataset, measures: Sequence[str]) -> Evaluation:
    """Measure a run on a dataset, see `names_of_measures`."""
    return evaluate(run, dataset.qrels, names_of_measures(measures, dataset))


def measure_cost(
    searcher: Searcher,
    dataset: Dataset,
    *,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = lambda step, done, total: None,
) -> Cost:
    """Measure what an index costs: medians (for postings the mean) over the first 500 queries.

    Postings of learned terms and of words are counted for the first pass, after cuts by `max_terms`
    or `mass`. Mode dense has none. A dense side counts as part of the index in modes dense and
    hybrid.
    """
    texts = [query.text for query in dataset.queries[:LATENCY_QUERIES]]
    has_dense = searcher.manifest.dense is not None
    request = ask("", **(settings or {})).resolved(dense=has_dense)
    # With `rescore` the query is cut later; the postings of the cut query count.
    request = request.model_copy(update={"rescore": None})
    encode = searcher.passes.encode
    # The first query pays for everything that is loaded once.
    searcher.rank(texts[:1], LATENCY_K, **(settings or {}))
    encode_seconds, seconds = [], []
    for number, text in enumerate(texts, 1):
        encode_seconds.append(_seconds(encode, [text], request, 1))
        seconds.append(_seconds(searcher.rank, [text], LATENCY_K, **(settings or {})))
        progress("timing single queries", number, len(texts))
    batch = encode(texts, request, 1)
    postings = 0
    if batch.sparse is not None:
        postings += int(searcher.index.document_frequencies()[batch.sparse.indices].sum())
    words = [word for of_query in batch.words or () for word in of_query]
    postings += int(searcher.index.word_frequencies(words)[1].sum())
    index_bytes = searcher.index.size_bytes
    dense = searcher.index.path.with_name("dense")
    if "dense" in searcher.sides(request):
        index_bytes += sum(path.stat().st_size for path in dense.rglob("*") if path.is_file())
    p50, p95 = np.percentile(seconds, [50, 95])
    return Cost(
        n_documents=searcher.index.n_docs,
        index_bytes=index_bytes,
        encode_docs_per_second=searcher.manifest.encode_docs_per_second,
        encode_query_us=1e6 * float(np.median(encode_seconds)),
        postings=postings / len(texts),
        p50_ms=1e3 * float(p50),
        p95_ms=1e3 * float(p95),
    )


def _seconds(function: Callable[..., object], *arguments: object, **named: object) -> float:
    start = time.perf_counter()
    function(*arguments, **named)
    return time.perf_counter() - start
