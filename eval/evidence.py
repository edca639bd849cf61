"""The evidence of a report for single queries: documents' texts, and why a system ranked them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from lsr.corpus.corpus import open_corpus
from lsr.documents import Document
from lsr.eval.cache import Cache
from lsr.eval.datasets import Dataset
from lsr.eval.systems import System, index_of
from lsr.search import Searcher
from lsr.search.explanation import Contribution


class Evidence:
    """Texts and reasons of an evaluation."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        systems: Sequence[System],
        cache: Cache,
        opened: ExitStack,
    ) -> None:
        """Gather evidence on what `evaluate_system` has evaluated.

        Args:
            datasets: all of them.
            systems: all of them.
            cache: the cache of the evaluation.
            opened: closes the indexes that are opened.
        """
        self._datasets = {dataset.name: dataset for dataset in datasets}
        self._systems = {system.name: system for system in systems}
        self._cache = cache
        self._opened = opened
        self._searchers: dict[tuple[str, str], Searcher] = {}
        self._queries: dict[str, dict[str, str]] = {}

    def documents(self, dataset: str, ids: Sequence[str]) -> Mapping[str, Document]:
        """Return the documents of a dataset by id, by reading its corpus."""
        wanted = set(ids)
        corpus = open_corpus(self._datasets[dataset].source or dataset)
        return {document.id: document for document in corpus if document.id in wanted}

    def explain(
        self, system: str, dataset: str, query_id: str, doc_id: str
    ) -> Sequence[Contribution]:
        """Return what each term added to a document's sparse score; nothing for a run file."""
        described = self._systems[system]
        if described.kind in ("run", "runs"):
            return []
        if dataset not in self._queries:
            queries = self._datasets[dataset].queries
            self._queries[dataset] = {query.id: query.text for query in queries}
        searcher = self._searcher(described, self._datasets[dataset])
        text = self._queries[dataset][query_id]
        settings = {"operators": False, **described.settings}  # as `Searcher.rank` takes texts
        return searcher.explain(text, doc_id, **settings).terms

    def _searcher(self, system: System, dataset: Dataset) -> Searcher:
        key = (system.name, dataset.name)
        if key not in self._searchers:
            others = list(self._systems.values())
            directory = index_of(system, others, dataset, self._cache)
            self._searchers[key] = self._opened.enter_context(Searcher(directory))
        return self._searchers[key]
