import math

import numpy as np
import pytest
from scipy.sparse import csr_array

from lsr.request import Feedback
from lsr.search.feedback import heaviest, move_dense, move_sparse


def vectors_of(rows: list[list[float]], width: int = 5) -> csr_array:
    return csr_array(np.array(rows, dtype=np.float32).reshape(-1, width))


def how(**settings) -> Feedback:
    return Feedback(**settings)


def assert_sound(vectors: csr_array) -> None:
    assert vectors.dtype == np.float32
    vectors.check_format(full_check=True)
    assert vectors.has_canonical_format and np.all(vectors.data > 0)


def moved_by(setting: Feedback, query=None, relevant=None, scores=None, negatives=None):
    """The moved query as a dense array; arguments default to the example vectors above."""
    query = QUERY if query is None else query
    relevant = RELEVANT if relevant is None else relevant
    scores = np.array([3.0, 1.0]) if scores is None else np.array(scores)
    negatives = vectors_of([]) if negatives is None else negatives
    moved = move_sparse(query, relevant, scores, negatives, setting)
    assert moved.shape == query.shape
    assert_sound(moved)
    return moved.toarray()[0]


def assert_moved(moved: np.ndarray, direction: list[float], norm: float = 5) -> None:
    """Check a vector's direction (`direction` may have any length) and its norm."""
    expected = np.array(direction) * norm / np.linalg.norm(direction)
    np.testing.assert_allclose(moved, expected, rtol=1e-6)
    np.testing.assert_array_equal(moved == 0, expected == 0)


# Dense.

DENSE_QUERY = np.array([1, 0, 2], dtype=np.float32)
DENSE_RELEVANT = np.array([[3, 2, 0], [5, -2, 1]], dtype=np.float32)  # mean 4, 0, 1/2
DENSE_NEGATIVES = np.array([[0, 4, 4], [0, 0, 4]], dtype=np.float32)  # mean 0, 2, 4
NO_DENSE = np.empty((0, 3), dtype=np.float32)


def test_dense_average() -> None:
    moved = move_dense(DENSE_QUERY, DENSE_RELEVANT, DENSE_NEGATIVES, how(method="average"))
    assert moved.tolist() == [3, 0, 1] and moved.dtype == np.float32


def test_dense_rocchio() -> None:
    setting = how(alpha=0.5, beta=2, gamma=0.25, negatives=2)
    moved = move_dense(DENSE_QUERY, DENSE_RELEVANT, DENSE_NEGATIVES, setting)
    # ½·(1, 0, 2) + 2·(4, 0, ½) − ¼·(0, 2, 4).
    assert moved.tolist() == [8.5, -0.5, 1] and moved.dtype == np.float32
    moved = move_dense(DENSE_QUERY, DENSE_RELEVANT, NO_DENSE, setting)
    assert moved.tolist() == [8.5, 0, 2]


@pytest.mark.parametrize("method", ["average", "rocchio"])
def test_dense_without_relevant_documents(method: str) -> None:
    setting = how(method=method, alpha=0.5, gamma=1, negatives=2)
    query = DENSE_QUERY.copy()
    moved = move_dense(query, NO_DENSE, DENSE_NEGATIVES, setting)
    assert moved.tolist() == [1, 0, 2]
    moved[0] = 9
    assert query[0] == 1


def test_dense_does_not_change_its_input() -> None:
    query = DENSE_QUERY.astype(np.float64)
    move_dense(query, DENSE_RELEVANT, DENSE_NEGATIVES, how(gamma=1, negatives=2))
    assert query.tolist() == [1, 0, 2]


def test_dense_rejects() -> None:
    with pytest.raises(ValueError, match="'relevance-model' is for side 'sparse'"):
        move_dense(DENSE_QUERY, DENSE_RELEVANT, NO_DENSE, how(method="relevance-model"))
    with pytest.raises(ValueError, match=r"`relevant` must have shape \(n, 3\).* got \(3,\)"):
        move_dense(DENSE_QUERY, DENSE_QUERY, NO_DENSE, how())
    with pytest.raises(ValueError, match=r"`negatives` must have shape \(n, 3\).* got \(2, 4\)"):
        move_dense(DENSE_QUERY, DENSE_RELEVANT, np.zeros((2, 4)), how())


# Sparse. The norms are 5, 10, 2 and 13; the sums of the first three 7, 14 and 2.

