"""Pretraining of language models on the collection to be searched, with transformers' Trainer.

A run directory holds, besides `model/`, the checkpoint that comes out:

    pretraining.json    settings, and what was read
    tokenizer/          of a model from scratch
    checkpoints/        the Trainer's; a run that was killed goes on after the last whole one
    metrics.jsonl       loss and its parts, gradient norm, learning rate, tokens; a line each log
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from lsr.encoders.fuse import put_decoder_back, take_decoder_out
from lsr.encoders.load import default_tokenizer, resolve, trunk_path
from lsr.encoders.lora import LoraPreset
from lsr.encoders.tokens import special_ids
from lsr.training.cocondenser import Cocondenser, drop_head
from lsr.training.loss_trainer import Loss, LossTrainer, Metrics
from lsr.training.masked_prediction import MaskedPrediction
from lsr.training.masking import Chunks, Frame, Masker, SpanPairs, Stream, Tokens, tokenize
from lsr.training.processes import check_devices
from lsr.training.run_files import check_same, last_whole, write_folder, write_whole
from lsr.training.scratch import random_bert, train_tokenizer

Pretraining = Literal["mlm", "mlm-flops", "cocondenser", "mntp"]
Texts = Iterable[str] | Callable[[], Iterable[str]]

# LLM2Vec's mask token for decoders that have none; an underscore means little in most texts.
UNDERSCORE = "_"


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of pretraining.

    Objectives: "mlm"; "mlm-flops", with FLOPS of the SPLADE vectors of the masked texts;
    "cocondenser", for BERT's relatives; "mntp", masked next-token prediction with bidirectional
    attention, for decoders. Names of steps are those of transformers' TrainingArguments.
    """

    __pydantic_config__ = {"extra": "forbid"}
    objective: Pretraining = "mlm"
    base: str = "default"  # the packaged trunk; "scratch"; a directory; a name on the hub
    # A BERT from scratch, with a lower-casing WordPiece tokenizer; feed-forward layers 4 × hidden.
    vocab_size: int = 30_522
    layers: int = 6
    hidden: int = 384
    heads: int = 6
    max_length: int = 128  # tokens of a text in one pass, special ones included
    mask_share: float | None = None  # of tokens; None: 0.15, for MNTP 0.2
    whole_words: bool = False  # all tokens of a word are masked, or none
    mask_token: str | None = None  # None: the tokenizer's own; for MNTP else "_" or the unknown one
    flops_weight: float = 1e-3  # λ of "mlm-flops"
    early_layer: int | None = None  # whose token states Condenser's head reads; None: layers // 2
    lora: LoraPreset | None = None  # the adapter that is trained and then merged; for "mntp"
    max_steps: int = 10_000
    batch_size: int = 32  # texts, or pairs of spans, in one pass on each device
    accumulation: int = 1  # passes in a step; spans are contrasted within a pass
    learning_rate: float = 1e-4
    warmup: float = 0.1  # share of the steps; then the rate falls linearly to 0
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    bf16: bool = False
    seed: int = 0
    logging_steps: int = 10
    save_steps: int = 500

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ValueError: naming each such setting.
        """
        if self.objective not in get_args(Pretraining):
            raise ValueError(
                f"`objective` must be one of {get_args(Pretraining)}, got {self.objective!r}"
            )
        if self.objective == "mntp" and self.base in ("scratch", "default"):
            raise ValueError(
                f"`objective` 'mntp' needs the checkpoint of a decoder as `base`, got {self.base!r}"
            )
        if self.objective != "mntp" and self.lora is not None:
            raise ValueError(f"`lora` is for `objective` 'mntp', got {self.objective!r}")
        if not 0 < self.share < 1:
            raise ValueError(f"`mask_share` must be in (0, 1), got {self.share}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"`warmup` must be in [0, 1), got {self.warmup}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` must be in [0, 2^32), got {self.seed}")
        least = {
            "vocab_size": 100, "layers": 1, "hidden": 1, "heads": 1, "max_length": 16,
            "max_steps": 1, "batch_size": 1, "accumulation": 1, "logging_steps": 1, "save_steps": 1,
            "learning_rate": 0, "flops_weight": 0, "weight_decay": 0, "max_grad_norm": 0,
        }  # fmt: skip
        for name, least_value in least.items():
            if getattr(self, name) < least_value:
                raise ValueError(f"`{name}` must be ≥ {least_value}, got {getattr(self, name)}")
        if self.objective in ("cocondenser", "mlm-flops") and self.batch_size < 2:
            raise ValueError(f"`batch_size` must be ≥ 2 for {self.objective!r}, got 1")
        if self.hidden % self.heads:
            raise ValueError(
                f"`hidden` must be a multiple of `heads`, got {self.hidden} and {self.heads}"
            )
        if self.save_steps % self.logging_steps:
            # A log is a mean over the steps since the last log, which a checkpoint does not keep.
            raise ValueError(
                "`save_steps` must be a multiple of `logging_steps`, so that a resumed run logs "
                f"what one that never stopped logs, got {self.save_steps} and {self.logging_steps}"
            )

    @property
    def share(self) -> float:
        """The share of tokens that are masked: 0.15 as BERT, for MNTP 0.2 as Lion-SP."""
        if self.mask_share is not None:
            return self.mask_share
        return 0.2 if self.objective == "mntp" else 0.15


def pretrain(
    config: PretrainConfig,
    texts: Texts,
    out: str | os.PathLike[str],
    *,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Pretrain a language model on `texts`, or go on with the run in `out`.

    Texts longer than `max_length` are cut into parts of nearly equal length.

    Args:
        config: the settings.
        texts: the texts, or a function that gives them. They are read once, or three times for a
            model from scratch.
        out: the run directory; see this module.
        callbacks: for the Trainer, besides those of progress and metrics.jsonl.

    Returns:
        The checkpoint, out/model, as AutoModelForMaskedLM or AutoModelForCausalLM reads it.

    Raises:
        ValueError: the texts hold too little, the base model is of another kind or has a smaller
            vocabulary than its tokenizer, or `out` holds a run with other settings or texts.
        RuntimeError: a callback stopped the run; its checkpoints stay.
    """
    out = Path(out)
    check_same(out / "pretraining.json", {"config": asdict(config)})
    if (out / "model").exists():
        return out / "model"
    arguments = _arguments(config, out)
    with arguments.main_process_first(desc="tokenizer"):
        tokenizer = _tokenizer(config, texts, out)
    tokens = tokenize(tokenizer, _read(texts), words=config.whole_words)
    stream = _stream(config, tokens, Frame.of(tokenizer), arguments)
    set_seed(config.seed)
    model = _model(config, tokenizer)
    masker = _masker(config, tokenizer, tokens)
    _note(config, tokens, out, arguments)
    decoder = take_decoder_out(model)
    loss = _loss(config, model, decoder, tokenizer)
    model = model if config.lora is None else _adapted(model, config.lora)
    trainer = LossTrainer(
        loss=loss,
        model=model,
        args=arguments,
        train_dataset=stream,
        data_collator=masker,
        callbacks=[Metrics(out / "metrics.jsonl"), *callbacks],
    )
    trainer.train(resume_from_checkpoint=last_whole(out / "checkpoints"))
    steps = trainer.state.global_step
    if steps < config.max_steps:
        raise RuntimeError(
            f"a callback stopped the run in {out} after {steps} of {config.max_steps} steps"
        )
    put_decoder_back(decoder)
    if trainer.is_world_process_zero():
        _save(config, model, tokenizer, out / "model")
    trainer.accelerator.wait_for_everyone()
    return out / "model"


