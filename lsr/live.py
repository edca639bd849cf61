"""The live generation of an index, opened with the encoder that it was built with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from filelock import FileLock, Timeout

from lsr.encoders.default import DefaultEncoder
from lsr.encoders.graft import GraftedEncoder
from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import default_tokenizer, load_encoder
from lsr.indexes.lucene import IndexLockedError, LuceneError, LuceneIndex
from lsr.indexes.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from lsr.encoders.masked_lm import MaskedLMEncoder
    from lsr.encoders.model_encoder import ModelEncoder

Encoder: TypeAlias = (
    "DefaultEncoder | LexicalEncoder | GraftedEncoder | MaskedLMEncoder | ModelEncoder"
)

DEFAULT = "default"
# Encoders that are fitted on the corpus and kept in the index; others but DEFAULT are checkpoints.
FITTED: dict[str, type[LexicalEncoder] | type[GraftedEncoder]] = {
    "lexical": LexicalEncoder,
    "grafted": GraftedEncoder,
}
LOCK = "build.lock"


def vocabulary_sha256(terms: list[str]) -> str:
    """A fingerprint of the term strings in id order."""
    return hashlib.sha256("\0".join(terms).encode("utf-8", "surrogatepass")).hexdigest()


def encoder_name(name: str) -> str:
    """`name` as an index stores it: a directory by its absolute path."""
    ours = name in (DEFAULT, *FITTED)
    return str(Path(name).resolve()) if not ours and Path(name).is_dir() else name


def open_encoder(name: str, folder: Path) -> Encoder:
    """The encoder of a generation: what `name` names, with what the build saved in `folder`."""
    if name in FITTED:
        return FITTED[name].load(default_tokenizer(), folder)
    return DefaultEncoder() if name == DEFAULT else load_encoder(name)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the right to change an index, its manifest included.

    Raises:
        IndexLockedError: another process, or another thread of this one, holds it.
    """
    try:
        held = FileLock(directory / LOCK).acquire(timeout=0)
    except Timeout as error:
        raise IndexLockedError(
            f"{directory}: another process is building it or writing to it"
        ) from error
    with held:
        yield


@contextmanager
def open_live(
    directory: Path, *, writable: bool = False
) -> Iterator[tuple[Manifest, Encoder, LuceneIndex]]:
    """The live generation of an index: manifest, encoder, Lucene index; closed on leaving.

    Raises:
        FileNotFoundError: no index there, or its encoder is gone.
        ValueError: the encoder is not the one that the index was built with.
        IndexLockedError: `writable`, and another process builds or writes.
    """
    with ExitStack() as stack:
        manifest = read_manifest(directory)
        if writable:
            # Not while a build goes on, whose result would not hold what is written now.
            stack.enter_context(locked(directory))
            manifest = read_manifest(directory)
        while True:
            try:
                encoder, index = _open(directory, manifest, writable)
                break
            except (FileNotFoundError, LuceneError):
                # A build may have ended meanwhile and cleared the generation away.
                newer = read_manifest(directory)
                if newer.generation == manifest.generation:
                    raise
                manifest = newer
        yield manifest, encoder, stack.enter_context(index)


def _open(directory: Path, manifest: Manifest, writable: bool) -> tuple[Encoder, LuceneIndex]:
    folder = manifest.folder(directory)
    encoder = open_encoder(manifest.encoder, folder / "encoder")
    _check_encoder(directory, manifest, encoder)
    return encoder, LuceneIndex.open(folder / "lucene", encoder.vocabulary, writable=writable)


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
