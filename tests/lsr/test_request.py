"""lsr/request.py: valid requests, and the messages for wrong settings."""

import json

import numpy as np
import pytest

from lsr.request import Feedback, Interpolation, Request, ask, parse_filters, parse_settings


def test_defaults_are_a_plain_sparse_search():
    request = ask("heat flow")
    assert (request.k, request.mode, request.feedback, request.filters) == (10, "sparse", None, {})
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
    pairs = ["mode=hybrid", "interpolation.alpha=0.4", "feedback.documents=5", "filters.t=a=b"]
    request = ask("heat", **parse_settings(pairs))
    assert request.interpolation == Interpolation(alpha=0.4)
    assert request.feedback == Feedback(documents=5)
    assert request.filters == {"t": "a=b"}
    with pytest.raises(ValueError, match="a setting must be KEY=VALUE, got 'mode'"):
        parse_settings(["mode"])
    with pytest.raises(ValueError, match="setting 'mode.x': 'mode' has a value already"):
        parse_settings(["mode=a", "mode.x=b"])


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("kind=function", "function"),
        ("kind=", ""),
        ("kind=a=b", "a=b"),
        ("a.b=c.d", "c.d"),
        ("year=1950..1960", (1950, 1960)),
        ("year=..1960", (None, 1960)),
        ("year=-1.5..", (-1.5, None)),
        ("year=.5...75", (0.5, 0.75)),
        ("year=1e3 .. 2e3", (1000.0, 2000.0)),
        ("n=9007199254740993..9007199254740993", (2**53 + 1, 2**53 + 1)),
        ("rest=..", (None, None)),
        ("price=5.0", "5.0"),
    ],
)
def test_filters_are_values_or_ranges(given, parsed):
    assert parse_filters([given]) == {given.partition("=")[0]: parsed}
    assert parse_settings([f"filters.{given}"]) == {"filters": parse_filters([given])}
    assert list(ask("heat", filters=parse_filters([given])).filters.values()) == [parsed]


@pytest.mark.parametrize(
    "text", ["kind", "=a", "a!=b", "a>=5", "a=>100", "a=<5", "a==5", "a<>b", "a~=b", "a=!b"]
)
def test_other_operators_are_refused(text):
    with pytest.raises(ValueError, match="must be KEY=VALUE or, for numbers, KEY=LOW..HIGH, got '"):
        parse_filters([text])
    with pytest.raises(ValueError, match="must be KEY=VALUE or"):
        parse_settings([f"filters.{text}"])


@pytest.mark.parametrize(
    ("bounds", "named"),
    [
        ("2020-01-01..2021-01-01", "2020-01-01"),
        ("1..b", "b"),
        ("nan..", "nan"),
        ("..inf", "inf"),
        ("1_0..20", "1_0"),
        ("0x1..0x2", "0x1"),
        ("../x", "/x"),
        ("1..2..3", "2..3"),
        ("..1e999", "1e999"),
    ],
)
def test_bounds_are_numbers(bounds, named):
    with pytest.raises(
        ValueError, match=f"filter 'd': the bounds .* must be numbers, got '{named}"
    ):
        parse_filters([f"d={bounds}"])


def test_one_filter_for_each_key():
    with pytest.raises(ValueError, match="filter 'a' is given twice, the second time as 'a=2'"):
        parse_filters(["a=1", "b=1", "a=2"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (("2020-01-01", None), "filter 'd': the bounds must be numbers, got '2020-01-01'"),
        (["open", "closed"], "filter 'd': the bounds must be numbers, got 'open'"),
        ((True, 1), "filter 'd': the bounds must be numbers, got True"),
        ((None, 10**400), "filter 'd': the bounds must be within ±1.798e.308, got 1000"),
        ((2**53 + 1, 2**53), "filter 'd': the bounds must be low ≤ high, got"),
        ((None, float("inf")), "filter 'd': a number must be finite, got inf"),
        (None, "`filters.d` must be a string, a number, true or false, or two bounds"),
        ({"gte": 1}, "`filters.d` must be a string, .*, got {'gte': 1}"),
        (["a", "b", "c"], "`filters.d` must be a string, .*, got .'a', 'b', 'c'.$"),
    ],
)
def test_filters_of_python_and_http(value, message):
    with pytest.raises(ValueError, match=message):
        ask("heat", filters={"d": value})


def test_numbers_of_numpy_are_numbers():
    given = {"a": np.int64(2**53 + 1), "b": (np.float32(0.5), np.int8(3)), "c": np.float64(2.0)}
    assert ask("heat", filters=given).filters == {"a": 2**53 + 1, "b": (0.5, 3), "c": 2}


def test_integers_of_filters_keep_all_their_digits():
    values = {
        "a": 2**53 + 1,
        "b": 10**400,
        "c": 5.0,
        "d": (2**63 + 1, 2.0**70),
        "e": True,
        "f": 0.5,
    }
    filters = ask("heat", filters=values).filters
    assert filters == values
    assert [type(value) for value in filters.values()] == [int, int, int, tuple, bool, float]
    assert [type(bound) for bound in filters["d"]] == [int, int]
    sent = json.loads(ask("heat", filters=values).model_dump_json())["filters"]
    assert ask("heat", filters=sent).filters == filters
