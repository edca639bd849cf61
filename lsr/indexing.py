"""Corpus to index: encode, quantise, add, commit; a killed build goes on after its last commit."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from lsr.corpus import Document
from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import default_tokenizer, load_encoder
from lsr.encoders.masked_lm import MaskedLMEncoder
from lsr.indexes.lucene import LuceneIndex
from lsr.indexes.manifest import (
    NAME,
    Manifest,
    generation_folder,
    read_manifest,
    write_manifest,
)
from lsr.vectors import prune, quantise

Encoder = LexicalEncoder | MaskedLMEncoder

IMPACT_SCALE = 64
# What one commit holds, and so what a kill can lose.
SHARD = 2000


def vocabulary_sha256(terms: list[str]) -> str:
    """A fingerprint of the term strings in id order."""
    return hashlib.sha256("\0".join(terms).encode("utf-8", "surrogatepass")).hexdigest()


def shards(documents: Iterable[Document], size: int = SHARD) -> Iterator[list[Document]]:
    """The documents in lists of `size`, in order."""
    iterator = iter(documents)
    while shard := list(islice(iterator, size)):
        yield shard


def open_encoder(name: str, folder: Path) -> Encoder:
    """The encoder of a generation: what `name` names, with what the build saved in `folder`."""
    if name == "lexical":
        return LexicalEncoder.load(default_tokenizer(), folder)
    return load_encoder(name)


def build_index(
    corpus: Iterable[Document],
    directory: Path,
    encoder_name: str = "lexical",
    *,
    top_k: int = 256,
    progress: Callable[[int], None] = lambda n_documents: None,
) -> Manifest:
    """Build an index beside the live one of `directory`, if any, and make it the live one.

    Every SHARD documents are committed to Lucene; a build that was killed goes on after the last
    commit if the corpus still begins with the same documents, and starts afresh if not.

    Args:
        corpus: documents with unique ids; iterated twice for "lexical" (first for its statistics).
        directory: made if absent; one that holds files but no index is refused.
        encoder_name: "lexical", a directory or a hub name.
        top_k: terms kept per document, the heaviest.
        progress: told the number of documents done.

    Raises:
        FileExistsError: `directory` holds something that is not an index.
        ValueError: bad corpus, weights or encoder; nothing of a live index is touched.
    """
    generation = _next_generation(directory)
    folder = generation_folder(directory, generation)
    encoder_folder = folder / "encoder"
    encoder_folder.mkdir(parents=True, exist_ok=True)
    encoder: Encoder
    if encoder_name == "lexical":
        encoder = LexicalEncoder.fit(
            default_tokenizer(),
            ([document.content for document in shard] for shard in shards(corpus)),
        )
        encoder.save(encoder_folder)
    else:
        encoder = load_encoder(encoder_name)
    terms = encoder.vocabulary
    settings = f"{encoder_name} {top_k} {IMPACT_SCALE} {vocabulary_sha256(terms)}"
    with _open_or_create(folder / "lucene", terms, settings) as index:
        done = int(index.user_data.get("n_documents", "0"))
        max_impact = int(index.user_data.get("max_impact", "1"))
        digest = hashlib.sha256(settings.encode())
        seen = 0
        for shard in shards(corpus):
            for document in shard:
                digest.update(f"{document.id}\0{document.content}\0".encode())
            seen += len(shard)
            if seen <= done:
                if seen == done and index.user_data["sha256"] != digest.hexdigest():
                    raise ValueError(
                        f"{folder}: the build in progress holds {done} other documents than the "
                        f"corpus begins with; remove that folder to start afresh"
                    )
                continue
            vectors = prune(encoder.encode_documents([d.content for d in shard]), top_k)
            impacts = quantise(vectors, IMPACT_SCALE)
            max_impact = max(max_impact, int(impacts.data.max(initial=1)))
            index.add(shard, impacts, new=True)
            index.commit(
                {
                    "n_documents": str(seen),
                    "sha256": digest.hexdigest(),
                    "settings": settings,
                    "max_impact": str(max_impact),
                }
            )
            progress(seen)
        if seen < done:
            raise ValueError(
                f"{folder}: the build in progress holds {done} documents but the corpus {seen}; "
                "remove that folder to start afresh"
            )
    manifest = Manifest(
        generation=generation,
        encoder=encoder_name,
        vocabulary_sha256=vocabulary_sha256(terms),
        vocabulary_size=len(terms),
        impact_scale=IMPACT_SCALE,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_manifest(directory, manifest)
    for old in directory.glob("generation-*"):
        if old != folder:
            shutil.rmtree(old)
    return manifest


def _next_generation(directory: Path) -> int:
    if (directory / NAME).exists():
        return read_manifest(directory).generation + 1
    if directory.exists():
        foreign = sorted(
            path.name for path in directory.iterdir() if not path.name.startswith("generation-")
        )
        if foreign:
            raise FileExistsError(
                f"{directory} is not an index and not empty (it holds {foreign[0]!r}): nothing "
                "was written"
            )
    return 1


def _open_or_create(path: Path, terms: list[str], settings: str) -> LuceneIndex:
    """The Lucene index of a build in progress, or a new one where none was committed."""
    if any(path.glob("segments_*")):
        index = LuceneIndex.open(path, terms, writable=True)
        if index.user_data.get("settings") == settings:
            return index
        index.close()
    shutil.rmtree(path, ignore_errors=True)
    return LuceneIndex.create(path, terms)
