"""Cross-encoders, which read query and document together, for the first hits of a search."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from lsr.encoders.load import resolve

# Models that a process keeps.
KEPT = 4


class Reranker:
    """A sentence-transformers CrossEncoder of one label. Any thread may use it."""

    def __init__(self, name: str) -> None:
        """Load a model by its directory or its hub name.

        Raises:
            FileNotFoundError: no such directory, and not to be had from the hub.
            ValueError: it is no cross-encoder, or has more than one label.
        """
        from sentence_transformers import CrossEncoder
        from transformers.utils import logging

        path = resolve(name)
        if not (path / "config.json").exists():
            raise ValueError(f"{path}: no cross-encoder (it lacks config.json)")
        logging.disable_progress_bar()
        self.name = name
        self._model: Any = CrossEncoder(str(path), device="cpu")
        if self._model.num_labels != 1:
            raise ValueError(
                f"a cross-encoder must have 1 label, got {self._model.num_labels} ({name!r})"
            )
        # A fast tokenizer may raise when two threads use it at once.
        self._lock = threading.Lock()

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the logit of each text for a query; a larger one is better.

        Raises:
            ValueError: a logit is not a number.
        """
        import torch

        with self._lock:
            logits = self._model.predict(
                [(query, text) for text in texts],
                activation_fn=torch.nn.Identity(),
                show_progress_bar=False,
            )
        found = np.asarray(logits, np.float64).reshape(-1)
        if not np.isfinite(found).all():
            raise ValueError(f"cross-encoder {self.name!r} gives scores that are no finite numbers")
        return found.tolist()


@lru_cache(maxsize=KEPT)
def reranker(name: str) -> Reranker:
    """Return a model, which is loaded when it is first asked for; see `Reranker`."""
    return Reranker(name)
