"""The live generation of an index, opened with the encoder that it was built with."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, get_args

from filelock import FileLock, Timeout

from lsr.encoders.default import DefaultEncoder
from lsr.encoders.dense import DenseEncoder
from lsr.encoders.graft import GraftedEncoder
from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import default_tokenizer, load_encoder
from lsr.indexes.dense import DenseIndex
from lsr.indexes.dense_segments import KEY, listed
from lsr.indexes.dense_writer import DenseWriter
from lsr.indexes.lucene import IndexLockedError, LuceneError, LuceneIndex
from lsr.indexes.manifest import NAME, Manifest, read_manifest

if TYPE_CHECKING:
    from lsr.encoders.masked_lm import MaskedLMEncoder
    from lsr.encoders.model_encoder import ModelEncoder

Encoder: TypeAlias = (
    "DefaultEncoder | LexicalEncoder | GraftedEncoder | MaskedLMEncoder | ModelEncoder"
)

Dtype: TypeAlias = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
DEFAULT = "default"
# Encoders that are fitted on the corpus and kept in the index; others but DEFAULT are checkpoints.
FITTED: dict[str, type[LexicalEncoder] | type[GraftedEncoder]] = {
    "lexical": LexicalEncoder,
    "grafted": GraftedEncoder,
}
LOCK, WAITING = "build.lock", "build.waiting"
# For how long what another holds is waited for: a service gives way after one commit.
LOCK_SECONDS, POLL_SECONDS = 10.0, 0.02
T = TypeVar("T")
# The folder of a generation that holds its vectors.
DENSE = "dense"
# The key of a commit's user data for its number.
COMMIT = "commit"


@dataclass(frozen=True)
class Live:
    """An open generation: both sides are those of one commit."""

    manifest: Manifest
    encoder: Encoder
    index: LuceneIndex
    dense_encoder: DenseEncoder | None  # loads its model when it is first asked for vectors
    dense: DenseIndex | None

    @property
    def commit(self) -> int:
        """The number of the commit that is seen: it rises by one with each of a generation."""
        return commit_number(self.index)

    def refresh(self) -> None:
        """See what has been committed since, on both sides."""
        self.index.refresh()
        if dense := self.dense:
            _both_sides(self.index, dense.refresh)


def vocabulary_sha256(terms: list[str]) -> str:
    """A fingerprint of the term strings in id order."""
    return hashlib.sha256("\0".join(terms).encode("utf-8", "surrogatepass")).hexdigest()


def encoder_name(name: str) -> str:
    """`name` as an index stores it: a directory by its absolute path."""
    ours = name in (DEFAULT, *FITTED)
    return str(Path(name).resolve()) if not ours and Path(name).is_dir() else name


def open_encoder(name: str, folder: Path, dtype: Dtype | None = None) -> Encoder:
    """The encoder of a generation: what `name` names, with what the build saved in `folder`.

    `dtype` is of a model's matrix products; None leaves it to MaskedLMEncoder.
    """
    if name == "lexical":
        return LexicalEncoder.load(default_tokenizer(), folder)
    in_dtype = None
    if dtype is not None:
        import torch

        in_dtype = getattr(torch, dtype)
    if name == "grafted":
        return GraftedEncoder.load(default_tokenizer(), folder, in_dtype)
    return DefaultEncoder(dtype=in_dtype) if name == DEFAULT else load_encoder(name, in_dtype)


@contextmanager
def locked(directory: Path, wait: float | None = None) -> Iterator[None]:
    """Hold the right to change an index, its manifest included.

    Args:
        directory: of the index.
        wait: seconds for which another may go on holding it; None for LOCK_SECONDS.

    Raises:
        IndexLockedError: another process, or another thread of this one, holds it.
    """
    until = time.monotonic() + (LOCK_SECONDS if wait is None else wait)

    def acquired(name: str) -> AbstractContextManager[object]:
        left = max(0.0, until - time.monotonic())
        return FileLock(directory / name).acquire(timeout=left, poll_interval=POLL_SECONDS)

    try:
        # Held while waiting, so that one who writes without end sees it and gives way.
        with acquired(WAITING):
            held = acquired(LOCK)
    except Timeout as error:
        raise IndexLockedError(
            f"{directory}: another process is building it or writing to it"
        ) from error
    with held:
        yield


def awaited(directory: Path) -> bool:
    """Whether somebody waits for the right to change an index."""
    if not (directory / WAITING).exists():
        return False  # FileLock would make the directory of an index that has been moved away
    try:
        with FileLock(directory / WAITING).acquire(timeout=0):
            return False
    except Timeout:
        return True


@contextmanager
def open_live(
    directory: str | os.PathLike[str],
    *,
    writable: bool = False,
    before: Live | None = None,
    wait: float | None = None,
) -> Iterator[Live]:
    """The live generation of an index; closed on leaving.

    Whether the dense model is still there, with the weights of the build, shows when it is first
    asked for vectors: searches of the sparse side do without it.

    Args:
        directory: of the index.
        writable: hold the right to change it.
        before: what was open before, for its models: those that have been loaded are used again
            where the generation names the same.
        wait: where `writable`, see `locked`.

    Raises:
        FileNotFoundError: no index there, or its encoder is gone, or a file of vectors.
        ValueError: the encoder is not the one that the index was built with, or a file of vectors
            is damaged.
        IndexLockedError: `writable`, and another process builds or writes.
    """
    directory = Path(directory)
    with ExitStack() as stack:
        manifest = read_manifest(directory)
        if writable:
            # Not while a build goes on, whose result would not hold what is written now.
            stack.enter_context(locked(directory, wait))
            manifest = read_manifest(directory)
        while True:
            try:
                live = _open(directory, manifest, writable, before)
                break
            except (FileNotFoundError, LuceneError):
                # A build may have ended meanwhile and cleared the generation away.
                newer = read_manifest(directory)
                if newer.generation == manifest.generation:
                    with naming_index(directory, manifest):
                        raise
                manifest = newer
        with live.index:
            yield live


@contextmanager
def naming_index(directory: Path, manifest: Manifest) -> Iterator[None]:
    """Errors of a generation's files name the index, which the user knows, and not the file."""
    again = "Build it again from its corpus"
    try:
        yield
    except IndexLockedError as error:
        raise IndexLockedError(f"{directory}: another process is writing to it") from error
    except LuceneError as error:
        raise LuceneError(
            f"{directory} is damaged: Lucene cannot read its files ({error.kind}). {again}"
        ) from error
    except FileNotFoundError as error:
        name = error.filename
        if name is None or not Path(name).is_relative_to(manifest.folder(directory)):
            raise
        raise FileNotFoundError(
            f"{directory} is damaged: {Path(name).name} is missing. {again}"
        ) from error


