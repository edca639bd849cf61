"""What the vectors of an optimiser step were like, counted while it was trained."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lsr.training.processes import sum_over_processes
from lsr.training.regularisers import active_terms

Side = Literal["document", "query"]


class VectorStatistics(NamedTuple):
    """The vectors of one side in one optimiser step, in all processes and accumulated batches."""

    mean_terms: float  # active (not zero) terms of a vector
    zero_share: float  # of the vectors, in [0, 1]
    term_shares: Tensor  # of each term the share of vectors it is active in, float32, shape (V,)
    mean_weight: float  # of active terms; 0 where there are none
    penalty: float  # of the regulariser before λ; 0 without one


class Tally:
    """Counts the vectors of both sides, batch by batch, and sums them up at the end of a step.

    Attributes:
        statistics: of the last optimiser step, by side; empty before the first.
        ranking_loss: of the last optimiser step, mean over batches and processes.
    """

    def __init__(self) -> None:
        """An empty tally."""
        self.statistics: dict[Side, VectorStatistics] = {}
        self.ranking_loss = math.nan
        self._counts: dict[Side, _Counts] = {}

    def add(self, side: Side, vectors: Tensor, penalty: Tensor | None, ranking: Tensor) -> None:
        """Count one side of a batch.

        Args:
            side: whose vectors these are.
            vectors: shape (N, V).
            penalty: before λ, a scalar; None without a regulariser.
            ranking: the batch's weighted ranking losses, a scalar.
        """
        self._counts.setdefault(side, _Counts()).add(vectors, penalty, ranking)

    def take(self) -> None:
        """End an optimiser step: what was added since the last call becomes `statistics`.

        To be called in all processes.
        """
        if not self._counts:
            return
        taken = {side: counts.take() for side, counts in self._counts.items()}
        self.statistics = {side: statistics for side, (statistics, _) in taken.items()}
        self.ranking_loss = taken["document"][1]
        self._counts = {}


class _Counts:
    """Counts over the vectors of one side in one process, kept on their device."""

    def __init__(self) -> None:
        self._terms: Tensor | None = None  # (V,): vectors that each term is active in
        # (6,): vectors, without a term, sum of weights, batches, penalties, ranking losses.
        self._sums: Tensor | None = None

    @torch.no_grad()
    def add(self, vectors: Tensor, penalty: Tensor | None, ranking: Tensor) -> None:
        terms = active_terms(vectors, dim=0)
        sums = torch.stack(
            [
                terms.new_tensor(float(len(vectors))),
                (active_terms(vectors, dim=1) == 0).sum().float(),
                vectors.sum(dtype=torch.float32),
                terms.new_tensor(1.0),
                terms.new_tensor(0.0) if penalty is None else penalty.float(),
                ranking.float(),
            ]
        )
        self._terms = terms if self._terms is None else self._terms + terms
        self._sums = sums if self._sums is None else self._sums + sums

    def take(self) -> tuple[VectorStatistics, float]:
        """Over all processes, and the mean ranking loss."""
        assert self._terms is not None and self._sums is not None
        totals = sum_over_processes(torch.cat([self._sums, self._terms]))
        vectors, zero, weights, batches, penalties, rankings = totals[:6].tolist()
        terms = totals[6:]
        active = float(terms.sum())
        statistics = VectorStatistics(
            mean_terms=active / vectors,
            zero_share=zero / vectors,
            term_shares=terms / vectors,
            mean_weight=weights / active if active else 0.0,
            penalty=penalties / batches,
        )
        return statistics, rankings / batches
