"""The words of an index: BM25 in whole numbers, in one pass with learned terms, and alone."""

import random

import numpy as np
import pytest
from scipy.sparse import csr_array

from lsr.documents import Document
from lsr.indexes.buffers import WordQueries
from lsr.indexes.lucene import LANGUAGES, WORD_SCALE, LuceneIndex

K1, B = 0.9, 0.4
VOCABULARY = [f"term{i}" for i in range(8)]
WORDS = "heat flow wing plate layer pressure shock nose cone theory".split()
NO_TERMS = csr_array((1, len(VOCABULARY)), dtype=np.int32)


def kept_length(length):
    """The length that Lucene reads back from the byte in which it keeps one."""
    # SmallFloat.intToByte4: exact below 24, then an exponent and three bits after the first.
    if length < 24:
        return length
    shift = (length - 24).bit_length() - 4
    return 24 + ((length - 24 >> shift << shift) if shift > 0 else length - 24)


def word_score(words, word, average):
    """The whole number that a word adds, by the definition."""
    frequency = words.count(word)
    norm = K1 * (1 - B + B * kept_length(len(words)) / average)
    return int(WORD_SCALE * frequency / (frequency + norm) + 0.5)


def brute_force(documents, query, words, k):
    """(id, score) of the k best documents by learned terms and words."""
    fields = {}
    for place, of in enumerate((lambda d: f"{d.title} {d.text}", lambda d: d.title)):
        texts = {doc_id: of(document).split() for doc_id, (document, _) in documents.items()}
        filled = [text for text in texts.values() if text]
        fields[place] = (texts, sum(map(len, filled)) / max(len(filled), 1))
    scores = {}
    for doc_id, (_, impacts) in documents.items():
        score = sum(query.get(term, 0) * impact for term, impact in impacts.items())
        for word, weights in words.items():
            for place, (texts, average) in fields.items():
                score += weights[place] * word_score(texts[doc_id], word, average)
        if score:
            scores[doc_id] = score
    return sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))[:k]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """An index from which documents were replaced and deleted, merged; and what it holds."""
    rng = random.Random(3)
    truth = {}
    index = LuceneIndex.create(tmp_path_factory.mktemp("words") / "index", VOCABULARY, "standard")
    for part in range(3):
        batch = {}
        for _ in range(60):
            doc_id = f"d{rng.randrange(150)}"
            title = " ".join(rng.choices(WORDS, k=rng.randrange(4)))
            text = " ".join(rng.choices(WORDS, k=int(rng.expovariate(1 / 30))))
            terms = sorted(rng.sample(range(len(VOCABULARY)), rng.randrange(5)))
            impacts = {term: rng.choice([1, 60, 300, 16_383]) for term in terms}
            batch[doc_id] = (Document(doc_id, title, text), impacts)
        rows = [impacts for _, impacts in batch.values()]
        impacts = csr_array(
            (
                np.array([value for row in rows for value in row.values()], dtype=np.int32),
                np.array([term for row in rows for term in row], dtype=np.int64),
                np.cumsum([0, *map(len, rows)]),
            ),
            shape=(len(rows), len(VOCABULARY)),
        )
        index.add([document for document, _ in batch.values()], impacts)
        index.commit({"part": str(part)})
        truth |= batch
    gone = sorted(truth)[::9]
    index.delete(gone)
    index.commit({"part": "last"})
    # Only then do Lucene's averages leave out what was deleted.
    index.force_merge()
    index.commit({"part": "merged"})
    yield index, {doc_id: of for doc_id, of in truth.items() if doc_id not in gone}
    index.close()


