"""lsr/training/sparsity.py: ramps, the controller on models of training and in training."""

import json
import math
import random

import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, TrainerCallback
from transformers.utils import logging

from lsr.training.losses import Objective
from lsr.training.regularisers import DFFlops, Flops
from lsr.training.sparsity import Fixed, StrengthCallback, Target

VOCABULARY = 300


def test_fixed_ramps_by_the_square_of_steps():
    strength = Fixed(8.0, ramp_steps=4)
    values = []
    for _ in range(6):
        values.append(strength.value())
        strength.observe(100.0, 1.0, 1.0)
        strength.step(pace=0.5)
    assert values == [0.0, 0.5, 2.0, 4.5, 8.0, 8.0]
    assert Fixed(3.0).value() == 3.0


class Training:
    """A model of training: ranking draws terms in, the penalty drives them out.

    log n moves at most `speed` a step, as under Adam, by the difference of the two forces: log of
    how far n is below 30,000, and `force` · λ · penalty / ranking loss.
    """

    def __init__(self, terms, speed=0.02, force=20.0, loss=1.0, revival=1.0, noise=0.1, seed=0):
        self.terms, self.speed, self.force, self.loss = terms, speed, force, loss
        self.revival = revival  # how much faster terms die than they come back
        self.noise = noise
        self.random = random.Random(seed)

    def step(self, weight, pace=1.0):
        penalty = 1e-4 * self.terms**2
        force = math.log(30_000 / self.terms) - self.force * weight * penalty / self.loss
        change = self.speed * math.tanh(force)
        change *= self.revival if change > 0 else 1.0
        self.terms = min(30_000.0, self.terms * math.exp(pace * change))

        def noisy(number, noise):
            return number * math.exp(self.random.gauss(0, noise))

        return noisy(self.terms, self.noise), noisy(penalty, 0.1), noisy(self.loss, 0.3)


def control(training, target, steps, pace=lambda step: 1.0):
    """Terms in each step; the model's own, not what was measured."""
    terms = []
    for step in range(steps):
        target.observe(*training.step(target.value(), pace(step)))
        target.step(pace(step))
        terms.append(training.terms)
    return terms


@pytest.mark.parametrize(
    ("terms", "settings"),
    [
        *((terms, {}) for terms in (30_000.0, 2.0)),
        *((terms, {"speed": 0.1}) for terms in (30_000.0, 2.0)),
        *((terms, {"speed": 0.005}) for terms in (30_000.0, 2.0)),
        (30_000.0, {"force": 1.0}),  # the penalty must be five times the ranking loss
        (30_000.0, {"force": 2000.0, "loss": 1000.0}),
        (30_000.0, {"revival": 0.1}),
        *((terms, {"noise": 0.3}) for terms in (30_000.0, 2.0)),
    ],
    ids=str,
)
def test_target_is_reached_within_10_percent_and_held(terms, settings):
    seen = control(Training(terms, **settings), Target(120, settle_steps=50), 3000)
    tail = seen[1500:]
    assert abs(sum(tail) / len(tail) / 120 - 1) < 0.05
    hundreds = [sum(tail[i : i + 100]) / 100 for i in range(0, len(tail), 100)]
    assert all(abs(mean / 120 - 1) < 0.1 for mean in hundreds)
    # It does not fall far below on its way down.
    assert min(seen[-2900:]) > 40 or terms < 100


def test_target_is_held_through_warm_up_and_decay():
    def pace(step):
        return min(1.0, step / 500) * (1 - step / 3000)

    seen = control(Training(30_000), Target(120, settle_steps=50), 3000, pace)
    assert all(abs(terms / 120 - 1) < 0.1 for terms in seen[1500:])
    assert min(seen) > 100


