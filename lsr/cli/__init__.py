"""The command line.

Data on stdout, messages on stderr; exit code 0, 1 (failed) or 2 (bad usage). Everything heavy is
imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

import lsr
from lsr.cli.evaluation import compare, demo, evaluate
from lsr.cli.indexing import add, delete, doctor, index, merge, metadata, synonyms, upgrade
from lsr.cli.reproducing import reproduce
from lsr.cli.searching import explain, search
from lsr.cli.serving import serve
from lsr.cli.training import adapt, export, recipes, train
from lsr.cli.tuning import grid, tune

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Learned sparse retrieval: index a corpus, search it, see why a document matched.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lsr {lsr.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


# In the order of --help.
app.command()(index)
app.command()(add)
app.command()(metadata)
app.command()(delete)
app.command()(merge)
app.command()(upgrade)
app.command()(synonyms)
app.command()(search)
app.command()(explain)
app.command()(serve)
app.command("eval")(evaluate)
app.command()(compare)
app.command()(tune)
app.command()(grid)
app.command()(reproduce)
app.command()(train)
app.command()(adapt)
app.command()(recipes)
app.command()(export)
app.command()(demo)
app.command()(doctor)
