"""The rows of the dense side that pass a filter."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import numpy as np

from lsr.filter import Filter
from lsr.indexes.dense import DenseIndex
from lsr.indexes.dense_rows import Selection
from lsr.indexes.lucene import LuceneIndex

# Selections that are kept, a bit for each row.
KEPT = 32


class Selections:
    """Turns what Lucene says of a filter into rows of the dense side; keeps the last selections.

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
        """Find the document of each row, once for a commit: Lucene numbers them anew in merges."""
        self._state = self._index.state
        self._kept.clear()
        live = self._index.passing()
        places = np.flatnonzero(live)
        rows = self._dense.rows_of(self._index.ids_in_place())
        self._places = np.full(self._dense.n_rows, len(live))
        self._places[rows[rows >= 0]] = places[rows >= 0]
