"""lsr/encoders/masked_lm.py: what test_load.py does not compare with sentence-transformers."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from lsr.encoders.load import default_tokenizer
from lsr.encoders.masked_lm import MaskedLMEncoder
from lsr.encoders.tokens import special_ids
from lsr.vectors import prune

TEXTS = ["heat transfer in a pipe", "", "a", "the boundary layer " * 20, "wing theory"]


@pytest.fixture(scope="module")
def tokenizer():
    return default_tokenizer()


def encoder(tokenizer, impossible=(), **options):
    """A small random masked LM with a bias of −∞ at the terms `impossible`."""
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            initializer_range=0.5,
        )
    )
    with torch.no_grad():
        model.get_output_embeddings().bias[list(impossible)] = -torch.inf
    return MaskedLMEncoder(model, tokenizer, dtype=torch.float32, **options)


def test_terms_with_a_bias_of_minus_infinity_are_left_out_and_change_nothing_else(tokenizer):
    impossible = [*range(1000, 1100), 30521]
    expected = encoder(tokenizer).encode_documents(TEXTS).toarray()
    assert np.count_nonzero(expected[:, impossible]) > 0
    expected[:, impossible] = 0.0
    found = encoder(tokenizer, impossible).encode_documents(TEXTS)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-5, atol=1e-6)
    assert not np.isin(found.indices, special_ids(tokenizer)).any()


@pytest.mark.parametrize("impossible", [(), range(1000, 1100)])
def test_top_k_equals_pruning_afterwards(tokenizer, impossible):
    tested = encoder(tokenizer, impossible)
    expected = prune(tested.encode_documents(TEXTS), 30)
    assert (tested.encode_documents(TEXTS, 30) != expected).nnz == 0
    assert np.diff(expected.indptr).tolist() == [30] * 5
    with pytest.raises(ValueError, match="`top_k` must be at least 1, got 0"):
        tested.encode_documents(TEXTS, 0)


def test_batches_change_nothing(tokenizer):
    alone = encoder(tokenizer, max_batch_tokens=1).encode_documents(TEXTS).toarray()
    together = encoder(tokenizer, max_batch_tokens=10_000).encode_documents(TEXTS).toarray()
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)
    assert encoder(tokenizer).encode_documents([]).shape == (0, len(tokenizer))


def test_special_tokens_have_no_weight_in_queries_whatever_is_given(tokenizer):
    weights = np.arange(1, len(tokenizer) + 1, dtype=np.float64)
    tested = encoder(tokenizer, query_weights=weights)
    heat = tokenizer.convert_tokens_to_ids("heat")
    found = tested.encode_queries(["[SEP] heat [MASK]"])
    assert (found.indices.tolist(), found.data.tolist()) == ([heat], [heat + 1])
    assert found.dtype == np.float32
    assert weights[0] == 1


def test_a_head_that_does_more_than_its_decoder_is_refused(tokenizer):
    class Scaled(BertForMaskedLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 2
            return output

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    # A doubling before a linear layer equals one after it, except for the layer's bias.
    model = Scaled(config)
    torch.nn.init.ones_(model.get_output_embeddings().bias)
    with pytest.raises(ValueError, match="Scaled changes the logits after its output embeddings"):
        MaskedLMEncoder(model, tokenizer)


def test_fingerprint_tells_weights_apart_and_not_their_dtype(tokenizer):
    assert encoder(tokenizer).fingerprint == encoder(tokenizer).fingerprint
    assert encoder(tokenizer).fingerprint != encoder(tokenizer, [7]).fingerprint
