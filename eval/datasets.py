"""Datasets: queries and judgements of BEIR folders, ir_datasets ids, short names, and pydoc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import lsr
from lsr.corpus.corpus import beir_file
from lsr.corpus.downloads import downloaded
from lsr.corpus.records import read_queries
from lsr.documents import Query
from lsr.paths import is_path, missing
from lsr.run import Qrels, checked_grade, read_qrels

_SPLITS = ("train", "dev", "test")
_BEIR = (
    *("trec-covid", "nfcorpus", "nq", "hotpotqa", "fiqa", "arguana", "webis-touche2020/v2"),
    *("quora", "dbpedia-entity", "scidocs", "fever", "climate-fever", "scifact"),
)
_CQADUPSTACK = (
    *("android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats"),
    *("tex", "unix", "webmasters", "wordpress"),
)
_NANO = (
    *("arguana", "climate-fever", "dbpedia-entity", "fever", "fiqa", "hotpotqa", "msmarco"),
    *("nfcorpus", "nq", "quora", "scidocs", "scifact", "webis-touche2020"),
)
_LOTTE = ("lifestyle", "recreation", "science", "technology", "writing")

# Short name → ir_datasets id. `split` is appended to an id that has no judgements of its own, or
# put in place of {split}.
SHORT_NAMES = {
    **{name: f"beir/{name}" for name in _BEIR},
    "webis-touche2020": "beir/webis-touche2020/v2",
    **{f"{prefix}webis-touche2020/v1": "beir/webis-touche2020" for prefix in ("", "beir/")},
    **{f"cqadupstack/{name}": f"beir/cqadupstack/{name}" for name in _CQADUPSTACK},
    # Not beir/msmarco/test, which is the TREC track of 2019.
    "msmarco": "beir/msmarco/dev",
    "msmarco-dev": "msmarco-passage/dev/small",
    **{f"dl{year}": f"msmarco-passage/trec-dl-20{year}/judged" for year in (19, 20)},
    "dl-hard": "msmarco-passage/trec-dl-hard",
    **{f"dl{year}": f"msmarco-passage-v2/trec-dl-20{year}/judged" for year in (21, 22, 23)},
    **{
        f"lotte/{topic}/{kind}": f"lotte/{topic}/{{split}}/{kind}"
        for topic in (*_LOTTE, "pooled")
        for kind in ("search", "forum")
    },
}
# Touché's judgements differ by version, which tables must show.
_WITH_VERSION = {
    "webis-touche2020": "webis-touche2020/v2",
    "beir/webis-touche2020": "beir/webis-touche2020/v1",
}
# Collection → the splits that are short names: `msmarco-passage --split dl19`.
_AS_SPLITS = {
    "msmarco-passage": ("dev", "dl19", "dl20", "dl-hard"),
    "msmarco-passage-v2": ("dl21", "dl22", "dl23"),
}
# Name → several datasets. CQADupStack's count as one in a mean over datasets.
GROUPS = {
    "beir": tuple(f"beir/{name}" for name in _BEIR),
    **{
        name: tuple(f"beir/cqadupstack/{part}" for part in _CQADUPSTACK)
        for name in ("cqadupstack", "beir/cqadupstack")
    },
    "nano-beir": tuple(f"nano-beir/{name}" for name in _NANO),
    **{
        f"lotte/{kind}": tuple(f"lotte/{topic}/{kind}" for topic in _LOTTE)
        for kind in ("search", "forum")
    },
}


class Dataset(NamedTuple):
    """The queries of one split that have a relevant document, and all judgements of each.

    `qrels` maps query id to doc id to grade; a grade above 0 is relevant.
    """

    name: str
    split: str
    queries: list[Query]
    qrels: Qrels
    # The lowest grade that counts as relevant in measures without grades.
    relevant_grade: int = 1
    # The name of its documents for `open_corpus`; "" if that is the dataset's name.
    source: str = ""
    # Datasets of one group are averaged first, without weights; "" is no group.
    group: str = ""

    @property
    def label(self) -> str:
        """The name in tables; of a folder only the last part."""
        return Path(self.name).resolve().name if Path(self.name).is_dir() else self.name


def load_datasets(name: str | os.PathLike[str], split: str = "test") -> list[Dataset]:
    """Return the datasets that a name stands for: a group (see GROUPS), or one dataset.

    Raises:
        As `load_dataset`.
    """
    name = os.fspath(name)
    if name in GROUPS and not Path(name).is_dir():
        group = "cqadupstack" if name.endswith("cqadupstack") else ""
        return [load_dataset(part, split)._replace(group=group) for part in GROUPS[name]]
    return [load_dataset(name, split)]


def load_dataset(name: str | os.PathLike[str], split: str = "test") -> Dataset:
    """Return the dataset called `name`, queries in their stored order.

    A name is a BEIR folder (queries.jsonl and qrels/{split}.tsv), a short name (see SHORT_NAMES),
    an ir_datasets id (`split` is appended to an id that has no judgements of its own), or "pydoc":
    100 questions of programmers about the standard library, written by hand, split "test"; grade 2
    answers, grade 1 helps. A folder goes before the rest.

    Raises:
        FileNotFoundError: the folder has no queries.jsonl.
        ValueError: the name or split does not exist, or a file cannot be used (path:line).
    """
    name = os.fspath(name)
    if Path(name).is_dir():
        return _load_beir(Path(name), split)
    if name == "pydoc":
        return _load_pydoc(split)
    if Path(name).exists():
        raise NotADirectoryError(f"{name}: a dataset is a BEIR folder, and this is a file")
    if is_path(name):
        raise missing(name, "folder")
    if name in GROUPS:
        parts = ", ".join(GROUPS[name][:2])
        raise ValueError(f"{name} is {len(GROUPS[name])} datasets ({parts}, …): name one of them")
    if name in _AS_SPLITS and split != "train":
        if split not in _AS_SPLITS[name]:
            raise ValueError(
                f"{name}: no split {split!r}; available: {', '.join(_AS_SPLITS[name])}, train"
            )
        name = "msmarco-dev" if split == "dev" else split
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

    ir_id = SHORT_NAMES.get(name, name).replace("{split}", split)
    try:
        collection = ir_datasets.load(ir_id)
        if not collection.has_qrels():
            collection = ir_datasets.load(f"{ir_id}/{split}")
            ir_id = f"{ir_id}/{split}"
    except KeyError as error:
        if Path(name).parent != Path() and Path(name).parent.is_dir():
            raise missing(name, "folder or ir_datasets id") from error
        raise ValueError(
            f"{name}: not a folder or an ir_datasets id with split {split!r} "
            f"(https://ir-datasets.com), and none of the short names: {_short_names()}"
        ) from error
    if not (collection.has_qrels() and collection.has_queries()):
        raise ValueError(f"{name}: this ir_datasets id has no queries with judgements")
    queries = [
        Query(query.query_id, query.text if hasattr(query, "text") else query.default_text())
        for query in downloaded(ir_id, collection.queries_iter)
    ]
    qrels: Qrels = {}
    for judgement in downloaded(ir_id, collection.qrels_iter):
        try:
            grade = checked_grade(judgement.relevance)
        except ValueError as error:
            raise ValueError(
                f"{ir_id}: query {judgement.query_id!r}, document {judgement.doc_id!r}: {error}"
            ) from error
        qrels.setdefault(judgement.query_id, {})[judgement.doc_id] = grade
    # An id with judgements of its own names its split, whatever `split` is.
    known = [part for part in ir_id.split("/") if part in _SPLITS]
    return _dataset(
        _WITH_VERSION.get(name, name), known[-1] if known else "test", queries, qrels
    )._replace(relevant_grade=_relevant_grade(ir_id), source=ir_id)


def _relevant_grade(ir_id: str) -> int:
    """Return 2 for the TREC deep learning tracks, whose grade 1 is "related, does not answer"."""
    return 2 if "/trec-dl-" in ir_id or ir_id == "beir/msmarco/test" else 1


def _short_names() -> str:
    names = [*GROUPS, *SHORT_NAMES]
    return ", ".join(name for name in names if "/" not in name)


def _dataset(
    name: str, split: str, queries: Iterable[Query], qrels: Mapping[str, Mapping[str, int]]
) -> Dataset:
    judged = {
        query_id: dict(grades)
        for query_id, grades in qrels.items()
        if any(grade > 0 for grade in grades.values())
    }
    asked = list(queries)
    kept = [query for query in asked if query.id in judged]
    if unknown := judged.keys() - {query.id for query in kept}:
        found = f"; a query is for example {asked[0].id!r}" if asked and not kept else ""
        raise ValueError(
            f"{name}: split {split!r} judges {len(unknown)} queries that are not among its "
            f"queries, such as {min(unknown)!r}{found}"
        )
    if not kept:
        raise ValueError(f"{name}: split {split!r} has no query with a relevant document")
    return Dataset(name, split, kept, {query.id: judged[query.id] for query in kept})
