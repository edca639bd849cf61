"""Single queries in a report: the first documents of each system, judged and explained.

Their number is bounded, so that a page has a few megabytes: LISTS ranked lists are divided among
systems and datasets, with at least FEWEST queries a dataset. results.json and the runs hold all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from lsr.documents import Document, Query
from lsr.eval.grid import Grid
from lsr.run import Ranking
from lsr.search.explanation import Contribution

# Dataset name, ids → the documents that exist, by id.
Documents = Callable[[str, Sequence[str]], Mapping[str, Document]]
# System, dataset name, query id, document id → what each term added; empty if unknown.
Explain = Callable[[str, str, str, str], Sequence[Contribution]]

LISTS = 1_200
FEWEST = 10
DEPTH = 10  # documents of a list
EXPLAINED = 3  # of these
TERMS = 6  # of an explanation
RELEVANT = 10  # relevant documents whose ranks are shown
SNIPPET, TITLE, TEXT = 240, 150, 500  # characters
# Words that are not marked, because they would hide the words that matter.
STOP_WORDS = frozenset(
    "about and any are been can did does for from had has have how into its may not that the their "
    "then there these they this was were what when where which who why will with you your".split()
)


def drilldown(
    grid: Grid, *, documents: Documents | None = None, explain: Explain | None = None
) -> dict[str, Any]:
    """Return everything as JSON; queries are in the order of their datasets."""
    return {
        "systems": grid.systems,
        "measures": grid.measures,
        # Ranks are shown within this depth: runs may have been cut before.
        "kept": max(
            (len(hits) for row in grid.rows for result in row for hits in result.run.values()),
            default=0,
        ),
        "datasets": [
            {
                "label": label,
                "total": len(grid.datasets[place].queries),
                "queries": _queries(grid, place, documents, explain),
            }
            for place, label in enumerate(grid.labels)
        ],
    }


def chosen(grid: Grid, place: int) -> list[Query]:
    """Return the queries of a dataset to show, in its order.

    If there are too many, the queries are chosen on which systems differ most by the first measure,
    and among equal differences those with the lowest value of the baseline.
    """
    queries = grid.datasets[place].queries
    limit = max(FEWEST, LISTS // (len(grid.systems) * len(grid.datasets)))
    values = [grid.values(0, place, system) for system in range(len(grid.systems))]

    def interest(number: int) -> tuple[float, float]:
        each = [value[queries[number].id] for value in values]
        return min(each) - max(each), each[0]

    numbers = sorted(range(len(queries)), key=interest)[:limit]
    return [queries[number] for number in sorted(numbers)]


def words(query: str) -> list[str]:
    """Return the words of `query` that are marked in a text, in lower case."""
    found = dict.fromkeys(word.lower() for word in re.findall(r"\w{3,}", query))
    return [word for word in found if word not in STOP_WORDS]


def snippet(text: str, query: str) -> str:
    """Return the SNIPPET characters of `text` with the most words of `query`, cut at spaces."""
    text = " ".join(text.split())
    if len(text) <= SNIPPET:
        return text
    wanted = set(words(query))
    starts = [found.start() for found in re.finditer(r"\w+", text) if found[0].lower() in wanted]
    inside = [sum(start <= other < start + SNIPPET - 20 for other in starts) for start in starts]
    start = starts[inside.index(max(inside))] if starts else 0
    # The snippet begins some words before the first match; it has its full length at the end too.
    start = max(0, min(start - 20, len(text) - SNIPPET))
    if start:
        start = text.find(" ", start) + 1 or start
    cut = text[start : start + SNIPPET]
    if start + SNIPPET < len(text):
        cut = f"{cut.rpartition(' ')[0] or cut} …"
    return f"… {cut}" if start else cut


def _queries(
    grid: Grid, place: int, documents: Documents | None, explain: Explain | None
) -> list[dict[str, Any]]:
    dataset = grid.datasets[place]
    queries = chosen(grid, place)
    shown = [_shown(grid, place, query.id) for query in queries]
    texts: Mapping[str, Document] = {}
    if documents is not None:
        ids = dict.fromkeys(doc_id for one in shown for doc_id in _ids(one))
        texts = documents(dataset.name, list(ids))
    for query, one in zip(queries, shown, strict=True):
        one["text"] = query.text[:TEXT]
        one["words"] = words(query.text)
        one["documents"] = {
            doc_id: [texts[doc_id].title[:TITLE], snippet(texts[doc_id].text, query.text)]
            for doc_id in _ids(one)
            if doc_id in texts
        }
        if explain is not None:
            one["reasons"] = [
                _reasons(system, dataset.name, query.id, hits, explain)
                for system, hits in zip(grid.systems, one["hits"], strict=True)
            ]
    return shown


def _shown(grid: Grid, place: int, query_id: str) -> dict[str, Any]:
    dataset = grid.datasets[place]
    grades = dataset.qrels[query_id]
    rankings: list[Ranking] = [result.run.get(query_id, []) for result in grid.rows[place]]
    hits = [[[doc_id, _rounded(score)] for doc_id, score in each[:DEPTH]] for each in rankings]
    relevant = [doc_id for doc_id in grades if grades[doc_id] >= dataset.relevant_grade]
    relevant.sort(key=lambda doc_id: (-grades[doc_id], doc_id))
    first = relevant[:RELEVANT]
    ranks = [_ranks(ranking, set(first)) for ranking in rankings]
    listed = {doc_id for ranking in rankings for doc_id, _ in ranking[:DEPTH]}
    return {
        "id": query_id,
        "values": [
            [
                round(grid.values(measure, place, system)[query_id], 4)
                for system in range(len(grid.systems))
            ]
            for measure in range(len(grid.measures))
        ],
        "hits": hits,
        "relevantFrom": dataset.relevant_grade,
        "grades": {doc_id: grades[doc_id] for doc_id in sorted(listed & grades.keys())},
        "relevant": [[doc_id, grades[doc_id], [r.get(doc_id) for r in ranks]] for doc_id in first],
        "more": len(relevant) - len(first),
    }


def _ids(one: Mapping[str, Any]) -> list[str]:
    """Return the ids that a query's lists hold, each once."""
    hits = [doc_id for each in one["hits"] for doc_id, _ in each]
    return list(dict.fromkeys([*hits, *(doc_id for doc_id, _, _ in one["relevant"])]))


