"""Measures of retrieval quality, per query and averaged, computed by ir-measures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lsr.run import LARGEST_GRADE, Run, checked_grade

# The default measures of an evaluation.
MEASURES = ("nDCG@10", "RR@10", "AP", "R@100", "R@1000", "Judged@10")
LARGEST_CUTOFF = 1_000_000
# The highest grade that gdeval allows, which computes ERR and exponential nDCG.
LARGEST_GDEVAL_GRADE = 4


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
            ERR and nDCG(dcg='exp-log2') have five decimals and allow grades up to 4, as in gdeval.

    Raises:
        ValueError: see `parse_measures`; or there are no judgements, or a grade is out of range.
    """
    parsed = parse_measures(measures)
    if not qrels or not all(qrels.values()):
        raise ValueError("`qrels` must hold at least one judgement for each query")
    check_grades(parsed.values(), qrels)
    by_gdeval = [measure for measure in parsed.values() if _is_gdeval(measure)]
    # ir-measures breaks ties of scores its own way, so it gets the ranks as scores.
    scores = {
        query_id: {doc_id: float(-rank) for rank, (doc_id, _) in enumerate(run[query_id])}
        for query_id in qrels
        if run.get(query_id)
    }
    judged = {query_id: dict(qrels[query_id]) for query_id in scores}
    others = [measure for measure in parsed.values() if not _is_gdeval(measure)]
    found = {
        **_calculated(others, judged, scores),
        **_calculated_by_number(by_gdeval, judged, scores),
    }
    per_query = {
        name: {query_id: found.get((measure, query_id), 0.0) for query_id in qrels}
        for name, measure in parsed.items()
    }
    means = {name: sum(values.values()) / len(values) for name, values in per_query.items()}
    return Evaluation(per_query, means)


