"""SPLADE over a masked language model: packed hidden states go straight to pooled vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from lsr.encoders.tokens import count_terms, special_ids, vocabulary
from lsr.kernels.cpu import splade_pool
from lsr.kernels.reference import Activation, Pooling
from lsr.vectors import concatenate


class MaskedLMEncoder:
    """Documents through a masked LM; queries through the same LM, or as a weight per own token."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        activation: Activation = "relu",
        pooling: Pooling = "max",
        max_length: int = 512,
        query_weights: np.ndarray | None = None,
        max_batch_tokens: int = 4096,
    ) -> None:
        """An encoder around a Hugging Face masked LM, whose decoder is taken out and run fused.

        Args:
            model: a masked LM whose last operation is the linear layer that
                `get_output_embeddings()` returns (BERT, DistilBERT, RoBERTa, ModernBERT, …).
            tokenizer: its fast tokenizer, with V terms.
            activation: see `lsr.kernels.reference.activate`.
            pooling: "max" or "sum" over tokens.
            max_length: tokens of a text that are read, special ones included.
            query_weights: float32, shape (V,): inference-free queries; None encodes them by the LM.
            max_batch_tokens: padded tokens in one pass through the trunk.

        Raises:
            ValueError: the head is smaller than the tokenizer's vocabulary, `query_weights` do not
                fit it, or the decoder is not the model's last operation.
        """
        decoder = model.get_output_embeddings()
        n_terms = len(tokenizer)
        if decoder is None:
            raise ValueError(f"{type(model).__name__} has no LM head")
        if decoder.weight.shape[0] < n_terms:
            raise ValueError(
                f"the checkpoint's head has {decoder.weight.shape[0]} terms but its tokenizer "
                f"{n_terms}: they do not belong together"
            )
        if query_weights is not None and query_weights.shape != (n_terms,):
            raise ValueError(
                f"`query_weights` has {query_weights.shape[0]} terms but the tokenizer {n_terms}"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary(tokenizer)
        self.activation: Activation = activation
        self.pooling: Pooling = pooling
        self.max_length = max_length
        self.query_weights = query_weights
        self.max_batch_tokens = max_batch_tokens
        self._special = special_ids(tokenizer)
        # A head may be padded beyond its tokenizer (to a multiple of 64): those rows are no terms.
        self._weight = decoder.weight.detach()[:n_terms]
        self._bias = None if decoder.bias is None else decoder.bias.detach()[:n_terms].float()
        self._take_decoder_out(decoder)

    @torch.inference_mode()
    def _take_decoder_out(self, decoder: Any) -> None:
        """Make the model return the decoder's input, and check on one token that this is all."""
        probe = torch.zeros((1, 1), dtype=torch.long)
        expected = self.model(input_ids=probe).logits[0]
        for name, module in self.model.named_modules():
            if module is decoder:
                parent = self.model.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], torch.nn.Identity())
                break
        rest = decoder(self.model(input_ids=probe).logits[0])
        if not torch.allclose(rest, expected, rtol=1e-4, atol=1e-4):
            raise ValueError(
                f"{type(self.model).__name__} changes the logits after its output embeddings: "
                "the pooled head cannot stand in for it"
            )

    def encode_documents(self, texts: Sequence[str]) -> csr_array:
        """Pooled term weights, float32, shape (n, V); special tokens are never terms."""
        tokens = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)
        rows: list[csr_array | None] = [None] * len(texts)
        for batch in self._batches([len(ids) for ids in tokens["input_ids"]]):
            for row, vector in zip(batch, self._encode_batch(tokens, batch), strict=True):
                rows[row] = vector
        encoded = [row for row in rows if row is not None]
        if not encoded:
            return csr_array((0, len(self.vocabulary)), dtype=np.float32)
        return concatenate(encoded)

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        """Term weights of queries, float32, shape (n, V).

        Inference-free: the weight of each token that occurs, however often
        (as sentence-transformers' SparseStaticEmbedding).
        """
        if self.query_weights is None:
            return self.encode_documents(texts)
        present = count_terms(self.tokenizer, texts)
        present.data = self.query_weights[present.indices].astype(np.float32)
        present.eliminate_zeros()
        return present

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        """Rows in batches of like length, longest first, at most max_batch_tokens when padded."""
        batches: list[list[int]] = []
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            longest = lengths[batches[-1][0]] if batches else 0
            if not batches or (len(batches[-1]) + 1) * longest > self.max_batch_tokens:
                batches.append([])
            batches[-1].append(row)
        return batches

    @torch.inference_mode()
    def _encode_batch(self, tokens: Any, batch: list[int]) -> list[csr_array]:
        padded = self.tokenizer.pad(
            {"input_ids": [tokens["input_ids"][row] for row in batch]}, return_tensors="pt"
        )
        mask = padded["attention_mask"].bool()
        states = self.model(**padded).logits
        pooled = splade_pool(
            states[mask], mask.sum(1), self._weight, self._bias, self.activation, self.pooling
        ).numpy()
        pooled[:, self._special] = 0.0
        vectors = csr_array(pooled)
        return [vectors[[row]] for row in range(len(batch))]
