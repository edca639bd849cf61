"""The demonstration: a real corpus indexed twice, five searches with reasons, an evaluation."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.text import Text

from lsr.building.build import build_index
from lsr.building.encoders import open_encoder
from lsr.cli.display import hit_view, progress_bar
from lsr.cli.terminal import terminal
from lsr.corpus.corpus import open_corpus
from lsr.eval.datasets import load_dataset
from lsr.eval.measuring import measure_index
from lsr.eval.report import table
from lsr.indexes.manifest import FORMAT_VERSION, NAME, read_manifest
from lsr.request import ask
from lsr.search import Searcher

# Words are the baseline: BM25.
MODES = ("words", "learned", "sparse")
QUERIES = (
    "copy a file with its metadata",
    "how many cores does this machine have",
    "run a command and capture its output",
    "count how often each word occurs",
    "let only one thread at a time into a critical section",
)
HITS = 3
MEASURES = ("nDCG@10", "RR@10", "R@100", "R@1000")
NEXT = """What to try next:

    lsr search {index} "your own question"
    lsr search {index} 'copy +file -"shared memory" kind:function meta*'
    lsr explain {index} "copy a file with its metadata" shutil.copy2
    lsr search {index} --weights '{{"copy": 2.0, "metadata": 1.0}}'
    lsr index pydoc:numpy --out numpy-index       # any installed package
    lsr index CORPUS --out my-index               # a BEIR folder, JSONL, TSV, an ir_datasets id
    lsr doctor {index}

A page that shows why a document matched, at http://127.0.0.1:8080/, and an API:

    lsr serve {index}"""


def run_demo(folder: Path) -> None:
    """Index pydoc under `folder` unless that is done (with other weights: again), search, evaluate.

    The documentation is that of the running Python, so that each version has its own indexes.
    """
    console = terminal()
    home = folder / f"python{sys.version_info.major}.{sys.version_info.minor}"
    index = home / "default"
    if not _is_there(index):
        console.print("Indexing the standard library's documentation", style="bold")
        index.parent.mkdir(parents=True, exist_ok=True)
        with progress_bar() as progress:
            build_index(open_corpus("pydoc"), index, progress=progress)
    with Searcher(index) as searcher:
        for query in QUERIES:
            console.rule(Text(query, "bold"), align="left")
            highlight = searcher.highlighter(ask(query))
            for rank, hit in enumerate(searcher.search(query, HITS), 1):
                reasons = searcher.explain(query, hit.document.id)
                console.print(hit_view(rank, hit, reasons, highlight))
    title = Text("100 bundled questions: words, learned terms, and both in one pass", "bold")
    console.rule(title, align="left")
    dataset = load_dataset("pydoc")
    results = []
    for mode in MODES:
        with Searcher(index) as searcher, progress_bar() as progress:
            results.append(
                measure_index(
                    searcher,
                    dataset,
                    MEASURES,
                    name=mode,
                    settings={"mode": mode},
                    progress=progress,
                )
            )
    console.print(table(results))
    console.print(
        "\nwords is BM25. learned is the trained model, which finds terms for what a document "
        "means. sparse is both, which is what `lsr search` does.\nEvery number is of the real "
        "index, every question's answer was written down before any was run.\n",
        NEXT.format(index=index),
        sep="\n",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _is_there(path: Path) -> bool:
    """Whether an index is there, made with the weights that its encoder has now."""
    if not (path / NAME).exists():
        return False
    manifest = read_manifest(path, older=True)
    if manifest.format_version != FORMAT_VERSION:
        return False
    encoder = open_encoder(manifest.encoder, manifest.folder(path) / "encoder")
    return encoder.fingerprint == manifest.encoder_sha256
