"""Four processes that train together over gloo; run by test_processes.py.

    python distributed_worker.py FOLDER

reads FOLDER/cases.pt and writes FOLDER/RANK.pt, the process's result for each case.
"""

import multiprocessing
import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from lsr.training.known_positives import ANSWERS, KEY, take_known_positives
from lsr.training.losses import Objective
from lsr.training.processes import gather_rows, process_count, process_rank

PROCESSES = 4


class Toy(torch.nn.Module):
    """Stands for an encoder: maps rows of numbers to vectors that are not negative."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight.clone())

    def forward(self, features):
        return features | {"sentence_embedding": (features["input_ids"] @ self.weight).relu()}


def gradient_of(model, loss):
    loss.backward()
    return model.module.weight.grad.clone()


def regularise(case):
    """Apply a regulariser where processes have different numbers of rows."""
    model = DistributedDataParallel(Toy(case["weight"]))
    rows = case["rows"].split(case["sizes"])[process_rank()]
    value = case["regulariser"](model({"input_ids": rows})["sentence_embedding"])
    return {"value": value.detach(), "gradient": gradient_of(model, value)}


def train(case):
    """Run an objective over two accumulated batches."""
    model = DistributedDataParallel(Toy(case["weight"]))
    objective = Objective(model, **case["settings"])
    for columns, labels in case["batches"]:
        features = [{"input_ids": column.chunk(PROCESSES)[process_rank()]} for column in columns]
        components = objective(features, labels.chunk(PROCESSES)[process_rank()])
        gradient = gradient_of(model, torch.stack(list(components.values())).sum())
    objective.tally.take()
    return {
        "components": {name: value.detach() for name, value in components.items()},
        "gradient": gradient,
        "statistics": {side: tuple(of) for side, of in objective.tally.statistics.items()},
        "ranking_loss": objective.tally.ranking_loss,
    }


def know(case):
    """Find other positives of this process's queries among the documents of all processes."""
    keys = [column.chunk(PROCESSES)[process_rank()] for column in case["keys"]]
    answers = case["answers"].chunk(PROCESSES)[process_rank()]
    return {"known": take_known_positives([{ANSWERS: answers}, *({KEY: own} for own in keys)])}


def gather(case):
    rows = (case["rows"].chunk(PROCESSES)[process_rank()]).clone().requires_grad_()
    gathered = gather_rows(rows)
    # Each process weights all rows by its own numbers.
    (gathered * case["factors"][process_rank()]).sum().backward()
    return {"gathered": gathered.detach(), "gradient": rows.grad, "count": process_count()}


def work(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES
    )
    cases = torch.load(folder / "cases.pt", weights_only=False)
    found = {name: globals()[case["do"]](case) for name, case in cases.items()}
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    # Imports take seconds, so they happen once, before the fork.
    context = multiprocessing.get_context("fork")
    arguments = [(rank, Path(sys.argv[1])) for rank in range(PROCESSES)]
    processes = [context.Process(target=work, args=own) for own in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(process.exitcode != 0 for process in processes))
