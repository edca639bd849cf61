"""An index that is open for writing: encode, quantise, add, delete; a commit makes it part of it.

Where an index has a dense side, each commit of Lucene lists the segments of vectors that belong to
it, written before: both sides are those of the last commit, whatever happens.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from scipy.sparse import csr_array

from lsr.building.commits import commit_both
from lsr.building.encoders import Encoder
from lsr.building.live import DENSE, Live
from lsr.building.truncation import KEY, Truncation, as_user_data, of_commit
from lsr.documents import Document
from lsr.encoders.dense import DenseEncoder
from lsr.encoders.truncation import Length
from lsr.indexes.approximate import Kind
from lsr.indexes.dense import check_vectors
from lsr.indexes.dense_writer import DenseWriter
from lsr.indexes.lucene import LuceneIndex
from lsr.progress import Progress
from lsr.vectors import MAX_IMPACT, quantise


class Encoded(NamedTuple):
    """Documents as an index takes them."""

    documents: Sequence[Document]
    weights: csr_array  # float32, (n, V), as the encoder gave them
    impacts: csr_array  # int32, (n, V)
    own: Sequence[Collection[int]]  # of each text the terms that it holds itself
    vectors: np.ndarray | None  # float32, (n, D); None without a dense side
    lengths: Mapping[str, Sequence[Length]]  # by side

    def rows(self, chosen: Sequence[int]) -> Encoded:
        """Those at these places, in this order."""
        return Encoded(
            [self.documents[row] for row in chosen],
            self.weights[chosen],
            self.impacts[chosen],
            [self.own[row] for row in chosen],
            None if self.vectors is None else self.vectors[chosen],
            {side: [of[row] for row in chosen] for side, of in self.lengths.items()},
        )


class DenseSide(NamedTuple):
    """What makes vectors, and what keeps them."""

    encoder: DenseEncoder
    writer: DenseWriter


def capped(n_capped: int, impact_scale: int) -> str:
    """A sentence that says how many weights reached the largest impact, and what it is."""
    weights = "1 weight" if n_capped == 1 else f"{n_capped:,} weights"
    return (
        f"{weights} reached the largest impact, {MAX_IMPACT:,}: weights above "
        f"{MAX_IMPACT / impact_scale:,.2f} count as that"
    )


class Writer:
    """Changes an index that is open for writing; nothing is durable or seen before `commit`.

    Whoever opened the index closes it: what was not committed is lost then. After an exception of
    `add`, `delete` or `commit` the changes may be there in part: close the index, and open it
    again, before anything else is committed.
    """

    def __init__(
        self,
        index: LuceneIndex,
        encoder: Encoder,
        dense: DenseSide | None,
        *,
        top_k: int,
        impact_scale: int,
        user_data: Mapping[str, str],
    ) -> None:
        """A writer that goes on after the last commit.

        Args:
            index: open for writing.
            encoder: that of the index.
            dense: None for an index without a dense side.
            top_k: expansion terms kept per document.
            impact_scale: impacts are round(weight × impact_scale).
            user_data: what commits say besides what is counted here.
        """
        self.index = index
        self._encoder = encoder
        self._dense = dense
        self._top_k = top_k
        self.impact_scale = impact_scale
        self._user_data = dict(user_data)
        # Indexes once kept their largest impact here.
        self._user_data.pop("max_impact", None)
        before = index.user_data
        self.n_documents = int(before.get("n_documents", "0"))  # ever added, replacements too
        # Weights of these documents that reached MAX_IMPACT; not counted by indexes before.
        self.n_capped = int(before.get("n_capped", "0"))
        self.truncation = of_commit(before)  # by side, of these documents

    @classmethod
    def of(cls, live: Live, directory: Path) -> Writer:
        """The writer of a live index that `open_live` opened as writable."""
        dense = None
        if live.dense is not None and live.dense_encoder is not None:
            folder = live.manifest.folder(directory) / DENSE
            writer = DenseWriter(folder, live.dense.names, live.dense.dimension)
            dense = DenseSide(live.dense_encoder, writer)
        return cls(
            live.index,
            live.encoder,
            dense,
            top_k=live.manifest.top_k,
            impact_scale=live.manifest.impact_scale,
            user_data=live.index.user_data,
        )

    def encode(self, documents: Sequence[Document]) -> Encoded:
        """Documents as `add` takes them; changes nothing.

        Raises:
            FileNotFoundError: a model is gone.
            ValueError: weights or vectors that cannot be kept.
        """
        texts = [document.content for document in documents]
        lengths: dict[str, list[Length]] = {"sparse": []}
        weights = self._encoder.encode_documents(texts, self._top_k, lengths["sparse"])
        vectors = None
        if self._dense:
            lengths["dense"] = []
            vectors = self._dense.encoder.encode_documents(texts, lengths["dense"])
            check_vectors([document.id for document in documents], vectors)
        try:
            impacts = quantise(weights, self.impact_scale)
        except ValueError as error:
            raise ValueError(
                f"among documents {documents[0].id!r} to {documents[-1].id!r}: {error}"
            ) from error
        own = [self._encoder.own_terms(text) for text in texts]
        return Encoded(documents, weights, impacts, own, vectors, lengths)

    def add(self, encoded: Encoded, *, new: bool = False) -> None:
        """Add documents, or replace those of the same id.

        Args:
            encoded: of different ids.
            new: the caller knows that no id is in the index yet, which is faster.
        """
        if self._dense and encoded.vectors is not None:
            ids = [document.id for document in encoded.documents]
            self._dense.writer.add(ids, encoded.vectors)
        threads = os.cpu_count() or 1
        self.index.add(encoded.documents, encoded.impacts, encoded.own, new=new, threads=threads)
        self.n_documents += len(encoded.documents)
        self.n_capped += int((encoded.impacts.data == MAX_IMPACT).sum())
        for side, lengths in encoded.lengths.items():
            limit = self._limit(side)
            before = self.truncation.get(side, Truncation(limit))
            self.truncation[side] = before.and_of(limit, lengths)

    def _limit(self, side: str) -> int | None:
        encoder = self._dense.encoder if side == "dense" and self._dense else self._encoder
        return encoder.document_limit.tokens

    def revise(self, documents: Sequence[Document]) -> None:
        """Replace the metadata of documents; nothing is encoded, and vectors stay as they are.

        Args:
            documents: different ones as they are in the index, but for their metadata; none has
                been changed since the last commit.
        """
        # A text's own terms are its tokens, for which no model runs.
        own = [self._encoder.own_terms(document.content) for document in documents]
        self.index.revise(documents, own, threads=os.cpu_count() or 1)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete documents by id; unknown ids are no error."""
        self.index.delete(ids)
        if self._dense:
            self._dense.writer.delete(ids)

    def holds(self, doc_id: str) -> bool:
        """Whether a document was in the index at the last commit."""
        try:
            self.index.documents([doc_id])
        except KeyError:
            return False
        return True

    def commit(self) -> int:
        """Make all since the last commit durable and visible on both sides.

        Returns:
            The number of the commit.
        """
        self._user_data |= {
            "n_documents": str(self.n_documents),
            "n_capped": str(self.n_capped),
            KEY: as_user_data(self.truncation),
        }
        writer = self._dense.writer if self._dense else None
        return commit_both(self.index, self._user_data, writer)

    def merge_vectors(self, kind: str | None, progress: Progress) -> None:
        """Merge the vectors, if any, into one segment; see `DenseWriter.merge`."""
        if self._dense:
            self._dense.writer.merge(cast(Kind, kind), progress)
