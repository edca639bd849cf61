"""Put the fused head into stock models: hidden states go directly to the pooled vector."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lsr.encoders.packing import leave_out_padding
from lsr.kernels.head import splade_head


def fuse(model: Any) -> Any:
    """Make a stock sentence-transformers SPLADE compute its vectors by the fused head, in place.

    For encoding and for training with SparseEncoderTrainer. Only the modules' forward methods
    change: classes, weights and configuration stay, so that saving writes the stock layout.

    Args:
        model: a SparseEncoder of a masked LM and SpladePooling (or our TopKPooling), also inside
            a Router; any modules may follow.

    Returns:
        The same model.

    Raises:
        ValueError: the model cannot be fused; the message says why. It is then unchanged.
    """
    pairs = _splade_pairs(model)
    # Two poolings may follow the same masked LM.
    transformers = {id(transformer): transformer for transformer, _ in pairs}
    decoders: dict[int, torch.nn.Linear] = {}
    try:
        for number, transformer in transformers.items():
            decoders[number] = take_decoder_out(transformer.model)
    except ValueError:
        for decoder in decoders.values():
            put_decoder_back(decoder)
        raise
    for transformer, pooling in pairs:
        pooling.forward = partial(_pool, pooling, decoders[id(transformer)])
    for transformer in transformers.values():
        leave_out_padding(transformer)
    return model


def take_decoder_out(model: Any) -> torch.nn.Linear:
    """Make a masked LM return its decoder's input in place of the logits; return the decoder.

    The decoder stays in the model, with its weights, but passes its input on unchanged.

    Raises:
        ValueError: there is no such decoder, or it is not the model's last operation.
    """
    decoder = model.get_output_embeddings()
    if decoder is None:
        raise ValueError(f"{type(model).__name__} has no LM head")
    if type(decoder) is not torch.nn.Linear:
        raise ValueError(
            f"the decoder of {type(model).__name__} must be a plain torch.nn.Linear, got "
            f"{type(decoder).__name__}"
        )
    if decoder.forward is _states:
        raise ValueError(f"{type(model).__name__} is fused already")
    training = model.training
    model.eval()
    probe = torch.zeros((1, 1), dtype=torch.long, device=decoder.weight.device)
    with torch.no_grad():
        expected = model(input_ids=probe).logits
        decoder.forward = _states  # type: ignore[method-assign, assignment]
        states = model(input_ids=probe).logits
        fits = states.shape[-1] == decoder.in_features and torch.allclose(
            torch.nn.functional.linear(states, decoder.weight, decoder.bias),
            expected,
            rtol=1e-4,
            atol=1e-4,
        )
    model.train(training)
    if not fits:
        put_decoder_back(decoder)
        raise ValueError(
            f"{type(model).__name__} changes the logits after its output embeddings: the fused "
            "head cannot replace them"
        )
    return decoder


def put_decoder_back(decoder: torch.nn.Linear) -> None:
    """Undo `take_decoder_out`."""
    del decoder.forward


def _states(hidden: Tensor) -> Tensor:
    """The forward method of a decoder that was taken out."""
    return hidden


def _pool(pooling: Any, decoder: torch.nn.Linear, features: dict[str, Any]) -> dict[str, Any]:
    """Compute the decoder and then SpladePooling.forward or TopKPooling.forward, fused."""
    hidden = features["token_embeddings"]
    head: Any = splade_head
    if hasattr(pooling, "top_k_per_token"):
        from lsr.encoders.top_k import top_k_head

        head = partial(top_k_head, top_k=pooling.top_k_per_token)
    given = (
        # Flattened inputs, shape (1, total tokens, D).
        {"cu_seqlens": features["cu_seq_lens_q"]}
        if "cu_seq_lens_q" in features
        else {"mask": features["attention_mask"]}
    )
    features["sentence_embedding"] = head(
        hidden[0] if "cu_seqlens" in given else hidden,
        decoder.weight,
        decoder.bias,
        activation=pooling.activation_function,
        pooling=pooling.pooling_strategy,
        **given,
    )
    if pooling.embedding_dimension is None:
        pooling.embedding_dimension = decoder.out_features
    return features


def _splade_pairs(model: Any) -> list[tuple[Any, Any]]:
    """Return each pair of a masked LM and the pooling that follows it, once."""
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    from lsr.encoders.top_k import TopKPooling

    if len(model) == 1 and isinstance(model[0], Router):
        routes = [list(route) for route in model[0].sub_modules.values()]
    else:
        routes = [list(model)]
    pairs: list[tuple[Any, Any]] = []
    for modules in routes:
        names = [type(module).__name__ for module in modules]
        poolings = [
            i for i, module in enumerate(modules) if type(module) in (SpladePooling, TopKPooling)
        ]
        if not poolings:
            continue
        # Modules after the pooling are allowed, since they get the same vectors as before.
        if poolings != [1] or not isinstance(modules[0], Transformer):
            raise ValueError(f"expected a masked LM and then SpladePooling, got {names}")
        if not any(pair[1] is modules[1] for pair in pairs):
            pairs.append((modules[0], modules[1]))
    if not pairs:
        raise ValueError(f"{type(model).__name__} has no SpladePooling: nothing to fuse")
    return pairs
