"""Measures of retrieval quality, per query and averaged, computed by ir-measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lsr.run import Run

# By default, of a whole evaluation.
MEASURES = ("nDCG@10", "RR@10", "AP", "R@100", "R@1000", "Judged@10")


class Evaluation(NamedTuple):
    """Values of each measure: per query id, and their mean over all judged queries."""

    per_query: dict[str, dict[str, float]]
    means: dict[str, float]


def evaluate(
    run: Run,
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = ("nDCG@10", "RR@10", "R@100"),
) -> Evaluation:
    """Return the measures of `run` for every query of `qrels`, under the names given.

    A query that the run lacks counts as 0; queries of the run without judgements are left out. The
    run's own order is measured, whatever its ties.

    Args:
        run: the ranked documents.
        qrels: query id to doc id to grade; above 0 is relevant.
        measures: names in the notation of ir-measures (https://ir-measur.es), such as "P(rel=2)@5".

    Raises:
        ValueError: a measure is unknown, or there are no measures or no judgements.
    """
    import ir_measures

    if not qrels or not all(qrels.values()):
        raise ValueError("`qrels` must hold at least one judgement for each query")
    parsed = parse_measures(measures)
    # ir-measures breaks ties of scores its own way, so it is given the ranks.
    scores = {
        query_id: {doc_id: float(-rank) for rank, (doc_id, _) in enumerate(run[query_id])}
        for query_id in qrels
        if run.get(query_id)
    }
    found: dict[tuple[Any, str], float] = {}
    if scores:
        judged = {query_id: dict(qrels[query_id]) for query_id in scores}
        for metric in ir_measures.iter_calc(list(set(parsed.values())), judged, scores):
            found[metric.measure, metric.query_id] = float(metric.value)
    per_query = {
        name: {query_id: found.get((measure, query_id), 0.0) for query_id in qrels}
        for name, measure in parsed.items()
    }
    means = {name: sum(values.values()) / len(values) for name, values in per_query.items()}
    return Evaluation(per_query, means)


def parse_measures(names: Sequence[str]) -> dict[str, Any]:
    """The measures of ir-measures by the names given.

    Raises:
        ValueError: a measure is unknown, or there are none.
    """
    if not names:
        raise ValueError("`measures` must name at least one measure, got none")
    return {name: _parse(name) for name in names}


def with_relevant_grade(names: Sequence[str], grade: int) -> list[str]:
    """The names, with rel=`grade` where a measure counts relevant documents and says no grade.

    >>> with_relevant_grade(["nDCG@10", "RR@10", "P(rel=3)@5"], 2)
    ['nDCG@10', 'RR(rel=2)@10', 'P(rel=3)@5']

    Raises:
        ValueError: a measure is unknown, there are none, or `grade` is below 1.
    """
    if grade < 1:
        raise ValueError(f"`relevant_grade` must be at least 1, got {grade}")
    return [
        str(measure(rel=grade))
        if grade > 1 and "rel" in measure.SUPPORTED_PARAMS and "rel" not in measure.params
        else name
        for name, measure in parse_measures(names).items()
    ]


def _parse(name: str) -> Any:
    import ir_measures

    try:
        measure = ir_measures.parse_measure(name)
        measure.validate_params()
    except (NameError, ValueError, AssertionError) as error:
        raise ValueError(f"{name!r} is not a measure of ir-measures: {error}") from error
    cutoff = measure.params.get("cutoff")
    if cutoff is not None and cutoff < 1:
        # trec_eval would abort the process.
        raise ValueError(f"{name!r}: the cutoff must be at least 1, got {cutoff}")
    return measure
