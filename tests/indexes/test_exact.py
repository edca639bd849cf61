"""indexes/exact.py against numbers worked out by hand."""

import numpy as np
from scipy.sparse import csr_array

from lsr.indexes import exact

IMPACTS = csr_array(np.array([[2, 0, 1], [0, 3, 0], [1, 0, 3], [0, 0, 0]], dtype=np.int32))
IDS = ["b", "z", "a", "none"]


def test_positive_dot_products_descending_and_ties_by_id():
    queries = csr_array(np.array([[2, 0, 1], [0, 0, 0], [0, 70_000, 0]], dtype=np.int32))
    assert exact.search(IMPACTS, IDS, queries, 10) == [
        [("a", 5), ("b", 5)],
        [],
        [("z", 210_000)],
    ]
    assert exact.search(IMPACTS, IDS, queries, 1) == [[("a", 5)], [], [("z", 210_000)]]


def test_ties_follow_the_bytes_of_utf_8():
    ids = ["é", "z", "Z", "\U0001f642", "\uffff"]
    impacts = csr_array(np.ones((5, 1), dtype=np.int32))
    (ranked,) = exact.search(impacts, ids, csr_array(np.ones((1, 1), dtype=np.int32)), 5)
    found = [doc_id for doc_id, _ in ranked]
    assert found == sorted(ids, key=lambda doc_id: doc_id.encode())


def test_products_beyond_32_bits_do_not_overflow():
    huge = csr_array(np.array([[2**24]], dtype=np.int32))
    assert exact.search(huge, ["a"], huge, 1) == [[("a", 2**48)]]
