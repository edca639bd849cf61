"""A recipe's data made ready: negatives mined, teachers' scores, a held-out part.

run/
  collection/   what "generated" makes
  rows.jsonl    the training rows with negatives and scores, so that a resumed run and other
                processes read what the first has computed
  scores/       the teachers' scores, by teacher; absent where these score live
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from lsr.corpus import Document, open_corpus
from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import default_tokenizer, load_encoder
from lsr.training import tiny
from lsr.training.examples import Example, Examples, draw_negatives, hold_out
from lsr.training.mining import dense_candidates, mine, sparse_candidates
from lsr.training.pseudo import pseudo_queries
from lsr.training.recipe import Data, Recipe, Teachers
from lsr.training.run_files import write_whole
from lsr.training.scoring import Label, Progress, label_batch, score_examples
from lsr.training.sources import ExampleSource, load_examples
from lsr.training.teachers import (
    Combine,
    CrossTeacher,
    DenseTeacher,
    FileTeacher,
    SparseTeacher,
    Teacher,
    align,
    ensemble,
)

GENERATED = "generated"
# Texts of the collection that heads are calibrated on, and that IDF is counted over at once.
SAMPLE, BATCH = 1000, 512
# Rows that live teachers score to show what their scores are like.
SCORED = 256


@dataclass(frozen=True)
class HeldOut:
    """Queries kept out of training, and the collection that they search."""

    documents: Mapping[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]

    @classmethod
    def of(cls, examples: Examples) -> HeldOut:
        """Of rows. A document that a query was made from is there without that passage.

        Where passages are taken out of some of the rows, only these are kept: the others hold
        their queries word for word.
        """
        rows = [row for row in examples.rows if row.removed] or list(examples.rows)
        changed = {row.positive: examples.texts(row)[0] for row in rows if row.removed}
        # One passage of a document: the row that comes last has it.
        rows = [
            row
            for row in rows
            if not row.removed or changed[row.positive] == examples.texts(row)[0]
        ]
        documents = _Changed(examples.documents, changed) if changed else examples.documents
        qrels: dict[str, dict[str, int]] = {}
        for row in rows:
            qrels.setdefault(row.query_id, {})[row.positive] = 1
        return cls(documents, {row.query_id: row.query for row in rows}, qrels)


class _Changed(Mapping[str, str]):
    """Texts, some of which read otherwise."""

    def __init__(self, texts: Mapping[str, str], changed: Mapping[str, str]) -> None:
        self._texts = texts
        self._changed = changed

    def __getitem__(self, key: str) -> str:
        return self._changed[key] if key in self._changed else self._texts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


@dataclass(frozen=True)
class Prepared:
    """What a run trains on and is measured on."""

    train: Examples
    held_out: HeldOut | None
    label: Label | None = None  # by teachers that score live

    def scores(self) -> list[Sequence[float]]:
        """What the teachers say of each row's documents, n + 1 floats a row.

        Of all rows where they were scored; of up to SCORED, spread evenly, where that is done
        live; of none where there are no teachers.
        """
        if self.label is None:
            return [row.scores for row in self.train.rows if row.scores is not None]
        step = max(1, len(self.train) // SCORED)
        some = replace(self.train, rows=self.train.rows[: step * SCORED : step])
        return [row["label"] for row in self.label(list(some.dataset()))]

    def sample(self) -> list[str]:
        """Up to SAMPLE texts of the collection, spread evenly over it."""
        documents = self.train.documents
        step = max(1, len(documents) // SAMPLE)
        return [documents[key] for key in islice(documents, 0, step * SAMPLE, step)]


def prepare(
    recipe: Recipe, out: Path, progress: Progress = lambda step, done, total: None
) -> Prepared:
    """The data of a recipe; what was computed before is read.

    Teachers that score live are made at every call, in each process.

    Raises:
        FileNotFoundError: a source, scores file or checkpoint is missing.
        ValueError: a source or a teacher cannot be used.
    """
    data = recipe.data
    if not data.source:
        raise ValueError(f"recipe {recipe.name!r}: data.source is not set: give --data")
    source = data.source
    if source == GENERATED:
        source = str(out / "collection")
        if not (out / "collection" / "scores.tsv").exists():
            tiny.write_collection(out / "collection", recipe.training.seed)
    examples = _examples(source, data, recipe.training.seed)
    held_out = None
    if data.dev_split:
        held_out = HeldOut.of(load_examples(ExampleSource(source, data.dev_split)))
    elif data.held_out:
        examples, held = hold_out(examples, data.held_out, seed=recipe.training.seed)
        held_out = HeldOut.of(held)
    cached = out / "rows.jsonl"
    known = cached.exists()
    if known:
        examples = replace(examples, rows=_read_rows(cached))
        if not recipe.teachers.live:
            return Prepared(examples, held_out)
    # One for mining and scoring: it remembers the vectors of documents.
    dense = DenseTeacher() if _needs_trunk(recipe) else None
    if data.negatives and not known:
        examples = _with_negatives(examples, data, recipe.training.seed, dense, progress)
    label = None
    if recipe.teachers.names:
        made = {f"scores:{GENERATED}": f"scores:{out / 'collection' / 'scores.tsv'}"}
        names = [made.get(name, name) for name in recipe.teachers.names]
        teachers = [_teacher(name, examples, dense) for name in names]
        combine = _combine(recipe.teachers)
        if recipe.teachers.live:
            label = partial(label_batch, teachers=teachers, combine=combine)
        else:
            examples = score_examples(
                examples, teachers, out / "scores", combine=combine, progress=progress
            )
    if not known:
        write_whole(cached, "".join(json.dumps(row) + "\n" for row in examples.rows))
    return Prepared(examples, held_out, label)


def _examples(source: str, data: Data, seed: int) -> Examples:
    if not data.pseudo_queries:
        return load_examples(ExampleSource(source, data.split, limit=data.limit))

    def documents() -> Iterator[Document]:
        return islice(open_corpus(source), data.limit)

    texts = (document.content for document in documents())
    lexical = LexicalEncoder.fit(default_tokenizer(), batches(texts))
    return pseudo_queries(
        documents(),
        lexical,
        per_document=data.pseudo_queries,
        removed=data.removed,
        seed=seed,
    )


def _needs_trunk(recipe: Recipe) -> bool:
    mined = recipe.data.negatives > 0 and (recipe.data.margin > 0 or "dense" in recipe.data.miners)
    return mined or "dense" in recipe.teachers.names


def _with_negatives(
    examples: Examples, data: Data, seed: int, dense: DenseTeacher | None, progress: Progress
) -> Examples:
    """Negatives from each miner in turn; those that the source has come first."""
    had = min(len(row.negatives) for row in examples.rows)
    if had >= data.negatives:
        return draw_negatives(examples, data.negatives, seed=seed)
    judge = dense if data.margin > 0 else None
    examples = draw_negatives(examples, had, seed=seed)
    wanted = data.negatives - had
    shares = [wanted // len(data.miners)] * len(data.miners)
    for number in range(wanted % len(data.miners)):
        shares[number] += 1
    for miner, n in zip(data.miners, shares, strict=True):
        if not n:
            continue
        if miner == "bm25":
            candidates = sparse_candidates(
                examples, _bm25(examples), data.mining_depth, progress=progress
            )
        else:
            assert dense is not None
            candidates = dense_candidates(examples, dense, data.mining_depth, progress=progress)
        examples = mine(
            examples,
            candidates,
            n,
            ranks=(1, data.mining_depth),
            judge=judge,
            relative=data.margin,
            seed=seed,
            progress=progress,
        ).examples
    return examples


def _bm25(examples: Examples) -> LexicalEncoder:
    return LexicalEncoder.fit(default_tokenizer(), batches(examples.documents.values()))


def _teacher(name: str, examples: Examples, trunk: DenseTeacher | None) -> Teacher:
    kind, _, what = name.partition(":")
    made: dict[str, Callable[[], Teacher]] = {
        "dense": lambda: DenseTeacher(what) if what or trunk is None else trunk,
        "bm25": lambda: SparseTeacher(_bm25(examples)),
        "sparse": lambda: SparseTeacher(load_encoder(what)),
        "cross-encoder": lambda: CrossTeacher(what),
        "scores": lambda: FileTeacher(Path(what), examples),
    }
    if kind not in made or (kind not in ("dense", "bm25") and not what):
        raise ValueError(
            "a teacher must be dense, dense:MODEL, bm25, sparse:CHECKPOINT, cross-encoder:MODEL or "
            f"scores:FILE, got {name!r}"
        )
    return made[kind]()


def _combine(teachers: Teachers) -> Combine:
    if teachers.combine == "affine":
        return align
    return partial(ensemble, scale=teachers.scale)


def _read_rows(path: Path) -> list[Example]:
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                query_id, query, positive, negatives, scores, removed = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: not a training row: {error}") from error
            rows.append(
                Example(
                    query_id,
                    query,
                    positive,
                    tuple(negatives),
                    None if scores is None else tuple(scores),
                    removed,
                )
            )
    return rows


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts, BATCH at a time."""
    iterator = iter(texts)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def is_main_process() -> bool:
    """Whether this process is the only one, or the first on its machine (torchrun tells)."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0
