"""Sparse codes of a dense model: CSR, contrastive sparse representation (arXiv:2503.01776).

The modules and the loss come from sentence-transformers. The terms of a code are latents of an
autoencoder, not words, so that they do not explain a hit.
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
    """Settings of `build_autoencoder` and `csr_loss`.

    Attributes:
        base: "default" (the trunk all-MiniLM-L6-v2 that ships), a directory or a hub name of a
            dense sentence-transformers model.
        hidden_dim: number of latents, which are the index's terms; the paper uses four times the
            embedding's dimension.
        k: active latents of a text; there must be at least 4k latents.
        k_aux: how many dead latents reconstruct the residual error; 0 for none.
        dead_threshold: a latent is dead after this many passes in which it was never active. Each
            text column of a batch makes two passes, with the k and the 4k largest.
        train_base: whether the dense model is trained too; in the paper it is not.
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
            ValueError: the message names the field, its allowed values and its value.
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
    """Build a SparseEncoder: the dense model's modules, then a stock SparseAutoEncoder.

    Embeddings are normalised to length 1 before the autoencoder. Train it with `csr_loss`.

    Raises:
        FileNotFoundError: there is no such base.
        ValueError: the base is not a dense sentence-transformers model.
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
            # A trainer's train() would turn dropout on, and with it change the embeddings.
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
    """Return the loss for SparseEncoderTrainer, `lsr.encoders.autoencoder_loss.UnitCSRLoss`.

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
    """Embed texts by the frozen modules before the autoencoder, see `embed_once`.

    Returns None if the base is trained or holds a Router: then it must run in every step.
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
    """Let the model also take {"sentence_embedding": (N, D)}, for which only its last module runs.

    The model keeps all its modules, and saving it is not affected.
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
        # The current `forward` may be a trainer's wrapper around ours.
        vars(model).pop("forward", None)
