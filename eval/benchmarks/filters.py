"""What filters cost on synthetic documents, beside searches without one, on all three sides.

    python -m lsr.eval.benchmarks.filters [--documents N] [--queries N] [--folder DIR] [--json]

For each filter a query is run without it, with it, and without it for k divided by the share of
documents that match ("wider"), in turns. "direct" is the search with it where each matching
document is scored alone, "query" where none is. A filter's limit is 1.3 times a query without it
where at least half of the documents match, and below that 1.3 times the cheaper of "wider" and
"direct". The filter's bit sets are kept between queries; what they cost the first time is in a
column of its own. Facets stand beside a search without a filter, of the side that their rows name.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from lsr.documents import Document
from lsr.eval.benchmarks.index import VOCABULARY, synthetic_impacts
from lsr.facet import read_facet
from lsr.filter import Filter
from lsr.filter_text import parse
from lsr.indexes.buffers import WordQueries
from lsr.indexes.dense import DenseIndex
from lsr.indexes.dense_writer import DenseWriter
from lsr.indexes.lucene import LuceneIndex
from lsr.search.selections import Selections

K = 10
LIMIT = 1.3
# Times that each query is run, of which the least counts.
REPEATS = 3
# Rounds of all queries before the first is measured.
WARM = 20
DIMENSION = 384
BATCH = 2000
DAYS = 10_000
FILTERS = (
    "flag = true",
    "kind != k0",
    "kind in (k0, k1, k2, k3, k4)",
    "kind not in (k0, k1)",
    "kind >= k5",
    "kind = k0..k4",
    "bucket < 5000",
    "bucket = 2500..7499",
    "price >= 0.5",
    "number < 50.5",
    "day >= 1984-01-01",
    "tags has any (t0, t1, t2, t3)",
    "exists(owner)",
    "not exists(owner)",
    "bucket < 8000 and price < 0.9 and not kind = k9",
    "bucket < 2500 or price < 0.25",
    "kind = k0",
    "tags has all (t0, t1)",
    "bucket < 1000",
    "bucket < 300",
    "bucket < 100",
    "bucket < 30",
    "price < 0.001",
    "day = 1984-01-01",
    "code = c77",
)
# Facets, and the filters among whose documents they are counted.
FACETS = ("kind", "tags", "number", "code", "kind: k0..k4", "price: ..0.25, 0.25..0.5, 0.5..")
AMONG = (None, "flag = true", "bucket < 100")
# Names of searches of one side, and the options of the VM that they run with.
WAYS = {"as chosen": "", "direct": "-Dlsr.direct=0", "query": f"-Dlsr.direct={2**40}"}
SIDES = ("learned, 25 terms", "learned, 6 terms", "words", "learned and words")


def metadata_of(rng: np.random.Generator, number: int) -> dict[str, Any]:
    """Return the metadata of one document."""
    bucket, kind, day = (int(n) for n in rng.integers([10_000, 10, DAYS]))
    date = np.datetime64("1970-01-01") + np.timedelta64(day, "D")
    tags = rng.choice(20, 3, replace=False)
    found: dict[str, Any] = {
        "bucket": bucket,
        "price": float(rng.random()),
        "number": bucket // 100 if bucket % 2 else bucket / 100,
        "kind": f"k{kind}",
        "flag": bool(bucket % 2),
        "day": str(date),
        "tags": [f"t{tag}" for tag in tags],
        "code": f"c{number}",
    }
    return found | ({"owner.name": f"o{kind}"} if kind % 2 else {})


def synthetic_text(rng: np.random.Generator, n_words: int) -> str:
    """Return Zipfian words."""
    ranks = np.minimum(rng.zipf(1.3, n_words), 50_000)
    return " ".join(f"zw{rank}" for rank in ranks)


def synthetic_vectors(n: int, seed: int) -> np.ndarray:
    """Return unit vectors in clusters, float32, shape (n, DIMENSION)."""
    centres = np.random.default_rng(0).standard_normal((2000, DIMENSION)).astype(np.float32)
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, DIMENSION)).astype(np.float32)
    vectors += centres[rng.integers(len(centres), size=n)]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def build(folder: Path, n: int) -> None:
    """Build both sides under `folder`, unless they are there."""
    if (folder / "built.json").exists():
        return
    impacts = synthetic_impacts(n, 120, 1)
    rng = np.random.default_rng(3)
    with LuceneIndex.create(folder / "lucene", VOCABULARY) as index:
        for first in range(0, n, BATCH):
            batch = impacts[first : first + BATCH]
            numbers = range(first, first + batch.shape[0])
            documents = [
                Document(f"d{i}", "", synthetic_text(rng, 40), metadata_of(rng, i)) for i in numbers
            ]
            index.add(documents, batch, new=True)
        index.commit({})
    names = {}
    for kind in ("flat", "hnsw"):
        writer = DenseWriter(folder / kind, [], DIMENSION)
        for first in range(0, n, 20_000):
            rows = min(20_000, n - first)
            writer.add([f"d{first + i}" for i in range(rows)], synthetic_vectors(rows, first))
        writer.merge(kind)
        names[kind] = writer.flush()
    (folder / "built.json").write_text(json.dumps(names))


Search = Callable[..., Any]  # of a query's number, k and a filter
Searches = dict[str, Callable[[int], Any]]  # by name, of a query's number


def sparse_searches(index: LuceneIndex, n: int) -> dict[str, Search]:
    """Return a search for each of SIDES, of n queries."""
    long, short = synthetic_impacts(n, 25, 2), synthetic_impacts(n, 6, 2)
    rng = np.random.default_rng(5)
    words = []
    for _ in range(n):
        ranks = set(np.minimum(rng.zipf(1.3, 6) + 3, 50_000).tolist())
        words.append({word.word: (40, 0) for r in ranks for word in index.words([f"zw{r}"])[0]})
    none = csr_array((1, len(VOCABULARY)), dtype=np.int32)

    def search(impacts: csr_array | None, with_words: bool) -> Search:
        def run(query: int, k: int, condition: Any) -> Any:
            of = none if impacts is None else impacts[[query]]
            given = WordQueries([words[query]], 0.9, 0.4) if with_words else None
            return index.search(of, k, words=given, filter=condition)

        return run

    return dict(
        zip(
            SIDES,
            (search(long, False), search(short, False), search(None, True), search(short, True)),
            strict=True,
        )
    )


def timed(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the milliseconds of CPU time of a call, which other work beside it changes little."""
    start = time.process_time()
    function(*arguments)
    return 1000 * (time.process_time() - start)


