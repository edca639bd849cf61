"""lsr/request.py: valid requests, and the messages for wrong settings."""

import pytest

from lsr.filter import And, Comparison, Range
from lsr.request import Feedback, Interpolation, Request, ask, parse_settings

YEAR = {"key": "year", "op": "=", "value": {"from": 1950}}


def test_defaults_are_a_plain_sparse_search():
    request = ask("heat flow")
    assert (request.k, request.mode, request.feedback, request.filter) == (10, "sparse", None, None)
    assert request.sides_moved == ()
    assert request.stages == "none"


def test_ask_takes_a_request_and_changes_it():
    request = ask("heat", k=3)
    assert ask(request) is request
    assert ask(request, k=4) == ask("heat", k=4)
    assert Request.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"k": 0}, r"`k` must be in \[1, 1000000\], got 0"),
        ({"k": "a"}, r"`k`: Input should be a valid integer"),
        ({"max_terms": 0}, "`max_terms` must be in \\[1, 1000000\\], got 0"),
        ({"mass": 0}, r"`mass` must be in \(0, 1\], got 0"),
        ({"mode": "both"}, "`mode` must be one of 'sparse', 'dense' or 'hybrid', got 'both'"),
        ({"alpha": 1}, "`alpha` is not a setting of a request"),
        (
            {"mode": "hybrid", "interpolation": {"alpha": 2, "depth": 0}},
            r"`interpolation.alpha` must be in \[0, 1\], got 2; `interpolation.depth` must be in "
            r"\[1, 10000\], got 0",
        ),
        ({"interpolation": {}}, "`interpolation` is for mode 'hybrid', got mode 'sparse'"),
        ({"min_score": -1}, "`min_score` must be finite and at least 0 in mode 'sparse', got -1"),
        ({"mode": "dense", "max_terms": 3}, "`max_terms` and `mass` cut sparse queries"),
        ({"rescore": 100}, "`rescore` needs `max_terms` or `mass`"),
        ({"rescore": 9, "mass": 0.5, "mode": "hybrid"}, "`rescore` is for mode 'sparse'"),
        ({"feedback": {"side": "dense"}}, "feedback's `side` 'dense' needs mode 'hybrid' or"),
        ({"feedback": {"interpolate": "both"}}, "`interpolate` 'both' needs mode 'hybrid'"),
        ({"feedback": {"gamma": 0.1}}, "`gamma` and `negatives` belong together"),
        ({"feedback": {"alpha": 0, "beta": 0}}, "`alpha` or `beta` must be above 0"),
        (
            {"mode": "hybrid", "feedback": {"side": "both", "interpolate": "before"}},
            "feedback on both sides ends in two rankings",
        ),
        (
            {"mode": "hybrid", "feedback": {"first": "sparse", "interpolate": "both"}},
            "`first` is for interpolate 'none' and 'after'",
        ),
        (
            {"mode": "hybrid", "feedback": {"side": "dense", "method": "relevance-model"}},
            "method 'relevance-model' is for side 'sparse'",
        ),
        ({"mode": "dense", "feedback": {"method": "relevance-model"}}, "is for side 'sparse'"),
    ],
)
def test_wrong_settings_are_named_with_what_they_may_be(settings, told):
    with pytest.raises(ValueError, match=told):
        ask("heat", **settings)


@pytest.mark.parametrize("weight", [0.0, -1.0, 1e101, 1e-101, float("nan"), float("inf")])
def test_wrong_weights_are_named(weight):
    with pytest.raises(ValueError, match=r"the weight of 'b' must be in \[1e-100, 1e\+100\], got"):
        ask({"a": 1.0, "b": weight})


def test_dense_modes_need_a_text():
    with pytest.raises(ValueError, match="mode 'hybrid' needs a text"):
        ask({"a": 1.0}, mode="hybrid")


@pytest.mark.parametrize(
    ("settings", "sides", "stages"),
    [
        ({"feedback": {}}, ("sparse",), "none"),
        ({"mode": "dense", "feedback": {}}, ("dense",), "none"),
        ({"mode": "hybrid", "feedback": {}}, ("dense",), "both"),
        ({"mode": "hybrid", "feedback": {"method": "relevance-model"}}, ("sparse",), "both"),
        ({"mode": "hybrid", "feedback": {"side": "both"}}, ("sparse", "dense"), "both"),
        ({"mode": "hybrid", "feedback": {"interpolate": "none"}}, ("dense",), "none"),
    ],
)
def test_sides_and_stages_by_default(settings, sides, stages):
    request = ask("heat", **settings)
    assert (request.sides_moved, request.stages) == (sides, stages)


def test_settings_from_the_command_line():
    pairs = [
        "mode=hybrid",
        "interpolation.alpha=0.4",
        "feedback.documents=5",
        "filter=t = a",
        "filter=u > 1 or v = 'x=y'",
    ]
    request = ask("heat", **parse_settings(pairs))
    assert request.interpolation == Interpolation(alpha=0.4)
    assert request.feedback == Feedback(documents=5)
    assert str(request.filter) == 't = "a" and (u > 1 or v = "x=y")'
    with pytest.raises(ValueError, match="a setting must be KEY=VALUE, got 'mode'"):
        parse_settings(["mode"])
    with pytest.raises(ValueError, match="setting 'mode.x': 'mode' has a value already"):
        parse_settings(["mode=a", "mode.x=b"])


@pytest.mark.parametrize(
    "given",
    [
        "kind = function and year = 1950..",
        {"and": [{"key": "kind", "op": "=", "value": "function"}, YEAR]},
        And((Comparison("kind", "=", "function"), Comparison("year", "=", Range(1950)))),
    ],
)
def test_a_filter_is_a_string_or_json_or_a_tree(given):
    request = ask("heat", filter=given)
    assert str(request.filter) == 'kind = "function" and year = 1950..'
    assert ask(request, k=3).filter == request.filter
    for mode in ("json", "python"):
        dumped = request.model_dump(mode=mode)
        assert dumped["filter"] == str(request.filter)
        assert ask(**dumped).filter == request.filter


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("kind", "filter, character 5: expected one of = !="),
        (5, "`filter` must be a string or an object, got 5"),
        (["a = 1"], "`filter` must be a string or an object, got .'a = 1'.$"),
        ({"kind": "function"}, "A comparison is written {'key': 'kind', 'op': '=', 'value': 'func"),
        ({"not": {"exists": 5}}, "^filter.not: a key must be a string"),
    ],
)
def test_what_is_no_filter_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ask("heat", filter=given)


@pytest.mark.parametrize(
    ("filters", "new"),
    [
        ({"kind": "function", "year": (1950, None)}, 'kind = "function" and year = 1950..$'),
        ({"my key": 5.0}, '"my key" = 5$'),
        ({"a": {"b": 1}}, "kind = function and year = 1950..1960$"),
        ({}, "kind = function and year = 1950..1960$"),
    ],
)
def test_filters_of_older_versions_are_refused_with_their_new_form(filters, new):
    with pytest.raises(ValueError, match="`filters` has become `filter`, .*: write " + new):
        ask("heat", filters=filters)


def test_settings_of_older_versions_are_refused_with_their_new_form():
    with pytest.raises(ValueError, match='`filters` has become `filter`, .*: write t = "a"$'):
        parse_settings(["filters.t=a"])
    with pytest.raises(ValueError, match="filter, character 4: expected a value"):
        parse_settings(["filter=a = "])
