"""lsr/cli/display.py: snippets, highlights and charts."""

import re

from rich.console import Console

from lsr.cli.display import chart, hit_view, number, progress_bar, snippet
from lsr.documents import Document
from lsr.search import Hit
from lsr.search.explanation import Contribution, Explanation, SideScore
from lsr.search.highlight import EXCERPT, Match


def heats(text):
    """Matches of "heat" in a text."""
    return [Match(found.start(), found.end(), "heat", True) for found in re.finditer("heat", text)]


def reason(term, share, literal=True):
    return Contribution(term, 2.0, share / 2, share, share, literal, literal)


def printed(renderable, width=100):
    console = Console(width=width, record=True, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_snippet_shows_where_most_matches_are():
    text = "filler " * 100 + "the heat flows and heat is lost " + "filler " * 100
    shown = snippet(text, heats)
    assert shown.plain.startswith("… ")
    assert shown.plain.endswith(" …")
    assert "heat flows and heat is lost" in shown.plain
    assert len(shown.plain) <= EXCERPT + 4
    highlighted = [shown.plain[span.start : span.end] for span in shown.spans]
    assert highlighted == ["heat", "heat"]


def test_short_and_matchless_texts_are_shown_from_the_start():
    assert snippet("no\n match", heats).plain == "no match"
    long = snippet("word " * 100, heats)
    assert long.plain.startswith("word word")
    assert long.plain.endswith(" …")
    assert snippet("", heats).plain == ""


def test_chart_sums_up_what_is_below_the_limit():
    reasons = [reason("heat", 0.5), reason("flow", 0.3, literal=False), reason("a", 0.2)]
    rows = [line.split()[:7] for line in printed(chart(reasons)).splitlines()[1:]]
    assert rows == [
        ["heat", "2.000", "literal", "0.250", "literal", "0.500", "50.0%"],
        ["flow", "2.000", "expanded", "0.150", "expanded", "0.300", "30.0%"],
        ["a", "2.000", "literal", "0.100", "literal", "0.200", "20.0%"],
    ]
    words = [
        reason("wing", 0.7)._replace(field="words"),
        reason("wing", 0.3)._replace(field="title"),
    ]
    rows = [line.split()[:7] for line in printed(chart(words)).splitlines()[1:]]
    assert rows == [
        ["wing", "2.000", "literal", "0.350", "word", "0.700", "70.0%"],
        ["wing", "2.000", "literal", "0.150", "title", "0.300", "30.0%"],
    ]
    cut = printed(chart(reasons, 1))
    assert "2 more" in cut
    assert "50.0%" in cut.splitlines()[-1]


def test_markup_in_documents_is_text():
    hit = Hit(Document("[bold]d1[/]", "[red]title", "[link=x]heat[/link]"), 1.5)
    why = Explanation(1.5, [SideScore("sparse", 1.5, 1.5)], [reason("heat", 1.0)])
    shown = printed(hit_view(1, hit, why, heats))
    for part in ("[bold]d1[/]", "[red]title", "[link=x]heat[/link]", "1.500"):
        assert part in shown


def test_sides_and_terms_of_feedback_are_shown():
    terms = [reason("heat", 0.6), reason("flow", 0.4)._replace(from_feedback=True)]
    why = Explanation(0.9, [SideScore("sparse", 0.5, 12.0), SideScore("dense", 0.4, 0.7)], terms)
    shown = " ".join(printed(hit_view(1, Hit(Document("d", "", "heat"), 0.9), why, heats)).split())
    assert "= sparse 0.5000 (score 12.000) + dense 0.4000 (score 0.700)" in shown
    assert "flow 2.000 feedback" in shown and "heat 2.000 literal" in shown
    three = [("words", 0.25, 9.0), ("learned", 0.125, 8.0), ("dense", 0.0625, 0.5)]
    why = Explanation(0.4375, [SideScore(*side) for side in three], terms)
    shown = printed(hit_view(1, Hit(Document("d", "", "heat"), 0.4375), why, heats), 200)
    assert (
        "= words 0.2500 (score 9.000) + learned 0.1250 (score 8.000) + dense 0.0625 (score 0.500)"
    ) in shown
    alone = Explanation(0.7, [SideScore("dense", 0.7, 0.7)], [])
    shown = printed(hit_view(1, Hit(Document("d", "", "heat"), 0.7), alone, heats))
    assert "sparse" not in shown and "share" not in shown


def test_progress_has_one_row_a_step(capsys):
    with progress_bar() as progress:
        progress("reading", 10, None)
        progress("encoding", 60, 100)
        progress("encoding", 100, 100)
    shown = capsys.readouterr().err
    assert "reading" in shown
    assert "100/100" in " ".join(shown.split())


def test_small_and_large_numbers_are_not_shown_as_0_or_by_thirty_digits():
    for value, shown in (
        (0.0, "0.000"),
        (0.001, "0.001"),
        (0.00099, "9.900e-04"),
        (-2.5, "-2.500"),
        (1.9e-30, "1.900e-30"),
        (999_999.4, "999999.400"),
        (1e30, "1.000e+30"),
    ):
        assert number(value) == shown
    assert number(0.0005, 4) == "0.0005"
