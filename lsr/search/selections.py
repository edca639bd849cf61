"""The rows of the dense side that pass a filter."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import NamedTuple

import numpy as np

from lsr.filter import Filter
from lsr.indexes.dense import DenseIndex
from lsr.indexes.dense_rows import Selection
from lsr.indexes.lucene import LuceneIndex

# Selections that are kept, a bit for each row.
KEPT = 32


class _Segment(NamedTuple):
    """Where the vectors of one of Lucene's segments are, which never changes."""

    rows: np.ndarray  # int64, (documents,), of the base; −1 where they are not there
    others: dict[int, str]  # of those documents the ids


class Selections:
    """Turns what Lucene says of a filter into rows of the dense side; keeps the last selections.

    Lucene numbers documents anew when it merges. A commit leaves most of its segments as they are,
    and so what is known of them: only the ids of new segments are read.

    Any thread may use it. Both sides must be of one commit.
    """

    def __init__(self, index: LuceneIndex, dense: DenseIndex) -> None:
        self._index = index
        self._dense = dense
        self._lock = Lock()
        self._state = -1  # of the index, that the fields below belong to
        # Where the document of each row lies in Lucene; one beyond the last, if it is deleted.
        self._places = np.empty(0, np.int64)
        self._kept: OrderedDict[str, Selection] = OrderedDict()
        self._base: tuple[str, ...] = ()  # the segment of vectors that `_segments` belong to
        self._segments: dict[str, _Segment] = {}  # by name

    def of(self, given: Filter) -> Selection:
        """Return the rows whose documents match a filter.

        Raises:
            ValueError: the filter does not fit the metadata of the index.
        """
        text = str(given)
        with self._lock:
            if self._state != self._index.state:
                self._locate()
            if text in self._kept:
                self._kept.move_to_end(text)
                return self._kept[text]
            passing = np.append(self._index.passing(given), False)
            found = self._dense.select(passing[self._places])
            self._kept[text] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return found

    def _locate(self) -> None:
        """Find the document of each row, once for a commit."""
        self._state = self._index.state
        self._kept.clear()
        if self._base != self._dense.names[:1]:
            self._base = self._dense.names[:1]
            self._segments.clear()
        live, alive = self._index.passing(), self._dense.alive
        self._places = np.full(len(alive), len(live))
        segments, start = {}, 0
        for name, n in self._index.segments():
            segment = self._segments.get(name) or self._read(name, n)
            segments[name] = segment
            of_segment = live[start : start + n]
            # Documents that were replaced or added since the base was written are elsewhere.
            moved = np.flatnonzero(of_segment & ~(alive[segment.rows] & (segment.rows >= 0)))
            rows = segment.rows.copy()
            rows[moved] = self._dense.rows_of(
                [
                    segment.others[number] if row < 0 else self._dense.ids_of([row])[0]
                    for number, row in zip(moved.tolist(), rows[moved].tolist(), strict=True)
                ]
            )
            found = np.flatnonzero(of_segment & (rows >= 0))
            self._places[rows[found]] = start + found
            start += n
        self._segments = segments

    def _read(self, name: str, n: int) -> _Segment:
        ids = self._index.ids_of_segment(name, n)
        rows = self._dense.rows_of(ids)
        rows[rows >= self._dense.n_base] = -1
        return _Segment(rows, {number: ids[number] for number in np.flatnonzero(rows < 0).tolist()})
