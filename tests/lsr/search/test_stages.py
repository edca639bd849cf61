"""lsr/search/stages.py on random metadata, against slow oracles."""

import json
import random
from datetime import UTC, datetime

import numpy as np
import pytest

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.request import ask
from lsr.search import Position, Searcher
from lsr.search.boosting import addend

N = 120
WORDS = ["heat", "flow", "wing", "shock", "plate", "pressure", "cone", "jet"]
MODES = ["words", "learned", "sparse", "dense", "hybrid"]
QUERY = "heat flow over a wing"


@pytest.fixture(scope="module")
def searcher(tmp_path_factory, dense_model):
    chance = random.Random(0)
    lines = []
    for number in range(N):
        metadata = {
            "year": chance.choice([chance.randint(1950, 1960), chance.uniform(1950, 1960), None]),
            "kind": chance.choice(["a", "b", "c", True, 3, None]),
            "tags": chance.choices(["x", "y", "z"], k=chance.randint(0, 3)),
            "day": chance.choice(["2025-01-01", "2025-01-01T12:00:00Z", "1999-05-05", "no day"]),
            "size": chance.choice([2**53, 2**53 + 1, -(2**63), 2**63 - 1, 0.5]),
        }
        kept = {key: value for key, value in metadata.items() if value not in (None, [])}
        text = " ".join(chance.choices(WORDS, k=chance.randint(2, 12)))
        lines.append(json.dumps({"_id": f"d{number}", "text": text, "metadata": kept}) + "\n")
    folder = tmp_path_factory.mktemp("stages")
    (folder / "corpus.jsonl").write_text("".join(lines))
    build_index(
        open_corpus(folder / "corpus.jsonl"), folder / "index", "lexical", dense=dense_model
    )
    with Searcher(folder / "index") as opened:
        yield opened


def compared(value):
    """What a value is ordered by: numbers, dates, other strings, booleans."""
    if isinstance(value, bool):
        return (3, value)
    if isinstance(value, int | float):
        return (0, value)
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return (2, value)
    return (1, found if found.tzinfo else found.replace(tzinfo=UTC))


def values_of(hit, key):
    value = hit.document.metadata.get(key, [])
    return list(value) if isinstance(value, list | tuple) else [value]


def in_order(hits, sort):
    """Hits by insertion into place: each is compared with all."""
    placed = []
    for hit in hits:
        at = len(placed)
        while at and before(hit, placed[at - 1], sort):
            at -= 1
        placed.insert(at, hit)
    return placed


def before(hit, other, sort):
    for written in sort:
        key = written.removeprefix("-")
        pick = max if written.startswith("-") else min
        ours, theirs = values_of(hit, key), values_of(other, key)
        if bool(ours) != bool(theirs):
            return bool(ours)
        if not ours:
            continue
        mine, its = pick(map(compared, ours)), pick(map(compared, theirs))
        if mine != its:
            return mine > its if written.startswith("-") else mine < its
    return False


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "sort", [["year"], ["-year"], ["-kind", "year"], ["tags", "-day"], ["-size"], ["day", "size"]]
)
def test_hits_are_in_the_order_of_their_metadata(searcher, mode, sort):
    by_score = searcher.search(QUERY, N, mode=mode)
    found = searcher.search(QUERY, N, mode=mode, sort=sort)
    assert found == in_order(by_score, sort)
    assert searcher.search(QUERY, 7, mode=mode, sort=sort) == found[:7]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("sort", [[], ["-year"]])
@pytest.mark.parametrize("key", ["kind", "tags", "day"])
def test_groups_hold_their_first_hits(searcher, mode, most, sort, key):
    by_score = searcher.search(QUERY, N, mode=mode)
    found = searcher.search(QUERY, N, mode=mode, sort=sort, group={"key": key, "hits": most})

    def group(hit):
        of = sorted(map(compared, values_of(hit, key)))
        return of[0] if of else hit.document.id

    members = {}
    for hit in by_score:
        members.setdefault(group(hit), []).append(hit)
    kept = [hit for hit in by_score if hit in members[group(hit)][:most]]
    expected = []
    for hit in in_order(kept, sort):
        if hit.document.id not in {other.document.id for other in expected}:
            expected += [other for other in in_order(kept, sort) if group(other) == group(hit)]
    assert [hit.document.id for hit in found] == [hit.document.id for hit in expected]
    named = [hit for hit in found if hit.group is not None]
    assert all(compared(hit.group) == group(hit) for hit in named)
    assert all(not values_of(hit, key) for hit in found if hit.group is None)


