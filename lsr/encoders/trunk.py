"""The trunk all-MiniLM-L6-v2 and a linear head over its token states."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import AutoModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import logging

from lsr.encoders.load import TRUNK_LENGTH, trunk_path
from lsr.encoders.masked_lm import MaskedLMEncoder


class TrunkWithHead(torch.nn.Module):
    """A masked LM whose decoder follows the trunk directly, without a transform.

    All instances in a process share one trunk; each has the calibration of its own index. With the
    stock head of `lm_head.graft_head`, which is part of its model, each index would need a copy of
    the trunk.
    """

    def __init__(self, trunk: Any, decoder: torch.nn.Linear) -> None:
        super().__init__()
        self.trunk = trunk
        self.decoder = decoder

    def get_output_embeddings(self) -> torch.nn.Linear:
        """Return the layer from token states (D) to logits (V)."""
        return self.decoder

    def forward(self, input_ids: torch.Tensor, **kwargs: torch.Tensor) -> Any:
        """Return logits, shape (batch, length, V)."""
        states = self.trunk(input_ids=input_ids, **kwargs).last_hidden_state
        return MaskedLMOutput(logits=self.decoder(states))


@cache
def load_trunk() -> Any:
    """Return the pretrained trunk, which the process loads once."""
    logging.disable_progress_bar()
    return AutoModel.from_pretrained(trunk_path()).eval()


def head(scale: np.ndarray, shift: np.ndarray) -> torch.nn.Linear:
    """Make the linear layer logit_t = scale_t · (h·E_t) + shift_t, E the trunk's word embeddings.

    Args:
        scale: float32, shape (V,).
        shift: float32, shape (V,); −inf for a term that is never active.
    """
    embeddings = load_trunk().get_input_embeddings().weight.detach()
    decoder = torch.nn.Linear(embeddings.shape[1], len(embeddings))
    decoder.weight.data = embeddings * torch.from_numpy(scale)[:, None]
    decoder.bias.data = torch.from_numpy(shift)
    return decoder


def head_encoder(
    tokenizer: Any, decoder: torch.nn.Linear, dtype: torch.dtype | None = None
) -> MaskedLMEncoder:
    """Make the SPLADE encoder of the trunk with this head; for `dtype` see MaskedLMEncoder."""
    model = TrunkWithHead(load_trunk(), decoder)
    return MaskedLMEncoder(model, tokenizer, max_length=TRUNK_LENGTH, dtype=dtype)
