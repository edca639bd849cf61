"""What an index is worth on a dataset, and what it costs: effectiveness, size, speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from lsr.eval.datasets import Dataset
from lsr.eval.measures import Evaluation, evaluate, parse_measures
from lsr.indexing import Progress
from lsr.run import Run
from lsr.search import Searcher

DEPTH = 1000
# Queries that latency is measured on, one after the other, at LATENCY_K hits.
LATENCY_QUERIES = 500
LATENCY_K = 10


@dataclass(frozen=True)
class Report:
    """One index on one dataset."""

    dataset: str
    encoder: str
    run: Run
    evaluation: Evaluation
    n_documents: int
    index_bytes: int
    postings_per_document: float
    encode_docs_per_second: float
    latency_ms: dict[str, float]  # p50 and p95, query text to the ids of its 10 best documents

    def record(self) -> dict[str, Any]:
        """Everything but the run, for JSON."""
        return {
            "dataset": self.dataset,
            "encoder": self.encoder,
            "means": self.evaluation.means,
            "n_documents": self.n_documents,
            "index_bytes": self.index_bytes,
            "postings_per_document": self.postings_per_document,
            "encode_docs_per_second": self.encode_docs_per_second,
            "latency_ms": self.latency_ms,
            "per_query": self.evaluation.per_query,
        }

    def table(self) -> Table:
        """The means and the costs, for a terminal."""
        return comparison([self])


def rank_queries(
    searcher: Searcher,
    dataset: Dataset,
    *,
    max_terms: int | None = None,
    threads: int = 1,
    progress: Progress = lambda step, done, total: None,
) -> Run:
    """The DEPTH best documents of an index for a dataset's queries, a query's own id dropped."""
    texts = [query.text for query in dataset.queries]
    # One more than is kept: a query's own document is dropped.
    ranked = searcher.rank(
        texts, DEPTH + 1, max_terms=max_terms, threads=threads, progress=progress
    )
    ids = [query.id for query in dataset.queries]
    return Run(dict(zip(ids, ranked, strict=True))).without_self().truncate(DEPTH)


def measure_index(
    searcher: Searcher,
    dataset: Dataset,
    measures: Sequence[str],
    *,
    max_terms: int | None = None,
    threads: int = 1,
    progress: Progress = lambda step, done, total: None,
) -> Report:
    """Run a dataset's queries through an index, by the BEIR rules (own id dropped).

    `threads` is the number of Java threads of the run; latency is that of single queries.

    Raises:
        ValueError: an unknown measure.
    """
    # A misspelt measure is told before the work, not after it.
    parse_measures(measures)
    run = rank_queries(searcher, dataset, max_terms=max_terms, threads=threads, progress=progress)
    evaluation = evaluate(run, dataset.qrels, measures)
    milliseconds = []
    timed = [query.text for query in dataset.queries[:LATENCY_QUERIES]]
    for number, text in enumerate(timed, 1):
        start = time.perf_counter()
        searcher.rank([text], LATENCY_K, max_terms=max_terms)
        milliseconds.append(1000 * (time.perf_counter() - start))
        progress("timing single queries", number, len(timed))
    p50, p95 = np.percentile(milliseconds, [50, 95])
    n_documents = searcher.index.n_docs
    return Report(
        dataset=dataset.name,
        encoder=searcher.manifest.encoder,
        run=run,
        evaluation=evaluation,
        n_documents=n_documents,
        index_bytes=searcher.index.size_bytes,
        postings_per_document=searcher.index.n_postings / max(n_documents, 1),
        encode_docs_per_second=searcher.manifest.encode_docs_per_second,
        latency_ms={"p50": float(p50), "p95": float(p95)},
    )


def comparison(reports: Sequence[Report]) -> Table:
    """Reports side by side, one column each, for a terminal."""
    table = Table("", *(report.encoder for report in reports), box=None, pad_edge=False)
    for measure in reports[0].evaluation.means:
        table.add_row(measure, *(f"{r.evaluation.means[measure]:.4f}" for r in reports))
    table.add_row("documents", *(f"{r.n_documents:,}" for r in reports))
    table.add_row("index MB", *(f"{r.index_bytes / 1e6:.1f}" for r in reports))
    table.add_row("postings a document", *(f"{r.postings_per_document:.1f}" for r in reports))
    table.add_row("encoded documents/s", *(f"{r.encode_docs_per_second:,.0f}" for r in reports))
    for name in ("p50", "p95"):
        table.add_row(f"query ms, {name}", *(f"{r.latency_ms[name]:.1f}" for r in reports))
    return table
