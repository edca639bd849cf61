"""Build trainable SPLADE models from masked LMs, in the stock sentence-transformers layout."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from lsr.encoders.load import resolve, trunk_path
from lsr.encoders.masked_lm import positions
from lsr.encoders.shipped import checked_trunk, put_changed
from lsr.encoders.stock import check_weights, loading
from lsr.encoders.tokens import check_tokenizer, special_ids
from lsr.kernels.reference import Activation, Pooling

# The `base` that stands for the default model.
TRAINED = "trained"
Queries = Literal["same", "separate", "binary", "idf", "learned-idf"]


@dataclass(frozen=True)
class ModelConfig:
    """Settings of `build_model`.

    Attributes:
        base: "default" (the trunk all-MiniLM-L6-v2 that ships), "trained" (the default model: that
            trunk after training, with its head), a directory, or a hub name: a masked LM, or a
            trunk without an LM head, onto which one is grafted.
        queries: how queries become vectors: by the "same" masked LM as documents; by a "separate"
            one, which starts as a copy; or by one weight per token of the query: 1 ("binary"), its
            IDF ("idf"), or a learned weight that starts as the IDF ("learned-idf").
        expansion: whether a text's vector may have terms that the text does not hold; False:
            SPLADE-lexical.
        activation: see `lsr.kernels.reference.activate`.
        pooling: "max" or "sum" over tokens.
        max_length: how many tokens of a document are read, special ones included.
        query_max_length: how many tokens of a query are read.
        calibrate_terms: mean active terms of a document before the first step (fewer if
            `top_k_per_token` cuts them, or if without expansion texts hold fewer). None leaves the
            head uncalibrated: a grafted one then makes most of the vocabulary active. The head of
            "trained" is never calibrated.
        transform: whether the dense layer of the head is trained; if not, a grafted one stays the
            identity.
        embeddings: whether the word embeddings are trained, and with them the head's matrix if it
            is tied to them; if not, training changes few weights, which are small to ship.
        dropout: whether the base's dropout is active in training.
        top_k_per_token: how many of a token's logits count, the largest; None: all. Not in the
            stock layout, see `lsr.encoders.top_k`.
    """

    base: str = "default"
    queries: Queries = "same"
    expansion: bool = True
    activation: Activation = "relu"
    pooling: Pooling = "max"
    max_length: int = 256
    query_max_length: int = 64
    calibrate_terms: int | None = 120
    transform: bool = True
    embeddings: bool = True
    dropout: bool = True
    top_k_per_token: int | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ValueError: the message names the field, its allowed values and its value.
        """
        for field, kind in (("queries", Queries), ("activation", Activation), ("pooling", Pooling)):
            allowed, value = get_args(kind), getattr(self, field)
            if value not in allowed:
                raise ValueError(f"`{field}` must be one of {', '.join(allowed)}, got {value!r}")
        for field, least in (("max_length", 3), ("query_max_length", 3)):
            if getattr(self, field) < least:
                raise ValueError(f"`{field}` must be at least {least}, got {getattr(self, field)}")
        for field in ("calibrate_terms", "top_k_per_token"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"`{field}` must be at least 1 or None, got {value}")


def build_model(
    config: ModelConfig,
    texts: Sequence[str],
    idf: np.ndarray | None = None,
    device: str | None = None,
) -> Any:
    """Build a SparseEncoder with a fused head, ready for SparseEncoderTrainer.

    With queries other than "same" it is a Router: the training arguments then need a
    `router_mapping` of the columns to "query" and "document" (with "same" too, for
    `query_max_length` to apply). Learned query weights need `learning_rate_mapping` with
    QUERY_WEIGHTS and the callback NonNegativeQueryWeights, both from `lsr.encoders.query_weights`.
    `save` writes the stock layout, which sentence-transformers and
    `lsr.encoders.load.load_encoder` open with equal vectors.

    Special tokens are never active.

    Args:
        config: the settings.
        texts: from the collection, for the calibration (a sample of 256) and for the IDF.
        idf: query weights for "idf" and "learned-idf", shape (V,); None computes them from `texts`.
        device: as torch names it; by default the machine's accelerator, if it has one.

    Raises:
        FileNotFoundError: there is no such base.
        ValueError: the base cannot be used, or an argument does not fit; the message says why.
    """
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router
    from sentence_transformers.util import get_device_name

    from lsr.encoders.fuse import fuse
    from lsr.encoders.query_weights import corpus_idf, static_queries

    weighted = config.queries in ("idf", "learned-idf")
    if idf is not None and not weighted:
        raise ValueError(f"`idf` is not used with `queries` {config.queries!r}: leave it out")
    device = device or get_device_name()
    transformer = _masked_lm(config, texts, device)
    tokenizer = transformer.tokenizer
    modules = [transformer, *_pooling(config, tokenizer)]
    if config.queries == "same":
        transformer.query_length = config.query_max_length
    else:
        if config.queries == "separate":
            query = copy.deepcopy(modules)
            query[0].max_seq_length = config.query_max_length
        else:
            weights = np.ones(len(tokenizer)) if idf is None else idf
            if weighted and idf is None:
                weights = corpus_idf(tokenizer, [texts])
            learned = config.queries == "learned-idf"
            query = [static_queries(tokenizer, weights, config.query_max_length, learned=learned)]
        modules = [Router.for_query_document(query_modules=query, document_modules=modules)]
    return fuse(SparseEncoder(modules=modules, similarity_fn_name="dot", device=device))


