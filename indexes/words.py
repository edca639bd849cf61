"""The words of queries: their counts, their weights, and the whole numbers that Lucene takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lsr.idf import inverse_document_frequency
from lsr.indexes.buffers import WordQueries
from lsr.indexes.lucene import WORD_SCALE, Expansion, LuceneIndex
from lsr.indexes.readings import Word, alternatives
from lsr.request import Words
from lsr.vectors import PEAK, quantise_queries

# Words that score for one pattern, and patterns that are remembered.
MOST_EXPANSIONS, KEPT = 50, 1000
# The smallest share of a pattern's weight: of a word in which edits leave nothing of the pattern.
LEAST_SHARE = 0.1


class Impacts(NamedTuple):
    """Queries in whole numbers: a document's score is a query's factor times what Lucene finds."""

    learned: csr_array  # int32, (n, V)
    words: WordQueries
    factors: list[float]


class Statistics:
    """How many documents hold a word, and what patterns stand for, remembered once needed."""

    def __init__(self, index: LuceneIndex) -> None:
        self._index = index
        self.n_documents = 0
        self.frequencies: dict[str, int] = {}
        self._expansions: dict[tuple[str, int | None], Expansion] = {}

    def idf(self, words: Sequence[str]) -> dict[str, float]:
        """Return Lucene's IDF of each word that a document holds."""
        unknown = [word for word in words if word not in self.frequencies]
        if unknown:
            self.n_documents, counts = self._index.word_frequencies(unknown)
            self.frequencies |= dict(zip(unknown, counts.tolist(), strict=True))
        known = [word for word in words if self.frequencies[word]]
        df = np.array([self.frequencies[word] for word in known])
        values = inverse_document_frequency(df, self.n_documents).tolist()
        return dict(zip(known, values, strict=True))

    def expand(self, pattern: str, edits: int | None) -> Expansion:
        """Return at most MOST_EXPANSIONS words of a pattern, see `LuceneIndex.expand`."""
        key = (pattern, edits)
        if key not in self._expansions:
            if len(self._expansions) == KEPT:
                self._expansions.clear()
            self._expansions[key] = self._index.expand(*key, MOST_EXPANSIONS)
        return self._expansions[key]

    def count(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Return for each query how often it holds each word; see `weigh_words`."""
        return [self.weigh_words(words) for words in self._index.query_words(texts)]

    def weigh_words(self, words: Sequence[Word]) -> dict[str, float]:
        """Return how often a query holds each of its words and their synonyms.

        A synonym is one or more words beside one or more of the query's own. It counts once, and
        less where it would else weigh more than these do: a synonym that is rare in the index does
        not come before the word that was asked for.
        """
        counts: Counter[str] = Counter()
        synonyms: dict[str, float] = {}
        idf = self.idf([word.word for word in words]) if any(w.is_synonym for w in words) else {}
        for paths in alternatives(words):
            own = [path for path in paths if not any(word.is_synonym for word in path)]
            counts.update(word.word for path in own for word in path)
            # Where a rule replaces words of the query, none of them is left to compare with.
            most = sum(idf.get(word.word, 0.0) for path in own for word in path)
            for path in paths:
                if path in own:
                    continue
                weight = sum(idf.get(word.word, 0.0) for word in path)
                share = min(1.0, most / weight) if most and weight else 1.0
                for word in path:
                    synonyms[word.word] = max(share, synonyms.get(word.word, 0.0))
        return {word: count for word, count in synonyms.items() if word not in counts} | counts

    def weigh(self, pattern: str, words: Mapping[str, int]) -> dict[str, float]:
        """Return how often a query holds each word that a pattern stands for.

        They weigh as much as the one in most documents, which has the smallest IDF: else the rare
        ones, misspellings among them, would come first. What differs by edits weighs less:
        1 − edits / length of the pattern, and at least LEAST_SHARE, since all of them match.
        """
        idf = self.idf(list(words))
        least = min(idf.values(), default=0.0)
        return {
            word: max(LEAST_SHARE, 1 - words[word] / len(pattern)) * least / of_word
            for word, of_word in idf.items()
        }

    def none_vanishing(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Return counts that leave no word of the index without weight when they are quantised.

        A word that nearly all documents hold has next to none. Where a query says what must match,
        a document that holds nothing else of it must be found too.
        """
        idf = self.idf(list(counts))
        least = max((counts[word] * idf[word] for word in idf), default=0.0) / PEAK
        return {
            word: max(count, least / idf[word]) if word in idf else count
            for word, count in counts.items()
        }


def count_words(index: LuceneIndex, texts: Sequence[str]) -> list[Mapping[str, float]]:
    """Return for each text how often it holds each word."""
    return [Counter(word.word for word in of_text) for of_text in index.words(texts)]


def written(text: str, words: Sequence[Word]) -> dict[str, str]:
    """Return word → as a text with these words writes it first, without synonyms."""
    return {
        word.word: text[word.start : word.end] for word in reversed(words) if not word.is_synonym
    }


def combined(
    vectors: csr_array,
    units: np.ndarray,
    words: Sequence[Mapping[str, float]],
    how: Words,
    weight: float,
    statistics: Statistics,
    impact_scale: int,
) -> Impacts:
    """Quantise queries of learned terms and words together.

    The score that a query's whole numbers give is ::

        Σ_terms unit · weight · document weight + weight of words · Σ_words count · BM25

    Learned terms and words share one scale, which follows from the largest weight of each query
    alone, see `lsr.vectors.quantise_queries`.

    Args:
        vectors: learned terms, float32, shape (n, V); those of a side without learned terms are
            empty.
        units: see `Batch`; of a query with words it is 1.
        words: for each query word → count.
        how: BM25's parameters, and the weight of titles.
        weight: of the words.
        statistics: of the index.
        impact_scale: of the index.
    """
    n_terms = vectors.shape[1]
    distinct = sorted({word for of_query in words for word in of_query}) if weight else []
    idf = statistics.idf(distinct)
    known = list(idf)
    place = {word: number for number, word in enumerate(known)}
    # A word's column holds its weight in title and text; a second one, that in the title alone.
    parts = [vectors]
    if known:
        columns: list[tuple[list[int], list[float]]] = []
        for of_query in words:
            found = sorted((place[word], word) for word in of_query if word in place)
            # Lucene gives a word up to WORD_SCALE where a learned term has impact_scale times its
            # weight.
            values = [
                weight * of_query[word] * idf[word] * impact_scale / WORD_SCALE for _, word in found
            ]
            numbers = [number for number, _ in found]
            if how.title:
                numbers += [number + len(known) for number in numbers]
                values += [how.title * value for value in values]
            columns.append((numbers, values))
        parts.append(_rows(columns, 2 * len(known)))
    impacts, factors = quantise_queries(_beside(parts), units)
    learned, weights = _split(impacts, n_terms, known)
    return Impacts(learned, WordQueries(weights, how.k1, how.b), (factors / impact_scale).tolist())


def _rows(rows: Sequence[tuple[list[int], list[float]]], width: int) -> csr_array:
    indices = [number for numbers, _ in rows for number in numbers]
    data = [value for _, values in rows for value in values]
    ends = np.cumsum([0, *(len(numbers) for numbers, _ in rows)])
    return csr_array(
        (np.array(data, np.float32), np.array(indices, np.int32), ends), shape=(len(rows), width)
    )


def _beside(parts: Sequence[csr_array]) -> csr_array:
    """The columns of one matrix after those of another, as scipy's hstack, in less time for few."""
    if len(parts) == 1:
        return parts[0]
    left, right = parts
    data, indices = [], []
    for row in range(left.shape[0]):
        ours = slice(left.indptr[row], left.indptr[row + 1])
        theirs = slice(right.indptr[row], right.indptr[row + 1])
        data += [left.data[ours], right.data[theirs]]
        indices += [left.indices[ours], right.indices[theirs] + left.shape[1]]
    return csr_array(
        (np.concatenate(data), np.concatenate(indices), left.indptr + right.indptr),
        shape=(left.shape[0], left.shape[1] + right.shape[1]),
    )


def _split(
    impacts: csr_array, n_terms: int, known: Sequence[str]
) -> tuple[csr_array, list[dict[str, tuple[int, int]]]]:
    """Undo `_beside`: the learned terms, and for each query word → weights."""
    if impacts.shape[1] == n_terms:
        return impacts, [{} for _ in range(impacts.shape[0])]
    is_learned = impacts.indices < n_terms
    ends = np.concatenate(([0], np.cumsum(is_learned)))[impacts.indptr]
    learned = csr_array(
        (impacts.data[is_learned], impacts.indices[is_learned], ends),
        shape=(impacts.shape[0], n_terms),
    )
    weights: list[dict[str, tuple[int, int]]] = []
    for start, end in zip(impacts.indptr[:-1], impacts.indptr[1:], strict=True):
        of_query: dict[str, tuple[int, int]] = {}
        # Columns of titles follow those of title and text.
        for column, value in zip(
            impacts.indices[start:end].tolist(), impacts.data[start:end].tolist(), strict=True
        ):
            if column >= n_terms:
                in_title, number = divmod(column - n_terms, len(known))
                word = known[number]
                before, _ = of_query.get(word, (0, 0))
                of_query[word] = (before, value) if in_title else (value, 0)
        weights.append(of_query)
    return learned, weights


def as_vectors(*texts: Sequence[Mapping[str, float]]) -> tuple[list[str], list[csr_array]]:
    """Return all words of these texts in order, and each sequence of texts as vectors over them.

    Returns:
        W words, and float32 matrices of shape (len(texts), W).
    """
    names = sorted({word for of in texts for of_text in of for word in of_text})
    place = {word: number for number, word in enumerate(names)}
    rows = (
        [
            (sorted(place[word] for word in of_text), [of_text[w] for w in sorted(of_text)])
            for of_text in of
        ]
        for of in texts
    )
    return names, [_rows(of, len(names)) for of in rows]


def as_counts(names: Sequence[str], vectors: Sequence[csr_array]) -> list[Mapping[str, float]]:
    """Undo `as_vectors` for vectors of one row each."""
    return [
        {names[i]: value for i, value in zip(row.indices.tolist(), row.data.tolist(), strict=True)}
        for row in vectors
    ]
