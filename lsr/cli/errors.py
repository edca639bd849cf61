"""What the commands do with errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import typer

import lsr
from lsr.cli.terminal import say


@contextmanager
def user_errors() -> Iterator[None]:
    """What a user can mend becomes a line on stderr and exit code 1; the rest a traceback.

    A warning of ours is a line on stderr too.
    """
    from lsr.indexes.jvm import JavaError
    from lsr.indexes.lucene import LuceneError

    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if filename.startswith(str(Path(lsr.__file__).parent)):
            say(f"lsr: {message}", err=True)
        else:
            usual(message, category, filename, lineno, file, line)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    except KeyboardInterrupt as error:
        say("lsr: interrupted; a build goes on when it is run again", err=True)
        raise typer.Exit(130) from error
    except (ValueError, KeyError, OSError, ImportError, LuceneError, JavaError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        if isinstance(error, OSError) and error.filename and error.strerror:
            message = f"{error.filename}: {error.strerror}"
        say(f"lsr: {message}", err=True)
        raise typer.Exit(1) from error