def _ranks(ranking: Ranking, wanted: Collection[str]) -> dict[str, int]:
    return {doc_id: rank for rank, (doc_id, _) in enumerate(ranking, 1) if doc_id in wanted}


def _reasons(
    system: str, dataset: str, query_id: str, hits: Sequence[Sequence[Any]], explain: Explain
) -> dict[str, list[list[Any]]]:
    found = {}
    for doc_id, _ in hits[:EXPLAINED]:
        if reasons := explain(system, dataset, query_id, doc_id):
            found[doc_id] = [_reason(reason) for reason in reasons[:TERMS]]
            if rest := reasons[TERMS:]:
                added = sum(reason.contribution for reason in rest)
                share = sum(reason.share for reason in rest)
                found[doc_id].append([f"{len(rest)} more", _rounded(added), round(share, 3), ""])
    return found


def _reason(reason: Contribution) -> list[Any]:
    """Return term, contribution, share, and the sides on which the term is not literal."""
    query = "query before feedback" if reason.from_feedback else "query"
    sides = ((query, reason.literal_in_query), ("document", reason.literal_in_document))
    expanded = " and ".join(side for side, literal in sides if not literal)
    return [reason.term, _rounded(reason.contribution), round(reason.share, 3), expanded]


def _rounded(score: float) -> float:
    """Round to six significant digits."""
    return float(f"{score:.6g}")
