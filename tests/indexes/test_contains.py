"""What documents contain, against a search through positions and Lucene's own query parser."""

import functools
import random
import string

import numpy as np
import pytest
from scipy.sparse import csr_array

from lsr.corpus.corpus import open_corpus
from lsr.documents import Document
from lsr.filter import And, Contains, Not, Or
from lsr.filter_text import parse
from lsr.indexes import jvm
from lsr.indexes.lucene import LuceneIndex

# Two words of one stem, stop words, and words that differ by few letters.
WORDS = "heat heating wing wings swing flow flown the of plate plates late".split()
N = 150


def filled(path, documents, language="en"):
    """An index of these documents, of three segments, from which some are deleted."""
    index = LuceneIndex.create(path, ["a"], language)
    for part in range(3):
        batch = documents[part::3]
        index.add(batch, csr_array(np.ones((len(batch), 1), np.int32)), new=True)
        index.commit({})
    index.delete([document.id for document in documents[::11]])
    index.commit({})
    return index, {
        document.id: document for document in documents if document not in documents[::11]
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An index of random words, and its documents by id."""
    rng = random.Random(3)
    documents = [
        Document(
            f"d{number}",
            " ".join(rng.choices(WORDS, k=rng.randint(0, 3))),
            " ".join(rng.choices(WORDS, k=rng.randint(0, 12))),
        )
        for number in range(N)
    ]
    index, documents = filled(tmp_path_factory.mktemp("small") / "index", documents)
    with index:
        yield index, documents


class Positions:
    """Where the words of texts are, counted by white space: stop words leave gaps."""

    def __init__(self, index):
        self.index = index
        self.of = functools.cache(self._of)

    def _of(self, text):
        """(word, position) pairs of a text."""
        starts = [0]
        starts += [at + 1 for at, character in enumerate(text) if character == " "]
        (words,) = self.index.words([text])
        return [(word.word, starts.index(word.start)) for word in words]

    def holds(self, document, condition):
        """Whether a document matches a condition: the definition, in plain Python."""
        match condition:
            case Not(part):
                return not self.holds(document, part)
            case And(parts):
                return all(self.holds(document, part) for part in parts)
            case Or(parts):
                return any(self.holds(document, part) for part in parts)
        text = document.title if condition.field == "title" else document.content
        found = set(self.of(text))
        if condition.match == "words":
            asked = self.of(condition.text)
            first = asked[0][1]
            return any(
                all((word, start + at - first) in found for word, at in asked)
                for start in range(len(text))
            )
        return any(
            self.distance(condition, word) is not None for word in {word for word, _ in found}
        )

    def distance(self, condition, word):
        """By how many edits a word of the index differs from a pattern; None where it is none."""
        stems = [one for one, _ in self.of(condition.text)]
        if condition.match == "prefix":
            return 0 if word.startswith(condition.text.lower()) or word in stems else None
        least = min(edits(form, word) for form in [condition.text.lower(), *stems])
        return least if least <= condition.edits else None


def edits(left, right):
    """Letters more, less or another, and neighbours in each other's place (each pair once)."""
    table = {(i, 0): i for i in range(len(left) + 1)} | {(0, j): j for j in range(len(right) + 1)}
    for i, a in enumerate(left, 1):
        for j, b in enumerate(right, 1):
            ways = [table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b)]
            if i > 1 and j > 1 and (a, b) == (right_before(right, j), left[i - 2]):
                ways.append(table[i - 2, j - 2] + 1)
            table[i, j] = min(ways)
    return table[len(left), len(right)]


def right_before(text, at):
    return text[at - 2]


def random_word(rng):
    """A word, often with a letter changed."""
    word = rng.choice(WORDS)
    if rng.random() < 0.5:
        at = rng.randrange(len(word))
        word = word[:at] + rng.choice(["", *string.ascii_lowercase]) + word[at + 1 :]
    return word or "x"


def random_contains(rng):
    field = rng.choice([None, None, "title"])
    kind = rng.random()
    if kind < 0.4:
        words = rng.choices(WORDS, k=rng.randint(1, 3))
        if not set(words) - {"the", "of"}:
            words.append("wing")
        return Contains(" ".join(words), field)
    if kind < 0.6:
        word = rng.choice(WORDS)
        return Contains(word[: rng.randint(1, len(word))], field, "prefix")
    return Contains(random_word(rng), field, "fuzzy", rng.choice([1, 2]))


def random_condition(rng, depth=0):
    kind = rng.random()
    if depth > 1 or kind < 0.5:
        return random_contains(rng)
    if kind < 0.7:
        return Not(random_condition(rng, depth + 1))
    parts = tuple(random_condition(rng, depth + 1) for _ in range(2))
    return rng.choice([And, Or])(parts)


def test_random_conditions_match_what_their_definition_says(small):
    index, documents = small
    positions, rng = Positions(index), random.Random(5)
    sizes = set()
    for _ in range(100):
        condition = random_condition(rng)
        expected = sorted(d for d, one in documents.items() if positions.holds(one, condition))
        assert index.matching(condition) == expected, str(condition)
        assert index.passing(condition).sum() == index.count(condition) == len(expected)
        sizes.add(len(expected))
    assert len(sizes) > 30


