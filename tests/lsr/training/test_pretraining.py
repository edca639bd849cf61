"""lsr/training/pretraining.py: whole runs of tiny models."""

import json
import math
import os
import random
import shutil
import socket
import warnings
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    TrainerCallback,
)

from lsr.encoders.build import ModelConfig, build_model
from lsr.encoders.decoder_lm import DecoderConfig, build_decoder
from lsr.encoders.lora import LoraPreset
from lsr.training import tiny
from lsr.training.pretraining import PretrainConfig, pretrain
from lsr.training.scratch import random_bert

ANIMALS = "otter heron badger vole stoat weasel marten osprey".split()
PLACES = "river marsh sett hedge burrow barn forest lake".split()
# peft reads a property that transformers has renamed.
PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SMALL = PretrainConfig(
    base="scratch",
    vocab_size=200,
    layers=2,
    hidden=32,
    heads=2,
    max_length=24,
    max_steps=8,
    batch_size=8,
    learning_rate=3e-3,
    logging_steps=1,
    save_steps=3,
)


@pytest.fixture(scope="module")
def texts():
    """Two sentences each, both on the same animal and where it lives."""
    generator = random.Random(0)
    numbers = [generator.randrange(8) for _ in range(200)]
    return [" ".join([f"The {ANIMALS[n]} lives by the {PLACES[n]} ."] * 2) for n in numbers]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return {
        kind: str(tiny.write_model(tmp_path_factory.mktemp(kind), kind))
        for kind in ("llama", "qwen")
    }


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return str(tiny.write_model(tmp_path_factory.mktemp("bert"), "bert"))


@pytest.fixture(scope="module")
def tiny_texts():
    """Texts of the words that the models of `lsr.training.tiny` know."""
    concepts, fillers = tiny.words()
    words = [*(word for concept in concepts for word in concept), *fillers]
    generator = random.Random(0)
    return [" ".join(generator.choices(words, k=12)) for _ in range(60)]


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out, name="loss"):
    return [entry[name] for entry in metrics(out) if name in entry]


class Killed(BaseException):
    pass


