"""How many terms vectors have without dropout, as a model in use makes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from torch import Tensor, nn

from lsr.training.processes import sum_over_processes
from lsr.training.regularisers import active_terms
from lsr.training.tally import Side


def has_dropout(model: nn.Module) -> bool:
    """Whether any part of the model drops activations in training.

    Such a part is a Dropout module with a probability above 0, or any module with an attribute
    above 0 whose name ends in "dropout", as transformers' attention layers have it.
    """
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0)
        or any(
            name.endswith("dropout") and isinstance(value, float) and value > 0
            for name, value in vars(module).items()
        )
        for module in model.modules()
    )


class DropoutProbe(CachedLossMixin):  # type: ignore[misc]
    """Passes the texts of the last batch again, without dropout, and compares the terms.

    Dropout is noise to the largest of many logits, and changes how many are positive by a quarter
    up or down. Queries and positives are looked at, not negatives.
    """

    def __init__(self, mini_batch_size: int | None) -> None:
        """A probe.

        Args:
            mini_batch_size: texts in one pass, as in training; None for whole batches.
        """
        self.mini_batch_size = mini_batch_size
        self._inputs: dict[Side, dict[str, Any]] = {}
        self._terms: dict[Side, Tensor] = {}  # mean terms of a vector in training

    def keep(self, queries: dict[str, Any], documents: dict[str, Any]) -> None:
        """Keep what the model takes of a batch."""
        # Copies, since modules write into what they are given.
        self._inputs = {"query": dict(queries), "document": dict(documents)}

    def count(self, side: Side, vectors: Tensor) -> None:
        """Count the terms of what the model made of it in training, shape (B, V)."""
        self._terms[side] = active_terms(vectors, dim=1).mean()

    @torch.no_grad()
    def ratios(self, model: Any, sides: Iterable[Side]) -> dict[Side, float]:
        """Terms of a vector when the model is used over those in training, by side.

        1 for a model without dropout, which is not passed. To be called in all processes.
        """
        if not has_dropout(model):
            return dict.fromkeys(sides, 1.0)
        found: dict[Side, float] = {}
        training = model.training
        model.eval()
        for side in sides:
            terms = self._terms_of(model, self._inputs[side])
            counts = torch.stack([terms, self._terms[side]])
            used, trained = sum_over_processes(counts.float()).tolist()
            found[side] = used / trained if trained else 1.0
        model.train(training)
        return found

    def _terms_of(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Mean terms of a vector, float32."""
        if self.mini_batch_size is None:
            vectors = model(dict(inputs))["sentence_embedding"]
            return active_terms(vectors, dim=1).mean()
        self.model = model
        parts = self.embed_minibatch_iter(inputs, with_grad=False, copy_random_state=False)
        return torch.cat([active_terms(vectors, dim=1) for vectors, _ in parts]).mean()
