"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

IndexArgument = Annotated[Path, typer.Argument(metavar="DIR", help="An index directory.")]
CorpusArgument = Annotated[
    str,
    typer.Argument(
        metavar="CORPUS",
        help="The documents: a BEIR folder, a JSONL or TSV file (also .gz), an ir_datasets id, "
        "pydoc (the standard library's documentation), or pydoc:PACKAGE,PACKAGE.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
SkipBadOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Skip bad lines and list them, instead of stopping at the first."
    ),
]
TermsOption = Annotated[
    int | None,
    typer.Option(
        "--max-terms", min=1, help="Search with so many terms of the query, the heaviest."
    ),
]
