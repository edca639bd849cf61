"""lsr/encoders/packing.py against padded batches."""

import copy

import pytest
import torch
from sentence_transformers.base.modules import Transformer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from lsr.encoders.load import default_tokenizer
from lsr.encoders.packing import ATTENTION, leave_out_padding

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
WIDE = {"intermediate_size": 32, "initializer_range": 0.5, **SIZES}
MODELS = {
    "bert": lambda n: BertForMaskedLM(BertConfig(vocab_size=n, **WIDE)),
    "distilbert": lambda n: DistilBertForMaskedLM(
        DistilBertConfig(
            vocab_size=n, dim=16, n_heads=2, n_layers=2, hidden_dim=32, initializer_range=0.5
        )
    ),
    "xlm-roberta": lambda n: XLMRobertaForMaskedLM(XLMRobertaConfig(vocab_size=n, **WIDE)),
    # Layer 0 attends to all tokens, layer 1 to 4 on each side.
    "modernbert": lambda n: ModernBertForMaskedLM(
        ModernBertConfig(vocab_size=n, local_attention=8, pad_token_id=0, **WIDE)
    ),
}
TEXTS = ["heat transfer in a pipe", "", "the boundary layer of a wing " * 5, "wing theory"]


def transformer(tmp_path, model):
    model.save_pretrained(tmp_path)
    default_tokenizer().save_pretrained(tmp_path)
    loaded = Transformer(str(tmp_path), transformer_task="fill-mask", max_seq_length=40)
    # With dropout, padding would change the random numbers.
    for module in loaded.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return loaded


def passed(module):
    """The states of all tokens, and the gradients of a function of them."""
    features = module.preprocess(TEXTS)
    mask = features["attention_mask"].bool()
    out = module(features)["token_embeddings"]
    states = out[0] if out.shape[0] == 1 else out[mask]
    (states * torch.arange(states.shape[1])).cos().sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return states.detach(), gradients


@pytest.mark.parametrize("kind", MODELS)
def test_packed_states_and_gradients_equal_padded_ones(kind, tmp_path):
    torch.manual_seed(0)
    padded = transformer(tmp_path, MODELS[kind](len(default_tokenizer())))
    packed = copy.deepcopy(padded)
    assert leave_out_padding(packed)
    states, gradients = passed(packed)
    expected, expected_gradients = passed(padded)
    assert packed(packed.preprocess(TEXTS))["token_embeddings"].shape[0] == 1
    torch.testing.assert_close(states, expected, rtol=1e-3, atol=1e-4)
    assert gradients.keys() == expected_gradients.keys()
    # The gradient of a key's bias is 0 except for rounding, so tolerances are absolute.
    atol = 1e-5 * max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=atol)


def test_a_text_sees_no_other(tmp_path):
    torch.manual_seed(0)
    module = transformer(tmp_path, MODELS["bert"](len(default_tokenizer())))
    assert leave_out_padding(module)

    def first(texts):
        features = module(module.preprocess(texts))
        return features["token_embeddings"][0, : features["cu_seq_lens_q"][1]]

    torch.testing.assert_close(first(["wing theory", "pipe"]), first(["wing theory", "heat " * 9]))


@pytest.mark.parametrize("reason", ["causal", "eager attention"])
def test_others_are_left_alone(reason, tmp_path):
    n = len(default_tokenizer())
    if reason == "causal":
        module = transformer(tmp_path, MODELS["bert"](n))
        module.model = BertLMHeadModel(BertConfig(vocab_size=n, is_decoder=True, **WIDE))
    else:
        module = transformer(tmp_path, MODELS["bert"](n))
        module.model.set_attn_implementation("eager")
    assert not leave_out_padding(module)
    assert module.model.config._attn_implementation != ATTENTION
    assert "forward" not in vars(module)


def test_padded_input_still_works_after_packing(tmp_path):
    module = transformer(tmp_path, MODELS["bert"](len(default_tokenizer()))).eval()
    features = module.preprocess(TEXTS)
    arguments = {name: features[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = module.model(**arguments).logits
        assert leave_out_padding(module)
        found = module.model(**arguments).logits
    mask = features["attention_mask"].bool()
    torch.testing.assert_close(found[mask], expected[mask])


def test_saving_keeps_the_attention_of_the_checkpoint(tmp_path):
    module = transformer(tmp_path / "a", MODELS["bert"](len(default_tokenizer())))
    (tmp_path / "before").mkdir()
    module.save(str(tmp_path / "before"))
    assert leave_out_padding(module)
    (tmp_path / "after").mkdir()
    module.save(str(tmp_path / "after"))
    names = [path.name for path in (tmp_path / "before").glob("*.json")]
    assert "config.json" in names
    for name in names:
        assert (tmp_path / "after" / name).read_text() == (tmp_path / "before" / name).read_text()
