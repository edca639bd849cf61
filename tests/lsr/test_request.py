"""lsr/request.py: what may be asked, and how a wrong setting is told."""

import pytest

from lsr.request import Feedback, Interpolation, Request, ask, parse_settings


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
        ({"alpha": 1}, "`alpha` is no setting of a request"),
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
