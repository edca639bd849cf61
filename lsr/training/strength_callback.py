"""Moves λ in training, and keeps it in the trainer's checkpoints."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from lsr.training.losses import Objective
from lsr.training.tally import Side


class StrengthCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Moves an objective's strengths, and its regularisers, by one step after each optimiser step.

    Their state is in each checkpoint's `trainer_state.json`, and is restored when training resumes
    from it. Terms, share of zero vectors and λ are added to the trainer's logs and its
    `log_history`.
    """

    EVERY = 10  # steps between two looks at what dropout does; so many of these are averaged

    def __init__(self, objective: Objective) -> None:
        """A callback for one objective."""
        self.objective = objective
        # Terms of a vector without dropout over those with it, by side: mean, and of how many.
        self._ratios: dict[Side, tuple[float, int]] = {}

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse an option that would replace this callback by one without an objective.

        Raises:
            ValueError: `restore_callback_states_from_checkpoint` is set.
        """
        if args.restore_callback_states_from_checkpoint:
            raise ValueError(
                "`restore_callback_states_from_checkpoint` must be False: the trainer would make a "
                "new StrengthCallback, which knows no objective; λ is restored without the option"
            )

    def state(self) -> dict[str, Any]:
        """What the trainer writes into a checkpoint."""
        sides = {
            side: self.objective.penalty(side).state()
            | {"without_dropout": self._ratios.get(side, (1.0, 0))}
            for side in self.objective.sides
        }
        return {"args": {}, "attributes": {"sides": sides}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore the strengths when training resumes.

        Raises:
            ValueError: the checkpoint has no strengths, or those of other sides.
        """
        if state.global_step == 0:
            return
        saved = state.stateful_callbacks.get(type(self).__name__)
        sides = {} if saved is None else saved["attributes"]["sides"]
        if sides.keys() != set(self.objective.sides):
            raise ValueError(
                f"the checkpoint has strengths of {sorted(sides)}, but the objective regularises "
                f"{sorted(self.objective.sides)}: resume with the settings of the first run"
            )
        for side in self.objective.sides:
            self.objective.penalty(side).restore(sides[side])
            ratio, count = sides[side]["without_dropout"]
            self._ratios[side] = (ratio, count)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the penalties what the step saw."""
        objective, tally = self.objective, self.objective.tally
        tally.take()
        pace = _pace(kwargs.get("optimizer"))
        if state.global_step % self.EVERY == 1:
            for side, ratio in objective.probe.ratios(objective.model, objective.sides).items():
                mean, count = self._ratios.get(side, (1.0, 0))
                count = min(count + 1, self.EVERY)
                self._ratios[side] = (mean + (ratio - mean) / count, count)
        for side in objective.sides:
            seen = tally.statistics[side]
            objective.penalty(side).step(seen, self._terms(side), tally.ranking_loss, pace)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add terms, share of zero vectors and λ to what is logged in training."""
        if not logs or "loss" not in logs:
            return
        added = {}
        for side, seen in self.objective.tally.statistics.items():
            added[f"{side}_terms"] = self._terms(side)
            added[f"{side}_zero_share"] = seen.zero_share
            if side in self.objective.sides:
                added[f"{side}_weight"] = self.objective.penalty(side).strength.value()
        logs.update(added)
        if state.log_history:
            state.log_history[-1].update(added)

    def _terms(self, side: Side) -> float:
        """Of a vector, as it will be when the model is used."""
        return (
            self.objective.tally.statistics[side].mean_terms * self._ratios.get(side, (1.0, 0))[0]
        )


def _pace(optimizer: Any) -> float:
    """Its learning rate over the largest, which a scheduler notes as the initial one."""
    groups = [] if optimizer is None else optimizer.param_groups
    for group in groups:
        if group.get("initial_lr"):
            return float(group["lr"] / group["initial_lr"])
    return 1.0
