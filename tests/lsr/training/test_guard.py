"""lsr/training/guard.py: the faults that it finds, and that it stops training with a reason."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch

from lsr.training.guard import Guard, TrainingStopped, check_temperature, numbers, vectors
from lsr.training.tally import VectorStatistics


def seen(mean_terms=100.0, zero_share=0.0, always=0, n_terms=30_000):
    shares = torch.full((n_terms,), 0.01)
    shares[:always] = 1.0
    return VectorStatistics(mean_terms, zero_share, shares, 0.5, 1.0)


@pytest.mark.parametrize(
    ("statistics", "target", "ramped", "names"),
    [
        (seen(), 120, True, []),
        (seen(zero_share=0.4), 120, True, []),
        (seen(zero_share=0.6), 120, False, ["document: zero"]),
        (seen(mean_terms=3000), 120, False, []),
        (seen(mean_terms=3000), 120, True, ["document: dense"]),
        (seen(mean_terms=3000), 160, True, []),
        (seen(mean_terms=1900), None, True, []),
        (seen(mean_terms=2100), None, True, ["document: dense"]),
        (seen(mean_terms=100, always=25), 120, True, []),
        (seen(mean_terms=100, always=26), 120, True, ["document: always on"]),
        (seen(mean_terms=100, always=26), 120, False, []),
        (seen(mean_terms=0, zero_share=1.0), 120, True, ["document: zero"]),
    ],
)
def test_findings(statistics, target, ramped, names):
    found = vectors("document", statistics, target, ramped)
    assert [finding.name for finding in found] == names
    assert [finding.stops for finding in found] == [not n.endswith("always on") for n in names]


@pytest.mark.parametrize(
    ("logs", "reason"),
    [
        ({"loss": float("nan")}, "the loss is nan"),
        ({"loss": 1.0, "grad_norm": float("inf")}, "the grad norm is inf"),
        ({"grad_norm": 2e4}, "the gradient norm is 2e.04, above 1e.04"),
    ],
)
def test_numbers(logs, reason):
    (finding,) = numbers(logs)
    assert re.search(reason, finding.reason)
    assert numbers({"loss": 3.0, "grad_norm": 9.0}) == []


class Run:
    """Stands for a trainer, as a callback sees it."""

    def __init__(self, **settings):
        self.objective = SimpleNamespace(statistics={"document": seen()})
        self.guard = Guard(self.objective, patience=6, grace=2, **settings)
        self.control = SimpleNamespace(should_training_stop=False)
        self.step = 0

    def go(self, steps, statistics):
        self.objective.statistics = {"document": statistics}
        for _ in range(steps):
            if self.control.should_training_stop:
                return
            self.step += 1
            state = SimpleNamespace(global_step=self.step)
            self.guard.on_step_end(None, state, self.control)


def test_it_warns_at_half_of_its_patience_and_stops_after_it(caplog):
    run = Run()
    with caplog.at_level(logging.WARNING, "lsr.training.guard"):
        run.go(4, seen(zero_share=0.9))  # the first two are in the grace period
        assert not caplog.records
        run.go(1, seen(zero_share=0.9))
        assert "step 5: 90 % of the document vectors have no term left" in caplog.text
        run.go(99, seen(zero_share=0.9))
    assert run.step == 8
    with pytest.raises(
        TrainingStopped, match="no term left. . is too large .* objective.document_weight"
    ):
        run.guard.raise_if_stopped()


def test_what_passes_does_not_stop_training():
    run = Run()
    for _ in range(5):
        run.go(7, seen(zero_share=0.9))
        run.go(1, seen())
    assert run.control.should_training_stop  # 7 in a row after the grace period are too many
    calm = Run()
    for _ in range(9):
        calm.go(5, seen(zero_share=0.9))
        calm.go(1, seen())
    calm.go(50, seen(always=90))  # only a warning
    assert not calm.control.should_training_stop
    calm.guard.raise_if_stopped()


def test_a_loss_that_is_no_number_stops_at_once():
    run = Run()
    state = SimpleNamespace(global_step=3)
    run.guard.on_log(None, state, run.control, logs={"loss": 1.0, "grad_norm": 2.0})
    run.guard.on_log(None, state, run.control, logs={"grad_norm": 1e5})  # only warned of
    assert not run.control.should_training_stop
    run.guard.on_log(None, state, run.control, logs={"loss": float("nan")})
    assert run.control.should_training_stop
    with pytest.raises(TrainingStopped, match="the loss is nan. lower the learning rate"):
        run.guard.raise_if_stopped()


def test_a_temperature_at_which_teachers_say_nothing_is_refused():
    scores = torch.linspace(0, 30, 8).repeat(5, 1)
    check_temperature(scores, 3.0)
    with pytest.raises(TrainingStopped, match="temperature 0.1 .* 1.0000 of the probability"):
        check_temperature(scores, 0.1)
    with pytest.raises(TrainingStopped, match="temperature 1e.06 .* hardly apart"):
        check_temperature(scores, 1e6)