def queries(seed, n, heaviest):
    rng = random.Random(seed)
    for _ in range(n):
        terms = sorted(rng.sample(range(len(VOCABULARY)), rng.randrange(4)))
        query = {term: rng.randint(1, heaviest) for term in terms}
        words = {
            word: (rng.choice([0, rng.randint(1, heaviest)]), rng.choice([0, 0, heaviest // 2]))
            for word in rng.sample(WORDS, rng.randrange(5))
        }
        yield query, words


def packed(query):
    terms = sorted(query)
    values = np.array([query[term] for term in terms], dtype=np.int32)
    return csr_array((values, np.array(terms, dtype=np.int64), [0, len(terms)]), NO_TERMS.shape)


# Scores of the second kind are above 2^24, where Lucene's are not exact.
@pytest.mark.parametrize("heaviest", [20, 1024])
@pytest.mark.parametrize("k", [3, 500])
def test_equals_brute_force_ties_included(filled, heaviest, k):
    index, truth = filled
    above = 0
    for query, words in queries(heaviest + k, 40, heaviest):
        expected = brute_force(truth, query, words, k)
        asked = WordQueries([words], K1, B)
        (found,) = index.search(packed(query), k, words=asked)
        assert found == expected
        ids = [doc_id for doc_id, _ in expected]
        if ids:
            (scores,) = index.scores(packed(query), [ids[::-1]], words=asked)
            assert scores == [score for _, score in expected][::-1]
            above += expected[0][1] > 2**24
            floor = expected[len(expected) // 2][1]
            (found,) = index.search(packed(query), k, words=asked, min_score=floor)
            assert found == [hit for hit in expected if hit[1] >= floor]
    assert bool(above) == (heaviest == 1024)


def test_parts_of_words_are_those_of_the_definition(filled):
    index, truth = filled
    ids = sorted(truth)[::5]
    weights = {"heat": (3, 0), "cone": (1, 2), "unknown": (5, 5)}
    parts = index.word_scores(WordQueries([weights], K1, B), ids)
    assert parts.shape == (len(ids), 3, 2)
    for doc_id, of_document in zip(ids, parts, strict=True):
        # A field in which a word has no weight is not looked at.
        for (word, (_, in_title)), (in_contents, title) in zip(
            weights.items(), of_document, strict=True
        ):
            one = dict(brute_force(truth, {}, {word: (1, 0)}, 500)).get(doc_id, 0)
            assert in_contents == one
            if in_title:
                assert title == dict(brute_force(truth, {}, {word: (0, 1)}, 500)).get(doc_id, 0)
            else:
                assert title == 0
    total = (parts * np.array(list(weights.values()))).sum(axis=(1, 2))
    (scores,) = index.scores(NO_TERMS, [ids], words=WordQueries([weights], K1, B))
    assert scores == total.tolist()


def test_frequencies_of_words_and_of_tokens(tmp_path):
    documents = [
        Document("a", "Heating", "the heated plates"),
        Document("b", "", "Plate"),
        Document("c", "", "the"),  # nothing but a stop word
    ]
    with LuceneIndex.create(tmp_path / "index", VOCABULARY) as index:
        impacts = csr_array((3, len(VOCABULARY)), dtype=np.int32)
        index.add(documents, impacts, [{1, 5}, {5}, ()])
        index.commit({})
        n, counts = index.word_frequencies(["plate", "heat", "the"])
        assert (n, counts.tolist()) == (2, [2, 1, 0])
        assert index.token_frequencies().tolist() == [0, 1, 0, 0, 0, 2, 0, 0]
        assert index.document_frequencies().tolist() == [0] * 8
        index.delete(["a"])
        index.commit({})
        index.force_merge()
        index.commit({})
        n, counts = index.word_frequencies(["plate", "heat"])
        assert (n, counts.tolist()) == (1, [1, 0])
        assert index.token_frequencies().tolist() == [0, 0, 0, 0, 0, 1, 0, 0]


def test_words_have_the_places_that_they_come_from(tmp_path):
    text = "𝒳 The Plates' heating, 𝒳𝒳 flows"
    with LuceneIndex.create(tmp_path / "index", VOCABULARY) as index:
        (words, none) = index.words([text, ""])
    assert none == []
    found = [(word.word, text[word.start : word.end]) for word in words]
    for pair in (("plate", "Plates"), ("heat", "heating"), ("flow", "flows")):
        assert pair in found


# Each has a form that its analyzer changes.
FORMS = {
    "de": ("Häuser", "Haus"),
    "en": ("houses", "house"),
    "fr": ("maisons", "maison"),
    "ja": ("食べました", "食べる"),
    "pl": ("domami", "domy"),
    "ru": ("домами", "дом"),
    "standard": ("Houses", "houses"),
    "zh": ("信息检索", "信息"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_analysed(tmp_path, language):
    with LuceneIndex.create(tmp_path / "index", VOCABULARY, language) as index:
        if language in FORMS:
            written, asked = index.words(FORMS[language])
            assert {word.word for word in written} & {word.word for word in asked}
        index.add([Document("d", "", "lsr 2026")], NO_TERMS)
        index.commit({})
        words = WordQueries([{"lsr": (1, 0)}], K1, B)
        assert [[doc_id for doc_id, _ in hits] for hits in index.search(NO_TERMS, 5, words=words)]


def test_an_unknown_language_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`language` must be one of ar, .*, zh, got 'tlh'"):
        LuceneIndex.create(tmp_path / "index", VOCABULARY, "tlh")
