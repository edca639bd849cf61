"""Texts by id, kept in a file: memory holds only the ids."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np


class Texts(Mapping[str, str]):
    """A read-only mapping from id to text, whose texts lie in a temporary file.

    The file is removed with the mapping. A copy in another process (pickled, or after a fork) reads
    the same file.
    """

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        """Write (id, text) to the file; of texts with the same id the first is kept."""
        folder = Path(tempfile.mkdtemp(prefix="lsr-texts-"))
        weakref.finalize(self, _remove, folder, os.getpid())
        rows: dict[str, int] = {}
        ends = [0]
        with (folder / "texts").open("wb") as file:
            for key, text in texts:
                if key in rows:
                    continue
                rows[key] = len(rows)
                ends.append(ends[-1] + file.write(text.encode("utf-8", "surrogatepass")))
        np.save(folder / "ends.npy", np.array(ends, dtype=np.int64))
        (folder / "ids").write_text("\n".join(rows), encoding="utf-8")
        self._open(folder, rows)

    def _open(self, folder: Path, rows: dict[str, int]) -> None:
        self._folder = folder
        self._rows = rows
        self._ends = np.load(folder / "ends.npy", mmap_mode="r")
        self._file = os.open(folder / "texts", os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __getitem__(self, key: str) -> str:
        row = self._rows[key]
        start, end = self._ends[row : row + 2].tolist()
        return os.pread(self._file, end - start, start).decode("utf-8", "surrogatepass")

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __deepcopy__(self, memo: object) -> Texts:
        # Nothing in it changes, and datasets copies what it formats with.
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _reopened, (self._folder,)


def _reopened(folder: Path) -> Texts:
    texts = Texts.__new__(Texts)
    ids = (folder / "ids").read_text(encoding="utf-8").split("\n")
    texts._open(folder, {key: row for row, key in enumerate(ids)} if ids != [""] else {})
    return texts


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
