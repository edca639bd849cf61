"""lsr/training/masked_prediction.py compared with transformers' losses, and with loops."""

import copy
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)
from transformers.modeling_outputs import MaskedLMOutput

from lsr.encoders.fuse import take_decoder_out
from lsr.training.masked_prediction import MaskedPrediction, masked_cross_entropy
from lsr.training.masking import IGNORED

V, B, T = 90, 4, 13
SIZES = {
    "vocab_size": V,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "initializer_range": 0.5,
}


def batch(seed=0):
    """A padded batch with some tokens masked, and one text with none."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, V, (B, T), generator=generator)
    mask = (torch.arange(T) < torch.tensor([[T], [5], [9], [2]])).long()
    labels = torch.where(torch.rand((B, T), generator=generator) < 0.3, ids, IGNORED)
    labels[mask == 0] = IGNORED
    labels[:, 0] = labels[3] = IGNORED
    ids = torch.where(labels != IGNORED, 4, ids) * mask
    assert (labels != IGNORED).sum() > 5
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gradients(model):
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(params=["bert", "roberta"])
def masked_lm(request):
    torch.manual_seed(0)
    kinds = {
        "bert": (BertForMaskedLM, BertConfig(**SIZES)),
        "roberta": (RobertaForMaskedLM, RobertaConfig(**SIZES)),
    }
    kind, config = kinds[request.param]
    # No dropout: it would draw other random numbers in the two computations.
    return kind(config).double().eval()


def test_loss_and_gradients_are_those_of_transformers(masked_lm):
    stock = copy.deepcopy(masked_lm)
    expected = stock(**batch()).loss
    expected.backward()
    loss = MaskedPrediction(take_decoder_out(masked_lm))
    parts = loss(masked_lm, batch())
    assert parts.keys() == {"mlm"}
    parts["mlm"].backward()
    torch.testing.assert_close(parts["mlm"], expected, rtol=1e-10, atol=0)
    found = gradients(masked_lm)
    assert found.keys() == gradients(stock).keys()
    assert "cls.predictions.bias" in found or "lm_head.bias" in found
    for name, gradient in gradients(stock).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that is made in its context."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.numel())
        return result


def test_logits_of_other_positions_are_never_made():
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**SIZES | {"vocab_size": 5000}))
    inputs = batch()
    masked = int((inputs["labels"] != IGNORED).sum())
    with Largest() as stock:
        model(**inputs).loss.backward()
    assert stock.most >= B * T * 5000
    weights = model.get_input_embeddings().weight.numel()
    loss = MaskedPrediction(take_decoder_out(model))
    with Largest() as ours:
        loss(model, inputs)["mlm"].backward()
    assert ours.most <= max(weights, masked * 5000)


def test_a_batch_without_masked_tokens_has_loss_0_and_no_gradient(masked_lm):
    inputs = batch()
    inputs["labels"].fill_(IGNORED)
    loss = MaskedPrediction(take_decoder_out(masked_lm))(masked_lm, inputs)["mlm"]
    loss.backward()
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients(masked_lm).values())


def test_half_precision_states_give_a_loss_in_float32():
    torch.manual_seed(0)
    decoder = torch.nn.Linear(16, V)
    states = torch.randn(B, T, 16)
    labels = batch()["labels"]
    exact = masked_cross_entropy(states, decoder, labels)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = masked_cross_entropy(states, decoder, labels)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)


class Given(torch.nn.Module):
    """A model that returns given states."""

    def __init__(self, states):
        super().__init__()
        self.states = states

    def forward(self, input_ids, attention_mask):
        return MaskedLMOutput(logits=self.states)


def test_the_state_before_a_masked_token_predicts_it():
    """Three tokens, terms 0 to 2; the decoder is the identity, so that logits are states."""
    decoder = torch.nn.Linear(3, 3)
    with torch.no_grad():
        decoder.weight.copy_(torch.eye(3))
        decoder.bias.zero_()
    states = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [9.0, 9.0, 9.0]]])
    # Token 1, a 0, is predicted by state 0; token 2, a 2, by state 1. State 2 predicts nothing.
    inputs = {
        "input_ids": torch.zeros(1, 3, dtype=torch.long),
        "attention_mask": torch.ones(1, 3, dtype=torch.long),
        "labels": torch.tensor([[IGNORED, 0, 2]]),
    }
    parts = MaskedPrediction(decoder, next_token=True)(Given(states), inputs)
    expected = (-math.log(math.exp(2) / (math.exp(2) + 2)) - math.log(1 / (math.exp(3) + 2))) / 2
    assert parts.keys() == {"mntp"}
    assert parts["mntp"].item() == pytest.approx(expected, rel=1e-6)


def test_mntp_is_the_causal_loss_of_transformers_under_bidirectional_attention():
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_key_value_heads=1, is_causal=False)
    model = LlamaForCausalLM(config).double().eval()
    stock = copy.deepcopy(model)
    # transformers' loss shifts the labels in the same way.
    expected = stock(**batch()).loss
    expected.backward()
    found = MaskedPrediction(take_decoder_out(model), next_token=True)(model, batch())["mntp"]
    found.backward()
    # transformers computes its loss in float32.
    torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=0)
    assert gradients(model).keys() == gradients(stock).keys()
    for name, gradient in gradients(stock).items():
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=1e-4, atol=1e-6)


def test_flops_is_of_the_pooled_masked_texts_without_special_terms(masked_lm):
    inputs, special = batch(), [0, 2, 4]
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        logits = masked_lm(input_ids=ids, attention_mask=mask).logits
    weights = torch.log1p(torch.relu(logits)) * mask[..., None]
    vectors = weights.max(1).values
    expected = 0.0
    for term in range(V):
        if term not in special:
            # The mean product of the weights of two different texts.
            products = [
                vectors[i, term] * vectors[j, term] for i in range(B) for j in range(B) if i != j
            ]
            expected += float(sum(products)) / len(products)
    loss = MaskedPrediction(
        take_decoder_out(masked_lm), flops_weight=0.25, special=torch.tensor(special).numpy()
    )
    parts = loss(masked_lm, inputs)
    assert parts.keys() == {"mlm", "flops"}
    assert parts["flops"].item() == pytest.approx(0.25 * expected, rel=1e-6)
    parts["flops"].backward()
    bias = masked_lm.get_output_embeddings().bias.grad
    assert (bias[special] == 0).all()
    assert (bias > 0).any()
