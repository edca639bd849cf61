"""The settings that `lsr tune` found for an index, kept in its generation's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lsr.building.durable import write_durably
from lsr.building.encoders import FITTED
from lsr.indexes.manifest import Manifest
from lsr.request import Interpolation, Words

Model = TypeVar("Model", bound=BaseModel)

NAME = "tuning.json"
# Of format 2: an interpolation of learned terms and dense vectors.
OLDER = "interpolation.json"


class Tuned(BaseModel):
    """What `lsr tune` found for an index."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: Words = Words()
    interpolation: Interpolation = Interpolation()


def is_tuned(folder: Path) -> bool:
    """Whether something was stored in a generation's folder."""
    return any((folder / name).exists() for name in (NAME, OLDER))


def read_tuning(folder: Path) -> Tuned | None:
    """What was stored in a generation's folder, if anything.

    Indexes of formats 1 and 2 had no words: what was tuned for them is an interpolation of learned
    terms and dense vectors.

    Raises:
        ValueError: the file is truncated or foreign.
    """
    if (folder / NAME).exists():
        return _read(folder / NAME, Tuned)
    if not (folder / OLDER).exists():
        return None
    found = _read(folder / OLDER, Interpolation)
    return Tuned(interpolation=found.model_copy(update={"sides": ("learned", "dense")}))


def _read(path: Path, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: not what `lsr tune` writes, or truncated: {error}") from error


def write_tuning(folder: Path, tuned: Tuned) -> None:
    """Store it for searches without settings of their own, by one rename."""
    write_durably(folder / NAME, tuned.model_dump_json(indent=2))


def carry_over(
    folder: Path, before: Manifest, to: Path, after: Manifest, *, same_corpus: bool | None
) -> str | None:
    """Keep what `lsr tune` stored for a generation in the one that follows it, where it fits.

    Weights belong to the models whose scores they weigh, so they are dropped with any of them. Of
    another corpus they are still the best guess there is: then they are kept. What "lexical" and
    "grafted" are fitted with are statistics of the corpus, which change with it.

    Args:
        folder: of the generation before.
        before: its manifest.
        to: the folder of the generation that follows.
        after: its manifest.
        same_corpus: whether both hold the same documents; None where the generation before is
            damaged, so that they cannot be compared.

    Returns:
        What was done and why, in a sentence; None where nothing was stored.
    """
    try:
        stored = read_tuning(folder)
    except ValueError as error:
        return f"dropped what `lsr tune` stored, which cannot be read ({error})"
    if stored is None:
        return None
    how = stored.interpolation
    what = (
        f"what `lsr tune` stored (words {stored.words.weight:g}, α {how.alpha}, "
        f"{how.normalisation})"
    )
    if reasons := _changes(before, after):
        return f"dropped {what}: {', '.join(reasons)}; tune again with `lsr tune`"
    write_tuning(to, stored)
    if same_corpus:
        return f"kept {what}: models and documents are the same"
    if same_corpus is None:
        return (
            f"kept {what}: the models are the same; documents of a damaged index are not compared"
        )
    return (
        f"kept {what}: the models are the same; it was tuned on other documents, and can be tuned "
        "again with `lsr tune`"
    )


def _changes(before: Manifest, after: Manifest) -> list[str]:
    """How the models of two generations differ."""
    found = []
    if before.encoder != after.encoder:
        found.append(f"the encoder was {before.encoder!r} and is {after.encoder!r}")
    elif before.encoder_sha256 != after.encoder_sha256 and after.encoder not in FITTED:
        found.append(f"encoder {after.encoder!r} has other weights")
    if before.top_k != after.top_k:
        found.append(f"--top-k was {before.top_k} and is {after.top_k}")
    if before.language != after.language:
        found.append(f"--language was {before.language!r} and is {after.language!r}")
    if before.dense is not None and after.dense is None:
        found.append("the index has no dense side any more")
    elif before.dense != after.dense:
        found.append(f"the dense model was {before.dense!r} and is {after.dense!r}")
    elif before.dense_sha256 != after.dense_sha256:
        found.append(f"dense model {after.dense!r} has other weights")
    return found
