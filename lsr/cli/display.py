"""What the terminal shows: hits and their reasons, and progress."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import rich.progress
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lsr.cli.terminal import terminal, visible
from lsr.facet import Counts
from lsr.filter import text_of
from lsr.progress import Progress
from lsr.search import Hit
from lsr.search.explanation import Contribution, Explanation
from lsr.search.highlight import Match, excerpt

# Characters of a value that a table of facets shows.
LONGEST_VALUE = 60


def snippet(text: str, highlight: Callable[[str], list[Match]]) -> Text:
    """The part of `text` with the most matches of a query, which are highlighted."""
    text = visible(" ".join(text.split()))
    part, matched = excerpt(text, highlight(text))
    shown = Text(part)
    for match in matched:
        shown.stylize("bold yellow", match.start, match.end)
    return shown


def number(value: float, digits: int = 3) -> str:
    """A weight or a score with so many decimals; in scientific notation where these say little."""
    plain = not value or 10**-digits <= abs(value) < 1e6
    return f"{value:.{digits}f}" if plain else f"{value:.{digits}e}"


def chart(reasons: Sequence[Contribution], limit: int | None = None) -> Table:
    """Terms with q × d = contribution and a bar for the share; below `limit` rows the rest."""
    table = Table("term", "query", "document", "q × d", "share", "", box=None, pad_edge=False)
    for reason in reasons[:limit]:
        table.add_row(
            Text(reason.term, "yellow" if reason.literal_in_document else "cyan"),
            f"{number(reason.query_weight)} {_origin(reason)}",
            f"{reason.document_weight:.3f} {_place(reason)}",
            number(reason.contribution),
            f"{reason.share:.1%}",
            Bar(1.0, 0.0, reason.share, width=24, color="green"),
        )
    rest = reasons[limit:] if limit is not None else []
    if rest:
        contribution = sum(reason.contribution for reason in rest)
        share = sum(reason.share for reason in rest)
        table.add_row(
            Text(f"{len(rest)} more", "dim"), "", "", number(contribution), f"{share:.1%}", ""
        )
    return table


def _origin(reason: Contribution) -> str:
    if reason.from_feedback:
        return "feedback"
    return "literal" if reason.literal_in_query else "expanded"


def _place(reason: Contribution) -> str:
    if reason.field != "learned":
        return "title" if reason.field == "title" else "word"
    return "literal" if reason.literal_in_document else "expanded"


def shares(why: Explanation) -> str:
    """What each side added to the score of an interpolated ranking; nothing of one side alone."""
    if len(why.sides) == 1:
        return ""
    return "= " + " + ".join(
        f"{part.side} {part.share:.4f} (score {part.score:.3f})" for part in why.sides
    )


def hit_view(
    rank: int, hit: Hit, why: Explanation, highlight: Callable[[str], list[Match]]
) -> Group:
    """One hit: rank, score, id, title, text with matched words highlighted, and the chart."""
    reasons = why.terms
    head = Text.assemble(
        (f"{rank:2}. ", "dim"),
        (visible(hit.document.id), "bold"),
        (f"  {number(hit.score)}", "green"),
    )
    if hit.document.title and hit.document.title != hit.document.id:
        head.append(f"  {visible(' '.join(hit.document.title.split()))}", "dim")
    if hit.group is not None:
        value = json.dumps(hit.group, ensure_ascii=False)
        head.append(f"  group {visible(value[:LONGEST_VALUE])}", "dim")
    if hit.rerank is not None:
        head.append(f"  rank {hit.rerank.rank} before {number(hit.rerank.score, 4)}", "dim")
    if sides := shares(why):
        head.append(f"  {sides}", "dim")
    for boost in why.boosts:
        head.append(f"  {visible(boost.key)} {boost.form} +{number(boost.addend, 4)}", "dim")
    body = Table.grid(padding=(0, 0, 0, 4))
    body.add_row("", snippet(hit.document.text, highlight))
    if reasons:
        body.add_row("", chart(reasons, 5))
    return Group(head, body, Text())


def facets_view(counts: Counts) -> Group:
    """How many documents pass the filter, and a table for each facet."""
    passing = "document passes" if counts.total == 1 else "documents pass"
    parts: list[RenderableType] = [Text(f"{counts.total:,} {passing} the filter"), Text()]
    for facet in counts.facets:
        table = Table(visible(facet.key), box=None, pad_edge=False)
        table.add_column(f"{facet.documents:,} have it", justify="right")
        counted = [(json.dumps(of.value, ensure_ascii=False), of.documents) for of in facet.values]
        counted += [(text_of(of.range), of.documents) for of in facet.ranges]
        for name, documents in counted:
            cut = name if len(name) <= LONGEST_VALUE else name[:LONGEST_VALUE] + "…"
            table.add_row(visible(cut), f"{documents:,}")
        if facet.others:
            table.add_row(Text(f"{facet.others:,} more values", "dim"))
        parts += [table, Text()]
    return Group(*parts)


class _Rate(rich.progress.ProgressColumn):
    """How many are done of how many, and per second."""

    def render(self, task: rich.progress.Task) -> Text:
        of = "" if task.total is None else f"/{task.total:,.0f}"
        speed = task.finished_speed or task.speed
        rate = f", {speed:,.0f}/s" if speed else ""
        return Text(f"{task.completed:,.0f}{of}{rate}" if task.completed else "")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on stderr, with documents or queries per second, one row a step."""
    tasks: dict[str, rich.progress.TaskID] = {}
    with rich.progress.Progress(
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description:22}"),
        rich.progress.BarColumn(),
        _Rate(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=terminal(stderr=True),
    ) as bar:

        def advance(step: str, done: int, total: int | None) -> None:
            if step not in tasks:
                for task in tasks.values():
                    completed = bar.tasks[task].completed
                    bar.update(task, total=completed or 1, completed=completed or 1)
                # What a resumed build finds done does not count as speed.
                tasks[step] = bar.add_task(step, total=total, completed=done)
            else:
                bar.update(tasks[step], completed=done, total=total)

        yield advance
