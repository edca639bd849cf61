"""The guard watches the vectors in training, warns early, and stops the run with a reason.

SPLADE training fails silently: the loss may fall while every vector goes to zero, or while none
gets sparse. The guard looks only at vectors that training computes anyway.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback

from lsr.training.tally import Tally, VectorStatistics

logger = logging.getLogger(__name__)

# Optimiser steps that a state must last for training to stop; half of them for a warning.
PATIENCE = 50
# Steps before the first look: the first vectors of an untrained head may be anything.
GRACE = 20
ZERO_VECTORS = 0.5  # share of vectors without a term
TOO_MANY_TERMS = 20  # times the target
TOO_MANY_WITHOUT_TARGET = 2000  # terms
ALWAYS_ON = 0.9  # of the documents hold the term
MANY_ALWAYS_ON = 0.25  # share of a document's terms that are such
GRADIENT_NORM = 1e4
# Of the teachers' distribution over a query's documents: mean probability of the likeliest.
ONE_HOT, UNIFORM = 0.995, 1.02


class TrainingStopped(RuntimeError):
    """The guard has stopped training; the message has the reason and the remedy."""


class Finding(NamedTuple):
    """A state in which training goes wrong."""

    name: str
    reason: str
    remedy: str
    stops: bool = True  # training, if the state lasts; False: there is only a warning


class Guard(TrainerCallback):  # type: ignore[misc]
    """Looks at the statistics of vectors after each optimiser step.

    Warnings go to the log. A state that lasts ends training; `stopped` then holds the finding.
    """

    def __init__(
        self,
        tally: Tally,
        *,
        document_terms: float | None = None,
        query_terms: float | None = None,
        ramp_steps: int = 0,
        patience: int = PATIENCE,
        grace: int = GRACE,
    ) -> None:
        """A guard for one run.

        Args:
            tally: the objective's, whose `statistics` it reads.
            document_terms: the controller's target; None where there is none.
            query_terms: the same for queries.
            ramp_steps: steps during which long vectors are expected.
            patience: steps that a state must last to stop training.
            grace: steps before the first look.
        """
        self.tally = tally
        self.targets = {"document": document_terms, "query": query_terms}
        self.ramp_steps = ramp_steps
        self.patience = patience
        self.grace = grace
        self.stopped: Finding | None = None
        self._lasted: dict[str, int] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the vectors of this step."""
        if state.global_step <= self.grace:
            return
        found = []
        for side, seen in self.tally.statistics.items():
            ramped = state.global_step > self.ramp_steps
            found += vectors(side, seen, self.targets[side], ramped)
        self._note(found, state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Look at loss and gradient norm, which the trainer has computed."""
        for finding in numbers(logs or {}):
            if finding.stops:
                self._stop(finding, state, control)
            else:
                logger.warning("step %d: %s; %s", state.global_step, finding.reason, finding.remedy)

    def _note(self, found: Sequence[Finding], state: Any, control: Any) -> None:
        self._lasted = {f.name: self._lasted.get(f.name, 0) + 1 for f in found}
        for finding in found:
            lasted = self._lasted[finding.name]
            if lasted == max(1, self.patience // 2):
                logger.warning("step %d: %s; %s", state.global_step, finding.reason, finding.remedy)
            if finding.stops and lasted >= self.patience:
                self._stop(finding, state, control)

    def _stop(self, finding: Finding, state: Any, control: Any) -> None:
        if self.stopped is None:
            self.stopped = finding
            logger.error("step %d: %s", state.global_step, finding.reason)
        control.should_training_stop = True

    def raise_if_stopped(self) -> None:
        """To be called after `Trainer.train`.

        Raises:
            TrainingStopped: with the reason and the remedy.
        """
        if self.stopped is not None:
            raise TrainingStopped(f"{self.stopped.reason}. {self.stopped.remedy}")


def vectors(side: str, seen: VectorStatistics, target: float | None, ramped: bool) -> list[Finding]:
    """What is wrong with the vectors of one side.

    Args:
        side: "document" or "query".
        seen: of one step.
        target: terms that the controller holds, or None.
        ramped: whether λ has reached its full strength.
    """
    found = []
    if seen.zero_share > ZERO_VECTORS:
        found.append(
            Finding(
                f"{side}: zero",
                f"{100 * seen.zero_share:.0f} % of the {side} vectors have no term left",
                f"λ is too large or rises too fast: lower objective.{side}_weight (or set "
                f"objective.{side}_terms and let it be found), lengthen objective.ramp_steps, or "
                "lower the learning rate",
            )
        )
    most = target * TOO_MANY_TERMS if target else TOO_MANY_WITHOUT_TARGET
    if ramped and seen.mean_terms > most:
        found.append(
            Finding(
                f"{side}: dense",
                f"{side} vectors have {seen.mean_terms:.0f} terms on average after the ramp, more "
                f"than {most:.0f}",
                f"λ is too small: raise objective.{side}_weight, or set objective.{side}_terms; "
                "calibrate the head (model.calibrate_terms) if they never were sparse",
            )
        )
    always = int((seen.term_shares > ALWAYS_ON).sum())
    if ramped and seen.mean_terms > 0 and always > max(3.0, MANY_ALWAYS_ON * seen.mean_terms):
        found.append(
            Finding(
                f"{side}: always on",
                f"{always} terms are active in more than {100 * ALWAYS_ON:.0f} % of the {side} "
                f"vectors, which have {seen.mean_terms:.0f} terms on average: such terms tell no "
                "texts apart",
                "penalise frequent terms more (objective.regulariser 'df-flops'), or calibrate the "
                "head (model.calibrate_terms)",
                stops=False,
            )
        )
    return found


def numbers(logs: dict[str, Any]) -> list[Finding]:
    """What is wrong with the numbers that the trainer logs."""
    found = []
    for name in ("loss", "grad_norm"):
        value = logs.get(name)
        if value is not None and not math.isfinite(float(value)):
            found.append(
                Finding(
                    f"{name}: not finite",
                    f"the {name.replace('_', ' ')} is {value}",
                    "lower the learning rate, lengthen training.warmup, train in float32, or "
                    "calibrate the head (model.calibrate_terms)",
                )
            )
    norm = logs.get("grad_norm")
    if norm is not None and GRADIENT_NORM < float(norm) < math.inf:
        found.append(
            Finding(
                "grad_norm: large",
                f"the gradient norm is {float(norm):.3g}, above {GRADIENT_NORM:.0g}",
                "calibrate the head (model.calibrate_terms), or divide the scores by a larger "
                "objective.temperature",
                stops=False,  # it is clipped, and may pass
            )
        )
    return found


def check_temperature(scores: torch.Tensor, temperature: float) -> None:
    """Refuse teacher scores that teach nothing at this temperature.

    Args:
        scores: of the documents of each of n queries, float, shape (n, documents).
        temperature: the scores are divided by it before the softmax.

    Raises:
        TrainingStopped: nearly all probability lies on one document, or it is spread evenly.
    """
    largest = float(torch.softmax(scores.double() / temperature, dim=1).amax(1).mean())
    documents = scores.shape[1]
    if largest > ONE_HOT:
        raise TrainingStopped(
            f"at objective.teacher_temperature {temperature:g} the teachers give the best document "
            f"{largest:.4f} of the probability on average: distillation would learn labels, not "
            "scores. Raise objective.teacher_temperature or lower teachers.scale"
        )
    if largest < UNIFORM / documents:
        raise TrainingStopped(
            f"at objective.teacher_temperature {temperature:g} the teachers tell the {documents} "
            f"documents of a query hardly apart: the best has {largest:.4f} of the probability on "
            "average. Lower objective.teacher_temperature or raise teachers.scale"
        )
