"""Recipes: one small TOML file for each way to train, read into typed settings and checked.

A recipe names its paper, how it departs from it, and what to expect. `[tiny]` holds the settings
that change under `--tiny`, in tables of the same names. Every other setting has a default.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from lsr.encoders.autoencoder import AutoencoderConfig
from lsr.encoders.build import ModelConfig
from lsr.encoders.decoder_lm import DecoderConfig
from lsr.training import tiny
from lsr.training.pretraining import PretrainConfig

# pydantic reads these, in this file and for the settings of models.
_STRICT = {"extra": "forbid"}


@dataclass(frozen=True)
class Data:
    """The training data.

    `source` is a BEIR folder, a JSONL or TSV file of pairs or triples, an ir_datasets id, `pydoc`,
    or "generated" (the collection of `lsr.training.tiny`). With `pseudo_queries` it is a corpus,
    and that many queries are made of each document.
    """

    __pydantic_config__ = _STRICT
    source: str = ""
    split: str = "train"
    dev_split: str = ""  # "": a share of the training queries, `held_out`
    held_out: float = 0.05  # in [0, 1)
    pseudo_queries: int = 0  # made of each document
    removed: float = 0.5  # share of them whose passage is taken out of the document, in [0, 1]
    limit: int | None = None  # examples, or documents of a corpus
    negatives: int = 0  # mined for each query
    # "neighbours": by all teachers together, where there are neighbours.
    miners: tuple[Literal["bm25", "dense", "neighbours"], ...] = ("bm25",)
    mining_depth: int = 100  # candidates of a miner
    # Queries that the documents of each batch are compared with, sentences of the collection among
    # them: see `lsr.training.neighbours`.
    neighbours: int = 0
    margin: float = 0.05  # a negative scores at most (1 − margin) of its positive


@dataclass(frozen=True)
class Teachers:
    """Who scores the documents of each query, for "kl" and "margin_mse".

    `names` holds "dense" (the packaged trunk) or "dense:MODEL", "bm25", "sparse:CHECKPOINT",
    "cross-encoder:MODEL" and "scores:FILE" (query id, document id, score). All rows are scored
    before training, and the scores kept; with `live` each process scores the rows of its batches
    as they come, and keeps nothing. "affine" takes means and deviations over all rows, so that it
    cannot be live. `data.neighbours` needs teachers that compare vectors: dense, bm25 and sparse.
    """

    __pydantic_config__ = _STRICT
    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()  # of the teachers, in the order of their names; (): equal
    combine: Literal["minmax", "affine"] = "minmax"
    scale: float = 30.0  # of the mean of normalised scores
    live: bool = False


@dataclass(frozen=True)
class Objectives:
    """The loss.

    Each side has either a number of terms to hold (`document_terms`) or λ (`document_weight`), or
    neither: then it has no regulariser.
    """

    __pydantic_config__ = _STRICT
    infonce: float = 0.0
    kl: float = 0.0
    margin_mse: float = 0.0
    temperature: float = 1.0
    teacher_temperature: float = 1.0
    regulariser: Literal["flops", "idf-flops", "df-flops", "l1"] = "flops"
    query_regulariser: Literal["flops", "l1"] = "flops"
    # Of idf-flops, whose factor is idf^(2 − alpha): at 2 it is plain FLOPS, as in the paper's code.
    alpha: float = 2.0
    threshold: int | None = None  # ℓ0 mask: only documents of more terms
    document_terms: float | None = None
    document_weight: float | None = None
    query_terms: float | None = None
    query_weight: float | None = None
    # Optimiser steps until λ has its full weight, or the number of terms is reached (at least 100).
    ramp_steps: int = 1000
    mini_batch_size: int | None = None  # GradCache: texts in one pass


@dataclass(frozen=True)
class Steps:
    """The optimisation; names as in transformers' TrainingArguments."""

    __pydantic_config__ = _STRICT
    max_steps: int = -1
    epochs: float = 1.0
    batch_size: int = 32  # queries, on each device
    accumulation: int = 1
    learning_rate: float = 2e-5
    query_learning_rate: float | None = None  # of learned query weights
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    bf16: bool = False  # matrix products, where the device has hardware for it
    seed: int = 0
    save_steps: int = 500
    logging_steps: int = 10
    soup: int = 0  # this many last checkpoints are averaged at the end


