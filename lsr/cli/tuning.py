"""Commands that tune interpolation and feedback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lsr.cli.arguments import IndexArgument, JsonOption
from lsr.cli.errors import user_errors
from lsr.cli.evaluation import DATASETS, DatasetArgument
from lsr.cli.terminal import say

if TYPE_CHECKING:
    from lsr.eval.datasets import Dataset
    from lsr.eval.feedback_grid import FeedbackGrid


def tune(
    directory: IndexArgument,
    dataset: DatasetArgument,
    split: Annotated[
        str,
        typer.Option(
            help="The split whose qrels are used: another one than the results are measured on."
        ),
    ] = "dev",
    measure: Annotated[str, typer.Option(help="The measure that is maximised.")] = "nDCG@10",
    as_json: JsonOption = False,
) -> None:
    """Find the best weights of an index's sides, and store them with it for all searches."""
    from lsr.cli.display import progress_bar
    from lsr.eval.datasets import load_dataset
    from lsr.eval.tuning import tune as tune_index

    with user_errors():
        data = load_dataset(dataset, split)
        with progress_bar() as progress:
            found = tune_index(directory, data, measure, progress=progress)
    if as_json:
        typer.echo(json.dumps(found.record()))
        return
    how = found.best.interpolation
    chosen = f"words {found.best.words.weight:g}"
    if "dense" in found.sides:
        chosen += f", α {how.alpha} with {how.normalisation}"
    alone = ", ".join(f"{side} {value:.4f}" for side, value in found.sides.items())
    say(
        f"{chosen}, stored in {directory}\n"
        f"{measure} of {found.n_queries} queries ({found.dataset}, {found.split}): "
        f"{found.tuned:.4f}; {found.cross_validated:.4f} cross-validated; alone: {alone}"
    )


def grid(
    datasets: Annotated[list[str], typer.Argument(metavar="DATASET...", help=DATASETS)],
    out: Annotated[
        Path,
        typer.Option(
            help="The folder of the reports. It also keeps what a killed run needs to go on."
        ),
    ],
    encoders: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            help="The encoder of the sparse side; may be repeated. By default bm25 and default.",
        ),
    ] = None,
    dense: Annotated[str, typer.Option(help="The model of the dense side.")] = "default",
    dev: Annotated[
        str,
        typer.Option(
            help="The split of a BEIR folder for tuning. Datasets without it are tuned by folds."
        ),
    ] = "dev",
    cache: Annotated[
        Path | None, typer.Option(help="The folder of the indexes, ~/.cache/lsr by default.")
    ] = None,
) -> None:
    """Compare interpolation before feedback, after it, at both places, and at none."""
    from lsr.cli.display import progress_bar
    from lsr.eval.cache import Cache, IndexSpec, default_folder
    from lsr.eval.feedback_grid import feedback_grid
    from lsr.eval.page import require_libraries
    from lsr.eval.systems import TOP_K, file_name

    with user_errors():
        require_libraries()
        loaded = [_splits(name, dev) for name in datasets]
        names = [file_name(test) for test, _ in loaded]
        _refuse_same("datasets", names)
        asked = encoders or ["bm25", "default"]
        _refuse_same("encoders", [Path(encoder).name for encoder in asked])
        for encoder in asked:
            folder = out / Path(encoder).name
            grids = {}
            for name, (test, tuned_on) in zip(names, loaded, strict=True):
                with progress_bar() as progress:
                    index = Cache(cache or default_folder(), progress).index(
                        IndexSpec(test, encoder, TOP_K, dense)
                    )
                    kept = folder / "values" / name
                    grids[name] = feedback_grid(index, test, tuned_on, kept, progress=progress)
            _write_grids(grids, folder)


def _refuse_same(what: str, names: list[str]) -> None:
    """Each has a folder or a column of its own."""
    if same := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several {what} are called {same[0]!r}: names must differ")


def _write_grids(grids: dict[str, FeedbackGrid], folder: Path) -> None:
    from lsr.eval import report
    from lsr.eval.feedback_grid import MEASURES
    from lsr.eval.feedback_report import write_stages
    from lsr.eval.publish import publish

    records = []
    for of_dataset in grids.values():
        found = report.differences(of_dataset.results)
        for result in of_dataset.results:
            report.write_run(folder, result)
            records.append(report.record(result, found))
    report.write_records(folder, records)
    publish([result for of_dataset in grids.values() for result in of_dataset.results], folder)
    write_stages(grids, MEASURES[0], folder)
    say(f"{folder}/report.html, stages.md, stages.svg, chosen.json", err=True)
    say((folder / "report.md").read_text(encoding="utf-8"))
    say((folder / "stages.md").read_text(encoding="utf-8"))


def _splits(name: str, dev: str) -> tuple[Dataset, Dataset | None]:
    """The test split, and the one that is tuned on where the dataset has it."""
    from lsr.eval.datasets import load_dataset

    test = load_dataset(name, "test")
    if (Path(name) / "qrels" / f"{dev}.tsv").exists():
        return test, load_dataset(name, dev)
    say(f"{name}: no split {dev!r}; tuned by folds of its test queries", err=True)
    return test, None
