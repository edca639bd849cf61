"""Text for people: nothing that is printed can steer the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

# Control characters but for tab and newline, what turns the direction of writing, and halves of
# characters, which no terminal can be sent.
_STEERING = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` with a sign of its own for each control character, and so of the same length."""
    return _STEERING.sub(_sign, text)


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # ␛ for escape
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"


def say(text: object, *, err: bool = False) -> None:
    """Print a line for people, on stderr where `err`. Data for programs go through typer.echo."""
    typer.echo(visible(str(text)), err=err)


def terminal(*, stderr: bool = False) -> Console:
    """Where tables and hits are printed. Strings are shown as they are, without rich's markup."""
    from rich.console import Console
    from rich.segment import Segment

    class Terminal(Console):
        def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
            for segment in super().render(*arguments, **options):
                text, style, control = segment
                yield segment if control else Segment(visible(text), style)

    return Terminal(stderr=stderr, markup=False, emoji=False)
