"""Where the weights of a decoder LLM begin: a shift of its logits, before the first step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from sentence_transformers.util import batch_to_device
from torch import Tensor

from lsr.encoders.decoder_modules import Decoder, DecoderPooling
from lsr.encoders.folding import Fold
from lsr.kernels.head import splade_head

# Texts that the shift is chosen on, and texts in one pass.
SAMPLE = 128
BATCH = 8


@torch.no_grad()
def choose_shift(
    decoder: Decoder, pooling: DecoderPooling, fold: Fold | None, texts: Sequence[str], terms: int
) -> None:
    """Set scale and bias so that `terms` output terms are active in a text on average.

    bias_v = −scale · (μ_v + c): a term is active where its logit is c above its mean μ_v over the
    tokens of the texts, much as pointwise mutual information has it. Deviations are not divided by:
    tokens that a pretraining hardly saw have small ones, and would be noise blown up. The scale
    makes the surplus of active terms 1 on average, to the next power of two, by which states in 16
    bits multiply exactly.

    Args:
        decoder: on the device of the others.
        pooling: of the decoder; changed in place.
        fold: what comes after it, if anything.
        texts: of the collection; up to 128 of them are read.
        terms: at least 1.

    Raises:
        ValueError: no texts, or fewer terms than that could be active.
    """
    states, cu_seqlens = _states(decoder, texts)
    weight = decoder.model.get_output_embeddings().weight.detach()[: pooling.n_terms]
    mean = (weight @ states.mean(0).to(weight.dtype)).float()
    pooled = splade_head(states.to(weight.dtype), weight, -mean, cu_seqlens=cu_seqlens)
    pooled[:, pooling.silent] = 0.0
    surplus = (pooled if fold is None else fold.fold(pooled)).expm1().flatten()
    wanted = terms * (len(cu_seqlens) - 1)
    if wanted >= int((surplus > 0).sum()):
        raise ValueError(
            f"`calibrate_terms` must be below {int((surplus > 0).sum()) // (len(cu_seqlens) - 1)}, "
            f"the terms of a text that are ever above their mean, got {terms}"
        )
    largest = surplus.topk(wanted + 1).values
    threshold = float(largest[-2:].mean())
    pooling.scale = 2.0 ** -round(math.log2(float(largest[:-1].mean()) - threshold))
    pooling.bias.copy_(-pooling.scale * (mean + threshold))


def _states(decoder: Decoder, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Pooled tokens' states, packed, float32, shape (total tokens, D), and cu_seqlens, (n + 1,)."""
    step = max(1, len(texts) // SAMPLE)
    sample = sorted(texts[::step][:SAMPLE], key=len)
    states, lengths = [], [torch.zeros(1, dtype=torch.long)]
    decoder.eval()
    for start in range(0, len(sample), BATCH):
        features = decoder.preprocess(sample[start : start + BATCH], task="document")
        features = batch_to_device(features, decoder.model.device)
        mask = features["pooling_mask"].bool()
        states.append(decoder(features)["token_embeddings"][mask].float())
        lengths.append(mask.sum(1).cpu())
    if not states or not len(packed := torch.cat(states)):
        raise ValueError("a head is calibrated on texts, but `texts` holds no token")
    return packed, torch.cat(lengths).cumsum(0).to(packed.device)