@dataclass(frozen=True)
class Recipe:
    """One way to train; exactly one of `model`, `decoder` and `autoencoder` is given."""

    __pydantic_config__ = _STRICT
    name: str
    paper: str
    deviations: str
    expected: str
    data: Data = field(default_factory=Data)
    teachers: Teachers = field(default_factory=Teachers)
    objective: Objectives = field(default_factory=Objectives)
    training: Steps = field(default_factory=Steps)
    pretraining: PretrainConfig | None = None
    model: ModelConfig | None = None
    decoder: DecoderConfig | None = None
    autoencoder: AutoencoderConfig | None = None

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        given = [n for n in ("model", "decoder", "autoencoder") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                "a recipe must have exactly one of [model], [decoder] and [autoencoder], got "
                f"{given}"
            )
        objective = self.objective
        for side in ("document", "query"):
            if getattr(objective, f"{side}_terms") and getattr(objective, f"{side}_weight"):
                raise ValueError(
                    f"objective.{side}_terms and objective.{side}_weight exclude each other"
                )
        if (objective.kl or objective.margin_mse) and not self.teachers.names:
            raise ValueError("objective.kl and objective.margin_mse need teachers.names, got none")
        if self.teachers.live and not self.teachers.names:
            raise ValueError("teachers.live needs teachers.names, got none")
        if self.teachers.live and self.teachers.combine == "affine":
            raise ValueError(
                "teachers.live excludes teachers.combine 'affine', whose statistics are of all "
                "rows: take 'minmax', or let scores be computed before"
            )
        self._check_weights()
        self._check_generated()
        if self.data.neighbours:
            self._check_neighbours()
        elif "neighbours" in self.data.miners:
            raise ValueError("data.miners 'neighbours' needs data.neighbours, got 0")
        if not 0 <= self.data.held_out < 1:
            raise ValueError(f"data.held_out must be in [0, 1), got {self.data.held_out}")

    def _check_generated(self) -> None:
        """Refuse models and scores of the generated collection on other data."""
        if self.data.source in ("", tiny.GENERATED):
            return
        bases = {
            f"{table}.base": settings.base
            for table in ("pretraining", "model", "decoder")
            if (settings := getattr(self, table)) is not None
        }
        made = {key: base for key, base in bases.items() if base.startswith(tiny.MODEL)}
        if f"scores:{tiny.GENERATED}" in self.teachers.names:
            made["teachers.names"] = f"scores:{tiny.GENERATED}"
        for key, value in made.items():
            raise ValueError(
                f"{key} {value!r} knows only the words of data.source {tiny.GENERATED!r}, got "
                f"data.source {self.data.source!r}: leave out --tiny to train on your own data "
                "(with few steps: --set training.max_steps=…), or leave out --data"
            )

    def _check_weights(self) -> None:
        names, weights = self.teachers.names, self.teachers.weights
        if weights and len(weights) != len(names):
            raise ValueError(
                f"teachers.weights must hold one for each of {len(names)} teachers, got {weights}"
            )
        if weights and not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"teachers.weights must be positive and finite, got {weights}")
        if weights and self.teachers.combine == "affine":
            raise ValueError("teachers.weights excludes teachers.combine 'affine'")

    def _check_neighbours(self) -> None:
        data, teachers = self.data, self.teachers
        looked_up = ("binary", "idf", "learned-idf")
        if data.neighbours < self.training.batch_size:
            raise ValueError(
                "data.neighbours must be at least training.batch_size, "
                f"{self.training.batch_size}, got {data.neighbours}"
            )
        if self.model is None or self.model.queries not in looked_up:
            raise ValueError(
                f"data.neighbours needs model.queries of {', '.join(looked_up)}: others would pass "
                "the model for each"
            )
        if not self.objective.kl or self.objective.margin_mse:
            raise ValueError("data.neighbours needs objective.kl, and excludes margin_mse")
        if not data.negatives:
            raise ValueError("data.neighbours needs data.negatives")
        if data.pseudo_queries and self.objective.infonce:
            raise ValueError(
                "data.neighbours with data.pseudo_queries excludes objective.infonce: a document "
                "holds its queries word for word"
            )
        if teachers.live or teachers.combine != "minmax":
            raise ValueError("data.neighbours excludes teachers.live and teachers.combine 'affine'")
        kinds = ("dense", "bm25", "sparse")
        for name in teachers.names:
            if name.partition(":")[0] not in kinds:
                raise ValueError(
                    f"data.neighbours needs teachers of {', '.join(kinds)}, got {name!r}"
                )


def names() -> list[str]:
    """The names of the packaged recipes."""
    folder = files("lsr.training") / "recipes"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir())


def load_recipe(
    name: str, *, tiny: bool = False, settings: Mapping[str, str] | None = None
) -> Recipe:
    """The packaged recipe of that name, or the one in the TOML file of that path.

    Args:
        name: see `names`.
        tiny: apply its `[tiny]` settings.
        settings: replace those of the recipe, as {"training.batch_size": "8"}; values as in TOML,
            or bare words.

    Raises:
        FileNotFoundError: no such recipe.
        ValueError: settings are unknown or have bad values; all of them are named.
    """
    if name in names():
        text = (files("lsr.training") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise FileNotFoundError(
            f"no recipe {name!r}: there is no such file, and the packaged recipes are "
            f"{', '.join(names())}"
        )
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name}: not valid TOML: {error}") from error
    changes = values.pop("tiny", None)
    if tiny:
        if changes is None:
            raise ValueError(f"{name}: the recipe has no [tiny] settings")
        _merge(values, changes)
    for key, text in (settings or {}).items():
        _set(values, key, _parse(text))
    values.setdefault("name", Path(name).stem)
    return _checked(name, values)


def _checked(name: str, values: dict[str, Any]) -> Recipe:
    from pydantic import TypeAdapter, ValidationError

    try:
        recipe: Recipe = TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}, "
            f"got {problem['input']!r}"
            if problem["loc"]
            else problem["msg"].removeprefix("Value error, ")
            for problem in error.errors()
        ]
        raise ValueError("\n  ".join([f"{name}: the recipe cannot be used:", *problems])) from error
    return recipe


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(key), dict):
            _merge(values[key], change)
        else:
            values[key] = change


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ValueError(f"setting {key!r}: {table!r} is no table")
    values[last] = value


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def describe(recipe: Recipe) -> Sequence[tuple[str, str]]:
    """The fields in which a recipe describes itself, with their texts."""
    return [
        (field.name, str(getattr(recipe, field.name)))
        for field in fields(recipe)
        if field.name in ("name", "paper", "deviations", "expected")
    ]
