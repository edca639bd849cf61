"""A Lucene index of learned terms, words, forward vectors and stored documents."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, cast

import numpy as np
from scipy.sparse import csr_array

from lsr.documents import Document, MetadataValue
from lsr.facet import Counts, Facet
from lsr.filter import Contains, Filter, conditions
from lsr.indexes import jvm
from lsr.indexes.buffers import (
    Reader,
    WordQueries,
    pack_document,
    pack_integers,
    pack_queries,
    pack_strings,
    pack_words,
    read_strings,
)
from lsr.indexes.facets import pack_facets, read_counts
from lsr.indexes.filters import Type, Types, check_filter, pack_filter, pack_one
from lsr.indexes.readings import Word, count_readings
from lsr.indexes.values import read_values

Hits = list[tuple[str, int]]
LARGEST_K = 1_000_000
# Languages that Lucene has an analyzer for, as in Languages.java: ISO 639 codes, and Brazil's
# Portuguese. Chinese and Korean words are pairs of characters. "standard" is for other languages:
# words are lower-cased, but not stemmed, and none is left out.
LANGUAGES = tuple(
    "ar bg bn ca ckb cs da de el en es et eu fa fi fr ga gl hi hu hy id it ja ko lt lv ne nl no pl "
    "pt pt-br ro ru sr standard sv ta te th tr uk zh".split()
)
# A word of weight 1 adds less than this to a score, see WordSimilarity.java.
WORD_SCALE = 1024
# Filters that are kept as the engine takes them.
PACKED = 256
# Of a phrase with synonyms: Lucene looks for each reading, and for each synonym at its place.
MOST_READINGS, MOST_WORDS = 1_000, 10_000
# Of all phrases of a filter together.
MOST_READINGS_OF_ALL = 10_000


def _word(answer: Reader) -> Word:
    word, start, end = answer.string(), answer.integer(), answer.integer()
    return Word(word, start, end, answer.integer(), answer.integer(), answer.integer() == 1)


def _readings(condition: Contains, words: Sequence[Word]) -> int:
    """Return how many phrases Lucene looks for in place of one, with its synonyms.

    Raises:
        ValueError: it is too much to search for.
    """
    if len(words) > MOST_WORDS:
        raise ValueError(
            f"the phrase {condition.text!r} has {len(words):,} words with its synonyms, of at most "
            f"{MOST_WORDS:,}: shorten it"
        )
    # Where each word stands beside one word, Lucene takes them together.
    if all(word.length == 1 for word in words):
        return 1
    if (readings := count_readings(words)) > MOST_READINGS:
        shown = f"{readings:,}" if readings <= 10**12 else f"more than {10**12:,}"
        raise ValueError(
            f"synonyms give the phrase {condition.text!r} {shown} readings, of at most "
            f"{MOST_READINGS:,}: shorten it"
        )
    return readings


class Expansion(NamedTuple):
    """Words of an index that a pattern stands for."""

    words: dict[str, int]  # → by how many edits it differs
    total: int  # of the words that there are


class LuceneError(RuntimeError):
    """An error in Lucene; the message names the index and Lucene's reason."""

    kind = ""  # the name of the Java exception, if there was one


class IndexLockedError(LuceneError):
    """Another process writes to the index."""


