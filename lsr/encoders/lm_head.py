"""Find the LM head of a masked LM, graft one onto a trunk that has none, and fit its vocabulary.

A head is a transform (dense layer, activation, LayerNorm) and a decoder whose weight is tied to the
word embeddings; only the decoder's bias is its own. Everything here stays within that architecture,
so that a saved model opens without lsr.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn

# The bias of terms that must never be active. Their logits stay far below 0, so that relu passes no
# gradient and no training step changes the bias. It is not −∞, since sentence-transformers
# multiplies logits by the padding mask and −∞ · 0 is NaN; bfloat16 and float16 can both hold it.
NEVER = -1e4
# GELU is nearly the identity on inputs of at least this: at 5, gelu(x) = x · Φ(x) is below x by
# 1.4e-6.
LINEAR = 5.0


def trunk_of(model: nn.Module) -> nn.Module:
    """Return the part of a masked LM from the embeddings to the last token states.

    Raises:
        ValueError: the model has no such part under its `base_model_prefix`.
    """
    trunk = getattr(model, getattr(model, "base_model_prefix", ""), None)
    if not isinstance(trunk, nn.Module) or trunk is model:
        raise ValueError(f"{type(model).__name__} has no trunk that is separate from its head")
    return trunk


def decoder_of(model: Any) -> nn.Linear:
    """Return the layer from transformed token states (D) to the logits of the terms (V).

    Raises:
        ValueError: there is none, or it is not a plain torch.nn.Linear with a bias.
    """
    decoder = model.get_output_embeddings()
    if type(decoder) is not nn.Linear or decoder.bias is None:
        raise ValueError(
            f"the decoder of {type(model).__name__} must be a torch.nn.Linear with a bias, in "
            f"which the calibration is stored, got {decoder!r}"
        )
    return decoder


def transform_of(model: Any) -> tuple[nn.Linear, nn.LayerNorm]:
    """Return the dense layer and the LayerNorm of a masked LM's head.

    Raises:
        ValueError: the head has none or several of them, or no decoder with a bias.
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
    """Set a newly initialised head to compute h·E_t: h the trunk's token states, E its embeddings.

    The trunk's last LayerNorm gives h = γ·x + β, where x has mean 0 and variance 1. γ and β move
    into the head: the trunk then returns x; the dense layer, an identity matrix, returns x + c; the
    activation does not change that, since |x_i| < √D and c = √D + 5; the head's LayerNorm removes c
    and returns γ·x + β. Nothing is divided by γ, which may be 0.

    Args:
        model: a masked LM whose trunk is pretrained and whose decoder is tied to its embeddings;
            changed in place.

    Raises:
        ValueError: the architecture does not allow it; the message says why. Do not use the model
            after this.
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
            reason + f"with the identity as transform, logits change by {float(change):.2g} "
            "of their deviation, at most 0.001 is allowed (the head's input is not the output of "
            "its last LayerNorm, or its activation is not the identity for large values)"
        )


def keep_offset_exact(model: Any) -> None:
    """Make the dense layer of a grafted head compute in float32 under autocast, in place.

    bfloat16 has steps of 1/8 near c = √D + 5, so that states with that offset would lose precision
    (5 % of the weights of all-MiniLM-L6-v2, where 1.5 % is usual). Other heads are not changed. The
    change is an attribute of the instance, so that the saved model stays the same.
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
        ids: the terms' ids, integers.
    """
    decoder_of(model).bias[torch.as_tensor(ids)] = NEVER


def trim_head(model: Any, n_terms: int) -> None:
    """Remove the head's rows beyond the tokenizer's terms (padding to a multiple of 64).

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
