"""Folding of a vocabulary: variants of a term in case and leading space share one output term.

A byte-level or SentencePiece tokenizer has a token for each of "wing", " wing", "Wing" and " Wing".
They differ for a language model but not for search: a query's first word has no space before it,
and words of a title have capitals. A vocabulary of 128,000 folds to about half as many terms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules import Module
from torch import Tensor

from lsr.encoders.tokens import special_ids, vocabulary


def control_ids(tokenizer: Any) -> np.ndarray:
    """Return the ids of tokens that stand for no text, int64, ascending: all special tokens.

    Some, such as Llama 3's reserved tokens, are marked as special only in `added_tokens_decoder`.
    """
    added = [id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special]
    return np.union1d(special_ids(tokenizer), np.asarray(added, dtype=np.int64))


def fold_vocabulary(tokenizer: Any) -> tuple[list[str], np.ndarray]:
    """Return the F output terms, and the term of each of the V tokens.

    A token's term is its text without leading white space, in lower case. A token that is not made
    of whole, printable characters gets a term of its own, such as "<Ċ>". Terms are in the order of
    their first token.

    Returns:
        The terms, and each token's term number, int64, shape (V,); −1 for control tokens, which
        have none.
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
    """The last module of a folded model, after a pooling or SparseStaticEmbedding: V to F terms.

    A term's weight is the largest of its tokens' weights, as in max pooling over positions. The sum
    would favour words for which the tokenizer happens to have more spellings.
    """

    def __init__(self, terms: list[str], places: list[int]) -> None:
        """Make a folding from what `fold_vocabulary` returns.

        Args:
            terms: the F output terms.
            places: the term number of each of the V tokens, or −1.

        Raises:
            ValueError: a number is out of range.
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
        """Fold vectors of tokens, shape (B, V), not negative, to vectors of terms, shape (B, F)."""
        n_terms = len(self.terms)
        # Control tokens go to an extra last column, which is dropped.
        places = torch.where(self.places < 0, n_terms, self.places)
        folded = vectors.new_zeros((len(vectors), n_terms + 1))
        folded = folded.scatter_reduce(1, places.expand(len(vectors), -1), vectors, "amax")
        return folded[:, :n_terms]

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Fold `sentence_embedding`."""
        features["sentence_embedding"] = self.fold(features["sentence_embedding"])
        return features

    def get_embedding_dimension(self) -> int:
        """Return F."""
        return len(self.terms)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the arguments from which `load` makes the module."""
        return {"terms": self.terms, "places": self.places.tolist()}

    def __repr__(self) -> str:
        return f"Fold({len(self.places)} tokens, {len(self.terms)} terms)"

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write config.json, which holds the whole module, to a folder."""
        self.save_config(output_path)
