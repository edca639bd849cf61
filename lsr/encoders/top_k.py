"""SPLADE pooling over each token's few largest logits, as in SPARSEUP.

A model with this module saves and loads like any other but is not in the stock layout: plain
sentence-transformers opens it if lsr is installed, with `trust_remote_code=True`.
"""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch import Tensor

from lsr.kernels.head import pack
from lsr.kernels.reference import Activation, Pooling, activate

# How many logits are held at once: 256 MiB in float32.
CHUNK = 1 << 26


class TopKPooling(SpladePooling):  # type: ignore[misc]
    """SpladePooling that uses only the `top_k_per_token` largest logits of each token."""

    config_keys = [*SpladePooling.config_keys, "top_k_per_token"]

    def __init__(self, top_k_per_token: int, **kwargs: Any) -> None:
        """Make a pooling.

        Args:
            top_k_per_token: logits kept per token, at least 1.
            **kwargs: passed to SpladePooling.

        Raises:
            ValueError: `top_k_per_token` is below 1.
        """
        if top_k_per_token < 1:
            raise ValueError(f"`top_k_per_token` must be at least 1, got {top_k_per_token}")
        super().__init__(**kwargs)
        self.top_k_per_token = top_k_per_token
        self.embedding_dimension: int | None

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pool the logits of a stock masked LM, shape (B, T, V), to vectors, shape (B, V)."""
        logits = features["token_embeddings"]
        mask = features["attention_mask"]
        top = logits.topk(min(self.top_k_per_token, logits.shape[-1]), dim=-1)
        texts = torch.arange(len(logits), device=logits.device)[:, None, None]
        kept = mask.bool()[:, :, None].expand_as(top.values)
        features["sentence_embedding"] = _pool(
            top.values[kept],
            texts.expand_as(top.values)[kept],
            top.indices[kept],
            (len(logits), logits.shape[-1]),
            self.activation_function,
            self.pooling_strategy,
        )
        if self.embedding_dimension is None:
            self.embedding_dimension = logits.shape[-1]
        return features


def top_k_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    top_k: int,
    cu_seqlens: Tensor | None = None,
    mask: Tensor | None = None,
    activation: Activation = "relu",
    pooling: Pooling = "max",
) -> Tensor:
    """Compute `lsr.kernels.head.splade_head` over the `top_k` largest logits of each token.

    Differentiable; tokens that tie for a maximum share its gradient. Logits are computed in chunks
    of tokens without a gradient, and those that count are then computed again with one.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    if mask is not None:
        hidden, cu_seqlens = pack(hidden, mask)
    if cu_seqlens is None:
        raise ValueError("give `cu_seqlens` with packed or `mask` with padded states")
    weight = weight.to(hidden.dtype)
    tokens, terms = _largest(hidden, weight, bias, top_k)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    logits = (hidden[tokens].to(wide) * weight[terms].to(wide)).sum(1)
    if bias is not None:
        logits = logits + bias[terms]
    n_texts = len(cu_seqlens) - 1
    texts = torch.repeat_interleave(
        torch.arange(n_texts, device=hidden.device), cu_seqlens.diff().to(hidden.device)
    )
    return _pool(logits, texts[tokens], terms, (n_texts, len(weight)), activation, pooling)


@torch.no_grad()
def _largest(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, top_k: int
) -> tuple[Tensor, Tensor]:
    """Return token and term of each positive logit among the `top_k` largest of its token."""
    tokens, terms = [], []
    step = max(1, CHUNK // len(weight))
    for start in range(0, len(hidden), step):
        logits = torch.nn.functional.linear(
            hidden[start : start + step], weight, None if bias is None else bias.to(weight.dtype)
        )
        top = logits.topk(min(top_k, len(weight)), dim=1)
        rows, ranks = (top.values > 0).nonzero(as_tuple=True)
        tokens.append(rows + start)
        terms.append(top.indices[rows, ranks])
    if not tokens:
        none = torch.zeros(0, dtype=torch.long, device=hidden.device)
        return none, none
    return torch.cat(tokens), torch.cat(terms)


def _pool(
    logits: Tensor,
    texts: Tensor,
    terms: Tensor,
    shape: tuple[int, int],
    activation: Activation,
    pooling: Pooling,
) -> Tensor:
    """Activate logits, each of one token and term, and pool them by text: shape (B, V)."""
    values = activate(logits, activation)
    zeros = values.new_zeros(shape[0] * shape[1])
    places = texts * shape[1] + terms
    reduce = "amax" if pooling == "max" else "sum"
    return zeros.scatter_reduce(0, places, values, reduce).view(shape)
