"""Addends to scores by a number or a date of a document's metadata."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime

from lsr.documents import MetadataValue, date_of
from lsr.request_stages import Boost

DAY = 86_400  # seconds


def addend(boost: Boost, values: Sequence[MetadataValue]) -> float:
    """Return what a boost adds to the score of a document, in [0, weight]; 0 without a value.

    A value v gives weight · f(v), and of several the largest counts. f is, with the distance
    d = max(0, |v − origin| − offset),

    - saturation: v / (v + pivot) for v > 0, else 0 (the function of that name of Elasticsearch's
      rank_feature query);
    - exponential: exp(ln(decay) · d / scale);
    - gaussian: exp(ln(decay) · (d / scale)²);
    - linear: max(0, 1 − (1 − decay) · d / scale)

    (the decay functions of Elasticsearch's function_score query, which are `decay` at d = scale).
    Dates are in days.

    Args:
        boost: the setting.
        values: of the document under its key; those that are neither of its type are left out.
    """
    return max(
        (boost.weight * _factor(boost, number) for number in _numbers(boost, values)), default=0.0
    )


def _numbers(boost: Boost, values: Sequence[MetadataValue]) -> Iterator[float]:
    """The values as numbers; of dates their distance to the origin, in days."""
    for value in values:
        if isinstance(boost.origin, str):
            origin = date_of(boost.origin)
            found = date_of(value) if isinstance(value, str) else None
            if found is not None and origin is not None:
                yield (_moment(found) - _moment(origin)).total_seconds() / DAY
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield float(value) - float(boost.origin or 0)


def _factor(boost: Boost, value: float) -> float:
    if boost.form == "saturation":
        assert boost.pivot is not None
        # v / (v + pivot), whose sum could be too large for a float.
        return 1 / (1 + boost.pivot / value) if value > 0 else 0.0
    assert boost.scale is not None
    far = max(0.0, abs(value) - boost.offset) / boost.scale
    if boost.form == "exponential":
        return math.exp(math.log(boost.decay) * far)
    if boost.form == "gaussian":
        return math.exp(math.log(boost.decay) * min(far, 1e100) ** 2)
    return max(0.0, 1 - (1 - boost.decay) * far)


def _moment(day: date) -> datetime:
    return day if isinstance(day, datetime) else datetime(day.year, day.month, day.day, tzinfo=UTC)
