"""Files of a run that may be killed at any time: they are there whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def check_same(path: Path, about: dict[str, Any]) -> None:
    """Refuse to go on with a run that `path` describes otherwise.

    Args:
        path: a JSON object; where there is no such file, there is no run to go on with.
        about: members to compare; those of its "config" each by itself.

    Raises:
        ValueError: naming the first that differs.
    """
    if not path.exists():
        return
    was = json.loads(path.read_text(encoding="utf-8"))
    settings = was["config"] | {key: value for key, value in was.items() if key != "config"}
    for name, value in (about["config"] | about).items():
        if name != "config" and settings.get(name) != value:
            raise ValueError(
                f"{path}: another run, with {name} {settings.get(name)!r} and not {value!r}; take "
                "another directory, or remove this one"
            )


def last_whole(checkpoints: Path) -> str | None:
    """The checkpoint of the most steps whose last file was written, if there is one."""
    whole = [
        path.parent
        for path in checkpoints.glob("checkpoint-*/trainer_state.json")
        if path.read_bytes().rstrip().endswith(b"}")
    ]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def write_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder that is there whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    partial.rename(folder)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(path)
