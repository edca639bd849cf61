"""What an evaluation found: systems on datasets, with quality per query and cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lsr.eval.datasets import Dataset
from lsr.eval.measures import Evaluation
from lsr.run import Run


class Cost(NamedTuple):
    """What a system costs on a dataset, measured one query at a time."""

    n_documents: int
    index_bytes: int
    encode_docs_per_second: float  # when the index was built
    encode_query_us: float  # median: a text to its vector or vectors
    postings: float  # mean: documents in the posting lists of a query's terms
    p50_ms: float  # a text to the ids of its 10 best documents
    p95_ms: float


@dataclass(frozen=True)
class Result:
    """One system on one dataset."""

    system: str  # its name in tables
    dataset: Dataset
    run: Run
    evaluation: Evaluation
    cost: Cost | None  # None for a run file
