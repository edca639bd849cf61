"""Documents per second and peak memory of encoding, beside sentence-transformers' SparseEncoder.

    python -m lsr.eval.benchmarks.encoding [--checkpoint DIR] [--documents N] [--json]

Both sides encode the same texts with the same weights, each in a process of its own, in turns.
Their vectors are compared: a difference makes the measurement void, and the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy.sparse import csr_array

from lsr.corpus.pydoc import read_pydoc

T = TypeVar("T")
SIDES = ("lsr", "sentence-transformers")
# Terms of a passage, out of 30,522, that a trained SPLADE model keeps.
TERMS_PER_DOCUMENT = 200
# Weights are logarithms of order 1. Two float32 sums of a few hundred products differ by less.
TOLERANCE = 1e-3


class Measurement(NamedTuple):
    """One run of one side. Memory is the process's resident set, with all libraries."""

    seconds: float
    loaded_bytes: int
    peak_bytes: int


class Summary(NamedTuple):
    """Medians of one side over the rounds, with the slowest and the fastest round."""

    docs_per_second: float
    slowest: float
    fastest: float
    peak_mib: float
    peak_minus_loaded_mib: float


class Report(NamedTuple):
    """Both sides; "theirs" is sentence-transformers."""

    n_docs: int
    rounds: int
    terms_per_document: float
    largest_difference: float
    ours: Summary
    theirs: Summary

    def ratios(self) -> dict[str, float]:
        """Ours over theirs: speed, peak memory, and peak memory above the loaded model."""
        return {
            "speed": self.ours.docs_per_second / self.theirs.docs_per_second,
            "peak": self.ours.peak_mib / self.theirs.peak_mib,
            "peak_minus_loaded": self.ours.peak_minus_loaded_mib
            / self.theirs.peak_minus_loaded_mib,
        }


