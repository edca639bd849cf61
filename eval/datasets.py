"""Datasets: test queries and judgements of BEIR folders, ir_datasets ids, and pydoc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import lsr
from lsr.corpus import Query, beir_file, downloaded, read_queries
from lsr.run import Qrels, read_qrels


class Dataset(NamedTuple):
    """The queries of one split that have a relevant document, and all judgements of each.

    `qrels` maps query id to doc id to grade; a grade above 0 is relevant.
    """

    name: str
    split: str
    queries: list[Query]
    qrels: Qrels


def load_dataset(name: str | os.PathLike[str], split: str = "test") -> Dataset:
    """Return the dataset called `name`, queries in their stored order.

    A name is a BEIR folder (queries.jsonl and qrels/{split}.tsv), an ir_datasets id (`split` is
    appended to an id that has no judgements of its own), or "pydoc": 100 questions of programmers
    about the standard library, written by hand, split "test"; grade 2 answers, grade 1 helps.

    Raises:
        FileNotFoundError: the folder has no queries.jsonl.
        ValueError: the name or split does not exist, or a file cannot be used (path:line).
    """
    name = os.fspath(name)
    if Path(name).is_dir():
        return _load_beir(Path(name), split)
    if name == "pydoc":
        return _load_pydoc(split)
    return _load_ir_datasets(name, split)


def _load_pydoc(split: str) -> Dataset:
    if split != "test":
        raise ValueError(f"pydoc: no split {split!r}; available: test")
    data = Path(lsr.__file__).with_name("data")
    queries = read_queries(data / "pydoc-queries.jsonl")
    return _dataset("pydoc", split, queries, read_qrels(data / "pydoc-qrels.tsv"))


def _load_beir(folder: Path, split: str) -> Dataset:
    judgements = folder / "qrels" / f"{split}.tsv"
    if not judgements.exists():
        available = sorted(path.stem for path in judgements.parent.glob("*.tsv"))
        raise ValueError(
            f"{folder}: no split {split!r}; available: {', '.join(available) or 'none'}"
        )
    queries = read_queries(beir_file(folder, "queries.jsonl"))
    return _dataset(str(folder), split, queries, read_qrels(judgements))


def _load_ir_datasets(name: str, split: str) -> Dataset:
    import ir_datasets

    try:
        collection = ir_datasets.load(name)
        if collection.has_qrels():
            split = name.rpartition("/")[2]
        else:
            collection = ir_datasets.load(f"{name}/{split}")
    except KeyError as error:
        raise ValueError(
            f"{name}: not a folder or an ir_datasets id with split {split!r} "
            "(https://ir-datasets.com)"
        ) from error
    if not (collection.has_qrels() and collection.has_queries()):
        raise ValueError(f"{name}: this ir_datasets id has no queries with judgements")
    queries = [
        Query(query.query_id, query.text if hasattr(query, "text") else query.default_text())
        for query in downloaded(name, collection.queries_iter)
    ]
    qrels: Qrels = {}
    for judgement in downloaded(name, collection.qrels_iter):
        qrels.setdefault(judgement.query_id, {})[judgement.doc_id] = judgement.relevance
    return _dataset(name, split, queries, qrels)


def _dataset(
    name: str, split: str, queries: Iterable[Query], qrels: Mapping[str, Mapping[str, int]]
) -> Dataset:
    judged = {
        query_id: dict(grades)
        for query_id, grades in qrels.items()
        if any(grade > 0 for grade in grades.values())
    }
    kept = [query for query in queries if query.id in judged]
    if missing := judged.keys() - {query.id for query in kept}:
        raise ValueError(
            f"{name}: split {split!r} judges {len(missing)} queries that are not among its "
            f"queries, such as {min(missing)!r}"
        )
    if not kept:
        raise ValueError(f"{name}: split {split!r} has no query with a relevant document")
    return Dataset(name, split, kept, {query.id: judged[query.id] for query in kept})
