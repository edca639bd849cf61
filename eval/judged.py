"""Whether an index can hold the answers to a dataset's queries: its judged documents."""

from __future__ import annotations

import os
import warnings
from itertools import islice
from pathlib import Path

from lsr.building.live import naming_index
from lsr.corpus.corpus import open_corpus
from lsr.eval.datasets import Dataset
from lsr.indexes.lucene import LuceneIndex
from lsr.indexes.manifest import read_manifest

# How many documents of a corpus are compared with those of an index.
COMPARED = 10
# Documents that are looked up together.
CHUNK = 1000


def check_index(directory: str | os.PathLike[str], dataset: Dataset) -> None:
    """Refuse an index of another corpus; warn where it lacks some of the relevant documents.

    It is of another corpus if it holds none of the relevant documents, or if the dataset is a
    folder with a corpus, and all of the first COMPARED documents that the index holds too have
    other texts there.

    Raises:
        FileNotFoundError: no index there.
        ValueError: the index is of another corpus.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    relevant = sorted(
        {doc for grades in dataset.qrels.values() for doc, grade in grades.items() if grade > 0}
    )
    about = f"{dataset.label}, split {dataset.split!r}"
    folder = manifest.folder(directory) / "lucene"
    with naming_index(directory, manifest), LuceneIndex.open(folder, []) as index:
        held = _held(index, relevant)
        if not held:
            example = next(iter(index.matching()), None)
            raise ValueError(
                f"{directory} holds none of the {len(relevant)} relevant documents of {about}, "
                f"such as {relevant[0]!r}: it is an index of {manifest.corpus} with "
                f"{index.n_docs} documents" + ("" if example is None else f", such as {example!r}")
            )
        _compare_texts(directory, index, dataset, manifest.corpus)
    if len(held) < len(relevant):
        absent = next(doc_id for doc_id in relevant if doc_id not in held)
        warnings.warn(
            f"{directory} holds {len(held)} of the {len(relevant)} relevant documents of {about}: "
            f"the others, such as {absent!r}, count as not found",
            stacklevel=2,
        )


def _compare_texts(directory: Path, index: LuceneIndex, dataset: Dataset, corpus: str) -> None:
    folder = Path(dataset.source or dataset.name)
    if not any((folder / name).is_file() for name in ("corpus.jsonl", "corpus.jsonl.gz")):
        return
    first = list(islice(open_corpus(folder), COMPARED))
    stored = index.stored([document.id for document in first])
    same = {
        one.id: (one.title, one.text) == (other.title, other.text)
        for one, other in zip(first, stored, strict=True)
        if other is not None
    }
    if same and not any(same.values()):
        raise ValueError(
            f"{directory} is an index of {corpus}, not of {folder}: document {min(same)!r} has "
            "another text there"
        )


def _held(index: LuceneIndex, ids: list[str]) -> set[str]:
    """Return those of `ids` that are in an index."""
    held = set()
    for start in range(0, len(ids), CHUNK):
        for document in index.stored(ids[start : start + CHUNK]):
            if document is not None:
                held.add(document.id)
    return held
