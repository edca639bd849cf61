"""Inference-free queries: one weight per token, from a corpus or a file, fixed or learned."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
from transformers import TrainerCallback

from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.tokens import special_ids

# A regular expression for the name of learned query weights among a model's parameters, for the
# training argument learning_rate_mapping={QUERY_WEIGHTS: 1e-3}.
QUERY_WEIGHTS = r"\.sub_modules\.query\.0\.weight$"


def corpus_idf(tokenizer: Any, batches: Iterable[Sequence[str]]) -> np.ndarray:
    """Return the IDF of every token in a corpus, which is read once; float32, shape (V,).

    See `lsr.idf.inverse_document_frequency`: tokens that no document holds get the
    largest value. Special tokens get 0.

    Raises:
        ValueError: no batch holds a text with a token.
    """
    idf = LexicalEncoder.fit(tokenizer, batches).idf.copy()
    idf[special_ids(tokenizer)] = 0.0
    return idf


def static_queries(
    tokenizer: Any, weights: np.ndarray, max_length: int, *, learned: bool = False
) -> SparseStaticEmbedding:
    """Make the stock module that encodes a query as its tokens' weights, however often they occur.

    Args:
        tokenizer: fast, of V terms; it is copied.
        weights: shape (V,), finite and not negative; those of special tokens are replaced by 0.
        max_length: how many tokens of a query are read.
        learned: whether training may change the weights.

    Raises:
        ValueError: weights of another shape, negative or not finite.
    """
    values = np.array(weights, dtype=np.float32)
    if values.shape != (len(tokenizer),):
        raise ValueError(
            f"query weights must have shape ({len(tokenizer)},), one per term of the tokenizer, "
            f"got {values.shape}"
        )
    values[special_ids(tokenizer)] = 0.0
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(wrong):
        term = tokenizer.convert_ids_to_tokens(int(wrong[0]))
        raise ValueError(
            f"query weights must be finite and not negative, got {values[wrong[0]]} for {term!r}"
        )
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = max_length
    return SparseStaticEmbedding(tokenizer, weight=torch.from_numpy(values), frozen=not learned)


class NonNegativeQueryWeights(TrainerCallback):  # type: ignore[misc]
    """Clamps learned query weights to [0, ∞) after every optimiser step, special tokens' to 0.

    A term of negative weight would lower the scores of documents, which the index does not support.
    """

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Clamp the weights; the trainer calls this after the optimiser's step."""
        for module in model.modules():
            if isinstance(module, SparseStaticEmbedding) and module.weight.requires_grad:
                weights = module.weight.data
                weights.clamp_(min=0.0)
                weights[torch.as_tensor(special_ids(module.tokenizer))] = 0.0
