"""lsr/request.py: valid requests, and the messages for wrong settings."""

import pytest

from lsr.filter import And, Comparison, Range
from lsr.request import Feedback, Interpolation, Request, Words, ask, parse_settings

YEAR = {"key": "year", "op": "=", "value": {"from": 1950}}


def test_defaults_are_all_that_the_index_and_the_query_have():
    request = ask("heat flow")
    assert (request.k, request.mode, request.feedback, request.filter) == (10, None, None, None)
    assert request.sides_moved == ()
    assert request.stages == "none"
    assert request.words is None
    assert Words() == Words(weight=0.75, k1=1.2, b=0.75, title=0.25)
    assert request.resolved(dense=True) == ask("heat flow", mode="hybrid")
    assert request.resolved(dense=False) == ask("heat flow", mode="sparse")
    # Only passes of Lucene alone are scored in two steps.
    cut = ask("heat flow", mass=0.5, rescore=9)
    assert cut.resolved(dense=True).mode == cut.resolved(dense=False).mode == "sparse"
    for dense in (True, False):
        assert ask({"heat": 1.0}).resolved(dense=dense) == ask({"heat": 1.0}, mode="learned")
        given = ask("heat flow", mode="words")
        assert given.resolved(dense=dense) is given


@pytest.mark.parametrize(
    ("settings", "dense", "told"),
    [
        ({"min_score": -1}, False, "`min_score` must be finite and at least 0 in mode 'sparse'"),
        ({"interpolation": {}}, False, "`interpolation` is for mode 'hybrid', got mode 'sparse'"),
        ({"feedback": {"side": "dense"}}, False, "feedback's `side` 'dense' needs mode 'hybrid' "),
        ({"feedback": {"interpolate": "both"}}, False, "`interpolate` 'both' needs mode 'hybrid'"),
        (
            {"feedback": {"side": "both", "interpolate": "before"}},
            True,
            "feedback on both sides ends in two rankings",
        ),
    ],
)
def test_settings_that_do_not_fit_the_default_mode_are_refused(settings, dense, told):
    request = ask("heat", **settings)
    with pytest.raises(ValueError, match=told):
        request.resolved(dense=dense)
    if not dense:
        assert request.resolved(dense=True).mode == "hybrid"


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
        (
            {"mode": "both"},
            "`mode` must be one of 'words', 'learned', 'sparse', 'dense' or 'hybrid', got 'both'",
        ),
        ({"words": {"k1": -1}}, r"`words.k1` must be in \[0, 100\], got -1"),
        ({"words": {"b": 2}}, r"`words.b` must be in \[0, 1\], got 2"),
        ({"words": {"weight": 1001}}, r"`words.weight` must be in \[0, 1000\], got 1001"),
        ({"words": {"title": -0.5}}, r"`words.title` must be in \[0, 100\], got -0.5"),
        ({"words": {"boost": 1}}, "`words.boost` is not a setting of a request"),
        ({"alpha": 1}, "`alpha` is not a setting of a request"),
        (
            {"mode": "hybrid", "interpolation": {"alpha": 2, "depth": 0}},
            r"`interpolation.alpha` must be in \[0, 1\], got 2; `interpolation.depth` must be in "
            r"\[1, 10000\], got 0",
        ),
        (
            {"mode": "sparse", "interpolation": {}},
            "`interpolation` is for mode 'hybrid', got mode 'sparse'",
        ),
        *(
            (
                {"mode": mode, "min_score": -1},
                f"`min_score` must be finite and at least 0 in mode '{mode}', got -1",
            )
            for mode in ("words", "learned", "sparse")
        ),
        *(
            (
                {"mode": mode, "max_terms": 3},
                f"`max_terms` and `mass` cut learned terms; mode is '{mode}'",
            )
            for mode in ("dense", "words")
        ),
        ({"rescore": 100}, "`rescore` needs `max_terms` or `mass`"),
        (
            {"rescore": 9, "mass": 0.5, "mode": "hybrid"},
            "`rescore` is for modes 'learned' and 'sparse', got mode 'hybrid'",
        ),
        (
            {"mode": "sparse", "feedback": {"side": "dense"}},
            "feedback's `side` 'dense' needs mode 'hybrid' or",
        ),
        (
            {"mode": "words", "feedback": {"first": "learned"}},
            "feedback's `first` 'learned' needs mode 'hybrid' or 'learned'",
        ),
        (
            {"mode": "words", "feedback": {"interpolate": "both"}},
            "`interpolate` 'both' needs mode 'hybrid', got 'words'",
        ),
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


@pytest.mark.parametrize("mode", ["words", "sparse", "dense", "hybrid"])
def test_term_weights_are_for_mode_learned(mode):
    with pytest.raises(ValueError, match=f"mode '{mode}' needs a text: term weights have neither"):
        ask({"a": 1.0}, mode=mode)
    assert ask({"a": 1.0}, mode="learned").query == {"a": 1.0}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"sides": ("words",)}, "must be words, learned or sparse, and then dense, got words"),
        ({"sides": ("dense", "words")}, "and then dense, got dense, words"),
        ({"sides": ("words", "learned")}, "and then dense, got words, learned"),
        ({"sides": ("words", "learned", "dense")}, "`sides` of method 'convex' must be words, "),
        ({"method": "rrf", "sides": ("words",)}, "must be two or three different ones, got words"),
        ({"method": "rrf", "sides": ("dense", "dense")}, "different ones, got dense, dense"),
        ({"method": "rrf", "sides": ("sparse", "words")}, "holds words and learned terms already"),
        ({"method": "rrf", "sides": ("learned", "dense", "sparse")}, "'sparse' holds words and"),
        (
            {"method": "rrf", "sides": ("words", "learned", "dense"), "alpha": 0.4},
            "`alpha` weighs two sides, and `sides` are words, learned, dense",
        ),
        ({"method": "rrf", "sides": ("words", "titles")}, "`interpolation.sides.1` must be one of"),
    ],
)
def test_sides_that_cannot_be_fused_are_named(given, told):
    with pytest.raises(ValueError, match=told):
        ask("heat", mode="hybrid", interpolation=given)


def test_sides_that_can_be_fused():
    assert Interpolation().sides == ("sparse", "dense")
    for sides in (("words", "dense"), ("learned", "dense"), ("sparse", "dense")):
        assert Interpolation(sides=sides).sides == sides
    for sides in (("dense", "words"), ("words", "learned"), ("words", "learned", "dense")):
        assert Interpolation(method="rrf", sides=sides).sides == sides
    pairs = ["interpolation.sides=words,dense", "mode=hybrid", "words.k1=1.5"]
    request = ask("heat", **parse_settings(pairs))
    assert request.interpolation == Interpolation(sides=("words", "dense"))
    assert request.words == Words(k1=1.5)


@pytest.mark.parametrize(
    ("settings", "sides", "stages"),
    [
        ({"mode": "sparse", "feedback": {}}, ("sparse",), "none"),
        ({"mode": "words", "feedback": {}}, ("sparse",), "none"),
        ({"mode": "learned", "feedback": {}}, ("sparse",), "none"),
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
