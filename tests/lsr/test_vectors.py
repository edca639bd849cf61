from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from lsr.vectors import MAX_IMPACT, PEAK, concatenate, prune, quantise, quantise_queries


def vectors_of(rows: list[list[float]]) -> csr_array:
    return csr_array(np.array(rows, dtype=np.float32))


def random_vectors(seed: int, n: int = 40, vocabulary: int = 30) -> csr_array:
    rng = np.random.default_rng(seed)
    dense = rng.integers(0, 6, (n, vocabulary)) * (rng.random((n, vocabulary)) < 0.4)
    dense[[0, n // 2, n - 1]] = 0
    return csr_array(dense.astype(np.float32))


def prune_slowly(vectors: csr_array, top_k: int) -> np.ndarray:
    result = np.zeros(vectors.shape, dtype=np.float32)
    for i, row in enumerate(vectors.toarray()):
        for term in sorted(np.flatnonzero(row), key=lambda t: (-row[t], t))[:top_k]:
            result[i, term] = row[term]
    return result


def assert_same(left: csr_array, right: csr_array) -> None:
    assert left.shape == right.shape and left.dtype == right.dtype
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@pytest.mark.parametrize("top_k", [1, 2, 7, 30, 1000])
def test_prune_equals_sorting_each_row(top_k: int) -> None:
    vectors = random_vectors(top_k)
    pruned = prune(vectors, top_k)
    np.testing.assert_array_equal(pruned.toarray(), prune_slowly(vectors, top_k))
    assert pruned.dtype == np.float32
    assert pruned.indices.dtype == vectors.indices.dtype
    pruned.check_format(full_check=True)
    assert np.all(
        np.diff(pruned.indices)[np.diff(np.repeat(np.arange(40), np.diff(pruned.indptr))) == 0] > 0
    )


def test_prune_keeps_the_lower_term_of_equal_weights() -> None:
    assert prune(vectors_of([[0, 2, 1, 2, 2]]), 2).indices.tolist() == [1, 3]


@pytest.mark.parametrize("shape", [(0, 5), (3, 5)])
def test_prune_of_nothing(shape: tuple[int, int]) -> None:
    assert prune(csr_array(shape, dtype=np.float32), 2).shape == shape


def test_prune_rejects_top_k() -> None:
    with pytest.raises(ValueError, match="`top_k` must be at least 1, got 0"):
        prune(vectors_of([[1]]), 0)


def test_quantise_rounds_half_to_even_and_drops_zeros() -> None:
    impacts = quantise(vectors_of([[0.24, 0.25, 0.75, 0], [0, 0, 0, 0], [0, 0, 1.3, 2]]), 2)
    assert impacts.dtype == np.int32
    assert impacts.toarray().tolist() == [[0, 0, 2, 0], [0, 0, 0, 0], [0, 0, 3, 4]]
    assert impacts.nnz == 3


def test_quantise_leaves_its_input_alone() -> None:
    vectors = vectors_of([[0.1, 1.0]])
    quantise(vectors, 1)
    assert vectors.indices.tolist() == [0, 1] and vectors.nnz == 2


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf, -np.inf])
def test_quantise_rejects_weights(value: float) -> None:
    vectors = vectors_of([[0, 0, 0], [1, 1, 0], [0, 0, 0], [2, 0, value]])
    with pytest.raises(ValueError, match=f"row 3, term 2, value {value}"):
        quantise(vectors, 4)


def test_quantise_caps_impacts() -> None:
    cap = (MAX_IMPACT + 0.4) / 64
    impacts = quantise(vectors_of([[cap, 1, 0], [0, 1e38, 3]]), 64)
    assert impacts.toarray().tolist() == [[MAX_IMPACT, 64, 0], [0, MAX_IMPACT, 192]]


