"""The page of a report: one HTML file that loads nothing, not even a font."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import lsr
from lsr.eval import drilldown as details
from lsr.eval import plots, tables
from lsr.eval.grid import Grid

# Scripts and styles are the page's own; nothing is loaded.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def require_libraries() -> None:
    """Raise ImportError with the install command if jinja2 or matplotlib is missing."""
    for name in ("jinja2", "matplotlib"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f'a report needs `pip install "lsr-search[eval]"` ({error})'
            ) from error


def render(
    grid: Grid,
    *,
    documents: details.Documents | None = None,
    explain: details.Explain | None = None,
) -> str:
    """Return the HTML of a report; for the arguments see `publish`.

    Raises:
        ImportError: jinja2 is missing, or matplotlib.
    """
    require_libraries()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = lambda text: text.replace("-", "\N{MINUS SIGN}")
    several = len(grid.systems) > 1
    data = details.drilldown(grid, documents=documents, explain=explain)
    return environment.get_template("report.html.jinja").render(
        policy=POLICY,
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),
        script=Markup((folder / "report.js").read_text(encoding="utf-8")),
        data=Markup(_json(data)),
        version=lsr.__version__,
        grid=grid,
        legend=tables.legend(grid),
        quality=tables.quality(grid),
        effects=_effects(grid),
        costs=tables.costs(grid),
        frontier=Markup(plots.frontier(grid, "frontier")) if tables.costs(grid) else None,
        wins=[
            Markup(plots.wins(grid, place, 0, f"wins{place}"))
            for place in range(len(grid.datasets))
            if several
        ],
        limits=[
            (label, len(shown["queries"]), shown["total"])
            for label, shown in zip(grid.labels, data["datasets"], strict=True)
            if len(shown["queries"]) < shown["total"]
        ],
        explained=details.EXPLAINED if explain else 0,
    )


def _effects(grid: Grid) -> list[tuple[str, Any, tables.Table]]:
    """Return measure, plot and table of each measure with differences."""
    from markupsafe import Markup

    found = []
    for measure, name in enumerate(grid.measures):
        if table := tables.differences(grid, measure):
            plot = Markup(plots.effects(grid, measure, f"effects{measure}"))
            found.append((name, plot, table))
    return found


def _json(data: Any) -> str:
    """Return JSON that cannot end the <script> around it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
