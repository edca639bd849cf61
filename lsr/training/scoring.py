"""Teachers' scores of examples: of all, once and cached on disk, or live, of a batch as it comes.

train = score_examples(train, teachers, Path("run/scores"))
trainer.data_collator = Labelled(trainer.data_collator, partial(label_batch, teachers=teachers))
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from lsr.progress import Progress
from lsr.training.examples import Examples
from lsr.training.teachers import Combine, Teacher, ensemble

# Rows scored at once; what a kill can lose.
SHARD = 512
# Sets the "label" of the rows of a batch, see `label_batch`.
Label = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]


def score_examples(
    examples: Examples,
    teachers: Sequence[Teacher],
    cache: Path,
    *,
    combine: Combine = ensemble,
    progress: Progress = lambda step, done, total: None,
) -> Examples:
    """The examples with the teachers' scores, which the data set shows as its labels.

    Scores are written as they are computed, in shards of SHARD rows, to a folder of `cache` for
    each teacher and set of examples. A run that was killed goes on after its last shard; another
    run of the same examples finds all of them. Of several processes one computes, the others wait.

    Args:
        examples: rows with the same number n of negatives.
        teachers: at least one.
        cache: a folder, made if absent; it can be deleted at any time.
        combine: `ensemble`, `align` or another of (rows, n + 1) scores of each teacher.
        progress: called with the step, how many rows are done, and of how many.

    Raises:
        ValueError: no teachers, a teacher's scores are not finite, or rows differ in the number
            of their negatives.
    """
    if not teachers:
        raise ValueError("`teachers` must hold at least one, got none")
    scores = [_cached(examples, teacher, cache, progress) for teacher in teachers]
    combined = combine(scores).tolist()
    rows = [
        row._replace(scores=tuple(of_row))
        for row, of_row in zip(examples.rows, combined, strict=True)
    ]
    return replace(examples, rows=rows)


def label_batch(
    rows: Sequence[dict[str, Any]], teachers: Sequence[Teacher], combine: Combine = ensemble
) -> list[dict[str, Any]]:
    """The rows of a batch with "label" set to the teachers' scores of their documents, in order.

    Args:
        rows: at least one, of "query" and the columns of its documents (whatever is not "label"),
            as texts.
        teachers: at least one.
        combine: `ensemble` or another whose result for a row does not depend on the other rows:
            labels are then those of `score_examples`.

    Raises:
        ValueError: a score is not finite.
    """
    columns = [column for column in rows[0] if column not in ("query", "label")]
    queries = [row["query"] for row in rows]
    documents = [[row[column] for column in columns] for row in rows]
    labels = combine([_score(teacher, queries, documents) for teacher in teachers]).tolist()
    return [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]


class Labelled:
    """A data collator for rows that teachers score first."""

    def __init__(self, collator: Any, label: Label) -> None:
        """A collator before which the rows of each batch are labelled.

        Args:
            collator: of sentence-transformers, for rows with a column "label".
            label: `label_batch` by some teachers.
        """
        self.valid_label_columns = collator.valid_label_columns  # which the trainer reads
        self._collator = collator
        self._label = label

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """See `collator`."""
        collated: dict[str, Any] = self._collator(self._label(rows))
        return collated


def _score(
    teacher: Teacher, queries: Sequence[str], documents: Sequence[Sequence[str]]
) -> np.ndarray:
    """One teacher's scores of m documents for each of B queries, float32, shape (B, m).

    Raises:
        ValueError: a score is not finite.
    """
    pairs = [(query, text) for query, of in zip(queries, documents, strict=True) for text in of]
    scores = teacher.score([query for query, _ in pairs], [text for _, text in pairs])
    if not np.isfinite(scores).all():
        query, _ = pairs[int(np.argmin(np.isfinite(scores)))]
        raise ValueError(f"{type(teacher).__name__}: a score of query {query!r} is not finite")
    return np.asarray(scores, np.float32).reshape(len(queries), -1)


def _cached(examples: Examples, teacher: Teacher, cache: Path, progress: Progress) -> np.ndarray:
    """One teacher's scores, float32, shape (rows, n + 1)."""
    name = type(teacher).__name__
    width = 1 + examples.n_negatives
    folder = cache / f"{name}-{teacher.fingerprint[:16]}-{examples.digest[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    with FileLock(folder / "lock"):
        for start in range(0, len(examples), SHARD):
            n_rows = min(SHARD, len(examples) - start)
            path = folder / f"{start // SHARD:06d}.npz"
            scores = _read(path, (n_rows, width))
            if scores is None:
                rows = examples.rows[start : start + n_rows]
                texts = [examples.texts(row) for row in rows]
                scores = _score(teacher, [row.query for row in rows], texts)
                _write(path, scores)
            shards.append(scores)
            progress(f"scoring by {name}", start + n_rows, len(examples))
    return np.concatenate(shards)


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The scores in a shard; None if it is absent, or damaged (with a warning)."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file) as saved:
            scores = np.asarray(saved["scores"])
        if scores.shape != shape or scores.dtype != np.float32:
            raise ValueError(
                f"expected float32 of shape {shape}, got {scores.dtype} {scores.shape}"
            )
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        warnings.warn(f"{path} is damaged; its rows are scored again: {error}", stacklevel=2)
        return None
    return scores


def _write(path: Path, scores: np.ndarray) -> None:
    """Write the shard so that no kill leaves a part of it."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, scores=scores)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
