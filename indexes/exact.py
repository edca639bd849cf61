"""Brute-force search: the oracle that the Lucene index is held against."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.sparse import csr_array


def search(
    impacts: csr_array, ids: Sequence[str], queries: csr_array, k: int
) -> list[list[tuple[str, int]]]:
    """Return (id, score) of the k largest positive dot products per query, ties by id ascending.

    Args:
        impacts: int32, shape (n documents, V).
        ids: n document ids.
        queries: int32, shape (n queries, V).
        k: hits per query.
    """
    scores = (queries.astype("int64") @ impacts.astype("int64").T).toarray()
    ranked = []
    for row in scores:
        hits = [(doc_id, int(score)) for doc_id, score in zip(ids, row, strict=True) if score > 0]
        # Code point order of str is the byte order of UTF-8.
        ranked.append(sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k])
    return ranked
