"""Calibration of a head: the threshold of its logits that leaves a given number of active terms.

Before training as a SPLADE head, an LM head makes thousands of terms active in every text, or none:
RoBERTa's logits are all far above 0. Then the first steps diverge, or relu passes no gradient.

All functions here measure how far a term's logit h·E_t is above its mean μ_t over the tokens of
some texts, and find the threshold that leaves the wanted number of terms. They apply it
differently: a masked LM keeps its tied decoder (`calibrate`), the `grafted` encoder divides each
term by its own deviation σ_t (lsr/encoders/graft.py), and a decoder LLM gets a shift
(`choose_shift`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lsr.encoders.fuse import put_decoder_back, take_decoder_out
from lsr.encoders.lm_head import decoder_of, transform_of
from lsr.encoders.tokens import special_ids
from lsr.kernels.head import splade_head

if TYPE_CHECKING:
    from lsr.encoders.decoder_modules import Decoder, DecoderPooling
    from lsr.encoders.folding import Fold

# Texts that a head is calibrated on, drawn from those given. A decoder LLM gets fewer, in smaller
# passes.
SAMPLE = 256
DECODER_SAMPLE, DECODER_BATCH = 128, 8
# Texts in one pass, and how many deviations below its mean a term's largest logit may lie.
BATCH = 16
LOWEST = 20.0
# Largest share of own terms that is active without expansion: the last ones would need a very low
# threshold.
OWN = 0.9


class Calibration(NamedTuple):
    """The scale and biases of calibrated logits: scale · h·E_t + bias_t."""

    scale: float
    bias: Tensor  # float32, shape (V,)


def fit_calibration(
    states: Tensor,
    cu_seqlens: Tensor,
    weight: Tensor,
    terms: float,
    *,
    excluded: Sequence[int] = (),
    own: Tensor | None = None,
    rescale: bool = True,
) -> Calibration:
    """Return the scale and the biases with which `terms` terms of a text are active on average.

    With μ_t and σ_t, mean and deviation of h·E_t over the tokens:

        bias_t = −scale · (μ_t + θ·σ_t),    scale = 1 / median_t σ_t, or 1

    A term is active if its logit is more than θ deviations above its mean. The decoder stays tied:
    only its bias is its own.

    Args:
        states: packed token states, as the decoder gets them, shape (total tokens, D).
        cu_seqlens: where each text begins and the last ends, integer, shape (n + 1,).
        weight: the decoder's, shape (V, D).
        terms: mean active terms of a text, > 0.
        excluded: ids of terms that are never active; do not use their biases.
        own: the tokens' ids, integer, shape (total tokens,), if only terms that a text holds can be
            active in it; at most 9 in 10 of those will be.
        rescale: whether logits may be scaled; if not, `scale` is 1.

    Raises:
        ValueError: `terms` is not between 0 and the number of terms, or logits do not vary.
    """
    states, weight = states.float(), weight.detach().float()
    n_texts, n_terms = len(cu_seqlens) - 1, len(weight)
    possible = n_terms - len(excluded)
    if not 0 < terms < possible:
        raise ValueError(
            f"`terms` must be above 0 and below the {possible} terms of the vocabulary, got {terms}"
        )
    if n_texts < 1:
        raise ValueError("a head is calibrated on texts, but there are none")
    mean, deviation = logit_statistics(states, weight)
    # Logits for θ = −LOWEST, low enough that those for every other θ follow from them.
    scaled = weight / deviation[:, None]
    offset = LOWEST - mean / deviation
    offset[torch.as_tensor(excluded, dtype=torch.long)] = -torch.inf
    wanted = round(terms * n_texts)
    there = 0

    def own_terms(pooled: Tensor, bounds: Tensor) -> Tensor:
        nonlocal there
        if own is not None:
            texts = torch.arange(len(pooled), device=own.device).repeat_interleave(bounds.diff())
            ids = own[int(bounds[0]) : int(bounds[-1])]
            pooled *= torch.zeros_like(pooled).index_put_((texts, ids), pooled.new_ones(()))
        there += int(pooled.count_nonzero())
        return pooled

    largest = largest_surpluses(states, cu_seqlens, scaled, offset, wanted, own_terms)
    if own is not None:
        wanted = min(wanted, int(OWN * there))
    # Halfway between the last logit that is active and the first that is not.
    threshold = float(largest[max(wanted - 1, 0) : wanted + 1].mean()) - LOWEST
    scale = 1 / float(deviation.median()) if rescale else 1.0
    return Calibration(scale, -scale * (mean + threshold * deviation))


def largest_surpluses(
    states: Tensor,
    cu_seqlens: Tensor,
    weight: Tensor,
    offset: Tensor,
    wanted: int,
    change: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the largest logits above 0 among all pairs of a text and a term.

    Args:
        states: packed token states, shape (total tokens, D).
        cu_seqlens: where each text begins and the last ends, integer, shape (n + 1,).
        weight: the head's, shape (V, D).
        offset: the head's bias, float32, shape (V,); −inf for terms that do not count.
        wanted: one less than the number of logits returned.
        change: maps the vectors of some texts, shape (b, V), and their part of `cu_seqlens` to the
            vectors that count.

    Returns:
        float32, descending, shape (wanted + 1,) or fewer if there are fewer pairs; 0 stands for
        logits that are not above 0.
    """
    largest = offset.new_zeros(0)
    for start in range(0, len(cu_seqlens) - 1, BATCH):
        bounds = cu_seqlens[start : start + BATCH + 1]
        part = states[int(bounds[0]) : int(bounds[-1])]
        pooled = splade_head(part, weight, offset, cu_seqlens=bounds - bounds[0])
        if change is not None:
            pooled = change(pooled, bounds)
        found = torch.cat([largest, pooled.reshape(-1)])
        largest = found.topk(min(wanted + 1, len(found))).values
    return largest.expm1()


