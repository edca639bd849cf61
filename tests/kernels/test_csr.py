"""kernels/csr.py against a loop over texts."""

import numpy as np
import pytest
import torch

from lsr.kernels.csr import to_csr


def by_hand(pooled, top_k, threshold):
    """Return the dense matrix of the weights to keep, computed text by text."""
    kept = np.zeros(pooled.shape, dtype=np.float32)
    for row, weights in enumerate(pooled.numpy()):
        terms = [term for term, weight in enumerate(weights) if weight > threshold]
        terms.sort(key=lambda term: (-weights[term], term))
        for term in terms[:top_k]:
            kept[row, term] = weights[term]
    return kept


@pytest.mark.parametrize("top_k", [None, 1, 3, 9, 40, 41, 99])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 99.0])
@pytest.mark.parametrize("n_texts", [0, 1, 7])
def test_equals_a_loop(top_k, threshold, n_texts):
    torch.manual_seed(0)
    # Few distinct values, so many ties; empty rows at the start, in the middle and at the end.
    pooled = torch.randint(0, 5, (n_texts, 41)).float() / 4
    pooled[0::3] = 0
    found = to_csr(pooled, top_k=top_k, threshold=threshold)
    assert found.shape == pooled.shape and found.dtype == np.float32
    assert found.indices.dtype == np.int32 and len(found.indptr) == n_texts + 1
    assert (found.data > threshold).all() and found.has_sorted_indices
    np.testing.assert_array_equal(found.toarray(), by_hand(pooled, top_k, threshold))


def test_what_is_no_number_is_not_lost():
    pooled = torch.tensor([[0.0, float("nan"), 2.0, 1.0]])
    assert to_csr(pooled).indices.tolist() == [1, 2, 3]
    assert 1 in to_csr(pooled, top_k=2).indices


def test_errors():
    with pytest.raises(ValueError, match="`top_k` must be at least 1, got 0"):
        to_csr(torch.ones(1, 2), top_k=0)
    with pytest.raises(ValueError, match="`threshold` must be at least 0, got -1"):
        to_csr(torch.ones(1, 2), threshold=-1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_gpu():
    pooled = torch.randint(0, 5, (7, 41)).float()
    found, expected = to_csr(pooled.cuda(), top_k=9), to_csr(pooled, top_k=9)
    assert (found != expected).nnz == 0
