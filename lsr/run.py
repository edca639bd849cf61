"""Runs (ranked documents per query), relevance judgements, and the files of both."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lsr.documents import checked_id
from lsr.lines import read_lines

Ranking = list[tuple[str, float]]
# Query id → document id → grade; a grade above 0 is relevant.
Qrels = dict[str, dict[str, int]]
LARGEST_GRADE = 32_767
LARGEST = float(np.finfo(np.float32).max)


class Run(Mapping[str, Ranking]):
    """Ranked (doc id, score) per query id: score descending, ties by doc id ascending (UTF-8).

    A run that was read from a file has the order of trec_eval instead, see `read_trec`.

    Raises:
        ValueError: a score is not finite, or a query holds a document twice.
    """

    def __init__(self, rankings: Mapping[str, Iterable[tuple[str, float]]]) -> None:
        self._rankings = {query_id: _ranked(query_id, hits) for query_id, hits in rankings.items()}

    @classmethod
    def _in_order(cls, rankings: dict[str, Ranking]) -> Run:
        """Make a run of rankings that are sorted and checked already."""
        run = cls({})
        run._rankings = rankings
        return run

    @classmethod
    def read_trec(cls, path: str | os.PathLike[str]) -> Run:
        """Return the run in a TREC run file (also .gz), in the order of trec_eval.

        That is: scores as float32 descending, ties by document id descending (UTF-8). The ranks in
        the file are not used.

        Raises:
            FileNotFoundError: there is no such file.
            CorpusError: a line does not have six columns and a finite score, or repeats a document.
        """
        rankings: dict[str, dict[str, float]] = {}

        def parse(line: str) -> None:
            query_id, doc_id, score = parse_trec(line)
            ranking = rankings.setdefault(query_id, {})
            if doc_id in ranking:
                raise ValueError(f"document {doc_id!r} is ranked twice for query {query_id!r}")
            ranking[doc_id] = float(np.float32(score))

        # trec_eval reads a score beyond float32 as infinite: it ranks above the largest float32.
        with np.errstate(over="ignore"):
            for _ in read_lines(Path(path), parse):
                pass
        return cls._in_order(
            {
                query_id: [
                    (doc_id, min(max(score, -LARGEST), LARGEST))
                    for doc_id, score in sorted(ranking.items(), key=_by_score_and_id, reverse=True)
                ]
                for query_id, ranking in rankings.items()
            }
        )

    def __getitem__(self, query_id: str) -> Ranking:
        return self._rankings[query_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rankings)

    def __len__(self) -> int:
        return len(self._rankings)

    def __repr__(self) -> str:
        return f"Run({self._rankings!r})"

    def truncate(self, k: int) -> Run:
        """Return the run with the first `k` documents of each query.

        Raises:
            ValueError: `k` is below 1.
        """
        if k < 1:
            raise ValueError(f"`k` must be at least 1, got {k}")
        return Run._in_order({query_id: ranking[:k] for query_id, ranking in self.items()})

    def without_self(self) -> Run:
        """Return the run without documents whose id is the query's id (queries from the corpus)."""
        return Run._in_order(
            {
                query_id: [hit for hit in ranking if hit[0] != query_id]
                for query_id, ranking in self.items()
            }
        )

    def write_trec(self, path: str | os.PathLike[str], tag: str) -> None:
        """Write ``query_id Q0 doc_id rank score tag`` lines, ranks from 1.

        Tools sort a run file by score, each breaks ties in its own way, and trec_eval holds scores
        as float32. So scores are written as strictly decreasing float32, see `_falling`: every tool
        then sees the order of this run. A TREC file cannot hold a query without documents.

        Raises:
            ValueError: the tag or an id is empty or holds white space.
        """
        lines = []
        _require_word("tag", tag)
        for query_id, ranking in self.items():
            _require_word("query id", query_id)
            scores = _falling([score for _, score in ranking])
            for rank, ((doc_id, _), score) in enumerate(zip(ranking, scores, strict=True), 1):
                _require_word("doc id", doc_id)
                lines.append(f"{query_id} Q0 {doc_id} {rank} {score!r} {tag}\n")
        Path(path).write_text("".join(lines), encoding="utf-8", newline="\n")


