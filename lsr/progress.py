"""How long work reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

# Called again and again with a step, such as "encoding", how much of it is done, and how much
# there is to do (None: not known yet).
Progress: TypeAlias = Callable[[str, int, int | None], None]