def measure_sparse(folder: Path, n: int, way: str) -> dict[str, Any]:
    """Return the times of each side and filter; what the ways other than "as chosen" need alone."""
    report: dict[str, Any] = {}
    with LuceneIndex.open(folder / "lucene", VOCABULARY) as index:
        n_docs = index.n_docs
        for _ in range(30):  # warm up what makes bit sets
            for text in FILTERS:
                index.count(parse(f"({text}) and code != c{time.perf_counter_ns()}"))
        for side, search in sparse_searches(index, n).items():
            # The VM compiles what has run often: all ways must have, before the first is measured.
            warm = [None, *map(parse, ("flag = true", "bucket < 1000", "bucket < 30"))]
            for _, query, condition in product(range(WARM), range(n), warm):
                search(query, K, condition)
            for text in FILTERS:
                condition = parse(text)
                first = timed(index.count, parse(f"not not ({text})"))
                share = index.count(condition) / n_docs
                searches: Searches = {"with": partial(search, k=K, condition=condition)}
                if way == "as chosen":
                    searches |= _without(search, share)
                if way != "direct" or share < 0.5:
                    times = _medians(searches, n)
                    report[f"{side}: {text}"] = {"share": share, "first": first} | times
    return report


def measure_facets(folder: Path, n: int) -> dict[str, Any]:
    """Return the times of each facet, and of searches without one."""
    report: dict[str, Any] = {}
    with LuceneIndex.open(folder / "lucene", VOCABULARY) as index:
        side = SIDES[-1]
        search = sparse_searches(index, n)[side]
        for condition, text in product(AMONG, FACETS):
            given, facets = parse(condition) if condition else None, [read_facet(text)]

            def count(_: int, given: Filter | None = given, facets: Any = facets) -> Any:
                return index.counts(given, facets)

            searches: Searches = {
                "with": count,
                "without": partial(search, k=K, condition=None),
            }
            for _, query, run in product(range(WARM), range(n), searches.values()):
                run(query)
            share = index.count(given) / index.n_docs
            name = f"{side}: facet {text}" + (f", {condition}" if condition else "")
            report[name] = {"share": share} | _medians(searches, n)
    return report


