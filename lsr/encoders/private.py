"""The private names of other libraries that have no public one. No other file uses any.

Tested with transformers 5.23; pyproject.toml bounds its versions by the next major one.
"""

from __future__ import annotations

from typing import Any


def attention_of(model: Any) -> str:
    """The name of a Hugging Face model's attention, as its `set_attn_implementation` takes it."""
    return str(model.config._attn_implementation)


def initialise(model: Any, part: Any) -> None:
    """Give the modules of a new part of a Hugging Face model weights as the model's kind begins."""
    part.apply(model._init_weights)
