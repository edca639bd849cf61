"""Compare a service's answers with serial answers of the same states in a second directory."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from lsr.building.live import open_live
from lsr.building.writer import Writer
from lsr.documents import Document
from lsr.request import Request
from lsr.run import Ranking
from lsr.search import Searcher


class Write(NamedTuple):
    """Documents of one write, and the state that its acknowledgement named."""

    generation: int
    commit: int
    documents: Sequence[Document]
    deleted: Sequence[str] = ()


class Answered(NamedTuple):
    """The answer to one request, and the state that it named."""

    generation: int
    commit: int
    number: int
    ranking: Ranking


def differing(
    answers: Iterable[Answered],
    writes: Iterable[Write],
    bases: Mapping[int, Path],
    requests: Sequence[Request],
    folder: Path,
) -> list[tuple[Answered, Ranking]]:
    """Return the answers that differ from the serial ones of their state, with the serial ones.

    Args:
        answers: of one index, in any order.
        writes: all that were acknowledged; those of one commit have different ids.
        bases: by generation, an index directory as the build left that generation.
        requests: by number.
        folder: where a copy of each base is made and written to.

    Raises:
        ValueError: an answer names a state that no acknowledged write made.
    """
    order = attrgetter("generation", "commit")
    found = []
    for generation, of_generation in groupby(sorted(answers, key=order), attrgetter("generation")):
        directory = folder / f"replay-{generation}"
        shutil.copytree(bases[generation], directory)
        after = sorted((w for w in writes if w.generation == generation), key=order)
        commits = [(commit, list(of)) for commit, of in groupby(after, attrgetter("commit"))]
        with open_live(directory, writable=True) as live, Searcher(directory) as searcher:
            writer = Writer.of(live, directory)
            for commit, of_commit in groupby(of_generation, attrgetter("commit")):
                while commits and commits[0][0] <= commit:
                    _apply(writer, *commits.pop(0))
                searcher.refresh()
                if searcher.commit != commit:
                    raise ValueError(
                        f"an answer is of commit {commit} of generation {generation}; what was "
                        f"acknowledged makes {searcher.commit}"
                    )
                found += _of_state(searcher, of_commit, requests)
        shutil.rmtree(directory)
    return found


def _apply(writer: Writer, commit: int, writes: Sequence[Write]) -> None:
    documents = [document for write in writes for document in write.documents]
    writer.delete([doc_id for write in writes for doc_id in write.deleted])
    if documents:
        # One commit's documents together, as in the service: a model's numbers depend on the batch.
        writer.add(writer.encode(documents))
    if (made := writer.commit()) != commit:
        raise ValueError(f"a write was acknowledged as commit {commit}; its replay is {made}")


def _of_state(
    searcher: Searcher, answers: Iterable[Answered], requests: Sequence[Request]
) -> list[tuple[Answered, Ranking]]:
    serial: dict[int, Ranking] = {}
    found = []
    for answer in answers:
        if answer.number not in serial:
            hits = searcher.search(requests[answer.number])
            serial[answer.number] = [(hit.document.id, hit.score) for hit in hits]
        if answer.ranking != serial[answer.number]:
            found.append((answer, serial[answer.number]))
    return found
