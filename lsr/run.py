"""Runs: ranked documents per query, and TREC run files; judgements, and files of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lsr.lines import read_lines

Ranking = list[tuple[str, float]]
# Query id → document id → grade; a grade above 0 is relevant.
Qrels = dict[str, dict[str, int]]
LARGEST = float(np.finfo(np.float32).max)


class Run(Mapping[str, Ranking]):
    """Ranked (doc id, score) per query id: score descending, ties by doc id ascending (UTF-8).

    Raises:
        ValueError: a score is not finite, or a query holds a document twice.
    """

    def __init__(self, rankings: Mapping[str, Iterable[tuple[str, float]]]) -> None:
        self._rankings = {query_id: _ranked(query_id, hits) for query_id, hits in rankings.items()}

    @classmethod
    def read_trec(cls, path: str | os.PathLike[str]) -> Run:
        """Return the run in a TREC run file, ordered by its scores (its ranks are not used).

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line (named as path:line) does not have six columns and a finite score, or
                repeats a document.
        """
        rankings: dict[str, dict[str, float]] = {}
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                try:
                    query_id, doc_id, score = _parse_trec(raw)
                    ranking = rankings.setdefault(query_id, {})
                    if doc_id in ranking:
                        raise ValueError(f"document {doc_id!r} again for query {query_id!r}")
                except ValueError as error:
                    excerpt = raw[:80].decode("utf-8", "backslashreplace").rstrip()
                    raise ValueError(f"{path}:{number}: {error}: {excerpt}") from error
                ranking[doc_id] = score
        return cls({query_id: ranking.items() for query_id, ranking in rankings.items()})

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
        return Run({query_id: ranking[:k] for query_id, ranking in self.items()})

    def without_self(self) -> Run:
        """Return the run without documents whose id is the query's id (queries from the corpus)."""
        return Run(
            {
                query_id: [hit for hit in ranking if hit[0] != query_id]
                for query_id, ranking in self.items()
            }
        )

    def write_trec(self, path: str | os.PathLike[str], tag: str) -> None:
        """Write ``query_id Q0 doc_id rank score tag`` lines, ranks from 1.

        Tools order a run file by score and break ties their own way, and trec_eval holds scores as
        float32: they are written as such, and one that then does not lie below the one before it
        as the next float32 below that. TREC files have no place for a query without documents.

        Raises:
            ValueError: the tag or an id is empty or holds white space.
        """
        lines = []
        _require_word("tag", tag)
        for query_id, ranking in self.items():
            _require_word("query id", query_id)
            written = np.float32(math.inf)
            for rank, (doc_id, score) in enumerate(ranking, 1):
                _require_word("doc id", doc_id)
                written = min(
                    np.float32(np.clip(score, -LARGEST, LARGEST)),
                    np.nextafter(written, np.float32(-math.inf)),
                )
                lines.append(f"{query_id} Q0 {doc_id} {rank} {float(written)!r} {tag}\n")
        Path(path).write_text("".join(lines), encoding="utf-8", newline="\n")


def read_qrels(path: str | os.PathLike[str]) -> Qrels:
    """Return the judgements of a BEIR file: query-id, corpus-id, score, with or without header.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: a line cannot be used.
    """
    qrels: Qrels = {}

    def parse(line: str) -> None:
        columns = line.split("\t")
        if len(columns) != 3:
            raise ValueError(f"expected 3 tab-separated columns, got {len(columns)}")
        query_id, doc_id, grade = columns
        try:
            value = int(grade)
        except ValueError as error:
            raise ValueError(f"score must be an integer, got {grade!r}") from error
        if qrels.setdefault(query_id, {}).setdefault(doc_id, value) != value:
            raise ValueError(f"a second grade for document {doc_id!r}")

    for _ in read_lines(Path(path), parse, header="query-id\t"):
        pass
    return qrels


def _parse_trec(raw: bytes) -> tuple[str, str, float]:
    columns = raw.decode("utf-8").split()
    if len(columns) != 6:
        raise ValueError(f"expected 6 columns, got {len(columns)}")
    query_id, _, doc_id, _, score, _ = columns
    try:
        value = float(score)
    except ValueError as error:
        raise ValueError(f"score must be a number, got {score!r}") from error
    if not math.isfinite(value):
        raise ValueError(f"score must be finite, got {score}")
    return query_id, doc_id, value


def _ranked(query_id: str, hits: Iterable[tuple[str, float]]) -> Ranking:
    # Code point order, which Python compares by, is UTF-8 byte order.
    ranking = sorted(((doc_id, float(score)) for doc_id, score in hits), key=_by_score_then_id)
    seen: set[str] = set()
    for doc_id, score in ranking:
        if not math.isfinite(score):
            raise ValueError(f"query {query_id}, document {doc_id}: score must be finite: {score}")
        if doc_id in seen:
            raise ValueError(f"query {query_id}: document {doc_id} is ranked twice")
        seen.add(doc_id)
    return ranking


def _by_score_then_id(hit: tuple[str, float]) -> tuple[float, str]:
    return -hit[1], hit[0]


def _require_word(name: str, value: str) -> None:
    if value.split() != [value]:
        raise ValueError(f"{name} must be one word without white space, got {value!r}")
