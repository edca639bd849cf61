"""lsr/encoders/top_k.py compared with full logits of which the smaller ones are masked."""

import pytest
import torch

from lsr.encoders import top_k
from lsr.encoders.top_k import TopKPooling, top_k_head
from lsr.kernels.head import splade_head
from lsr.kernels.reference import splade_pool

CU_SEQLENS = torch.tensor([0, 4, 4, 11, 12])


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn((12, 5), generator=generator, dtype=torch.float64)
    weight = torch.randn((40, 5), generator=generator, dtype=torch.float64)
    bias = torch.randn(40, generator=generator, dtype=torch.float64)
    return [part.requires_grad_() for part in (hidden, weight, bias)]


def oracle(hidden, weight, bias, k, activation, pooling):
    """The head by its definition: pool logits of which each token keeps its k largest."""
    logits = hidden @ weight.T + bias
    kept = logits >= logits.topk(k, dim=1).values[:, -1:]
    # With the identity as its weights, the head turns these states into the same logits.
    identity = torch.eye(40, dtype=logits.dtype)
    masked = torch.where(kept, logits, 0.0)
    return splade_pool(masked, CU_SEQLENS, identity, None, activation, pooling)


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("chunk", [1 << 26, 130])
def test_values_and_gradients_equal_the_definition(
    case, k, activation, pooling, chunk, monkeypatch
):
    monkeypatch.setattr(top_k, "CHUNK", chunk)
    expected = oracle(*case, k, activation, pooling)
    found = top_k_head(
        *case, top_k=k, cu_seqlens=CU_SEQLENS, activation=activation, pooling=pooling
    )
    torch.testing.assert_close(found, expected)
    slope = torch.linspace(-1, 1, 40, dtype=torch.float64)
    theirs = torch.autograd.grad((expected * slope).sum(), case)
    ours = torch.autograd.grad((found * slope).sum(), case)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    assert not found[1].any()  # a text without tokens


def test_fewer_terms_than_without_and_all_terms_are_the_plain_head(case):
    plain = splade_head(*case, cu_seqlens=CU_SEQLENS)
    few = top_k_head(*case, top_k=3, cu_seqlens=CU_SEQLENS)
    assert 0 < (few > 0).sum() < (plain > 0).sum()
    every = top_k_head(*case, top_k=1000, cu_seqlens=CU_SEQLENS)
    torch.testing.assert_close(every, plain)


def test_padded_states_and_no_texts_and_no_bias(case):
    hidden, weight, _ = case
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1]])
    padded = torch.zeros((3, 6, 5), dtype=torch.float64)
    padded[mask.bool()] = hidden.detach()[:9]
    bounds = torch.tensor([0, 4, 4, 9])
    torch.testing.assert_close(
        top_k_head(padded, weight, top_k=2, mask=mask),
        top_k_head(hidden[:9], weight, top_k=2, cu_seqlens=bounds),
    )
    nothing = top_k_head(hidden[:0], weight, top_k=2, cu_seqlens=torch.tensor([0]))
    assert nothing.shape == (0, 40)
    with pytest.raises(ValueError, match="give `cu_seqlens` with packed or `mask` with padded"):
        top_k_head(hidden, weight, top_k=2)


@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_the_module_pools_given_logits(case, pooling):
    hidden, weight, bias = (part.detach() for part in case)
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 1, 1]])
    states = torch.randn((2, 5, 5), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    module = TopKPooling(3, pooling_strategy=pooling)
    features = {"token_embeddings": states @ weight.T + bias, "attention_mask": mask}
    found = module(features)["sentence_embedding"]
    expected = top_k_head(states, weight, bias, top_k=3, mask=mask, pooling=pooling)
    torch.testing.assert_close(found, expected)
    assert module.get_config_dict() == {
        "pooling_strategy": pooling,
        "activation_function": "relu",
        "embedding_dimension": 40,
        "top_k_per_token": 3,
    }
    with pytest.raises(ValueError, match="`top_k_per_token` must be at least 1, got 0"):
        TopKPooling(0)


def test_autocast_computes_in_its_dtype(case):
    hidden, weight, bias = (part.detach().float() for part in case)
    exact = top_k_head(hidden, weight, bias, top_k=3, cu_seqlens=CU_SEQLENS)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = top_k_head(hidden, weight, bias, top_k=3, cu_seqlens=CU_SEQLENS)
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()