class Kill(TrainerCallback):
    """Interrupts the run after a step, as if the process had been killed."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


class TestRuns:
    def test_a_small_bert_from_scratch_learns_and_opens_everywhere(self, texts, tmp_path):
        config = replace(SMALL, max_steps=100, learning_rate=1e-2, logging_steps=20, save_steps=100)
        model_path = pretrain(config, texts, tmp_path)
        assert model_path == tmp_path / "model"
        curve = losses(tmp_path)
        # The loss of a model that knows only the words' frequencies is their entropy.
        shares = [count / 14 for count in (4, 2, 2, 2, *[4 / 16] * 16)]
        entropy = -sum(share * math.log(share) for share in shares)
        assert curve[0] > entropy and curve[-1] < 0.5 * entropy
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        assert tokenizer.model_max_length == 24
        assert tokenizer.tokenize("The OTTER") == ["the", "otter"]
        model = AutoModelForMaskedLM.from_pretrained(model_path).eval()
        assert model.config.num_hidden_layers == 2
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        asked = tokenizer("the heron [MASK] by the marsh .", return_tensors="pt")
        place = (asked["input_ids"][0] == tokenizer.mask_token_id).nonzero().item()
        best = model(**asked).logits[0, place].argmax()
        assert tokenizer.convert_ids_to_tokens(int(best)) == "lives"
        transformer = Transformer(str(model_path), transformer_task="fill-mask")
        assert transformer.max_seq_length == 24
        stock = SparseEncoder(modules=[transformer, SpladePooling()], device="cpu")
        vector = stock.encode_document(["the otter"], convert_to_sparse_tensor=False)
        assert vector.shape == (1, len(tokenizer))
        ours = build_model(
            ModelConfig(
                base=str(model_path), max_length=24, query_max_length=24, calibrate_terms=10
            ),
            texts[:20],
        )
        assert (ours.encode_document(texts[:2]).to_dense() > 0).any()

    @pytest.mark.parametrize("objective", ["mlm-flops", "cocondenser"])
    def test_losses_are_in_the_precision_of_the_model(
        self, objective, bert, tiny_texts, tmp_path, monkeypatch
    ):
        """With bf16, products of the decoder and the head are bfloat16, losses are float32."""
        seen = []
        linear, cross_entropy = torch.nn.functional.linear, torch.nn.functional.cross_entropy

        def watched(inputs, weight, bias=None):
            product = linear(inputs, weight, bias)
            if len(weight) == rows:
                seen.append(product.dtype)
            return product

        def summed(logits, *others, **settings):
            assert logits.dtype == torch.float32
            return cross_entropy(logits, *others, **settings)

        rows = AutoModelForMaskedLM.from_pretrained(bert).config.vocab_size
        monkeypatch.setattr(torch.nn.functional, "linear", watched)
        monkeypatch.setattr(torch.nn.functional, "cross_entropy", summed)
        changes = {"objective": objective, "base": bert, "max_steps": 1}
        pretrain(replace(SMALL, **changes, bf16=True), tiny_texts, tmp_path)
        # The first call is the probe of take_decoder_out.
        assert len(seen) > 1 and set(seen[-1:]) == {torch.bfloat16}
        assert math.isfinite(losses(tmp_path)[0])

    def test_whole_words(self, texts, tmp_path):
        # The vocabulary is so small that words have several pieces.
        config = replace(SMALL, vocab_size=100, whole_words=True, max_steps=2)
        assert losses(pretrain(config, texts, tmp_path).parent)[0] > 3

    @pytest.mark.slow
    def test_the_packaged_trunk(self, texts, tmp_path):
        config = PretrainConfig(max_length=16, max_steps=2, batch_size=2, logging_steps=1)
        path = pretrain(replace(config, save_steps=2), texts, tmp_path)
        model, report = AutoModelForMaskedLM.from_pretrained(path, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert model.config.num_hidden_layers == 6
        assert len(losses(tmp_path)) == 2

    @pytest.mark.slow
    def test_flops_makes_vectors_sparser(self, texts, tmp_path):
        config = replace(SMALL, max_steps=40, logging_steps=10, save_steps=40)
        active = {}
        for weight in (0.0, 1.0):
            path = pretrain(
                replace(config, objective="mlm-flops", flops_weight=weight),
                texts,
                tmp_path / str(weight),
            )
            transformer = Transformer(str(path), transformer_task="fill-mask")
            model = SparseEncoder(modules=[transformer, SpladePooling()], device="cpu")
            vectors = model.encode_document(texts[:20], convert_to_sparse_tensor=False)
            active[weight] = float((vectors > 0).float().sum(1).mean())
        assert active[1.0] < 0.7 * active[0.0]
        entries = metrics(tmp_path / "1.0")[:4]
        for entry in entries:
            assert entry["loss"] == pytest.approx(entry["mlm"] + entry["flops"], rel=1e-4)
        assert "flops" not in metrics(tmp_path / "0.0")[0]

    @pytest.mark.slow
    def test_cocondenser_leaves_no_head_and_its_spans_find_each_other(self, texts, tmp_path):
        config = replace(SMALL, max_steps=150, learning_rate=1e-2, logging_steps=25, save_steps=150)
        config = replace(config, objective="cocondenser")
        path = pretrain(config, texts, tmp_path)
        # Chance is to find the other span among 15.
        assert losses(tmp_path, "contrastive")[0] > math.log(15)
        assert losses(tmp_path, "contrastive")[-1] < 0.85 * math.log(15)
        for name in ("head_mlm", "late_mlm"):
            assert losses(tmp_path, name)[-1] < 0.6 * losses(tmp_path, name)[0]
        assert not [name for name in load_file(path / "model.safetensors") if "condenser" in name]
        _, report = AutoModelForMaskedLM.from_pretrained(path, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]

    @pytest.mark.parametrize("kind", ["llama", "qwen"])
    def test_mntp_adapts_a_decoder_to_seeing_all(self, kind, decoder, tiny_texts, tmp_path):
        config = replace(SMALL, objective="mntp", base=decoder[kind], max_steps=30)
        path = pretrain(replace(config, save_steps=30), tiny_texts, tmp_path)
        curve = losses(tmp_path)
        assert sum(curve[-5:]) < sum(curve[:5])
        model = AutoModelForCausalLM.from_pretrained(path).eval()
        first, other = (
            model(input_ids=torch.tensor([[5, 6, last]])).logits[0, 0] for last in (7, 8)
        )
        assert not torch.allclose(first, other)
        built = build_decoder(
            DecoderConfig(
                base=str(path),
                attention="bidirectional",
                max_length=24,
                query_max_length=24,
                calibrate_terms=20,
            ),
            tiny_texts[:10],
        )
        assert (built.encode_document(tiny_texts[:2]).to_dense() > 0).any()

    @PEFT
    def test_an_adapter_is_trained_and_merged(self, decoder, tiny_texts, tmp_path):
        config = replace(
            SMALL, objective="mntp", base=decoder["llama"], lora=LoraPreset(rank=2, alpha=4)
        )
        path = pretrain(config, tiny_texts, tmp_path)
        before = AutoModelForCausalLM.from_pretrained(decoder["llama"]).state_dict()
        after = AutoModelForCausalLM.from_pretrained(path).state_dict()
        assert before.keys() == after.keys()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        # All linear layers but the head.
        assert changed == {name for name in before if name.endswith("_proj.weight")}

    def test_a_function_that_gives_the_texts_is_read_each_time(self, texts, tmp_path):
        reads = []

        def read():
            reads.append(0)
            return iter(texts)

        pretrain(replace(SMALL, max_steps=1), read, tmp_path)
        assert len(reads) == 3


def run_beside(rank, processes, port, config, texts, out):
    """Run one process as torchrun would."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.simplefilter("error", UserWarning)
    pretrain(config, texts, out)


