"""The manifest of an index directory. A rename puts it there last, so what it names is complete."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

FORMAT_VERSION = 3
# Fields that older versions lack: indexes had no dense side before 2, and no words before 3.
SINCE = {2: ("dense", "dense_sha256", "dense_kind"), 3: ("language", "word_scale")}
NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """Which generation of an index is live, and how its vectors were made."""

    generation: int
    encoder: str  # its name, or the absolute path of its directory
    encoder_sha256: str  # of its weights
    vocabulary_sha256: str  # of its term strings in id order
    vocabulary_size: int
    top_k: int  # expansion terms kept per document
    impact_scale: int  # impacts are round(weight × impact_scale); a power of two
    corpus: str
    encode_docs_per_second: float  # by all of its models together
    quantisation_loss: float  # ‖weights − impacts / scale‖ ÷ ‖weights‖
    created: str  # ISO 8601, UTC
    software: dict[str, str]  # package → version
    dense: str | None = None  # the dense model's name, or the absolute path of its directory
    dense_sha256: str | None = None  # of its weights
    dense_kind: str | None = None  # as the build's caller gave it: auto, flat, hnsw or ivf-pq
    language: str = "en"  # whose analyzer makes words, see `lsr.indexes.lucene.LANGUAGES`
    word_scale: float = 1.0  # what makes BM25 comparable with learned scores, see `word_scale`
    format_version: int = FORMAT_VERSION

    def folder(self, directory: Path) -> Path:
        """Return the folder of the live generation."""
        return generation_folder(directory, self.generation)


def generation_folder(directory: Path, generation: int) -> Path:
    """Return the folder of a generation of an index."""
    return directory / f"generation-{generation}"


def read_manifest(directory: str | os.PathLike[str], *, older: bool = False) -> Manifest:
    """Read the manifest of an index directory.

    Args:
        directory: of the index.
        older: whether an older format version is read too.

    Raises:
        FileNotFoundError: the directory holds none.
        ValueError: it is truncated, not a manifest, or of another format version.
    """
    directory = Path(directory)
    path = directory / NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(_no_index(directory)) from error
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    number = version if isinstance(version, int) else 0
    if number != FORMAT_VERSION and not (older and 1 <= number < FORMAT_VERSION):
        advice = ""
        if number > FORMAT_VERSION:
            advice = ": a newer version of lsr has built this index"
        elif number >= 1:
            advice = (
                f": an older version of lsr has built this index. `lsr upgrade {directory}` brings "
                "it to this version, and encodes nothing anew"
            )
        raise ValueError(
            f"{path}: format version must be {FORMAT_VERSION}, got {version!r}{advice}"
        )
    names = {field.name for field in fields(Manifest)}
    for since, added in SINCE.items():
        if number < since:
            names -= {*added}
    if set(content) != names:
        missing, unknown = sorted(names - set(content)), sorted(set(content) - names)
        raise ValueError(f"{path}: missing {missing}, unknown {unknown}")
    return Manifest(**content)


def _no_index(directory: Path) -> str:
    if not directory.exists():
        return f"{directory} is not an index: there is no such directory"
    if not directory.is_dir():
        return f"{directory} is not an index: it is a file, and an index is a directory"
    if any(directory.glob("generation-*")):
        return (
            f"{directory} is not an index yet: its build was not finished. Run the same `lsr "
            "index` again, and it goes on"
        )
    return (
        f"{directory} is not an index: it holds no {NAME}. Build one with `lsr index CORPUS --out "
        "DIR`"
    )


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Make `manifest` the live one, durably; readers never see a part of it."""
    temporary = directory / (NAME + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / NAME)
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
