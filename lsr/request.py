"""Requests to an index: one model for the command line, Python and HTTP."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)

from lsr.facet import Facet, FacetJson, read_facet
from lsr.filter import And, Comparison, Filter, Range
from lsr.filter_json import FilterJson
from lsr.filter_text import read_filter
from lsr.request_stages import (
    AnyGroup,
    Boosts,
    Diversity,
    Group,
    Rerank,
    Settings,
    Sort,
)

LARGEST_K = 1_000_000
# The range of term weights in a query. Their common scale changes only the scores.
SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-100, 1e100

# A source of scores. "sparse" is learned terms and words in one pass.
Side = Literal["words", "learned", "sparse", "dense"]
# A query that feedback moves: "sparse" is that of learned terms and that of words.
Moved = Literal["sparse", "dense"]
Mode = Literal["words", "learned", "sparse", "dense", "hybrid"]
# Sides that Lucene searches.
SPARSE: tuple[Side, ...] = ("words", "learned", "sparse")
Share = Annotated[float, Field(ge=0, le=1)]
AnyFilter = Annotated[
    Filter,
    PlainValidator(read_filter, json_schema_input_type=str | FilterJson),
    PlainSerializer(str, return_type=str),
]

AnyFacet = Annotated[
    Facet,
    PlainValidator(read_facet, json_schema_input_type=str | FacetJson),
    PlainSerializer(str, return_type=str),
]
MOST_FACETS = 20


class Words(Settings):
    """How the words of title and text are scored: BM25 (Robertson and Zaragoza, 2009, eq. 3.15).

    A word adds idf · tf / (tf + k1 · (1 − b + b · length / average length)), as in Lucene.
    """

    weight: Annotated[float, Field(ge=0, le=1000)] = Field(
        default=0.75,
        description="of words beside learned terms in one pass: with 1 the best documents by words "
        "score about as much as those by learned terms",
    )
    k1: Annotated[float, Field(ge=0, le=100)] = Field(
        default=1.2, description="saturation of the frequency of a word in a document"
    )
    b: Share = Field(default=0.75, description="strength of the normalisation by length")
    title: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.25,
        description="weight of a word in the title alone, beside 1 in title and text together",
    )


class Interpolation(Settings):
    """How rankings of several sides become one: see `lsr.search.fusion`."""

    sides: tuple[Side, ...] = Field(
        default=("sparse", "dense"),
        description="the rankings: for convex one of words, learned and sparse, then dense; for "
        "rrf any two or three",
    )
    method: Literal["convex", "rrf"] = "convex"
    alpha: Share = Field(
        default=0.5, description="weight of the first side; the dense side has 1 − alpha"
    )
    normalisation: Literal["min-max", "theoretical", "z-score", "none"] = Field(
        default="min-max", description="of each side's scores before they are added (convex)"
    )
    missing: Literal["exact", "zero", "minimum"] = Field(
        default="exact",
        description="what a side gives a document that only the other side returned",
    )
    rank_constant: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=60, description="the k of reciprocal rank fusion (rrf)"
    )
    depth: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=1000, description="documents of each side; no answer depends on the page asked for"
    )

    @field_validator("sides", mode="before")
    @classmethod
    def _split(cls, sides: object) -> object:
        """Take "words,dense" as the command line gives it."""
        return tuple(sides.split(",")) if isinstance(sides, str) else sides

    @model_validator(mode="after")
    def _fits(self) -> Interpolation:
        sides = self.sides
        if self.method == "convex" and not (
            len(sides) == 2 and sides[0] != "dense" and sides[1] == "dense"
        ):
            raise ValueError(
                "`sides` of method 'convex' must be words, learned or sparse, and then dense, got "
                f"{', '.join(sides)}"
            )
        if not 2 <= len(sides) <= 3 or len(set(sides)) < len(sides):
            raise ValueError(f"`sides` must be two or three different ones, got {', '.join(sides)}")
        if "sparse" in sides and {"words", "learned"} & set(sides):
            raise ValueError(
                "`sides` 'sparse' holds words and learned terms already, got " + ", ".join(sides)
            )
        if len(sides) == 3 and self.alpha != 0.5:
            raise ValueError(f"`alpha` weighs two sides, and `sides` are {', '.join(sides)}")
        return self


class Feedback(Settings):
    """A second pass with a query moved towards its first results: see `lsr.search.feedback`."""

    side: Literal["sparse", "dense", "both"] | None = Field(
        default=None,
        description="the query that is moved; by default the dense one where there is one",
    )
    method: Literal["rocchio", "average", "relevance-model"] = Field(
        default="rocchio", description="relevance-model (RM3) is for the sparse side"
    )
    documents: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="first results taken for relevant"
    )
    alpha: Annotated[float, Field(ge=0, le=100)] = Field(
        default=1.0, description="weight of the query"
    )
    beta: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.5, description="weight of the documents' mean"
    )
    gamma: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0, description="weight of the mean of `negatives`, subtracted"
    )
    negatives: Annotated[int, Field(ge=0, le=100)] = Field(
        default=0, description="last results of the first pass taken for not relevant"
    )
    iterations: Annotated[int, Field(ge=1, le=10)] = 1
    terms: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=10, description="terms of the moved sparse query: its own, then the heaviest others"
    )
    mass: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="or the heaviest that hold this share of the sum of weights"
    )
    ratio: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="or those of at least this share of the largest weight"
    )
    first: Side | None = Field(
        default=None,
        description="the side whose first results are taken; by default the one that is searched "
        "with the moved query",
    )
    interpolate: Literal["none", "before", "after", "both"] | None = Field(
        default=None,
        description="where the sides are interpolated (Li et al., SIGIR 2022): the first results, "
        "the last, or both; by default both in mode hybrid",
    )

    @model_validator(mode="after")
    def _fits(self) -> Feedback:
        if self.method == "relevance-model" and self.side in ("dense", "both"):
            raise ValueError("method 'relevance-model' is for side 'sparse'")
        if self.alpha == 0 and self.beta == 0 and self.method != "average":
            raise ValueError("`alpha` or `beta` must be above 0")
        if (self.gamma > 0) != (self.negatives > 0):
            raise ValueError("`gamma` and `negatives` belong together: give both or neither")
        if self.first and self.interpolate in ("before", "both"):
            raise ValueError(
                f"`first` is for interpolate 'none' and 'after'; {self.interpolate!r} takes the "
                "interpolated first results"
            )
        return self


# Groups of settings in a Request.
NESTED: dict[str, type[BaseModel]] = {
    "words": Words,
    "interpolation": Interpolation,
    "feedback": Feedback,
    "rerank": Rerank,
    "diversity": Diversity,
    "group": Group,
}


class Request(Settings):
    """A query and what is wanted of its answer."""

    query: str | dict[str, float] = Field(description="a text, or term → weight")
    operators: bool = Field(
        default=True,
        description='whether a text is read for operators: "a phrase", +must, -not, title:word, '
        "KEY:value, prefix*, fuzzy~1 (see `lsr.query_text`); if not, all of it is plain text",
    )
    k: Annotated[int, Field(ge=1, le=LARGEST_K)] = Field(default=10, description="hits")
    mode: Mode | None = Field(
        default=None,
        description="words (BM25), learned (the encoder's terms), sparse (both in one pass), "
        "dense, or hybrid (interpolated). By default all that the index and the query have: hybrid "
        "with a dense side, else sparse; learned for term weights",
    )
    words: Words | None = Field(
        default=None,
        description="of modes words, sparse and hybrid; by default what `lsr tune` has stored, "
        "else its defaults",
    )
    interpolation: Interpolation | None = Field(
        default=None,
        description="of mode hybrid; by default what `lsr tune` has stored, else its defaults",
    )
    feedback: Feedback | None = None
    filter: AnyFilter | None = Field(
        default=None,
        description="what a hit must match, as a string (`kind = function and year >= 1950`, "
        '`contains("heat flow")`) or as JSON; see `lsr.filter`',
    )
    facets: Annotated[tuple[AnyFacet, ...], Field(max_length=MOST_FACETS)] = Field(
        default=(),
        description="what to count among all documents that `total` counts, as strings "
        "(`kind`, `kind: 50`, `year: ..1950, 1951..2000`) or as JSON; see `lsr.facet`. The hits "
        "do not depend on them, nor do they on the page",
    )
    min_scores: dict[Side, float] = Field(
        default={},
        description="smallest score of a hit by each of these sides, in the side's own units",
    )
    boosts: Boosts = Field(
        default=(),
        description="addends to the score by numbers and dates of metadata; see "
        "`lsr.search.boosting`",
    )
    rerank: Rerank | None = Field(
        default=None, description="the first hits in the order of a cross-encoder"
    )
    diversity: Diversity | None = Field(
        default=None, description="the first hits in an order in which neighbours differ (MMR)"
    )
    group: AnyGroup | None = Field(
        default=None, description="the key of metadata that groups hits, and how many of a group"
    )
    sort: Sort = Field(
        default=(),
        description="keys of metadata that order the hits, such as year, or -year for descending; "
        "ties are ordered by the keys that follow, then by score and id. Documents without a value "
        "come last. A list counts by its smallest value, or by its largest where descending",
    )
    min_score: float | None = Field(default=None, description="smallest score of a hit")
    max_terms: Annotated[int, Field(ge=1, le=LARGEST_K)] | None = Field(
        default=None, description="query terms used, the heaviest"
    )
    mass: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="query terms used: the heaviest that hold this share of the weights' sum",
    )
    rescore: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None,
        description="candidates of the query cut by `max_terms` or `mass` that are scored again "
        "by all its terms (approximate: others are not seen)",
    )

    @field_validator("min_score", mode="before")
    @classmethod
    def _finite(cls, score: object) -> object:
        if isinstance(score, float) and not math.isfinite(score):
            raise ValueError(f"`min_score` must be finite and at least 0, got {score}")
        return score

    @field_validator("query")
    @classmethod
    def _utf8(cls, value: Any) -> Any:
        texts = [value] if isinstance(value, str) else [*value, *value.values()]
        for text in texts:
            if isinstance(text, str) and not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise ValueError(
                        f"{text!r} holds a lone surrogate, which UTF-8 cannot express"
                    ) from error
        return value

    @field_validator("query")
    @classmethod
    def _weights(cls, query: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(query, dict):
            for term, weight in query.items():
                if not SMALLEST_WEIGHT <= weight <= LARGEST_WEIGHT:
                    raise ValueError(_weight_bounds(term, weight))
        return query

    @model_validator(mode="after")
    def _fits(self) -> Request:
        if self.rescore and not (self.max_terms or self.mass):
            raise ValueError("`rescore` needs `max_terms` or `mass`, which cut the first query")
        if self.sort and (self.rerank or self.diversity):
            raise ValueError(
                "`sort` orders all hits: `rerank` and `diversity` would change nothing"
            )
        if self.rerank and not isinstance(self.query, str):
            raise ValueError("`rerank` needs a text: a cross-encoder cannot read term weights")
        if self.rerank and self.diversity and self.diversity.documents > self.rerank.documents:
            raise ValueError(
                "`diversity.documents` must be at most `rerank.documents`, "
                f"{self.rerank.documents}, got {self.diversity.documents}"
            )
        if self.mode is not None:
            self._check_mode(self.mode)
        return self

    def _check_mode(self, mode: Mode) -> None:
        if self.feedback:
            self._check_feedback(self.feedback)
        floor = self.min_score
        if floor is not None and mode in SPARSE and floor < 0:
            raise ValueError(
                f"`min_score` must be finite and at least 0 in mode {mode!r}, got {floor}"
            )
        if mode != "learned" and not isinstance(self.query, str):
            raise ValueError(
                f"mode {mode!r} needs a text: term weights have neither words nor a dense vector"
            )
        if self.interpolation and mode != "hybrid":
            raise ValueError(f"`interpolation` is for mode 'hybrid', got mode {mode!r}")
        if self.words and mode in ("learned", "dense"):
            raise ValueError(f"`words` are for modes words, sparse and hybrid, got mode {mode!r}")
        if mode in ("dense", "words") and (self.max_terms or self.mass):
            raise ValueError(f"`max_terms` and `mass` cut learned terms; mode is {mode!r}")
        if self.rescore and mode not in ("learned", "sparse"):
            raise ValueError(f"`rescore` is for modes 'learned' and 'sparse', got mode {mode!r}")

    def resolved(self, *, dense: bool) -> Request:
        """Return the request with the mode that it has by default, where it has none.

        Args:
            dense: whether the index has a dense side.

        Raises:
            ValueError: a setting is not for this mode.
        """
        if self.mode is not None:
            return self
        mode: Mode = "sparse"
        if not isinstance(self.query, str):
            mode = "learned"
        elif dense and not self.rescore:
            mode = "hybrid"
        request = self.model_copy(update={"mode": mode})
        request._check_mode(mode)
        return request

    def _check_feedback(self, feedback: Feedback) -> None:
        if self.mode == "hybrid":
            sides = self.interpolation.sides if self.interpolation else ("dense",)
            if "dense" in self.sides_moved and "dense" not in sides:
                raise ValueError(
                    f"feedback's `side` {feedback.side!r} moves the dense query, and the "
                    f"interpolation's `sides` are {', '.join(sides)}"
                )
            if self.sides_moved == ("sparse", "dense") and self.stages not in ("after", "both"):
                raise ValueError(
                    "feedback on both sides ends in two rankings: `interpolate` must be 'after' "
                    f"or 'both', got {self.stages!r}"
                )
            return
        if feedback.interpolate not in (None, "none"):
            raise ValueError(
                f"`interpolate` {feedback.interpolate!r} needs mode 'hybrid', got {self.mode!r}"
            )
        moved: Moved = "dense" if self.mode == "dense" else "sparse"
        if feedback.side not in (None, moved):
            raise ValueError(
                f"feedback's `side` {feedback.side!r} needs mode 'hybrid' or {feedback.side!r}"
            )
        if feedback.first not in (None, self.mode):
            raise ValueError(
                f"feedback's `first` {feedback.first!r} needs mode 'hybrid' or {feedback.first!r}"
            )
        if self.mode == "dense" and feedback.method == "relevance-model":
            raise ValueError("method 'relevance-model' is for side 'sparse'")

    @property
    def is_staged(self) -> bool:
        """Whether the last pass is followed by stages, see `lsr.search.stages`."""
        return bool(
            self.min_scores
            or self.boosts
            or self.rerank
            or self.diversity
            or self.group
            or self.sort
        )

    @property
    def by_score(self) -> bool:
        """Whether hits are ordered by their scores."""
        return not (self.rerank or self.diversity or self.group or self.sort)

    @property
    def sides_moved(self) -> tuple[Moved, ...]:
        """The queries that feedback moves."""
        if not self.feedback:
            return ()
        if self.feedback.side == "both":
            return ("sparse", "dense")
        if self.feedback.side:
            return (self.feedback.side,)
        if self.mode in SPARSE or self.feedback.method == "relevance-model":
            return ("sparse",)
        if self.interpolation and "dense" not in self.interpolation.sides:
            return ("sparse",)
        return ("dense",)

    @property
    def stages(self) -> Literal["none", "before", "after", "both"]:
        """Where feedback's interpolation takes place."""
        if not self.feedback or self.mode != "hybrid":
            return "none"
        return self.feedback.interpolate or "both"


