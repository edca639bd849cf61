"""The quality of a model on held-out queries before and after training, without an index."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from rich.table import Table
from scipy.sparse import csr_array, vstack

from lsr.eval.measures import evaluate
from lsr.eval.pruning import Point, pruning_curve, rank_vectors, table
from lsr.progress import Progress
from lsr.training.arguments import in_bfloat16
from lsr.training.prepare import HeldOut, is_main_process, prepare
from lsr.training.processes import check_devices
from lsr.training.recipe import Recipe
from lsr.training.run import build, check_models, open_run, train
from lsr.training.run_files import write_whole

# A model is measured on at most so many documents: the judged ones first, then others.
MOST_DOCUMENTS = 50_000
BATCH = 512


class Vectors(NamedTuple):
    """Held-out queries and their collection, encoded."""

    ids: list[str]
    documents: csr_array  # float32, (n, V)
    query_ids: list[str]
    queries: csr_array  # float32, (m, V)


def encode(model: Any, held_out: HeldOut, most_documents: int = MOST_DOCUMENTS) -> Vectors:
    """Encode by a sentence-transformers SparseEncoder, such as one in training.

    Of a collection of more than `most_documents` the judged documents are taken, and then the first
    ones. Measures on such a part are higher than on the whole.
    """
    judged = dict.fromkeys(doc_id for qrel in held_out.qrels.values() for doc_id in qrel)
    ids = list(held_out.documents)
    if len(ids) > most_documents:
        ids = list(dict.fromkeys([*judged, *ids]))[: max(most_documents, len(judged))]
    training = model.training
    model.eval()
    documents = _encode(model.encode_document, [held_out.documents[doc_id] for doc_id in ids])
    queries = _encode(model.encode_query, list(held_out.queries.values()))
    model.train(training)
    return Vectors(ids, documents, list(held_out.queries), queries)


def _encode_as_trained(recipe: Recipe, model: Any, held_out: HeldOut) -> Vectors:
    """Run `encode` in the precision of training."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=in_bfloat16(recipe)):
        return encode(model, held_out)


def _encode(encoder: Any, texts: list[str]) -> csr_array:
    parts = []
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        found = encoder(batch, convert_to_sparse_tensor=True, show_progress_bar=False)
        found = found.cpu().coalesce()
        rows, terms = found.indices().numpy()
        parts.append(csr_array((found.values().float().numpy(), (rows, terms)), found.shape))
    return csr_array(vstack(parts, format="csr"))


def measure(vectors: Vectors, held_out: HeldOut) -> dict[str, float]:
    """Return nDCG@10, RR@10, R@100 of the exact ranking, and mean terms of both kinds of text."""
    run = rank_vectors(vectors.documents, vectors.ids, vectors.queries, vectors.query_ids)
    means = evaluate(run, held_out.qrels, ["nDCG@10", "RR@10", "R@100"]).means
    return means | {
        "document terms": vectors.documents.nnz / len(vectors.ids),
        "query terms": vectors.queries.nnz / len(vectors.query_ids),
    }


@dataclass(frozen=True)
class Learned:
    """The result of a training run; measures are empty if no queries were held out."""

    model: Path
    n_queries: int
    n_documents: int  # documents that were searched
    n_collection: int  # documents of the collection
    before: dict[str, float]
    after: dict[str, float]
    curve: list[Point]

    def record(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "model": str(self.model),
            "held_out_queries": self.n_queries,
            "documents": self.n_documents,
            "documents_of_collection": self.n_collection,
            "before": self.before,
            "after": self.after,
            "curve": [
                {"kept": point.kept, "terms": point.terms, **point.evaluation.means}
                for point in self.curve
            ],
        }

    def table(self) -> Table:
        """Return measures before and after training as a table for a terminal."""
        title = f"{self.n_queries} held-out queries, {self.n_documents:,} documents"
        if self.n_documents < self.n_collection:
            title += f" of {self.n_collection:,}"
        shown = Table(title, "before", "after", box=None)
        for name, value in self.before.items():
            shown.add_row(name, f"{value:.4f}", f"{self.after[name]:.4f}")
        return shown

    def curve_table(self) -> Table:
        """Return quality against terms kept as a table for a terminal."""
        return table(self.curve)


def learn(
    recipe: Recipe,
    out: str | os.PathLike[str],
    progress: Progress = lambda step, done, total: None,
) -> Learned:
    """Train by a recipe in a run directory, measure before and after, write out/evaluation.json.

    Raises:
        TrainingStopped: by the guard.
        FileNotFoundError, ValueError: data, base or settings cannot be used.
    """
    # Before hours of preparation.
    check_devices()
    check_models(recipe)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    # One of the processes that train together prepares; the others read.
    with FileLock(out / "lock"):
        open_run(recipe, out)
        prepared = prepare(recipe, out, progress)
    model = build(recipe, prepared, out)
    held_out = prepared.held_out
    started = out / "start.json"
    before: dict[str, float] = {}
    if held_out is not None and is_main_process():
        if started.exists():
            before = json.loads(started.read_text(encoding="utf-8"))
        else:
            before = measure(_encode_as_trained(recipe, model, held_out), held_out)
            write_whole(started, json.dumps(before))
    path = train(recipe, prepared, model, out, progress=progress)
    if held_out is None or not is_main_process():
        return Learned(path, 0, 0, 0, {}, {}, [])
    vectors = _encode_as_trained(recipe, model, held_out)
    after = measure(vectors, held_out)
    points = pruning_curve(
        vectors.documents, vectors.ids, vectors.queries, vectors.query_ids, held_out.qrels
    )
    sizes = (len(held_out.queries), len(vectors.ids), len(held_out.documents))
    learned = Learned(path, *sizes, before, after, points)
    write_whole(out / "evaluation.json", json.dumps(learned.record(), indent=2))
    return learned