QUERY = vectors_of([[3, 4, 0, 0, 0]])
RELEVANT = vectors_of([[0, 6, 8, 0, 0], [0, 0, 0, 2, 0]])
NEGATIVE = vectors_of([[0, 0, 5, 0, 12]])


def test_rocchio() -> None:
    # (.6, .8) + ½·[(0, .6, .8) + (0, 0, 0, 1)]
    assert_moved(moved_by(how(beta=1)), [0.6, 1.1, 0.4, 0.5, 0])
    # 2·(.6, .8) + ¼·[…]
    assert_moved(moved_by(how(alpha=2, beta=0.5)), [1.2, 1.75, 0.2, 0.25, 0])


def test_rocchio_with_negatives() -> None:
    # .26·(0, 0, 5/13, 0, 12/13) = (0, 0, .1, 0, .24); the last term is absent: nothing to subtract
    setting = how(beta=1, gamma=0.26, negatives=1)
    assert_moved(moved_by(setting, negatives=NEGATIVE), [0.6, 1.1, 0.3, 0.5, 0])
    two = vectors_of([[0, 0, 5, 0, 12], [0, 0, 0, 0, 0]])  # an empty vector counts in the mean too
    assert_moved(moved_by(setting, negatives=two), [0.6, 1.1, 0.35, 0.5, 0])
    # With γ = 1.04 the whole .4 of the third term is subtracted.
    assert_moved(
        moved_by(how(beta=1, gamma=1.04, negatives=1), negatives=NEGATIVE), [0.6, 1.1, 0, 0.5, 0]
    )


def test_rocchio_takes_own_terms_away_too() -> None:
    setting = how(beta=1, gamma=1, negatives=1)
    own = vectors_of([[1, 0, 0, 0, 0]])
    assert_moved(moved_by(setting, negatives=own), [0, 1.1, 0.4, 0.5, 0])


def test_average_is_the_centroid_of_unit_vectors() -> None:
    setting = how(method="average", alpha=9, beta=0.1)  # not used
    assert_moved(moved_by(setting, negatives=NEGATIVE), [0.6, 1.4, 0.8, 1, 0])


def test_relevance_model() -> None:
    # p(t|q) = (3, 4)/7; p(t|R) = ¾·(0, 3, 4)/7 + ¼·(0, 0, 0, 1) = (0, 9, 12, 7)/28
    setting = how(method="relevance-model", alpha=1, beta=1)
    assert_moved(moved_by(setting), [12, 16 + 9, 12, 7, 0])
    # Three times as much weight on the query's direction, whatever its length.
    assert_moved(moved_by(how(method="relevance-model", alpha=3, beta=1)), [36, 48 + 9, 12, 7, 0])
    assert_moved(moved_by(how(method="relevance-model", alpha=0, beta=2)), [0, 9, 12, 7, 0])


def test_relevance_model_of_the_heaviest_terms() -> None:
    # The two heaviest of (0, 9, 12, 7)/28 are (0, 3, 4)/7; then the query's own two terms are all.
    setting = how(method="relevance-model", alpha=1, beta=1, terms=2)
    assert_moved(moved_by(setting), [3, 4 + 3, 0, 0, 0])
    # All three of the model's terms are used; then the query's own two and one more are kept.
    setting = how(method="relevance-model", alpha=1, beta=1, terms=3)
    assert_moved(moved_by(setting), [12, 25, 12, 0, 0])


@pytest.mark.parametrize("scores", [[0.0, 0.0], [-1.0, -2.0], [5.0, 5.0]])
def test_relevance_model_without_preference(scores: list[float]) -> None:
    # ½·(0, 3, 4)/7 + ½·(0, 0, 0, 1) = (0, 3, 4, 7)/14
    setting = how(method="relevance-model", alpha=1, beta=1)
    assert_moved(moved_by(setting, scores=scores), [6, 8 + 3, 4, 7, 0])


def test_relevance_model_of_scores_below_zero() -> None:
    setting = how(method="relevance-model", alpha=1, beta=1)
    assert_moved(moved_by(setting, scores=[0.5, -0.5]), [3, 4 + 3, 4, 0, 0])


# The terms that are kept. Rocchio with β = 1 gives .6, 1.1, .4, .5, whose sum is 2.6.


