"""What a request asks of an index: its text read, its patterns and conditions made the index's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from lsr.filter import And, Comparison, Contains, Filter, Not, Or, key_text
from lsr.filter_text import parse
from lsr.indexes.lucene import Expansion, LuceneIndex
from lsr.indexes.words import Statistics, written
from lsr.query_text import TITLE, Clause, QueryText, read_query
from lsr.request import Request


class Asked(NamedTuple):
    """A request as an index is searched for it."""

    request: Request  # its query without operators, which are conditions of its filter
    words: Mapping[str, float]  # of the query → how often it holds them
    names: Mapping[str, str]  # of these the query's own → as it writes them
    patterns: bool  # whether the query holds any
    notices: Sequence[str]  # on operators that could not be read, or not as a whole


def read_request(
    request: Request, index: LuceneIndex, statistics: Statistics, *, with_words: bool
) -> Asked:
    """Read the text of a request.

    Args:
        request: one with a mode.
        index: the index.
        statistics: of the index.
        with_words: whether words are searched for; else there are none in the answer.

    Raises:
        ValueError: the text only denies or asks for metadata, so that nothing is looked for; or a
            value does not fit the metadata.
    """
    query = request.query
    if not isinstance(query, str):
        return Asked(request, {}, {}, False, ())
    read = QueryText(query, query, (), ())
    if request.operators:
        read = read_query(query, index.metadata_types)
    if read.clauses and not read.text.strip():
        raise ValueError(
            f"the query {query!r} only says what must match or must not: add a word to look for"
        )
    clauses = list(dict.fromkeys(read.clauses))
    of_words = [clause for clause in clauses if clause.match == "words" and not clause.of_metadata]
    texts = [clause.text for clause in of_words] + ([read.words] if with_words else [])
    words = index.query_words(texts) if texts else []
    own = words.pop() if with_words else []
    empty = [clause for clause, kept in zip(of_words, words, strict=True) if not kept]
    notices = list(read.notices)
    if empty:
        notices.append(
            f"{', '.join(clause.written for clause in empty)}: the analyzer of language "
            f"{index.language!r} keeps no word of it, so that it is no condition"
        )
    counts = statistics.weigh_words(own)
    if with_words and clauses:
        counts = _with_patterns(counts, clauses, statistics, notices)
    parts = [request.filter] if request.filter else []
    parts += [
        _condition(clause, index) for clause in clauses if clause.decides and clause not in empty
    ]
    condition = And(tuple(parts)) if len(parts) > 1 else next(iter(parts), None)
    changed = {"query": read.text, "filter": condition, "operators": False}
    return Asked(
        request.model_copy(update=changed),
        counts,
        written(read.words, own),
        any(clause.match != "words" for clause in clauses),
        notices,
    )


def _with_patterns(
    counts: dict[str, float],
    clauses: Sequence[Clause],
    statistics: Statistics,
    notices: list[str],
) -> dict[str, float]:
    """Return the words of a query with those that its patterns stand for; say what was cut."""
    counts = dict(counts)
    for clause in clauses:
        if clause.match != "words" and clause.scores:
            edits = None if clause.match == "prefix" else clause.edits
            found = statistics.expand(clause.text, edits)
            for word, count in statistics.weigh(clause.text, found.words).items():
                counts[word] = counts.get(word, 0.0) + count
            notices += _cut(clause, found)
    return statistics.none_vanishing(counts)


def _cut(clause: Clause, found: Expansion) -> list[str]:
    """Say how many words of a pattern have no part in scores."""
    if not found.total:
        return [f"{clause.written} stands for no word of the index"]
    if found.total == len(found.words):
        return []
    return [
        f"{clause.written} stands for {found.total:,} words of the index, of which "
        f"{len(found.words)} score: the nearest, and then those in most documents"
    ]


def _condition(clause: Clause, index: LuceneIndex) -> Filter:
    found: Filter
    if clause.of_metadata:
        found = _value(clause, index)
    else:
        field: Literal["title"] | None = "title" if clause.field == TITLE else None
        found = Contains(clause.text, field, clause.match, clause.edits)
    return Not(found) if clause.sign == "-" else found


def _value(clause: Clause, index: LuceneIndex) -> Filter:
    """Return the condition that a key has a value, of each type that it can be read as."""
    key = str(clause.field)
    readings: list[Filter] = [Comparison(key, "=", clause.text)]
    if not clause.quoted:
        try:
            reading = parse(f"{key_text(key)} = {clause.text}")
            # What goes on after the value would be a filter in a place where nobody looks for one.
            if isinstance(reading, Comparison):
                readings.append(reading)
        except ValueError:
            pass  # a string and nothing else
    found: dict[Filter, None] = {}
    refused: list[ValueError] = []
    for reading in readings:
        try:
            index.check_filter(reading)
            found[reading] = None
        except ValueError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    return Or(tuple(found)) if len(found) > 1 else next(iter(found))
