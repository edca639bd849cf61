"""Corpus to index, by a Writer; a killed build goes on after its last commit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lsr.building.encoders import (
    DEFAULT,
    DTYPES,
    FITTED,
    OURS,
    Dtype,
    Encoder,
    encoder_name,
    open_encoder,
    vocabulary_sha256,
)
from lsr.building.language import AUTO, check_language, detected
from lsr.building.live import DENSE, open_live
from lsr.building.lock import locked, refuse_foreign
from lsr.building.synonym_rules import carry_rules_over
from lsr.building.truncation import counted_since, sentences
from lsr.building.tuning import carry_over, is_tuned
from lsr.building.word_scale import word_scale
from lsr.building.writer import DenseSide, Writer
from lsr.corpus.corpus import Corpus
from lsr.corpus.language import LanguageCounts
from lsr.documents import Document
from lsr.encoders.dense import DenseEncoder, dense_name
from lsr.encoders.load import default_tokenizer, resolve
from lsr.filter import Filter
from lsr.indexes.approximate import KINDS, Kind
from lsr.indexes.dense_segments import listed
from lsr.indexes.dense_writer import DenseWriter
from lsr.indexes.lucene import LuceneError, LuceneIndex
from lsr.indexes.manifest import (
    NAME,
    Manifest,
    generation_folder,
    read_manifest,
    write_manifest,
)
from lsr.progress import Progress

IMPACT_SCALE = 64
# Documents encoded at once: enough for batches of like length.
SHARD = 512
# What a kill can lose of a build.
COMMIT_SECONDS = 10.0
# Where the SHA-256 of the corpus stands in a build's settings.
CORPUS = 4
# The key of a commit's user data for the dense model's weights.
DENSE_SHA256 = "dense_sha256"


class Build(NamedTuple):
    """What a build or an addition did."""

    n_documents: int  # in this call: those before a kill are not counted
    n_empty: int  # of these, documents without a term
    encode_seconds: float
    # ‖weights − impacts / scale‖ ÷ ‖weights‖ over these documents
    quantisation_loss: float
    # Weights that reached MAX_IMPACT; of a build, those before a kill are counted too.
    n_capped: int
    notices: tuple[str, ...] = ()  # sentences for the caller, such as how many documents were cut


def shards(documents: Iterable[Document], size: int = SHARD) -> Iterator[list[Document]]:
    """The documents in lists of `size`, in order."""
    iterator = iter(documents)
    while shard := list(islice(iterator, size)):
        yield shard


def build_index(
    corpus: Corpus,
    directory: str | os.PathLike[str],
    encoder: str | os.PathLike[str] = DEFAULT,
    *,
    top_k: int = 256,
    dense: str | os.PathLike[str] | None = None,
    dense_kind: Kind = "auto",
    language: str = "en",
    dtype: Dtype | None = None,
    progress: Progress = lambda step, done, total: None,
) -> Build:
    """Build an index beside the live one of `directory`, if any, and make it the live one.

    The corpus is read through once before anything is encoded, so that a bad line at its end does
    not cost the work before it. A build that was killed goes on after its last commit when corpus
    and settings are the same, and otherwise from the start.

    Args:
        corpus: documents with unique ids.
        directory: it is made if it does not exist. One that holds other files is refused.
        encoder: "default", "bm25" (words alone), "grafted", "lexical", a checkpoint directory or a
            hub name.
        top_k: expansion terms kept per document, the heaviest.
        dense: the sentence-transformers model of the dense side: "default" (all-MiniLM-L6-v2), a
            directory or a hub name; None for no dense side.
        dense_kind: how its vectors are searched, see `lsr.indexes.approximate.choose_kind`.
        language: one of `lsr.indexes.lucene.LANGUAGES`, whose analyzer makes words of texts; "auto"
            takes the language of most documents.
        dtype: of the matrix products when a model encodes these documents; None takes what this
            CPU is fast at, so that weights differ by about 1 % from one CPU to another.
        progress: see Progress.

    Raises:
        FileExistsError: `directory` holds something that is not an index.
        FileNotFoundError: no such corpus, encoder or dense model.
        ValueError: bad corpus, weights, checkpoint, `dense_kind` or `dtype`; nothing of a live
            index is touched.
        IndexLockedError: another process builds this index or writes to it.
    """
    if dense_kind not in KINDS:
        raise ValueError(f"`dense_kind` must be one of {', '.join(KINDS)}, got {dense_kind!r}")
    if dtype not in (None, *DTYPES):
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}")
    check_language(language)
    directory = Path(directory)
    refuse_foreign(directory)
    # A model that is not there is an error before the corpus is read, which may take long.
    for model in (encoder, *([] if dense is None else [dense])):
        if (name := os.fspath(model)) not in OURS:
            resolve(name)
    counts = LanguageCounts() if language == AUTO else None
    n_documents, corpus_sha256 = read_through(corpus, progress, counts)
    found = None
    if counts is not None:
        language, found = detected(counts)
    vectors = [] if dense is None else [dense_name(os.fspath(dense)), dense_kind]
    of_encoder = [encoder_name(os.fspath(encoder)), dtype]
    settings = json.dumps([*of_encoder, top_k, IMPACT_SCALE, corpus_sha256, language, *vectors])
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        build = _build(corpus, directory, settings, n_documents, progress)
    return build._replace(notices=(*build.notices, found)) if found else build


def _build(
    corpus: Corpus, directory: Path, settings: str, n_documents: int, progress: Progress
) -> Build:
    name, dtype, top_k, _, _, language, *of_dense = json.loads(settings)
    dense_model, dense_kind = of_dense or (None, None)
    before = read_manifest(directory, older=True) if (directory / NAME).exists() else None
    generation = before.generation + 1 if before else 1
    folder = generation_folder(directory, generation)
    dense_encoder = DenseEncoder(dense_model) if dense_model else None
    dimension = dense_encoder.dimension if dense_encoder else 0
    found = _encoder_before(folder, settings, dense_encoder)
    if found is None:
        _clear(folder)
    opened = found or _make_encoder(name, dtype, corpus, folder / "encoder", n_documents, progress)
    with (
        LuceneIndex.open(folder / "lucene", opened.vocabulary, language, writable=True)
        if found
        else LuceneIndex.create(folder / "lucene", opened.vocabulary, language)
    ) as index:
        user_data = {"settings": settings, "encoder_sha256": opened.fingerprint}
        side = None
        if dense_encoder:
            user_data[DENSE_SHA256] = dense_encoder.fingerprint
            names = listed(index.user_data) or []
            side = DenseSide(dense_encoder, DenseWriter(folder / DENSE, names, dimension))
        writer = Writer(
            index, opened, side, top_k=top_k, impact_scale=IMPACT_SCALE, user_data=user_data
        )
        done = writer.n_documents
        build = _add(
            writer, islice(corpus, done, None), done=done, total=n_documents, progress=progress
        )
        if side:
            _merge_vectors(writer, dense_kind, progress)
        notices = sentences(writer.truncation, name, dense_model, quiet=True)
        scale = word_scale(index, opened, IMPACT_SCALE)
        if before and (dropped := carry_rules_over(before.folder(directory), index)):
            notices.append(dropped)
    manifest = Manifest(
        generation=generation,
        encoder=name,
        encoder_sha256=opened.fingerprint,
        vocabulary_sha256=vocabulary_sha256(opened.vocabulary),
        vocabulary_size=len(opened.vocabulary),
        top_k=top_k,
        impact_scale=IMPACT_SCALE,
        corpus=corpus.name,
        encode_docs_per_second=build.n_documents / max(build.encode_seconds, 1e-9),
        quantisation_loss=build.quantisation_loss,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        software=_software(),
        dense=dense_model,
        dense_sha256=dense_encoder.fingerprint if dense_encoder else None,
        dense_kind=dense_kind,
        language=language,
        word_scale=scale,
    )
    if before and (kept := _carry_over(directory, before, manifest, settings, n_documents)):
        notices.append(kept)
    write_manifest(directory, manifest)
    for old in directory.glob("generation-*"):
        if old != folder:
            shutil.rmtree(old)
    return build._replace(notices=tuple(notices))


def _carry_over(
    directory: Path, before: Manifest, after: Manifest, settings: str, n_documents: int
) -> str | None:
    """`carry_over` from the live generation to the one that was just built."""
    folder = before.folder(directory)
    if not is_tuned(folder):
        return None
    same = None
    try:
        with LuceneIndex.open(folder / "lucene", []) as index:
            built = json.loads(index.user_data["settings"])
            same = built[CORPUS] == json.loads(settings)[CORPUS] and index.n_docs == n_documents
    except LuceneError:
        pass  # the index is built again because it is damaged: `carry_over` says so
    return carry_over(folder, before, after.folder(directory), after, same_corpus=same)


def add_documents(
    corpus: Corpus,
    directory: str | os.PathLike[str],
    *,
    progress: Progress = lambda step, done, total: None,
) -> Build:
    """Add documents to the live index, replacing those of the same id, while searches go on.

    Calibration and IDF stay those of the build. Committed every COMMIT_SECONDS and at the end.

    Raises:
        FileNotFoundError: no index there, or one of its models is gone.
        ValueError: bad corpus or weights; what was committed stays.
        IndexLockedError: another process builds this index or writes to it.
    """
    directory = Path(directory)
    read_manifest(directory)  # before a large corpus is read
    n_documents, _ = read_through(corpus, progress)
    with open_live(directory, writable=True) as live:
        writer = Writer.of(live, directory)
        before = dict(writer.truncation)
        build = _add(writer, corpus, done=0, total=n_documents, progress=progress, new=False)
        added = counted_since(writer.truncation, before)
        manifest = live.manifest
    return build._replace(
        notices=tuple(sentences(added, manifest.encoder, manifest.dense, quiet=True))
    )


def delete_documents(directory: str | os.PathLike[str], ids: Sequence[str]) -> None:
    """Delete documents by id from the live index, all or none, while searches go on.

    Raises:
        FileNotFoundError: no index there.
        KeyError: an unknown id; nothing is deleted.
        IndexLockedError: another process builds this index or writes to it.
    """
    directory = Path(directory)
    with open_live(directory, writable=True) as live:
        live.index.documents(ids)
        writer = Writer.of(live, directory)
        writer.delete(ids)
        writer.commit()


def delete_matching(directory: str | os.PathLike[str], condition: Filter) -> int:
    """Delete the documents of the live index that match a filter, while searches go on.

    Returns:
        How many they were.

    Raises:
        FileNotFoundError: no index there.
        ValueError: the filter does not fit the metadata of the index; nothing is deleted.
        IndexLockedError: another process builds this index or writes to it.
    """
    directory = Path(directory)
    with open_live(directory, writable=True) as live:
        ids = live.index.matching(condition)
        if ids:
            writer = Writer.of(live, directory)
            writer.delete(ids)
            writer.commit()
    return len(ids)


def merge_index(
    directory: str | os.PathLike[str], *, progress: Progress = lambda step, done, total: None
) -> int:
    """Merge the live index into one segment: searches get faster, deleted documents are dropped.

    Of vectors too; and as many as there are now decide what these are searched by.

    Returns:
        The number of documents.

    Raises:
        FileNotFoundError: no index there.
        IndexLockedError: another process builds this index or writes to it.
    """
    directory = Path(directory)
    with open_live(directory, writable=True) as live:
        live.index.force_merge()
        _merge_vectors(Writer.of(live, directory), live.manifest.dense_kind, progress)
        return live.index.n_docs


def _merge_vectors(writer: Writer, kind: str | None, progress: Progress) -> None:
    writer.merge_vectors(kind, progress)
    writer.commit()


def read_through(
    corpus: Corpus, progress: Progress, languages: LanguageCounts | None = None
) -> tuple[int, str]:
    """Number of documents, and a SHA-256 over ids and texts."""
    digest = hashlib.sha256()
    n_documents = 0
    for shard in shards(corpus):
        for document in shard:
            record = [document.id, document.title, document.text, dict(document.metadata)]
            digest.update(json.dumps(record, sort_keys=True).encode())
            if languages is not None:
                languages.add(document.content)
        n_documents += len(shard)
        progress("reading", n_documents, None)
    if not n_documents:
        raise ValueError(f"{corpus.name}: no documents")
    return n_documents, digest.hexdigest()


def _make_encoder(
    name: str,
    dtype: Dtype | None,
    corpus: Corpus,
    folder: Path,
    n_documents: int,
    progress: Progress,
) -> Encoder:
    if name not in FITTED:
        return open_encoder(name, folder, dtype)

    def texts() -> Iterator[list[str]]:
        done = 0
        for shard in shards(corpus):
            yield [document.content for document in shard]
            done += len(shard)
            progress("counting terms", done, n_documents)
        if name == "grafted":
            progress("calibrating the head", 0, None)

    fitted = FITTED[name].fit(default_tokenizer(), texts())
    folder.mkdir(exist_ok=True)
    fitted.save(folder)
    return open_encoder(name, folder, dtype)


def _encoder_before(
    folder: Path, settings: str, dense_encoder: DenseEncoder | None
) -> Encoder | None:
    """The encoder of a build in progress with these settings that has committed documents."""
    if not any((folder / "lucene").glob("segments_*")):
        return None
    # Without a vocabulary: the encoder there may be another one's, and is not to be opened yet.
    with LuceneIndex.open(folder / "lucene", []) as index:
        committed = index.user_data
    if committed.get("settings") != settings:
        return None
    if dense_encoder and committed[DENSE_SHA256] != dense_encoder.fingerprint:
        return None
    name, dtype, *_ = json.loads(settings)
    encoder = open_encoder(name, folder / "encoder", dtype)
    return encoder if committed["encoder_sha256"] == encoder.fingerprint else None


def _clear(folder: Path) -> None:
    """Empty a generation's folder; a kill meanwhile leaves nothing that looks like a commit."""
    for commit in (folder / "lucene").glob("segments_*"):
        commit.unlink()
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _add(
    writer: Writer,
    documents: Iterable[Document],
    *,
    done: int,
    total: int,
    progress: Progress,
    new: bool = True,
) -> Build:
    """Add `documents`; commit now and then, and at the end."""
    n_documents = n_empty = 0
    capped_before = 0 if new else writer.n_capped
    encode_seconds = squares = lost = 0.0
    committed = time.monotonic()
    progress("encoding", done, total)
    for shard in shards(documents):
        start = time.monotonic()
        encoded = writer.encode(shard)
        encode_seconds += time.monotonic() - start
        weights, impacts = encoded.weights, encoded.impacts
        difference = weights - impacts / np.float32(IMPACT_SCALE)
        squares += float(np.square(weights.data, dtype=np.float64).sum())
        lost += float(np.square(difference.data, dtype=np.float64).sum())
        writer.add(encoded, new=new)
        n_documents += len(shard)
        if impacts.shape[1]:
            n_empty += int((np.diff(impacts.indptr) == 0).sum())
        else:
            n_empty += sum(not document.content for document in shard)
        if time.monotonic() - committed > COMMIT_SECONDS:
            writer.commit()
            committed = time.monotonic()
        progress("encoding", done + n_documents, total)
    writer.commit()
    loss = (lost / squares) ** 0.5 if squares else 0.0
    n_capped = writer.n_capped - capped_before
    return Build(n_documents, n_empty, encode_seconds, loss, n_capped)


def _software() -> dict[str, str]:
    found = {}
    for package in ("lsr-search", "torch", "transformers", "pyserini"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            # Running from a checkout that was not installed.
            found[package] = "unknown"
    return found
