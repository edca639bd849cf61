"""Dense vectors of texts by a sentence-transformers bi-encoder, for a dense index."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lsr.encoders.load import resolve, trunk_path
from lsr.encoders.stock import prompt_of, route
from lsr.encoders.truncation import Length, Limit, limit_of

# Names the packaged model.
DEFAULT = "default"
SIMILARITIES = ("cosine", "dot")


def dense_name(name: str) -> str:
    """Return the name under which an index stores a model: of a directory its absolute path."""
    directory = name != DEFAULT and Path(name).is_dir()
    return str(Path(name).resolve()) if directory else name


class DenseEncoder:
    """A bi-encoder whose vectors are compared by inner product.

    A model that compares by cosine has its vectors made unit length, one that compares by inner
    product has them as they are. Its prompts for queries and documents are used. The model is
    loaded when it is first needed. Safe to use from any thread.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        sha256: str | None = None,
        batch_size: int = 64,
        device: str | None = None,
    ) -> None:
        """An encoder of a model.

        Args:
            model: a SentenceTransformer, or a directory or hub name of one; None or "default" for
                the packaged all-MiniLM-L6-v2 (mean pooling, cosine).
            sha256: the fingerprint that the model must have; None for any.
            batch_size: texts in one pass.
            device: as torch names it; None for the best there is.
        """
        named = model is None or isinstance(model, (str, Path))
        self.name = dense_name(str(model or DEFAULT)) if named else type(model).__name__
        self._given = None if named else model
        self._sha256 = sha256
        self._batch_size = batch_size
        self._device = device
        self._loaded: Any = None
        self._fingerprint: str | None = None
        self._lock = threading.RLock()

    @property
    def model(self) -> Any:
        """The SentenceTransformer.

        Raises:
            FileNotFoundError: no such directory, and not to be had from the hub.
            ValueError: the model compares by something else, or has other weights than `sha256`.
        """
        with self._lock:
            if self._loaded is None:
                model = self._load() if self._given is None else self._given
                if model.similarity_fn_name not in SIMILARITIES:
                    raise ValueError(
                        "a dense model must compare by 'cosine' or 'dot', got "
                        f"{model.similarity_fn_name!r} ({self.name!r})"
                    )
                if self._sha256 is not None:
                    self._check(model, self._sha256)
                self._loaded = model
            return self._loaded

    def _load(self) -> Any:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        path = trunk_path() if self.name == DEFAULT else resolve(self.name)
        if not any((path / name).exists() for name in ("modules.json", "config.json")):
            raise ValueError(f"{path}: no model (it lacks modules.json and config.json)")
        logging.disable_progress_bar()
        return SentenceTransformer(str(path), device=self._device)

    def _check(self, model: Any, sha256: str) -> None:
        found = _fingerprint(model)
        if found != sha256:
            raise ValueError(
                f"dense model {self.name!r} has other weights (sha256 {found[:12]}) than those the "
                f"vectors were made with ({sha256[:12]}): their scores do not belong together. "
                "Build the index again"
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights, sequence length, prompts and similarity, as first asked for."""
        with self._lock:
            if self._fingerprint is None:
                self._fingerprint = _fingerprint(self.model)
            return self._fingerprint

    @property
    def dimension(self) -> int:
        """D, numbers in a vector."""
        return int(self.model.get_embedding_dimension())

    @property
    def document_limit(self) -> Limit:
        """How much of a document the model reads."""
        return self._limit("document")

    @property
    def query_limit(self) -> Limit:
        """How much of a query the model reads."""
        return self._limit("query")

    def _limit(self, task: str) -> Limit:
        return limit_of(route(self.model, task)[0], task, prompt_of(self.model, task))

    def encode_documents(
        self, texts: Sequence[str], lengths: list[Length] | None = None
    ) -> np.ndarray:
        """Vectors, float32, shape (n, D); the length of each text is added to `lengths`."""
        if lengths is not None:
            with self._lock:
                lengths += self.document_limit.lengths(texts)
        return self._encode(self.model.encode_document, texts)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors, float32, shape (n, D)."""
        return self._encode(self.model.encode_query, texts)

    def _encode(self, encode: Any, texts: Sequence[str]) -> np.ndarray:
        if not len(texts):
            return np.empty((0, self.dimension), np.float32)
        # A fast tokenizer may raise when two threads use it at once.
        with self._lock:
            vectors = encode(
                list(texts),
                batch_size=self._batch_size,
                normalize_embeddings=self.model.similarity_fn_name == "cosine",
                show_progress_bar=False,
            )
        return np.asarray(vectors, np.float32)


def _fingerprint(model: Any) -> str:
    described = (model.max_seq_length, model.prompts, model.similarity_fn_name)
    return weights_sha256(model, described)


def weights_sha256(model: Any, described: object) -> str:
    """SHA-256 over a torch module's class and weights, and over what else is `described`."""
    import torch

    digest = hashlib.sha256(f"{type(model).__name__} {described}".encode())
    for name, part in model.state_dict().items():
        digest.update(name.encode())
        digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