def _open(directory: Path, manifest: Manifest, writable: bool, before: Live | None) -> Live:
    folder = manifest.folder(directory)
    if before and _sparse_model(before.manifest) == _sparse_model(manifest):
        encoder = before.encoder
    else:
        encoder = open_encoder(manifest.encoder, folder / "encoder")
        _check_encoder(directory, manifest, encoder)
    index = LuceneIndex.open(folder / "lucene", encoder.vocabulary, writable=writable)
    if manifest.dense is None:
        return Live(manifest, encoder, index, None, None)
    try:
        dense = _both_sides(index, lambda names: DenseIndex.open(folder / DENSE, names))
    except BaseException:
        index.close()
        raise
    if before and _dense_model(before.manifest) == _dense_model(manifest):
        return Live(manifest, encoder, index, before.dense_encoder, dense)
    dense_encoder = DenseEncoder(manifest.dense, sha256=manifest.dense_sha256)
    return Live(manifest, encoder, index, dense_encoder, dense)


def _sparse_model(manifest: Manifest) -> tuple[str, ...]:
    return manifest.encoder, manifest.encoder_sha256, manifest.vocabulary_sha256


def _dense_model(manifest: Manifest) -> tuple[str | None, ...]:
    return manifest.dense, manifest.dense_sha256


def _both_sides(index: LuceneIndex, read: Callable[[list[str]], T]) -> T:
    """What `read` makes of the segments that the commit lists which `index` sees.

    A writer removes segments once a commit does not list them. Where `index` sees an older one it
    is refreshed, and so to the newer commit that the missing file is not in.
    """
    while True:
        names = listed(index.user_data) or []
        try:
            return read(names)
        except FileNotFoundError:
            index.refresh()
            if listed(index.user_data) == names:
                raise


def _check_encoder(directory: Path, manifest: Manifest, encoder: Encoder) -> None:
    found = vocabulary_sha256(encoder.vocabulary)
    if found != manifest.vocabulary_sha256:
        raise ValueError(
            f"{directory} was built with another vocabulary ({manifest.vocabulary_size} terms, "
            f"sha256 {manifest.vocabulary_sha256[:12]}) than encoder {manifest.encoder!r} has now "
            f"({len(encoder.vocabulary)} terms, sha256 {found[:12]})"
        )
    if encoder.fingerprint != manifest.encoder_sha256:
        raise ValueError(
            f"{directory} was built with other weights of encoder {manifest.encoder!r} (sha256 "
            f"{manifest.encoder_sha256[:12]}) than it has now ({encoder.fingerprint[:12]}): "
            "their scores do not belong together. Build the index again"
        )


def commit_number(index: LuceneIndex) -> int:
    """The number of the last commit; 0 of an index from before they were counted."""
    return int(index.user_data.get(COMMIT, "0"))


def commit_both(
    index: LuceneIndex, user_data: Mapping[str, str], writer: DenseWriter | None
) -> int:
    """Commit both sides: the vectors are durable before the commit that lists them.

    Args:
        index: open for writing.
        user_data: what the commit says of itself; its number and its vectors are added.
        writer: of the vectors; None where there are none.

    Returns:
        The number of the commit.
    """
    number = commit_number(index) + 1
    data = {**user_data, COMMIT: str(number)}
    if writer is None:
        index.commit(data)
    else:
        index.commit({**data, KEY: json.dumps(writer.flush())})
        writer.clean()
    return number


def refuse_foreign(directory: Path) -> None:
    """Raise FileExistsError where a path is a file, or holds files and is not an index."""
    if not directory.exists() or (directory / NAME).exists():
        return
    if not directory.is_dir():
        raise FileExistsError(f"{directory} is a file: an index needs a directory")
    foreign = sorted(
        path.name
        for path in directory.iterdir()
        if path.name not in (LOCK, WAITING) and not path.name.startswith("generation-")
    )
    if foreign:
        raise FileExistsError(
            f"{directory} is not an index and not empty (it holds {foreign[0]!r}): nothing was "
            "written"
        )
