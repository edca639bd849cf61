"""Commands that train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lsr.cli.arguments import CorpusArgument, JsonOption
from lsr.cli.errors import user_errors
from lsr.cli.terminal import say, terminal

RunOption = Annotated[
    Path,
    typer.Option(
        help="The directory of the run. If it holds a run that was killed, that run goes on."
    ),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A setting in place of the recipe's, such as training.seed=1. May be repeated.",
    ),
]


def train(
    recipe: Annotated[
        str,
        typer.Argument(help="The name of a recipe that ships (see lsr recipes), or a TOML file."),
    ],
    out: RunOption,
    data: Annotated[
        str | None,
        typer.Option(
            help="What is trained on: a BEIR folder, a JSONL or TSV file or an ir_datasets id. "
            "Recipes that make their own queries need a corpus alone."
        ),
    ] = None,
    tiny: Annotated[
        bool,
        typer.Option(
            "--tiny",
            help="Train a small model for minutes on a laptop, without downloads. Most recipes "
            "then generate their data and take no --data.",
        ),
    ] = False,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train an encoder by a recipe, and measure it on held-out queries before and after."""
    pairs = dict(_setting(text) for text in settings or [])
    if data is not None:
        pairs["data.source"] = json.dumps(data)
    _train(recipe, out, pairs, tiny=tiny, as_json=as_json)


def adapt(
    corpus: CorpusArgument,
    out: RunOption,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an inference-free encoder for a corpus from nothing but the corpus."""
    pairs = dict(_setting(text) for text in settings or [])
    _train("adapt", out, pairs | {"data.source": json.dumps(corpus)}, tiny=False, as_json=as_json)


def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new directory.")],
) -> None:
    """Write the default model as a directory that plain sentence-transformers opens."""
    from lsr.encoders.default import export_default

    with user_errors():
        export_default(out)
    say(f"open it with sentence_transformers.SparseEncoder({str(out)!r})", err=True)


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print all settings of this recipe.")] = None,
) -> None:
    """List the recipes that ship, with their papers, deviations and expected results."""
    from dataclasses import asdict

    from lsr.training.recipe import load_recipe, names

    with user_errors():
        if name is not None:
            typer.echo(json.dumps(asdict(load_recipe(name)), indent=2))
            return
        for each in names():
            found = load_recipe(each)
            say(f"{each}\n  {found.paper}\n  Deviates: {found.deviations}")
            say(f"  Expected: {found.expected}\n")


def _setting(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not (key and found):
        raise typer.BadParameter(f"--set wants KEY=VALUE, got {text!r}")
    return key, value


def _train(recipe: str, out: Path, settings: dict[str, str], *, tiny: bool, as_json: bool) -> None:
    from lsr.cli.display import progress_bar
    from lsr.eval.learning import learn
    from lsr.training.guard import TrainingStopped
    from lsr.training.recipe import load_recipe

    with user_errors():
        loaded = load_recipe(recipe, tiny=tiny, settings=settings)
        try:
            with progress_bar() as progress:
                learned = learn(loaded, out, progress)
        except TrainingStopped as error:
            say(f"lsr: training was stopped: {error}", err=True)
            raise typer.Exit(1) from error
        except ImportError as error:
            say(f'lsr: {error}; training needs `pip install "lsr-search[train]"`', err=True)
            raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(learned.record()))
        return
    console = terminal()
    console.print(learned.table())
    if learned.curve:
        console.print("", learned.curve_table())
    console.print(
        f"\nmodel: {learned.model}\nnext:  lsr index CORPUS --encoder {learned.model} --out DIR"
    )