@pytest.mark.parametrize(
    ("cuts", "kept"),
    [
        ({"terms": 4}, [0, 1, 2, 3]),
        ({"terms": 3}, [0, 1, 3]),
        ({"terms": 2}, [0, 1]),
        ({"terms": 1}, [0, 1]),  # own terms are always kept
        ({"terms": None}, [0, 1, 2, 3]),
        ({"mass": 1}, [0, 1, 2, 3]),
        ({"mass": 0.8}, [0, 1, 3]),  # 1.1 + .6 + .5 ≥ 2.08
        ({"mass": 0.6}, [0, 1]),  # 1.1 + .6 ≥ 1.56
        ({"ratio": 0.3}, [0, 1, 2, 3]),  # ≥ .33
        ({"ratio": 0.4}, [0, 1, 3]),  # ≥ .44
        ({"ratio": 1}, [0, 1]),
        ({"terms": 3, "mass": 1, "ratio": 0.3}, [0, 1, 3]),
        ({"terms": 4, "mass": 0.8, "ratio": 0.3}, [0, 1, 3]),
        ({"terms": 4, "mass": 0.95, "ratio": 0.5}, [0, 1]),
    ],
)
def test_terms_kept(cuts: dict[str, float | None], kept: list[int]) -> None:
    weights = [0.6, 1.1, 0.4, 0.5, 0]
    expected = [weight if term in kept else 0 for term, weight in enumerate(weights)]
    assert_moved(moved_by(how(beta=1, **cuts)), expected)


def test_own_terms_are_kept_though_others_are_heavier() -> None:
    # .06, .38, .4, .5: the second term outweighs half of the heaviest, the first does not
    assert_moved(moved_by(how(alpha=0.1, beta=1, ratio=0.9)), [0.06, 0.38, 0, 0.5, 0])
    assert_moved(moved_by(how(alpha=0.1, beta=1, terms=3)), [0.06, 0.38, 0, 0.5, 0])


def test_of_equal_terms_the_lower_is_kept() -> None:
    document = vectors_of([[0, 0, 2, 2, 2]])
    moved = moved_by(how(beta=1, terms=4), relevant=document, scores=[1.0])
    assert np.flatnonzero(moved).tolist() == [0, 1, 2, 3]


# Degenerate cases.


@pytest.mark.parametrize("method", ["rocchio", "average", "relevance-model"])
class TestDegenerate:
    def test_without_relevant_documents(self, method: str) -> None:
        setting = how(method=method, alpha=0.5, gamma=1, negatives=1, terms=1)
        moved = moved_by(setting, relevant=vectors_of([]), scores=[], negatives=NEGATIVE)
        assert moved.tolist() == [3, 4, 0, 0, 0]

    def test_of_empty_documents(self, method: str) -> None:
        moved = moved_by(how(method=method), relevant=vectors_of([[0] * 5, [0] * 5]))
        np.testing.assert_allclose(moved, [3, 4, 0, 0, 0], rtol=1e-6)

    def test_one_empty_document(self, method: str) -> None:
        relevant = vectors_of([[0, 0, 0, 0, 0], [0, 0, 0, 2, 0]])
        moved = moved_by(how(method=method), relevant=relevant)
        assert np.flatnonzero(moved).tolist() == [0, 1, 3]

    def test_an_empty_query_becomes_the_documents(self, method: str) -> None:
        moved = moved_by(how(method=method, alpha=1, beta=1, terms=2), query=vectors_of([[0] * 5]))
        # Cuts of (0, .3, .4, .5) and, for the relevance model, of (0, 9, 12, 7)/28.
        heavy = [0, 9, 12, 0, 0] if method == "relevance-model" else [0, 0, 0.4, 0.5, 0]
        assert_moved(moved, heavy, norm=1)

    def test_of_nothing(self, method: str) -> None:
        empty = vectors_of([[0] * 5])
        assert not moved_by(how(method=method), query=empty, relevant=empty, scores=[1.0]).any()

    def test_input_is_not_changed(self, method: str) -> None:
        query, relevant, negative = QUERY.copy(), RELEVANT.copy(), NEGATIVE.copy()
        setting = how(method=method, gamma=1, negatives=1)
        moved = move_sparse(query, relevant, np.ones(2), negative, setting)
        moved.data[:] = -1
        for now, before in ((query, QUERY), (relevant, RELEVANT), (negative, NEGATIVE)):
            np.testing.assert_array_equal(now.toarray(), before.toarray())

    def test_the_index_type_stays(self, method: str) -> None:
        moved = move_sparse(QUERY, RELEVANT, np.ones(2), vectors_of([]), how(method=method))
        assert (moved.indices.dtype, moved.indptr.dtype) == (np.int32, np.int32)