def by_definition(boost, hit):
    """What a boost adds to a hit, see `lsr.search.boosting`."""
    best = 0.0
    for value in values_of(hit, boost["key"]):
        if boost.get("form", "saturation") == "saturation":
            number = not isinstance(value, bool | str) and value > 0
            f = value / (value + boost["pivot"]) if number else 0.0
        else:
            if isinstance(boost["origin"], str):
                if not isinstance(value, str) or compared(value)[0] != 1:
                    continue
                far = (compared(value)[1] - compared(boost["origin"])[1]).total_seconds() / 86400
            elif isinstance(value, bool | str):
                continue
            else:
                far = value - boost["origin"]
            d = max(0, abs(far) - boost.get("offset", 0)) / boost["scale"]
            decay = boost.get("decay", 0.5)
            f = {"exponential": decay**d, "gaussian": decay ** (d * d)}.get(
                boost["form"], max(0, 1 - (1 - decay) * d)
            )
        best = max(best, boost.get("weight", 1.0) * f)
    return best


BOOSTS = [
    [{"key": "year", "pivot": 1955, "weight": 3}],
    [{"key": "year", "form": "gaussian", "origin": 1955, "scale": 2, "offset": 1, "weight": 2.5}],
    [
        {"key": "day", "form": "exponential", "origin": "2025-01-02", "scale": 400, "decay": 0.3},
        {"key": "year", "form": "linear", "origin": 1950.5, "scale": 3, "weight": 0.5},
    ],
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("boosts", BOOSTS)
def test_boosts_add_to_scores(searcher, mode, boosts):
    plain = searcher.search(QUERY, N, mode=mode)
    found = searcher.search(QUERY, N, mode=mode, boosts=boosts)
    scores = {
        hit.document.id: hit.score + sum(by_definition(boost, hit) for boost in boosts)
        for hit in plain
    }
    assert {hit.document.id: hit.score for hit in found} == pytest.approx(scores, abs=1e-9)
    ranked = [(-hit.score, hit.document.id) for hit in found]
    assert ranked == sorted(ranked)
    for hit in found[:10]:
        why = searcher.explain(QUERY, hit.document.id, mode=mode, boosts=boosts)
        assert why.score == hit.score
        addends = [boost.addend for boost in why.boosts]
        assert sum(addends, start=sum(side.share for side in why.sides)) == pytest.approx(hit.score)
        assert [boost.key for boost in why.boosts] == [boost["key"] for boost in boosts]
    floor = found[20].score
    least = searcher.search(QUERY, N, mode=mode, boosts=boosts, min_score=floor)
    assert least == [hit for hit in found if hit.score >= floor]


@pytest.mark.parametrize("mode", MODES)
def test_each_side_may_have_a_least_score(searcher, mode):
    for side in ["sparse", "dense"] if mode == "hybrid" else [mode]:
        whole = searcher.search(QUERY, N, mode=mode)
        alone = {hit.document.id: hit.score for hit in searcher.search(QUERY, N, mode=side)}
        floor = sorted(alone.values())[len(alone) // 2]
        found = searcher.search(QUERY, N, mode=mode, min_scores={side: floor})
        kept = [hit for hit in whole if alone.get(hit.document.id, 0) >= floor]
        assert found == kept and len(found) < len(whole)


@pytest.mark.parametrize("mode", ["words", "learned", "hybrid"])
@pytest.mark.parametrize("relevance", [0.0, 0.5, 1.0])
def test_diversity_is_marginal_relevance(searcher, mode, relevance):
    n = 25
    whole = searcher.search(QUERY, N, mode=mode)
    found = searcher.search(QUERY, N, mode=mode, diversity={"relevance": relevance, "documents": n})
    vectors = searcher.passes.dense.vectors([hit.document.id for hit in whole[:n]])
    vectors = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = [hit.score for hit in whole[:n]]
    scaled = [(score - min(scores)) / (max(scores) - min(scores)) for score in scores]
    chosen = []
    while len(chosen) < n:

        def worth(place):
            near = max((float(vectors[place] @ vectors[other]) for other in chosen), default=0.0)
            return relevance * scaled[place] - (1 - relevance) * near

        left = [place for place in range(n) if place not in chosen]
        best = max(worth(place) for place in left)
        # Of those that are equally good but for rounding, the one that was chosen.
        place = [hit.document.id for hit in whole].index(found[len(chosen)].document.id)
        assert place in left and worth(place) == pytest.approx(best, abs=1e-6)
        chosen.append(place)
    assert found[n:] == whole[n:]
    if relevance == 1:
        assert found == whole


def test_without_dense_vectors_forward_vectors_tell_what_is_alike(tmp_path):
    texts = ["heat heat flow", "heat flow flow", "wing heat"]
    lines = [json.dumps({"_id": f"d{n}", "text": text}) for n, text in enumerate(texts)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    build_index(open_corpus(tmp_path / "c.jsonl"), tmp_path / "index", "lexical")
    build_index(open_corpus(tmp_path / "c.jsonl"), tmp_path / "alone", "bm25")
    with Searcher(tmp_path / "index") as opened:
        plain = [hit.document.id for hit in opened.search("heat flow")]
        found = opened.search("heat flow", diversity={"relevance": 0.1})
        assert plain[2] == "d2" and [hit.document.id for hit in found][1] == "d2"
    with Searcher(tmp_path / "alone") as opened:
        with pytest.raises(ValueError, match="`diversity` needs dense vectors or learned terms"):
            opened.search("heat flow", diversity={})


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    """The directory of a tiny, random cross-encoder."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification

    from lsr.encoders.load import default_tokenizer

    path = tmp_path_factory.mktemp("cross") / "model"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=30_522, intermediate_size=32, num_labels=1, **sizes)
    BertForSequenceClassification(config).save_pretrained(path)
    default_tokenizer().save_pretrained(path)
    CrossEncoder(str(path), device="cpu").save_pretrained(str(path))
    return str(path)


@pytest.mark.parametrize("mode", ["words", "hybrid"])
def test_a_cross_encoder_orders_the_first_hits(searcher, mode, cross_encoder):
    import torch
    from sentence_transformers import CrossEncoder

    n = 12
    whole = searcher.search(QUERY, N, mode=mode)
    how = {"mode": mode, "rerank": {"model": cross_encoder, "documents": n}}
    found = searcher.search(QUERY, N, **how)
    model = CrossEncoder(cross_encoder, device="cpu")
    identity = torch.nn.Identity()
    logits = {
        hit.document.id: float(
            model.predict([(QUERY, hit.document.content)], activation_fn=identity)[0]
        )
        for hit in whole[:n]
    }
    for place, hit in enumerate(found[:n]):
        assert hit.rerank.score == pytest.approx(logits[hit.document.id], abs=1e-4)
        assert whole[hit.rerank.rank - 1].document == hit.document
        assert whole[hit.rerank.rank - 1].score == hit.score
        assert place == 0 or found[place - 1].rerank.score >= hit.rerank.score
    assert found[n:] == whole[n:] and all(hit.rerank is None for hit in found[n:])
    assert searcher.search(QUERY, 5, **how) == found[:5]
    # Operators are for the index: the model reads plain words.
    signed = searcher.search("+heat flow over a wing", N, **how)
    assert all("heat" in hit.document.text for hit in signed)


def test_a_cross_encoder_that_cannot_be_had_is_named(searcher, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        searcher.search(QUERY, rerank={"model": str(tmp_path / "nothing-here")})
    missing = ask(QUERY, mode="words", rerank={"model": str(tmp_path / "nothing-here")})
    plain = ask(QUERY, mode="words")
    failed, answered = searcher.answer([missing, plain])
    assert isinstance(failed, FileNotFoundError) and answered == searcher.search(plain)
    with pytest.raises(ValueError, match="no cross-encoder"):
        searcher.search(QUERY, rerank={"model": str(tmp_path)})
    with pytest.raises(ValueError, match="`rerank` needs a text"):
        searcher.search({"heat": 1.0}, rerank={"model": "x"})


SETTINGS = [
    {"boosts": BOOSTS[2]},
    {"diversity": {"documents": 30}},
    {"diversity": {}, "group": {"key": "kind", "hits": 9}},
    {"sort": ["-year", "day"]},
    {"group": {"key": "kind", "hits": 4}},
    {"group": {"key": "tags"}, "sort": ["size"]},
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_pages_together_are_one_large_answer(searcher, mode, settings):
    whole = searcher.search(QUERY, N, mode=mode, **settings)
    pages, place = [], None
    while True:
        (hits,) = searcher.answer([ask(QUERY, k=11, mode=mode, **settings)], [place])
        pages += hits
        if len(hits) < 11:
            break
        place = Position(hits[-1].score, hits[-1].document.id, len(pages))
    assert pages == whole


def test_saturation_of_the_largest_numbers():
    boost = ask("x", boosts=[{"key": "k", "pivot": 1e308}]).boosts[0]
    assert addend(boost, [1e308]) == 0.5 and addend(boost, [5e-324]) == 0.0


def test_the_lists_of_fixed_depth_are_what_is_ordered(searcher):
    how = {"interpolation": {"depth": 10}}
    best = {hit.document.id for hit in searcher.search(QUERY, N, mode="hybrid", **how)}
    found = searcher.search(QUERY, N, mode="hybrid", sort=["year"], **how)
    assert {hit.document.id for hit in found} == best != set()
    (said,) = searcher.approximations(QUERY, mode="hybrid", sort=["year"], **how)
    assert said == "hits are taken from the first 10 documents of each side, and end with them"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sort": ["yaer"]}, "`sort` 'yaer': no document of this index has a value under the key"),
        ({"group": {"key": "knid"}}, "`group`: no document of this index has a value under"),
        ({"sort": ["year", "-year"]}, "`sort` must hold each key once, got 'year' twice"),
        ({"sort": ["-"]}, "`sort` must hold keys of metadata, as year or -year, got '-'"),
        ({"boosts": [{"key": "kind", "pivot": 1}] * 11}, "`boosts`"),
        ({"boosts": [{"key": "tags", "pivot": 1}]}, "no document of this index has a number under"),
        (
            {"boosts": [{"key": "year", "form": "linear", "origin": "2025-01-01", "scale": 1}]},
            "no document of this index has a date under the key 'year'",
        ),
        (
            {"boosts": [{"key": "year", "form": "linear", "origin": 10**400, "scale": 1}]},
            "the origin of a boost must be in",
        ),
        (
            {"boosts": [{"key": "year", "form": "linear", "origin": True, "scale": 1}]},
            "the origin of a boost must be a number or a date, got a boolean",
        ),
        ({"boosts": [{"key": "year"}]}, "a boost of form 'saturation' needs pivot and none of the"),
        (
            {"boosts": [{"key": "day", "form": "linear", "origin": "soon", "scale": 1}]},
            "the origin of a boost must be a number or an ISO 8601 date, got 'soon'",
        ),
        (
            {"min_scores": {"words": 1}, "mode": "dense"},
            "must be of sides that are searched, dense",
        ),
        ({"sort": ["year"], "diversity": {}}, "`sort` orders all hits"),
        ({"group": {"key": "kind", "hits": 0}}, r"`group.hits` must be in \[1, 1000\], got 0"),
    ],
)
def test_what_does_not_fit_is_refused(searcher, settings, told):
    with pytest.raises(ValueError, match=told):
        searcher.search(QUERY, **settings)
