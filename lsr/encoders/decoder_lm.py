"""Build trainable sparse encoders from decoder LLMs: Llama, Mistral, Qwen and similar ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy.sparse import csr_array

from lsr.encoders.lora import PRESETS, LoraPreset, add_lora, four_bits
from lsr.encoders.tokens import count_terms
from lsr.idf import inverse_document_frequency

if TYPE_CHECKING:
    from lsr.encoders.decoder_modules import Decoder
    from lsr.encoders.folding import Fold

Attention = Literal["causal", "bidirectional", "echo"]
Queries = Literal["same", "binary", "idf", "learned-idf"]

# How many texts are counted at once.
BLOCK = 4096
# Settings of those architectures that change logits after the head.
AFTER_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True)
class DecoderConfig:
    """Settings of `build_decoder`.

    Attributes:
        base: a directory or hub name of a causal LM.
        attention: "causal"; "bidirectional", where every token attends to all; or "echo", where the
            model reads the text twice and the second copy is pooled.
        queries: how queries become vectors: by the "same" model as documents, or by one weight per
            token of the query: 1 ("binary"), its IDF ("idf"), or a learned weight that starts as
            the IDF ("learned-idf").
        activation: see `lsr.kernels.reference.activate`.
        pooling: "max" or "sum" over tokens.
        max_length: how many tokens of a document are read, special ones included; of one copy.
        query_max_length: the same for queries.
        calibrate_terms: mean active terms of a text before the first step; None does not calibrate:
            an LLM has thousands of logits above 0.
        fold: whether variants of a term in case and leading space share one output term.
        lora: the adapter that is trained: the name of a preset, or your own; "none": all weights.
        load_in_4bit: whether frozen weights are held in 4 bits (QLoRA); needs bitsandbytes.
    """

    __pydantic_config__ = {"extra": "forbid"}
    base: str
    attention: Attention = "causal"
    queries: Queries = "same"
    activation: Literal["relu", "log1p_relu"] = "relu"
    pooling: Literal["max", "sum"] = "max"
    max_length: int = 256
    query_max_length: int = 64
    calibrate_terms: int | None = 120
    fold: bool = False
    lora: LoraPreset | Literal["none", "mistral-splade", "lion"] = "none"
    load_in_4bit: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ValueError: the message names the field, its allowed values and its value.
        """
        choices = {
            "attention": get_args(Attention),
            "queries": get_args(Queries),
            "activation": ("relu", "log1p_relu"),
            "pooling": ("max", "sum"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"`{field}` must be one of {', '.join(allowed)}, got {getattr(self, field)!r}"
                )
        for field in ("max_length", "query_max_length"):
            if getattr(self, field) < 3:
                raise ValueError(f"`{field}` must be at least 3, got {getattr(self, field)}")
        if self.calibrate_terms is not None and self.calibrate_terms < 1:
            raise ValueError(
                f"`calibrate_terms` must be at least 1 or None, got {self.calibrate_terms}"
            )
        if not isinstance(self.lora, LoraPreset) and self.lora not in ("none", *PRESETS):
            raise ValueError(
                f"`lora` must be none, {', '.join(PRESETS)} or a LoraPreset, got {self.lora!r}"
            )
        if self.load_in_4bit and self.adapter is None:
            raise ValueError("weights in 4 bits cannot be trained: `load_in_4bit` needs `lora`")

    @property
    def adapter(self) -> LoraPreset | None:
        """The adapter's settings; None for "none"."""
        return self.lora if isinstance(self.lora, LoraPreset) else PRESETS.get(self.lora)


def build_decoder(
    config: DecoderConfig, texts: Sequence[str], idf: np.ndarray | None = None
) -> Any:
    """Build a SparseEncoder that is ready for SparseEncoderTrainer.

    Its modules are Decoder, DecoderPooling and, with `fold`, Fold; with queries other than "same"
    they are in a Router. If stock modules compute the same vectors, it is made of those (see
    `_is_stock`). With LoRA, `save` writes only the adapter, which is what resumed training needs;
    call `merge_lora` first to save a checkpoint that needs no base.

    Args:
        config: the settings.
        texts: from the collection, for the calibration and the IDF.
        idf: query weights for "idf" and "learned-idf", one per output term; None computes them from
            `texts`.

    Raises:
        ValueError: the base cannot be used, or an argument does not fit; the message says why.
        ImportError: `load_in_4bit` without bitsandbytes.
    """
    from sentence_transformers import SparseEncoder

    from lsr.encoders.calibrate import choose_shift
    from lsr.encoders.decoder_modules import DecoderPooling
    from lsr.encoders.folding import Fold, control_ids, fold_vocabulary
    from lsr.encoders.fuse import fuse

    weighted = config.queries in ("idf", "learned-idf")
    if idf is not None and not weighted:
        raise ValueError(f"`idf` is not used with `queries` {config.queries!r}: leave it out")
    decoder = _decoder(config)
    tokenizer = decoder.tokenizer
    silent = control_ids(tokenizer).tolist()
    pooling = DecoderPooling(
        len(tokenizer), activation=config.activation, pooling=config.pooling, silent=silent
    ).to(decoder.model.device)
    fold = None
    if config.fold:
        terms, places = fold_vocabulary(tokenizer)
        fold = Fold(terms, places.tolist()).to(decoder.model.device)
    if config.calibrate_terms is not None:
        choose_shift(decoder, pooling, fold, texts, config.calibrate_terms)
    if config.adapter is not None:
        add_lora(decoder.model, config.adapter)
    stock = _is_stock(config, decoder)
    modules = _stock_modules(config, silent) if stock else [decoder, pooling]
    modules += [] if fold is None else [fold]
    if config.queries != "same":
        modules = [_router(config, modules, fold, texts, idf)]
    model = SparseEncoder(modules=modules, similarity_fn_name="dot")
    return fuse(model) if stock else model


def _decoder(config: DecoderConfig) -> Decoder:
    """Open the base as a Decoder, and check that it can be used."""
    from sentence_transformers.util import get_device_name

    from lsr.encoders.decoder_modules import Decoder

    decoder = Decoder(_source(config.base), **_settings(config), attention=config.attention)
    tokenizer = decoder.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    _check_head(decoder.model, len(tokenizer))
    _check_length(config, decoder)
    if config.attention == "bidirectional":
        _check_sight(decoder.model)
    return decoder if config.load_in_4bit else decoder.to(get_device_name())


def _source(base: str) -> str:
    """Return a directory's absolute path, since adapters store it, or a hub name unchanged."""
    return str(Path(base).resolve()) if Path(base).is_dir() else base


def _settings(config: DecoderConfig) -> dict[str, Any]:
    """Return the arguments for opening a Transformer."""
    # Trained weights are float32; frozen ones keep the dtype of the checkpoint.
    model_kwargs: dict[str, Any] = {"dtype": "float32" if config.adapter is None else "auto"}
    if config.load_in_4bit:
        model_kwargs["quantization_config"] = four_bits()
    return {
        "model_kwargs": model_kwargs,
        "max_seq_length": config.max_length,
        "query_length": config.query_max_length,
    }


def _check_head(model: Any, n_terms: int) -> None:
    """Refuse a model whose logits are not its last states times one matrix."""
    import torch

    name = type(model).__name__
    for setting in AFTER_HEAD:
        value = getattr(model.config, setting, None)
        if value not in (None, 1):
            raise ValueError(
                f"{name} changes its logits after the head ({setting} = {value}): vectors that are "
                "pooled directly from its states would differ"
            )
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        raise ValueError(
            f"the head of {name} must be a plain torch.nn.Linear without a bias, got {head}"
        )
    if len(head.weight) < n_terms:
        raise ValueError(
            f"the checkpoint's head has {len(head.weight)} terms but its tokenizer {n_terms}: they "
            "do not belong together"
        )
    probe = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    with torch.no_grad():
        states = model.eval().base_model(input_ids=probe, use_cache=False).last_hidden_state
        logits = model(input_ids=probe, use_cache=False).logits
        own = head(states)
    if own.shape != logits.shape or not torch.allclose(own, logits, rtol=1e-3, atol=1e-3):
        raise ValueError(f"the logits of {name} are not its head applied to its last states")


def _check_length(config: DecoderConfig, decoder: Decoder) -> None:
    """Refuse lengths at which the model could not attend to the whole text."""
    length = max(config.max_length, config.query_max_length)
    copies = 2 if config.attention == "echo" else 1
    settings = decoder.model.config
    for limit, what in (
        (getattr(settings, "max_position_embeddings", None), "positions"),
        (getattr(settings, "sliding_window", None), "tokens of its sliding window"),
    ):
        if limit is not None and copies * length > limit:
            raise ValueError(
                f"`max_length` and `query_max_length` must be at most {limit // copies} for the "
                f"{limit} {what}, got {config.max_length} and {config.query_max_length}"
            )


def _check_sight(model: Any) -> None:
    """Refuse a model whose attention stays causal despite its configuration."""
    import torch

    texts = torch.tensor([[0, 1, 2], [0, 1, 3]], device=model.device)
    with torch.no_grad():
        states = model.eval().base_model(input_ids=texts, use_cache=False).last_hidden_state
    if torch.equal(states[0, 0], states[1, 0]):
        raise ValueError(
            f"`attention` 'bidirectional' has no effect on {type(model).__name__}: its tokens do "
            "not attend to later ones (transformers before 5.2, or an architecture without it)"
        )


def _is_stock(config: DecoderConfig, decoder: Decoder) -> bool:
    """Whether stock Transformer and SpladePooling compute the same vectors.

    The stock modules have no shift, pool special tokens too, and save no weights beside an adapter.
    Rows of zeros in the head keep special terms inactive, so that the head must not be tied to the
    embeddings.
    """
    head = decoder.model.get_output_embeddings().weight
    return (
        config.attention != "echo"
        and config.calibrate_terms is None
        and config.adapter is None
        and decoder.frame() == ([], [])
        and head is not decoder.model.get_input_embeddings().weight
        and len(head) == len(decoder.tokenizer)
    )


def _stock_modules(config: DecoderConfig, silent: list[int]) -> list[Any]:
    import torch
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    transformer = Transformer(
        _source(config.base),
        transformer_task="text-generation",
        modality_config={"text": {"method": "forward", "method_output_name": "logits"}},
        module_output_name="token_embeddings",
        processing_kwargs={"text": {"logits_to_keep": 0}},
        **_settings(config),
    )
    model, tokenizer = transformer.model, transformer.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    model.config.is_causal = config.attention == "causal"
    with torch.no_grad():
        model.get_output_embeddings().weight[silent] = 0.0
    pooling = SpladePooling(
        pooling_strategy=config.pooling,
        activation_function=config.activation,
        embedding_dimension=len(tokenizer),
    )
    return [transformer, pooling]


def _router(
    config: DecoderConfig,
    modules: list[Any],
    fold: Fold | None,
    texts: Sequence[str],
    idf: np.ndarray | None,
) -> Any:
    """Make a Router: documents pass `modules`, queries get the weights of their own tokens."""
    from sentence_transformers.base.modules import Router

    from lsr.encoders.folding import control_ids
    from lsr.encoders.query_weights import static_queries

    tokenizer = modules[0].tokenizer
    places = np.arange(len(tokenizer)) if fold is None else fold.places.cpu().numpy()
    n_terms = len(tokenizer) if fold is None else len(fold.terms)
    if config.queries == "binary":
        idf = np.ones(n_terms)
    elif idf is None:
        idf = _idf(tokenizer, texts, places, n_terms)
    if idf.shape != (n_terms,):
        raise ValueError(
            f"`idf` must have shape ({n_terms},), one per output term, got {idf.shape}"
        )
    weights = idf[places]
    weights[control_ids(tokenizer)] = 0.0
    learned = config.queries == "learned-idf"
    query = [static_queries(tokenizer, weights, config.query_max_length, learned=learned)]
    return Router.for_query_document(
        query_modules=query if fold is None else [*query, fold], document_modules=modules
    )


def _idf(tokenizer: Any, texts: Sequence[str], places: np.ndarray, n_terms: int) -> np.ndarray:
    """Return the IDF of output terms; a document holds a term if it holds any of its tokens."""
    if not len(texts):
        raise ValueError("IDF is counted on texts, but there are none")
    tokens = np.flatnonzero(places >= 0)
    fold = csr_array(
        (np.ones(len(tokens), dtype=np.float32), (tokens, places[tokens])),
        shape=(len(places), n_terms),
    )
    frequency = np.zeros(n_terms, dtype=np.int64)
    for start in range(0, len(texts), BLOCK):
        held = csr_array(count_terms(tokenizer, texts[start : start + BLOCK]) @ fold)
        frequency += np.bincount(held.indices, minlength=n_terms)
    return inverse_document_frequency(frequency, len(texts))
