"""lsr/search/stages.py on random metadata, against a slow oracle: sort, groups, pages."""

import json
import random
from datetime import UTC, datetime

import pytest

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.request import ask
from lsr.search import Position, Searcher

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


SETTINGS = [
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
        ({"group": {"key": "kind", "hits": 0}}, r"`group.hits` must be in \[1, 1000\], got 0"),
    ],
)
def test_what_does_not_fit_is_refused(searcher, settings, told):
    with pytest.raises(ValueError, match=told):
        searcher.search(QUERY, **settings)