def check_grades(measures: Iterable[Any], qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse grades for which a measure of `parse_measures` is not defined.

    Raises:
        ValueError: see `checked_grade`; or a grade is above 4, and a measure is one of gdeval's.
    """
    by_gdeval = [measure for measure in measures if _is_gdeval(measure)]
    for query_id, grades in qrels.items():
        for doc_id, grade in grades.items():
            try:
                checked_grade(grade)
                if by_gdeval and grade > LARGEST_GDEVAL_GRADE:
                    raise ValueError(
                        f"{by_gdeval[0]} is defined for grades up to {LARGEST_GDEVAL_GRADE}, "
                        f"got {grade}"
                    )
            except ValueError as error:
                raise ValueError(f"query {query_id!r}, document {doc_id!r}: {error}") from error


def _calculated(
    measures: Sequence[Any],
    judged: dict[str, dict[str, int]],
    scores: dict[str, dict[str, float]],
) -> dict[tuple[Any, str], float]:
    import ir_measures

    if not (measures and scores):
        return {}
    try:
        return {
            (metric.measure, metric.query_id): float(metric.value)
            for metric in ir_measures.iter_calc(measures, judged, scores)
        }
    except ZeroDivisionError as error:
        # Accuracy divides by zero if all retrieved documents of a query are relevant.
        names = ", ".join(str(measure) for measure in measures)
        raise ValueError(f"{names}: not defined for a query of this run") from error


def _calculated_by_number(
    measures: Sequence[Any],
    judged: dict[str, dict[str, int]],
    scores: dict[str, dict[str, float]],
) -> dict[tuple[Any, str], float]:
    """Run `_calculated` with numbers as ids: gdeval takes no other query ids, and only ASCII."""
    queries = {query_id: str(number) for number, query_id in enumerate(scores)}
    doc_ids = {doc_id for of in judged.values() for doc_id in of}
    doc_ids |= {doc_id for of in scores.values() for doc_id in of}
    documents = {doc_id: str(number) for number, doc_id in enumerate(doc_ids)}

    def numbered(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        return {
            queries[query_id]: {documents[doc_id]: value for doc_id, value in of.items()}
            for query_id, of in values.items()
        }

    found = _calculated(measures, numbered(judged), numbered(scores))
    return {
        (measure, query_id): found.get((measure, number), 0.0)
        for measure in measures
        for query_id, number in queries.items()
    }


def _is_gdeval(measure: Any) -> bool:
    return bool(measure.NAME == "ERR" or measure.params.get("dcg") == "exp-log2")


def split_measures(text: str) -> list[str]:
    """Split a text into names of measures at white space outside of brackets.

    >>> split_measures("nDCG@10 P(rel = 2)@5")
    ['nDCG@10', 'P(rel = 2)@5']
    """
    return re.findall(r"(?:\([^)]*\)|\S)+", text)


def parse_measures(names: Sequence[str]) -> dict[str, Any]:
    """Return the measures of ir-measures by their names.

    Raises:
        ValueError: there are no names, two of them name the same measure, or one names no measure,
            several, one that nothing installed computes, or one with a parameter out of range.
    """
    if isinstance(names, str) or not names:
        given = repr(names) if names else "none"
        raise ValueError(f"`measures` must be a list of at least one name, got {given}")
    parsed: dict[str, Any] = {}
    spelled: dict[Any, str] = {}
    for name in names:
        measure = _parse(name)
        if measure in spelled:
            same = "twice" if name == spelled[measure] else f"also as {spelled[measure]!r}"
            raise ValueError(f"`measures` names {name!r} {same}: each must be given once")
        spelled[measure] = name
        parsed[name] = measure
    return parsed


def with_relevant_grade(names: Sequence[str], grade: int) -> list[str]:
    """Return the names, with rel=`grade` where a measure counts relevant documents.

    >>> with_relevant_grade(["nDCG@10", "RR@10", "P(rel=3)@5"], 2)
    ['nDCG@10', 'RR(rel=2)@10', 'P(rel=3)@5']

    Raises:
        ValueError: see `parse_measures`, also for the names with the grade; or `grade` is not in
            [1, LARGEST_GRADE].
    """
    if not 1 <= grade <= LARGEST_GRADE:
        raise ValueError(f"`relevant_grade` must be in [1, {LARGEST_GRADE}], got {grade}")
    graded = [
        str(measure(rel=grade))
        if grade > 1 and "rel" in measure.SUPPORTED_PARAMS and "rel" not in measure.params
        else name
        for name, measure in parse_measures(names).items()
    ]
    return list(parse_measures(graded))


def _parse(name: str) -> Any:
    import ir_measures

    several = split_measures(name)
    if len(several) > 1 and all(_is_measure(part) for part in several):
        raise ValueError(f"{name!r} names {len(several)} measures: give each as one name")
    try:
        measure = ir_measures.parse_measure(name)
    except (NameError, ValueError, TypeError) as error:
        hint = "; measures are separated by spaces" if "," in re.sub(r"\(.*?\)", "", name) else ""
        raise ValueError(f"{name!r} is not a measure of ir-measures: {error}{hint}") from error
    for key, parameter in measure.SUPPORTED_PARAMS.items():
        if parameter.required and key not in measure.params:
            raise ValueError(f"{name!r}: this measure needs the parameter {key!r}")
    try:
        measure.validate_params()
    except AssertionError as error:
        raise ValueError(f"{name!r} is not a measure of ir-measures: {error}") from error
    _check_parameters(name, measure)
    _check_provider(name, measure)
    return measure


def _is_measure(name: str) -> bool:
    import ir_measures

    try:
        ir_measures.parse_measure(name)
    except (NameError, ValueError, TypeError):
        return False
    return True


def _check_parameters(name: str, measure: Any) -> None:
    """Refuse values for which trec_eval ends the process or computes something else."""
    ranges = {
        "cutoff": (1, LARGEST_CUTOFF),
        "rel": (1, LARGEST_GRADE),
        "recall": (0, 1),
        "p": (0, 1),
    }
    for key, (low, high) in ranges.items():
        value = measure.params.get(key)
        if value is not None and (isinstance(value, bool) or not low <= value <= high):
            raise ValueError(f"{name!r}: the {key} must be in [{low}, {high}], got {value}")
    recall = measure.params.get("recall")
    if recall is not None and round(recall, 2) != recall:
        # trec_eval would round it.
        raise ValueError(f"{name!r}: the recall must have at most two decimals, got {recall}")
    gains: dict[Any, Any] = measure.params.get("gains") or {}
    for grade in (*gains.keys(), *gains.values()):
        try:
            checked_grade(grade)
        except ValueError as error:
            raise ValueError(f"{name!r}: gains: {error}") from error


def _check_provider(name: str, measure: Any) -> None:
    import ir_measures

    able = [
        provider for provider in ir_measures.DefaultPipeline.providers if provider.supports(measure)
    ]
    if not any(provider.is_available() for provider in able):
        hints = [f"{one.NAME}: {one.install_instructions()}" for one in able]
        raise ValueError(
            f"{name!r}: nothing that is installed computes it"
            + (f" ({'; '.join(hints)})" if hints else " (perhaps it needs another cutoff)")
        )
