"""The encoders that an index can have, by the names that manifests give them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from lsr.encoders.bm25 import WordsAlone
from lsr.encoders.default import DefaultEncoder
from lsr.encoders.graft import GraftedEncoder
from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import default_tokenizer, load_encoder

if TYPE_CHECKING:
    from lsr.encoders.masked_lm import MaskedLMEncoder
    from lsr.encoders.model_encoder import ModelEncoder

Encoder: TypeAlias = (
    "DefaultEncoder | WordsAlone | LexicalEncoder | GraftedEncoder | MaskedLMEncoder | ModelEncoder"
)

Dtype: TypeAlias = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
DEFAULT = "default"
BM25 = "bm25"
# Encoders that are fitted on the corpus and kept in the index.
FITTED: dict[str, type[LexicalEncoder] | type[GraftedEncoder]] = {
    "lexical": LexicalEncoder,
    "grafted": GraftedEncoder,
}


# All names of encoders that are not those of checkpoints.
OURS = (DEFAULT, BM25, *FITTED)


def vocabulary_sha256(terms: list[str]) -> str:
    """A fingerprint of the term strings in id order."""
    return hashlib.sha256("\0".join(terms).encode("utf-8", "surrogatepass")).hexdigest()


def encoder_name(name: str) -> str:
    """The name under which an index stores an encoder: of a directory its absolute path."""
    return str(Path(name).resolve()) if name not in OURS and Path(name).is_dir() else name


def open_encoder(name: str, folder: Path, dtype: Dtype | None = None) -> Encoder:
    """Open the encoder of a generation.

    Args:
        name: as the manifest has it.
        folder: where the build saved the statistics of an encoder in FITTED.
        dtype: of a model's matrix products; None leaves the choice to MaskedLMEncoder.
    """
    if name == BM25:
        return WordsAlone()
    if name == "lexical":
        return LexicalEncoder.load(default_tokenizer(), folder)
    in_dtype = None
    if dtype is not None:
        import torch

        in_dtype = getattr(torch, dtype)
    if name == "grafted":
        return GraftedEncoder.load(default_tokenizer(), folder, in_dtype)
    return DefaultEncoder(dtype=in_dtype) if name == DEFAULT else load_encoder(name, in_dtype)
