"""Names that can only mean a local file or folder, and the error if it does not exist."""

from __future__ import annotations

from pathlib import Path

_STARTS = (".", "/", "~")
_ENDS = (
    *("/", ".jsonl", ".json", ".tsv", ".csv", ".txt", ".gz", ".trec", ".run", ".toml"),
    *(".safetensors", ".bin", ".npz", ".onnx"),
)


def is_path(name: str) -> bool:
    """Whether a name has the form of a path, not of a hub name or an ir_datasets id.

    >>> is_path("./model"), is_path("run.trec.gz"), is_path("org/model-v1.5")
    (True, True, False)
    """
    return name.startswith(_STARTS) or name.endswith(_ENDS) or "\\" in name


def missing(name: str, what: str = "file or folder") -> FileNotFoundError:
    """Return the error for a path that does not exist; it names the part that does."""
    there = next((parent for parent in Path(name).parents if parent.is_dir()), Path())
    hint = "" if there == Path() else f"; {there} exists, but does not hold it"
    if name.startswith("~"):
        hint = "; write the home directory out in place of ~"
    return FileNotFoundError(f"{name}: no such {what}{hint}")
