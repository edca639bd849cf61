"""Scores of every document of an index by the definition, for comparison with searches."""

import math
from collections import Counter

import numpy as np
import pytest

from lsr.indexes.lucene import WORD_SCALE
from lsr.request import Words


def kept_length(length):
    """The length that Lucene reads back from the byte in which it keeps one."""
    # SmallFloat.intToByte4: exact below 24, then an exponent and three bits after the first.
    if length < 24:
        return length
    shift = (length - 24).bit_length() - 4
    return 24 + ((length - 24 >> shift << shift) if shift > 0 else length - 24)


class BruteForce:
    """What an index holds, in plain Python; no document was deleted since it was merged."""

    def __init__(self, searcher, ids):
        self.searcher = searcher
        self.ids = sorted(ids)
        self.scale = searcher.manifest.word_scale
        self.documents = searcher.index.documents(self.ids)
        self.impacts = searcher.index.impacts(self.ids)
        contents = self._analysed([document.content for document in self.documents])
        titles = self._analysed([document.title for document in self.documents])
        self.fields = []
        for texts in (contents, titles):
            filled = [text for text in texts if text]
            average = sum(map(len, filled)) / max(len(filled), 1)
            self.fields.append((texts, [Counter(text) for text in texts], average))
        filled = [set(text) for text in contents if text]
        self.n_with_words = len(filled)
        self.frequencies = Counter(word for text in filled for word in text)

    def _analysed(self, texts):
        return [[word.word for word in of] for of in self.searcher.index.words(texts)]

    def counts(self, query):
        """Word → how often a query holds it."""
        return Counter(self._analysed([query])[0])

    def idf(self, word):
        """Lucene's IDF of a word."""
        df = self.frequencies[word]
        return math.log(1 + (self.n_with_words - df + 0.5) / (df + 0.5))

    def bm25(self, word, field, number, how):
        """tf / (tf + k1 · (1 − b + b · length / average)) of a word in a field of a document."""
        texts, counts, average = self.fields[field]
        tf = counts[number][word]
        if not tf:
            return 0.0
        norm = how.k1 * (1 - how.b + how.b * kept_length(len(texts[number])) / average)
        return tf / (tf + norm)

    def words(self, counts, how=None, weight=1.0):
        """(n,) float64: weight · Σ count · idf · (BM25 + title · BM25 of the title)."""
        how = how or Words()
        scores = np.zeros(len(self.ids))
        for word, count in counts.items():
            if not self.frequencies[word]:
                continue
            for number in range(len(self.ids)):
                part = self.bm25(word, 0, number, how)
                part += how.title * self.bm25(word, 1, number, how)
                scores[number] += weight * count * self.idf(word) * part
        return scores

    def learned(self, query):
        """(n,) float64: the dot product with a query, float32, shape (1, V)."""
        scores = self.impacts.astype(np.float64) @ query.astype(np.float64).T
        return scores.toarray()[:, 0] / self.searcher.manifest.impact_scale

    def whole_numbers(self, impacts, how):
        """Scores by the whole numbers of one query, and by how much its rounding may change them.

        Args:
            impacts: from `Passes.impacts`.
            how: BM25's parameters.

        Returns:
            Python ints, and float64, both of length n.
        """
        learned = (self.impacts.astype(np.int64) @ impacts.learned.astype(np.int64).T).toarray()
        scores = learned[:, 0].tolist()
        matched = self.impacts.sum(axis=1).astype(np.float64)
        slack = 0.5 * matched
        (weights,) = impacts.words.weights
        for number in range(len(self.ids)):
            for word, of_fields in weights.items():
                for field, weight in enumerate(of_fields):
                    score = int(WORD_SCALE * self.bm25(word, field, number, how) + 0.5)
                    scores[number] += weight * score
                    slack[number] += 0.5 * score + 0.5 * weight + 0.25 if score else 0
        return scores, slack * impacts.factors[0]


@pytest.fixture(scope="session")
def brute_force():
    """The class `BruteForce`."""
    return BruteForce
