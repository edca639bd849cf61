"""The cache of evaluations: indexes and first passes, found again by their content.

DIR/indexes/ENCODER-KEY/   an index: whole once it has a manifest, else a build that goes on
DIR/runs/KEY.trec          a first pass
DIR/runs/KEY.json          what it is, its cost and its SHA-256; written last
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lsr
from lsr.building.build import build_index, read_through
from lsr.building.encoders import BM25, DEFAULT, FITTED, Dtype, encoder_name
from lsr.corpus.corpus import open_corpus
from lsr.encoders.default import DefaultEncoder
from lsr.encoders.load import resolve
from lsr.eval.datasets import Dataset
from lsr.eval.results import Cost
from lsr.indexes.manifest import NAME
from lsr.progress import Progress
from lsr.run import Run
from lsr.training.run_files import write_whole

# Part of every key. It is raised when the layout, or what an index or a run holds, changes: entries
# of other versions are not found. 2: queries have a scale of their own, `grafted` is in float32.
# 3: indexes have words. 4: in a language.
VERSION = 4


def default_folder() -> Path:
    """Return the folder of a user's caches: $XDG_CACHE_HOME/lsr or ~/.cache/lsr."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lsr"


class IndexSpec(NamedTuple):
    """The arguments of `build_index` for an index."""

    dataset: Dataset  # its documents are indexed
    encoder: str
    top_k: int
    dense: str | None  # None for no dense side
    dtype: Dtype | None = None
    language: str = "en"


class Cache:
    """Indexes and runs in a folder. An entry is there whole or not at all."""

    def __init__(
        self, folder: str | os.PathLike[str], progress: Progress = lambda step, done, total: None
    ) -> None:
        """Use `folder`, made if absent; `progress` is for calls that pass none."""
        self.folder = Path(folder)
        self._progress = progress
        # Digests of corpora by their names for `open_corpus`, so that none is read twice.
        self._digests: dict[str, str] = {}

    def index(self, wanted: IndexSpec, progress: Progress | None = None) -> Path:
        """Return an index, which is built unless it is there.

        Raises:
            As `build_index`.
        """
        path = self.index_path(wanted, progress)
        if not (path / NAME).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            build_index(
                open_corpus(wanted.dataset.source or wanted.dataset.name),
                path,
                wanted.encoder,
                top_k=wanted.top_k,
                dense=wanted.dense,
                language=wanted.language,
                dtype=wanted.dtype,
                progress=progress or self._progress,
            )
        return path

    def index_path(self, wanted: IndexSpec, progress: Progress | None = None) -> Path:
        """Return where that index is, or will be."""
        dataset, encoder, top_k, dense, dtype, language = wanted
        name = dataset.source or dataset.name
        if name not in self._digests:
            _, self._digests[name] = read_through(open_corpus(name), progress or self._progress)
        key = digest(
            [
                self._digests[name],
                encoder_identity(encoder),
                top_k,
                dense and model_identity(dense),
                language,
                dtype,
            ]
        )
        shown = re.sub(r"[^\w.-]+", "-", Path(encoder).name if Path(encoder).is_dir() else encoder)
        return self.folder / "indexes" / f"{shown}-{key[:16]}"

    def first_pass(
        self, about: Mapping[str, Any], compute: Callable[[], tuple[Run, Cost]]
    ) -> tuple[Run, Cost]:
        """Return the run that `about` (JSON) describes and its cost; compute it unless it is there.

        A damaged entry is computed again, with a warning.
        """
        record = self.folder / "runs" / f"{digest(about)}.json"
        if (found := _read(record)) is not None:
            return found
        run, cost = compute()
        record.parent.mkdir(parents=True, exist_ok=True)
        path = record.with_suffix(".trec")
        partial = path.with_suffix(f".{os.getpid()}.partial")
        run.write_trec(partial, "lsr")
        partial.replace(path)
        described = {"about": about, "cost": cost._asdict(), "sha256": _sha256(path)}
        write_whole(record, json.dumps(described, indent=2))
        # As a later call will read it: in a run file tied scores differ by an ulp.
        return Run.read_trec(path), cost


def _read(record: Path) -> tuple[Run, Cost] | None:
    if not record.exists():
        return None
    path = record.with_suffix(".trec")
    try:
        described = json.loads(record.read_text(encoding="utf-8"))
        cost = Cost(**described["cost"])
        if _sha256(path) != described["sha256"]:
            raise ValueError("its SHA-256 is not that of the file that was written")
        return Run.read_trec(path), cost
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path} is damaged and computed again: {error}", stacklevel=3)
        return None


def digest(value: Any) -> str:
    """Return the SHA-256 of a value that JSON can hold, and of VERSION."""
    return hashlib.sha256(json.dumps([VERSION, value], sort_keys=True).encode()).hexdigest()


def encoder_identity(name: str) -> list[Any]:
    """Return an encoder's name and what identifies its weights, as JSON.

    Raises:
        FileNotFoundError: no such encoder.
    """
    if name in (BM25, *FITTED):
        return [name, lsr.__version__]
    return [name, DefaultEncoder().fingerprint] if name == DEFAULT else model_identity(name)


def model_identity(name: str) -> list[Any]:
    """Return a checkpoint's name and its files; for "default" the name and our version.

    Raises:
        FileNotFoundError: no such checkpoint.
    """
    if name == DEFAULT:
        return [name, lsr.__version__]
    return [encoder_name(name), _files(resolve(name))]


def index_identity(directory: Path) -> list[Any]:
    """Return what identifies the content of an index directory, as JSON.

    These are the digests of the manifest and of Lucene's latest commit, which has a random id, and
    the name, size and time of all files: a dense side and what `lsr tune` found are among them.
    """
    small = [directory / NAME, *sorted(directory.glob("generation-*/lucene/segments_*"))]
    return [[_sha256(path) for path in small], _files(directory)]


def _files(folder: Path) -> list[list[Any]]:
    """Return name, size and time of each file, without locks, which come and go."""
    return [
        [path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
