"""Any sparse model of sentence-transformers modules as an encoder: decoder LLMs, autoencoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder, SpladePooling
from sentence_transformers.util import batch_to_device

from lsr.encoders.decoder_modules import Decoder, DecoderPooling
from lsr.encoders.folding import Fold
from lsr.encoders.fuse import fuse
from lsr.encoders.stock import open_sparse_encoder, prompt_of, route
from lsr.encoders.tokens import check_tokenizer, count_terms, vocabulary
from lsr.encoders.truncation import Length, Limit, limit_of
from lsr.kernels.csr import to_csr
from lsr.vectors import concatenate

# Our own modules that a checkpoint may name. They are installed, so no code of the checkpoint has
# to be trusted.
OURS = {
    f"{module.__module__}.{module.__name__}": module for module in (Decoder, DecoderPooling, Fold)
}
# Texts that are sorted by length together, and texts in one pass.
BLOCK = 4096
BATCH = 16


def open_model(
    directory: Path, dtype: torch.dtype | None = None, device: str | None = None
) -> ModelEncoder:
    """The encoder of a saved decoder LLM or autoencoder.

    Args:
        directory: with modules.json.
        dtype: see ModelEncoder.
        device: as torch names it; None chooses.

    Raises:
        ValueError: it holds other modules, named.
    """
    return ModelEncoder(open_sparse_encoder(directory, OURS, device), dtype=dtype)


def handles(model: Any) -> bool:
    """Whether a SparseEncoder is a decoder LLM or an autoencoder, and no masked LM."""
    return any(
        isinstance(module, Decoder | SparseAutoEncoder)
        or (isinstance(module, Transformer) and module.transformer_task == "text-generation")
        for module in model.modules()
    )


class ModelEncoder:
    """Documents and queries by the modules of a SparseEncoder, on the device that it is on."""

    def __init__(self, model: Any, *, dtype: torch.dtype | None = None) -> None:
        """An encoder around a model whose last module says what its terms are.

        Args:
            model: ends, for documents, in SparseAutoEncoder, Fold, DecoderPooling or SpladePooling.
            dtype: torch.float32 or torch.bfloat16, which the language model's weights are cast
                to; None leaves them as they are.

        Raises:
            ValueError: `dtype` is another, or the model ends in something else.
        """
        if dtype not in (None, torch.float32, torch.bfloat16):
            raise ValueError(f"`dtype` must be torch.float32 or torch.bfloat16, got {dtype}")
        modules = route(model, "document")
        if any(type(part) is SpladePooling and "forward" not in vars(part) for part in modules):
            fuse(model)
        if dtype is not None:
            modules[0].to(dtype)
        self.model = model.eval()
        self.tokenizer = modules[0].tokenizer
        check_tokenizer(self.tokenizer)
        self._places: np.ndarray | None = None
        last = modules[-1]
        if isinstance(last, SparseAutoEncoder):
            self.vocabulary = [f"latent-{number}" for number in range(last.hidden_dim)]
            self._places = np.full(len(self.tokenizer), -1)
        elif isinstance(last, Fold):
            self.vocabulary = last.terms
            self._places = last.places.cpu().numpy()
        elif isinstance(last, DecoderPooling | SpladePooling):
            self.vocabulary = vocabulary(self.tokenizer)
        else:
            raise ValueError(
                "the model must end in SparseAutoEncoder, Fold, DecoderPooling or SpladePooling, "
                f"got {[type(module).__name__ for module in modules]}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and values of all weights, and over prompts and `max_active_dims`."""
        digest = hashlib.sha256()
        for name, part in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        limit = self.model.max_active_dims
        if limit == getattr(route(self.model, "document")[-1], "k", None):
            limit = None  # the autoencoder's own limit, which its vectors keep anyway
        applied = (prompt_of(self.model, "document"), prompt_of(self.model, "query"), limit)
        if any(applied):
            digest.update(json.dumps(applied).encode())
        return digest.hexdigest()

    @property
    def document_limit(self) -> Limit:
        """How much of a document is read."""
        return self._limit("document")

    @property
    def query_limit(self) -> Limit:
        """How much of a query is read."""
        return self._limit("query")

    def encode_documents(
        self,
        texts: Sequence[str],
        top_k: int | None = None,
        lengths: list[Length] | None = None,
    ) -> csr_array:
        """Term weights, float32, shape (n, V).

        Args:
            texts: n documents.
            top_k: terms kept per document, the heaviest; None keeps all.
            lengths: the length of each text is added here.
        """
        if lengths is not None:
            lengths += self.document_limit.lengths(texts)
        return self._encode(texts, "document", top_k)

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        """Term weights of queries, float32, shape (n, V)."""
        return self._encode(texts, "query", None)

    def own_terms(self, text: str) -> set[int]:
        """The terms that a text itself holds, as numbers in `vocabulary`; latents are in none."""
        tokens = count_terms(self.tokenizer, [text]).indices
        terms = tokens if self._places is None else self._places[tokens]
        return set(terms[terms >= 0].tolist())

    def _limit(self, task: str) -> Limit:
        return limit_of(route(self.model, task)[0], task, prompt_of(self.model, task))

    def _encode(self, texts: Sequence[str], task: str, top_k: int | None) -> csr_array:
        if top_k is not None and top_k < 1:
            raise ValueError(f"`top_k` must be at least 1, got {top_k}")
        if not len(texts):
            return csr_array((0, len(self.vocabulary)), dtype=np.float32)
        blocks = [
            self._encode_block(texts[start : start + BLOCK], task, top_k)
            for start in range(0, len(texts), BLOCK)
        ]
        return blocks[0] if len(blocks) == 1 else concatenate(blocks)

    def _encode_block(self, texts: Sequence[str], task: str, top_k: int | None) -> csr_array:
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        encoded = concatenate(
            [self._encode_batch([texts[row] for row in batch], task, top_k) for batch in batches]
        )
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        return encoded[place]

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str], task: str, top_k: int | None) -> csr_array:
        features = self.model.preprocess(texts, prompt=prompt_of(self.model, task), task=task)
        features = batch_to_device(features, self.model.device)
        limits = (
            {}
            if self.model.max_active_dims is None
            else {"max_active_dims": self.model.max_active_dims}
        )
        vectors = self.model(features, task=task, **limits)["sentence_embedding"]
        kept = min(filter(None, (top_k, self.model.max_active_dims)), default=None)
        return to_csr(vectors[:, : len(self.vocabulary)].float(), top_k=kept)
