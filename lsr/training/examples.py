"""Training examples by id: queries, their positives and negatives, and the texts they stand for.

    examples = load_examples(ExampleSource("nfcorpus", split="train"))  # sources.py
    train, held_out = hold_out(examples, share=0.1)
    train = mine(train, candidates, n=4).examples  # mining.py
    dataset = train.dataset()  # columns query, document, negative_1 … negative_4

The dataset holds ids; texts are looked up when its rows are read.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple


class Example(NamedTuple):
    """One row: a query, a document that answers it, and documents that do not."""

    query_id: str
    query: str
    positive: str  # document id
    negatives: tuple[str, ...] = ()  # document ids
    # The teachers' scores of the positive and of each negative.
    scores: tuple[float, ...] | None = None
    # The passage that the query was made from, where it is taken out of the positive.
    removed: str = ""


@dataclass(frozen=True)
class Examples:
    """Rows, and the collection that their document ids refer to.

    A query with several positives has a row for each.
    """

    rows: Sequence[Example]
    documents: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.rows)

    def texts(self, row: Example) -> list[str]:
        """The texts of a row's positive and negatives, n + 1 of them."""
        positive = _without(self.documents[row.positive], row.removed)
        return [positive, *(self.documents[doc_id] for doc_id in row.negatives)]

    @cached_property
    def positives(self) -> dict[str, set[str]]:
        """The ids of all positives of each query id."""
        found: dict[str, set[str]] = {}
        for row in self.rows:
            found.setdefault(row.query_id, set()).add(row.positive)
        return found

    @property
    def n_negatives(self) -> int:
        """The number of negatives of each row.

        Raises:
            ValueError: there are no rows, or some have more than others.
        """
        counts = {len(row.negatives) for row in self.rows}
        if len(counts) != 1:
            raise ValueError(
                f"all rows must have the same number of negatives, got {min(counts)} to "
                f"{max(counts)}: draw_negatives(examples, n) makes it the same"
                if counts
                else "there are no examples"
            )
        return counts.pop()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the texts of all queries, positives and negatives, in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            texts = (row.query, *self.texts(row))
            joined = "".join(f"{len(text)}:{text}" for text in texts)
            digest.update(f"{len(texts)};{joined}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def dataset(self) -> Any:
        """A datasets.Dataset that sentence-transformers trains on.

        Columns: query, document, negative_1 … negative_n; and label, n + 1 floats, where the rows
        have scores. Of documents it stores ids: `dataset.with_format(None)` shows them.

        Raises:
            ValueError: rows differ in the number of their negatives, or only some have scores.
        """
        import datasets

        columns: dict[str, Any] = {
            "query": [row.query for row in self.rows],
            # An id holds no tab: the passage after it is taken out of the text.
            "document": [
                f"{row.positive}\t{row.removed}" if row.removed else row.positive
                for row in self.rows
            ],
        }
        for number in range(self.n_negatives):
            columns[f"negative_{number + 1}"] = [row.negatives[number] for row in self.rows]
        labels = [row.scores for row in self.rows if row.scores is not None]
        if labels:
            if len(labels) < len(self.rows):
                raise ValueError(f"only {len(labels)} of {len(self.rows)} rows have scores")
            columns["label"] = labels
        return datasets.Dataset.from_dict(columns).with_transform(_Lookup(self.documents))


class _Lookup:
    """Puts texts in the place of document ids as rows of a dataset are read."""

    def __init__(self, documents: Mapping[str, str]) -> None:
        self._documents = documents

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {
            column: values
            if column in ("query", "label")
            else [self._text(cell) for cell in values]
            for column, values in batch.items()
        }

    def _text(self, cell: str) -> str:
        doc_id, _, removed = cell.partition("\t")
        return _without(self._documents[doc_id], removed)


def hold_out(examples: Examples, share: float, *, seed: int = 0) -> tuple[Examples, Examples]:
    """(the rest, a held-out part): all rows of a query are on one side.

    A query's side depends on its id and `seed` alone, not on the other queries.

    Args:
        examples: of at least two queries.
        share: of the queries that are held out, about, in (0, 1).
        seed: another one holds out other queries.

    Raises:
        ValueError: `share` is out of range, or one side is empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"`share` must be in (0, 1), got {share}")

    def held(row: Example) -> bool:
        return seeded(seed, "hold out", row.query_id).random() < share

    sides = [held(row) for row in examples.rows]
    rest = [row for row, side in zip(examples.rows, sides, strict=True) if not side]
    held_out = [row for row, side in zip(examples.rows, sides, strict=True) if side]
    if not (rest and held_out):
        raise ValueError(
            f"holding out {share} of {len(examples.positives)} queries leaves {len(rest)} rows and "
            f"holds out {len(held_out)}"
        )
    return replace(examples, rows=rest), replace(examples, rows=held_out)


def draw_negatives(examples: Examples, n: int, *, seed: int = 0) -> Examples:
    """Each row with `n` of its negatives, drawn at random, with their scores.

    Rows that have fewer are left out.

    Raises:
        ValueError: no row has so many.
    """
    rows = []
    for row in examples.rows:
        if len(row.negatives) < n:
            continue
        generator = seeded(seed, "negatives", row.query_id, row.positive)
        drawn = sorted(generator.sample(range(len(row.negatives)), n))
        scores = row.scores and (row.scores[0], *(row.scores[1 + number] for number in drawn))
        rows.append(
            row._replace(negatives=tuple(row.negatives[number] for number in drawn), scores=scores)
        )
    if not rows:
        most = max((len(row.negatives) for row in examples.rows), default=0)
        raise ValueError(f"no row has {n} negatives: the most that one has is {most}")
    return replace(examples, rows=rows)


def _without(text: str, removed: str) -> str:
    return text.replace(removed, "", 1).strip() if removed else text


def folded(text: str) -> str:
    """The text without differences of case and white space: texts with the same one read alike."""
    return " ".join(text.casefold().split())


def seeded(seed: int, *names: str) -> random.Random:
    """Random numbers that depend on the seed and on `names` alone, not on earlier draws."""
    return random.Random("\0".join((str(seed), *names)))
