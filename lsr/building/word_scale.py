"""What makes the scores of words comparable with those of learned terms, whatever the encoder."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from statistics import median

import numpy as np
from scipy.sparse import csr_array

from lsr.building.encoders import Encoder
from lsr.documents import Document
from lsr.indexes.lucene import LuceneIndex
from lsr.indexes.words import Statistics, combined, count_words
from lsr.request import Words

SAMPLE = 64  # documents
WORDS = 8  # of a text whose document has no title


def word_scale(index: LuceneIndex, encoder: Encoder, impact_scale: int) -> float:
    """Return the factor at which words and learned terms score alike in one index.

    Titles of a sample of its documents are the queries, or the first words of those without a
    title. For each, the best learned score is divided by the best BM25 score of any document; the
    median of these is the factor. It is 1 if no query has both.

    Args:
        index: as of its last commit.
        encoder: that of the index.
        impact_scale: that of the index.
    """
    queries = [_query(document) for document in index.documents(_sample(index.matching()))]
    queries = [query for query in queries if query]
    if not queries:
        return 1.0
    learned = encoder.encode_queries(queries)
    nothing = csr_array(learned.shape, dtype=np.float32)
    words = count_words(index, queries)
    best = []
    for vectors, counts in ((learned, [{}] * len(queries)), (nothing, words)):
        impacts = combined(
            vectors, np.ones(len(queries)), counts, Words(), 1.0, Statistics(index), impact_scale
        )
        found = index.search(impacts.learned, 1, words=impacts.words)
        scores = [hits[0][1] if hits else 0 for hits in found]
        best.append([score * factor for score, factor in zip(scores, impacts.factors, strict=True)])
    ratios = [by_terms / by_words for by_terms, by_words in zip(*best, strict=True) if by_words]
    ratios = [ratio for ratio in ratios if ratio]
    return median(ratios) if ratios else 1.0


def _sample(ids: Sequence[str]) -> list[str]:
    """A sample that does not depend on the order in which documents came."""
    return sorted(ids, key=lambda doc_id: (zlib.crc32(doc_id.encode()), doc_id))[:SAMPLE]


def _query(document: Document) -> str:
    return document.title.strip() or " ".join(document.text.split()[:WORDS])
