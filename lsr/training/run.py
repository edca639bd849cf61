"""Training by a recipe, in a run directory that can go on after a kill.

run/
  recipe.json, environment.json   the settings, and the versions of the software
  rows.jsonl, scores/, …          the data, see `lsr.training.prepare`
  base/, pretrained/              what the model starts from, where the recipe makes it
  embeddings/                     by a frozen base, of all texts
  checkpoints/                    the trainer's, in sentence-transformers' layout
  metrics.jsonl, tensorboard/     losses, terms, λ, learning rate, gradient norm by step
  curves.svg                      the same as a picture
  model/                          the result, in sentence-transformers' layout
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from transformers import TrainerCallback

from lsr.encoders.stock import open_sparse_encoder
from lsr.progress import Progress
from lsr.training import tiny
from lsr.training.arguments import arguments, in_bfloat16
from lsr.training.curves import write_curves
from lsr.training.examples import Examples
from lsr.training.guard import Guard, check_temperature
from lsr.training.known_positives import KnownPositives
from lsr.training.loss_trainer import Metrics
from lsr.training.losses import Objective
from lsr.training.neighbours import WholeBatch
from lsr.training.prepare import Prepared, batches, is_main_process
from lsr.training.recipe import Recipe
from lsr.training.regularisers import L1, DFFlops, Flops, Regulariser
from lsr.training.run_files import last_whole, write_folder, write_whole
from lsr.training.scoring import Labelled
from lsr.training.sparsity import Fixed, Penalty, Strength, Target
from lsr.training.strength_callback import StrengthCallback
from lsr.training.tally import Side

SOFTWARE = ("torch", "transformers", "sentence-transformers", "datasets", "accelerate", "peft")


def open_run(recipe: Recipe, out: Path) -> None:
    """Make the run directory, or check that it is this recipe's.

    The texts that describe a recipe may differ: they change no result.

    Raises:
        ValueError: it holds a run of other settings; the first that differs is named.
    """
    path = out / "recipe.json"
    about = json.loads(json.dumps(asdict(recipe)))
    if path.exists():
        was = json.loads(path.read_text(encoding="utf-8"))
        for key, before, now in _differences(was, about):
            if key in ("paper", "deviations", "expected"):
                continue
            raise ValueError(
                f"{out}: holds a run with {key} = {before!r}, not {now!r}: take another directory, "
                "or remove this one"
            )
        return
    write_whole(path, json.dumps(about, indent=2))
    versions = {name: importlib.metadata.version(name) for name in SOFTWARE if _installed(name)}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    products = "bfloat16" if in_bfloat16(recipe) else "float32"
    environment = {"python": platform.python_version(), "device": device, "products": products}
    environment |= versions
    write_whole(out / "environment.json", json.dumps(environment, indent=2))


def build(recipe: Recipe, prepared: Prepared, out: Path) -> Any:
    """The SparseEncoder that training starts from, the same at every call.

    Raises:
        FileNotFoundError: there is no such base.
        ValueError: it cannot be used, with the reason.
    """
    from transformers import set_seed

    set_seed(recipe.training.seed)
    documents = prepared.train.documents
    if recipe.autoencoder is not None:
        from lsr.encoders.autoencoder import build_autoencoder

        return build_autoencoder(recipe.autoencoder)
    pretrained = None
    if recipe.pretraining is not None:
        from lsr.training.pretraining import pretrain

        config = recipe.pretraining
        pretrained = str(
            pretrain(
                replace(config, base=_base(config.base, out, recipe.training.seed)),
                documents.values,
                out / "pretrained",
            )
        )
    if recipe.model is not None:
        from lsr.encoders.build import build_model

        model = recipe.model
        base = pretrained or _base(model.base, out, recipe.training.seed)
        weights = _idf(base, documents.values()) if model.queries.endswith("idf") else None
        return build_model(replace(model, base=base), prepared.sample(), weights)
    from lsr.encoders.decoder_lm import build_decoder

    assert recipe.decoder is not None
    decoder = recipe.decoder
    base = pretrained or _base(decoder.base, out, recipe.training.seed)
    return build_decoder(replace(decoder, base=base), prepared.sample())


def train(
    recipe: Recipe,
    prepared: Prepared,
    model: Any,
    out: Path,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress = lambda step, done, total: None,
) -> Path:
    """Train a model that `build` gave, or go on after the last checkpoint; returns out/model.

    Args:
        recipe: loss and optimisation.
        prepared: the data.
        model: it is trained in place.
        out: the run directory.
        callbacks: for the trainer, besides ours.
        progress: called while a frozen base embeds the texts, see `embed_once`.

    Raises:
        TrainingStopped: by the guard, with the reason and the remedy; checkpoints stay.
        ValueError: data or settings cannot be used.
    """
    from sentence_transformers import SparseEncoderTrainer
    from transformers import PrinterCallback, ProgressCallback

    from lsr.encoders.lora import merge_lora
    from lsr.encoders.query_weights import NonNegativeQueryWeights

    if recipe.objective.kl and (scores := prepared.scores()):
        check_temperature(torch.tensor(scores), recipe.objective.teacher_temperature)
    ours: list[TrainerCallback] = []
    guard = None
    if recipe.autoencoder is not None:
        from lsr.encoders.autoencoder import csr_loss

        loss = csr_loss(model, recipe.autoencoder)
    else:
        loss = objective_of(recipe, model)
        guard = Guard(
            loss.tally,
            document_terms=recipe.objective.document_terms,
            query_terms=recipe.objective.query_terms,
            # A target may take longer than `ramp_steps`.
            ramp_steps=max(
                [
                    recipe.objective.ramp_steps,
                    *(loss.penalty(side).strength.ramp_steps for side in loss.sides),
                ]
            ),
        )
        ours = [StrengthCallback(loss), guard, NonNegativeQueryWeights()]
    collator, modules = _modules_in_training(recipe, prepared.train, model, out, progress)
    trainer = SparseEncoderTrainer(
        model=model,
        args=arguments(recipe, model, prepared.train.n_negatives, out),
        train_dataset=prepared.train.dataset(),
        data_collator=collator,
        loss=loss,
        callbacks=[*ours, Metrics(out / "metrics.jsonl"), *_tensorboard(out), *callbacks],
    )
    if prepared.label is not None:
        trainer.data_collator = Labelled(trainer.data_collator, prepared.label)
    if prepared.neighbours is not None:
        most = recipe.data.neighbours
        trainer.data_collator = WholeBatch(trainer.data_collator, prepared.neighbours, most)
    if recipe.autoencoder is None and recipe.objective.infonce:
        trainer.data_collator = KnownPositives(trainer.data_collator, prepared.train)
    trainer.remove_callback(PrinterCallback)
    if not sys.stderr.isatty():
        trainer.remove_callback(ProgressCallback)
    with modules:
        trainer.train(resume_from_checkpoint=last_whole(out / "checkpoints"))
    if guard is not None:
        guard.raise_if_stopped()
    if recipe.training.soup:
        _average(trainer, out / "checkpoints", recipe.training.soup)
    if trainer.is_world_process_zero():
        write_curves(trainer.state.log_history, out / "curves.svg")
        if not (out / "model").exists():
            write_folder(out / "model", lambda folder: merge_lora(model).save(str(folder)))
    trainer.accelerator.wait_for_everyone()
    return out / "model"


def objective_of(recipe: Recipe, model: Any) -> Objective:
    """The loss of a recipe.

    Raises:
        ValueError: its settings do not fit the model.
    """
    settings = recipe.objective
    rankings = {
        name: weight
        for name in ("infonce", "kl", "margin_mse")
        if (weight := getattr(settings, name))
    }
    penalties: dict[Side, Penalty] = {}
    if (strength := _strength(recipe, "document")) is not None:
        penalties["document"] = Penalty(_regulariser(recipe, model), strength)
    if (strength := _strength(recipe, "query")) is not None:
        regulariser = L1() if settings.query_regulariser == "l1" else Flops()
        penalties["query"] = Penalty(regulariser, strength)
    return Objective(
        model,
        rankings=rankings,
        temperature=settings.temperature,
        teacher_temperature=settings.teacher_temperature,
        penalties=penalties,
        mini_batch_size=settings.mini_batch_size,
    )


def _strength(recipe: Recipe, side: str) -> Strength | None:
    settings = recipe.objective
    terms: float | None = getattr(settings, f"{side}_terms")
    weight: float | None = getattr(settings, f"{side}_weight")
    if terms:
        # The target is reached after about ten times as many steps: at the end of the ramp.
        return Target(terms, settle_steps=max(1, settings.ramp_steps // 10))
    return Fixed(weight, settings.ramp_steps) if weight else None


def _regulariser(recipe: Recipe, model: Any) -> Regulariser:
    settings = recipe.objective
    if settings.regulariser == "l1":
        return L1(settings.threshold)
    if settings.regulariser == "df-flops":
        return DFFlops(model.get_embedding_dimension(), threshold=settings.threshold)
    if settings.regulariser == "flops":
        return Flops(threshold=settings.threshold)
    weights = query_weights(model)
    if weights is None:
        raise ValueError(
            "objective.regulariser 'idf-flops' needs queries of weights: model.queries 'idf' or "
            "'learned-idf'"
        )
    # Special tokens weigh 0, and are active in no document.
    return Flops(weights.clamp_min(1e-3), settings.alpha, settings.threshold)


def query_weights(model: Any) -> torch.Tensor | None:
    """The weight of each term in inference-free queries, (V,), a copy; None for others."""
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    for module in model.modules():
        if isinstance(module, SparseStaticEmbedding):
            weights: torch.Tensor = module.weight.detach().clone()
            return weights
    return None


def _tensorboard(out: Path) -> list[TrainerCallback]:
    """The callback that writes out/tensorboard, where TensorBoard is installed."""
    if not (_installed("tensorboard") and is_main_process()):
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    writer = SummaryWriter(str(out / "tensorboard"))
    return [TensorBoardCallback(writer)]


def _average(trainer: Any, checkpoints: Path, count: int) -> None:
    """Put the mean of the last checkpoints' weights into the model (arXiv:2203.05482)."""
    from sentence_transformers.base.modules.module import Module

    paths = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    totals: dict[str, torch.Tensor] = {}
    kinds = {type(part) for part in trainer.model.modules() if isinstance(part, Module)}
    names = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in kinds}
    ours = {name: kind for name, kind in names.items() if name.startswith("lsr.")}
    for path in paths[-count:]:
        loaded = open_sparse_encoder(path, ours, "cpu")
        for name, weights in loaded.state_dict().items():
            if weights.is_floating_point():
                totals[name] = totals.get(name, 0) + weights.double()
    mean = {name: total / len(paths[-count:]) for name, total in totals.items()}
    state = trainer.model.state_dict()
    trainer.model.load_state_dict(
        {name: mean.get(name, state[name]).to(state[name]) for name in state}
    )