def test_expansions_are_the_words_of_the_index_that_fit(small):
    index, documents = small
    positions, rng = Positions(index), random.Random(7)
    counted = {}
    for document in documents.values():
        for word in {word for word, _ in positions.of(document.content)}:
            counted[word] = counted.get(word, 0) + 1
    _, frequencies = index.word_frequencies(list(counted))
    held = dict(zip(counted, frequencies.tolist(), strict=True))  # with deleted documents
    for _ in range(60):
        condition = random_contains(rng)
        if condition.match == "words":
            continue
        expected = {word: positions.distance(condition, word) for word in counted}
        expected = {word: of for word, of in expected.items() if of is not None}
        order = sorted(expected, key=lambda word: (expected[word], -held[word], word))
        asked = (condition.text, None if condition.match == "prefix" else condition.edits)
        found = index.expand(*asked, 1000)
        assert list(found.words.items()) == [(word, expected[word]) for word in order]
        assert index.expand(*asked, 2) == (dict(list(found.words.items())[:2]), len(order))


def test_a_pattern_also_stands_for_its_own_word(small):
    index, _ = small
    stemmed = index.matching(Contains("wing"))
    assert index.matching(parse("contains(wings*)")) == stemmed
    assert index.matching(parse("contains(Heating~1)")) == index.matching(parse("contains(heat~1)"))
    assert set(stemmed) < set(index.matching(parse("contains(swings~1)")))


@pytest.mark.parametrize("text", ["the", "of the", "…", "?!"])
def test_a_text_without_words_is_refused(small, text):
    index, _ = small
    with pytest.raises(ValueError, match="the analyzer of language 'en' keeps no word of this"):
        index.matching(Not(Contains(text)))
    with pytest.raises(ValueError, match="keeps no word"):
        index.check_filter(Contains(text))


def test_words_of_languages_without_spaces_are_phrases_of_pairs(tmp_path):
    documents = [Document("a", text="東京都に住む"), Document("b", text="京都に東"), Document("c")]
    index, _ = filled(tmp_path / "index", [Document("gone"), *documents], "zh")
    with index:
        assert index.matching(Contains("東京都")) == ["a"]
        assert index.matching(Contains("京都")) == ["a", "b"]


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """An index of some of the standard library's documentation, and its documents by id."""
    documents = list(open_corpus("pydoc"))[::20]
    index, documents = filled(tmp_path_factory.mktemp("documented") / "index", documents)
    with index:
        yield index, documents


def random_clauses(rng, documents):
    """A query in Lucene's syntax of clauses that must or must not match, and it as a filter."""
    written, parts = [], []
    for _ in range(rng.randint(1, 3)):
        document = rng.choice(documents)
        title = rng.random() < 0.2
        words = [
            word
            for word in (document.title if title else document.content).split()
            if set(word) <= set(string.ascii_letters + "-'.") and word not in ("AND", "OR", "NOT")
        ]
        if len(words) < 4:
            continue
        at, n = rng.randrange(len(words) - 3), rng.choice([1, 1, 2, 3])
        text = " ".join(words[at : at + n])
        # Words that stood beside each other, and mostly some that did not.
        denied = bool(written) and rng.random() < 0.4
        field = "title:" if title else ""
        written.append(f'{"-" if denied else "+"}{field}"{text}"')
        part = Contains(text, "title" if title else None)
        parts.append((part, denied))
    return written, parts


def test_phrases_must_and_must_not_match_what_lucene_s_parser_says(documented, lucene_parser):
    index, documents = documented
    rng = random.Random(13)
    parser = jvm.call(lucene_parser, index.path)
    n_found = n_denied = 0
    for _ in range(300):
        written, parts = random_clauses(rng, list(documents.values()))
        # A clause without words is none, in Lucene.
        kept = [index.words([part.text])[0] for part, _ in parts]
        conditions = [
            Not(part) if denied else part
            for (part, denied), words in zip(parts, kept, strict=True)
            if words
        ]
        if not conditions or isinstance(conditions[0], Not):
            continue
        condition = And(tuple(conditions)) if len(conditions) > 1 else conditions[0]
        expected = jvm.call(parser.matching, " ".join(written))
        assert index.matching(condition) == expected, written
        n_found += bool(expected)
        n_denied += any(denied for _, denied in parts)
    assert n_found > 150 and n_denied > 50


def test_prefixes_and_fuzzy_words_match_what_lucene_s_parser_says(documented, lucene_parser):
    index, documents = documented
    rng = random.Random(17)
    parser = jvm.call(lucene_parser, index.path)
    texts = " ".join(document.text for document in documents.values()).lower().split()
    words = sorted({word for word in texts if word.isascii() and word.isalpha()})
    # Of a word that is its own stem a pattern stands for no more than in Lucene.
    stems = [index.words([word])[0] for word in words]
    own = [
        word
        for word, of in zip(words, stems, strict=True)
        if len(word) > 3 and [one.word for one in of] == [word]
    ]
    for word in rng.sample(own, 40):
        assert index.matching(Contains(word, None, "prefix")) == jvm.call(
            parser.matching, f"{word}*"
        )
        # Lucene's parser keeps the 50 nearest words.
        if index.expand(word, 1, 1).total < 50:
            assert index.matching(Contains(word, None, "fuzzy", 1)) == jvm.call(
                parser.matching, f"{word}~1"
            )
