"""The command that serves indexes over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lsr.cli.errors import user_errors
from lsr.cli.terminal import say


def serve(
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="The directories of the indexes. An index is served by the name of its directory.",
        ),
    ],
    host: Annotated[
        str | None, typer.Option(help="The address to listen on: LSR_HOST, or else 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="The port: LSR_PORT, or else 8080. 0 takes any free port.")
    ] = None,
) -> None:
    """Serve indexes over HTTP: a search API, and a page at / that shows why a document matched.

    Environment variables hold the other settings: LSR_READ_KEY, LSR_ADMIN_KEY, LSR_QUEUE,
    LSR_TIMEOUT_MS, … (see the README).
    """
    with user_errors():
        from pydantic import ValidationError

        try:
            from lsr.service.server import serve as run
            from lsr.service.settings import Settings
        except ModuleNotFoundError as error:
            raise ImportError(
                f'serving wants `pip install "lsr-search[service]"` ({error})'
            ) from error
        given = {"host": host, "port": port}
        chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        try:
            settings = Settings(**chosen)
        except ValidationError as error:
            raise ValueError("; ".join(map(_describe_error, error.errors()))) from error
        try:
            run(directories, settings, lambda url: say(f"serving at {url}", err=True))
        except KeyboardInterrupt:
            pass  # Ctrl-C is how a service is stopped; requests in flight have been answered


def _describe_error(detail: Any) -> str:
    """Describe one error of the settings by the name of its environment variable."""
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"LSR_{detail['loc'][0].upper()}: {message}" if detail["loc"] else message
