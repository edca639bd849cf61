"""The language by which the words of an index are analysed: given, or detected."""

from __future__ import annotations

from lsr.corpus.language import LanguageCounts
from lsr.indexes.lucene import LANGUAGES

AUTO = "auto"
# For languages without an analyzer.
OTHER = "standard"
# Written languages of one language, which share its analyzer.
SAME = {"nb": "no", "nn": "no"}


def check_language(language: str) -> None:
    """Raise ValueError for what is neither one of LANGUAGES nor AUTO."""
    if language not in (AUTO, *LANGUAGES):
        raise ValueError(
            f"`language` must be {AUTO}, or one of {', '.join(LANGUAGES)}, got {language!r}"
        )


def detected(counts: LanguageCounts) -> tuple[str, str]:
    """Return the language to analyse a corpus by, and a sentence that says why.

    Args:
        counts: of all documents.
    """
    found = counts.most_common()
    if found is None:
        return OTHER, f"no document holds a letter: words are analysed as {OTHER!r}"
    language, share = found
    what = f"{share:.0%} of the documents are in language {language!r}"
    analyzer = SAME.get(language, language)
    if analyzer in LANGUAGES:
        by = "by which" if analyzer == language else f"and as {analyzer!r}"
        return analyzer, f"{what}, {by} words are analysed"
    return OTHER, f"{what}, which has no analyzer: words are analysed as {OTHER!r}"
