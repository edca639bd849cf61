"""How much of an index's documents its models did not read: counted in every commit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lsr.encoders.truncation import Length

# The key of a commit's user data.
KEY = "truncation"


class Truncation(NamedTuple):
    """Documents that a model has read, in whole or in part.

    A document that was replaced or deleted later stays counted.
    """

    limit: int | None  # tokens that the model reads of a document; None: all of them
    documents: int = 0
    truncated: int = 0  # of these, longer than the limit
    tokens: int = 0  # of all these documents, special ones not counted
    unread: int = 0  # of these, beyond the limit

    def and_of(self, limit: int | None, lengths: Iterable[Length]) -> Truncation:
        """With more documents counted."""
        unread = [length.unread for length in lengths]
        return Truncation(
            limit,
            self.documents + len(unread),
            self.truncated + sum(count > 0 for count in unread),
            self.tokens + sum(length.tokens for length in lengths),
            self.unread + sum(unread),
        )

    def since(self, before: Truncation) -> Truncation:
        """What was counted after `before`."""
        return Truncation(
            self.limit,
            self.documents - before.documents,
            self.truncated - before.truncated,
            self.tokens - before.tokens,
            self.unread - before.unread,
        )

    def sentence(self, model: str) -> str | None:
        """What a user should know of it; None where the model has no limit.

        Args:
            model: who reads, such as "encoder 'default'".
        """
        if self.limit is None:
            return None
        longer = f"longer than the {self.limit:,} tokens that {model} reads"
        if not self.truncated:
            return f"none of {self.documents:,} documents is {longer}"
        are = "is" if self.truncated == 1 else "are"
        return (
            f"{self.truncated:,} of {self.documents:,} documents {are} {longer}: "
            f"{percent(self.unread / self.tokens)} of all tokens were not read"
        )


def percent(share: float) -> str:
    """A share above 0 as people write it."""
    if share < 0.0005:
        return "less than 0.1 %"
    return f"{share:.1%}".replace("%", " %") if share < 0.1 else f"{share:.0%}".replace("%", " %")


def of_commit(user_data: Mapping[str, str]) -> dict[str, Truncation]:
    """Side ("sparse", "dense") → what was counted; none by commits of older versions."""
    return {side: Truncation(*of) for side, of in json.loads(user_data.get(KEY, "{}")).items()}


def counted_since(
    now: Mapping[str, Truncation], before: Mapping[str, Truncation]
) -> dict[str, Truncation]:
    """Return by side what was counted after `before`."""
    return {side: of.since(before.get(side, Truncation(of.limit))) for side, of in now.items()}


def as_user_data(of_sides: Mapping[str, Truncation]) -> str:
    """The value of KEY."""
    return json.dumps(of_sides)


def sentences(
    of_sides: Mapping[str, Truncation], encoder: str, dense: str | None, *, quiet: bool
) -> list[str]:
    """A sentence for each model of an index that has a limit.

    Args:
        of_sides: see `of_commit`.
        encoder: its name.
        dense: the name of the dense model.
        quiet: leave out those that read everything.
    """
    head = "the head of " if encoder == "grafted" else ""
    models = {"sparse": f"{head}encoder {encoder!r}", "dense": f"dense model {dense!r}"}
    found = {
        side: of.sentence(models[side])
        for side, of in of_sides.items()
        if of.truncated or not quiet
    }
    return [sentence for sentence in found.values() if sentence]
