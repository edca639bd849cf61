"""sentence-transformers' CSR loss for embeddings of length 1."""

from __future__ import annotations

from typing import Any

from sentence_transformers.sparse_encoder.losses import CSRLoss


class UnitCSRLoss(CSRLoss):  # type: ignore[misc]
    """D · L(k) + D · L(4k) / 8 + β · L_aux + γ · L_contrastive (Wen et al. 2025, arXiv:2503.01776).

    The stock loss takes the mean squared error over dimensions, which embeddings of length 1 bound
    by 4 / D: their reconstruction then counts a few hundred times less than the rest, and is not
    learned. Times D it is the squared distance.
    """

    def __init__(self, model: Any, dimension: int, **kwargs: Any) -> None:
        """A loss.

        Args:
            model: a SparseEncoder that ends in SparseAutoEncoder.
            dimension: D, of the dense embeddings.
            **kwargs: as CSRLoss takes them: `loss`, `beta` and `gamma`.
        """
        super().__init__(model, **kwargs)
        self.dimension = dimension

    def forward(self, sentence_features: Any, labels: Any = None) -> dict[str, Any]:
        """The terms of the sum, of columns query, document and negatives."""
        losses: dict[str, Any] = super().forward(sentence_features, labels)
        for name in ("reconstruction_loss_k", "reconstruction_loss_4k"):
            losses[name] = losses[name] * self.dimension
        return losses
