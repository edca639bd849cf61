"""What interpolation and feedback cost on a synthetic corpus, beside either side alone.

    python -m lsr.eval.benchmarks.hybrid [--documents N] [--queries N] [--kind KIND] [--json]

Documents are Zipfian words, the sparse side is BM25, the dense side averages random word vectors.
Encoding a query costs next to nothing, so the times are those of the passes. Queries run one at a
time, with all modes in turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from lsr.building.build import build_index
from lsr.corpus.corpus import Corpus, open_corpus
from lsr.encoders.load import default_tokenizer
from lsr.indexes.approximate import KINDS, Kind
from lsr.search import Searcher

DIMENSION = 384
WORDS_PER_DOCUMENT = 60
WORDS_PER_QUERY = 6
K = 10
# Queries that are run first, to warm up the VM.
WARM = 50
FULL: dict[str, Any] = {"mode": "hybrid", "feedback": {"interpolate": "both"}}
# Name → settings of a request, and k.
MODES: dict[str, tuple[dict[str, Any], int]] = {
    "sparse, k = 10": ({}, K),
    "sparse, k = 1000": ({}, 1000),
    "dense, k = 10": ({"mode": "dense"}, K),
    "dense, k = 1000": ({"mode": "dense"}, 1000),
    "hybrid": ({"mode": "hybrid"}, K),
    "hybrid, absent 0": ({"mode": "hybrid", "interpolation": {"missing": "zero"}}, K),
    "sparse + feedback": ({"feedback": {}}, K),
    "dense + feedback": ({"mode": "dense", "feedback": {}}, K),
    "hybrid + feedback, after": (
        {"mode": "hybrid", "feedback": {"interpolate": "after"}},
        K,
    ),
    "hybrid + feedback, both": (FULL, K),
}


def synthetic_texts(n: int, n_words: int, seed: int) -> Iterator[str]:
    """Return texts of Zipfian words of the vocabulary.

    Args:
        n: texts.
        n_words: words of each.
        seed: of the generator.
    """
    words = [word for word in default_tokenizer().get_vocab() if word.isalpha() and len(word) > 2]
    words.sort()
    shares = 1 / (np.arange(len(words)) + 20.0)
    order = np.random.default_rng(0).permutation(len(words))
    rng = np.random.default_rng(seed)
    for start in range(0, n, 1000):
        rows = min(1000, n - start)
        drawn = order[rng.choice(len(words), (rows, n_words), p=shares / shares.sum())]
        yield from (" ".join(words[number] for number in row) for row in drawn.tolist())


def build(folder: Path, n_documents: int, kind: Kind) -> Path:
    """Build an index of the synthetic corpus under `folder`, unless it is there."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    index = folder / f"index-{n_documents}-{kind}"
    if (index / "manifest.json").exists():
        return index
    torch.manual_seed(0)
    tokenizer = default_tokenizer().backend_tokenizer
    vectors = StaticEmbedding(tokenizer, embedding_dim=DIMENSION)
    SentenceTransformer(modules=[vectors]).save(str(folder / "dense"))
    path = folder / "corpus.tsv"
    with path.open("w", encoding="utf-8") as file:
        texts = synthetic_texts(n_documents, WORDS_PER_DOCUMENT, 1)
        file.writelines(f"d{number}\t{text}\n" for number, text in enumerate(texts))
    corpus: Corpus = open_corpus(path)
    start = time.perf_counter()
    build_index(corpus, index, "lexical", dense=str(folder / "dense"), dense_kind=kind)
    print(f"built in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return index


def measure(index: Path, n_queries: int) -> dict[str, float]:
    """Return the median milliseconds of a query for each mode."""
    queries = list(synthetic_texts(n_queries, WORDS_PER_QUERY, 2))
    times: dict[str, list[float]] = {name: [] for name in MODES}
    with Searcher(index) as searcher:
        warm = queries[:WARM]
        for number, query in enumerate([*warm, *queries]):
            for name, (settings, k) in MODES.items():
                start = time.perf_counter()
                searcher.rank([query], k, **settings)
                if number >= len(warm):
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: median(of) for name, of in times.items()}


def main(arguments: Sequence[str]) -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m lsr.eval.benchmarks.hybrid")
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--kind", choices=KINDS, default="auto")
    parser.add_argument("--folder", type=Path, help="where the index is kept")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(build(folder, options.documents, options.kind), options.queries)
    sides = found["sparse, k = 1000"] + found["dense, k = 1000"]
    ratios = {
        "hybrid / (sparse + dense, k = 1000)": found["hybrid"] / sides,
        "sparse + feedback / sparse, k = 10": found["sparse + feedback"] / found["sparse, k = 10"],
        "dense + feedback / dense, k = 10": found["dense + feedback"] / found["dense, k = 10"],
        "hybrid + feedback, after / hybrid": found["hybrid + feedback, after"] / found["hybrid"],
        "hybrid + feedback, both / hybrid": found["hybrid + feedback, both"] / found["hybrid"],
    }
    if options.json:
        print(json.dumps({"milliseconds": found, "ratios": ratios}))
        return
    for name, value in found.items():
        print(f"{name:28} {value:8.2f} ms")
    for name, value in ratios.items():
        print(f"{name:40} {value:5.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
