"""Names that can only mean a local file or folder, and messages where it is not there."""

from __future__ import annotations

from pathlib import Path

_STARTS = (".", "/", "~")
_ENDS = (
    *("/", ".jsonl", ".json", ".tsv", ".csv", ".txt", ".gz", ".trec", ".run", ".toml"),
    *(".safetensors", ".bin", ".npz", ".onnx"),
)


def is_path(name: str) -> bool:
    """Whether a name is a path by its form, and no id of a hub or of ir_datasets.

    >>> is_path("./model"), is_path("run.trec.gz"), is_path("org/model-v1.5")
    (True, True, False)
    """
    return name.startswith(_STARTS) or name.endswith(_ENDS) or "\\" in name


def missing(name: str, what: str = "file or folder") -> FileNotFoundError:
    """The error for a path that does not exist; it names the part of it that does."""
    there = next((parent for parent in Path(name).parents if parent.is_dir()), Path())
    hint = "" if there == Path() else f"; {there} is there, and does not hold it"
    if name.startswith("~"):
        hint = "; write the home directory out in place of ~"
    return FileNotFoundError(f"{name}: no such {what}{hint}")
