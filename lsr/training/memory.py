"""Memory that a training step freed goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from transformers import TrainerCallback

# Optimiser steps from one time to the next: what was given back must be faulted in again.
STEPS = 10


class ReturnFreed(TrainerCallback):  # type: ignore[misc]
    """Gives freed memory back every STEPS optimiser steps.

    Batches of texts of any length leave holes of any size in glibc's heap: on a CPU the process
    grows to several times of what a step needs. Other C libraries are left alone.
    """

    def __init__(self) -> None:
        """A callback."""
        library = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._trim = getattr(library, "malloc_trim", None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Trim the heap."""
        if self._trim is not None and state.global_step % STEPS == 0:
            self._trim(0)
