"""The language of a corpus, detected from its texts."""

from __future__ import annotations

from collections import Counter

# Enough of a text to tell its language.
CHARACTERS = 1000


class LanguageCounts:
    """How many texts of a corpus are in which language, by py3langid."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Count a text; one without letters is in no language."""
        import py3langid

        start = text[:CHARACTERS]
        if any(character.isalpha() for character in start):
            language, _ = py3langid.classify(start)
            self._counts[language] += 1

    def most_common(self) -> tuple[str, float] | None:
        """Return the language of most texts, an ISO 639-1 code, and their share.

        Of languages with as many texts it is the first in the alphabet. None if no text was in a
        language.
        """
        if not self._counts:
            return None
        language = min(self._counts, key=lambda code: (-self._counts[code], code))
        return language, self._counts[language] / self._counts.total()
