"""The LM head of a masked LM: found, grafted onto a trunk that has none, and fitted to a tokenizer.

A head is a transform (dense layer, activation, LayerNorm) and a decoder whose weight is tied to the
word embeddings; only the decoder's bias is its own. Everything here stays within that architecture,
so that what is saved needs nothing of ours.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn

# The bias of terms that must never be active. Their logits stay far below 0, so that relu passes
# them no gradient: no training step moves it. Not −∞, which sentence-transformers multiplies by
# the mask of the padding (−∞ · 0 is no number); bfloat16 and float16 both hold it.
NEVER = -1e4
# What a GELU must be given, beyond the spread of its inputs, to return them as they are: at 5,
# gelu(x) = x · Φ(x) is short of x by 1.4e-6.
LINEAR = 5.0


def trunk_of(model: nn.Module) -> nn.Module:
    """The part of a masked LM from the embeddings to the last token states.

    Raises:
        ValueError: the model names no such part.
    """
    trunk = getattr(model, getattr(model, "base_model_prefix", ""), None)
    if not isinstance(trunk, nn.Module) or trunk is model:
        raise ValueError(f"{type(model).__name__} has no trunk that is apart from its head")
    return trunk


def decoder_of(model: Any) -> nn.Linear:
    """The layer from transformed token states, D wide, to the logits of V terms.

    Raises:
        ValueError: there is none, or it is no plain torch.nn.Linear with a bias.
    """
    decoder = model.get_output_embeddings()
    if type(decoder) is not nn.Linear or decoder.bias is None:
        raise ValueError(
            f"the decoder of {type(model).__name__} must be a torch.nn.Linear with a bias, which "
            f"holds what the calibration finds, got {decoder!r}"
        )
    return decoder


def transform_of(model: Any) -> tuple[nn.Linear, nn.LayerNorm]:
    """Dense layer and LayerNorm of a masked LM's head.

    Raises:
        ValueError: the head has none, or several, or no decoder with a bias.
    """
    decoder = decoder_of(model)
    width = decoder.in_features
    trunk = set(trunk_of(model).modules())
    head = [part for part in model.modules() if part not in trunk and part is not decoder]
    dense = [p for p in head if isinstance(p, nn.Linear) and p.weight.shape == (width, width)]
    norms = [p for p in head if isinstance(p, nn.LayerNorm) and p.normalized_shape == (width,)]
    if len(dense) != 1 or len(norms) != 1:
        raise ValueError(
            f"the head of {type(model).__name__} must have one dense layer ({width}, {width}) and "
            f"one LayerNorm ({width}), got {len(dense)} and {len(norms)}"
        )
    return dense[0], norms[0]


@torch.no_grad()
def graft_head(model: Any) -> None:
    """Make a head, new and random, compute h·E_t: h the trunk's token states, E its embeddings.

    The trunk's last LayerNorm gives h = γ·x + β, where x has mean 0 and variance 1. γ and β move
    into the head: the trunk gives x; the dense layer x + c, by the identity matrix; the activation
    leaves that as it is, since |x_i| < √D and c = √D + 5; the head's LayerNorm takes c away and
    gives γ·x + β. Nothing is divided by γ, which may be 0.

    Args:
        model: a masked LM whose trunk is pretrained and whose decoder is tied to its embeddings;
            changed in place.

    Raises:
        ValueError: the architecture does not allow it, with the reason; the model is then spoilt.
    """
    name = type(model).__name__
    reason = f"no head can be grafted onto the trunk of {name}: "
    decoder = decoder_of(model)
    embeddings = model.get_input_embeddings().weight
    if decoder.weight is not embeddings:
        raise ValueError(reason + "its decoder is not tied to its word embeddings")
    trunk = trunk_of(model)
    try:
        dense, norm = transform_of(model)
    except ValueError as error:
        raise ValueError(reason + str(error)) from error
    last = [part for part in trunk.modules() if isinstance(part, nn.LayerNorm)][-1:]
    if not last or last[0].normalized_shape != norm.normalized_shape:
        raise ValueError(reason + "the trunk does not end in a LayerNorm as wide as the head")
    if dense.bias is None:
        raise ValueError(
            reason + "the dense layer of its head has no bias (where the configuration has "
            "`classifier_bias`, set it)"
        )
    if (last[0].bias is None) != (norm.bias is None):
        raise ValueError(reason + "only one of its last LayerNorm and its head's has a bias")
    model.eval()
    probe = torch.arange(min(64, len(embeddings)), device=embeddings.device)[None]
    expected = trunk(input_ids=probe).last_hidden_state @ embeddings.T

    dense.weight.copy_(torch.eye(len(dense.weight)))
    dense.bias.fill_(math.sqrt(len(dense.bias)) + LINEAR)
    norm.weight.copy_(last[0].weight)
    last[0].weight.fill_(1.0)
    if norm.bias is not None:
        norm.bias.copy_(last[0].bias)
        last[0].bias.zero_()
    decoder.bias.zero_()
    change = (model(input_ids=probe).logits - expected).abs().max() / expected.std()
    if not change < 1e-3:
        raise ValueError(
            reason + f"with its head's transform an identity, logits change by {float(change):.2g} "
            "of their deviation, at most 0.001 is allowed (its last LayerNorm is not what the "
            "head gets, or its activation is no identity for large values)"
        )


def keep_offset_exact(model: Any) -> None:
    """Let the dense layer of a grafted head compute in float32 under autocast, in place.

    bfloat16 has steps of 1/8 at c = √D + 5: in it, the states behind that offset would lose what
    distinguishes them (5 % of the weights of all-MiniLM-L6-v2, where 1.5 % is usual). Other heads
    are left alone. An attribute of the instance: what is saved does not change.
    """
    try:
        dense, _ = transform_of(model)
    except ValueError:
        return
    if dense.bias is not None and float(dense.bias.detach().mean()) > LINEAR:
        dense.forward = partial(_in_float32, dense)  # type: ignore[method-assign]


def _in_float32(layer: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    with torch.autocast(states.device.type, enabled=False):
        return nn.functional.linear(states.float(), layer.weight.float(), layer.bias.float())


@torch.no_grad()
def silence(model: Any, ids: Any) -> None:
    """Keep terms out of all vectors, for good: their decoder bias becomes `NEVER`.

    Args:
        model: a masked LM with a bias in its decoder.
        ids: of the terms, integers.
    """
    decoder_of(model).bias[torch.as_tensor(ids)] = NEVER


def trim_head(model: Any, n_terms: int) -> None:
    """Cut rows of the head that stand for no term of the tokenizer (padding to a multiple of 64).

    Raises:
        ValueError: the head has fewer than `n_terms` rows.
    """
    rows = len(decoder_of(model).weight)
    if rows < n_terms:
        raise ValueError(
            f"the checkpoint's head has {rows} terms but its tokenizer {n_terms}: they do not "
            "belong together"
        )
    if rows > n_terms:
        model.resize_token_embeddings(n_terms)
