"""Folding of a vocabulary: variants of a term in case and leading space share one output term.

A byte-level or SentencePiece tokenizer has a token for each of "wing", " wing", "Wing" and " Wing".
To a language model they differ, to a searcher they do not: a query's first word has no space before
it, a title's are capitals. Folded, a vocabulary of 128,000 has about half as many terms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules import Module
from torch import Tensor

from lsr.encoders.tokens import special_ids, vocabulary


def control_ids(tokenizer: Any) -> np.ndarray:
    """Ids that stand for no text, int64, ascending: special tokens, and all added as special.

    Reserved tokens of Llama 3, for one, are among `added_tokens_decoder` only.
    """
    added = [id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special]
    return np.union1d(special_ids(tokenizer), np.asarray(added, dtype=np.int64))


def fold_vocabulary(tokenizer: Any) -> tuple[list[str], np.ndarray]:
    """The F terms that remain, and which of them each of the V tokens is.

    A token's term is its text without leading white space, in lower case. Tokens that are no whole
    or no printable characters stay by themselves, as "<Ċ>". Terms come in the order of their first
    token.

    Returns:
        The terms, and their numbers, int64, shape (V,); −1 for control tokens, which are no term.
    """
    decoder = tokenizer.backend_tokenizer.decoder
    control = set(control_ids(tokenizer).tolist())
    numbers: dict[str, int] = {}
    places = np.full(len(tokenizer), -1, dtype=np.int64)
    for id_, token in enumerate(vocabulary(tokenizer)):
        if id_ in control:
            continue
        text = token if decoder is None else decoder.decode([token])
        term = text.lstrip().lower()
        if not term or not term.isprintable() or "\ufffd" in term:
            term = f"<{token}>"
        places[id_] = numbers.setdefault(term, len(numbers))
    return list(numbers), places


class Fold(Module):  # type: ignore[misc]
    """The last module of a folded model, behind a pooling or SparseStaticEmbedding: V to F terms.

    A term's weight is the largest of its tokens' weights, as a text's weight is the largest of its
    positions' weights: their sum would count a word the more the more spellings the tokenizer
    happens to have a token for.
    """

    def __init__(self, terms: list[str], places: list[int]) -> None:
        """A folding; see `fold_vocabulary`.

        Args:
            terms: the F output terms.
            places: of each of the V tokens its term's number, or −1.

        Raises:
            ValueError: a number is none of a term.
        """
        super().__init__()
        self.terms = terms
        self.places: Tensor
        self.register_buffer("places", torch.tensor(places, dtype=torch.long))
        if len(places) and not -1 <= min(places) <= max(places) < len(terms):
            raise ValueError(
                f"`places` must be in [-1, {len(terms) - 1}], got {min(places)} to {max(places)}"
            )

    def fold(self, vectors: Tensor) -> Tensor:
        """Vectors of tokens, shape (B, V), not negative, as vectors of terms, shape (B, F)."""
        n_terms = len(self.terms)
        # Control tokens share a last column, which is cut off.
        places = torch.where(self.places < 0, n_terms, self.places)
        folded = vectors.new_zeros((len(vectors), n_terms + 1))
        folded = folded.scatter_reduce(1, places.expand(len(vectors), -1), vectors, "amax")
        return folded[:, :n_terms]

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Folds `sentence_embedding`."""
        features["sentence_embedding"] = self.fold(features["sentence_embedding"])
        return features

    def get_embedding_dimension(self) -> int:
        """F."""
        return len(self.terms)

    def get_config_dict(self) -> dict[str, Any]:
        """What `load` makes the module from."""
        return {"terms": self.terms, "places": self.places.tolist()}

    def __repr__(self) -> str:
        return f"Fold({len(self.places)} tokens, {len(self.terms)} terms)"

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write config.json, which holds all of it, to a folder."""
        self.save_config(output_path)
