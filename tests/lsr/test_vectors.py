import numpy as np
import pytest
from scipy.sparse import csr_array

from lsr.vectors import EXACT, QUERY_SCALE, concatenate, prune, quantise, quantise_queries


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


def test_quantise_rejects_large_impacts() -> None:
    assert quantise(vectors_of([[2.55]]), 100, max_impact=255).data.tolist() == [255]
    with pytest.raises(ValueError, match=r"in \[0, 255\], got 300 at scale 100 for row 1, term 2"):
        quantise(vectors_of([[1, 0, 0], [0, 0, 3]]), 100, max_impact=255)
    with pytest.raises(ValueError, match=r"in \[0, 65535\], got 65536 "):
        quantise(vectors_of([[1]]), 65536)


def test_quantise_rejects_parameters() -> None:
    with pytest.raises(ValueError, match="`scale` must be positive and finite, got 0"):
        quantise(vectors_of([[1]]), 0)
    with pytest.raises(
        ValueError, match=r"`max_impact` must be in \[1, 2147483647\], got 2147483648"
    ):
        quantise(vectors_of([[1]]), 1, max_impact=2**31)


@pytest.mark.parametrize("largest", [0, 1, 64 * 1000, 65535])
def test_no_score_of_a_query_can_reach_what_float32_holds(largest: int) -> None:
    rng = np.random.default_rng(largest)
    room = EXACT / max(largest, 1)
    for size in (1, 3, 500):
        dense = 10.0 ** rng.uniform(-2, 3, (50, size)) * (rng.random((50, size)) < 0.7)
        dense[0] = 0
        vectors = csr_array(dense.astype(np.float32))
        impacts, scales = quantise_queries(vectors, largest)
        assert impacts.dtype == np.int32
        rounded = np.rint(vectors.toarray().astype(np.float64) * scales[:, None])
        np.testing.assert_array_equal(impacts.toarray(), rounded)
        assert (impacts.sum(axis=1) < room).all()
        assert (scales <= QUERY_SCALE).all() and (np.log2(scales) % 1 == 0).all()
        finer = np.rint(vectors.toarray().astype(np.float64) * 2 * scales[:, None]).sum(axis=1)
        assert ((finer >= room) | (scales == QUERY_SCALE)).all()  # as fine as can be
    # Of 100 weights each is rounded up.
    impacts, _ = quantise_queries(vectors_of([[2.51] * 100]), largest)
    assert impacts.sum() < room
    with pytest.raises(ValueError, match="row 1, term 0, value nan"):
        quantise_queries(vectors_of([[1.0], [np.nan]]), largest)


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
