"""lsr/encoders/calibrate.py: heads with all or no terms active have the target afterwards."""

import pytest
import torch
from transformers import AutoModelForMaskedLM, LlamaConfig, LlamaForCausalLM

from lsr.encoders.calibrate import calibrate, fit_calibration, logit_statistics, token_states
from lsr.encoders.lm_head import decoder_of
from lsr.encoders.tokens import special_ids
from lsr.kernels.reference import splade_pool

TERMS = 25


def vectors(model, words, texts):
    """The SPLADE vectors of texts, shape (n, V), without special tokens' terms."""
    tokens = words(texts, padding=True, return_tensors="pt")
    logits = model(**tokens).logits
    weights = torch.log1p(torch.relu(logits)) * tokens["attention_mask"][..., None]
    pooled = weights.max(1).values.clone()
    pooled[:, special_ids(words)] = 0.0
    return pooled


def mean_active(model, words, texts):
    with torch.no_grad():
        return float((vectors(model, words, texts) > 0).sum(1).float().mean())


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "distilbert"])
@pytest.mark.parametrize("bias", [20.0, -2000.0], ids=["explodes", "is dead"])
def test_heads_have_the_target_density_and_learn(kind, bias, save_model, words, texts):
    model = AutoModelForMaskedLM.from_pretrained(save_model(kind, initializer_range=2.0)).eval()
    with torch.no_grad():
        decoder_of(model).bias.add_(bias)
    before = mean_active(model, words, texts)
    assert before > 200 if bias > 0 else before == 0

    calibrate(model, words, texts, TERMS, max_length=40)
    assert mean_active(model, words, texts) == pytest.approx(TERMS, abs=0.1)
    assert mean_active(model, words, texts[:40]) == pytest.approx(TERMS, rel=0.3)
    assert decoder_of(model).weight is model.get_input_embeddings().weight

    found = vectors(model, words, texts)
    assert (found > 0).any(1).float().mean() > 0.8  # few texts of three words have no terms
    assert 0.1 < float(found[found > 0].detach().mean()) < 2.0  # neither tiny nor huge
    found.sum().backward()
    gradient = decoder_of(model).bias.grad
    alive = (gradient != 0).float().mean()
    assert alive > 0.8  # share of the 300 terms that at least one of 80 texts makes active
    assert torch.isfinite(model.get_input_embeddings().weight.grad).all()


def test_logits_of_a_causal_model_are_calibrated_by_their_states(words, texts):
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=1.0,
        )
    ).eval()
    assert mean_active(model, words, texts) > 200
    states, cu_seqlens, _ = token_states(model, words, texts, max_length=40)
    special = special_ids(words).tolist()
    weight = model.lm_head.weight.detach()
    scale, bias = fit_calibration(states, cu_seqlens, weight, TERMS, excluded=special)
    pooled = splade_pool(states * scale, cu_seqlens, weight, bias)
    pooled[:, special] = 0.0
    assert float((pooled > 0).sum(1).float().mean()) == pytest.approx(TERMS, abs=0.1)
    assert (pooled > 0).any(1).all()


def test_the_formula(words):
    generator = torch.Generator().manual_seed(3)
    states = torch.randn((60, 4), generator=generator) + 1.0
    weight = torch.randn((9, 4), generator=generator)
    cu_seqlens = torch.arange(0, 61, 3)
    logits = states @ weight.T
    mean, deviation = logit_statistics(states, weight)
    torch.testing.assert_close(mean, logits.mean(0))
    torch.testing.assert_close(deviation, logits.std(0, correction=0))

    standard = (logits - mean) / deviation
    largest = standard.view(20, 3, 9).max(1).values[:, 1:].flatten().sort(descending=True).values
    threshold = (largest[39] + largest[40]) / 2  # 2 terms of each of 20 texts
    found = fit_calibration(states, cu_seqlens, weight, 2, excluded=[0])
    assert found.scale == pytest.approx(1 / float(deviation.median()))
    torch.testing.assert_close(
        found.bias[1:], -found.scale * (mean + threshold * deviation)[1:], rtol=1e-4, atol=1e-4
    )
    plain = fit_calibration(states, cu_seqlens, weight, 2, excluded=[0], rescale=False)
    assert plain.scale == 1.0
    torch.testing.assert_close(plain.bias, found.bias / found.scale, rtol=1e-4, atol=1e-4)


def test_without_expansion_own_terms_are_counted(save_model, words, texts):
    def own_active(model):
        present = torch.zeros(len(texts), len(words))
        for row, ids in enumerate(words(texts, add_special_tokens=False)["input_ids"]):
            present[row, ids] = 1
        active = vectors(model, words, texts) > 0
        return (active * present).sum(1).mean().item(), present.sum(1).mean().item()

    model = AutoModelForMaskedLM.from_pretrained(save_model(head=True)).eval()
    calibrate(model, words, texts, 6, max_length=40, expansion=False)
    assert own_active(model)[0] == pytest.approx(6, abs=0.1)
    calibrate(model, words, texts, 250, max_length=40, expansion=False)
    active, there = own_active(model)
    assert active == pytest.approx(0.9 * there, rel=0.01)


def test_the_largest_256_texts_are_a_fixed_sample(save_model, words, texts):
    path = save_model()
    biases = []
    for given in (texts * 4, texts * 4, texts):
        model = AutoModelForMaskedLM.from_pretrained(path).eval()
        calibrate(model, words, given, TERMS, max_length=40)
        biases.append(decoder_of(model).bias.detach())
    assert torch.equal(biases[0], biases[1])
    assert not torch.equal(biases[0], biases[2])


def test_states_are_those_of_the_decoder_and_the_model_is_as_before(save_model, words, texts):
    model = AutoModelForMaskedLM.from_pretrained(save_model("roberta")).train()
    states, cu_seqlens, ids = token_states(model, words, ["w3 w4 w5 w6", "w7"], max_length=5)
    assert model.training
    assert cu_seqlens.tolist() == [0, 3, 8]  # sorted by length; cut to five tokens
    assert ids.tolist() == [2, 12, 3, 2, 8, 9, 10, 3]
    decoder = decoder_of(model)
    with torch.no_grad():
        expected = model.eval()(input_ids=ids[None, 3:]).logits[0]
    torch.testing.assert_close(
        torch.nn.functional.linear(states[3:], decoder.weight, decoder.bias).detach(), expected
    )


def test_bad_input_is_refused(save_model, words, texts):
    model = AutoModelForMaskedLM.from_pretrained(save_model())
    with pytest.raises(ValueError, match="calibrated on texts, but there are none"):
        calibrate(model, words, [], TERMS, max_length=40)
    for terms in (0, 295):
        with pytest.raises(ValueError, match=f"`terms` .* below the 295 terms .*, got {terms}"):
            calibrate(model, words, texts, terms, max_length=40)
    with pytest.raises(ValueError, match="calibrated on texts, but there are none"):
        fit_calibration(torch.zeros(0, 2), torch.tensor([0]), torch.ones(4, 2), 1)
    same = torch.ones(6, 2)
    with pytest.raises(ValueError, match="over 6 tokens must be positive and finite, got 0.0"):
        fit_calibration(same, torch.tensor([0, 6]), torch.randn(4, 2), 1)