def logit_statistics(states: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each term's logit h·E_t over tokens.

    No logits are computed: for states of mean m and covariance C, μ_t = E_t·m and σ_t² = E_t·C·E_t.

    Args:
        states: float32, shape (N, D).
        weight: float32, shape (V, D).

    Returns:
        Both float32, shape (V,); deviations are at least a thousandth of their median, so that
        dividing by them does not amplify the noise of a term whose logit never varies.

    Raises:
        ValueError: most logits do not vary.
    """
    covariance = torch.cov(states.T, correction=0).reshape(states.shape[1], -1)
    deviation = ((weight @ covariance) * weight).sum(1).clamp_min(0).sqrt()
    median = float(deviation.median())
    if not 0 < median < float("inf"):
        raise ValueError(
            f"the median deviation of the terms' logits over {len(states)} tokens must be positive "
            f"and finite, got {median}"
        )
    return weight @ states.mean(0), deviation.clamp_min(median / 1000)


@torch.no_grad()
def calibrate(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    terms: float,
    max_length: int,
    *,
    expansion: bool = True,
) -> None:
    """Change a head's LayerNorm and decoder bias so that `terms` terms are active on average.

    The scale goes into the LayerNorm before the decoder, if there is one; the shift replaces the
    decoder's bias. Architecture and tied weights do not change.

    Args:
        model: a masked LM whose last operation is a linear decoder with a bias; changed in place.
        tokenizer: its fast tokenizer.
        texts: like those that the model will encode; at most 256 are used, drawn with a fixed seed.
        terms: mean active terms of a text, > 0; special tokens do not count.
        max_length: how many tokens of a text are read.
        expansion: whether terms that a text does not hold count.

    Raises:
        ValueError: no texts, `terms` out of range, or a model that cannot be calibrated.
    """
    decoder = decoder_of(model)
    norm = _norm(model)
    if len(texts) > SAMPLE:
        texts = random.Random(0).sample(list(texts), SAMPLE)
    states, cu_seqlens, ids = token_states(model, tokenizer, texts, max_length)
    scale, bias = fit_calibration(
        states,
        cu_seqlens,
        decoder.weight,
        terms,
        excluded=special_ids(tokenizer).tolist(),
        own=None if expansion else ids,
        rescale=norm is not None,
    )
    decoder.bias.copy_(bias)
    if norm is not None:
        for parameter in norm.parameters():
            parameter.mul_(scale)


def _norm(model: Any) -> torch.nn.LayerNorm | None:
    """Return the LayerNorm before the decoder; None if the head has none."""
    try:
        return transform_of(model)[1]
    except ValueError:
        return None


@torch.no_grad()
def token_states(
    model: Any, tokenizer: Any, texts: Sequence[str], max_length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a masked LM's decoder inputs, packed, (total tokens, D), cu_seqlens, and token ids.

    Raises:
        ValueError: no texts, or the decoder is not the model's last operation.
    """
    if not len(texts):
        raise ValueError("a head is calibrated on texts, but there are none")
    decoder = take_decoder_out(model)
    training = model.training
    model.eval()
    # Sorted by length, so that batches hold less padding.
    texts = sorted(texts, key=len)
    states, ids, lengths = [], [], [torch.zeros(1, dtype=torch.long)]
    try:
        for start in range(0, len(texts), BATCH):
            tokens = tokenizer(
                texts[start : start + BATCH],
                truncation=True,
                max_length=max_length,
                padding=True,
                return_tensors="pt",
                return_token_type_ids=False,
            ).to(decoder.weight.device)
            mask = tokens["attention_mask"].bool()
            states.append(model(**tokens).logits[mask])
            ids.append(tokens["input_ids"][mask])
            lengths.append(mask.sum(1).cpu())
    finally:
        put_decoder_back(decoder)
        model.train(training)
    packed = torch.cat(states)
    return packed, torch.cat(lengths).cumsum(0).to(packed.device), torch.cat(ids)


@torch.no_grad()
def choose_shift(
    decoder: Decoder, pooling: DecoderPooling, fold: Fold | None, texts: Sequence[str], terms: int
) -> None:
    """Set a pooling's scale and bias so that `terms` output terms are active in a text on average.

    bias_v = −scale · (μ_v + c): a term is active if its logit is more than c above its mean μ_v
    over the tokens of the texts, similar to pointwise mutual information. Nothing is divided by
    deviations: tokens that were rare in pretraining have small ones, and their noise would be
    amplified. The scale makes the mean surplus of active terms about 1; it is a power of two, by
    which states in 16 bits are multiplied exactly.

    Args:
        decoder: on the same device as `pooling` and `fold`.
        pooling: the decoder's; changed in place.
        fold: the module that follows it, or None.
        texts: from the collection; at most 128 are read.
        terms: at least 1.

    Raises:
        ValueError: no texts, or fewer terms than that could be active.
    """
    states, cu_seqlens = _decoder_states(decoder, texts)
    weight = decoder.model.get_output_embeddings().weight.detach()[: pooling.n_terms]
    mean = (weight @ states.mean(0).to(weight.dtype)).float()
    offset = -mean
    offset[torch.as_tensor(pooling.silent, dtype=torch.long)] = -torch.inf
    there = 0

    def folded(pooled: Tensor, bounds: Tensor) -> Tensor:
        nonlocal there
        pooled = pooled if fold is None else fold.fold(pooled)
        there += int(pooled.count_nonzero())
        return pooled

    n_texts = len(cu_seqlens) - 1
    states = states.to(weight.dtype)
    surplus = largest_surpluses(states, cu_seqlens, weight, offset, terms * n_texts, folded)
    if terms * n_texts >= there:
        raise ValueError(
            f"`calibrate_terms` must be below {there // n_texts}, the terms of a text that are "
            f"ever above their mean, got {terms}"
        )
    threshold = float(surplus[-2:].mean())
    above = float(surplus[:-1].mean()) - threshold
    # Where all surpluses are equal, no scale makes their mean 1.
    pooling.scale = 2.0 ** -round(math.log2(above)) if above > 0 else 1.0
    pooling.bias.copy_(-pooling.scale * (mean + threshold))


def _decoder_states(decoder: Decoder, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return pooled tokens' packed states, float32, (total tokens, D), and cu_seqlens, (n + 1,)."""
    from sentence_transformers.util import batch_to_device

    step = max(1, len(texts) // DECODER_SAMPLE)
    sample = sorted(texts[::step][:DECODER_SAMPLE], key=len)
    states, lengths = [], [torch.zeros(1, dtype=torch.long)]
    decoder.eval()
    for start in range(0, len(sample), DECODER_BATCH):
        features = decoder.preprocess(sample[start : start + DECODER_BATCH], task="document")
        features = batch_to_device(features, decoder.model.device)
        mask = features["pooling_mask"].bool()
        states.append(decoder(features)["token_embeddings"][mask].float())
        lengths.append(mask.sum(1).cpu())
    if not states or not len(packed := torch.cat(states)):
        raise ValueError("a head is calibrated on texts, but `texts` holds no token")
    return packed, torch.cat(lengths).cumsum(0).to(packed.device)