def test_negatives_that_leave_nothing() -> None:
    setting = how(alpha=1, beta=0, gamma=100, negatives=1)
    assert moved_by(setting, negatives=QUERY).tolist() == [3, 4, 0, 0, 0]


def test_indices_in_any_order() -> None:
    backwards = csr_array(
        (np.array([4, 3], np.float32), np.array([1, 0]), np.array([0, 2])), shape=(1, 5)
    )
    np.testing.assert_array_equal(moved_by(how(), query=backwards), moved_by(how()))
    moved = moved_by(how(), query=backwards, relevant=vectors_of([]), scores=[])
    assert moved.tolist() == [3, 4, 0, 0, 0]


def test_sparse_rejects() -> None:
    none = vectors_of([])
    with pytest.raises(ValueError, match=r"`query` must have one row, got shape \(2, 5\)"):
        move_sparse(RELEVANT, RELEVANT, np.ones(2), none, how())
    with pytest.raises(ValueError, match=r"`scores` must .* each of 2 documents, got shape \(1,\)"):
        move_sparse(QUERY, RELEVANT, np.ones(1), none, how())
    nothing = Feedback(method="relevance-model", alpha=0, beta=0.5).model_copy(update={"beta": 0})
    with pytest.raises(ValueError, match="`alpha` or `beta` must be above 0"):
        move_sparse(QUERY, RELEVANT, np.ones(2), none, nothing)
    with pytest.raises(ValueError, match="`scores` must be finite, got .*nan"):
        setting = how(method="relevance-model")
        move_sparse(QUERY, RELEVANT, np.array([1, math.nan]), none, setting)


# Cutting.


@pytest.mark.parametrize(
    ("terms", "mass", "ratio", "kept"),
    [
        (None, None, None, [1, 2, 3, 4]),
        (3, None, None, [1, 2, 4]),
        (9, None, None, [1, 2, 3, 4]),
        (None, 0.5, None, [4]),  # 5 of 10
        (None, 0.51, None, [1, 4]),  # 5 + 2: of equal weights the first
        (None, 0.7, None, [1, 4]),
        (None, 0.71, None, [1, 2, 4]),
        (None, 1e-9, None, [4]),
        (None, 1, None, [1, 2, 3, 4]),
        (None, None, 0.4, [1, 2, 4]),  # ≥ 2
        (None, None, 0.41, [4]),
        (None, None, 1, [4]),
        (2, 0.9, 0.4, [1, 4]),
        (4, 0.9, 0.2, [1, 2, 4]),
    ],
)
def test_heaviest(terms, mass, ratio, kept: list[int]) -> None:
    row = [0, 2, 2, 1, 5]
    result = heaviest(vectors_of([[0] * 5, row, [0] * 5, [3, 0, 0, 0, 0]]), terms, mass, ratio)
    assert_sound(result)
    expected = [weight if term in kept else 0 for term, weight in enumerate(row)]
    assert result.toarray().tolist() == [[0] * 5, expected, [0] * 5, [3, 0, 0, 0, 0]]


def test_shares_are_those_of_float32() -> None:
    # As float32, .7 is less than .7 of 1, and .7 + .3 is less than 1.
    weights = vectors_of([[0.3, 0.7, 0, 0, 0], [1, 0.7, 0, 0, 0]])
    assert heaviest(weights, None, 0.7, None).toarray()[0].nonzero()[0].tolist() == [1]
    assert heaviest(weights, None, None, 0.7).toarray()[1].nonzero()[0].tolist() == [0, 1]


def test_all_of_the_mass_is_all_terms() -> None:
    # In float32, 1 + 1e-9 is 1.
    assert heaviest(vectors_of([[1, 1e-9, 0, 0, 0]]), None, 1, None).nnz == 2


@pytest.mark.parametrize("n", [0, 3])
def test_heaviest_of_nothing(n: int) -> None:
    result = heaviest(csr_array((n, 5), dtype=np.float32), 2, 0.5, 0.5)
    assert result.shape == (n, 5) and result.nnz == 0 and result.dtype == np.float32


def test_heaviest_rejects() -> None:
    for share in (0, 1.5, -1, math.nan):
        with pytest.raises(ValueError, match=r"`mass` must be in \(0, 1\], got"):
            heaviest(QUERY, None, share, None)
        with pytest.raises(ValueError, match=r"`ratio` must be in \(0, 1\], got"):
            heaviest(QUERY, None, None, share)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        heaviest(QUERY, 0, None, None)