def test_target_does_not_wind_up_while_the_model_cannot_follow():
    """Terms that stay 30,000 whatever λ is: it grows, but not without bounds."""
    target = Target(120, settle_steps=50)
    for _ in range(1000):
        target.observe(30_000.0, 90_000.0, 1.0)
        target.step()
    # A thousand steps of 3/50 would be e^60.
    assert 1 < target.value() * 90_000 < 1e4
    training = Training(30_000)
    seen = control(training, target, 2000)
    assert min(seen) > 60
    assert abs(sum(seen[-500:]) / 500 / 120 - 1) < 0.05


def test_target_does_not_wind_down_while_nothing_is_active():
    target = Target(120, settle_steps=50)
    for _ in range(1000):
        target.observe(1.0, 1e-4, 1.0)
        target.step()
    assert 1e-9 < target.value() * 1e-4 < 1e-3
    for _ in range(10):
        target.observe(0.0, 0.0, 1.0)
        target.step()
    assert math.isfinite(target.value())


def test_target_starts_by_what_it_measures():
    target = Target(120)
    target.step()
    assert target.value() == 0.0  # nothing was measured
    target.observe(math.nan, 1.0, 1.0)
    target.step()
    assert target.value() == 0.0
    target.observe(5000.0, 40.0, 2.0)
    target.step()
    assert target.value() == pytest.approx(0.003 * 2 / 40)
    sparse = Target(120)
    sparse.observe(5.0, 40.0, 2.0)
    sparse.step()
    assert sparse.value() == pytest.approx(0.001 * 2 / 40)


def test_target_by_hand():
    """Δ log λ = 1.5 (Δx / √pace + clip(3 x, ±1) / 100), x of the running mean (of 5 steps)."""
    target = Target(100, settle_steps=100)
    target.observe(200.0, 1.0, 10.0)
    target.step()
    target.observe(100.0, 1.0, 10.0)
    target.step(pace=0.25)
    # The mean of two is 150; the penalty, 0.1 of the ranking loss at λ = 1, is in bounds.
    change = math.log(Target.START / 0.1)
    change += 1.5 * ((math.log(1.5) - math.log(2)) / 0.5 + 1 / 100)
    assert target.value() == pytest.approx(math.exp(change))
    target.observe(180.0, 1.0, 10.0)
    target.step()
    target.observe(0.0, 1.0, 10.0)
    target.step(pace=0.0)  # counts as 0.1
    # Means of three and of four: 160 and 120.
    change += 1.5 * (math.log(1.6) - math.log(1.5) + 1 / 100)
    change += 1.5 * ((math.log(1.2) - math.log(1.6)) / math.sqrt(0.1) + 3 * math.log(1.2) / 100)
    assert target.value() == pytest.approx(math.exp(change))
    target.observe(4_999_520.0, 1.0, 10.0)
    target.step()
    # The mean of five is 1,000,000, far too much; what is asked for beyond the ranking loss
    # is divided by the root of how far beyond.
    beyond = max(1.0, 0.1 * math.exp(change))
    change += 1.5 * (math.log(10_000) - math.log(1.2) + 1 / 100 / math.sqrt(beyond))
    assert target.value() == pytest.approx(math.exp(change))
    before = target.value()
    assert before * 0.1 > 3  # the penalty over the ranking loss
    target.observe(1_000_000.0, 1.0, 10.0)
    target.step()
    assert target.value() / before == pytest.approx(math.exp(0.015 / math.sqrt(before * 0.1)))


def test_fewer_steps_to_settle_than_adam_lags_count_as_these():
    seen = [
        control(Training(30_000.0), Target(120, settle_steps=steps), 100) for steps in (3, 10, 11)
    ]
    assert seen[0] == seen[1] != seen[2]
    assert [Target(120, steps).ramp_steps for steps in (3, 10, 11)] == [100, 100, 110]


def test_noise_does_not_add_up():
    target = Target(120, settle_steps=50)
    generator = random.Random(0)
    values = []
    for _ in range(3000):
        target.observe(120 * math.exp(generator.gauss(-0.02, 0.2)), 1.0, 1.0)
        target.step()
        values.append(math.log(target.value()))
    assert abs(values[-1] - values[100]) < 1.5
    assert max(values[100:]) - min(values[100:]) < 3


