"""λ, the strength of a penalty: ramped up to a given weight, or moved to hold a number of terms."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from lsr.training.regularisers import Regulariser
from lsr.training.tally import VectorStatistics


class Strength:
    """λ of one penalty, a number that changes from one optimiser step to the next."""

    ramp_steps: int  # optimiser steps until it has its full strength, or reaches its target

    def value(self) -> float:
        """λ for the coming step."""
        raise NotImplementedError

    def observe(self, mean_terms: float, penalty: float, ranking_loss: float) -> None:
        """Note terms, penalty and loss of the last step.

        Args:
            mean_terms: active terms of a vector.
            penalty: before λ.
            ranking_loss: weighted, without penalties.
        """

    def step(self, pace: float = 1.0) -> None:
        """Go on by one optimiser step.

        Args:
            pace: the step's learning rate, as a share of the largest in the run.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        raise NotImplementedError


class Fixed(Strength):
    """λ · min(1, t/T)² after t optimiser steps, as SPLADE ramps it (arXiv 2107.05720)."""

    def __init__(self, weight: float, ramp_steps: int = 0) -> None:
        """A strength by hand.

        Args:
            weight: λ, not negative.
            ramp_steps: T, optimiser steps; 0 for λ at once.

        Raises:
            ValueError: an argument is out of range.
        """
        if not 0 <= weight < math.inf:
            raise ValueError(f"`weight` must be finite and not negative, got {weight}")
        if ramp_steps < 0:
            raise ValueError(f"`ramp_steps` must be at least 0, got {ramp_steps}")
        self.weight = weight
        self.ramp_steps = ramp_steps
        self.steps = 0

    def value(self) -> float:
        """λ for the coming step."""
        share = min(1.0, self.steps / self.ramp_steps) if self.ramp_steps else 1.0
        return self.weight * share**2

    def step(self, pace: float = 1.0) -> None:
        """Go on by one optimiser step, whatever its `pace`."""
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """The number of steps."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.steps = int(state["steps"])


class Target(Strength):
    """λ that is moved until vectors have a given number of terms, and that holds them there.

    With n the measured terms of a vector (smoothed), n* their target and x = log(n/n*), each step
    changes

        log λ  by  GAIN / √pace · (Δx + √pace · clip(NEAR · x, ±1) / settle_steps).

    That is a PI controller in its incremental form, on logarithms, as both n and λ run over orders
    of magnitude. Read as a rate: λ rises while n falls more slowly than by √pace / settle_steps
    e-folds a step (near the target by NEAR · x times as much), and falls while n falls faster. So λ
    does not wind up on the long way down from 30,000 terms, when a plain integral of the error
    would grow with each step: as soon as n moves as fast as it should, λ stays. The clip bounds the
    speed asked for, since terms that die in a rush do not come back; n is averaged over few enough
    steps to lag little behind at that speed.

    `pace` is the learning rate over its maximum, at least SLOWEST. A model answers λ in proportion
    to it, so the gain grows as it falls; by its root only, since noise passes through the same
    gain. The integral does not slow down with the model: λ must go on drifting as the ranking loss
    falls, and what is not followed in the last steps stays in the model.

    - Noise: Δx telescopes, so noise in n moves λ to and fro but does not add up.
    - Scale: λ starts where the penalty is START of the ranking loss (LOW where there are too few
      terms), hence needs no guess. START is small: the ranking loss of a model that has learned
      nothing has little gradient, against which a penalty of a tenth of it kills most terms in the
      first steps. The first step has λ = 0, since nothing has been measured.
    - Limits: λ is not negative. Vectors that have fewer terms than the target without any penalty
      stay so.
    - Saturation: beyond HIGH times the ranking loss (or below LOW) a stronger (or weaker) penalty
      changes little. There the second term is divided by the square root of how far beyond λ is,
      so that λ grows with the square of time and no longer exponentially. The way back is short if
      the model did not follow, and yet every λ can be reached.
    """

    GAIN = 1.5  # more follows faster and swings more: Adam answers late (docs/LOG.md)
    NEAR = 3.0
    SLOWEST = 0.1  # a smaller pace counts as this much
    LAG = 10  # fewer steps to settle in count as these
    SMOOTHING = 0.05  # of the steps to settle in: so many are averaged
    START, LOW, HIGH = 3e-3, 1e-3, 1.0
    FLOOR = 1e-3  # of the target: a smaller n counts as this much

    def __init__(self, terms: float, settle_steps: int = 50) -> None:
        """A controller.

        Args:
            terms: active terms of a vector on average, positive.
            settle_steps: optimiser steps in which the distance to the target should shrink by
                a factor e, at the largest learning rate. The target is reached after about 10 times
                as many. Fewer than 10 count as 10: under Adam (β₁ = 0.9) a model takes as long to
                follow, and terms would die in a rush.

        Raises:
            ValueError: an argument is out of range.
        """
        if not 0 < terms < math.inf:
            raise ValueError(f"`terms` must be positive and finite, got {terms}")
        if settle_steps < 1:
            raise ValueError(f"`settle_steps` must be at least 1, got {settle_steps}")
        self.terms = terms
        self.settle_steps = max(settle_steps, self.LAG)
        self.ramp_steps = 10 * self.settle_steps
        self._log_weight: float | None = None
        self._observations = 0
        self._mean_terms = 0.0
        self._log_ratio: float | None = None  # of penalty and ranking loss
        self._distance: float | None = None  # x of the last step

    def value(self) -> float:
        """λ for the coming step."""
        return 0.0 if self._log_weight is None else math.exp(self._log_weight)

    def observe(self, mean_terms: float, penalty: float, ranking_loss: float) -> None:
        """Note terms, penalty and loss of the last step; steps with NaN or ∞ are ignored."""
        if not all(math.isfinite(number) for number in (mean_terms, penalty, ranking_loss)):
            return
        self._observations += 1
        share = 1 / min(self._observations, max(1.0, self.SMOOTHING * self.settle_steps))
        self._mean_terms += share * (mean_terms - self._mean_terms)
        if penalty > 0 and ranking_loss > 0:
            ratio = math.log(penalty / ranking_loss)
            old = ratio if self._log_ratio is None else self._log_ratio
            self._log_ratio = old + share * (ratio - old)

    def step(self, pace: float = 1.0) -> None:
        """Move λ."""
        if self._log_ratio is None:
            return
        before = self._distance
        self._distance = math.log(max(self._mean_terms / self.terms, self.FLOOR))
        if self._log_weight is None or before is None:
            start = self.START if self._distance > 0 else self.LOW
            self._log_weight = math.log(start) - self._log_ratio
            return
        root = math.sqrt(max(pace, self.SLOWEST))
        wanted = root * max(-1.0, min(1.0, self.NEAR * self._distance)) / self.settle_steps
        pull = self._log_weight + self._log_ratio
        beyond = pull - math.log(self.HIGH) if wanted > 0 else math.log(self.LOW) - pull
        # Only what is wanted is damped: noise in the other term must cancel out.
        wanted *= math.exp(-max(0.0, beyond) / 2)
        self._log_weight += self.GAIN / root * (self._distance - before + wanted)

    def state_dict(self) -> dict[str, Any]:
        """λ and the running means."""
        return {
            "log_weight": self._log_weight,
            "observations": self._observations,
            "mean_terms": self._mean_terms,
            "log_ratio": self._log_ratio,
            "distance": self._distance,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._log_weight = state["log_weight"]
        self._observations = state["observations"]
        self._mean_terms = state["mean_terms"]
        self._log_ratio = state["log_ratio"]
        self._distance = state["distance"]


class Penalty(nn.Module):
    """A regulariser and its λ."""

    def __init__(self, regulariser: Regulariser, strength: Strength) -> None:
        """A penalty of λ · regulariser."""
        super().__init__()
        self.regulariser = regulariser
        self.strength = strength

    def step(self, seen: VectorStatistics, terms: float, ranking_loss: float, pace: float) -> None:
        """Go on by one optimiser step.

        Args:
            seen: of the step's vectors.
            terms: of a vector, as the model in use has them.
            ranking_loss: weighted, without penalties.
            pace: see `Strength.step`.
        """
        self.strength.observe(terms, seen.penalty, ranking_loss)
        self.strength.step(pace)
        self.regulariser.step(seen.term_shares)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        return {"strength": self.strength.state_dict(), "regulariser": self.regulariser.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.strength.load_state_dict(state["strength"])
        self.regulariser.restore(state["regulariser"])
