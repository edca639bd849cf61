"""The live generation of an index, opened with the encoder that it was built with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lsr.building.commits import both_sides, commit_number
from lsr.building.encoders import Encoder, open_encoder, vocabulary_sha256
from lsr.building.lock import locked
from lsr.building.synonym_rules import use_rules
from lsr.encoders.dense import DenseEncoder
from lsr.indexes.dense import DenseIndex
from lsr.indexes.lucene import IndexLockedError, LuceneError, LuceneIndex
from lsr.indexes.manifest import Manifest, read_manifest

# The folder of a generation that holds its vectors.
DENSE = "dense"


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
        """See what has been committed since, on both sides, and synonyms that were changed."""
        self.index.refresh()
        use_rules(self.index)
        if dense := self.dense:
            both_sides(self.index, dense.refresh)


@contextmanager
def open_live(
    directory: str | os.PathLike[str],
    *,
    writable: bool = False,
    before: Live | None = None,
    wait: float | None = None,
    synonyms: bool = True,
) -> Iterator[Live]:
    """The live generation of an index; closed on leaving.

    The dense model is loaded, and its weights are checked, when it makes its first vectors:
    searches of the sparse side do without it.

    Args:
        directory: of the index.
        writable: hold the right to change it.
        before: what was open before. Its loaded models are used again if the generation names the
            same ones.
        wait: where `writable`, see `locked`.
        synonyms: whether queries get those that are stored with the index.

    Raises:
        FileNotFoundError: no index there, or its encoder is gone, or a file of vectors.
        ValueError: the encoder is not the one that the index was built with, a file of vectors is
            damaged, or the synonyms cannot be read; the message says how they are mended.
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
                live = _open(directory, manifest, writable, before, synonyms)
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


def _open(
    directory: Path, manifest: Manifest, writable: bool, before: Live | None, synonyms: bool
) -> Live:
    folder = manifest.folder(directory)
    if before and _sparse_model(before.manifest) == _sparse_model(manifest):
        encoder = before.encoder
    else:
        encoder = open_encoder(manifest.encoder, folder / "encoder")
        _check_encoder(directory, manifest, encoder)
    index = LuceneIndex.open(
        folder / "lucene", encoder.vocabulary, manifest.language, writable=writable
    )
    try:
        if synonyms:
            use_rules(index)
        if manifest.dense is None:
            return Live(manifest, encoder, index, None, None)
        dense = both_sides(index, lambda names: DenseIndex.open(folder / DENSE, names))
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