def _arguments(config: PretrainConfig, out: Path) -> TrainingArguments:
    check_devices()
    # The Trainer does not find out by itself that there are several processes without GPUs.
    gloo = "WORLD_SIZE" in os.environ and not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.learning_rate,
        warmup_steps=round(config.warmup * config.max_steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.bf16,
        seed=config.seed,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        save_steps=config.save_steps,
        save_total_limit=2,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),  # as in `lsr.training.arguments`
        ddp_backend="gloo" if gloo else None,
        # The decoder and Condenser's head are used after the forward pass that would look for them.
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,  # it would write to stdout
    )


def _note(config: PretrainConfig, tokens: Tokens, out: Path, arguments: TrainingArguments) -> None:
    """Write pretraining.json, or check that it holds the same."""
    about = {
        "config": asdict(config),
        "texts": len(tokens.bounds) - 1,
        "tokens": len(tokens.ids),
        "sha256": tokens.digest,
    }
    check_same(out / "pretraining.json", about)
    if arguments.process_index == 0:
        write_whole(out / "pretraining.json", json.dumps(about, indent=2))


def _read(texts: Texts) -> Iterable[str]:
    return texts() if callable(texts) else texts


def _tokenizer(config: PretrainConfig, texts: Texts, out: Path) -> Any:
    if config.base == "default":
        return default_tokenizer()
    if config.base != "scratch":
        return AutoTokenizer.from_pretrained(resolve(config.base))
    folder = out / "tokenizer"
    # A second training might break ties in another way.
    if not folder.exists():
        if isinstance(texts, Iterator):
            raise ValueError(
                "a model from scratch reads `texts` three times: give a list, or a function that "
                "returns them, got an iterator"
            )
        trained = train_tokenizer(lambda: _read(texts), config.vocab_size, config.max_length)
        write_folder(folder, trained.save_pretrained)
    return AutoTokenizer.from_pretrained(folder)


