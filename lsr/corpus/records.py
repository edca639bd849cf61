"""Parse documents and queries from lines, which are JSON objects or tab-separated columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from lsr.documents import (
    Change,
    Document,
    Query,
    change_of,
    checked_id,
    checked_text,
    metadata_of,
)
from lsr.lines import decode, parse_object, read_lines

_DOCUMENT_ID_KEYS = ("_id", "id", "docid", "doc_id")
_DOCUMENT_TEXT_KEYS = ("text", "contents", "body")
_QUERY_ID_KEYS = ("_id", "id", "qid", "query_id")
_QUERY_TEXT_KEYS = ("text", "query")
Record = TypeVar("Record", Document, Query)


def parse_document(raw: bytes) -> Document:
    """Return the document in one line of JSON, see `open_corpus`; ValueError if there is none."""
    return document_from_json(decode(raw))


def read_queries(path: str | os.PathLike[str]) -> list[Query]:
    """Return the queries in a .jsonl or .tsv (``id<TAB>text``) file, also with .gz, in file order.

    In JSON, the id is under _id, id, qid or query_id, the text under text or query.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: a line cannot be used.
        ValueError: the file has another suffix, or no queries.
    """
    path = Path(path)
    parse = {".jsonl": _query_from_json, ".tsv": _query_from_tsv}[require_format(path)]
    queries = list(read_lines(path, distinct(parse)))
    if not queries:
        raise ValueError(f"{path}: no queries")
    return queries


def read_changes(path: str | os.PathLike[str]) -> list[Change]:
    """Return the changes of metadata in a .jsonl file (also .gz), in file order.

    A line is ``{"id": …, "metadata": {…}}``, see `change_of`.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: a line cannot be used.
        ValueError: the file has another suffix, or no changes.
    """
    path = Path(path)
    if require_format(path) != ".jsonl":
        raise ValueError(f"{path}: expected a .jsonl file (also .gz)")
    changes = list(read_lines(path, _change_from_json))
    if not changes:
        raise ValueError(f"{path}: no changes")
    return changes


def _change_from_json(line: str) -> Change:
    record = parse_object(line)
    doc_id = _id_of(record, _DOCUMENT_ID_KEYS)
    others = record.keys() - {"metadata", _key_of(record, _DOCUMENT_ID_KEYS)}
    if others:
        raise ValueError(f"a change holds id and metadata and nothing else, got {min(others)!r}")
    metadata = record.get("metadata")
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata must be an object, got {type(metadata).__name__}")
    return change_of(doc_id, metadata)


def format_of(path: Path) -> str | None:
    suffix = Path(path.name.removesuffix(".gz")).suffix
    return suffix if suffix in (".jsonl", ".tsv") else None


def require_format(path: Path) -> str:
    suffix = format_of(path)
    if suffix is None:
        raise ValueError(f"{path}: expected a .jsonl or .tsv file (also .gz)")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    return suffix


def distinct(parse: Callable[[str], Record]) -> Callable[[str], Record]:
    """Return `parse` with a check: it raises ValueError for a second record of the same id."""
    seen: set[str] = set()

    def checked(line: str) -> Record:
        record = parse(line)
        if record.id in seen:
            raise ValueError(f"duplicate id {record.id!r}")
        seen.add(record.id)
        return record

    return checked


def document_from_json(line: str) -> Document:
    record = parse_object(line)
    doc_id = _id_of(record, _DOCUMENT_ID_KEYS)
    if not any(key in record for key in ("title", *_DOCUMENT_TEXT_KEYS)):
        raise ValueError(f"no text (expected under one of {', '.join(_DOCUMENT_TEXT_KEYS)})")
    # If several keys could hold the id or the text, the first is used; the others are metadata.
    used = {"title", "metadata", _key_of(record, _DOCUMENT_ID_KEYS)}
    used.add(_key_of(record, _DOCUMENT_TEXT_KEYS))
    others = {key: value for key, value in record.items() if key not in used}
    nested = record.get("metadata")
    if not isinstance(nested, dict | None):
        raise ValueError(f"metadata must be an object, got {type(nested).__name__}")
    return Document(
        doc_id,
        _text_of(record, ("title",)),
        _text_of(record, _DOCUMENT_TEXT_KEYS),
        metadata_of(others, nested or {}),
    )


def document_from_tsv(line: str) -> Document:
    columns = line.split("\t")
    if len(columns) not in (2, 3):
        raise ValueError(f"expected 2 or 3 tab-separated columns, got {len(columns)}")
    title = columns[1] if len(columns) == 3 else ""
    return Document(checked_id(columns[0].strip()), title, columns[-1])


def _query_from_json(line: str) -> Query:
    record = parse_object(line)
    query_id = _id_of(record, _QUERY_ID_KEYS)
    if not any(key in record for key in _QUERY_TEXT_KEYS):
        raise ValueError(f"no text (expected under one of {', '.join(_QUERY_TEXT_KEYS)})")
    return Query(query_id, _text_of(record, _QUERY_TEXT_KEYS))


def _query_from_tsv(line: str) -> Query:
    columns = line.split("\t")
    if len(columns) != 2:
        raise ValueError(f"expected 2 tab-separated columns, got {len(columns)}")
    return Query(checked_id(columns[0].strip()), columns[1])


def _id_of(record: Mapping[str, object], keys: tuple[str, ...]) -> str:
    key = _key_of(record, keys)
    if key is None:
        raise ValueError(f"no id (expected under one of {', '.join(keys)})")
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"id must be a string or an integer, got {type(value).__name__}")
    return checked_id(str(value))


def _key_of(record: Mapping[str, object], keys: tuple[str, ...]) -> str | None:
    """Return the first of `keys` that has a value."""
    return next((key for key in keys if record.get(key) is not None), None)


def _text_of(record: Mapping[str, object], keys: tuple[str, ...]) -> str:
    key = _key_of(record, keys)
    if key is None:
        return ""
    value = record[key]
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string, got {type(value).__name__}")
    return checked_text(value, key)