class LuceneIndex:
    """One Lucene directory. Any Python thread may use it: one thread makes all Java calls."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        vocabulary: Sequence[str],
        language: str,
        create: bool,
        writable: bool,
    ) -> None:
        """Use `create` or `open`."""
        if language not in LANGUAGES:
            raise ValueError(f"`language` must be one of {', '.join(LANGUAGES)}, got {language!r}")
        self.path = Path(path)
        self.language = language
        self.n_terms = len(vocabulary)
        self.synonyms: str | None = None  # of queries, in Solr's format
        self.state = 0  # rises with each change that searches see
        self._types: Types | None = None  # not read since the last change
        self._packed: dict[tuple[int, Filter], bytes] = {}
        terms = pack_strings(vocabulary)
        # Java keeps the working directory in which its VM was started.
        place = str(self.path.absolute())
        self._engine = self._ask(
            lambda: jvm.engine_class()(place, terms, language, create, writable)
        )

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], vocabulary: Sequence[str], language: str = "en"
    ) -> LuceneIndex:
        """Make a new, empty, writable index; the first commit replaces an index at `path`.

        Args:
            path: its directory.
            vocabulary: the learned terms in id order.
            language: of LANGUAGES; its analyzer makes words of texts.

        Raises:
            ValueError: `language` is not in LANGUAGES.
        """
        return cls(path, vocabulary, language, create=True, writable=True)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        vocabulary: Sequence[str],
        language: str = "en",
        *,
        writable: bool = False,
    ) -> LuceneIndex:
        """Open an existing index as of its last commit; the arguments are those of `create`.

        Raises:
            IndexLockedError: `writable`, and another process is writing.
            LuceneError: there is no index, or it is damaged.
            ValueError: `language` is not in LANGUAGES.
        """
        return cls(path, vocabulary, language, create=False, writable=writable)

    def __enter__(self) -> LuceneIndex:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, function: Any) -> Any:
        """Return the result of a Java call; Java exceptions are raised as Python ones."""

        def run() -> Any:
            engine = jvm.engine_class()  # starts the VM: only then can jnius be imported
            del engine
            from jnius import JavaException

            try:
                return function()
            except JavaException as error:
                told = str(error)
                if "LockObtainFailed" in told:
                    raise IndexLockedError(
                        f"{self.path}: another process is writing to it"
                    ) from error
                if "No space left on device" in told:
                    raise OSError(
                        errno.ENOSPC,
                        "the disk is full; committed documents are safe, and a build continues "
                        "from them when it is run again",
                        str(self.path),
                    ) from error
                refused = LuceneError(f"{self.path}: {error.classname}: {error.innermessage}")
                refused.kind = error.classname.rpartition(".")[2]
                raise refused from error

        return jvm.call(run)

    def add(
        self,
        documents: Sequence[Document],
        impacts: csr_array,
        own: Sequence[Collection[int]] | None = None,
        *,
        new: bool = False,
        threads: int = 1,
    ) -> None:
        """Add documents, or replace those of the same id; searches see them after `commit`.

        Args:
            documents: n documents.
            impacts: int32 in [1, 2^24), shape (n, V), indices ascending.
            own: of each document the terms that its text itself holds, for `token_frequencies`.
            new: whether no id is in the index yet, which is faster; the caller must know it.
            threads: Java threads.

        Raises:
            ValueError: `impacts` has another shape, or a value out of range.
        """
        if impacts.shape != (len(documents), self.n_terms):
            raise ValueError(
                f"`impacts` must have shape {(len(documents), self.n_terms)}, got {impacts.shape}"
            )
        if impacts.nnz and not (1 <= impacts.data.min() and impacts.data.max() < 2**24):
            raise ValueError(
                f"impacts must be in [1, 2^24), got {impacts.data.min()} to {impacts.data.max()}"
            )
        tokens = [sorted(of) for of in own or [()] * len(documents)]
        numbers = pack_integers(
            len(documents),
            np.diff(impacts.indptr),
            impacts.indices,
            impacts.data,
            [len(of) for of in tokens],
            [token for of in tokens for token in of],
        )
        strings = b"".join(map(pack_document, documents))
        self._ask(lambda: self._engine.add(numbers, strings, new, threads))

    def revise(
        self, documents: Sequence[Document], own: Sequence[Collection[int]], *, threads: int = 1
    ) -> None:
        """Replace the metadata of documents; searches see them after `commit`.

        Learned terms, words and the numbers of passages stay as they are.

        Args:
            documents: n different documents as they are in the index, but for their metadata; none
                has been changed since the last commit.
            own: as for `add`.
            threads: Java threads.
        """
        numbers = pack_integers(
            len(documents),
            [len(of) for of in own],
            [token for of in own for token in sorted(of)],
        )
        strings = b"".join(map(pack_document, documents))
        self._ask(lambda: self._engine.revise(numbers, strings, threads))

    def delete(self, ids: Iterable[str]) -> None:
        """Delete documents by id; unknown ids are no error. Searches see it after `commit`."""
        packed = pack_strings(ids)
        self._ask(lambda: self._engine.delete(packed))

    def commit(self, user_data: Mapping[str, str]) -> None:
        """Make changes since the last commit durable and visible, with `user_data`, atomically."""
        packed = pack_strings(part for item in user_data.items() for part in item)
        self._ask(lambda: self._engine.commit(packed))
        self._changed()

    def refresh(self) -> None:
        """Make commits visible that came after the index was opened or last refreshed."""
        if self._ask(lambda: self._engine.refresh()):
            self._changed()

    def _changed(self) -> None:
        self._types = None
        self._packed.clear()
        self.state += 1

    def force_merge(self) -> None:
        """Merge all segments into one; durable after the next commit."""
        self._ask(lambda: self._engine.forceMerge())

    def close(self) -> None:
        """Release files and lock; changes that were not committed are lost."""
        if sys.is_finalizing():
            # Nobody closed it, and Python makes no more calls: the end of the process releases all.
            return
        self._ask(lambda: self._engine.close())

    def search(
        self,
        queries: csr_array,
        k: int,
        *,
        words: WordQueries | None = None,
        filter: Filter | None = None,  # noqa: A002
        min_score: int = 1,
        threads: int = 1,
    ) -> list[Hits]:
        """Return (id, score) of the k best documents per query, exactly; ties by id ascending.

        Args:
            queries: int32 weights ≥ 1 of learned terms, shape (n, V), indices ascending.
            k: hits per query, in [1, 1,000,000].
            words: the words of the same n queries. A word adds its weight times the whole number
                nearest to WORD_SCALE · tf / (tf + k1 · (1 − b + b · length / average length)):
                BM25 as Lucene computes it, without the IDF, which belongs into the weight.
            filter: what a hit must match.
            min_score: smallest score of a hit.
            threads: Java threads; the result does not depend on them.

        Raises:
            ValueError: k or the shape is out of range, or the filter does not fit the index.
        """
        if not 1 <= k <= LARGEST_K:
            raise ValueError(f"`k` must be in [1, {LARGEST_K}], got {k}")
        self._check(queries)
        n = queries.shape[0]
        numbers = pack_queries(queries)
        strings = pack_words(words, n)
        packed = b"" if filter is None else self._pack(filter)
        answer = self._ask(
            lambda: bytes(
                self._engine.search(numbers, strings, packed, k, min_score, threads).tostring()
            )
        )
        counts = np.frombuffer(answer, "<i4", n).tolist()
        n_hits = sum(counts)
        scores = np.frombuffer(answer, "<i8", n_hits, 4 * n).tolist()
        ids = read_strings(answer[4 * n + 8 * n_hits :], n_hits)
        hits = zip(ids, scores, strict=True)
        return [list(islice(hits, count)) for count in counts]

    def scores(
        self,
        queries: csr_array,
        ids: Sequence[Sequence[str]],
        *,
        words: WordQueries | None = None,
        threads: int = 1,
    ) -> list[list[int]]:
        """Return the scores that `search` gives to documents, 0 if one has no term of the query.

        Args:
            queries: as for `search`, shape (n, V).
            ids: the documents of each of the n queries.
            words: as for `search`.
            threads: Java threads.

        Raises:
            KeyError: an unknown id.
            ValueError: `ids` or `queries` has the wrong size, or a weight is below 1.
        """
        self._check(queries)
        if len(ids) != queries.shape[0]:
            raise ValueError(f"`ids` must hold a list for each of {queries.shape[0]} queries")
        numbers = pack_queries(queries) + pack_integers([len(of_query) for of_query in ids])
        asked = [doc_id for of_query in ids for doc_id in of_query]
        strings, packed = pack_words(words, len(ids)), pack_strings(asked)
        answer = self._ask(
            lambda: bytes(self._engine.score(numbers, strings, packed, threads).tostring())
        )
        found = np.frombuffer(answer, dtype="<i8")
        if (found < 0).any():
            raise self._unknown(asked[int(np.argmax(found < 0))])
        ends = np.cumsum([len(of_query) for of_query in ids])[:-1]
        return [part.tolist() for part in np.split(found, ends)] if len(ids) else []

    def matching(self, filter: Filter | None = None) -> list[str]:  # noqa: A002
        """Return the ids of all documents that match a filter, ascending; None matches all.

        Raises:
            ValueError: the filter does not fit the index.
        """
        packed = self._pack(filter)
        answer = self._ask(lambda: bytes(self._engine.matching(packed).tostring()))
        return sorted(read_strings(answer[4:], int.from_bytes(answer[:4], "little")))

    def count(self, filter: Filter | None = None) -> int:  # noqa: A002
        """Return the number of documents that match a filter; None matches all.

        Raises:
            ValueError: the filter does not fit the index.
        """
        packed = self._pack(filter)
        return int(self._ask(lambda: self._engine.count(packed)))

    def matches(self, filter: Filter, doc_id: str) -> bool:  # noqa: A002
        """Return whether a document matches a filter; one that is not there does not.

        Raises:
            ValueError: the filter does not fit the index.
        """
        packed = pack_one(self._pack(filter), doc_id)
        return int(self._ask(lambda: self._engine.count(packed))) > 0

    def counts(
        self,
        filter: Filter | None = None,  # noqa: A002
        facets: Sequence[Facet] = (),
    ) -> Counts:
        """Return how many documents match a filter (None matches all), and facets of these.

        A string that differs from another only after its first LONGEST characters has no order
        beside it: where both have as many documents, either may come first, but always the same.

        Raises:
            ValueError: the filter or a facet does not fit the metadata.
        """
        packed, asked = self._pack(filter), pack_facets(facets, self.metadata_types)
        answer = self._ask(lambda: bytes(self._engine.counts(packed, asked).tostring()))
        return read_counts(answer, facets)

    def passing(self, filter: Filter | None = None) -> np.ndarray:  # noqa: A002
        """Return which documents match a filter, in the order in which they lie.

        Returns:
            bool, shape (documents,), those that are deleted and not merged away included, which
            match no filter.

        Raises:
            ValueError: the filter does not fit the index.
        """
        packed = self._pack(filter)
        answer = self._ask(lambda: bytes(self._engine.passing(packed).tostring()))
        parts, at = [np.empty(0, bool)], 0
        while at < len(answer):
            n = int.from_bytes(answer[at : at + 4], "little")
            words = np.frombuffer(answer, np.uint8, (n + 63) // 64 * 8, at + 4)
            parts.append(np.unpackbits(words, count=n, bitorder="little").view(bool))
            at += 4 + len(words)
        return np.concatenate(parts)

    def segments(self) -> list[tuple[str, int]]:
        """Return a name that no other segment ever has, and the number of documents, of each one.

        The order is that of `passing`; deleted documents that were not merged away are counted.
        """
        answer = Reader(self._ask(lambda: bytes(self._engine.segments().tostring())))
        found = []
        while answer.left:
            found.append((answer.string(), answer.integer()))
        return found

    def ids_of_segment(self, name: str, n: int) -> list[str]:
        """Return the ids of the n documents of a segment, deleted ones included, in their order."""
        answer = self._ask(lambda: bytes(self._engine.idsOf(name).tostring()))
        return read_strings(answer, n)

    def _pack(self, given: Filter | None) -> bytes:
        if given is None:
            return pack_filter(None, {})
        # With the state, lest a thread that is late keeps a filter packed for fields of before.
        key = (self.state, given)
        packed = self._packed.get(key)
        if packed is None:
            self.check_filter(given)
            packed = pack_filter(given, self.metadata_types)
            if len(self._packed) == PACKED:
                self._packed.clear()
            self._packed[key] = packed
        return packed

    @property
    def metadata_types(self) -> Types:
        """The types of values that documents have under each key of metadata.

        Those of deleted documents are included until Lucene merges these documents away.
        """
        if self._types is None:
            answer = Reader(self._ask(lambda: bytes(self._engine.fields().tostring())))
            types: dict[str, set[Type]] = {}
            while answer.left:
                kind, _, key = answer.string().partition(".")
                types.setdefault(key, set()).add(cast(Type, kind))
            self._types = {key: frozenset(of_key) for key, of_key in types.items()}
        return self._types

    def check_filter(self, filter: Filter) -> None:  # noqa: A002
        """Raise ValueError where a filter does not fit the index.

        That is where no document has a value under a key, or one of an operand's type; where the
        analyzer keeps no word of a text; or where synonyms give a text more than MOST_READINGS
        readings or MOST_WORDS words, or all texts together more than MOST_READINGS_OF_ALL.
        """
        check_filter(filter, self.metadata_types)
        asked = [
            condition
            for condition in conditions(filter)
            if isinstance(condition, Contains) and condition.match == "words"
        ]
        if not asked:
            return
        texts = [one.text for one in asked]
        for condition, words in zip(asked, self.words(texts), strict=True):
            if not words:
                raise ValueError(
                    f"filter `{condition}`: the analyzer of language {self.language!r} keeps no "
                    "word of this text"
                )
        if self.synonyms is not None:
            phrases = zip(asked, self.query_words(texts), strict=True)
            several = [n for n in (_readings(*phrase) for phrase in phrases) if n > 1]
            if sum(several) > MOST_READINGS_OF_ALL:
                raise ValueError(
                    f"synonyms give {len(several):,} phrases of the filter {sum(several):,} "
                    f"readings together, of at most {MOST_READINGS_OF_ALL:,}: ask for fewer"
                )

    def values(self, key: str, ids: Sequence[str]) -> list[list[MetadataValue]]:
        """Return the values that documents have under a key of metadata, each once.

        Of a string longer than LONGEST the term that it is found by is returned, see `term_of`.

        Args:
            key: where no document has it, all lists are empty.
            ids: n documents, in any order.

        Returns:
            n lists: integers, floats, booleans and strings, ascending in each of these groups.

        Raises:
            KeyError: an unknown id.
        """
        packed = pack_strings(ids)
        answer = self._ask(lambda: bytes(self._engine.values(key, packed).tostring()))
        found = read_values(answer, len(ids))
        if isinstance(found, int):
            raise self._unknown(ids[found])
        return found

    def document_frequencies(self) -> np.ndarray:
        """Return how many documents have each learned term, int64, shape (V,).

        Deleted documents that were not merged away are counted too.
        """
        return self._frequencies("learned")

    def token_frequencies(self) -> np.ndarray:
        """Return how many documents hold each learned term in their own text, int64, shape (V,).

        Deleted documents that were not merged away are counted too.
        """
        return self._frequencies("tokens")

    def _frequencies(self, field: str) -> np.ndarray:
        answer = self._ask(lambda: bytes(self._engine.frequencies(field).tostring()))
        return np.frombuffer(answer, dtype="<i4").astype(np.int64)

    def word_frequencies(self, words: Sequence[str]) -> tuple[int, np.ndarray]:
        """Return the number of documents that have words, and how many hold each of `words`.

        Deleted documents that were not merged away are counted too.

        Returns:
            The number, and int64, shape (n,), for n words.
        """
        packed = pack_strings(words)
        answer = self._ask(lambda: bytes(self._engine.wordFrequencies(packed).tostring()))
        counts = np.frombuffer(answer, dtype="<i4").astype(np.int64)
        return int(counts[0]), counts[1:]

    def words(self, texts: Sequence[str]) -> list[list[Word]]:
        """Return the words of each text in order, as the index's analyzer makes them."""
        return self._analysed(texts, asked=False)

    def query_words(self, texts: Sequence[str]) -> list[list[Word]]:
        """Return the words of each query and their synonyms, in order of position."""
        return self._analysed(texts, asked=True)

    def _analysed(self, texts: Sequence[str], *, asked: bool) -> list[list[Word]]:
        packed = pack_strings(texts)
        answer = Reader(self._ask(lambda: bytes(self._engine.analyse(packed, asked).tostring())))
        return [[_word(answer) for _ in range(n)] for n in (answer.integer() for _ in texts)]

    def set_synonyms(self, rules: str | None) -> None:
        """Give the words of queries, and of texts that documents contain, synonyms.

        Args:
            rules: in Solr's format; None for no synonyms.

        Raises:
            ValueError: they cannot be read; the line is named, and those before stay.
        """
        if rules == self.synonyms:
            return
        # An error counts the ends of lines that were read. A line of white space is no rule.
        packed = b"" if rules is None else re.sub(r"(?m)^[^\S\r\n]+$", "", f"{rules}\n").encode()
        if told := self._ask(lambda: self._engine.synonyms(packed)):
            hint = f": that of language {self.language!r} keeps no word of it"
            raise ValueError(f"synonyms, {told}{hint if 'eliminated' in told else ''}")
        self.synonyms = rules
        self._changed()

    def expand(self, pattern: str, edits: int | None, most: int) -> Expansion:
        """Return the words of title and text that a pattern stands for.

        Args:
            pattern: one word.
            edits: by how many a word may differ, 0 to 2; None for words that begin like it.
            most: how many are returned, the nearest first, then those in most documents.
        """
        kind = -1 if edits is None else edits
        answer = Reader(
            self._ask(lambda: bytes(self._engine.expand(pattern, kind, most).tostring()))
        )
        total = answer.integer()
        words = {}
        while answer.left:
            word = answer.string()
            words[word] = answer.integer()
        return Expansion(words, total)

    def word_scores(self, words: WordQueries, ids: Sequence[str]) -> np.ndarray:
        """Return what a weight of 1 of each word of one query adds to documents' scores.

        Args:
            words: one query.
            ids: n documents of the index.

        Returns:
            int64, shape (n, words, 2), at most WORD_SCALE: in title and text, and in the title.
        """
        numbers = pack_integers(1, 0)
        strings, packed = pack_words(words, 1), pack_strings(ids)
        answer = self._ask(lambda: bytes(self._engine.words(numbers, strings, packed).tostring()))
        parts = np.frombuffer(answer, dtype="<i4").astype(np.int64)
        return parts.reshape(len(ids), len(words.weights[0]), 2)

    def impacts(self, ids: Sequence[str]) -> csr_array:
        """Return forward vectors, int32, shape (len(ids), V), in the order of `ids`.

        Raises:
            KeyError: an unknown id.
        """
        packed = pack_strings(ids)
        answer = self._ask(lambda: bytes(self._engine.vectors(packed).tostring()))
        numbers = np.frombuffer(answer, "<i4")
        counts, (indices, data) = numbers[: len(ids)], np.split(numbers[len(ids) :], 2)
        if (counts < 0).any():
            raise self._unknown(ids[int(np.argmax(counts < 0))])
        indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return csr_array(
            (data.astype(np.int32), indices.astype(np.int64), indptr),
            shape=(len(ids), self.n_terms),
        )

    def _check(self, queries: csr_array) -> None:
        if queries.shape[1] != self.n_terms:
            raise ValueError(f"queries have {queries.shape[1]} terms, the index {self.n_terms}")
        if queries.nnz and queries.data.min() < 1:
            raise ValueError(f"query weights must be at least 1, got {queries.data.min()}")

    def documents(self, ids: Sequence[str]) -> list[Document]:
        """Return stored documents in the order of `ids`.

        Raises:
            KeyError: an unknown id.
        """
        found = []
        for doc_id, document in zip(ids, self.stored(ids), strict=True):
            if document is None:
                raise self._unknown(doc_id)
            found.append(document)
        return found

    def stored(self, ids: Sequence[str]) -> list[Document | None]:
        """Return stored documents in the order of `ids`; None for an id not in the index."""
        packed = pack_strings(ids)
        answer = Reader(self._ask(lambda: bytes(self._engine.fetch(packed).tostring())))
        found: list[Document | None] = []
        for doc_id in ids:
            if not answer.integer():
                found.append(None)
                continue
            title, text, metadata = answer.string(), answer.string(), answer.string()
            found.append(Document(doc_id, title, text, json.loads(metadata)))
        return found

    def _unknown(self, doc_id: str) -> KeyError:
        return KeyError(f"no document {doc_id!r} in this index")

    @property
    def n_docs(self) -> int:
        """The number of documents that are not deleted."""
        return int(self._ask(lambda: self._engine.documents()))

    @property
    def n_postings(self) -> int:
        """The number of postings, including deleted documents' that were not merged away."""
        return int(self._ask(lambda: self._engine.postings()))

    @property
    def size_bytes(self) -> int:
        """The size of the directory's files, without those that a merge removes meanwhile."""
        total = 0
        for path in self.path.iterdir():
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    @property
    def user_data(self) -> dict[str, str]:
        """The `user_data` of the last commit; empty before the first."""
        answer = Reader(self._ask(lambda: bytes(self._engine.userData().tostring())))
        data = {}
        while answer.left:
            key = answer.string()
            data[key] = answer.string()
        return data

    def check(self) -> tuple[bool, str]:
        """Return whether Lucene's CheckIndex finds the index clean, and its report."""
        answer = self._ask(lambda: bytes(self._engine.check().tostring()))
        return answer[0] == 1, answer[1:].decode("utf-8")
