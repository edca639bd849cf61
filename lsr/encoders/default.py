"""The default encoder: all-MiniLM-L6-v2, trained to be sparse, with inference-free queries.

The package holds what training changed: the trunk's layers and the head in bfloat16, and the
weight of each query term. The word embeddings, which are the head's matrix too, stayed frozen and
come with the trunk. The folder's README.md is the model card.

    python -m lsr.encoders.default CHECKPOINT

packs a checkpoint of `lsr train default` into the package.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from lsr.encoders.load import default_tokenizer
from lsr.encoders.shipped import (
    CHANGED,
    FOLDER,
    QUERIES,
    TRUNK_SHA256,
    checked_trunk,
    put_changed,
    read_query_weights,
)
from lsr.encoders.tokens import look_up, own_terms, vocabulary
from lsr.encoders.truncation import Length, Limit

if TYPE_CHECKING:
    import torch

    from lsr.encoders.masked_lm import MaskedLMEncoder

# The query weights among a model's parameters.
QUERY_WEIGHT = "0.sub_modules.query.0.weight"
# How many tokens of a document are read (training read 128), and of a query.
MAX_LENGTH, QUERY_LENGTH = 256, 512


class DefaultEncoder:
    """Documents by the trained model, made when the first is encoded; queries by lookup."""

    def __init__(self, folder: Path = FOLDER, dtype: torch.dtype | None = None) -> None:
        """The encoder of a folder that `write_default` wrote; for `dtype` see MaskedLMEncoder.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the query weights are truncated or of another vocabulary.
        """
        self.folder = folder
        self.dtype = dtype
        self.tokenizer = default_tokenizer()
        self.vocabulary: list[str] = vocabulary(self.tokenizer)
        self.query_weights = read_query_weights(folder, len(self.vocabulary))

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the trunk's digest and of what training changed."""
        digest = hashlib.sha256(TRUNK_SHA256.encode())
        for name in (CHANGED, QUERIES):
            digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()

    def own_terms(self, text: str) -> set[int]:
        """The terms that a text itself holds, as numbers in `vocabulary`."""
        return own_terms(self.tokenizer, text)

    @property
    def document_limit(self) -> Limit:
        """The first 256 tokens of a document are read, special ones included."""
        return Limit(self.tokenizer, MAX_LENGTH, self.tokenizer.num_special_tokens_to_add())

    @property
    def query_limit(self) -> Limit:
        """The first 512 tokens of a query are read; there are no special ones."""
        return Limit(self.tokenizer, QUERY_LENGTH)

    def encode_documents(
        self,
        texts: Sequence[str],
        top_k: int | None = None,
        lengths: list[Length] | None = None,
    ) -> csr_array:
        """Term weights of the first 256 tokens, float32, shape (n, V); `top_k` keeps the heaviest.

        The length of each text is added to `lengths`.

        Raises:
            ValueError: the trunk's weights are not those that were trained from.
        """
        return self._documents.encode_documents(texts, top_k, lengths)

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        """The weight of each of the first 512 tokens, however often, float32, shape (n, V)."""
        return look_up(self.tokenizer, texts, self.query_weights, QUERY_LENGTH)

    @cached_property
    def _documents(self) -> MaskedLMEncoder:
        from lsr.encoders.fuse import put_decoder_back
        from lsr.encoders.masked_lm import MaskedLMEncoder

        masked_lm = default_model(self.folder)[0].sub_modules["document"][0].model
        put_decoder_back(masked_lm.get_output_embeddings())
        return MaskedLMEncoder(masked_lm, self.tokenizer, max_length=MAX_LENGTH, dtype=self.dtype)


def default_model(folder: Path = FOLDER) -> Any:
    """Make the stock SparseEncoder, on the CPU and in float32, from the trunk and what changed.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the trunk's weights are not those that were trained from, or a file is truncated
            or of another model.
    """
    model = _untrained(read_query_weights(folder, len(default_tokenizer())))
    put_changed(model[0].sub_modules["document"][0].model.state_dict(), folder)
    return model


def export_default(out: str | os.PathLike[str]) -> None:
    """Write the whole model as a stock sentence-transformers directory, with its model card.

    Raises:
        FileExistsError: `out` exists.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists: export into a directory that does not")
    # Renamed at the end, so that the directory is there whole or not at all.
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    default_model().save(str(partial), create_model_card=False)
    shutil.copyfile(FOLDER / "README.md", partial / "README.md")
    partial.rename(out)


def write_default(checkpoint: Path, folder: Path = FOLDER) -> None:
    """Write what a checkpoint changed of the trunk, matrices in bfloat16, and its query weights.

    Raises:
        ValueError: the checkpoint is another kind of model than `lsr train default` makes.
    """
    import torch
    from safetensors.torch import save_file
    from sentence_transformers import SparseEncoder

    # Parameters, not the state: tied weights have one name there.
    trained = dict(SparseEncoder(str(checkpoint), device="cpu").named_parameters())
    if QUERY_WEIGHT not in trained:
        raise ValueError(f"{checkpoint}: has no inference-free queries")
    weights = trained.pop(QUERY_WEIGHT).detach().float().numpy()
    before = dict(_untrained(weights).named_parameters())
    if missing := sorted(trained.keys() ^ (before.keys() - {QUERY_WEIGHT})):
        raise ValueError(f"{checkpoint}: another model than the default, it differs in {missing}")
    # Biases and scales are few, and they decide which terms are active.
    changed = {
        name: tensor.detach().to(torch.bfloat16 if tensor.ndim > 1 else torch.float32).contiguous()
        for name, tensor in trained.items()
        if not torch.equal(tensor, before[name])
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(changed, folder / CHANGED)
    np.save(folder / QUERIES, weights)


def _untrained(query_weights: np.ndarray) -> Any:
    """Make the trunk with a grafted head.

    Raises:
        ValueError: the trunk's weights are not those that were trained from.
    """
    from lsr.encoders.build import ModelConfig, build_model

    checked_trunk()
    config = ModelConfig(
        queries="idf",
        max_length=MAX_LENGTH,
        query_max_length=QUERY_LENGTH,
        calibrate_terms=None,
    )
    return build_model(config, [], query_weights, device="cpu")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m lsr.encoders.default CHECKPOINT, got {sys.argv[1:]}")
    write_default(Path(sys.argv[1]))
