"""Values of metadata that the engine has read from doc values; see MetadataValues.java."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lsr.documents import MetadataValue
from lsr.indexes.buffers import read_strings


def read_values(packed: bytes, n: int) -> list[list[MetadataValue]] | int:
    """Return the values of n documents, or the place of the first one that is not there."""
    found: list[list[MetadataValue]] = [[] for _ in range(n)]
    at = 0
    for kind in ("<i8", "<f8", "<i4", "string"):
        counts = np.frombuffer(packed, "<i4", n, at)
        if n and counts.min() < 0:
            return int(np.argmax(counts < 0))
        at += 4 * n
        total = int(counts.sum())
        values: Sequence[Any]
        if kind == "string":
            values = read_strings(packed[at:], total)
        else:
            array = np.frombuffer(packed, kind, total, at)
            at += array.nbytes
            values = (array.astype(bool) if kind == "<i4" else array).tolist()
        places = np.repeat(np.arange(n), counts).tolist()
        for place, value in zip(places, values, strict=True):
            found[place].append(value)
    return found