def measure_dense(folder: Path, n: int, kind: str) -> dict[str, Any]:
    """Return the same for the dense side; "direct" scores all documents that match."""
    report: dict[str, Any] = {}
    names = json.loads((folder / "built.json").read_text())[kind]
    queries = synthetic_vectors(n, 7)
    with LuceneIndex.open(folder / "lucene", VOCABULARY) as index:
        dense = DenseIndex.open(folder / kind, names)
        n_docs = index.n_docs
        selections = Selections(index, dense)
        first_of_all = timed(selections.of, parse("flag = true"))

        def search(query: int, k: int, condition: Any) -> Any:
            of = None if condition is None else selections.of(condition)
            return dense.search(queries[[query]], k, of)

        for query in range(n):
            search(query, K, None)
        for text in FILTERS:
            condition = parse(text)
            first = timed(selections.of, condition)
            share = index.count(condition) / n_docs
            rows = dense.rows_of(index.matching(condition))
            searches: Searches = {"with": partial(search, k=K, condition=condition)}
            searches |= _without(search, share)
            if share < 0.5:
                searches["direct"] = partial(_direct, dense, queries, rows)
            row = {"share": share, "first": first} | _medians(searches, n)
            row["recall"] = _recall(dense, queries, rows, searches["with"])
            report[f"dense, {kind}: {text}"] = row
    report[f"dense, {kind}: rows of documents, once for a commit"] = {"first": first_of_all}
    return report


def _direct(dense: DenseIndex, queries: np.ndarray, rows: np.ndarray, query: int) -> Any:
    return dense._rows.best(queries[query], rows, K)


def _recall(
    dense: DenseIndex,
    queries: np.ndarray,
    rows: np.ndarray,
    search: Callable[[int], Any],
) -> float:
    """Return the share of each query's K best matching documents that a search finds."""
    found = []
    for query in range(min(len(queries), 20)):
        truth = {doc_id for doc_id, _ in _direct(dense, queries, rows, query)}
        found.append(len(truth & {doc_id for doc_id, _ in search(query)[0]}) / len(truth))
    return float(np.mean(found))


def _without(search: Search, share: float) -> Searches:
    """Return searches without a filter: for K documents, and for K divided by a share of them."""
    searches: Searches = {"without": partial(search, k=K, condition=None)}
    if 0.001 <= share < 0.5:
        searches["wider"] = partial(search, k=int(K / share), condition=None)
    return searches


def _medians(searches: Searches, n: int) -> dict[str, float]:
    """Return the median over n queries of the least of REPEATS times of each search.

    These follow each other, so that none finds the processor's caches as another has left them.
    """
    times: dict[str, list[float]] = {name: [] for name in searches}
    for query, (name, search) in product(range(n), searches.items()):
        times[name].append(min(timed(search, query) for _ in range(REPEATS)))
    return {name: median(of) for name, of in times.items()}


def compare(folder: Path, n_documents: int, n: int) -> dict[str, Any]:
    """Build and measure; return each filter's times and its ratio to what it may cost."""
    build(folder, n_documents)
    found = {
        way: _in_process("measure_sparse", folder, n, options, way) for way, options in WAYS.items()
    }
    report: dict[str, Any] = found["as chosen"]
    for way in ("direct", "query"):
        for name, row in found[way].items():
            report[name][way] = row["with"]
    for kind in ("flat", "hnsw"):
        report |= _in_process("measure_dense", folder, n, "", kind)
    for row in report.values():
        if "with" in row:
            limits = ["without"] if row["share"] >= 0.5 else ["direct", "wider"]
            row["ratio"] = row["with"] / min(row[name] for name in limits if name in row)
    report |= _in_process("measure_facets", folder, n, "")
    return report


def _in_process(role: str, folder: Path, n: int, options: str, *more: str) -> Any:
    command = [sys.executable, "-m", "lsr.eval.benchmarks.filters", "--role", role]
    command += ["--folder", str(folder), "--queries", str(n), *more]
    environment = os.environ | {"LSR_JAVA_OPTIONS": options}
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(answer.stdout.splitlines()[-1])


def table(report: dict[str, Any]) -> str:
    """Return the report as a table for people."""
    columns = ("share", "first", "without", "with", "wider", "direct", "query", "ratio", "recall")
    lines = [f"{'ms':70}" + "".join(f"{column:>9}" for column in columns)]
    for name, row in report.items():
        cells = (f"{row[column]:9.3f}" if column in row else f"{'':9}" for column in columns)
        lines.append(f"{name:70}" + "".join(cells))
    above = [name for name, row in report.items() if row.get("ratio", 0) > LIMIT]
    lines.append(f"above {LIMIT}: {len(above)} of {len(report)}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its report."""
    parser = argparse.ArgumentParser(description="What filters cost.")
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where the index is kept")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("part", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role == "measure_sparse":
        print(json.dumps(measure_sparse(options.folder, options.queries, options.part)))
        return 0
    if options.role == "measure_facets":
        print(json.dumps(measure_facets(options.folder, options.queries)))
        return 0
    if options.role == "measure_dense":
        print(json.dumps(measure_dense(options.folder, options.queries, options.part)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        report = compare(folder, options.documents, options.queries)
    print(json.dumps(report) if options.json else table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
