"""Sparse codes of a dense model: CSR, contrastive sparse representation (arXiv:2503.01776).

The modules and the loss are sentence-transformers' own. A code's terms are latents of an
autoencoder, no words: no term of a hit explains it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsr.encoders.load import resolve, trunk_path

if TYPE_CHECKING:
    from lsr.encoders.embeddings import Embeddings
    from lsr.progress import Progress


@dataclass(frozen=True)
class AutoencoderConfig:
    """What `build_autoencoder` and `csr_loss` make.

    Attributes:
        base: "default" (the trunk all-MiniLM-L6-v2 that ships), a directory or a hub name of a
            dense sentence-transformers model.
        hidden_dim: latents, the terms of the index; the paper has four times the embedding's.
        k: active latents of a text; 4k of them must exist.
        k_aux: dead latents that reconstruct what the others leave over; 0 for none.
        dead_threshold: uses without being active that make a latent dead. Each text column of a
            batch is two uses, by the k and by the 4k largest.
        train_base: whether the dense model is trained too; the paper's is not.
        beta: weight of the dead latents' loss.
        gamma: weight of the contrastive loss.
        temperature: dot products are divided by it in the contrastive loss.
    """

    __pydantic_config__ = {"extra": "forbid"}
    base: str = "default"
    hidden_dim: int = 1536
    k: int = 64
    k_aux: int = 512
    dead_threshold: int = 30
    train_base: bool = False
    beta: float = 1 / 32
    gamma: float = 0.3
    temperature: float = 0.05

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ValueError: naming the field, what it may be and what it is.
        """
        if self.k < 1 or 4 * self.k > self.hidden_dim:
            raise ValueError(
                f"`k` must be in [1, {self.hidden_dim // 4}], up to a quarter of `hidden_dim`, got "
                f"{self.k}"
            )
        if not 0 <= self.k_aux <= self.hidden_dim:
            raise ValueError(f"`k_aux` must be in [0, {self.hidden_dim}], got {self.k_aux}")
        if self.dead_threshold < 1:
            raise ValueError(f"`dead_threshold` must be at least 1, got {self.dead_threshold}")
        for field in ("beta", "gamma"):
            if getattr(self, field) < 0:
                raise ValueError(f"`{field}` must be at least 0, got {getattr(self, field)}")
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}")


def build_autoencoder(config: AutoencoderConfig) -> Any:
    """A SparseEncoder of the dense model's modules and a stock SparseAutoEncoder after them.

    Embeddings get length 1 before it, if they do not have it already. Train it with `csr_loss`.

    Raises:
        FileNotFoundError: there is no such base.
        ValueError: the base is no dense sentence-transformers model.
    """
    import torch
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    directory = trunk_path() if config.base == "default" else resolve(config.base)
    if not (directory / "modules.json").exists():
        raise ValueError(
            f"{directory}: holds no modules.json; `base` must be a dense model of "
            "sentence-transformers"
        )
    dense = SentenceTransformer(str(directory))
    if not config.train_base:
        dense.requires_grad_(False)
        for module in dense.modules():
            # A trainer's train() would switch dropout on, and codes would be of other embeddings.
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    modules = list(dense)
    if not isinstance(modules[-1], Normalize):
        modules.append(Normalize())
    autoencoder = SparseAutoEncoder(
        dense.get_embedding_dimension(),
        hidden_dim=config.hidden_dim,
        k=config.k,
        k_aux=config.k_aux,
        dead_threshold=config.dead_threshold,
    )
    return SparseEncoder(modules=[*modules, autoencoder], similarity_fn_name="dot")


def csr_loss(model: Any, config: AutoencoderConfig) -> Any:
    """The loss for SparseEncoderTrainer, see `lsr.encoders.autoencoder_loss.UnitCSRLoss`.

    Columns of the data are query, document and negatives.
    """
    from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss

    from lsr.encoders.autoencoder_loss import UnitCSRLoss

    contrastive = SparseMultipleNegativesRankingLoss(model, scale=1 / config.temperature)
    return UnitCSRLoss(
        model, model[-1].input_dim, loss=contrastive, beta=config.beta, gamma=config.gamma
    )


def base_embeddings(
    model: Any,
    config: AutoencoderConfig,
    texts: Callable[[], Iterator[str]],
    folder: Path,
    progress: Progress = lambda step, done, total: None,
) -> Embeddings | None:
    """What the frozen modules before the autoencoder make of texts, see `embed_once`.

    None where they do not stay as they are, or go by routes: then they take part in every step.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    from lsr.encoders.embeddings import embed_once

    if config.train_base or any(isinstance(module, Router) for module in model.modules()):
        return None
    dense = SentenceTransformer(modules=list(model)[:-1], device=str(model.device))
    return embed_once(dense, texts, folder, progress)


@contextmanager
def autoencoder_alone(model: Any) -> Iterator[None]:
    """Within it the model takes {"sentence_embedding": (N, D)} too, and runs its last module alone.

    The modules, and what is saved, stay those of the whole model.
    """
    whole = model.forward

    def forward(features: dict[str, Any], **settings: Any) -> Any:
        return (
            model[-1](features) if "sentence_embedding" in features else whole(features, **settings)
        )

    model.forward = forward
    try:
        yield
    finally:
        # What is there may be a trainer's wrapper around ours.
        vars(model).pop("forward", None)