def peak_bytes() -> int:
    """Return the largest resident set that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def stride_sample(texts: Sequence[str], n: int) -> list[str]:
    """Return `n` texts at equal distances, so that a sorted collection is sampled evenly.

    Raises:
        ValueError: `n` is not in [1, len(texts)].
    """
    if not 1 <= n <= len(texts):
        raise ValueError(f"`documents` must be in [1, {len(texts)}], got {n}")
    return [texts[i * len(texts) // n] for i in range(n)]


def summarise(measurements: Sequence[Measurement], n_docs: int) -> Summary:
    """Return the medians of one side over the rounds."""
    rates = [n_docs / m.seconds for m in measurements]
    return Summary(
        statistics.median(rates),
        min(rates),
        max(rates),
        statistics.median(m.peak_bytes for m in measurements) / 2**20,
        statistics.median(m.peak_bytes - m.loaded_bytes for m in measurements) / 2**20,
    )


def write_checkpoint(directory: str, texts: Sequence[str], max_length: int) -> None:
    """Save the packaged MiniLM trunk under a masked-LM head as a sentence-transformers SPLADE.

    The head is not trained: it is tied to the word embeddings, and one bias for all terms leaves
    TERMS_PER_DOCUMENT of them on average, so that vectors are as sparse as a trained model's.
    """
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling
    from transformers import AutoTokenizer, BertForMaskedLM

    from lsr.encoders.load import trunk_path

    _quiet()
    torch.manual_seed(0)
    model = BertForMaskedLM.from_pretrained(trunk_path())
    tokenizer = AutoTokenizer.from_pretrained(trunk_path())
    with torch.inference_mode():
        largest = []
        for text in texts:
            batch = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
            largest.append(model(**batch).logits[0].amax(0))
        threshold = torch.stack(largest).quantile(1 - TERMS_PER_DOCUMENT / len(tokenizer), dim=1)
    torch.nn.init.constant_(model.get_output_embeddings().bias, -float(threshold.mean()))
    with tempfile.TemporaryDirectory() as plain:
        model.save_pretrained(plain)
        tokenizer.save_pretrained(plain)
        transformer = Transformer(plain, transformer_task="fill-mask", max_seq_length=max_length)
        SparseEncoder(modules=[transformer, SpladePooling()], device="cpu").save(directory)


def measure(side: str, checkpoint: str, texts: list[str]) -> tuple[Measurement, csr_array]:
    """Encode `texts`; return the cost and the vectors, without special tokens.

    Call this in a fresh process: the peak is that of the process's whole life.
    """
    _quiet()
    if side == "lsr":
        import torch

        from lsr.encoders.load import load_encoder

        # The other side computes in float32, also on CPUs with bfloat16.
        encode = load_encoder(checkpoint, torch.float32).encode_documents
    else:
        from sentence_transformers import SparseEncoder

        model = SparseEncoder(checkpoint, device="cpu")
        encode = model.encode_document
    loaded = peak_bytes()
    encode(texts[:2])
    start = time.perf_counter()
    vectors = encode(texts)
    measurement = Measurement(time.perf_counter() - start, loaded, peak_bytes())
    if side == "lsr":
        return measurement, vectors
    return measurement, from_torch(vectors, model.tokenizer.all_special_ids)


def _quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def from_torch(tensor: Any, special: Sequence[int]) -> csr_array:
    """Return a sparse COO tensor of torch as sparse vectors, without the `special` terms."""
    tensor = tensor.coalesce()
    rows, terms = tensor.indices().numpy()
    kept = ~np.isin(terms, special)
    values = tensor.values().numpy()[kept]
    return csr_array((values, (rows[kept], terms[kept])), shape=tuple(tensor.shape))


def in_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    """Run `function` in a process that has done nothing else, and return its result."""
    # Linux counts the parent's resident set at the start into the child's peak. This process must
    # therefore stay smaller than a loaded child, and never imports torch.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def compare(checkpoint: str, texts: list[str], rounds: int) -> Report:
    """Measure both sides `rounds` times, in turns."""
    measurements: dict[str, list[Measurement]] = {side: [] for side in SIDES}
    vectors = {}
    for number in range(rounds):
        for side in SIDES:
            measurement, vectors[side] = in_fresh_process(measure, side, checkpoint, texts)
            measurements[side].append(measurement)
            rate = len(texts) / measurement.seconds
            print(f"round {number + 1}: {side} {rate:.1f} docs/s", file=sys.stderr)
    ours, theirs = (summarise(measurements[side], len(texts)) for side in SIDES)
    return Report(
        n_docs=len(texts),
        rounds=rounds,
        terms_per_document=vectors["lsr"].nnz / len(texts),
        largest_difference=float(abs(vectors["lsr"] - vectors["sentence-transformers"]).max()),
        ours=ours,
        theirs=theirs,
    )


def table(report: Report) -> str:
    """Return the report as a table for people."""
    lines = [
        f"{report.n_docs} documents, {report.terms_per_document:.0f} terms each, medians of "
        f"{report.rounds} rounds; largest difference of a weight {report.largest_difference:.1e}",
        f"{'':24}{'docs/s':>8}{'(range)':>16}{'peak MiB':>10}{'peak - loaded':>15}",
    ]
    for side, of in zip(SIDES, (report.ours, report.theirs), strict=True):
        lines.append(
            f"{side:24}{of.docs_per_second:8.1f}{f'({of.slowest:.1f} to {of.fastest:.1f})':>16}"
            f"{of.peak_mib:10.0f}{of.peak_minus_loaded_mib:15.0f}"
        )
    ratios = report.ratios()
    lines.append(
        f"{'lsr / the other':24}{ratios['speed']:8.2f}{'':16}{ratios['peak']:10.3f}"
        f"{ratios['peak_minus_loaded']:15.3f}"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its report, and return the exit code."""
    parser = argparse.ArgumentParser(description="Encoding beside sentence-transformers.")
    parser.add_argument(
        "--checkpoint", help="a SPLADE of sentence-transformers; default: untrained"
    )
    parser.add_argument("--documents", type=int, default=1000, help="of the standard library")
    parser.add_argument("--max-length", type=int, default=512, help="of the default checkpoint")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    texts = stride_sample([document.content for document in read_pydoc()], options.documents)
    with tempfile.TemporaryDirectory() as folder:
        if options.checkpoint is None:
            in_fresh_process(write_checkpoint, folder, texts[::32], options.max_length)
        report = compare(options.checkpoint or folder, texts, options.rounds)
    if options.json:
        print(
            json.dumps(
                {
                    **report._asdict(),
                    "ours": report.ours._asdict(),
                    "theirs": report.theirs._asdict(),
                    "ratios": report.ratios(),
                }
            )
        )
    else:
        print(table(report))
    return int(report.largest_difference > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
