"""The processes that train together (`torch.distributed`): one for each GPU, sums, rows."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def check_devices() -> None:
    """Refuse to train on several GPUs in one process.

    transformers' Trainer would wrap the model in torch's DataParallel. Its replicas are copies of
    the model, but would call the fused head (and a decoder taken out) of the original.

    Raises:
        ValueError: there are several GPUs, and neither torchrun nor another launcher has started
            this process (LOCAL_RANK is not set).
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus > 1 and "LOCAL_RANK" not in os.environ:
        raise ValueError(
            f"training needs one process for each GPU, got one process for {gpus} GPUs: start it "
            f"with `torchrun --nproc-per-node {gpus} -m lsr.cli train …`, or set "
            "CUDA_VISIBLE_DEVICES=0 to train on one GPU"
        )


def process_count() -> int:
    """Processes that train together."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def process_rank() -> int:
    """The number of this process, counted from 0."""
    return torch.distributed.get_rank() if process_count() > 1 else 0


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of each process's tensor, in place; no gradient flows."""
    if process_count() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, shape (processes · N, V).

    The gradient of a row is the sum of what all processes found for it. With a mean over its own
    texts as each process's loss, DistributedDataParallel's average is then the gradient of the mean
    over all texts.

    Args:
        rows: shape (N, V), the same N in all processes.
    """
    if process_count() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        gathered = rows.new_empty((process_count(), *rows.shape))
        torch.distributed.all_gather(list(gathered), rows.contiguous())
        return gathered.flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Not in place: autograd may still use the gradient elsewhere.
        total = sum_over_processes(gradient.clone(memory_format=torch.contiguous_format))
        return total[process_rank() * ctx.count :][: ctx.count]
