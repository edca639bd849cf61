"""Documents of a batch that are known to answer another row's query.

    trainer.data_collator = KnownPositives(trainer.data_collator, examples)

A loss that compares each query with all documents of a batch would take such a document for a
negative: a query with several positives has a row for each, several queries may have the same
positive, and a negative mined for one query may be a positive of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from lsr.training.examples import Examples, folded
from lsr.training.processes import gather_rows, process_rank

# Names of what the collator adds to the features of documents and of queries.
KEY, ANSWERS = "text_key", "answer_keys"


class KnownPositives:
    """A data collator that adds keys of all documents, and of the answers of each row's query.

    Documents have the same key if their texts are equal but for case and white space. A document
    without the passage that a row takes out has the key of the whole document.
    """

    def __init__(self, collator: Any, examples: Examples) -> None:
        """A collator around another.

        Args:
            collator: of sentence-transformers, for rows of "query" and columns of documents.
            examples: all rows that are trained on.
        """
        self.valid_label_columns = collator.valid_label_columns  # which the trainer reads
        self._collator = collator
        self._documents = examples.documents
        self._answers: dict[str, set[str]] = {}  # document ids by the query's text
        self._whole: dict[int, int] = {}  # the key of the whole document by that of what is left
        self._keys: dict[str, int] = {}  # by document id
        for row in examples.rows:
            self._answers.setdefault(folded(row.query), set()).add(row.positive)
            if row.removed:
                left = _key(examples.texts(row)[0])
                self._whole[left] = _key(self._documents[row.positive])

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch, with int64 "COLUMN_text_key", shape (B,), and "query_answer_keys", (B, P).

        P is the largest number of answers; where a query has fewer, its first is repeated.
        """
        batch: dict[str, Any] = self._collator(rows)
        for column in rows[0]:
            if column not in ("query", "label"):
                keys = [_key(row[column]) for row in rows]
                batch[f"{column}_{KEY}"] = torch.tensor([self._whole.get(k, k) for k in keys])
        answers = [self._answer_keys(row["query"]) for row in rows]
        most = max(map(len, answers))
        padded = [keys + keys[:1] * (most - len(keys)) for keys in answers]
        return batch | {f"query_{ANSWERS}": torch.tensor(padded)}

    def _answer_keys(self, query: str) -> list[int]:
        found = set()
        for doc_id in self._answers[folded(query)]:
            if doc_id not in self._keys:
                self._keys[doc_id] = _key(self._documents[doc_id])
            found.add(self._keys[doc_id])
        return sorted(found)


def take_known_positives(columns: Sequence[dict[str, Any]]) -> Tensor | None:
    """Which documents of the batch are other positives of each query; takes the keys out.

    Args:
        columns: features of the query and of C columns of documents, B rows each.

    Returns:
        bool, shape (B, processes · C · B), documents in the order in which `gather_rows` gives the
        columns one after the other; False for a row's own positive. None where there are no keys.
    """
    query, *documents = columns
    answers = query.pop(ANSWERS, None)
    own = [column.pop(KEY, None) for column in documents]
    if answers is None:
        return None
    keys = torch.cat(own)
    first = process_rank() * len(keys)
    keys = gather_rows(keys)
    known = torch.stack([torch.isin(keys, of_row) for of_row in answers])
    rows = torch.arange(len(answers), device=known.device)
    known[rows, first + rows] = False
    return known


def _key(text: str) -> int:
    digest = blake2b(folded(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
