"""Pseudo-queries: from nothing but a corpus, texts that a document answers.

lexical = LexicalEncoder.fit(default_tokenizer(), batches)
examples = pseudo_queries(open_corpus("my-corpus.jsonl"), lexical)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Literal, NamedTuple

import numpy as np

from lsr.documents import Document
from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.tokens import count_terms
from lsr.training.examples import Example, Examples, seeded
from lsr.training.texts import Texts

Kind = Literal["title", "sentence", "span"]

# A sentence ends at one of these marks, if the next character may begin one, or with its line.
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|\s*\n\s*")
EDGE = "\"'“”‘’()[]{}<>,;:.!?…–—-*•|/\\`~=+ "
# Words that a query made from a sentence has; a title may be shorter.
SHORTEST, LONGEST = 4, 16
# Words that must be left of a query without the common ones at its ends.
LEAST = 3
# Documents whose sentences are counted at once.
SHARD = 512


class _Made(NamedTuple):
    """A pseudo-query, and the passage of the document that it was made from."""

    query: str
    passage: str


def pseudo_queries(
    corpus: Iterable[Document],
    lexical: LexicalEncoder,
    *,
    per_document: int = 3,
    kinds: Sequence[Kind] = ("title", "sentence", "span"),
    removed: float = 0.5,
    seed: int = 0,
) -> Examples:
    """Queries made from documents, each with its document as the positive.

    - "title": the document's title, where it has one that is not its whole text;
    - "sentence": the first 4 to 16 words of an informative sentence (they name what it is about):
      one of the better half of the document's by the mean IDF of their tokens;
    - "span": 4 to 16 words in a row of any sentence, as in the inverse cloze task (Lee et al. 2019,
      arXiv:1906.00300, §3) but shorter than a sentence, as queries are.

    Words are what white space separates. Those that a tenth of the documents hold (of, the) and
    punctuation are cut off at both ends. A query that several documents give stays with the first.
    The title comes first, if it is among the kinds; the other kinds alternate. Short texts, and
    texts of languages that put no space between words, may give no query at all: then there are no
    rows.

    Args:
        corpus: read once.
        lexical: fitted on it, for the IDF of its terms.
        per_document: queries of a document, at most: short ones give fewer.
        kinds: the kinds that are made.
        removed: share of the queries, in [0, 1], whose passage (title, sentence or span) is taken
            out of the positive, so that the model cannot rely on finding the same words; not where
            nothing would be left. Lee et al. have 0.9.
        seed: a document's queries depend on it, on the document's id and on `lexical`.

    Raises:
        ValueError: an argument is out of range.
    """
    if per_document < 1:
        raise ValueError(f"`per_document` must be at least 1, got {per_document}")
    if not 0 <= removed <= 1:
        raise ValueError(f"`removed` must be in [0, 1], got {removed}")
    unknown = set(kinds) - {"title", "sentence", "span"}
    if unknown or not kinds:
        raise ValueError(f"`kinds` must be of title, sentence and span, got {tuple(kinds)}")
    maker = _Maker(lexical, kinds)
    rows: list[Example] = []
    seen: set[str] = set()

    def texts() -> Iterator[tuple[str, str]]:
        iterator = iter(corpus)
        while shard := list(islice(iterator, SHARD)):
            for document, sentences in zip(shard, maker.sentences(shard), strict=True):
                yield document.id, document.content
                generator = seeded(seed, "pseudo", document.id)
                made = maker.make(document, sentences, 3 * per_document, generator)
                rows.extend(_rows(document, made, seen, per_document, removed, generator))

    documents = Texts(texts())
    return Examples(rows, documents)


def _rows(
    document: Document,
    made: Iterator[_Made],
    seen: set[str],
    per_document: int,
    removed: float,
    generator: Random,
) -> Iterator[Example]:
    number = 0
    for query, passage in made:
        if number == per_document:
            return
        if query.casefold() in seen:
            continue
        seen.add(query.casefold())
        left = document.content.replace(passage, "", 1).strip()
        gone = passage if generator.random() < removed and left else ""
        yield Example(f"{document.id}/{number}", query, document.id, removed=gone)
        number += 1


class _Maker:
    """Makes queries, by the term statistics of a corpus."""

    def __init__(self, lexical: LexicalEncoder, kinds: Sequence[Kind]) -> None:
        self._tokenizer = lexical.tokenizer
        self._idf = lexical.idf
        self._kinds = kinds
        # The IDF of a term that a tenth of the documents hold, or, of fewer than ten, one document:
        # the number of documents is in the IDF of a term that none holds, ln(2N + 2).
        n_documents = float(np.exp(lexical.idf.max())) / 2 - 1
        rarest = np.log1p((n_documents - 0.5) / 1.5)
        self._common = 0.99 * min(float(np.log(10)), float(rarest))
        self._word_idf: dict[str, float] = {}

    def sentences(self, documents: Sequence[Document]) -> list[list[str]]:
        """The sentences of each document's text that are long enough, most informative first."""
        found = [
            [part for part in SENTENCE.split(document.text) if len(part.split()) >= SHORTEST]
            for document in documents
        ]
        informative = iter(self._mean_idf([sentence for of in found for sentence in of]))
        scored = [[(-next(informative), sentence) for sentence in of] for of in found]
        return [[sentence for _, sentence in sorted(of)] for of in scored]

    def make(
        self, document: Document, sentences: Sequence[str], tries: int, generator: Random
    ) -> Iterator[_Made]:
        """Queries of a document, at most `tries` and the title."""
        title = " ".join(document.title.split())
        if "title" in self._kinds and title and title != " ".join(document.text.split()):
            yield _Made(title, document.title)
        others = [kind for kind in self._kinds if kind != "title"]
        generator.shuffle(others)
        better = sentences[: (len(sentences) + 1) // 2]
        for number in range(tries if others and sentences else 0):
            sentence = others[number % len(others)] == "sentence"
            passage = generator.choice(better if sentence else sentences)
            cropped = _cropped(passage, generator, at_start=sentence)
            query = self._trimmed(cropped)
            if query:
                yield _Made(query, passage if sentence else cropped)

    def _trimmed(self, cropped: str) -> str:
        """The text without common words at its ends; "" if fewer than LEAST words are left."""
        words = cropped.split()
        telling = [idf >= self._common for idf in self._idf_of([w.strip(EDGE) for w in words])]
        if not any(telling):
            return ""
        first, last = telling.index(True), len(words) - telling[::-1].index(True)
        return " ".join(words[first:last]).strip(EDGE) if last - first >= LEAST else ""

    def _idf_of(self, words: Sequence[str]) -> list[float]:
        new = [word for word in dict.fromkeys(words) if word not in self._word_idf]
        self._word_idf.update(zip(new, self._mean_idf(new), strict=True))
        return [self._word_idf[word] for word in words]

    def _mean_idf(self, texts: Sequence[str]) -> list[float]:
        """The mean IDF of each text's tokens, 0 where it has none."""
        counts = count_terms(self._tokenizer, texts)
        n_tokens = np.maximum(counts.sum(axis=1), 1)
        return [float(mean) for mean in (counts @ self._idf) / n_tokens]


def _cropped(passage: str, generator: Random, *, at_start: bool) -> str:
    """SHORTEST to LONGEST words of a passage in a row, as they stand there."""
    words = list(re.finditer(r"\S+", passage))
    length = generator.randint(SHORTEST, min(LONGEST, len(words)))
    start = 0 if at_start else generator.randrange(len(words) - length + 1)
    return passage[words[start].start() : words[start + length - 1].end()]