@pytest.mark.slow
def test_two_processes_train_one_model(texts, tmp_path):
    config = replace(SMALL, objective="cocondenser", max_steps=4, save_steps=4, batch_size=4)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(run_beside, (2, port, config, texts, tmp_path / "two"), nprocs=2)
    pretrain(replace(config, batch_size=8), texts, tmp_path / "one")
    two, one = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    for name in ("step", "num_input_tokens_seen", "learning_rate"):
        assert [entry.get(name) for entry in two] == [entry.get(name) for entry in one]
    # Spans are the same, but each process draws its own masks and dropout.
    for name in ("loss", "late_mlm"):
        expected = pytest.approx(losses(tmp_path / "one", name), rel=0.1)
        assert losses(tmp_path / "two", name) == expected
    AutoModelForMaskedLM.from_pretrained(tmp_path / "two" / "model")


class TestGoingOn:
    @PEFT
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({}, id="mlm"),
            *(
                pytest.param(change, id=change["objective"], marks=pytest.mark.slow)
                for change in (
                    {"objective": "cocondenser", "accumulation": 2},
                    {"objective": "mlm-flops", "whole_words": True},
                    {"objective": "mntp", "base": "llama", "lora": LoraPreset(2, 4, dropout=0.2)},
                )
            ),
        ],
    )
    def test_a_killed_run_ends_as_one_that_never_stopped(
        self, change, texts, tiny_texts, decoder, tmp_path
    ):
        if change.get("base") == "llama":
            change, texts = change | {"base": decoder["llama"]}, tiny_texts
        config = replace(SMALL, **change)
        whole = pretrain(config, texts, tmp_path / "whole")
        with pytest.raises(Killed):
            pretrain(config, texts, tmp_path / "killed", callbacks=[Kill(5)])
        assert len(losses(tmp_path / "killed")) == 4
        killed = pretrain(config, texts, tmp_path / "killed")
        assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
        assert len(losses(tmp_path / "whole")) == 8
        for name in ("grad_norm", "contrastive", "mlm"):
            assert losses(tmp_path / "killed", name) == losses(tmp_path / "whole", name)
        expected, found = (load_file(path / "model.safetensors") for path in (whole, killed))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)

    @pytest.mark.slow
    def test_a_checkpoint_cut_short_is_passed_over(self, texts, tmp_path):
        pretrain(SMALL, texts, tmp_path / "whole")
        with pytest.raises(Killed):
            pretrain(SMALL, texts, tmp_path / "killed", callbacks=[Kill(7)])
        last = tmp_path / "killed" / "checkpoints" / "checkpoint-6"
        (last / "trainer_state.json").unlink()
        (last / "model.safetensors").write_bytes(b"")
        pretrain(SMALL, texts, tmp_path / "killed")
        assert losses(tmp_path / "killed") == losses(tmp_path / "whole")

    def test_a_finished_run_is_returned_as_it_is(self, texts, tmp_path):
        path = pretrain(replace(SMALL, max_steps=1), texts, tmp_path)
        shutil.rmtree(tmp_path / "checkpoints")
        assert pretrain(replace(SMALL, max_steps=1), texts, tmp_path) == path
        assert not (tmp_path / "checkpoints").exists()

    def test_other_settings_and_other_texts_are_refused(self, texts, tmp_path):
        with pytest.raises(Killed):
            pretrain(SMALL, texts, tmp_path, callbacks=[Kill(1)])
        with pytest.raises(ValueError, match=r"pretraining.json: .*, with seed 0 and not 1"):
            pretrain(replace(SMALL, seed=1), texts, tmp_path)
        with pytest.raises(ValueError, match="with texts 200 and not 199; take another"):
            pretrain(SMALL, texts[1:], tmp_path)

    def test_a_run_that_a_callback_stops_gives_no_model(self, texts, tmp_path):
        class Stop(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = state.global_step == 2

        with pytest.raises(RuntimeError, match="stopped the run in .* after 2 of 8 steps"):
            pretrain(SMALL, texts, tmp_path, callbacks=[Stop()])
        assert not (tmp_path / "model").exists()

    def test_seeds_differ_and_repeat(self, texts, tmp_path):
        config = replace(SMALL, max_steps=2)
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            pretrain(replace(config, seed=seed), texts, tmp_path / name)
        assert losses(tmp_path / "a") == losses(tmp_path / "b")
        assert losses(tmp_path / "a") != losses(tmp_path / "c")


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"objective": "clm"}, r"`objective` must be one of \('mlm', .*\), got 'clm'"),
            ({"mask_share": 0.0}, r"`mask_share` must be in \(0, 1\), got 0.0"),
            ({"mask_share": 1.5}, r"`mask_share` must be in \(0, 1\), got 1.5"),
            ({"warmup": 1.0}, r"`warmup` must be in \[0, 1\), got 1.0"),
            ({"seed": -1}, r"`seed` must be in \[0, 2\^32\), got -1"),
            ({"max_length": 8}, "`max_length` must be ≥ 16, got 8"),
            ({"vocab_size": 5}, "`vocab_size` must be ≥ 100, got 5"),
            ({"max_steps": 0}, "`max_steps` must be ≥ 1, got 0"),
            ({"flops_weight": -1.0}, "`flops_weight` must be ≥ 0, got -1.0"),
            ({"hidden": 30, "heads": 4}, "`hidden` must be a multiple of `heads`, got 30 and 4"),
            (
                {"save_steps": 15, "logging_steps": 10},
                "`save_steps` must be a multiple of `logging_steps`, .* got 15 and 10",
            ),
            (
                {"objective": "cocondenser", "batch_size": 1},
                "`batch_size` must be ≥ 2 for 'cocondenser', got 1",
            ),
            (
                {"objective": "mntp"},
                "'mntp' needs the checkpoint of a decoder as `base`, got 'default'",
            ),
            (
                {"lora": LoraPreset(rank=2, alpha=4)},
                "`lora` is for `objective` 'mntp', got 'mlm'",
            ),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
    )
    def test_settings(self, change, message):
        with pytest.raises(ValueError, match=message):
            PretrainConfig(**change)

    def test_texts_without_words(self, tmp_path):
        with pytest.raises(ValueError, match="the texts to pretrain on hold no token"):
            pretrain(PretrainConfig(), ["", " "], tmp_path)
        with pytest.raises(ValueError, match="the texts to pretrain on hold no token"):
            pretrain(SMALL, [], tmp_path / "scratch")

    def test_texts_shorter_than_two_spans(self, tmp_path):
        config = PretrainConfig(objective="cocondenser")
        with pytest.raises(ValueError, match="at least 2 texts of 8 tokens or more, got 0 of 40"):
            pretrain(config, ["a short text"] * 40, tmp_path)

    def test_fewer_texts_than_spans_are_contrasted_with(self, texts, tmp_path):
        config = PretrainConfig(objective="cocondenser", batch_size=32)
        with pytest.raises(
            ValueError, match="`batch_size` must be at most the 20 texts .* got 32 on all devices"
        ):
            pretrain(config, texts[:20], tmp_path)

    def test_texts_that_can_be_read_but_once(self, texts, tmp_path):
        with pytest.raises(ValueError, match="from scratch reads `texts` three times: give a list"):
            pretrain(SMALL, iter(texts), tmp_path)

    def test_a_base_of_another_kind(self, decoder, bert, texts, tmp_path):
        config = PretrainConfig(base=decoder["llama"], max_length=24)
        with pytest.raises(ValueError, match="'mlm' needs a masked LM, .* is a 'llama'; a decoder"):
            pretrain(config, texts, tmp_path / "a")
        with pytest.raises(ValueError, match="'mntp' needs a decoder, and .* is a 'bert'"):
            pretrain(replace(config, objective="mntp", base=bert), texts, tmp_path / "b")

    def test_a_base_that_is_not_there(self, texts, tmp_path):
        with pytest.raises(FileNotFoundError, match="no/such/model: no such directory"):
            pretrain(PretrainConfig(base="no/such/model"), texts, tmp_path)

    def test_texts_longer_than_the_base_reads(self, bert, texts, tmp_path):
        with pytest.raises(ValueError, match="`max_length` must be at most the 64 .* got 128"):
            pretrain(PretrainConfig(base=bert), texts, tmp_path)

    def test_a_head_smaller_than_the_vocabulary(self, bert, texts, tmp_path):
        shutil.copytree(bert, tmp_path / "base")
        tokenizer = AutoTokenizer.from_pretrained(bert)
        random_bert(tokenizer, 1, 8, 1, 24).save_pretrained(tmp_path / "base")
        tokenizer.add_tokens(["otter"])
        tokenizer.save_pretrained(tmp_path / "base")
        config = PretrainConfig(base=str(tmp_path / "base"), max_length=24)
        n = len(tokenizer)
        with pytest.raises(ValueError, match=f"has {n - 1} terms but its tokenizer {n}: the"):
            pretrain(config, texts, tmp_path / "out")

    def test_a_mask_token_that_is_no_term(self, bert, texts, tmp_path):
        config = PretrainConfig(base=bert, max_length=24, mask_token="<hole>")
        with pytest.raises(ValueError, match="`mask_token` must be in the vocabulary .*'<hole>'"):
            pretrain(config, texts, tmp_path)