def _falling(scores: list[float]) -> list[float]:
    """Turn scores in descending order into strictly decreasing float32 values.

    A score that is not below the one before it becomes the next float32 below that one. Values
    closer to 0 than the smallest normal float32, which some tools read as 0, become 0.
    """
    # The bits of a positive float32, read as an integer, are its position among them from 0 on.
    subnormal = np.finfo(np.float32).smallest_normal.view(np.int32).astype(np.int64) - 1
    lowest = -(np.float32(LARGEST).view(np.int32).astype(np.int64) - subnormal)
    values = np.clip(np.array(scores, np.float64), -LARGEST, LARGEST).astype(np.float32)
    counted = np.maximum(np.abs(values).view(np.int32).astype(np.int64) - subnormal, 0)
    places = np.arange(len(scores))
    steps = np.minimum.accumulate(np.sign(values).astype(np.int64) * counted + places) - places
    # Ties near the lowest float32 have no values below them: the scores before them are raised.
    steps = np.maximum(steps, lowest + places[::-1])
    bits = np.where(steps == 0, 0, np.abs(steps) + subnormal).astype(np.int32)
    found: list[float] = (np.sign(steps) * bits.view(np.float32).astype(np.float64)).tolist()
    return found


def read_qrels(path: str | os.PathLike[str]) -> Qrels:
    """Return the judgements in a file, also .gz.

    A line is BEIR's query id, document id and grade, separated by tabs, where the first line may be
    a header; or TREC's query id, iteration, document id and grade. White space around ids is
    removed.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: a line cannot be used.
    """
    qrels: Qrels = {}

    def parse(line: str) -> None:
        query_id, doc_id, grade = qrels_columns(line)
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", grade):
            raise ValueError(f"score must be an integer, got {grade!r}")
        value = int(grade)
        if qrels.setdefault(query_id, {}).setdefault(doc_id, checked_grade(value)) != value:
            raise ValueError(f"a second grade for document {doc_id!r}")

    for _ in read_lines(Path(path), parse, is_header=is_qrels_header):
        pass
    return qrels


def qrels_columns(line: str) -> tuple[str, str, str]:
    """Return query id, document id and grade of a line of judgements; ValueError if it is none."""
    columns = line.split("\t")
    if len(columns) != 3:
        columns = line.split()
    if len(columns) not in (3, 4):
        raise ValueError(
            f"expected 3 columns separated by tabs, or the columns of TREC, got {len(columns)}"
        )
    query_id, doc_id, number = (columns[0], *columns[-2:])
    return checked_id(query_id.strip()), checked_id(doc_id.strip()), number.strip()


def is_qrels_header(line: str) -> bool:
    """Whether a first line names the columns of judgements in order, in any common spelling."""
    names = [re.sub("[^a-z]", "", name.lower()) for name in line.split()]
    first, *_, last = names if names else ("", "")
    queries = ("queryid", "qid", "query", "topic", "topicid")
    grades = ("score", "relevance", "rel", "grade", "label", "relevancy", "judgment", "judgement")
    return first in queries and last in grades


def checked_grade(value: int) -> int:
    """Return a grade that trec_eval can hold; ValueError if it is not one.

    trec_eval counts the documents of each grade up to the highest: a grade of 3 billion would take
    all memory.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"a grade must be an integer, got {value!r}")
    if not -LARGEST_GRADE <= value <= LARGEST_GRADE:
        raise ValueError(f"a grade must be in [{-LARGEST_GRADE}, {LARGEST_GRADE}], got {value}")
    return value


def parse_trec(line: str) -> tuple[str, str, float]:
    """Return query id, document id and score of a line of a run file; ValueError if it is none."""
    columns = line.split()
    if len(columns) != 6:
        raise ValueError(f"expected 6 columns, got {len(columns)}")
    query_id, _, doc_id, _, score, _ = columns
    return query_id, doc_id, finite_number("score", score)


def finite_number(name: str, text: str) -> float:
    """Return the number in a column; ValueError if there is none, or it is not finite."""
    try:
        # Python accepts underscores in numbers, but other tools do not.
        value = float(text.replace("_", "x"))
    except ValueError as error:
        raise ValueError(f"{name} must be a number, got {text!r}") from error
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {text}")
    return value


def _ranked(query_id: str, hits: Iterable[tuple[str, float]]) -> Ranking:
    # Python compares strings by code points, which gives the same order as UTF-8 bytes.
    ranking = sorted(((doc_id, float(score)) for doc_id, score in hits), key=_by_score_then_id)
    seen: set[str] = set()
    for doc_id, score in ranking:
        if not math.isfinite(score):
            raise ValueError(f"query {query_id}, document {doc_id}: score must be finite: {score}")
        if doc_id in seen:
            raise ValueError(f"query {query_id}: document {doc_id} is ranked twice")
        seen.add(doc_id)
    return ranking


def _by_score_and_id(hit: tuple[str, float]) -> tuple[float, str]:
    return hit[1], hit[0]


def _by_score_then_id(hit: tuple[str, float]) -> tuple[float, str]:
    return -hit[1], hit[0]


def _require_word(name: str, value: str) -> None:
    if value.split() != [value]:
        raise ValueError(f"{name} must be one word without white space, got {value!r}")
