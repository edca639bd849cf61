"""Calibration of a head: the threshold of its logits that leaves a number of active terms.

Untrained as a SPLADE head, an LM head makes thousands of terms active in every text, or none:
RoBERTa's logits are all far above 0. Then the first steps blow up, or relu passes no gradient.

Everything here asks by how much a term's logit h·E_t is above its mean μ_t over the tokens of some
texts, and finds the threshold that leaves the number of terms. What is done with it differs: a
masked LM keeps its tied decoder (`calibrate`), the `grafted` encoder divides each term by its own
deviation σ_t (lsr/encoders/graft.py), and a decoder LLM gets a shift (`choose_shift`).
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
# Of lexical-only texts' own terms, how many are active at most: the rest would cost the scale.
OWN = 0.9


class Calibration(NamedTuple):
    """A head's logits as they should be: scale · h·E_t + bias_t."""

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
    """The scale and the biases by which `terms` terms are active in a text on average.

    With μ_t and σ_t, mean and deviation of h·E_t over the tokens:

        bias_t = −scale · (μ_t + θ·σ_t),    scale = 1 / median_t σ_t, or 1

    A term is active where it is said θ deviations more strongly than usual, and the decoder stays
    tied: only its bias is its own.

    Args:
        states: packed token states, as the decoder gets them, shape (total tokens, D).
        cu_seqlens: where each text begins and the last ends, integer, shape (n + 1,).
        weight: the decoder's, shape (V, D).
        terms: mean active terms of a text, > 0.
        excluded: ids of terms that are never active; their bias means nothing.
        own: the tokens' ids, integer, shape (total tokens,), if of a text only the terms that it
            holds can be active; at most 9 in 10 of those will be.
        rescale: whether logits may be scaled; if not, `scale` is 1.

    Raises:
        ValueError: `terms` is not between 0 and what there is, or logits do not vary.
    """
    states, weight = states.float(), weight.detach().float()
    n_texts, n_terms = len(cu_seqlens) - 1, len(weight)
    possible = n_terms - len(excluded)
    if not 0 < terms < possible:
        raise ValueError(
            f"`terms` must be above 0 and below the {possible} terms of the vocabulary, got {terms}"
        )
    if n_texts < 1:
        raise ValueError("a head is calibrated on texts, but there is none")
    mean, deviation = logit_statistics(states, weight)
    # What would be a text's weight under θ = −LOWEST, from which all θ follow.
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
    # Halfway between the last that is active and the first that is not.
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
        weight: of the head, shape (V, D).
        offset: of the head, float32, shape (V,); −inf for terms that do not count.
        wanted: one less than the number of logits returned.
        change: called with the vectors of some texts, shape (b, V), and their part of
            `cu_seqlens`; returns the vectors that count.

    Returns:
        float32, shape (wanted + 1,) or as many as there are, descending; 0 where none is above 0.
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
    """Mean and standard deviation of each term's logit h·E_t over tokens, without the logits.

    From the mean m and the covariance C of the states: μ_t = E_t·m and σ_t² = E_t·C·E_t.

    Args:
        states: float32, shape (N, D).
        weight: float32, shape (V, D).

    Returns:
        Both float32, shape (V,); deviations at least a thousandth of their median, so that a term
        whose logit never varies is no noise blown up.

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
    """Make `terms` terms active in a text on average, by the head's LayerNorm and decoder bias.

    The scale goes into the LayerNorm before the decoder where there is one; the shift replaces the
    decoder's bias. Architecture and tied weights stay as they are.

    Args:
        model: a masked LM whose last operation is a linear decoder with a bias; changed in place.
        tokenizer: its fast tokenizer.
        texts: such as the model will encode; at most 256 of them are used, drawn at random but
            always the same.
        terms: mean active terms of a text, > 0; special tokens do not count.
        max_length: tokens of a text that are read.
        expansion: whether terms count that a text does not hold.

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
    """The LayerNorm before the decoder; None if the head has none."""
    try:
        return transform_of(model)[1]
    except ValueError:
        return None


@torch.no_grad()
def token_states(
    model: Any, tokenizer: Any, texts: Sequence[str], max_length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What the decoder of a masked LM gets: packed, shape (total tokens, D); cu_seqlens; token ids.

    Raises:
        ValueError: no texts, or the decoder is not the model's last operation.
    """
    if not len(texts):
        raise ValueError("a head is calibrated on texts, but there is none")
    decoder = take_decoder_out(model)
    training = model.training
    model.eval()
    # Like lengths together: less padding.
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
    pooling.scale = 2.0 ** -round(math.log2(float(surplus[:-1].mean()) - threshold))
    pooling.bias.copy_(-pooling.scale * (mean + threshold))


def _decoder_states(decoder: Decoder, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Pooled tokens' states, packed, float32, shape (total tokens, D), and cu_seqlens, (n + 1,)."""
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
