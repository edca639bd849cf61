"""The files of the default model: what training changed of the trunk, and the query weights.

`lsr.encoders.default` writes them, and makes the encoder from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lsr.encoders.load import trunk_path

if TYPE_CHECKING:
    import torch

FOLDER = Path(__file__).parent.parent / "data" / "default"
CHANGED, QUERIES = "changed.safetensors", "query_weights.npy"
TRUNK_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# The prefix of the names in CHANGED, which are those of the whole SparseEncoder.
PREFIX = "0.sub_modules.document.0.model."


def checked_trunk() -> Path:
    """Return the directory of the trunk that the default model was trained from.

    Raises:
        ValueError: the trunk has other weights.
    """
    directory = trunk_path()
    path = directory / "model.safetensors"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != TRUNK_SHA256:
        raise ValueError(
            f"{path}: not the weights that the default model was trained from: expected sha256 "
            f"{TRUNK_SHA256}, got {found}"
        )
    return directory


def put_changed(state: Mapping[str, torch.Tensor], folder: Path = FOLDER) -> None:
    """Copy the weights that training changed into the masked LM that it started from.

    Args:
        state: the state of the trunk with its grafted head; its tensors are written to.
        folder: holds the file.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is truncated or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / CHANGED
    try:
        changed = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not the weights of a model: {error}") from error
    for name, weights in changed.items():
        own = state.get(name.removeprefix(PREFIX))
        if own is None or own.shape != weights.shape:
            raise ValueError(f"{path}: the trunk has no {name!r} of shape {tuple(weights.shape)}")
        own.copy_(weights)


def read_query_weights(folder: Path, n_terms: int) -> np.ndarray:
    """Return the weight of each term in queries, float32, shape (V,).

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is truncated or of another vocabulary.
    """
    path = folder / QUERIES
    try:
        weights = np.load(path)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path}: not query weights: {error}") from error
    if weights.shape != (n_terms,) or weights.dtype != np.float32:
        raise ValueError(
            f"{path}: expected {n_terms} weights in float32, got {weights.shape} in {weights.dtype}"
        )
    return np.asarray(weights)