def _stream(
    config: PretrainConfig, tokens: Tokens, frame: Frame, arguments: TrainingArguments
) -> Stream:
    longest = config.max_length - len(frame.before) - len(frame.after)
    batch = config.batch_size * arguments.world_size
    source: Chunks | SpanPairs
    if config.objective == "cocondenser":
        source = SpanPairs(tokens, longest)
        if batch > len(source.lengths):
            raise ValueError(
                f"`batch_size` must be at most the {len(source.lengths)} texts that are long "
                f"enough for two spans, or a span would be contrasted with its own text, got "
                f"{batch} on all devices"
            )
    else:
        source = Chunks(tokens, longest)
    total = config.max_steps * config.accumulation * batch
    return Stream(source, total, batch, config.seed)


def _model(config: PretrainConfig, tokenizer: Any) -> Any:
    if config.base == "scratch":
        return random_bert(tokenizer, config.layers, config.hidden, config.heads, config.max_length)
    base = trunk_path() if config.base == "default" else resolve(config.base)
    kind = type(AutoConfig.from_pretrained(base))
    is_masked = kind in MODEL_FOR_MASKED_LM_MAPPING
    if config.objective != "mntp":
        if not is_masked:
            raise ValueError(
                f"`objective` {config.objective!r} needs a masked LM, and {config.base!r} is a "
                f"{kind.model_type!r}; a decoder takes 'mntp'"
            )
        model = AutoModelForMaskedLM.from_pretrained(base, dtype=torch.float32)
    else:
        if is_masked or kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError(
                f"`objective` 'mntp' needs a decoder, and {config.base!r} is a {kind.model_type!r}"
            )
        # Weights that are trained are float32; frozen ones stay as the checkpoint has them.
        dtype = torch.float32 if config.lora is None else "auto"
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        # Every token sees all; what is saved says so.
        model.config.is_causal = False
    _check_sizes(config, model, tokenizer)
    return model


def _check_sizes(config: PretrainConfig, model: Any, tokenizer: Any) -> None:
    rows = model.get_output_embeddings().weight.shape[0]
    if rows < len(tokenizer):
        raise ValueError(
            f"the head of {config.base!r} has {rows} terms but its tokenizer {len(tokenizer)}: "
            "the tokenizer is of another model"
        )
    settings = ("max_position_embeddings", "sliding_window")
    limits = [getattr(model.config, name, None) for name in settings]
    limit = min([tokenizer.model_max_length, *(limit for limit in limits if limit)])
    if config.max_length > limit:
        raise ValueError(
            f"`max_length` must be at most the {limit} tokens that {config.base!r} reads, got "
            f"{config.max_length}"
        )


def _adapted(model: Any, preset: LoraPreset) -> Any:
    """The model in peft's wrapper, whose checkpoints the Trainer can go on from."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(
            r=preset.rank,
            lora_alpha=preset.alpha,
            lora_dropout=preset.dropout,
            target_modules=preset.targets,
        ),
    )


def _masker(config: PretrainConfig, tokenizer: Any, tokens: Tokens) -> Masker:
    return Masker(
        tokenizer,
        tokens,
        share=config.share,
        mask_token=_mask_token(config, tokenizer),
        always_mask=config.objective == "mntp",
        next_token=config.objective == "mntp",
        seed=config.seed,
    )


def _mask_token(config: PretrainConfig, tokenizer: Any) -> str:
    ids = tokenizer.get_vocab()
    tokens = [config.mask_token] if config.mask_token else [tokenizer.mask_token]
    if config.objective == "mntp" and not config.mask_token:
        tokens += [UNDERSCORE, tokenizer.unk_token]
    found = [token for token in tokens if token in ids]
    if not found:
        raise ValueError(
            f"`mask_token` must be in the vocabulary of {config.base!r}, got {config.mask_token!r}"
        )
    return cast(str, found[0])


def _loss(config: PretrainConfig, model: Any, decoder: Any, tokenizer: Any) -> Loss:
    if config.objective == "cocondenser":
        return Cocondenser(model, decoder, config.early_layer)
    return MaskedPrediction(
        decoder,
        next_token=config.objective == "mntp",
        flops_weight=config.flops_weight if config.objective == "mlm-flops" else 0.0,
        special=special_ids(tokenizer),
    )


def _save(config: PretrainConfig, model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the model without what was added to it for training."""
    if config.objective == "cocondenser":
        drop_head(model)
    if config.lora is not None:
        model = model.merge_and_unload()

    def write(path: Path) -> None:
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)

    write_folder(folder, write)
