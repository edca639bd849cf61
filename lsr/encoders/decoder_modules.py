"""The sentence-transformers modules of a decoder LLM as a sparse encoder: states and pooling.

`Decoder` saves as a stock Transformer does (the model, or its adapter, and the tokenizer), and
`DecoderPooling` beside it. sentence-transformers opens both with `trust_remote_code=True` if lsr
can be imported. `Decoder` passes token states to the pooling, never logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from sentence_transformers.base.modules import Module, Transformer

from lsr.encoders.lora import restore_precision
from lsr.kernels.head import splade_head
from lsr.kernels.reference import Activation, Pooling

Attention = Literal["causal", "bidirectional", "echo"]


class Decoder(Transformer):  # type: ignore[misc]
    """A causal LM without its head: token states, and a mask of the tokens to pool.

    Only the text's own tokens are pooled, not padding or special tokens (under causal attention,
    the state of a beginning-of-text token is the same for all texts). "echo" reads the text twice
    and pools the second copy, whose tokens have all seen the whole text under causal attention
    (Springer et al. 2024, arXiv:2402.15449; Doshi et al. 2024, arXiv:2408.11119).
    """

    config_keys = [*Transformer.config_keys, "attention"]

    def __init__(
        self, model_name_or_path: str, *, attention: Attention = "causal", **kwargs: Any
    ) -> None:
        """Open a decoder.

        Args:
            model_name_or_path: of a causal LM, or of an adapter for one.
            attention: "causal", "bidirectional" (every token attends to all) or "echo".
            **kwargs: passed to Transformer.
        """
        # Without these, a chat template of the tokenizer would be applied to texts.
        kwargs |= {
            "transformer_task": "text-generation",
            "modality_config": {
                "text": {"method": "forward", "method_output_name": "last_hidden_state"}
            },
            "module_output_name": "token_embeddings",
        }
        super().__init__(model_name_or_path, **kwargs)
        self.attention: Attention = attention
        if (Path(model_name_or_path) / "adapter_config.json").exists():
            restore_precision(self.model, Path(model_name_or_path))
        self.model.config.is_causal = attention != "bidirectional"
        # Padding before a text would, under causal attention, have no token to attend to.
        self.tokenizer.padding_side = "right"

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> Self:
        """See Transformer.load; `trust_remote_code` is needed for this class and not passed on."""
        if (Path(model_name_or_path) / subfolder).is_dir():
            # With `subfolder`, an adapter's base would be looked for in a folder of that name too.
            model_name_or_path, subfolder = str(Path(model_name_or_path) / subfolder), ""
        loaded: Self = super().load(model_name_or_path, subfolder, **kwargs)
        return loaded

    def frame(self) -> tuple[list[int], list[int]]:
        """Return the special tokens that the tokenizer puts before and after a text."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        framed = self.tokenizer("a")["input_ids"]
        start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
        return framed[:start], framed[start + len(bare) :]

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return token ids, attention_mask (1 for tokens, 0 for padding), pooling_mask, all (B, T).

        Args:
            inputs: texts.
            prompt: put before each text, and pooled with it.
            **kwargs: `task` ("query" or "document") selects a maximum length, `max_length` sets it,
                in tokens of one copy, special ones included.
        """
        if not len(inputs):
            return {}
        before, after = self.frame()
        limit = kwargs.get("max_length") or self._length(kwargs.get("task"))
        texts = self.tokenizer(
            [(prompt or "") + text for text in inputs],
            add_special_tokens=False,
            truncation=True,
            max_length=max(1, limit - len(before) - len(after)),
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        first = 2 if self.attention == "echo" else 1
        rows = [
            [(id_, 0) for id_ in before]
            + [(id_, 0) for id_ in text] * (first - 1)
            + [(id_, 1) for id_ in text]
            + [(id_, 0) for id_ in after]
            for text in texts
        ]
        return self._padded(rows)

    def _length(self, task: str | None) -> int:
        length = {"query": self.query_length, "document": self.document_length}.get(task or "")
        return int(length or self.max_seq_length)

    def _padded(self, rows: list[list[tuple[int, int]]]) -> dict[str, Any]:
        filler = self.tokenizer.pad_token_id or 0
        # A row without any token would have states, and so gradients, that are NaN.
        rows = [row or [(filler, 0)] for row in rows]
        ids = torch.full((len(rows), max(map(len, rows))), filler)
        attention_mask, pooling_mask = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, tokens in enumerate(rows):
            left = ids.shape[1] - len(tokens) if self.tokenizer.padding_side == "left" else 0
            columns = slice(left, left + len(tokens))
            ids[row, columns], pooling_mask[row, columns] = torch.tensor(tokens).T
            attention_mask[row, columns] = 1
        return {
            "input_ids": ids,
            "attention_mask": attention_mask,
            "pooling_mask": pooling_mask,
            "modality": "text",
        }

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add token_embeddings, shape (B, T, D), and output_embeddings, the head's, (V, D)."""
        mask = features["attention_mask"]
        features["token_embeddings"] = self.model.base_model(
            input_ids=features["input_ids"],
            attention_mask=mask,
            # A text's first token has position 0, with or without padding before it.
            position_ids=(mask.cumsum(1) - 1).clamp_min(0),
            use_cache=False,
        ).last_hidden_state
        features["output_embeddings"] = self.model.get_output_embeddings().weight
        return features


class DecoderPooling(Module):  # type: ignore[misc]
    """y[b, v] = max over pooled tokens t of f(scale · h[b, t] · W[v] + bias[v]), by the fused head.

    W are the decoder's output embeddings. The bias is learned and mostly negative: an LLM's head
    has no bias, and thousands of its logits would be positive.
    """

    config_keys = ["n_terms", "activation", "pooling", "scale", "silent"]

    def __init__(
        self,
        n_terms: int,
        *,
        activation: Activation = "relu",
        pooling: Pooling = "max",
        scale: float = 1.0,
        silent: Sequence[int] = (),
    ) -> None:
        """Make a pooling whose bias is 0.

        Args:
            n_terms: V; many models have more rows in the head, for alignment: those are no terms.
            activation: see `lsr.kernels.reference.activate`.
            pooling: "max" or "sum" over tokens.
            scale: what logits are multiplied by before the bias is added, > 0.
            silent: ids of terms that are never active.
        """
        super().__init__()
        self.n_terms = n_terms
        self.activation: Activation = activation
        self.pooling: Pooling = pooling
        self.scale = scale
        self.silent = list(silent)
        # Trainers apply no weight decay to parameters of this name.
        self.bias = torch.nn.Parameter(torch.zeros(n_terms))

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Add sentence_embedding, shape (B, V), to the features that `Decoder` returns."""
        weight = features.pop("output_embeddings")[: self.n_terms]
        hidden = features["token_embeddings"]
        pooled = splade_head(
            hidden if self.scale == 1 else hidden * self.scale,
            weight,
            self.bias,
            mask=features["pooling_mask"],
            activation=self.activation,
            pooling=self.pooling,
        )
        silent = torch.tensor(self.silent, dtype=torch.long, device=pooled.device)
        features["sentence_embedding"] = pooled.index_fill(1, silent, 0.0)
        return features

    def get_embedding_dimension(self) -> int:
        """Return V."""
        return self.n_terms

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True) -> None:
        """Write config.json and the bias to a folder."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Read the module that `save` wrote."""
        where = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        module = cls(**cls.load_config(model_name_or_path, **where))
        loaded: Self = cls.load_torch_weights(model_name_or_path, model=module, **where)
        return loaded
