"""Regularisers, losses and statistics in four processes compared with one that has all rows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lsr.eval.learning import learn
from lsr.training.arguments import arguments
from lsr.training.losses import Objective
from lsr.training.pretraining import PretrainConfig, pretrain
from lsr.training.processes import (
    check_devices,
    gather_rows,
    process_count,
    process_rank,
    sum_over_processes,
)
from lsr.training.recipe import load_recipe
from lsr.training.regularisers import L1, DFFlops, Flops
from lsr.training.sparsity import Fixed, Penalty

WORKER = Path(__file__).parent / "distributed_worker.py"
ROWS, INPUTS, TERMS, PROCESSES = 8, 6, 20, 4
GENERATOR = torch.Generator().manual_seed(0)


def numbers(*shape):
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


WEIGHT = numbers(INPUTS, TERMS)
IDF = numbers(TERMS).abs() + 0.1
SETTINGS = {
    "rankings": {"infonce": 1.0, "margin_mse": 0.3, "kl": 2.0},
    "temperature": 1.5,
    "penalties": {
        "document": Penalty(Flops(IDF, 0.0, threshold=3), Fixed(0.4)),
        "query": Penalty(L1(), Fixed(0.2)),
    },
}
BATCHES = [([numbers(ROWS, INPUTS) for _ in range(3)], numbers(ROWS, 2)) for _ in range(2)]


def df_flops():
    regulariser = DFFlops(TERMS)
    regulariser.step(torch.linspace(0, 1, TERMS))
    return regulariser


def regularising(regulariser, sizes):
    case = {"do": "regularise", "regulariser": regulariser, "sizes": sizes}
    return case | {"weight": WEIGHT, "rows": numbers(sum(sizes), INPUTS)}


CASES = {
    "flops": regularising(Flops(), [2, 2, 2, 2]),
    "idf": regularising(Flops(IDF, 0.5), [2, 2, 2, 2]),
    "mask": regularising(Flops(threshold=9), [2, 2, 2, 2]),
    "df": regularising(df_flops(), [2, 2, 2, 2]),
    "l1": regularising(L1(threshold=9), [2, 2, 2, 2]),
    "one row each": regularising(Flops(), [1, 1, 1, 1]),
    "unequal": regularising(Flops(), [1, 4, 2, 3]),
    "unequal l1": regularising(L1(), [1, 4, 2, 3]),
    "objective": {"do": "train", "weight": WEIGHT, "settings": SETTINGS, "batches": BATCHES},
    "cached": {
        "do": "train",
        "weight": WEIGHT,
        "settings": SETTINGS | {"mini_batch_size": 1},
        "batches": BATCHES,
    },
    # Keys from 0 to 4 of two columns of documents, and of three answers to each query.
    "known": {
        "do": "know",
        "keys": [torch.randint(5, (ROWS,), generator=GENERATOR) for _ in range(2)],
        "answers": torch.randint(5, (ROWS, 3), generator=GENERATOR),
    },
    "gather": {"do": "gather", "rows": numbers(ROWS, 3), "factors": numbers(4, ROWS, 3)},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The results of each process, by case."""
    folder = tmp_path_factory.mktemp("processes")
    torch.save(CASES, folder / "cases.pt")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), str(folder)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]
    return {name: [rank[name] for rank in ranks] for name in CASES}


def vectors_of(rows, weight):
    return (rows @ weight).relu()


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case["do"] == "regularise"])
def test_regularisers_do_not_depend_on_the_number_of_processes(found, name):
    case = CASES[name]
    weight = WEIGHT.clone().requires_grad_()
    value = case["regulariser"](vectors_of(case["rows"], weight))
    value.backward()
    assert value > 0 and weight.grad.any()
    for rank in found[name]:
        torch.testing.assert_close(rank["value"], value.detach())
        torch.testing.assert_close(rank["gradient"], weight.grad)


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(WEIGHT.clone())

    def forward(self, features):
        return {"sentence_embedding": vectors_of(features["input_ids"], self.weight)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["objective", "cached"])
def test_objective_does_not_depend_on_the_number_of_processes(found, name):
    model = Toy()
    objective = Objective(model, **SETTINGS)
    for columns, labels in BATCHES:
        components = objective([{"input_ids": column} for column in columns], labels)
        torch.stack(list(components.values())).sum().backward()
    objective.tally.take()
    ranks = found[name]
    for rank in ranks:
        # DistributedDataParallel has averaged it over processes.
        torch.testing.assert_close(rank["gradient"], model.weight.grad)
        assert rank["ranking_loss"] == pytest.approx(objective.tally.ranking_loss)
        for side, statistics in objective.tally.statistics.items():
            for own, expected in zip(rank["statistics"][side], statistics, strict=True):
                torch.testing.assert_close(own, expected)
    # A process's ranking losses are over its own queries, its penalties over all rows.
    for component, value in components.items():
        values = torch.stack([rank["components"][component] for rank in ranks])
        torch.testing.assert_close(values.mean(), value.detach())
        if component.endswith("penalty"):
            torch.testing.assert_close(values, value.detach().expand(PROCESSES))


@pytest.mark.slow
def test_gathered_rows_and_their_gradient(found):
    case = CASES["gather"]
    gradient = case["factors"].sum(0).chunk(PROCESSES)
    for rank, own in enumerate(found["gather"]):
        assert own["count"] == PROCESSES
        assert torch.equal(own["gathered"], case["rows"])
        torch.testing.assert_close(own["gradient"], gradient[rank])


@pytest.mark.slow
def test_other_positives_are_found_among_the_documents_of_all_processes(found):
    case = CASES["known"]
    chunks = [column.tolist() for column in case["keys"]]
    size = ROWS // PROCESSES
    # (column, row, key), process by process and column by column.
    documents = [
        (column, row, chunks[column][row])
        for rank in range(PROCESSES)
        for column in range(2)
        for row in range(rank * size, (rank + 1) * size)
    ]
    for row, answers in enumerate(case["answers"].tolist()):
        expected = [
            key in answers and (column, other) != (0, row) for column, other, key in documents
        ]
        assert found["known"][row // size]["known"][row % size].tolist() == expected
        assert any(expected)


def test_one_process_alone():
    rows = torch.ones(2, 3)
    assert (process_count(), process_rank()) == (1, 0)
    assert gather_rows(rows) is rows
    assert sum_over_processes(rows) is rows and torch.equal(rows, torch.ones(2, 3))


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_several_gpus_in_one_process_are_refused(two_gpus, monkeypatch, tmp_path):
    message = "one process for 2 GPUs: start it with `torchrun --nproc-per-node 2 -m lsr.cli train"
    recipe = load_recipe("splade-doc", tiny=True)
    with pytest.raises(ValueError, match=message):
        learn(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()  # no data were prepared
    with pytest.raises(ValueError, match=message):
        arguments(recipe, torch.nn.Linear(1, 1), 0, tmp_path)
    with pytest.raises(ValueError, match=message):
        pretrain(PretrainConfig(), ["text"], tmp_path / "pretrained")
    monkeypatch.setenv("LOCAL_RANK", "0")
    check_devices()


@pytest.mark.parametrize("gpus", [0, 1])
def test_one_device_is_trained_on_by_one_process(gpus, two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    check_devices()
