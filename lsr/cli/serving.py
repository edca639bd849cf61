"""The command that serves indexes over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lsr.cli.errors import user_errors


def serve(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Index directories, served by name.")
    ],
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 127.0.0.1 unless LSR_HOST says so.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 8080 unless LSR_PORT says so, 0 for any free one.")
    ] = None,
) -> None:
    """Serve indexes: the search API, and a page at / that shows why a document matched.

    All else is set by the environment: LSR_READ_KEY, LSR_ADMIN_KEY, LSR_QUEUE, LSR_TIMEOUT_MS, …
    (see the README).
    """
    with user_errors():
        try:
            from lsr.service.server import serve as run
            from lsr.service.settings import Settings
        except ModuleNotFoundError as error:
            raise ImportError(
                f'serving wants `pip install "lsr-search[service]"` ({error})'
            ) from error
        given = {"host": host, "port": port}
        # pydantic's errors are ValueErrors, and name the setting.
        settings = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        run(
            directories,
            settings,
            lambda url: typer.echo(
                f"serving {', '.join(map(str, directories))} at {url}", err=True
            ),
        )
