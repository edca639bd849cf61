"""Calibration of an LM head before the first step: as many active terms as asked for.

Untrained as a SPLADE head, an LM head makes thousands of terms active in every text, or none:
RoBERTa's logits are all far above 0. Then the first steps blow up, or relu passes no gradient.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsr.encoders.fuse import put_decoder_back, take_decoder_out
from lsr.encoders.lm_head import decoder_of, transform_of
from lsr.encoders.tokens import special_ids
from lsr.kernels.head import splade_head

# Texts that a head is calibrated on, drawn from those given.
SAMPLE = 256
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

    A term is active where it is said θ deviations more strongly than usual, as in
    lsr/encoders/graft.py, and the decoder stays tied: only its bias is its own.

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
    counted = 0
    largest = states.new_zeros(0)
    for start in range(0, n_texts, BATCH):
        bounds = cu_seqlens[start : start + BATCH + 1]
        part = slice(int(bounds[0]), int(bounds[-1]))
        pooled = splade_head(states[part], scaled, offset, cu_seqlens=bounds - bounds[0])
        if own is not None:
            texts = torch.arange(len(pooled), device=own.device).repeat_interleave(bounds.diff())
            pooled *= torch.zeros_like(pooled).index_put_((texts, own[part]), pooled.new_ones(()))
        counted += int(pooled.count_nonzero())
        found = torch.cat([largest, pooled.reshape(-1)])
        largest = found.topk(min(wanted + 1, len(found))).values
    if own is not None:
        wanted = min(wanted, int(OWN * counted))
    # Halfway between the last that is active and the first that is not.
    threshold = float(largest[max(wanted - 1, 0) : wanted + 1].expm1().mean()) - LOWEST
    scale = 1 / float(deviation.median()) if rescale else 1.0
    return Calibration(scale, -scale * (mean + threshold * deviation))


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
