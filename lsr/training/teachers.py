"""Teachers score (query, document) pairs; a model learns these scores, made comparable.

teachers = [DenseTeacher(), SparseTeacher(LexicalEncoder.fit(default_tokenizer(), batches))]
train = score_examples(train, teachers, Path("run/scores"))  # scoring.py
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.sparse import csr_array

from lsr.encoders.dense import DenseEncoder, weights_sha256
from lsr.encoders.load import resolve
from lsr.training.examples import Examples
from lsr.training.sources import read_scores

# Vectors that a teacher keeps: the same document is scored for many queries.
REMEMBERED = 100_000
# Keeps a query of which all scores are equal from dividing by 0.
EPSILON = 1e-6


class Teacher(Protocol):
    """Scores pairs of texts; higher is more relevant, on a scale of its own."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that its scores depend on."""

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """The score of each of n (query, document) pairs, float32, shape (n,)."""


class Encoder(Protocol):
    """What `lsr.encoders` offer; see ARCHITECTURE.md."""

    @property
    def vocabulary(self) -> Sequence[str]: ...
    @property
    def fingerprint(self) -> str: ...
    def encode_documents(self, texts: Sequence[str], top_k: int | None = None) -> csr_array: ...
    def encode_queries(self, texts: Sequence[str]) -> csr_array: ...


