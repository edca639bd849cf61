"""lsr/encoders/lora.py: what an adapter trains, and that it saves, resumes and merges equally."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.sparse_encoder.losses import (
    SparseMultipleNegativesRankingLoss,
    SpladeLoss,
)

from lsr.encoders import lora
from lsr.encoders.decoder_lm import DecoderConfig, build_decoder
from lsr.encoders.lora import PRESETS, LoraPreset, four_bits, merge_lora

ADAPTER = LoraPreset(rank=4, alpha=8)


def config(base, **changes):
    given = {"max_length": 24, "query_max_length": 12, "calibrate_terms": 40, "lora": ADAPTER}
    return DecoderConfig(base=base, **(given | changes))


def trained(model, texts, steps=3):
    """The model after a few training steps, which change the adapter and the shift."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    model.train()
    for _ in range(steps):
        features = model.preprocess(texts, task="document")
        model(features, task="document")["sentence_embedding"].square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def dense(model, texts):
    return model.encode_document(texts).to_dense()


def opened(path):
    return SparseEncoder(str(path), device="cpu", trust_remote_code=True)


def test_presets_are_those_of_the_papers():
    assert dataclasses.astuple(PRESETS["mistral-splade"]) == (16, 8, 0.1, "all-linear")
    assert dataclasses.astuple(PRESETS["lion"]) == (16, 32, 0.0, "all-linear")


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen3"])
def test_all_linear_layers_but_the_head_are_adapted_and_nothing_else_has_a_gradient(
    kind, save_decoder, sentences
):
    tied = kind == "Mistral"
    model = build_decoder(config(save_decoder(kind, tie_word_embeddings=tied)), sentences)
    model.train()
    features = model.preprocess(sentences)
    model(features)["sentence_embedding"].sum().backward()
    names = {name for name, p in model.named_parameters() if p.grad is not None}
    layers = {name.rsplit(".lora_", 1)[0] for name in names - {"1.bias"}}
    assert "1.bias" in names and all(".lora_" in name for name in names - {"1.bias"})
    projections = {layer.rsplit(".", 1)[1] for layer in layers}
    expected = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert projections == expected and len(layers) == 2 * len(expected)
    decoder = model[0].model
    for part in (decoder.get_output_embeddings(), decoder.get_input_embeddings()):
        assert not part.weight.requires_grad


@pytest.mark.parametrize("attention", ["causal", "bidirectional", "echo"])
def test_an_adapter_saves_alone_and_merged_with_equal_vectors(
    attention, save_decoder, sentences, tmp_path
):
    base = save_decoder()
    model = build_decoder(config(base, attention=attention, fold=True), sentences)
    start = dense(model, sentences)
    expected = dense(trained(model, sentences), sentences)
    assert (expected - start).abs().max() > 0.1

    model.save(str(tmp_path / "adapter"))
    saved = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert "adapter_model.safetensors" in saved and "model.safetensors" not in saved
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == base and Path(base).is_absolute()
    assert torch.equal(dense(opened(tmp_path / "adapter"), sentences), expected)

    assert merge_lora(model) is model
    torch.testing.assert_close(dense(model, sentences), expected, rtol=1e-4, atol=1e-4)
    model.save(str(tmp_path / "merged"))
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    merged = opened(tmp_path / "merged")
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(dense(merged, sentences), expected, rtol=1e-4, atol=1e-4)
    merge_lora(merged)


def test_an_adapter_inside_a_router_opens_again(save_decoder, sentences, tmp_path):
    model = build_decoder(config(save_decoder(), queries="idf", fold=True), sentences)
    expected = dense(trained(model, sentences), sentences)
    model.save(str(tmp_path / "saved"))
    again = opened(tmp_path / "saved")
    assert torch.equal(dense(again, sentences), expected)
    assert torch.equal(
        again.encode_query(sentences).to_dense(), model.encode_query(sentences).to_dense()
    )


def test_an_adapter_of_a_16_bit_base_keeps_32_bits_through_a_checkpoint(
    save_decoder, sentences, tmp_path
):
    base = save_decoder(dtype=torch.bfloat16)
    model = trained(build_decoder(config(base, attention="echo"), sentences), sentences)
    kept = {name: p for name, p in model.named_parameters() if "lora" in name}
    assert {p.dtype for p in kept.values()} == {torch.float32}
    assert model[0].model.get_output_embeddings().weight.dtype == torch.bfloat16
    assert any(not torch.equal(p, p.bfloat16().float()) for p in kept.values())
    model.save(str(tmp_path / "saved"))
    again = dict(opened(tmp_path / "saved").named_parameters())
    assert all(torch.equal(again[name], p) for name, p in kept.items())


def test_resumed_training_ends_where_uninterrupted_training_does(save_decoder, sentences, tmp_path):
    base = save_decoder("Mistral", dtype=torch.bfloat16)
    data = Dataset.from_dict({"query": [s[:20] for s in sentences], "document": sentences})

    def run(checkpoint=None):
        model = build_decoder(config(base, attention="echo", fold=True), sentences)
        arguments = SparseEncoderTrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=4,
            save_steps=2,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = SparseEncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=data,
            loss=SpladeLoss(
                model,
                SparseMultipleNegativesRankingLoss(model),
                document_regularizer_weight=1e-3,
            ),
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    whole = run()
    resumed = run(str(tmp_path / "run" / "checkpoint-2"))
    assert len(whole) == 29
    assert all(torch.equal(resumed[name], p) for name, p in whole.items())


def test_weights_in_4_bits_cannot_take_an_adapter_in(save_decoder, sentences):
    model = build_decoder(config(save_decoder()), sentences)
    model[0].model.is_quantized = True
    with pytest.raises(ValueError, match="cannot be merged into weights in 4 bits: save the model"):
        merge_lora(model)


def test_4_bits_need_bitsandbytes(save_decoder, sentences, monkeypatch):
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="`pip install bitsandbytes`"):
        four_bits()
    with pytest.raises(ImportError, match="`lora` needs peft: `pip install peft`"):
        lora.add_lora(None, ADAPTER)
    with pytest.raises(ImportError, match="`load_in_4bit` needs bitsandbytes"):
        build_decoder(config(save_decoder(), load_in_4bit=True), sentences)


def test_4_bits_are_asked_of_transformers_as_in_qlora(monkeypatch):
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("transformers.BitsAndBytesConfig.post_init", lambda self: None)
    settings = four_bits().to_dict()
    assert settings["load_in_4bit"] and settings["bnb_4bit_use_double_quant"]
    assert settings["bnb_4bit_quant_type"] == "nf4"
    assert settings["bnb_4bit_compute_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "`rank` must be at least 1, got 0"),
        ({"alpha": 0}, "`alpha` must be at least 1, got 0"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ADAPTER, **changes)
