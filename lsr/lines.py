"""Lines of text files, read one by one; an unusable line is named by its path and number."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase
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
    path: Path, parse: Callable[[str], Parsed], on_bad: OnBad = fail, *, header: str = ""
) -> Iterator[Parsed]:
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
                    record = parse(decode(raw.rstrip(b"\r\n")))
                except ValueError as error:
                    on_bad(CorpusError(path, number, str(error), raw))
                    continue
                yield record
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        on_bad(CorpusError(path, number + 1, f"truncated or damaged gzip ({error})"))


def _open(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def decode(raw: bytes) -> str:
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