class DenseTeacher:
    """A sentence-transformers bi-encoder: cosine or inner product, as its configuration says."""

    def __init__(
        self, model: Any = None, *, batch_size: int = 64, device: str | None = None
    ) -> None:
        """A teacher around a model.

        Args:
            model: a SentenceTransformer, or a directory or hub name of one; None for the packaged
                all-MiniLM-L6-v2 (mean pooling, cosine).
            batch_size: texts in one pass.
            device: torch's name of it; None for the best device at hand.

        Raises:
            ValueError: the model compares vectors by another similarity.
        """
        self._encoder = DenseEncoder(model, batch_size=batch_size, device=device)
        self.model = self._encoder.model
        self._memory: dict[str, np.ndarray] = {}
        self._asked: dict[str, np.ndarray] = {}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights, sequence length, prompts and similarity."""
        return self._encoder.fingerprint

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors, float32, shape (n, D); those of texts seen before are remembered."""
        return np.stack(_recall(self._memory, texts, self._encoder.encode_documents))

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors, float32, shape (n, D); those of texts seen before are remembered."""
        return np.stack(_recall(self._asked, texts, self._encoder.encode_queries))

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """See Teacher."""
        vectors = self.encode_queries(queries), self.encode_documents(documents)
        return np.asarray(np.einsum("nd,nd->n", *vectors), np.float32)


class SparseTeacher:
    """One of our encoders; with LexicalEncoder it is BM25."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        # (terms, weights) by text.
        self._memory: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def fingerprint(self) -> str:
        """That of the encoder."""
        return self.encoder.fingerprint

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """See Teacher."""
        distinct, rows = _distinct(queries)
        encoded = self.encoder.encode_queries(distinct)[rows]
        vectors = _recall(self._memory, documents, self._documents)
        ends = np.cumsum([0, *(len(terms) for terms, _ in vectors)])
        stacked = csr_array(
            (
                np.concatenate([weights for _, weights in vectors]),
                np.concatenate([terms for terms, _ in vectors]),
                ends,
            ),
            shape=encoded.shape,
        )
        products = encoded.multiply(stacked).sum(axis=1)
        return np.asarray(products, np.float32).ravel()

    def _documents(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        vectors = self.encoder.encode_documents(texts)
        cuts = vectors.indptr[1:-1]
        terms, weights = np.split(vectors.indices, cuts), np.split(vectors.data, cuts)
        return list(zip(terms, weights, strict=True))


class CrossTeacher:
    """A sentence-transformers cross-encoder: the logit of each pair."""

    def __init__(self, model: Any, *, batch_size: int = 64, device: str | None = None) -> None:
        """A teacher around a model.

        Args:
            model: a CrossEncoder, or a directory or hub name of one.
            batch_size: pairs in one pass.
            device: torch's name of it; None for the best device at hand.

        Raises:
            ValueError: the model has more than one label.
        """
        from sentence_transformers import CrossEncoder

        if not isinstance(model, CrossEncoder):
            model = CrossEncoder(str(resolve(str(model))), device=device)
        if model.num_labels != 1:
            raise ValueError(f"a cross-encoder must have 1 label, got {model.num_labels}")
        self.model = model
        self._batch_size = batch_size

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights and sequence length."""
        return weights_sha256(self.model, self.model.max_seq_length)

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """See Teacher."""
        import torch

        logits = self.model.predict(
            list(zip(queries, documents, strict=True)),
            batch_size=self._batch_size,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        )
        return np.asarray(logits, np.float32)


class FileTeacher:
    """Scores that something else computed, such as an LLM: query id, document id, score."""

    def __init__(self, path: Path, examples: Examples) -> None:
        """Read the scores of all pairs of the examples.

        Args:
            path: see `sources.read_scores`; pairs that the examples do not have are ignored.
            examples: what will be scored; they say which texts the ids stand for.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line cannot be used, or a pair has no score.
        """
        # By ids and by texts: a passage may be taken out of a positive.
        wanted: dict[tuple[str, str], set[bytes]] = {}
        for row in examples.rows:
            doc_ids = (row.positive, *row.negatives)
            for doc_id, text in zip(doc_ids, examples.texts(row), strict=True):
                texts = wanted.setdefault((row.query_id, doc_id), set())
                texts.add(_pair_sha256(row.query, text))
        self._scores: dict[bytes, float] = {}
        n_pairs = len(wanted)
        for query_id, doc_id, score in read_scores(path):
            for pair in wanted.pop((query_id, doc_id), ()):
                self._scores[pair] = score
        if wanted:
            query_id, doc_id = min(wanted)
            raise ValueError(
                f"{path}: no score for {len(wanted)} of {n_pairs} pairs, such as query "
                f"{query_id!r} and document {doc_id!r}"
            )
        self._path = path

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the scores."""
        digest = hashlib.sha256()
        for pair in sorted(self._scores):
            digest.update(pair + np.float64(self._scores[pair]).tobytes())
        return digest.hexdigest()

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """See Teacher.

        Raises:
            KeyError: a pair that was not among the examples.
        """
        pairs = [_pair_sha256(*pair) for pair in zip(queries, documents, strict=True)]
        missing = next((n for n, pair in enumerate(pairs) if pair not in self._scores), None)
        if missing is not None:
            raise KeyError(f"{self._path}: no score for query {queries[missing]!r} and a document")
        return np.array([self._scores[pair] for pair in pairs], np.float32)


Combine = Callable[[Sequence[np.ndarray]], np.ndarray]


def ensemble(
    scores: Sequence[np.ndarray], *, scale: float = 30.0, weights: Sequence[float] | None = None
) -> np.ndarray:
    """scale · mean over teachers of ŝ = (s − min) / (max − min + 1e-6), min and max of each row.

    Geng et al. 2024 (arXiv:2411.04403, §3.3), whose released code has these constants.

    Args:
        scores: of each teacher, shape (B, m): m documents of each of B queries.
        scale: of the result, which lies in [0, scale]; a temperature's inverse to a softmax.
        weights: of the teachers in the mean; None for equal ones.

    Returns:
        float32, shape (B, m).
    """
    _check_scores(scores)
    mean = np.average([_minmax(of) for of in scores], axis=0, weights=weights)
    return np.asarray(scale * mean, np.float32)


def align(scores: Sequence[np.ndarray], *, reference: int = 0) -> np.ndarray:
    """a · mean over teachers of ŝ + b, with the mean and deviation of a reference teacher.

    ŝ as in `ensemble`; a and b are computed from all rows given: from the whole data set, or from a
    batch if only a batch is given. Lassance et al. 2024 (SPLADE-v3,
    arXiv:2403.06789, §2), whose reference is a MiniLM cross-encoder.

    Args:
        scores: of each teacher, shape (B, m).
        reference: which teacher's scale the result has, for MarginMSE.

    Returns:
        float32, shape (B, m).

    Raises:
        ValueError: there is no such teacher.
    """
    _check_scores(scores)
    if not 0 <= reference < len(scores):
        raise ValueError(f"`reference` must be in [0, {len(scores) - 1}], got {reference}")
    mean = np.mean([_minmax(of) for of in scores], axis=0)
    target = np.asarray(scores[reference], np.float64)
    slope = target.std() / (mean.std() + EPSILON)
    return np.asarray((mean - mean.mean()) * slope + target.mean(), np.float32)


def _minmax(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    low, high = scores.min(axis=1, keepdims=True), scores.max(axis=1, keepdims=True)
    return np.asarray((scores - low) / (high - low + EPSILON))


def _check_scores(scores: Sequence[np.ndarray]) -> None:
    shapes = {of.shape for of in scores}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"`scores` must all have one shape (B, m), got {sorted(shapes)}")


def _distinct(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Each text once, and which of them each was."""
    number = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    return list(number), np.array([number[text] for text in texts], dtype=np.int64)


def _recall(memory: dict[str, Any], texts: Sequence[str], encode: Callable[..., Any]) -> list[Any]:
    """What `encode` makes of each text, by memory where it was asked before."""
    new = [text for text in dict.fromkeys(texts) if text not in memory]
    if new and len(memory) + len(new) > REMEMBERED:
        memory.clear()
        new = list(dict.fromkeys(texts))
    if new:
        memory.update(zip(new, encode(new), strict=True))
    return [memory[text] for text in texts]


def _pair_sha256(query: str, document: str) -> bytes:
    return hashlib.sha256(f"{len(query)}:{query}{document}".encode()).digest()[:16]
