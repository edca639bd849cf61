"""nDCG@10 of the default model on collections that it was not trained on.

    python -m lsr.eval.zero_shot COLLECTIONS --out DIR [--json]

COLLECTIONS has the BEIR folders of FOLDERS. Each is ranked by

    words          BM25, mode words of our index: the baseline of the tests
    bm25s          BM25 of another engine (bm25s, lucene, k1 1.2, b 0.75, English stop words)
    dense          all-MiniLM-L6-v2, cosine, every document compared
    grafted        BM25 over WordPieces and the head before training
    default        the learned terms of the model that ships, without words
    default+dense  their mean after min-max over the 1,000 best of each; absent documents have 0

All models compute in float32, on every CPU. Indexes and runs go under DIR; those found there are
reused, so that a run that was cut off goes on.
Those of the default model have its fingerprint in their names: other weights are measured anew.
Then what a query costs: encoding, postings touched and latency, of `default` beside `words`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.encoders.default import DefaultEncoder
from lsr.eval.datasets import Dataset, load_dataset
from lsr.eval.measures import evaluate
from lsr.eval.measuring import DEPTH, measure_cost, rank_queries
from lsr.eval.results import Cost
from lsr.eval.significance import compare, holm
from lsr.indexes.dense import DenseIndex
from lsr.indexes.manifest import NAME
from lsr.request import Interpolation
from lsr.run import Run
from lsr.search import Searcher
from lsr.search.fusion import interpolate

FOLDERS = ("nfcorpus", "arguana", "cranfield", "mlquestions", "msmarco-dl19")
# Systems that are searched in an index → its encoder and the mode.
INDEXED = {
    "words": ("default", "words"),
    "grafted": ("grafted", "learned"),
    "default": ("default", "learned"),
}
SYSTEMS = ("words", "bm25s", "dense", "grafted", "default", "default+dense")
MEASURE = "nDCG@10"
# Chosen before any measurement, and not tuned.
FIXED = Interpolation(alpha=0.5, normalisation="min-max", missing="zero")
# Documents that are encoded together.
SHARD = 4096


def run_of(system: str, folder: Path, dataset: Dataset, out: Path) -> Run:
    """Return the run of a system on a collection, read from `out` or computed and written there.

    Args:
        system: one of SYSTEMS.
        folder: of the collection.
        dataset: its queries.
        out: indexes and runs of this collection.
    """
    path = out / f"{kept_as(system)}.trec"
    if path.exists():
        return Run.read_trec(path)
    if system in INDEXED:
        encoder, mode = INDEXED[system]
        index = out / kept_as(encoder)
        if not (index / NAME).exists():
            build_index(open_corpus(folder), index, encoder, dtype="float32")
        with Searcher(index) as searcher:
            run = rank_queries(searcher, dataset, settings={"mode": mode})
    elif system == "default+dense":
        sparse, dense = (run_of(side, folder, dataset, out) for side in ("default", "dense"))
        run = interpolate_runs(sparse, dense, FIXED)
    else:
        rank = _bm25s if system == "bm25s" else _dense
        run = rank(folder, dataset).without_self().truncate(DEPTH)
    out.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    run.write_trec(partial, system)
    partial.replace(path)
    return run


def kept_as(system: str) -> str:
    """Return the name of a system's index and run in a collection's folder.

    Names of `grafted` and `default` say float32, because older ones may be in bfloat16.
    """
    if system == "grafted":
        return f"{system}-float32"
    if not system.startswith("default"):
        return system
    return f"{system}-float32-{DefaultEncoder().fingerprint[:12]}"


def interpolate_runs(sparse: Run, dense: Run, how: Interpolation) -> Run:
    """Interpolate two runs query by query; see `lsr.search.fusion.interpolate`."""
    fused = {
        query_id: interpolate(list(sparse.get(query_id, ())), list(dense.get(query_id, ())), how)
        for query_id in sparse.keys() | dense.keys()
    }
    mixed = {q: [(hit.doc_id, hit.score) for hit in hits] for q, hits in fused.items()}
    return Run(mixed).truncate(DEPTH)


def _bm25s(folder: Path, dataset: Dataset) -> Run:
    import bm25s
    import Stemmer

    documents = list(open_corpus(folder))
    ids = [document.id for document in documents]
    settings: dict[str, Any] = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english")}
    bm25 = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    texts = [document.content for document in documents]
    bm25.index(bm25s.tokenize(texts, show_progress=False, **settings), show_progress=False)
    queries = bm25s.tokenize(
        [query.text for query in dataset.queries],
        show_progress=False,
        return_ids=False,
        **settings,
    )
    rankings = {}
    for query, tokens in zip(dataset.queries, queries, strict=True):
        known = [token for token in tokens if token in bm25.vocab_dict]
        if not known:
            continue
        scores = bm25.get_scores(known)
        best = np.argsort(-scores, kind="stable")[: DEPTH + 1]
        rankings[query.id] = [(ids[i], float(scores[i])) for i in best if scores[i] > 0]
    return Run(rankings)


def _dense(folder: Path, dataset: Dataset) -> Run:
    from lsr.training.teachers import DenseTeacher

    trunk = DenseTeacher()
    ids, vectors = [], []
    documents = list(open_corpus(folder))
    for start in range(0, len(documents), SHARD):
        shard = documents[start : start + SHARD]
        ids += [document.id for document in shard]
        vectors.append(trunk.encode_documents([document.content for document in shard]))
    index = DenseIndex(ids, np.concatenate(vectors))
    queries = trunk.encode_queries([query.text for query in dataset.queries])
    found = index.search(queries, DEPTH + 1)
    return Run({query.id: hits for query, hits in zip(dataset.queries, found, strict=True)})


def table(values: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Return means and tests of each system on each collection.

    Args:
        values: collection → system → query id → nDCG@10, with SYSTEMS' "words" and "dense".

    Returns:
        A record for each: mean; difference and p value of the randomisation test against words,
        and against dense, both corrected by Holm over the systems.
    """
    records = []
    for collection, systems in values.items():
        tests: dict[str, dict[str, Any]] = {name: {} for name in systems}
        for baseline in ("words", "dense"):
            others = [name for name in systems if name != baseline]
            pairs = [compare(systems[baseline], systems[name]) for name in others]
            corrected = holm([pair.p_randomisation for pair in pairs])
            for name, pair, p in zip(others, pairs, corrected, strict=True):
                tests[name] |= {f"over_{baseline}": pair.difference, f"p_{baseline}": p}
        for name, per_query in systems.items():
            record = {"collection": collection, "system": name, MEASURE: mean(per_query.values())}
            records.append(record | tests[name])
    return records


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the README's table: † differs from words, ‡ from dense (p < 0.05, Holm)."""
    collections = list(dict.fromkeys(record["collection"] for record in records))
    head = " | ".join([*collections, "mean"])
    lines = [f"| | {head} |", "|---" * (len(collections) + 2) + "|"]
    for system in dict.fromkeys(record["system"] for record in records):
        rows = [record for record in records if record["system"] == system]
        cells = [
            f"{row[MEASURE]:.3f}"
            + ("†" if row.get("p_words", 1) < 0.05 else "")
            + ("‡" if row.get("p_dense", 1) < 0.05 else "")
            for row in rows
        ]
        cells.append(f"{mean(row[MEASURE] for row in rows):.3f}")
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Rank, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m lsr.eval.zero_shot")
    parser.add_argument("collections", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    values: dict[str, dict[str, dict[str, float]]] = {}
    costs: dict[str, dict[str, Cost]] = {}
    for name in FOLDERS:
        folder, out = options.collections / name, options.out / name
        dataset = load_dataset(folder)
        values[name] = {}
        for system in SYSTEMS:
            run = run_of(system, folder, dataset, out)
            values[name][system] = evaluate(run, dataset.qrels, [MEASURE]).per_query[MEASURE]
            print(f"{name} {system}: {mean(values[name][system].values()):.4f}", file=sys.stderr)
        costs[name] = {}
        for system in ("words", "default"):
            encoder, mode = INDEXED[system]
            with Searcher(out / kept_as(encoder)) as searcher:
                costs[name][system] = measure_cost(searcher, dataset, settings={"mode": mode})
    records = table(values)
    if options.json:
        dictionaries = {
            name: {
                system: {
                    "encode_us": cost.encode_query_us,
                    "postings": cost.postings,
                    "p50_ms": cost.p50_ms,
                    "p95_ms": cost.p95_ms,
                }
                for system, cost in of.items()
            }
            for name, of in costs.items()
        }
        print(json.dumps({"quality": records, "cost": dictionaries}))
        return
    print(markdown(records))
    print("\n† differs from words, ‡ from dense (p < 0.05, randomisation test, Holm)\n")
    for name, of in costs.items():
        for system, cost in of.items():
            print(
                f"{name} {system}: query encoding {cost.encode_query_us:.0f} µs, "
                f"{cost.postings:,.0f} postings, p50 {cost.p50_ms:.2f} ms, p95 {cost.p95_ms:.2f} ms"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
