"""Search: queries to hits, and the reasons for them."""

from lsr.search.searcher import Hit, Position, QueryTerm, Searcher

__all__ = ["Hit", "Position", "QueryTerm", "Searcher"]
