"""Documents and queries, and the readers that stream them from files and named collections."""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

MetadataValue = str | int | float | bool

_DOCUMENT_ID_KEYS = ("_id", "id", "docid", "doc_id")
_DOCUMENT_TEXT_KEYS = ("text", "contents", "body")
_QUERY_ID_KEYS = ("_id", "id", "qid", "query_id")
_QUERY_TEXT_KEYS = ("text", "query")
_EXCERPT_CHARACTERS = 80
# Lucene refuses terms of 32 KiB, and nobody means an id of one.
_LONGEST_ID = 1000


@dataclass(frozen=True, slots=True)
class Document:
    """One retrievable unit of text."""

    id: str
    title: str = ""
    text: str = ""
    metadata: Mapping[str, MetadataValue | list[str]] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """What encoders read: title and text joined by a space (the BEIR convention)."""
        return f"{self.title} {self.text}".strip()


class Query(NamedTuple):
    """One information need."""

    id: str
    text: str


class BadLine(NamedTuple):
    """One line that a corpus read with `skip_bad` left out; lines count from 1."""

    path: str
    line: int
    reason: str


class CorpusError(ValueError):
    """A line of a corpus or query file that cannot be used: ``path:line: reason: excerpt``."""

    def __init__(self, path: Path, line: int, reason: str, raw: bytes = b"") -> None:
        self.bad_line = BadLine(str(path), line, reason)
        excerpt = raw.decode("utf-8", "backslashreplace").strip()
        if len(excerpt) > _EXCERPT_CHARACTERS:
            excerpt = excerpt[:_EXCERPT_CHARACTERS] + "…"
        super().__init__(f"{path}:{line}: {reason}" + (f": {excerpt}" if excerpt else ""))


_Parsed = TypeVar("_Parsed")
_Record = TypeVar("_Record", Document, Query)
_OnBad = Callable[[CorpusError], None]


class Corpus:
    """A named, re-iterable stream of documents with distinct ids.

    `bad_lines` holds what the latest iteration skipped.
    """

    def __init__(
        self, name: str, read: Callable[[_OnBad], Iterator[Document]], *, skip_bad: bool = False
    ) -> None:
        self.name = name
        self.bad_lines: list[BadLine] = []
        self._read = read
        self._skip_bad = skip_bad

    def __iter__(self) -> Iterator[Document]:
        """Return the documents in their stored order, read anew.

        Raises:
            CorpusError: a line cannot be used, unless the corpus was opened with `skip_bad`.
            ValueError: there are no documents.
        """
        bad_lines: list[BadLine] = []
        self.bad_lines = bad_lines

        def skip(error: CorpusError) -> None:
            bad_lines.append(error.bad_line)

        empty = True
        for document in self._read(skip if self._skip_bad else _fail):
            empty = False
            yield document
        if empty:
            raise ValueError(f"{self.name}: no documents ({len(bad_lines)} bad lines)")


def open_corpus(name: str | os.PathLike[str], *, skip_bad: bool = False) -> Corpus:
    """Return the corpus called `name`; its files are read when it is iterated.

    A name is a BEIR folder (with corpus.jsonl), a .jsonl or .tsv file (``id<TAB>text`` or
    ``id<TAB>title<TAB>text``, no quoting), each also with .gz; "pydoc" or "pydoc:numpy,scipy", the
    documentation of installed packages; or an ir_datasets id. In JSON, the id is under _id, id,
    docid or doc_id, the text under text, contents or body; the members of `metadata` and all other
    keys become metadata where they hold a string, number, boolean or list of strings.

    Args:
        name: a path, "pydoc", or an ir_datasets id.
        skip_bad: collect bad lines in `Corpus.bad_lines` instead of raising `CorpusError`.

    Raises:
        FileNotFoundError: the file, or corpus.jsonl in the folder, is missing.
        ValueError: the name is none of the above.
    """
    name = os.fspath(name)
    if name == "pydoc" or name.startswith("pydoc:"):
        packages = [p.strip() for p in name.removeprefix("pydoc").lstrip(":").split(",")]
        return Corpus(name, _pydoc_reader([p for p in packages if p] or None), skip_bad=skip_bad)
    path = Path(name)
    if path.is_dir():
        path = beir_file(path, "corpus.jsonl")
    if path.exists() or _format(path):
        parse = {".jsonl": _document_from_json, ".tsv": _document_from_tsv}[_require_format(path)]
        return Corpus(name, lambda bad: read_lines(path, _distinct(parse), bad), skip_bad=skip_bad)
    return Corpus(name, _ir_datasets_reader(name), skip_bad=skip_bad)


