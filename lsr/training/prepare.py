"""A recipe's data made ready: negatives mined, teachers' scores, a held-out part.

run/
  collection/   what "generated" makes
  rows.jsonl    the training rows with negatives and scores, so that a resumed run and other
                processes read what the first has computed
  scores/       the teachers' scores, by teacher; absent where these score live
  vectors/      of queries and documents by dense teachers, where a batch is scored as a whole
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock
from scipy.sparse import vstack

from lsr.corpus.corpus import open_corpus
from lsr.documents import Document
from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import default_tokenizer, load_encoder
from lsr.progress import Progress
from lsr.training import tiny
from lsr.training.examples import Example, Examples, draw_negatives, hold_out
from lsr.training.mining import dense_candidates, mine, sparse_candidates
from lsr.training.neighbours import NearQuery, Neighbours, Vectors, VectorTeacher
from lsr.training.pseudo import SHORTEST, pseudo_queries
from lsr.training.recipe import Data, Recipe, Teachers
from lsr.training.run_files import write_array, write_whole
from lsr.training.scoring import Label, label_batch, score_examples
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

logger = logging.getLogger(__name__)

# Texts of the collection that heads are calibrated on, and that IDF is counted over at once.
SAMPLE, BATCH = 1000, 512
# Rows that live teachers score to show what their scores are like.
SCORED = 256
# Sentences or spans of each document that are queries for the others.
CUT_OUT = 1


@dataclass(frozen=True)
class HeldOut:
    """Queries kept out of training, and the collection that they search."""

    documents: Mapping[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]

    @classmethod
    def of(cls, examples: Examples) -> HeldOut:
        """Queries and collection of rows; documents are without the passage of their query.

        Where passages are taken out of some of the rows, only these rows are kept: in the others
        the document holds the query word for word.
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
    """Texts, some of them replaced."""

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
    """The data that a run trains on, and those that it is measured on."""

    train: Examples
    held_out: HeldOut | None
    label: Label | None = None  # by teachers that score live
    neighbours: Neighbours | None = None  # where a batch is scored as a whole

    def scores(self) -> list[Sequence[float]]:
        """The teachers' scores of each row's documents, n + 1 floats a row.

        Of all rows, if these were scored beforehand; of up to SCORED rows, spread evenly, if
        teachers score live; of none without teachers. Where a batch is scored as a whole, of the
        best documents of up to SCORED queries.
        """
        if self.neighbours is not None:
            scores = self.neighbours.scores
            return list(scores[:: max(1, len(scores) // SCORED)].tolist())
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
    """The data of a recipe; what an earlier call computed is read from `out`.

    Teachers that score live are made anew at every call, in each process.

    Raises:
        FileNotFoundError: a source, scores file or checkpoint is missing.
        ValueError: a source or a teacher cannot be used.
    """
    data = recipe.data
    if not data.source:
        raise ValueError(f"recipe {recipe.name!r}: data.source is not set: give --data")
    source = data.source
    if source == tiny.GENERATED:
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
        if not (recipe.teachers.live or data.neighbours):
            return Prepared(examples, held_out)
    if data.neighbours:
        # Documents stay whole: a query is not compared with the one that it was cut out of.
        examples = replace(examples, rows=[row._replace(removed="") for row in examples.rows])
    # One teacher for mining and scoring: it remembers the vectors of documents.
    dense = DenseTeacher() if _needs_trunk(recipe) else None
    neighbours = _neighbours(recipe, examples, dense, out, progress) if data.neighbours else None
    if data.negatives and not known:
        examples = _with_negatives(
            examples, data, recipe.training.seed, dense, neighbours, progress
        )
    label = None
    if recipe.teachers.names and neighbours is None:
        made = {f"scores:{tiny.GENERATED}": f"scores:{out / 'collection' / 'scores.tsv'}"}
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
    return Prepared(examples, held_out, label, neighbours)


def _examples(source: str, data: Data, seed: int) -> Examples:
    if not data.pseudo_queries:
        return load_examples(ExampleSource(source, data.split, limit=data.limit))

    def documents() -> Iterator[Document]:
        return islice(open_corpus(source), data.limit)

    texts = (document.content for document in documents())
    lexical = LexicalEncoder.fit(default_tokenizer(), batches(texts))
    made = pseudo_queries(
        documents(),
        lexical,
        per_document=data.pseudo_queries,
        removed=data.removed,
        seed=seed,
    )
    if not made.rows:
        raise ValueError(
            f"{source}: none of {len(made.documents)} documents gives a pseudo-query: one is made "
            f"of a title, or of {SHORTEST} or more words of a sentence with spaces between them"
        )
    return made


def _needs_trunk(recipe: Recipe) -> bool:
    mined = recipe.data.negatives > 0 and (recipe.data.margin > 0 or "dense" in recipe.data.miners)
    return mined or "dense" in recipe.teachers.names


def _neighbours(
    recipe: Recipe, examples: Examples, dense: DenseTeacher | None, out: Path, progress: Progress
) -> Neighbours:
    """The rows' queries, and passages of documents, ranked over the collection by the teachers."""
    data, seed = recipe.data, recipe.training.seed
    queries = [
        NearQuery(row.query_id, row.query, row.positive, cut_out=data.pseudo_queries > 0)
        for row in examples.rows
    ]
    if not data.pseudo_queries:
        asked = {query.text for query in queries}
        whole = (Document(key, text=text) for key, text in examples.documents.items())
        passages = pseudo_queries(
            whole,
            _bm25(examples),
            per_document=CUT_OUT,
            kinds=("sentence", "span"),
            removed=0,
            seed=seed,
        )
        if not passages.rows:
            logger.warning(
                "none of %d documents has a passage of %d words: batches are compared with the "
                "training queries alone",
                len(examples.documents),
                SHORTEST,
            )
        queries += [
            NearQuery(f"passage of {row.query_id}", row.query, row.positive, cut_out=True)
            for row in passages.rows
            if row.query not in asked
        ]
    names = recipe.teachers.names
    weights = recipe.teachers.weights or (1.0,) * len(names)
    texts = [query.text for query in queries]
    documents = list(examples.documents.values())
    teachers = []
    for name, weight in zip(names, weights, strict=True):
        teacher = _teacher(name, examples, dense)
        vectors = _vectors(teacher, texts, documents, out / "vectors", progress)
        teachers.append(VectorTeacher(*vectors, weight))
    return Neighbours(
        queries,
        examples.documents,
        teachers,
        depth=data.mining_depth,
        scale=recipe.teachers.scale,
        seed=seed,
        progress=progress,
    )


def _vectors(
    teacher: Teacher,
    queries: Sequence[str],
    documents: Sequence[str],
    out: Path,
    progress: Progress,
) -> tuple[Vectors, Vectors]:
    """A teacher's vectors of queries and of documents; dense ones are kept in `out`.

    Raises:
        ValueError: a file of vectors is truncated.
    """
    if isinstance(teacher, SparseTeacher):
        encoder = teacher.encoder
        encoded = [encoder.encode_documents(batch) for batch in batches(documents)]
        return encoder.encode_queries(queries), vstack(encoded, format="csr")
    assert isinstance(teacher, DenseTeacher)
    digest = hashlib.sha256(teacher.fingerprint.encode())
    for text in (*queries, *documents):
        digest.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
    folder = out / digest.hexdigest()[:16]
    sides: list[np.ndarray] = []
    encoders = {"queries": teacher.encode_queries, "documents": teacher.encode_documents}
    folder.mkdir(parents=True, exist_ok=True)
    for side, texts in (("queries", queries), ("documents", documents)):
        path = folder / f"{side}.npy"
        with FileLock(folder / "lock"):  # one process computes, others wait
            if not path.exists():
                parts = []
                for batch in batches(texts):
                    parts.append(encoders[side](batch))
                    progress(f"encoding {side}", sum(map(len, parts)), len(texts))
                write_array(path, np.concatenate(parts))
        try:
            sides.append(np.load(path))
        except (EOFError, ValueError) as error:
            raise ValueError(f"{path}: not vectors, remove it: {error}") from error
    return sides[0], sides[1]


def _with_negatives(
    examples: Examples,
    data: Data,
    seed: int,
    dense: DenseTeacher | None,
    neighbours: Neighbours | None,
    progress: Progress,
) -> Examples:
    """Negatives of the source first, then some from each miner in turn."""
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
        if miner == "neighbours":
            assert neighbours is not None
            candidates = neighbours.candidates()
        elif miner == "bm25":
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
    return partial(ensemble, scale=teachers.scale, weights=teachers.weights or None)


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
