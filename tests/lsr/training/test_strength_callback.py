"""lsr/training/strength_callback.py in training: λ follows the vectors, and resumes."""

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
from lsr.training.sparsity import Fixed, Penalty, Target
from lsr.training.strength_callback import StrengthCallback

VOCABULARY = 300


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
    """Records λ of both sides and a document's terms in each step; can interrupt the run."""

    def __init__(self, objective, stop=None):
        self.objective, self.stop = objective, stop
        self.trajectory = {}

    def on_step_begin(self, args, state, control, **kwargs):
        sides = self.objective.sides
        values = [self.objective.penalty(side).strength.value() for side in sides]
        self.trajectory[state.global_step + 1] = values

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.stop:
            control.should_training_stop = True


def train(model, objective, data, folder, *, stop=None, resume=None, **settings):
    """Train; return the recorder and the trainer's state."""
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
        penalties={
            # At first nearly all terms are active, so α must be high for DFFlops to matter.
            "document": Penalty(
                DFFlops(VOCABULARY, alpha=0.95, beta=1.0, refresh_steps=5),
                Target(40, settle_steps=5),
            ),
            "query": Penalty(Flops(), Fixed(0.01, ramp_steps=9)),
        },
    )


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_same_strengths(checkpoint, tmp_path):
    """Stopped at step 8, two after the last checkpoint, with accumulation, warm-up and dropout."""
    settings = {
        "save_strategy": "steps",
        "save_steps": 6,
        "gradient_accumulation_steps": 2,
        "warmup_steps": 4,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
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


def test_the_trainer_may_not_replace_the_callback(checkpoint, tmp_path):
    model = load(checkpoint)
    settings = {"restore_callback_states_from_checkpoint": True}
    with pytest.raises(ValueError, match="`restore_callback_states_from_checkpoint` must be Fal"):
        train(model, objective_of(model), topics(40), tmp_path, **settings)


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
        penalties={"document": Penalty(Flops(), Watching(0.1))},
    )
    monkeypatch.setattr(objective.probe, "ratios", lambda model, sides: {"document": 0.75})
    settings = {"max_steps": 4, "warmup_steps": 2, "gradient_accumulation_steps": 3}
    train(model, objective, topics(200), tmp_path, **settings)
    assert Watching.paces == pytest.approx([0.5, 1.0, 0.5, 0.0])
    last = objective.tally.statistics["document"]
    assert len(Watching.seen) == 4
    # Terms are corrected for dropout by the ratio that the objective measured in the first step.
    terms = 0.75 * last.mean_terms
    assert Watching.seen[-1] == (terms, last.penalty, objective.tally.ranking_loss)
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
        penalties={"document": Penalty(Flops(), Target(60, settle_steps=settle_steps))},
    )
    data = topics(1000)
    _, state = train(model, objective, data, tmp_path, max_steps=500, logging_steps=1)
    terms = [entry["document_terms"] for entry in state.log_history if "loss" in entry]
    assert terms[0] > 250
    for start in (300, 400):
        assert abs(sum(terms[start : start + 100]) / 100 / 60 - 1) < 0.1
    # The terms of the trained model without dropout.
    vectors = model.encode_document(data["document"])
    assert abs((vectors.to_dense() > 0).sum(dim=1).float().mean() / 60 - 1) < 0.1
    # The ranking was learned meanwhile: chance is log 16.
    assert objective.tally.ranking_loss < 0.6 * math.log(16)
