"""sentence-transformers' CSR loss for embeddings of length 1."""

from __future__ import annotations

from typing import Any

from sentence_transformers.sparse_encoder.losses import CSRLoss


class UnitCSRLoss(CSRLoss):  # type: ignore[misc]
    """D · L(k) + D · L(4k) / 8 + β · L_aux + γ · L_contrastive (Wen et al. 2025, arXiv:2503.01776).

    The stock loss takes the mean squared error over dimensions, which is at most 4 / D between
    vectors of length 1. Reconstruction would count a few hundred times less than the other terms,
    and not be learned. Times D, the error is the squared distance.
    """

    def __init__(self, model: Any, dimension: int, **kwargs: Any) -> None:
        """Make a loss.

        Args:
            model: a SparseEncoder that ends in SparseAutoEncoder.
            dimension: D, of the dense embeddings.
            **kwargs: passed to CSRLoss: `loss`, `beta` and `gamma`.
        """
        super().__init__(model, **kwargs)
        self.dimension = dimension

    def forward(self, sentence_features: Any, labels: Any = None) -> dict[str, Any]:
        """Return the terms of the sum; the columns are query, document and negatives."""
        losses: dict[str, Any] = super().forward(sentence_features, labels)
        for name in ("reconstruction_loss_k", "reconstruction_loss_4k"):
            losses[name] = losses[name] * self.dimension
        return losses
