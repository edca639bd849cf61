"""Read text files line by line; errors name an unusable line by its path and number."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

_EXCERPT_CHARACTERS = 80


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


OnBad = Callable[[CorpusError], None]
Parsed = TypeVar("Parsed")


def fail(error: CorpusError) -> NoReturn:
    raise error


def read_lines(
    path: Path,
    parse: Callable[[str], Parsed],
    on_bad: OnBad = fail,
    *,
    is_header: Callable[[str], bool] = lambda line: False,
) -> Iterator[Parsed]:
    """Yield `parse(line)` for each line that is not blank; ValueError from `parse` is a bad line.

    Lines are UTF-8 and end with LF, CRLF or CR. A byte order mark at the start of a line, as in
    files that were joined, is dropped. The first line is skipped if `is_header` is true of it.
    Files may be .gz.
    """
    number = 0
    try:
        for number, raw in enumerate(_lines(path), 1):
            if not raw.strip():
                continue
            try:
                line = decode(raw)
                if number == 1 and is_header(line):
                    continue
                record = parse(line)
            except ValueError as error:
                on_bad(CorpusError(path, number, str(error), raw))
                continue
            yield record
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        on_bad(CorpusError(path, number + 1, f"truncated or damaged gzip ({error})"))


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, without line ends and byte order marks."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        for number, ended in enumerate(file):
            if number == 0:
                _refuse_other_encodings(path, ended)
            if not ended.endswith(b"\n"):
                # Raises if a damaged gzip ends within a line.
                file.read(1)
            # A CR alone ends a line too.
            for raw in ended.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):
                yield raw.removeprefix(codecs.BOM_UTF8)


def _refuse_other_encodings(path: Path, start: bytes) -> None:
    if start.startswith(b"\x1f\x8b"):
        raise CorpusError(path, 1, "this file is packed by gzip: its name must end with .gz")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in start[:4]:
        raise CorpusError(path, 1, "this file is in UTF-16 or UTF-32: write it in UTF-8")


def decode(raw: bytes) -> str:
    """Return the text of a line; ValueError if it is not UTF-8, or holds a NUL byte."""
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"invalid UTF-8 ({error.reason} at byte {error.start} of the line)"
        ) from error
    if "\0" in line:
        raise ValueError(f"a NUL byte (byte {raw.index(0)} of the line)")
    return line


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make an object, and refuse a repeated key: the json module would keep its last value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_distinct)


def parse_object(line: str) -> dict[str, object]:
    """Return the JSON object on a line; ValueError if there is none."""
    try:
        value = _decoder.decode(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"invalid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value