def _pooling(config: ModelConfig, tokenizer: Any) -> list[Any]:
    """Make the modules that follow the masked LM."""
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    from lsr.encoders.query_weights import static_queries

    settings = {
        "pooling_strategy": config.pooling,
        "activation_function": config.activation,
        "embedding_dimension": len(tokenizer),
    }
    if config.top_k_per_token is None:
        modules = [SpladePooling(**settings)]
    else:
        from lsr.encoders.top_k import TopKPooling

        modules = [TopKPooling(config.top_k_per_token, **settings)]
    if not config.expansion:
        # After other modules, the stock module for token weights multiplies the vector by them:
        # by 1 for terms that the text holds, and by 0 for others.
        modules.append(static_queries(tokenizer, np.ones(len(tokenizer)), config.max_length))
    return modules


def _masked_lm(config: ModelConfig, texts: Sequence[str], device: str) -> Any:
    """Make the module of the masked LM, its head grafted if needed, trimmed and calibrated."""
    from sentence_transformers.base.modules import Transformer

    from lsr.encoders.calibrate import calibrate
    from lsr.encoders.lm_head import (
        graft_head,
        keep_offset_exact,
        silence,
        transform_of,
        trim_head,
    )

    if config.base == TRAINED:
        directory = checked_trunk()
    else:
        directory = trunk_path() if config.base == "default" else resolve(config.base)
    if not (directory / "config.json").exists():
        raise ValueError(
            f"{directory}: holds no config.json; `base` must be the checkpoint of a masked LM or "
            "of its trunk"
        )
    with _quiet():
        has_head = _has_head(directory)
        transformer = Transformer(
            str(directory),
            transformer_task="fill-mask",
            max_seq_length=config.max_length,
            # Flattened inputs (FlashAttention) have no mask, but these modules need one.
            unpad_inputs=None if config.expansion and not config.top_k_per_token else False,
        )
    # Training needs weights in float32, even if the base is in 16 bits.
    model, tokenizer = transformer.model.float(), transformer.tokenizer
    check_tokenizer(tokenizer)
    limit = positions(model)
    if max(config.max_length, config.query_max_length) > limit:
        raise ValueError(
            f"`max_length` and `query_max_length` must be at most the {limit} positions of "
            f"{type(model).__name__}, got {config.max_length} and {config.query_max_length}"
        )
    if not has_head:
        graft_head(model)
    keep_offset_exact(model)
    trim_head(model, len(tokenizer))
    if config.base == TRAINED:
        put_changed(model.state_dict())
    transformer.to(device)
    if config.calibrate_terms is not None and config.base != TRAINED:
        calibrate(
            model,
            tokenizer,
            texts,
            config.calibrate_terms,
            config.max_length,
            expansion=config.expansion,
        )
    silence(model, special_ids(tokenizer))
    if not config.dropout:
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    if not config.transform:
        transform_of(model)[0].requires_grad_(False)
    if not config.embeddings:
        model.get_input_embeddings().requires_grad_(False)
    return transformer


def _has_head(directory: Path) -> bool:
    """Whether a checkpoint holds an LM head beside its trunk.

    Raises:
        ValueError: the architecture has no masked LM, or the checkpoint is damaged.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModelForMaskedLM

    kind = AutoConfig.from_pretrained(directory)
    if type(kind) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ValueError(
            f"{directory}: the architecture {kind.model_type!r} has no masked LM in transformers"
        )
    with loading(directory):
        model, report = AutoModelForMaskedLM.from_pretrained(directory, output_loading_info=True)
    missing = sorted(report["missing_keys"])
    trunk = [name for name in missing if name.startswith(model.base_model_prefix + ".")]
    if trunk:
        raise ValueError(
            f"{directory}: {len(trunk)} weights of the trunk are missing, such as {trunk[0]!r}"
        )
    if not missing:
        check_weights(directory, model)
    return not missing


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the reports of transformers on missing weights: we graft a head in their place."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
