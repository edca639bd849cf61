"""Losses of masked tokens, from logits at the masked positions alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lsr.kernels.head import splade_head
from lsr.training.masking import IGNORED
from lsr.training.regularisers import Flops


def masked_cross_entropy(states: Tensor, decoder: torch.nn.Linear, labels: Tensor) -> Tensor:
    """The mean of −log softmax(decoder(h_i))[label_i] over the positions i that have a label.

    The same as the loss of transformers' masked LMs, but 0 where no position has a label.

    Args:
        states: the decoder's input, shape (B, T, D).
        decoder: from states to V logits.
        labels: int64, shape (B, T); IGNORED where there is none.
    """
    labelled = labels != IGNORED
    logits = torch.nn.functional.linear(states[labelled], decoder.weight, decoder.bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = torch.nn.functional.cross_entropy(logits, labels[labelled], reduction="sum")
    return total / labelled.sum().clamp_min(1)


class MaskedPrediction:
    """The masked-LM objective of a model whose decoder was taken out (`take_decoder_out`).

    With `next_token`, MNTP (LLM2Vec, arXiv 2404.05961, section 2.1): the state at position i − 1
    predicts the masked token i, as a causal LM was pretrained to.

    With `flops_weight` λ, MLM + FLOPS (arXiv 2301.10444): λ · FLOPS of the SPLADE vectors that the
    same pass gives, which are those of the masked texts. Special tokens are no terms.
    """

    def __init__(
        self,
        decoder: torch.nn.Linear,
        *,
        next_token: bool = False,
        flops_weight: float = 0.0,
        special: np.ndarray | None = None,
    ) -> None:
        """The objective over `decoder`'s logits.

        Args:
            decoder: of the model that the objective is called with.
            next_token: whether position i − 1 predicts token i.
            flops_weight: λ; 0 for no regulariser.
            special: ids that are never terms, int64.
        """
        self._decoder, self._next_token = decoder, next_token
        self._flops_weight, self._flops = flops_weight, Flops()
        self._special = torch.from_numpy(np.empty(0, np.int64) if special is None else special)

    def __call__(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parts of the loss by name, scalars to be summed; `batch` as from a `Masker`."""
        mask, labels = batch["attention_mask"], batch["labels"]
        states = model(input_ids=batch["input_ids"], attention_mask=mask).logits
        if self._next_token:
            return {"mntp": masked_cross_entropy(states[:, :-1], self._decoder, labels[:, 1:])}
        parts = {"mlm": masked_cross_entropy(states, self._decoder, labels)}
        if self._flops_weight:
            vectors = splade_head(states, self._decoder.weight, self._decoder.bias, mask=mask)
            vectors = vectors.index_fill(1, self._special.to(vectors.device), 0.0)
            # Sums over 30,000 terms are in float32.
            with torch.autocast(vectors.device.type, enabled=False):
                parts["flops"] = self._flops_weight * self._flops(vectors)
        return parts