def _modules_in_training(
    recipe: Recipe, examples: Examples, model: Any, out: Path, progress: Progress
) -> tuple[Any, AbstractContextManager[None]]:
    """The trainer's collator (None for the stock one), and the context in which it trains.

    Over a frozen base, both take embeddings that were computed once.
    """
    if recipe.autoencoder is None:
        return None, nullcontext()
    from sentence_transformers.sparse_encoder.data_collator import SparseEncoderDataCollator

    from lsr.encoders.autoencoder import autoencoder_alone, base_embeddings

    texts = partial(_texts, examples)
    embeddings = base_embeddings(model, recipe.autoencoder, texts, out / "embeddings", progress)
    if embeddings is None:
        return None, nullcontext()
    return SparseEncoderDataCollator(embeddings.features), autoencoder_alone(model)


def _texts(examples: Examples) -> Iterator[str]:
    """All texts of the rows, in their order."""
    for row in examples.rows:
        yield row.query
        yield from examples.texts(row)


def check_models(recipe: Recipe) -> None:
    """Find the models that a recipe names, or download them: preparing the data may take hours.

    Raises:
        FileNotFoundError: one of them is neither here nor on the hub.
    """
    from lsr.encoders.build import TRAINED
    from lsr.encoders.load import resolve

    # What is pretrained here is what the model starts from.
    start = recipe.pretraining or recipe.model or recipe.decoder or recipe.autoencoder
    assert start is not None
    named = [start.base]
    for teacher in recipe.teachers.names:
        kind, _, what = teacher.partition(":")
        if kind in ("dense", "sparse", "cross-encoder") and what:
            named.append(what)
    for name in named:
        if name not in ("default", TRAINED, "scratch") and not name.startswith(tiny.MODEL):
            resolve(name)


def _base(base: str, out: Path, seed: int) -> str:
    """The base's name, or the small random model that `tiny-…` stands for."""
    if not base.startswith(tiny.MODEL):
        return base
    folder = out / "base"
    architecture = base.removeprefix(tiny.MODEL)
    with FileLock(out / "lock"):
        if not folder.exists():
            write_folder(folder, lambda partial: tiny.write_model(partial, architecture, seed))
    return str(folder)


def _idf(base: str, texts: Any) -> np.ndarray:
    from transformers import AutoTokenizer

    from lsr.encoders.build import TRAINED
    from lsr.encoders.load import default_tokenizer, resolve
    from lsr.encoders.query_weights import corpus_idf

    tokenizer = (
        default_tokenizer()
        if base in ("default", TRAINED)
        else AutoTokenizer.from_pretrained(resolve(base))
    )
    return corpus_idf(tokenizer, batches(texts))


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name.replace("-", "_")) is not None


def _differences(was: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in sorted(was.keys() | now.keys()):
            yield from _differences(was.get(name), now.get(name), f"{key}.{name}".lstrip("."))
    elif was != now:
        yield key, was, now
