"""A corpus by its name: a file, a BEIR folder, an ir_datasets id, or the built-in pydoc."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lsr.corpus.downloads import ir_datasets_reader
from lsr.corpus.pydoc import read_pydoc
from lsr.corpus.records import (
    distinct,
    document_from_json,
    document_from_tsv,
    format_of,
    require_format,
)
from lsr.documents import Document
from lsr.lines import BadLine, CorpusError, OnBad, fail, read_lines
from lsr.paths import is_path, missing


class Corpus:
    """A named stream of documents with distinct ids, which can be iterated again.

    `bad_lines` holds the lines that the latest iteration skipped.
    """

    def __init__(
        self, name: str, read: Callable[[OnBad], Iterator[Document]], *, skip_bad: bool = False
    ) -> None:
        self.name = name
        self.bad_lines: list[BadLine] = []
        self._read = read
        self._skip_bad = skip_bad

    def __iter__(self) -> Iterator[Document]:
        """Read the documents again, in their stored order.

        Raises:
            CorpusError: a line cannot be used, unless the corpus was opened with `skip_bad`.
            ValueError: there are no documents.
        """
        bad_lines: list[BadLine] = []
        self.bad_lines = bad_lines

        def skip(error: CorpusError) -> None:
            bad_lines.append(error.bad_line)

        empty = True
        for document in self._read(skip if self._skip_bad else fail):
            empty = False
            yield document
        if empty:
            raise ValueError(f"{self.name}: no documents ({len(bad_lines)} bad lines)")


def open_corpus(name: str | os.PathLike[str], *, skip_bad: bool = False) -> Corpus:
    """Return the corpus called `name`; its files are read when it is iterated.

    A name is a BEIR folder (with corpus.jsonl) or a .jsonl or .tsv file (``id<TAB>text`` or
    ``id<TAB>title<TAB>text``, no quoting), each also with .gz; "pydoc", the documentation of the
    standard library, or "pydoc:numpy,scipy", that of installed packages; or an ir_datasets id. In
    JSON, the id is under _id, id, docid or doc_id, the text under text, contents or body; the
    members of `metadata` and all other keys are metadata, see `lsr.documents.metadata_of`.

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
        return Corpus(
            name, lambda _: read_pydoc([p for p in packages if p] or None), skip_bad=skip_bad
        )
    path = Path(name)
    if path.is_dir():
        path = beir_file(path, "corpus.jsonl")
    if path.exists() or format_of(path):
        parse = {".jsonl": document_from_json, ".tsv": document_from_tsv}[require_format(path)]
        return Corpus(name, lambda bad: read_lines(path, distinct(parse), bad), skip_bad=skip_bad)
    if is_path(name):
        raise missing(name)
    return Corpus(name, ir_datasets_reader(name), skip_bad=skip_bad)


def beir_file(folder: Path, name: str) -> Path:
    """Return the path of the file `name` in a BEIR folder, or of `name`.gz.

    Raises:
        FileNotFoundError: the folder has neither.
    """
    for file in (folder / name, folder / f"{name}.gz"):
        if file.exists():
            return file
    raise FileNotFoundError(f"{folder}: no {name} or {name}.gz in this folder")
