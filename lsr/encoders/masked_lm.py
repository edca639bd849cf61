"""SPLADE over a masked language model: packed hidden states go straight to pooled vectors.

Texts of similar length share a batch. Memory never holds more than one batch of dense vectors, and
never more of its logits than a chunk of the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from tokenizers import Encoding

from lsr.encoders.fuse import take_decoder_out
from lsr.encoders.lm_head import keep_offset_exact
from lsr.encoders.tokens import look_up, own_terms, special_ids, vocabulary
from lsr.encoders.truncation import Length, Limit
from lsr.kernels.csr import to_csr
from lsr.kernels.head import splade_head
from lsr.kernels.reference import Activation, Pooling
from lsr.vectors import concatenate, prune

# Texts that are sorted by length together: so many that batches have hardly any padding.
BLOCK = 4096
# Texts that are tokenised together: a tokenizer's record of a text is far larger than its ids.
TOKENIZED = 256


def bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AVX512-BF16 or AMX)."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def positions(model: Any) -> int:
    """Return how many tokens a text of a masked LM may have; 2^30 if there is no limit."""
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            # RoBERTa's first position follows that of the padding.
            return part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
    limit = int(getattr(model.config, "max_position_embeddings", -1))
    return limit if limit > 0 else 1 << 30


class MaskedLMEncoder:
    """Documents through a masked LM; queries through one too, or as a weight per own token."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        activation: Activation = "relu",
        pooling: Pooling = "max",
        max_length: int = 512,
        query_weights: np.ndarray | None = None,
        query_encoder: MaskedLMEncoder | None = None,
        query_max_length: int | None = None,
        query_tokenizer: Any = None,
        prompt: str = "",
        query_prompt: str = "",
        max_active_dims: int | None = None,
        own_term_weights: np.ndarray | None = None,
        top_k_per_token: int | None = None,
        max_batch_tokens: int = 1024,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Wrap a Hugging Face masked LM; its decoder is taken out and runs as the fused head.

        Args:
            model: a masked LM whose last operation is the linear layer that
                `get_output_embeddings()` returns (BERT, DistilBERT, RoBERTa, ModernBERT, …).
            tokenizer: its fast tokenizer, with V terms.
            activation: see `lsr.kernels.reference.activate`.
            pooling: "max" or "sum" over tokens.
            max_length: tokens of a text that are read, special ones included.
            query_weights: float32, shape (V,): inference-free queries; None encodes them by the LM.
            query_encoder: another encoder for queries, of the same terms.
            query_max_length: tokens of a query that are read, where `query_encoder` does not say
                so; None: without query weights `max_length`, with them all.
            query_tokenizer: the fast tokenizer of queries that are looked up, where it is another
                object than that of documents; of the same V terms.
            prompt: put before every document, and counted in `max_length`.
            query_prompt: put before every query, unless `query_encoder` has a prompt of its own.
            max_active_dims: how many terms of a document or query vector are kept, the heaviest.
                Special tokens count, though they are no terms, as in sentence-transformers.
            own_term_weights: float32, shape (V,). Only terms that the text itself holds are kept,
                multiplied by these; with None all terms are kept, unchanged.
            top_k_per_token: see `lsr.encoders.top_k`; with None all logits count.
            max_batch_tokens: padded tokens in one pass; a longer text passes alone.
            dtype: of the matrix products: torch.float32, torch.bfloat16 (weights then differ by
                about 1 %), or None for bfloat16 where the CPU is fast at it and float32 elsewhere.

        Raises:
            ValueError: `dtype` is another, the head is smaller than the tokenizer's vocabulary,
                `query_weights`, `own_term_weights`, `query_tokenizer` or `query_encoder` do not fit
                it, a weight is negative or not finite, or the decoder is not the model's last
                operation.
        """
        if dtype is None:
            dtype = torch.bfloat16 if bfloat16_is_fast() else torch.float32
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"`dtype` must be torch.float32 or torch.bfloat16, got {dtype}")
        decoder = model.get_output_embeddings()
        n_terms = len(tokenizer)
        if decoder is None:
            raise ValueError(f"{type(model).__name__} has no LM head")
        if decoder.weight.shape[0] < n_terms:
            raise ValueError(
                f"the checkpoint's head has {decoder.weight.shape[0]} terms but its tokenizer "
                f"{n_terms}: they do not belong together"
            )
        sizes: tuple[tuple[str, Any], ...] = (
            ("query_weights", query_weights),
            ("own_term_weights", own_term_weights),
            ("query_encoder", None if query_encoder is None else query_encoder.vocabulary),
        )
        for name, of_terms in sizes:
            if of_terms is not None and len(of_terms) != n_terms:
                raise ValueError(f"`{name}` has {len(of_terms)} terms but the tokenizer {n_terms}")
        self.tokenizer = tokenizer
        self.vocabulary: list[str] = vocabulary(tokenizer)
        if query_encoder is not None and query_encoder.vocabulary != self.vocabulary:
            raise ValueError("the tokenizers of queries and documents have different terms")
        self._query_tokenizer = tokenizer
        if query_tokenizer is not None:
            if vocabulary(query_tokenizer) != self.vocabulary:
                raise ValueError("the tokenizers of queries and documents have different terms")
            self._query_tokenizer = query_tokenizer
        # A 16-bit checkpoint is computed in `dtype` too: float16 cannot be mixed with bfloat16,
        # and is less exact than float32.
        self._stored = {name: part.dtype for name, part in model.state_dict().items()}
        self.model = model.float().eval()
        self.activation: Activation = activation
        self.pooling: Pooling = pooling
        self.max_length = max_length
        self.query_weights = query_weights
        self.query_encoder = query_encoder
        self.query_max_length = query_max_length
        self.prompt, self.query_prompt = prompt, query_prompt
        self.max_active_dims = max_active_dims
        self.max_batch_tokens = max_batch_tokens
        self.dtype = dtype
        self._special = special_ids(tokenizer)
        self._n_special = tokenizer.num_special_tokens_to_add()
        self._looked_up: np.ndarray | None = None
        if query_weights is not None:
            self._looked_up = np.array(query_weights, np.float32)
            self._looked_up[self._special] = 0.0
            _check_term_weights("query_weights", self._looked_up, self.vocabulary)
        # A head may be padded beyond its tokenizer (to a multiple of 64): those rows are no terms.
        weight = decoder.weight.detach()[:n_terms]
        bias = None if decoder.bias is None else decoder.bias.detach()[:n_terms].float()
        # Terms whose bias is not −∞: others are in no vector and cost nothing. None: all terms.
        self._terms: np.ndarray | None = None
        if bias is not None and bool(torch.isneginf(bias).any()):
            possible = ~torch.isneginf(bias)
            possible[self._special] = False
            self._terms = possible.nonzero()[:, 0].numpy().astype(np.int32)
            weight, bias = weight[possible], bias[possible]
        self._weight, self._bias = weight.to(dtype), bias
        self._own: torch.Tensor | None = None
        if own_term_weights is not None:
            self._own = torch.tensor(own_term_weights)
            weights = np.array(own_term_weights)
            weights[self._special] = 0.0
            _check_term_weights("own_term_weights", weights, self.vocabulary)
        self._head: Any = splade_head
        if top_k_per_token is not None:
            from lsr.encoders.top_k import top_k_head

            self._head = partial(top_k_head, top_k=top_k_per_token)
        take_decoder_out(model)
        if dtype == torch.bfloat16:
            keep_offset_exact(model)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of all weights as they are stored, and of prompts and `max_active_dims`."""
        digest = hashlib.sha256()
        for name, part in self.model.state_dict().items():
            stored = part.to(self._stored[name])
            digest.update(stored.reshape(-1).view(torch.uint8).numpy().data)
        if self.query_weights is not None:
            digest.update(self.query_weights.tobytes())
        if self._own is not None:
            digest.update(self._own.numpy().tobytes())
        if self.query_encoder is not None:
            digest.update(self.query_encoder.fingerprint.encode())
        applied = (self.prompt, self.query_prompt, self.max_active_dims)
        if any(applied):
            digest.update(json.dumps(applied).encode())
        return digest.hexdigest()

    def own_terms(self, text: str) -> set[int]:
        """The terms that a text itself holds, as numbers in `vocabulary`."""
        return own_terms(self.tokenizer, text)

    @property
    def document_limit(self) -> Limit:
        """Documents are read up to `max_length`."""
        return Limit(self.tokenizer, self.max_length, self._n_special, self.prompt)

    @property
    def query_limit(self) -> Limit:
        """How much of a query is read: `query_max_length`, or else `max_length`."""
        if self.query_encoder is not None:
            return self.query_encoder.document_limit
        if self._looked_up is not None:
            limit = self.query_max_length
            return Limit(self._query_tokenizer, limit, prompt=self.query_prompt)
        limit = self.query_max_length or self.max_length
        return Limit(self.tokenizer, limit, self._n_special, self.query_prompt)

    def encode_documents(
        self,
        texts: Sequence[str],
        top_k: int | None = None,
        lengths: list[Length] | None = None,
    ) -> csr_array:
        """Pooled term weights, float32, shape (n, V); special tokens are never terms.

        Args:
            texts: n documents.
            top_k: terms kept per document, the heaviest; None keeps all.
            lengths: the length of each text is added here.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"`top_k` must be at least 1, got {top_k}")
        return self._encode(_prompted(self.prompt, texts), top_k, self.max_length, lengths)

    def _encode(
        self,
        texts: Sequence[str],
        top_k: int | None,
        max_length: int,
        lengths: list[Length] | None = None,
    ) -> csr_array:
        blocks = [
            self._encode_block(texts[start : start + BLOCK], top_k, max_length, lengths)
            for start in range(0, len(texts), BLOCK)
        ]
        if not blocks:
            return csr_array((0, len(self.vocabulary)), dtype=np.float32)
        return blocks[0] if len(blocks) == 1 else concatenate(blocks)

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        """Term weights of queries, float32, shape (n, V).

        Inference-free: the weight of each token that occurs, however often
        (as sentence-transformers' SparseStaticEmbedding).
        """
        if self.query_encoder is not None:
            return self.query_encoder.encode_documents(texts)
        texts = _prompted(self.query_prompt, texts)
        if self._looked_up is None:
            return self._encode(texts, None, self.query_max_length or self.max_length)
        vectors = look_up(self._query_tokenizer, texts, self._looked_up, self.query_max_length)
        return vectors if self.max_active_dims is None else prune(vectors, self.max_active_dims)

    def _encode_block(
        self,
        texts: Sequence[str],
        top_k: int | None,
        max_length: int,
        lengths: list[Length] | None,
    ) -> csr_array:
        ids = self._token_ids(texts, max_length, lengths)
        sizes = np.array([len(row) for row in ids])
        order = np.argsort(-sizes, kind="stable")
        batches = self._batches(sizes[order].tolist())
        encoded = concatenate(
            [self._encode_batch([ids[row] for row in order[batch]], top_k) for batch in batches]
        )
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return encoded[place]

    def _token_ids(
        self, texts: Sequence[str], max_length: int, lengths: list[Length] | None
    ) -> list[torch.Tensor]:
        ids: list[torch.Tensor] = []
        for start in range(0, len(texts), TOKENIZED):
            tokens = self.tokenizer(
                list(texts[start : start + TOKENIZED]),
                truncation=True,
                max_length=max_length,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            ids += [torch.tensor(row, dtype=torch.int32) for row in tokens["input_ids"]]
            if lengths is not None:
                lengths += map(self._length, tokens.encodings)
        return ids

    def _length(self, encoding: Encoding) -> Length:
        read = len(encoding) - self._n_special
        # The cut-off rest, in parts; each part has special tokens of its own.
        unread = sum(len(part) - self._n_special for part in encoding.overflowing)
        return Length(read + unread, read)

    def _batches(self, lengths: list[int]) -> list[slice]:
        """Batches of consecutive texts, at most max_batch_tokens when padded.

        Args:
            lengths: tokens per text, descending.
        """
        batches: list[slice] = []
        start = 0
        for row in range(len(lengths)):
            if row > start and (row + 1 - start) * lengths[start] > self.max_batch_tokens:
                batches.append(slice(start, row))
                start = row
        return [*batches, slice(start, len(lengths))]

    @torch.inference_mode()
    def _encode_batch(self, ids: list[torch.Tensor], top_k: int | None) -> csr_array:
        lengths = torch.tensor([len(row) for row in ids])
        longest = int(lengths.max())
        if longest == 0:  # empty texts, and a tokenizer without [CLS] and [SEP]
            return csr_array((len(ids), len(self.vocabulary)), dtype=np.float32)
        mask = torch.arange(longest) < lengths[:, None]
        padded = torch.nn.utils.rnn.pad_sequence(
            ids, batch_first=True, padding_value=self.tokenizer.pad_token_id or 0
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            states = self.model(input_ids=padded, attention_mask=mask.long()).logits
        pooled = self._head(
            states.to(self.dtype),
            self._weight,
            self._bias,
            mask=mask,
            activation=self.activation,
            pooling=self.pooling,
        )
        if self._own is not None:
            present = torch.zeros(len(ids), len(self._own)).scatter_(1, padded.long(), mask.float())
            present *= self._own
            pooled *= present if self._terms is None else present[:, self._terms]
        if self.max_active_dims is not None:
            from sentence_transformers.util import select_max_active_dims

            pooled = select_max_active_dims(pooled, self.max_active_dims)
        if self._terms is None:
            pooled[:, self._special] = 0.0
            return to_csr(pooled, top_k=top_k)
        vectors = to_csr(pooled, top_k=top_k)
        return csr_array(
            (vectors.data, self._terms[vectors.indices], vectors.indptr),
            shape=(len(ids), len(self.vocabulary)),
        )


def _prompted(prompt: str, texts: Sequence[str]) -> Sequence[str]:
    return [prompt + text for text in texts] if prompt else texts


def _check_term_weights(name: str, weights: np.ndarray, terms: list[str]) -> None:
    """Refuse weights of terms that no index can hold."""
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise ValueError(
            f"`{name}` must be finite and not negative, got {weights[wrong[0]]} for "
            f"{terms[wrong[0]]!r}"
        )
