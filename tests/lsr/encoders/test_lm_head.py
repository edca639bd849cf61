"""lsr/encoders/lm_head.py: grafted heads against h·E^T, and heads that cannot be grafted."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM
from transformers.utils import logging

from lsr.encoders.lm_head import (
    NEVER,
    decoder_of,
    graft_head,
    keep_offset_exact,
    silence,
    transform_of,
    trim_head,
)


@pytest.fixture(autouse=True)
def quiet():
    """Silence reports on weights that are missing on purpose."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(level)


def tokens(n_terms):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, n_terms, (4, 20), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "mpnet"])
def test_a_grafted_head_computes_states_times_embeddings(kind, save_model, words, tmp_path):
    path = save_model(kind, head=False)
    trunk = AutoModel.from_pretrained(path).eval()
    given = tokens(len(words))
    kept = given["attention_mask"].bool()
    with torch.no_grad():
        states = trunk(**given).last_hidden_state
        expected = (states @ trunk.get_input_embeddings().weight.T)[kept]
    model = AutoModelForMaskedLM.from_pretrained(path)
    before = model.eval()(**given).logits[kept]
    assert not torch.allclose(before, expected, atol=0.1)  # before, transformers' head is random
    graft_head(model)
    torch.testing.assert_close(model(**given).logits[kept], expected, rtol=1e-4, atol=1e-4)

    model.save_pretrained(tmp_path / "grafted")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "grafted").eval()
    torch.testing.assert_close(again(**given).logits[kept], expected, rtol=1e-4, atol=1e-4)
    assert decoder_of(again).weight is again.get_input_embeddings().weight


def test_dimensions_that_the_trunk_scales_by_nothing_are_no_obstacle(save_model, words):
    path = save_model("bert", head=False)
    trunk = AutoModel.from_pretrained(path).eval()
    scale = trunk.encoder.layer[-1].output.LayerNorm.weight
    with torch.no_grad():
        scale[:3] = torch.tensor([0.0, 1e-33, -1e-9])  # all-MiniLM-L6-v2 has such values
    trunk.save_pretrained(path)
    given = tokens(len(words))
    kept = given["attention_mask"].bool()
    with torch.no_grad():
        states = trunk(**given).last_hidden_state[kept]
    model = AutoModelForMaskedLM.from_pretrained(path)
    graft_head(model)
    found = model(**given).logits[kept]
    expected = states @ trunk.get_input_embeddings().weight.T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("modernbert", {}, "ModernBertForMaskedLM: the dense layer of its head has no bias"),
        ("bert", {"tie_word_embeddings": False}, "decoder is not tied to its word embeddings"),
        # ALBERT has one LayerNorm for all layers.
        ("albert", {}, "logits change by .* of their deviation, at most 0.001 is allowed"),
        ("bert", {"hidden_act": "tanh"}, "its activation is not the identity for large values"),
    ],
)
def test_what_cannot_be_grafted_is_refused_with_the_reason(kind, changes, reason, save_model):
    model = AutoModelForMaskedLM.from_pretrained(save_model(kind, head=False, **changes))
    with pytest.raises(ValueError, match=reason):
        graft_head(model)


def test_models_without_a_usable_head_are_refused(save_model):
    trunk = AutoModel.from_pretrained(save_model(head=False))
    with pytest.raises(ValueError, match="decoder of BertModel must be .*, got None"):
        decoder_of(trunk)
    unbiased = AutoModelForMaskedLM.from_pretrained(save_model("modernbert", decoder_bias=False))
    with pytest.raises(ValueError, match="must be a torch.nn.Linear with a bias"):
        decoder_of(unbiased)
    bert = AutoModelForMaskedLM.from_pretrained(save_model())
    bert.cls.predictions.transform.second = torch.nn.LayerNorm(32)
    with pytest.raises(ValueError, match=r"one dense layer \(32, 32\) .*, got 1 and 2"):
        transform_of(bert)


def test_silenced_terms_stay_silent_in_sixteen_bits(save_model):
    model = AutoModelForMaskedLM.from_pretrained(save_model())
    silence(model, np.array([0, 3]))
    bias = decoder_of(model).bias.detach()
    assert bias[[0, 3]].tolist() == [NEVER, NEVER]
    assert (bias[4:] > NEVER / 100).all()
    for dtype in (torch.float16, torch.bfloat16):
        assert -2e4 < float(bias[0].to(dtype)) < -9e3


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "modernbert"])
def test_trimmed_heads_keep_their_logits_and_their_ties(kind, save_model, words):
    path = save_model(kind, n_terms=320)
    model = AutoModelForMaskedLM.from_pretrained(path).eval()
    given = tokens(len(words))
    expected = model(**given).logits
    trim_head(model, len(words))
    torch.testing.assert_close(model(**given).logits, expected[..., :300])
    assert decoder_of(model).weight is model.get_input_embeddings().weight
    with pytest.raises(ValueError, match="head has 300 terms but its tokenizer 301"):
        trim_head(model, 301)


def test_the_offset_of_a_grafted_head_costs_nothing_in_bfloat16(save_model, words):
    def error():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return float((model.cls(states).float() - exact).norm() / exact.norm())

    model = AutoModelForMaskedLM.from_pretrained(save_model(head=False))
    graft_head(model)
    with torch.no_grad():
        states = model.bert(**tokens(len(words))).last_hidden_state
        exact = model.cls(states)
    before = error()
    assert before > 0.01
    keep_offset_exact(model)
    assert error() < 0.004  # half a step of bfloat16

    pretrained = AutoModelForMaskedLM.from_pretrained(save_model())
    keep_offset_exact(pretrained)
    assert "forward" not in vars(transform_of(pretrained)[0])
    keep_offset_exact(
        AutoModel.from_pretrained(save_model(head=False))
    )  # nothing to do, and no error
