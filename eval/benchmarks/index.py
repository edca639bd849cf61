"""Speed and size of the index on synthetic vectors, beside pyserini's own index and searcher.

    python -m lsr.eval.benchmarks.index [--documents N] [--queries N] [--rounds N] [--json]

Both sides index the same impacts with one thread and answer the same queries, each in a process
of its own, in turns. Their rankings are compared: a difference makes the measurement void, and the
exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array, load_npz, save_npz

from lsr.documents import Document
from lsr.indexes import jvm
from lsr.indexes.jvm import find_runtime
from lsr.indexes.lucene import LuceneIndex

VOCABULARY = [f"w{number}" for number in range(30_522)]
TERMS_PER_DOCUMENT = 120
TERMS_PER_QUERY = {"siamese": 25, "inference-free": 6}
BATCH = 2000
DEPTHS = (10, 1000)


def synthetic_impacts(n: int, n_terms: float, seed: int) -> csr_array:
    """Return SPLADE-like impacts, int32 in [1, 255], (n, V): Zipfian terms, log-normal weights.

    Args:
        n: rows.
        n_terms: terms of a row on average (Poisson).
        seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    shares = 1 / (np.arange(len(VOCABULARY)) + 100.0)
    # How frequent a term is must not depend on its place in the dictionary.
    order = np.random.default_rng(0).permutation(len(VOCABULARY))
    counts = np.maximum(rng.poisson(n_terms, n), 1)
    terms = order[rng.choice(len(shares), counts.sum(), p=shares / shares.sum())]
    weights = np.clip(np.rint(rng.lognormal(3.5, 0.8, len(terms))), 1, 255)
    rows = np.repeat(np.arange(n), counts)
    # A term drawn twice for a row counts once.
    _, first = np.unique(rows * len(VOCABULARY) + terms, return_index=True)
    shape = (n, len(VOCABULARY))
    return csr_array((weights[first].astype(np.int32), (rows[first], terms[first])), shape=shape)


def rows_of(impacts: csr_array) -> list[tuple[np.ndarray, np.ndarray]]:
    """Yield the term ids and impacts of each row."""
    bounds = zip(impacts.indptr[:-1], impacts.indptr[1:], strict=True)
    return [(impacts.indices[start:end], impacts.data[start:end]) for start, end in bounds]


def write_pyserini_corpus(impacts: csr_array, folder: Path) -> None:
    """Write the impacts in the format of JsonVectorCollection."""
    folder.mkdir()
    with (folder / "vectors.jsonl").open("w") as file:
        for number, (terms, weights) in enumerate(rows_of(impacts)):
            pairs = zip(terms.tolist(), weights.tolist(), strict=True)
            vector = {VOCABULARY[term]: weight for term, weight in pairs}
            file.write(json.dumps({"id": f"d{number}", "contents": "", "vector": vector}) + "\n")


def build_ours(vectors: str, index: str) -> None:
    """Index as `lsr index` does, with one thread, from vectors in memory."""
    impacts = csr_array(load_npz(vectors))
    start = time.perf_counter()
    with LuceneIndex.create(Path(index), VOCABULARY) as lucene:
        for first in range(0, impacts.shape[0], BATCH):
            batch = impacts[first : first + BATCH]
            documents = [Document(f"d{first + i}") for i in range(batch.shape[0])]
            lucene.add(documents, batch, new=True)
        lucene.commit({})
    print(json.dumps({"seconds": time.perf_counter() - start}))


def query_ours(vectors: str, index: str) -> None:
    """Answer each query alone, as a user of the Python API would."""
    queries = csr_array(load_npz(vectors))
    with LuceneIndex.open(Path(index), VOCABULARY) as lucene:
        singles = [queries[[row]] for row in range(queries.shape[0])]
        print(json.dumps(_timed(singles, lambda query, k: lucene.search(query, k)[0])))


def query_pyserini(vectors: str, index: str) -> None:
    """Answer each query alone through LuceneImpactSearcher."""
    os.environ.setdefault("OPENAI_API_KEY", "unused")
    if not find_runtime().has_vector:
        # Pyserini would request the module and fail, but it uses a VM that already runs.
        jvm.call(jvm.engine_class)
    from pyserini.search.lucene import LuceneImpactSearcher

    class Given:
        """A query encoder that returns the vectors it was given."""

        def encode(self, query: dict[str, int], **options: Any) -> dict[str, int]:
            return query

    queries = [
        {
            VOCABULARY[term]: weight
            for term, weight in zip(*map(np.ndarray.tolist, row), strict=True)
        }
        for row in rows_of(csr_array(load_npz(vectors)))
    ]
    searcher = LuceneImpactSearcher(index, Given())

    def search(query: dict[str, int], k: int) -> list[tuple[str, int]]:
        # Anserini lowers each score of a tie a little.
        return [(hit.docid, round(hit.score)) for hit in searcher.search(query, k)]

    print(json.dumps(_timed(queries, search)))


def _timed(queries: Sequence[Any], search: Any) -> dict[str, Any]:
    """Return milliseconds a query at each depth, and the answers. A first pass warms up the VM."""
    found: dict[str, Any] = {}
    for k in DEPTHS:
        for query in queries:
            search(query, k)
        milliseconds = []
        answers = []
        for query in queries:
            start = time.perf_counter()
            answer = search(query, k)
            milliseconds.append(1000 * (time.perf_counter() - start))
            answers.append(answer)
        found[str(k)] = {"milliseconds": milliseconds, "answers": answers}
    return found


def in_process(role: str, *arguments: str) -> Any:
    """Run a function of this file in a process of its own, and return the JSON that it prints."""
    command = [sys.executable, "-m", "lsr.eval.benchmarks.index", "--role", role, *arguments]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=_java())
    return json.loads(answer.stdout.splitlines()[-1])


