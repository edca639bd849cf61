"""Readers of training examples: BEIR folders, JSONL, TSV, ir_datasets; and of scored lists."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lsr.corpus.corpus import beir_file, open_corpus
from lsr.corpus.downloads import downloaded
from lsr.corpus.records import read_queries
from lsr.documents import Query
from lsr.lines import parse_object, read_lines
from lsr.paths import is_path, missing
from lsr.run import Run, finite_number, is_qrels_header, parse_trec, qrels_columns, read_qrels
from lsr.training.examples import Example, Examples
from lsr.training.texts import Texts

logger = logging.getLogger(__name__)

_QUERY_KEYS = ("query", "anchor", "qid", "query_id")
_POSITIVE_KEYS = ("positive", "document", "pos")
_NEGATIVE_KEYS = ("negatives", "negative", "neg")
_ITEM_KEYS = ("pid", "docid", "doc_id", "id")
_SCORE_KEYS = ("ce-score", "score")


@dataclass(frozen=True)
class ExampleSource:
    """Where training examples come from.

    A name is one of
    - a BEIR folder: its queries, qrels/{split}.tsv and corpus; grades above 0 are positives;
    - a .jsonl file (also .gz): a line has the query under query or anchor (qid or query_id for an
      id), positives under positive, document or pos, negatives under negatives, negative or neg,
      and optionally under scores a number for the positive and each negative. Positives and
      negatives are one value or a list of them; negatives also {system: list}, and a value also
      {"pid": id, "ce-score": number} (sentence-transformers' MS MARCO hard negatives);
    - a .tsv file (also .gz): query<TAB>positive[<TAB>negative …], no header, no quoting;
    - an ir_datasets id: its docpairs where it has them, else its qrels (`split` is appended to an
      id that has neither).

    Values in .jsonl and .tsv files are texts, or ids where `collection` says of what.
    """

    name: str
    split: str = "train"
    collection: str | None = None  # a BEIR folder or an ir_datasets id
    limit: int | None = None  # rows, the first


def load_examples(source: ExampleSource) -> Examples:
    """The examples of a source, one row for each query and positive, in the order stored.

    Rows with a query or a document that the collection lacks are left out, and a warning says how
    many: collections often lack some documents that were judged.

    Raises:
        FileNotFoundError: a file is missing.
        CorpusError: a line cannot be used (path:line).
        ValueError: no such source or split, or no row is left.
    """
    if source.limit is not None and source.limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {source.limit}")
    path = Path(source.name)
    if path.is_dir():
        collected = _from_beir(path, source.split)
    elif path.name.removesuffix(".gz").endswith((".jsonl", ".tsv")):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        if source.split != ExampleSource.split:
            raise ValueError(
                f"{path}: a file has no splits, got {source.split!r}: give a BEIR folder, or let "
                "queries be held out (data.dev_split '' and data.held_out)"
            )
        if source.collection is None:
            return _from_texts(path, source.limit)
        collected = _from_ids(path, source.collection)
    elif is_path(source.name):
        raise missing(source.name)
    else:
        collected = _from_ir_datasets(source.name, source.split)
    kept = list(islice(collected.present(), source.limit))
    left_out = ""
    if collected.lacking:
        rows = "1 row was" if collected.lacking == 1 else f"{collected.lacking} rows were"
        left_out = f"{rows} left out, the first because the collection has no {collected.first}"
    if not kept:
        raise ValueError(": ".join(filter(None, [source.name, "no examples", left_out])))
    if left_out:
        logger.warning("%s: %s", source.name, left_out)
    return Examples(kept, collected.documents)


def read_scores(path: str | os.PathLike[str]) -> Iterator[tuple[str, str, float]]:
    """Yield (query id, document id, score) from a file of scores, also .gz.

    Lines are TREC's six columns (query id, Q0, document id, rank, score, tag), or three separated
    by tabs (query id, document id, score), with or without the header of BEIR's qrels.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: a line cannot be used.
    """

    def parse(line: str) -> tuple[str, str, float]:
        if len(line.split("\t")) != 3 and len(line.split()) == 6:
            return parse_trec(line)
        query_id, doc_id, score = qrels_columns(line)
        return query_id, doc_id, finite_number("score", score)

    yield from read_lines(Path(path), parse, is_header=is_qrels_header)


def read_scored_lists(path: str | os.PathLike[str]) -> Run:
    """The file of scores as a ranking of each query's documents, from which negatives are mined.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line cannot be used, or a document is scored twice for a query.
    """
    lists: dict[str, list[tuple[str, float]]] = {}
    for query_id, doc_id, score in read_scores(path):
        lists.setdefault(query_id, []).append((doc_id, score))
    return Run(lists)


class _Collected:
    """Rows by id, and the texts of the collection that their ids are of."""

    def __init__(
        self, rows: Iterable[Example], queries: Mapping[str, str], documents: Texts
    ) -> None:
        self.documents = documents
        self.lacking = 0  # rows that were left out so far
        self.first = ""  # what the first of them lacks
        self._rows = rows
        self._queries = queries

    def present(self) -> Iterator[Example]:
        """The rows whose query and documents are there, with the query's text."""
        for row in self._rows:
            lacked = self._lacked(row)
            if not lacked:
                yield row._replace(query=self._queries[row.query_id])
                continue
            self.lacking += 1
            self.first = self.first or lacked

    def _lacked(self, row: Example) -> str:
        if row.query_id not in self._queries:
            return f"query {row.query_id!r}"
        absent = (d for d in (row.positive, *row.negatives) if d not in self.documents)
        doc_id = next(absent, None)
        return "" if doc_id is None else f"document {doc_id!r}"


def _from_beir(folder: Path, split: str) -> _Collected:
    available = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    if split not in available:
        raise ValueError(
            f"{folder}: no split {split!r}; available: {', '.join(available) or 'none'}"
        )
    queries, documents = _collection(str(folder))
    qrels = read_qrels(folder / "qrels" / f"{split}.tsv")
    rows = (
        Example(query_id, "", doc_id)
        for query_id, grades in qrels.items()
        for doc_id, grade in grades.items()
        if grade > 0
    )
    return _Collected(rows, queries, documents)


def _from_ir_datasets(name: str, split: str) -> _Collected:
    import ir_datasets

    for candidate in (name, f"{name}/{split}"):
        try:
            dataset = ir_datasets.load(candidate)
        except KeyError:
            continue
        if dataset.has_queries() and (dataset.has_docpairs() or dataset.has_qrels()):
            break
    else:
        raise ValueError(
            f"{name}: not a folder, a .jsonl or .tsv file, or an ir_datasets id with queries and "
            f"judgements of split {split!r} (https://ir-datasets.com)"
        )
    rows = (
        (
            Example(pair.query_id, "", pair.doc_id_a, (pair.doc_id_b,))
            for pair in downloaded(name, dataset.docpairs_iter)
        )
        if dataset.has_docpairs()
        else (
            Example(judgement.query_id, "", judgement.doc_id)
            for judgement in downloaded(name, dataset.qrels_iter)
            if judgement.relevance > 0
        )
    )
    queries, documents = _collection(candidate)
    return _Collected(rows, queries, documents)


def _collection(name: str) -> tuple[dict[str, str], Texts]:
    """Texts of queries and documents of a BEIR folder or an ir_datasets id."""
    queries: Iterable[Query]
    if Path(name).is_dir():
        queries = read_queries(beir_file(Path(name), "queries.jsonl"))
    else:
        import ir_datasets

        queries = (
            Query(query.query_id, query.text if hasattr(query, "text") else query.default_text())
            for query in downloaded(name, ir_datasets.load(name).queries_iter)
        )
    documents = Texts((document.id, document.content) for document in open_corpus(name))
    return {query.id: query.text for query in queries}, documents


class _Line(NamedTuple):
    """A line of a file: ids or texts."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    scores: tuple[float, ...] | None = None  # of positives, then negatives

    def rows(self) -> Iterator[Example]:
        n = len(self.positives)
        for number, positive in enumerate(self.positives):
            scores = self.scores and (self.scores[number], *self.scores[n:])
            yield Example(self.query, "", positive, self.negatives, scores)


def _from_ids(path: Path, collection: str) -> _Collected:
    rows = (row for line in read_lines(path, _parser(path)) for row in line.rows())
    return _Collected(rows, *_collection(collection))


def _from_texts(path: Path, limit: int | None) -> Examples:
    rows: list[Example] = []

    def texts() -> Iterator[tuple[str, str]]:
        for line in read_lines(path, _parser(path)):
            ids = {text: _id_of_text(text) for text in (*line.positives, *line.negatives)}
            for row in line.rows():
                if len(rows) == limit:
                    return
                rows.append(
                    row._replace(
                        query_id=_id_of_text(line.query),
                        query=line.query,
                        positive=ids[row.positive],
                        negatives=tuple(ids[text] for text in row.negatives),
                    )
                )
                yield from ((doc_id, text) for text, doc_id in ids.items())

    documents = Texts(texts())
    if not rows:
        raise ValueError(f"{path}: no examples")
    return Examples(rows, documents)


def _id_of_text(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()


def _parser(path: Path) -> Callable[[str], _Line]:
    return _parse_json if path.name.removesuffix(".gz").endswith(".jsonl") else _parse_tsv


def _parse_tsv(line: str) -> _Line:
    columns = line.split("\t")
    if len(columns) < 2:
        raise ValueError("expected at least 2 tab-separated columns (query, positive), got 1")
    if not all(column.strip() for column in columns):
        raise ValueError("an empty column")
    return _Line(columns[0], (columns[1],), tuple(columns[2:]))


def _parse_json(line: str) -> _Line:
    record = parse_object(line)
    (query, _), *more = _items(*_first(record, _QUERY_KEYS))
    if more:
        raise ValueError(f"expected one query, got {1 + len(more)}")
    positives = _items(*_first(record, _POSITIVE_KEYS))
    negatives = _negatives(record)
    items = [*positives, *negatives.items()]
    scores = [score for _, score in items if score is not None]
    if record.get("scores") is not None:
        scores = [_number("scores", value) for value in _list(record["scores"])]
        if len(scores) != len(items):
            raise ValueError(
                f"scores must have a number for each of {len(items)} documents, got {len(scores)}"
            )
    return _Line(
        query,
        tuple(value for value, _ in positives),
        tuple(negatives),
        tuple(scores) if len(scores) == len(items) else None,
    )


def _negatives(record: Mapping[str, object]) -> dict[str, float | None]:
    """The negatives of all systems, each once."""
    key = next((key for key in _NEGATIVE_KEYS if record.get(key)), None)
    if key is None:
        return {}
    value = record[key]
    by_system = isinstance(value, dict) and not any(item in value for item in _ITEM_KEYS)
    negatives: dict[str, float | None] = {}
    for system, values in value.items() if by_system else [("", value)]:  # type: ignore[attr-defined]
        for text, score in _items(f"{key} {system}".strip(), values) if values else ():
            negatives.setdefault(text, score)
    return negatives


def _first(record: Mapping[str, object], keys: tuple[str, ...]) -> tuple[str, object]:
    """The first of `keys` that the record has, and its value."""
    for key in keys:
        if record.get(key) is not None:
            return key, record[key]
    raise ValueError(f"no {keys[0]} (expected under one of {', '.join(keys)})")


def _items(key: str, value: object) -> list[tuple[str, float | None]]:
    """(text or id, score if given) of one value or a list of them, at least one."""
    items: list[tuple[str, float | None]] = []
    for item in _list(value):
        score = None
        if isinstance(item, dict):
            score_key = next((name for name in _SCORE_KEYS if name in item), None)
            score = None if score_key is None else _number(score_key, item[score_key])
            item = _first(item, _ITEM_KEYS)[1]
        if isinstance(item, bool) or not isinstance(item, str | int):
            raise ValueError(f"{key} must hold strings or integers, got {type(item).__name__}")
        if not str(item).strip():
            raise ValueError(f"{key} holds an empty text")
        items.append((str(item), score))
    if not items:
        raise ValueError(f"{key} holds nothing")
    return items


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} must be finite numbers, got {value!r}")
    return float(value)
