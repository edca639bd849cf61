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
        help="A BEIR folder, a JSONL or TSV file (.gz too), an ir_datasets id, pydoc, or "
        "pydoc:PACKAGE,PACKAGE.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Skip and list bad lines instead of stopping.")
]
TermsOption = Annotated[
    int | None, typer.Option("--max-terms", min=1, help="Query terms used, the heaviest.")
]