def build_pyserini(corpus: Path, index: Path, *options: str) -> float:
    """Return the seconds of pyserini's indexer; the start of its VM is included, less than 1 %.

    Raises:
        JavaError: the runtime lacks jdk.incubator.vector, without which pyserini does not start it.
    """
    runtime = find_runtime()
    if not runtime.has_vector:
        raise jvm.JavaError(
            f"pyserini's indexer needs a Java with the module jdk.incubator.vector, got "
            f"{runtime.home}: name a JDK in LSR_JAVA_HOME"
        )
    command = (
        f"-m pyserini.index.lucene --collection JsonVectorCollection --input {corpus} "
        f"--index {index} --generator DefaultLuceneDocumentGenerator --threads 1 --impact "
        f"--pretokenized {' '.join(options)}"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, *command.split()], check=True, capture_output=True, env=_java())
    return time.perf_counter() - start


def _java() -> dict[str, str]:
    # Both sides run on the same Java.
    home = str(find_runtime().home)
    path = f"{home}/bin{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "JAVA_HOME": home, "PATH": path, "OPENAI_API_KEY": "unused"}


def folder_bytes(folder: Path, *, forward: bool = True) -> int:
    """Return the size of an index, with or without its doc values (the forward vectors)."""
    kept = [path for path in folder.iterdir() if forward or path.suffix not in (".dvd", ".dvm")]
    return sum(path.stat().st_size for path in kept)


def compare(n_documents: int, n_queries: int, rounds: int) -> dict[str, Any]:
    """Build and query both sides `rounds` times, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        impacts = synthetic_impacts(n_documents, TERMS_PER_DOCUMENT, 1)
        save_npz(folder / "documents.npz", impacts)
        write_pyserini_corpus(impacts, folder / "corpus")
        seconds: dict[str, list[float]] = {"lsr": [], "pyserini": []}
        for number in range(rounds):
            ours, theirs = folder / f"ours-{number}", folder / f"theirs-{number}"
            built = in_process("build_ours", str(folder / "documents.npz"), str(ours))
            seconds["lsr"].append(built["seconds"])
            seconds["pyserini"].append(build_pyserini(folder / "corpus", theirs))
            print(f"round {number + 1}: {seconds}", file=sys.stderr)
        # Pyserini's way to keep each document's vector for feedback.
        with_vectors = folder / "theirs-with-vectors"
        build_pyserini(folder / "corpus", with_vectors, "--storeDocvectors")
        rates = {side: n_documents / statistics.median(of) for side, of in seconds.items()}
        report: dict[str, Any] = {
            "documents": n_documents,
            "postings": int(impacts.nnz),
            "docs_per_second": rates | {"ratio": rates["lsr"] / rates["pyserini"]},
            "bytes_per_posting": {
                "lsr": folder_bytes(ours) / impacts.nnz,
                "pyserini with document vectors": folder_bytes(with_vectors) / impacts.nnz,
                "lsr without forward vectors": folder_bytes(ours, forward=False) / impacts.nnz,
                "pyserini": folder_bytes(theirs) / impacts.nnz,
            },
            "latency": {},
            "same_scores": True,
        }
        for kind, n_terms in TERMS_PER_QUERY.items():
            path = str(folder / f"{kind}.npz")
            save_npz(path, synthetic_impacts(n_queries, n_terms, 2))
            _compare_latency(report, kind, path, ours, theirs, rounds)
    return report


def _compare_latency(
    report: dict[str, Any], kind: str, path: str, ours: Path, theirs: Path, rounds: int
) -> None:
    found: dict[str, list[Any]] = {"lsr": [], "pyserini": []}
    for _ in range(rounds):
        found["lsr"].append(in_process("query_ours", path, str(ours)))
        found["pyserini"].append(in_process("query_pyserini", path, str(theirs)))
    for k in map(str, DEPTHS):
        row: dict[str, float] = {}
        for percentile in (50, 95):
            for side, rounds_of in found.items():
                values = [float(np.percentile(r[k]["milliseconds"], percentile)) for r in rounds_of]
                row[f"{side} p{percentile}"] = statistics.median(values)
            row[f"ratio p{percentile}"] = row[f"lsr p{percentile}"] / row[f"pyserini p{percentile}"]
        report["latency"][f"{kind}, k = {k}"] = row
        # We break ties by id, pyserini breaks them by internal number.
        mine, other = (
            [[score for _, score in answer] for answer in found[side][0][k]["answers"]]
            for side in ("lsr", "pyserini")
        )
        report["same_scores"] &= mine == other


def table(report: dict[str, Any]) -> str:
    """Return the report as a table for people."""
    lines = [f"{report['documents']:,} documents, {report['postings']:,} postings"]
    for name in ("docs_per_second", "bytes_per_posting"):
        parts = (f"{side} {value:,.2f}" for side, value in report[name].items())
        lines.append(f"{name.replace('_', ' ')}: " + ", ".join(parts))
    for name, row in report["latency"].items():
        parts = (f"{side} {value:.2f}" for side, value in row.items())
        lines.append(f"ms per query, {name}: " + ", ".join(parts))
    lines.append(f"same scores: {report['same_scores']}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its report, and return the exit code."""
    parser = argparse.ArgumentParser(description="The index beside pyserini's.")
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role:
        roles = {role.__name__: role for role in (build_ours, query_ours, query_pyserini)}
        roles[options.role](*options.paths)
        return 0
    report = compare(options.documents, options.queries, options.rounds)
    print(json.dumps(report) if options.json else table(report))
    return int(not report["same_scores"])


if __name__ == "__main__":
    sys.exit(main())
