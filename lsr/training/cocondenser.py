"""coCondenser: pretraining that puts the content of the whole text into BERT's [CLS] state.

Luyu Gao and Jamie Callan, Unsupervised Corpus Aware Language Model Pre-training for Dense Passage
Retrieval, arXiv 2108.05540; the head is that of Condenser, arXiv 2104.08253.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask

from lsr.encoders.private import initialise
from lsr.training.masked_prediction import masked_cross_entropy
from lsr.training.processes import gather_rows

HEAD_LAYERS = 2
# Architectures with BERT's layers, and where their transform and decoder are.
PREDICTION_HEADS = {
    "bert": "cls",
    "camembert": "lm_head",
    "roberta": "lm_head",
    "xlm-roberta": "lm_head",
}


class Cocondenser:
    """Both masked-LM losses of Condenser, and the contrastive one between spans of one text.

    L = MLM(head([CLS] of the last layer, other tokens of layer `early`)) + MLM(last layer)
      + contrastive([CLS] of the last layer), each the mean over its tokens or spans (section 3.2).

    The head, two layers of the model's own kind, becomes `model.condenser`, so that it is trained
    and kept in checkpoints; `drop_head` takes it out.
    """

    def __init__(self, model: Any, decoder: torch.nn.Linear, early: int | None = None) -> None:
        """Give `model` the head.

        Args:
            model: a masked LM with BERT's layers, whose `decoder` was taken out.
            decoder: from states to logits.
            early: the layer whose token states the head gets, from 1 to all but the last; None
                for half of the layers (6 of 12 in the paper).

        Raises:
            ValueError: another architecture, or no such layer.
        """
        self._encoder, self._decoder = model, decoder
        self._prediction_head = getattr(model, _head_name(model))
        n_layers = model.config.num_hidden_layers
        self._early = n_layers // 2 if early is None else early
        if not 1 <= self._early < n_layers:
            raise ValueError(
                f"`early_layer` must be in [1, {n_layers - 1}] for a model of {n_layers} layers, "
                f"got {self._early}"
            )
        layer = type(model.base_model.encoder.layer[0])
        model.condenser = nn.ModuleList([layer(model.config) for _ in range(HEAD_LAYERS)])
        initialise(model, model.condenser)
        model.condenser.to(decoder.weight.device, decoder.weight.dtype)

    def __call__(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parts of the loss by name, scalars to be summed.

        Args:
            model: the one it was made with, or a wrapper of it for distributed training.
            batch: as from a `Masker`; texts 2i and 2i + 1 are spans of one text.
        """
        mask, labels = batch["attention_mask"], batch["labels"]
        output = model(input_ids=batch["input_ids"], attention_mask=mask, output_hidden_states=True)
        late, early = output.hidden_states[-1], output.hidden_states[self._early]
        states = torch.cat([late[:, :1], early[:, 1:]], 1)
        attention = create_bidirectional_mask(self._encoder.config, states, mask)
        for layer in self._encoder.condenser:
            states = layer(states, attention)
        return {
            "head_mlm": masked_cross_entropy(self._prediction_head(states), self._decoder, labels),
            "late_mlm": masked_cross_entropy(output.logits, self._decoder, labels),
            "contrastive": span_contrast(gather_rows(late[:, 0])),
        }


def _head_name(model: Any) -> str:
    kind = model.config.model_type
    if kind not in PREDICTION_HEADS:
        raise ValueError(
            f"coCondenser needs a model with BERT's layers: one of "
            f"{', '.join(PREDICTION_HEADS)}, got {kind!r} ({type(model).__name__})"
        )
    return PREDICTION_HEADS[kind]


def drop_head(model: Any) -> None:
    """Remove the head that `Cocondenser` added."""
    del model.condenser


def span_contrast(states: Tensor) -> Tensor:
    """The mean over i of −log exp(h_i·h_i') / Σ_{j ≠ i} exp(h_i·h_j), i' the span beside i.

    Dot products at temperature 1, as in the paper (section 3.2), in float32 also under autocast.

    Args:
        states: [CLS] states, shape (2n, D), n ≥ 2; rows 2i and 2i + 1 are spans of one text.
    """
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    with torch.autocast(states.device.type, enabled=False):
        similarities = states @ states.T
    similarities = similarities.masked_fill(
        torch.eye(len(states), dtype=torch.bool, device=states.device), -torch.inf
    )
    beside = torch.arange(len(states), device=states.device) ^ 1
    return torch.nn.functional.cross_entropy(similarities, beside)