@pytest.mark.parametrize("make", [lambda: Fixed(2.0, 50), lambda: Target(120, 50)])
def test_states_pass_through_json(make):
    whole, first, second = make(), make(), make()
    generator = random.Random(0)
    seen = [(generator.uniform(50, 500), generator.random(), 1.0) for _ in range(30)]

    def run(strength, observations):
        values = []
        for observation in observations:
            strength.observe(*observation)
            strength.step(0.7)
            values.append(strength.value())
        return values

    expected = run(whole, seen)
    values = run(first, seen[:13])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert values + run(second, seen[13:]) == expected
    fresh = make()
    fresh.load_state_dict(json.loads(json.dumps(make().state_dict())))
    assert run(fresh, seen) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fixed(-1.0), "`weight` must be finite and not negative, got -1.0"),
        (lambda: Fixed(math.nan), "`weight` must be finite and not negative, got nan"),
        (lambda: Fixed(1.0, -1), "`ramp_steps` must be at least 0, got -1"),
        (lambda: Target(0), "`terms` must be positive and finite, got 0"),
        (lambda: Target(120, 0), "`settle_steps` must be at least 1, got 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small random BERT over words w0, w1, …"""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"w{i}" for i in range(VOCABULARY - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=32,
        initializer_range=0.1,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def load(checkpoint):
    transformer = Transformer(checkpoint, transformer_task="fill-mask", max_seq_length=24)
    return SparseEncoder(modules=[transformer, SpladePooling()], device="cpu")


def topics(count):
    """Documents of 12 words about one of 20 topics, and queries of 4 of these."""
    generator = random.Random(0)
    queries, documents = [], []
    for _ in range(count):
        topic = 14 * generator.randrange(20)
        words = [f"w{topic + min(14, int(generator.expovariate(0.3)))}" for _ in range(12)]
        queries.append(" ".join(generator.sample(words, 4)))
        documents.append(" ".join(words))
    return Dataset.from_dict({"query": queries, "document": documents})


class Recorder(TrainerCallback):
    """λ of both sides in each step, terms of a document; stops after a step, as a kill would."""

    def __init__(self, objective, stop=None):
        self.objective, self.stop = objective, stop
        self.trajectory = {}

    def on_step_begin(self, args, state, control, **kwargs):
        values = [strength.value() for strength in self.objective.strengths.values()]
        self.trajectory[state.global_step + 1] = values

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.stop:
            control.should_training_stop = True


def train(model, objective, data, folder, *, stop=None, resume=None, **settings):
    """The recorder, and the trainer's state."""
    logging.set_verbosity_error()
    recorder = Recorder(objective, stop)
    torch.manual_seed(0)
    settings = {"max_steps": 12, "save_strategy": "no", "learning_rate": 3e-3} | settings
    trainer = SparseEncoderTrainer(
        model=model,
        args=SparseEncoderTrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=16,
            dataloader_drop_last=True,
            dataloader_pin_memory=False,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
            **settings,
        ),
        train_dataset=data,
        loss=objective,
        callbacks=[StrengthCallback(objective), recorder],
    )
    trainer.train(resume_from_checkpoint=resume)
    return recorder, trainer.state


def objective_of(model):
    return Objective(
        model,
        rankings={"infonce": 1.0},
        # At first nearly all terms are active: an α at which that makes a difference.
        document_regulariser=DFFlops(VOCABULARY, alpha=0.95, beta=1.0, refresh_steps=5),
        document_strength=Target(40, settle_steps=5),
        query_regulariser=Flops(),
        query_strength=Fixed(0.01, ramp_steps=9),
    )


@pytest.mark.parametrize("option", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_resumed_run_goes_on_with_the_same_strengths(checkpoint, tmp_path, option):
    """Stopped after step 8, two after the last checkpoint; accumulation, warm-up and dropout."""
    settings = {
        "save_strategy": "steps",
        "save_steps": 6,
        "gradient_accumulation_steps": 2,
        "warmup_steps": 4,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "restore_callback_states_from_checkpoint": option,
    }
    data = topics(400)

    def run(folder, **more):
        model = load(checkpoint)
        recorder, state = train(model, objective_of(model), data, folder, **settings, **more)
        return recorder.trajectory, state

    whole, state = run(tmp_path / "whole")
    killed, _ = run(tmp_path / "killed", stop=8)
    resumed, again = run(tmp_path / "killed", resume=str(tmp_path / "killed" / "checkpoint-6"))
    assert list(whole) == list(range(1, 13))
    assert killed == {step: whole[step] for step in range(1, 9)}
    assert resumed == {step: whole[step] for step in range(7, 13)}
    assert len({values[0] for values in whole.values()}) == 12
    saved = json.loads((tmp_path / "killed" / "checkpoint-6" / "trainer_state.json").read_text())
    assert "StrengthCallback" in saved["stateful_callbacks"]

    def logged(history):
        names = ("loss", "document_terms", "document_weight", "query_weight", "query_zero_share")
        return [[entry[name] for name in names] for entry in history if "loss" in entry]

    assert len(logged(state.log_history)) == 12
    assert logged(again.log_history) == logged(state.log_history)


def test_strengths_see_each_optimiser_step_and_its_learning_rate(checkpoint, tmp_path, monkeypatch):
    class Watching(Fixed):
        seen, paces = [], []

        def observe(self, *numbers):
            self.seen.append(numbers)

        def step(self, pace=1.0):
            self.paces.append(pace)

    model = load(checkpoint)
    objective = Objective(
        model,
        rankings={"infonce": 1.0},
        document_regulariser=Flops(),
        document_strength=Watching(0.1),
    )
    monkeypatch.setattr(objective, "terms_without_dropout", lambda: {"document": 0.75})
    settings = {"max_steps": 4, "warmup_steps": 2, "gradient_accumulation_steps": 3}
    train(model, objective, topics(200), tmp_path, **settings)
    assert Watching.paces == pytest.approx([0.5, 1.0, 0.5, 0.0])
    last = objective.statistics["document"]
    assert len(Watching.seen) == 4
    # Terms as without dropout, by what the objective said of the first step.
    terms = 0.75 * last.mean_terms
    assert Watching.seen[-1] == (terms, last.penalty, objective.ranking_loss)
    assert 200 < last.mean_terms < VOCABULARY and last.penalty > 1


def test_resuming_with_other_regularisers_is_refused(checkpoint, tmp_path):
    data = topics(200)
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    model = load(checkpoint)
    train(model, objective_of(model), data, tmp_path, stop=1, **settings)
    model = load(checkpoint)
    plain = Objective(model, rankings={"infonce": 1.0})
    message = r"strengths of \['document', 'query'\], but the objective regularises \[\]"
    with pytest.raises(ValueError, match=message):
        train(model, plain, data, tmp_path, resume=str(tmp_path / "checkpoint-1"), **settings)


@pytest.mark.slow
@pytest.mark.parametrize("settle_steps", [5, 20])
def test_target_is_reached_and_held_in_training(settle_steps, checkpoint, tmp_path):
    model = load(checkpoint)
    objective = Objective(
        model,
        rankings={"infonce": 1.0},
        document_regulariser=Flops(),
        document_strength=Target(60, settle_steps=settle_steps),
    )
    data = topics(1000)
    _, state = train(model, objective, data, tmp_path, max_steps=500, logging_steps=1)
    terms = [entry["document_terms"] for entry in state.log_history if "loss" in entry]
    assert terms[0] > 250
    for start in (300, 400):
        assert abs(sum(terms[start : start + 100]) / 100 / 60 - 1) < 0.1
    # Terms of the model in use, where dropout adds and takes none.
    vectors = model.encode_document(data["document"])
    assert abs((vectors.to_dense() > 0).sum(dim=1).float().mean() / 60 - 1) < 0.1
    # The ranking was learned all the while: chance is log 16.
    assert objective.ranking_loss < 0.6 * math.log(16)
