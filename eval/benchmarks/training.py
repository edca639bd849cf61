"""Speed and memory of training with sentence-transformers, stock and with `lsr.fuse`.

    python -m lsr.eval.benchmarks.training [--pairs N] [--batch-size N] [--rounds N] [--json]

All sides train the same untrained SPLADE over the packaged trunk, on titles and texts of pydoc,
with SparseEncoderTrainer and in-batch negatives, each in a process of its own, in turns:

    stock          SpladeLoss, the baseline
    stock, cached  CachedSpladeLoss: GradCache, in parts of MINI_BATCH texts
    lsr            lsr.fuse and SpladeLoss
    lsr, cached    lsr.fuse and CachedSpladeLoss

Their losses are compared: if the curves differ, the measurement is void and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from lsr.corpus.pydoc import read_pydoc
from lsr.eval.benchmarks.encoding import (
    in_fresh_process,
    peak_bytes,
    stride_sample,
    write_checkpoint,
)

MAX_LENGTH = 128
# Texts that GradCache passes together.
MINI_BATCH = 8
# Losses of a few units, float32, a hundred steps apart.
TOLERANCE = 0.01


# Name: whether the model is fused, and whether the loss is cached. The baseline comes first.
SIDES = {
    "stock": (False, False),
    "stock, cached": (False, True),
    "lsr": (True, False),
    "lsr, cached": (True, True),
}


class Epoch(NamedTuple):
    """One epoch of one side. Memory is the process's resident set, with all libraries."""

    losses: list[float]  # of each step
    seconds: float
    peak_mib: float


def train(side: str, checkpoint: str, pairs: list[tuple[str, str]], batch_size: int) -> Epoch:
    """Train one epoch. Call this in a fresh process."""
    from datasets import Dataset
    from sentence_transformers import (
        SparseEncoder,
        SparseEncoderTrainer,
        SparseEncoderTrainingArguments,
    )
    from sentence_transformers.sparse_encoder.losses import (
        CachedSpladeLoss,
        SparseMultipleNegativesRankingLoss,
        SpladeLoss,
    )
    from transformers import PrinterCallback
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = SparseEncoder(checkpoint, device="cpu")
    model.max_seq_length = MAX_LENGTH
    # With dropout the two sides would draw different random numbers.
    for module in model.modules():
        if type(module).__name__ == "Dropout":
            module.p = 0.0
    fused, cached = SIDES[side]
    if fused:
        import lsr

        lsr.fuse(model)
    queries, documents = zip(*pairs, strict=True)
    loss: Any = partial(CachedSpladeLoss, mini_batch_size=MINI_BATCH) if cached else SpladeLoss
    loss = loss(
        model,
        SparseMultipleNegativesRankingLoss(model),
        document_regularizer_weight=3e-5,
        query_regularizer_weight=5e-5,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = SparseEncoderTrainer(
            model=model,
            args=SparseEncoderTrainingArguments(
                output_dir=folder,
                num_train_epochs=1,
                per_device_train_batch_size=batch_size,
                learning_rate=2e-5,
                logging_steps=1,
                logging_nan_inf_filter=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                seed=0,
            ),
            train_dataset=Dataset.from_dict({"query": list(queries), "document": list(documents)}),
            loss=loss,
        )
        # This callback would print each step to stdout.
        trainer.remove_callback(PrinterCallback)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    losses = [float(step["loss"]) for step in trainer.state.log_history if "loss" in step]
    return Epoch(losses, seconds, peak_bytes() / 2**20)


def compare(
    checkpoint: str, pairs: list[tuple[str, str]], batch_size: int, rounds: int
) -> dict[str, Any]:
    """Return the medians of all sides over the rounds, also relative to the first side."""
    epochs: dict[str, list[Epoch]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, of_side in epochs.items():
            of_side.append(in_fresh_process(train, side, checkpoint, pairs, batch_size))
    baseline, *_ = epochs.values()
    losses = baseline[0].losses
    report: dict[str, Any] = {
        "pairs": len(pairs),
        "batch_size": batch_size,
        "steps": len(losses),
        "rounds": rounds,
        "first_and_last_loss": [losses[0], losses[-1]],
        "largest_difference_of_losses": max(
            abs(own - other)
            for of_side in epochs.values()
            for epoch in of_side
            for own, other in zip(epoch.losses, losses, strict=True)
        ),
    }
    for side, of_side in epochs.items():
        report[side] = {
            "seconds": median(epoch.seconds for epoch in of_side),
            "peak_mib": median(epoch.peak_mib for epoch in of_side),
            "times_faster": median(
                other.seconds / own.seconds for own, other in zip(of_side, baseline, strict=True)
            ),
            "share_of_peak": median(
                own.peak_mib / other.peak_mib for own, other in zip(of_side, baseline, strict=True)
            ),
        }
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its report, and return the exit code."""
    parser = argparse.ArgumentParser(description="Training, stock and by lsr.fuse.")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    documents = [document for document in read_pydoc() if document.text != document.title]
    texts = stride_sample([json.dumps([d.title, d.text]) for d in documents], options.pairs)
    pairs = [(title, text) for title, text in map(json.loads, texts)]
    with tempfile.TemporaryDirectory() as folder:
        calibrated_on = [text for _, text in pairs[::8]]
        in_fresh_process(write_checkpoint, folder, calibrated_on, MAX_LENGTH)
        report = compare(folder, pairs, options.batch_size, options.rounds)
    if options.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name.replace('_', ' ')}: {value}")
    return int(report["largest_difference_of_losses"] > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
