"""Run a trunk without padding: a batch's tokens are packed in one row, each text attends to itself.

On a CPU nearly all of a trunk's work is in its linear layers, which cost as much for padding as for
tokens. sentence-transformers packs only for FlashAttention; this packs for PyTorch's attention.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lsr.encoders.private import attention_of

ATTENTION = "lsr_packed"
# Largest difference from the padded states, relative to the largest state, that rounding explains.
TOLERANCE = 1e-3


def leave_out_padding(transformer: Any) -> bool:
    """Make a sentence-transformers Transformer pass its model tokens without padding, in place.

    Its output is then flat, as with FlashAttention: `token_embeddings` of shape (1, N, D) for the N
    tokens of all texts, and `cu_seq_lens_q`, int32, shape (B + 1,). Weights and configuration do
    not change. The model must take positions, attend in both directions by PyTorch's attention, and
    give the same states packed and padded; other models are left unchanged. Batches on devices
    other than the CPU stay padded: packing has not been measured there.

    Returns:
        Whether the model was changed.
    """
    model = transformer.model
    if attention_of(model) != "sdpa" or getattr(model.config, "is_decoder", False):
        return False
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if "position_ids" not in parameters or not takes_any:
        return False
    model.set_attn_implementation(ATTENTION)
    if not _same_states(model):
        model.set_attn_implementation("sdpa")
        return False
    transformer.forward = partial(_forward, transformer)
    return True


@torch.no_grad()
def _same_states(model: Any) -> bool:
    """Whether two texts, one twice as long as the other, get the same states packed and padded."""
    training = model.training
    model.eval()
    device = model.get_input_embeddings().weight.device
    # Longer than the window of local attention, if there is one.
    window = getattr(model.config, "sliding_window", None) or 8
    length = min(2 * window, model.config.max_position_embeddings // 2)
    padding = model.config.pad_token_id or 0
    ids = torch.arange(2 * length, device=device).remainder(7).add(padding + 1).repeat(2, 1)
    mask = torch.ones_like(ids)
    ids[1, length:], mask[1, length:] = padding, 0
    features = {"input_ids": ids, "attention_mask": mask}
    padded = model(**features).logits[mask.bool()]
    packed = model(**_packed(model, features)).logits[0]
    model.train(training)
    return bool((packed - padded).abs().max() < TOLERANCE * padded.abs().max())


def _forward(transformer: Any, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Do what Transformer.forward does for a masked LM, packed."""
    if features["input_ids"].device.type != "cpu":
        unpacked: dict[str, Any] = type(transformer).forward(transformer, features, **kwargs)
        return unpacked
    arguments = _packed(transformer.model, features)
    features["token_embeddings"] = transformer.model(**arguments, **kwargs).logits
    features["cu_seq_lens_q"] = arguments["cu_seq_lens_q"]
    return features


def _packed(model: Any, features: dict[str, Tensor]) -> dict[str, Any]:
    """Return the model's arguments for the tokens that the mask keeps, packed."""
    mask = features["attention_mask"].bool()
    lengths = mask.sum(dim=1)
    counted = lengths.new_zeros(len(lengths) + 1, dtype=torch.int32)
    counted[1:] = lengths.cumsum(0)
    positions = (mask.cumsum(1) - 1)[mask][None] + _first_position(model)
    arguments: dict[str, Any] = {
        name: features[name][mask][None]
        for name in ("input_ids", "token_type_ids")
        if name in features
    }
    return {**arguments, "position_ids": positions, "cu_seq_lens_q": counted}


def _first_position(model: Any) -> int:
    """Return the position of a text's first token: 0, or padding_idx + 1 as in RoBERTa."""
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        padding = getattr(module, "padding_idx", None)
        if isinstance(table, torch.nn.Embedding) and isinstance(padding, int):
            return padding + 1
    return 0


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend within each of the packed texts, or as usual if the texts are padded.

    Args:
        module: the layer.
        query: shape (1, heads, N, D / heads).
        key: the same shape.
        value: the same shape.
        attention_mask: for padded texts.
        **kwargs: `cu_seq_lens_q` for packed texts; `sliding_window`: tokens at this distance or
            farther do not attend to each other.
    """
    counted = kwargs.pop("cu_seq_lens_q", None)
    if counted is None:
        states, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return states, None
    lengths = counted.diff()
    sizes: list[int] = lengths.tolist()
    # Only attention is padded: it costs little compared with the linear layers.
    texts = ([*torch.split(part[0].transpose(0, 1), sizes)] for part in (query, key, value))
    parts = (pad_sequence(of_part, batch_first=True).transpose(1, 2) for of_part in texts)
    places = torch.arange(max(sizes), device=lengths.device)
    mask = (places < lengths[:, None])[:, None, None]
    if kwargs.get("sliding_window") is not None:
        mask = mask & ((places[:, None] - places).abs() < kwargs["sliding_window"])
    states, _ = sdpa_attention_forward(module, *parts, mask, **kwargs)
    real = [row[:size] for row, size in zip(states, sizes, strict=True)]
    return torch.cat(real)[None], None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