def read_queries(path: str | os.PathLike[str]) -> list[Query]:
    """Return the queries of a .jsonl or .tsv (``id<TAB>text``) file, also with .gz, in file order.

    In JSON, the id is under _id, id, qid or query_id, the text under text or query.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: a line cannot be used.
        ValueError: the file has another suffix, or no queries.
    """
    path = Path(path)
    parse = {".jsonl": _query_from_json, ".tsv": _query_from_tsv}[_require_format(path)]
    queries = list(read_lines(path, _distinct(parse)))
    if not queries:
        raise ValueError(f"{path}: no queries")
    return queries


def _fail(error: CorpusError) -> NoReturn:
    raise error


def beir_file(folder: Path, name: str) -> Path:
    """Return the file `name` of a BEIR folder, or the one with .gz.

    Raises:
        FileNotFoundError: the folder has neither.
    """
    for file in (folder / name, folder / f"{name}.gz"):
        if file.exists():
            return file
    raise FileNotFoundError(f"{folder}: no {name} or {name}.gz in this folder")


def _format(path: Path) -> str | None:
    suffix = Path(path.name.removesuffix(".gz")).suffix
    return suffix if suffix in (".jsonl", ".tsv") else None


def _require_format(path: Path) -> str:
    suffix = _format(path)
    if suffix is None:
        raise ValueError(f"{path}: expected a .jsonl or .tsv file (also .gz)")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    return suffix


def _open(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def read_lines(
    path: Path, parse: Callable[[str], _Parsed], on_bad: _OnBad = _fail, *, header: str = ""
) -> Iterator[_Parsed]:
    """Yield what `parse` (ValueError: a bad line) makes of each line that is not blank.

    A first line that begins with `header`, where one is given, is passed over. Files may be .gz.
    """
    number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                    if header and raw.startswith(header.encode()):
                        continue
                if not raw.strip(b" \r\n"):
                    continue
                try:
                    record = parse(_decode(raw.rstrip(b"\r\n")))
                except ValueError as error:
                    on_bad(CorpusError(path, number, str(error), raw))
                    continue
                yield record
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        on_bad(CorpusError(path, number + 1, f"truncated or damaged gzip ({error})"))


def _distinct(parse: Callable[[str], _Record]) -> Callable[[str], _Record]:
    """`parse`, for which a second record of the same id is a bad line."""
    seen: set[str] = set()

    def checked(line: str) -> _Record:
        record = parse(line)
        if record.id in seen:
            raise ValueError(f"duplicate id {record.id!r}")
        seen.add(record.id)
        return record

    return checked


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"invalid UTF-8 ({error.reason} at byte {error.start} of the line)"
        ) from error


