"""A recipe's [training] as the arguments of sentence-transformers' trainer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from lsr.encoders.masked_lm import bfloat16_is_fast
from lsr.training.processes import check_devices
from lsr.training.recipe import Recipe


def arguments(recipe: Recipe, model: Any, n_negatives: int, out: Path) -> Any:
    """SparseEncoderTrainingArguments for rows of `n_negatives` negatives; checkpoints go to `out`.

    Raises:
        ValueError: checkpoints and logs do not fit together, or see `check_devices`.
    """
    from sentence_transformers import SparseEncoderTrainingArguments
    from sentence_transformers.base.modules import Router
    from sentence_transformers.base.sampler import BatchSamplers

    from lsr.encoders.query_weights import QUERY_WEIGHTS

    check_devices()
    settings = recipe.training
    routed = any(isinstance(module, Router) for module in model.modules())
    columns = ["document", *(f"negative_{i + 1}" for i in range(n_negatives))]
    mapping = {"query": "query", **dict.fromkeys(columns, "document")}
    own_rate = settings.query_learning_rate
    if settings.save_steps % settings.logging_steps:
        # A log is a mean over the steps since the last log; a checkpoint does not keep that sum.
        raise ValueError(
            "training.save_steps must be a multiple of training.logging_steps, so that a resumed "
            f"run logs what one that never stopped logs, got {settings.save_steps} and "
            f"{settings.logging_steps}"
        )
    return SparseEncoderTrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=settings.max_steps,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        learning_rate_mapping={QUERY_WEIGHTS: own_rate} if own_rate else {},
        router_mapping=mapping if routed else {},
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=in_bfloat16(recipe),
        seed=settings.seed,
        save_steps=settings.save_steps,
        save_total_limit=max(2, settings.soup),
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        # A small last batch would have too few documents to choose from.
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        # Not for torchrun with one process: transformers would expect other processes.
        ddp_backend=_backend() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        # The stock contrastive loss of an autoencoder takes every other document for a negative.
        batch_sampler=batches_without_repeats
        if recipe.autoencoder is not None
        else BatchSamplers.BATCH_SAMPLER,
        # All parameters take part, some outside of the model's forward.
        ddp_find_unused_parameters=False,
        report_to="none",
    )


def batches_without_repeats(dataset: Any, batch_size: int, **settings: Any) -> Any:
    """sentence-transformers' sampler of batches in which no query and no document is there twice.

    Args:
        dataset: as `Examples.dataset` gives it; documents are compared by id.
        batch_size: rows of a batch.
        **settings: as NoDuplicatesBatchSampler takes them.

    Raises:
        ValueError: there are fewer documents than `batch_size`, or fewer queries.
    """
    from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

    def ids(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {
            column: [cell.partition("\t")[0] if column == "document" else cell for cell in cells]
            for column, cells in batch.items()
        }

    by_id = dataset.with_transform(ids)
    for column in ("query", "document"):
        different = len(set(by_id[column]))
        if different < batch_size:
            raise ValueError(
                f"training.batch_size must be at most the {different} different {column} texts, "
                f"since no text may be in a batch twice, got {batch_size}"
            )
    return NoDuplicatesBatchSampler(by_id, batch_size=batch_size, **settings)


def in_bfloat16(recipe: Recipe) -> bool:
    """Whether matrix products are in bfloat16: if the recipe wants it and the hardware has it.

    The run's environment.json says which it was.
    """
    if not recipe.training.bf16:
        return False
    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else bfloat16_is_fast()


def _backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"