@pytest.mark.parametrize("scale", [0, -1, np.nan, np.inf])
def test_quantise_rejects_scales(scale: float) -> None:
    with pytest.raises(ValueError, match=f"`scale` must be positive and finite, got {scale}"):
        quantise(vectors_of([[1]]), scale)


def test_the_impacts_of_a_query_are_relative_to_its_largest_weight() -> None:
    # 3 is the largest: 3 → 1024, 1.5 → 512, 0.75 → 256; 3 / 2048 → ½, which rounds to 0.
    rows = [[0, 0, 0, 0], [3, 1.5, 0.75, 3 / 2048], [0, 0, 0, 7e-30], [0, 0, 0, 0]]
    impacts, factors = quantise_queries(vectors_of(rows))
    assert impacts.dtype == np.int32 and factors.dtype == np.float64
    assert impacts.toarray().tolist() == [[0] * 4, [1024, 512, 256, 0], [0, 0, 0, 1024], [0] * 4]
    assert impacts.nnz == 4
    np.testing.assert_allclose(factors[1:3] * PEAK, [3, 7e-30], rtol=1e-6)
    _, doubled = quantise_queries(vectors_of(rows), np.array([1.0, 2, 4, 1]))
    assert (doubled == factors * [1, 2, 4, 1]).all()
    with pytest.raises(ValueError, match="row 1, term 0, value nan"):
        quantise_queries(vectors_of([[1.0], [np.nan]]))
    assert quantise_queries(csr_array((0, 3), dtype=np.float32))[1].shape == (0,)


WEIGHTS = st.floats(1e-20, 1e20, allow_subnormal=False)


@settings(deadline=None, derandomize=True)
@given(st.lists(WEIGHTS, min_size=1, max_size=30), WEIGHTS)
@example([1.0, 1.9], 0.01)
@example([2.048, 0.001], 0.1)  # the second is an exact half after scaling
@example([1.0] * 30, 1 / 3)
def test_a_multiple_of_a_query_has_the_same_impacts(weights: list[float], factor: float) -> None:
    one = csr_array(np.array([weights]))
    many = csr_array(np.array([[weight * factor for weight in weights]]))
    impacts, (unit,) = quantise_queries(one)
    of_many, (of_many_unit,) = quantise_queries(many)
    assert_same(impacts, of_many)
    assert impacts.data.max() == PEAK
    assert of_many_unit == pytest.approx(factor * unit, rel=1e-6)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.lists(WEIGHTS, min_size=1, max_size=30), st.integers(1, 500), st.randoms())
def test_parts_of_a_score_add_up_to_it_in_any_order(weights, repeats, random) -> None:
    # Many terms: a factor then has fewer bits.
    impacts, (factor,) = quantise_queries(csr_array(np.array([weights * repeats])))
    parts = [weight * random.randint(1, MAX_IMPACT) for weight in impacts.data.tolist()]
    random.shuffle(parts)
    assert sum(part * factor for part in parts) == sum(parts) * factor
    assert Fraction(sum(parts) * factor) == sum(parts) * Fraction(factor)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_concatenate_keeps_rows_and_dtype(dtype: type) -> None:
    parts = [random_vectors(s).astype(dtype) for s in (1, 2)] + [csr_array((2, 30), dtype=dtype)]
    joined = concatenate(parts)
    np.testing.assert_array_equal(joined.toarray(), np.vstack([p.toarray() for p in parts]))
    assert joined.dtype == dtype and isinstance(joined, csr_array)


def test_concatenate_rejects() -> None:
    with pytest.raises(ValueError, match="at least one matrix, got none"):
        concatenate([])
    with pytest.raises(
        ValueError, match=r"part 0 has 1 terms \(float32\), part 1 has 2 \(float32\)"
    ):
        concatenate([vectors_of([[1]]), vectors_of([[1, 2]])])
    with pytest.raises(ValueError, match=r"part 1 has 1 \(int32\)"):
        concatenate([vectors_of([[1]]), vectors_of([[1]]).astype(np.int32)])