def parse_object(line: str) -> dict[str, object]:
    """Return the JSON object on a line; ValueError if there is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"invalid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def parse_document(raw: bytes) -> Document:
    """Return the document of one line of JSON, see `open_corpus`; ValueError if there is none."""
    return _document_from_json(_decode(raw))


def _id_of(record: Mapping[str, object], keys: tuple[str, ...]) -> str:
    value = next((record[key] for key in keys if record.get(key) is not None), None)
    if value is None:
        raise ValueError(f"no id (expected under one of {', '.join(keys)})")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"id must be a string or an integer, got {type(value).__name__}")
    return checked_id(str(value))


def checked_id(value: str) -> str:
    """Return an id that every file format can hold; ValueError if it is not one."""
    if not value:
        raise ValueError("empty id")
    if value.split() != [value]:
        # TREC run and qrels files separate columns by white space.
        raise ValueError(f"white space in id {value!r}")
    if len(value) > _LONGEST_ID:
        raise ValueError(f"id must have at most {_LONGEST_ID} characters, got {len(value)}")
    return _checked_text(value, "id")


def _text_of(record: Mapping[str, object], keys: tuple[str, ...]) -> str:
    key = next((key for key in keys if record.get(key) is not None), None)
    if key is None:
        return ""
    value = record[key]
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string, got {type(value).__name__}")
    return _checked_text(value, key)


def _checked_text(value: str, key: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{key} holds a lone surrogate, which UTF-8 cannot express") from error
    return value


def _document_from_json(line: str) -> Document:
    record = parse_object(line)
    doc_id = _id_of(record, _DOCUMENT_ID_KEYS)
    if not any(key in record for key in ("title", *_DOCUMENT_TEXT_KEYS)):
        raise ValueError(f"no text (expected under one of {', '.join(_DOCUMENT_TEXT_KEYS)})")
    used = {"title", "metadata", *_DOCUMENT_ID_KEYS, *_DOCUMENT_TEXT_KEYS}
    metadata = _metadata({key: value for key, value in record.items() if key not in used})
    nested = record.get("metadata")
    if isinstance(nested, dict):
        metadata |= _metadata(nested)
    elif nested is not None:
        raise ValueError(f"metadata must be an object, got {type(nested).__name__}")
    return Document(
        doc_id, _text_of(record, ("title",)), _text_of(record, _DOCUMENT_TEXT_KEYS), metadata
    )


def _metadata(values: Mapping[str, object]) -> dict[str, MetadataValue | list[str]]:
    result: dict[str, MetadataValue | list[str]] = {}
    for key, value in values.items():
        _checked_text(key, "a key")
        if isinstance(value, str):
            result[key] = _checked_text(value, key)
        elif isinstance(value, int | float | bool):
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{key} must be finite, got {value}")
            result[key] = value
        elif isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            result[key] = [_checked_text(item, key) for item in value]
    return result


def _document_from_tsv(line: str) -> Document:
    columns = line.split("\t")
    if len(columns) not in (2, 3):
        raise ValueError(f"expected 2 or 3 tab-separated columns, got {len(columns)}")
    title = columns[1] if len(columns) == 3 else ""
    return Document(checked_id(columns[0]), title, columns[-1])


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
    return Query(checked_id(columns[0]), columns[1])


def _pydoc_reader(packages: list[str] | None) -> Callable[[_OnBad], Iterator[Document]]:
    def read(_: _OnBad) -> Iterator[Document]:
        from lsr.pydoc import read_pydoc

        yield from read_pydoc(packages)

    return read


def downloaded(name: str, read: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """What `read` yields of the ir_datasets id `name`, which it downloads at first use.

    Raises:
        ConnectionError: it cannot be downloaded.
    """
    try:
        yield from read()
    except RuntimeError as error:
        # What ir_datasets raises when every source of a file failed.
        if "download" not in str(error):
            raise
        raise ConnectionError(
            f"{name}: ir_datasets could not download it. Run this where there is a network, or "
            "copy the folder ~/.ir_datasets from there"
        ) from error


def _ir_datasets_reader(name: str) -> Callable[[_OnBad], Iterator[Document]]:
    import ir_datasets

    try:
        dataset = ir_datasets.load(name)
    except KeyError as error:
        raise ValueError(
            f"{name}: not a file, a folder, pydoc or an ir_datasets id (https://ir-datasets.com)"
        ) from error
    if not dataset.has_docs():
        raise ValueError(f"{name}: this ir_datasets id has no documents")

    def read(_: _OnBad) -> Iterator[Document]:
        for doc in downloaded(name, dataset.docs_iter):
            fields = doc._asdict()
            doc_id, title = checked_id(fields.pop("doc_id")), fields.pop("title", "")
            if "text" not in fields:
                # Collections without a plain text field say themselves which fields make it up.
                title, fields["text"] = "", doc.default_text()
            yield Document(doc_id, title or "", fields.pop("text"), _metadata(fields))

    return read
