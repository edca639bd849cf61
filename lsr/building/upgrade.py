"""An index of an older format, brought to the present one: nothing is encoded anew."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from lsr.building.commits import both_sides
from lsr.building.encoders import Encoder, open_encoder
from lsr.building.language import AUTO, check_language, detected
from lsr.building.live import DENSE, naming_index
from lsr.building.lock import locked
from lsr.building.synonym_rules import carry_rules_over
from lsr.building.tuning import read_tuning, write_tuning
from lsr.building.word_scale import word_scale
from lsr.corpus.language import LanguageCounts
from lsr.indexes.dense import DenseIndex
from lsr.indexes.lucene import LuceneIndex
from lsr.indexes.manifest import (
    FORMAT_VERSION,
    Manifest,
    generation_folder,
    read_manifest,
    write_manifest,
)
from lsr.progress import Progress

# Documents that are copied at once.
SHARD = 512


class Upgrade(NamedTuple):
    """What `upgrade_index` did."""

    n_documents: int
    notice: str | None  # which language was detected, and why synonyms were dropped


def upgrade_index(
    directory: str | os.PathLike[str],
    language: str = "en",
    *,
    progress: Progress = lambda step, done, total: None,
) -> Upgrade | None:
    """Write the live generation of an index anew in the present format, from what it stores.

    Texts, metadata and forward vectors are in the old Lucene index; vectors and the encoder's
    statistics are files that stay as they are. The old generation is live until the new one is
    whole. An upgrade that was killed starts from the beginning.

    Args:
        directory: of the index.
        language: as for `lsr.building.build.build_index`; indexes had no words before version 3.
        progress: see Progress.

    Returns:
        What was done; None if the index has the present format already.

    Raises:
        FileNotFoundError: there is no index, or its encoder or a file of vectors is gone.
        ValueError: `language` is unknown, the index is of a newer format, or a file of vectors is
            damaged. The index stays as it was.
        IndexLockedError: another process builds this index or writes to it.
    """
    check_language(language)
    directory = Path(directory)
    read_manifest(directory, older=True)
    with locked(directory):
        manifest = read_manifest(directory, older=True)
        if manifest.format_version == FORMAT_VERSION:
            return None
        with naming_index(directory, manifest):
            return _upgrade(directory, manifest, language, progress)


def _upgrade(directory: Path, before: Manifest, language: str, progress: Progress) -> Upgrade:
    old, new = before.folder(directory), generation_folder(directory, before.generation + 1)
    encoder = open_encoder(before.encoder, old / "encoder")
    if new.exists():
        shutil.rmtree(new)
    new.mkdir()
    try:
        manifest, upgrade = _write(before, old, new, encoder, language, progress)
    except Exception:
        shutil.rmtree(new)
        raise
    write_manifest(directory, manifest)
    shutil.rmtree(old)
    return upgrade


def _write(
    before: Manifest, old: Path, new: Path, encoder: Encoder, language: str, progress: Progress
) -> tuple[Manifest, Upgrade]:
    """Write a generation from an older one; return its manifest, and what was done."""
    notice = None
    with LuceneIndex.open(old / "lucene", encoder.vocabulary) as index:
        if before.dense is not None:
            # Damaged vectors are found here, and not by the first search, when these are gone.
            both_sides(index, lambda names: DenseIndex.open(old / DENSE, names))
        for folder in ("encoder", DENSE):
            if (old / folder).exists():
                shutil.copytree(old / folder, new / folder)
        if tuned := read_tuning(old):
            write_tuning(new, tuned)
        if language == AUTO:
            counts = LanguageCounts()
            for shard in _shards(index):
                for document in index.documents(shard):
                    counts.add(document.content)
            language, notice = detected(counts)
        with LuceneIndex.create(new / "lucene", encoder.vocabulary, language) as copy:
            n_documents = _copy(index, copy, encoder, progress)
            dropped = carry_rules_over(old, copy)
            scale = word_scale(copy, encoder, before.impact_scale)
    manifest = replace(
        before,
        generation=before.generation + 1,
        language=language,
        word_scale=scale,
        format_version=FORMAT_VERSION,
    )
    notices = [said for said in (notice, dropped) if said]
    return manifest, Upgrade(n_documents, "; ".join(notices) or None)


def _shards(index: LuceneIndex) -> Iterator[list[str]]:
    ids = iter(index.matching())
    while shard := list(islice(ids, SHARD)):
        yield shard


def _copy(index: LuceneIndex, copy: LuceneIndex, encoder: Encoder, progress: Progress) -> int:
    done = 0
    for shard in _shards(index):
        documents = index.documents(shard)
        own = [encoder.own_terms(document.content) for document in documents]
        copy.add(documents, index.impacts(shard), own, new=True, threads=os.cpu_count() or 1)
        done += len(shard)
        progress("upgrading", done, index.n_docs)
    copy.commit(index.user_data)
    return done
