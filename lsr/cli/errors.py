"""What the commands do with errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from lsr.cli.terminal import say


@contextmanager
def user_errors() -> Iterator[None]:
    """What a user can mend becomes a line on stderr and exit code 1; the rest a traceback."""
    from lsr.indexes.jvm import JavaError
    from lsr.indexes.lucene import LuceneError

    try:
        yield
    except KeyboardInterrupt as error:
        say("lsr: interrupted; a build goes on when it is run again", err=True)
        raise typer.Exit(130) from error
    except (ValueError, KeyError, OSError, ImportError, LuceneError, JavaError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        say(f"lsr: {message}", err=True)
        raise typer.Exit(1) from error
