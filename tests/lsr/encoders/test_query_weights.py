"""lsr/encoders/query_weights.py: IDF by hand, the stock module, and weights that stay ≥ 0."""

import math

import numpy as np
import pytest
import torch

from lsr.encoders.query_weights import NonNegativeQueryWeights, corpus_idf, static_queries
from lsr.encoders.tokens import special_ids


def test_idf_by_hand(words):
    idf = corpus_idf(words, [["w0 w1", "w0 w0"], ["w0 [SEP]"]])
    assert idf.dtype == np.float32 and idf.shape == (300,)
    ids = words.get_vocab()
    # ln(1 + (N − df + 1/2) / (df + 1/2)), N = 3
    assert idf[ids["w0"]] == pytest.approx(math.log(1 + 0.5 / 3.5))
    assert idf[ids["w1"]] == pytest.approx(math.log(1 + 2.5 / 1.5))
    assert idf[ids["w2"]] == idf.max() == pytest.approx(math.log(1 + 3.5 / 0.5))
    assert not idf[special_ids(words)].any()
    with pytest.raises(ValueError, match="cannot fit IDF: none of 1 documents holds a token"):
        corpus_idf(words, [[""]])


def test_queries_weigh_the_tokens_they_hold(words):
    module = static_queries(words, np.arange(300), max_length=3)
    features = module.preprocess(["w7 w7 [MASK]", "w1 w2 w3 w4"])
    vectors = module(features)["sentence_embedding"]
    found = [{int(t): float(row[t]) for t in row.nonzero()[:, 0]} for row in vectors]
    assert found == [{12: 12.0}, {6: 6.0, 7: 7.0, 8: 8.0}]  # w0 has id 5; three tokens are read
    assert not module.weight.requires_grad and module.frozen
    assert words.model_max_length > 3  # the given tokenizer is not changed


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (np.ones(299), r"must have shape \(300,\), one per term of the tokenizer, got \(299,\)"),
        (
            np.where(np.arange(300) == 6, -2.0, 1.0),
            "must be finite and not negative, got -2.0 for 'w1'",
        ),
        (np.where(np.arange(300) == 7, np.nan, 1.0), "got nan for 'w2'"),
    ],
)
def test_wrong_weights_are_refused(words, weights, reason):
    with pytest.raises(ValueError, match=reason):
        static_queries(words, weights, max_length=8)


def test_learned_weights_are_projected_and_frozen_ones_left_alone(words):
    learned = static_queries(words, np.ones(300), max_length=8, learned=True)
    frozen = static_queries(words, np.ones(300), max_length=8)
    for module in (learned, frozen):
        with torch.no_grad():
            module.weight[:] = torch.linspace(-1, 1, 300)
    model = torch.nn.ModuleList([learned, frozen])
    NonNegativeQueryWeights().on_optimizer_step(None, None, None, model=model)
    expected = torch.linspace(-1, 1, 300).clamp_min(0)
    expected[special_ids(words)] = 0
    assert torch.equal(learned.weight.data, expected)
    assert torch.equal(frozen.weight.data, torch.linspace(-1, 1, 300))
