"""Open a saved sentence-transformers model, and find the modules and prompt for a text.

Everything here follows sentence-transformers' own `encode_query` and `encode_document`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The prompts that each task looks for, in this order.
PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}


@contextmanager
def loading(directory: Path) -> Iterator[None]:
    """Turn the errors of libraries that read a damaged checkpoint into a ValueError.

    OSError and ImportError pass unchanged: they name a missing file or package themselves.

    Raises:
        ValueError: the checkpoint in `directory` cannot be read; the message says why.
    """
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        raise ValueError(
            f"{directory}: the checkpoint cannot be read: {type(error).__name__}: {error}"
        ) from error


def open_sparse_encoder(
    directory: Path, modules: Mapping[str, type], device: str | None = None
) -> Any:
    """Open the SparseEncoder that was saved in a directory.

    Args:
        directory: holds modules.json.
        modules: classes of lsr that the checkpoint may name, by their full names. Code in the
            checkpoint itself is never run.
        device: as torch names it; by default sentence-transformers chooses.

    Raises:
        ValueError: the checkpoint is damaged, or it does not score by dot products.
    """
    from sentence_transformers import SparseEncoder

    with loading(directory):
        files = (directory / "modules.json", *sorted(directory.rglob("router_config.json")))
        named = "".join(path.read_text(encoding="utf-8") for path in files)
        if any(f'"{name}"' in named for name in modules):
            model = _with_modules(directory, modules, device)
        else:
            model = SparseEncoder(str(directory), device=device)
    check_weights(directory, model)
    if model.similarity_fn_name != "dot":
        raise ValueError(
            f"{directory}: `similarity_fn_name` in config_sentence_transformers.json must be "
            f"'dot', since an index scores by dot products, got {model.similarity_fn_name!r}"
        )
    return model


def _with_modules(directory: Path, modules: Mapping[str, type], device: str | None) -> Any:
    """Assemble a SparseEncoder from its saved modules, some of which are classes of lsr."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router
    from sentence_transformers.util import import_from_string

    parts = []
    for entry in json.loads((directory / "modules.json").read_text(encoding="utf-8")):
        name = entry["type"]
        if name not in modules and not name.startswith("sentence_transformers."):
            raise ValueError(f"its modules.json names the class {name!r}, which lsr does not know")
        part: Any = modules.get(name) or import_from_string(name)
        given = {"module_classes": modules} if issubclass(part, Router) else {}
        parts.append(part.load(str(directory), subfolder=entry["path"], **given))
    file = directory / "config_sentence_transformers.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    names = ("prompts", "default_prompt_name", "similarity_fn_name", "max_active_dims")
    applied = {name: settings[name] for name in names if settings.get(name) is not None}
    return SparseEncoder(modules=parts, device=device, **applied)


def check_weights(directory: Path, model: Any) -> None:
    """Refuse NaN and +∞ among the weights, which no successful training leaves.

    −∞ is allowed: as a bias it keeps a term out of every vector.

    Raises:
        ValueError: a weight is NaN or +∞.
    """
    for name, weights in model.state_dict().items():
        if weights.is_floating_point() and weights.numel():
            largest = float(weights.max())  # NaN where any weight is
            if not largest < float("inf"):
                raise ValueError(
                    f"{directory}: the checkpoint is damaged: its weights {name!r} hold {largest}"
                )


def route(model: Any, task: str) -> list[Any]:
    """Return the modules that texts of a task pass through, in order.

    Args:
        model: a SparseEncoder, with a Router as its first module or without one.
        task: "query" or "document".

    Raises:
        ValueError: the Router has no route for the task.
    """
    from sentence_transformers.base.modules import Router

    first, *others = model
    if not isinstance(first, Router):
        return [first, *others]
    routes = first.sub_modules
    name = next(
        (
            first.route_mappings[key]
            for key in ((task, "text"), (task, None), (None, "text"), (None, None))
            if key in first.route_mappings
        ),
        task if task in routes else "text",
    )
    if name not in routes:
        raise ValueError(
            f"the checkpoint's Router has no route for the task {task!r}: its routes are "
            f"{', '.join(map(repr, routes))}, and its `route_mappings` lead from "
            f"{', '.join(map(repr, first.route_mappings)) or 'no task'}"
        )
    return [*routes[name], *others]


def prompt_of(model: Any, task: str) -> str:
    """Return the prompt that stands before every text of a task; "" if there is none.

    Args:
        model: a SparseEncoder.
        task: "query" or "document".
    """
    name = next((name for name in PROMPTS[task] if name in model.prompts), None)
    return model.prompts.get(name or model.default_prompt_name) or ""
