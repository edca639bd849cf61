"""The interpolation that `lsr tune` found for an index, kept in its generation's folder."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from lsr.request import Interpolation

NAME = "interpolation.json"


def read_tuning(folder: Path) -> Interpolation | None:
    """What was stored in a generation's folder, if anything.

    Raises:
        ValueError: the file is truncated or foreign.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        return Interpolation.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: not an interpolation, or a truncated one: {error}") from error


def write_tuning(folder: Path, interpolation: Interpolation) -> None:
    """Store it for searches without settings of their own, by one rename."""
    temporary = folder / f"{NAME}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(interpolation.model_dump_json(indent=2))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)
