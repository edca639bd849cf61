"""Low-rank adapters for decoder LLMs with peft: presets from papers, merging, 4-bit weights."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LoraPreset:
    """Settings of a low-rank adapter (Hu et al. 2021, arXiv:2106.09685); the head gets none.

    Attributes:
        rank: r, at least 1.
        alpha: α, at least 1; updates are scaled by α / r.
        dropout: applied to the adapter's input, in [0, 1).
        targets: a regular expression for the names of adapted layers, or peft's "all-linear".
    """

    __pydantic_config__ = {"extra": "forbid"}
    rank: int
    alpha: int
    dropout: float = 0.0
    targets: str = "all-linear"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.rank < 1:
            raise ValueError(f"`rank` must be at least 1, got {self.rank}")
        if self.alpha < 1:
            raise ValueError(f"`alpha` must be at least 1, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), got {self.dropout}")


PRESETS = {
    # Doshi et al. 2024, arXiv:2408.11119.
    "mistral-splade": LoraPreset(rank=16, alpha=8, dropout=0.1),
    # Zeng et al. 2025, arXiv:2502.15526 (Lion-SP); the dropout they used is not known to us.
    "lion": LoraPreset(rank=16, alpha=32),
}


def add_lora(model: Any, preset: LoraPreset) -> None:
    """Add an adapter to a Hugging Face model, in place, and freeze all other weights.

    Raises:
        ImportError: peft is not installed.
    """
    if not importlib.util.find_spec("peft"):
        raise ImportError("`lora` needs peft: `pip install peft`")
    from peft import LoraConfig

    model.add_adapter(
        LoraConfig(
            r=preset.rank,
            lora_alpha=preset.alpha,
            lora_dropout=preset.dropout,
            target_modules=preset.targets,
        )
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            # In 16 bits, the steps of a small learning rate would be rounded away.
            parameter.data = parameter.data.float()


def restore_precision(model: Any, folder: Path) -> None:
    """Restore a loaded adapter's float32 weights, which loading rounds to the base's 16 bits.

    Resumed training would otherwise not start from the weights that were saved.

    Args:
        model: a Hugging Face model whose adapter was loaded from `folder`.
        folder: holds adapter_model.safetensors.
    """
    from peft import load_peft_weights, set_peft_model_state_dict

    adapter = load_peft_weights(str(folder), device="cpu")
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    set_peft_model_state_dict(
        model, {name.removeprefix("base_model.model."): part for name, part in adapter.items()}
    )


def merge_lora(model: Any) -> Any:
    """Merge the adapters of a SparseEncoder into its weights, in place, and return it.

    Saved after this, it needs neither peft nor its base. Without adapters nothing happens.

    Raises:
        ValueError: the weights are in 4 bits, which cannot hold the sum.
    """
    from transformers import PreTrainedModel

    for part in [part for part in model.modules() if isinstance(part, PreTrainedModel)]:
        if getattr(part, "peft_config", None):
            _merge(part)
    return model


def _merge(model: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    if getattr(model, "is_quantized", False):
        raise ValueError(
            "an adapter cannot be merged into weights in 4 bits: save the model, open it again "
            "(its base is then read in full precision), and merge that"
        )
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
    model.delete_adapter(list(model.peft_config))


def four_bits() -> Any:
    """Return QLoRA's quantisation settings (Dettmers et al. 2023, arXiv:2305.14314)."""
    if not importlib.util.find_spec("bitsandbytes"):
        raise ImportError("`load_in_4bit` needs bitsandbytes: `pip install bitsandbytes`")
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