def is_empty(query: str | Mapping[str, float]) -> bool:
    """Whether a query is white space alone, or holds no term."""
    return not (query.strip() if isinstance(query, str) else query)


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Settings from "mode=hybrid", "interpolation.alpha=0.4", …; `ask` checks them.

    "filter=…" may be given several times: a hit must match all of these filters.

    Raises:
        ValueError: a pair has no "=", or gives a value and something inside it; or a filter cannot
            be read.
    """
    settings: dict[str, Any] = {}
    filters: list[Filter] = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ValueError(f"a setting must be KEY=VALUE, got {pair!r}")
        if key == "filter":
            filters.append(read_filter(value))
            continue
        if key.startswith("filters."):
            raise ValueError(_renamed({key.removeprefix("filters."): value}))
        *outer, last = key.split(".")
        place = settings
        for part in outer:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"setting {key!r}: {part!r} has a value already")
        place[last] = value
    if filters:
        settings["filter"] = And(tuple(filters)) if len(filters) > 1 else filters[0]
    return settings


def ask(query: str | Mapping[str, float] | Request, **settings: Any) -> Request:
    """The request for a query with settings (fields of Request), or the request given.

    Raises:
        ValueError: a setting is unknown or out of range; all of them are named.
    """
    if isinstance(query, Request):
        if not settings:
            return query
        values = query.model_dump() | settings
    else:
        values = {"query": query if isinstance(query, str) else dict(query)} | settings
    try:
        return Request.model_validate(values)
    except ValidationError as error:
        raise ValueError(describe_errors(error.errors())) from error


def describe_errors(details: Sequence[Any]) -> str:
    """Describe what is wrong with a request: one sentence for each setting, joined by "; ".

    Args:
        details: pydantic's errors of a Request, or of a model that extends it.
    """
    # Each member of a union fails in its own way: the first says enough.
    found: dict[str, str] = {}
    for detail in details:
        if detail["loc"][:2] == ("query", "str") and isinstance(detail["input"], dict):
            continue
        found.setdefault(".".join(str(part) for part in detail["loc"][:2]), _describe_error(detail))
    return "; ".join(found.values())


def _describe_error(detail: Any) -> str:
    """Describe one error of pydantic: the setting, what it may be, and what was given."""
    name = ".".join(str(part) for part in detail["loc"])
    kind, context, given = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "value_error":
        return str(context["error"])
    if detail["loc"][0] == "query" and len(detail["loc"]) == 3:
        term = detail["loc"][2]
        return _weight_bounds(term, given)
    bounds = _bounds(detail["loc"])
    if kind in ("greater_than_equal", "less_than_equal", "greater_than") and bounds:
        return f"`{name}` must be {bounds}, got {given!r}"
    if kind == "model_type" and name in NESTED:
        return f"`{name}` is a group of settings, such as {_inner(name)}; got {given!r}"
    if kind in ("tuple_type", "list_type"):
        return f"`{name}` must be a list, got {given!r}"
    if kind in ("dict_type", "mapping_type", "model_attributes_type"):
        return f"`{name}` must be an object, got {given!r}"
    if kind == "too_long":
        n = len(given) if hasattr(given, "__len__") else context["actual_length"]
        return f"`{name}` must have at most {context['max_length']}, got {n}"
    if kind == "literal_error":
        return f"`{name}` must be one of {context['expected']}, got {given!r}"
    if kind == "finite_number":
        return f"`{name}` must be finite, got {given!r}"
    if kind == "extra_forbidden" and detail["loc"][-1] == "filters":
        return _renamed(given)
    if kind == "extra_forbidden":
        return f"`{name}` is not a setting of a request"
    return f"`{name}`: {detail['msg']}, got {given!r}"


def _renamed(filters: object) -> str:
    """Say how the filters that requests had before are written now."""
    new = "kind = function and year = 1950..1960"
    if isinstance(filters, Mapping) and filters:
        try:
            parts = [
                str(
                    Comparison(
                        key, "=", Range(*value) if isinstance(value, list | tuple) else value
                    )
                )
                for key, value in filters.items()
            ]
            new = " and ".join(parts)
        except (ValueError, TypeError):  # not of the old form either
            pass
    return f"`filters` has become `filter`, an expression: write {new}"


def _inner(name: str) -> str:
    """A setting of a group, with its default, as the command line takes it."""
    fields = NESTED[name].model_fields.items()
    field, about = next(item for item in fields if not item[1].is_required())
    value = about.default[0] if isinstance(about.default, tuple) else about.default
    return f"{name}.{field}={value}"


def _weight_bounds(term: object, given: object) -> str:
    return f"the weight of {term!r} must be in [{SMALLEST_WEIGHT}, {LARGEST_WEIGHT}], got {given!r}"


def _bounds(path: Sequence[Any]) -> str:
    """The range of a setting of Request by its path, in words."""
    model: Any = Request
    found: dict[str, float] = {}
    for part in path:
        if part in NESTED and model is Request:
            model = NESTED[part]
            continue
        if part not in model.model_fields:
            break
        schema = model.model_json_schema()["properties"][part]
        for option in (schema, *schema.get("anyOf", ())):
            found |= {key: value for key, value in option.items() if "imum" in key.lower()}
    if not found:
        return ""  # a setting of a model that extends Request
    low, above = found.get("minimum"), found.get("exclusiveMinimum")
    high = found.get("maximum")
    if high is not None:
        return f"in {'[' if above is None else '('}{low if above is None else above}, {high}]"
    return f"at least {low}" if above is None else f"above {above}"
