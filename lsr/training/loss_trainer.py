"""transformers' Trainer for losses of several parts, with its progress bar and log file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from lsr.training.run_files import write_whole

# From a model and a batch to the parts of the loss, which are summed.
Loss = Callable[[Any, dict[str, Tensor]], dict[str, Tensor]]


class LossTrainer(Trainer):  # type: ignore[misc]
    """The Trainer with our losses; it keeps the order of examples and logs parts of the loss."""

    def __init__(self, loss: Loss, **settings: Any) -> None:
        super().__init__(**settings)
        # This callback would print each log to stdout.
        self.remove_callback(PrinterCallback)
        if sys.stderr.isatty():
            self.add_callback(LossProgress())
        # Our loss is a mean over one pass, so the Trainer must divide by the number of passes.
        self.model_accepts_loss_kwargs = False
        self._loss = loss
        self._parts: dict[str, Tensor] = {}
        self._passes = 0

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        # The model's forward pass has this context already; decoder and head are used after it.
        with self.accelerator.autocast():
            parts = self._loss(model, inputs)
        for name, part in parts.items():
            self._parts[name] = self._parts.get(name, 0) + part.detach()
        self._passes += 1
        return sum(parts.values(), start=next(iter(parts.values())).new_zeros(()))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if len(self._parts) > 1:
            for name, part in self._parts.items():
                logs[name] = float(self.accelerator.reduce(part, "mean")) / self._passes
        self._parts, self._passes = {}, 0
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class LossProgress(ProgressCallback):  # type: ignore[misc]
    """The Trainer's bar with the loss beside it, instead of lines on stdout."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.training_bar is not None and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")


class Metrics(TrainerCallback):  # type: ignore[misc]
    """Writes the whole history of logs, which checkpoints restore: no step is there twice."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            lines = [json.dumps(entry) + "\n" for entry in state.log_history]
            write_whole(self._path, "".join(lines))
