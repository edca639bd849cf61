"""Synonyms of queries: how they are stored, what they find, and what they weigh."""

import json
import math
import random
import shutil
import time
import zipfile
from itertools import product
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lsr.building.build import add_documents, build_index, delete_matching
from lsr.building.live import open_live
from lsr.building.synonym_rules import NAME, count_rules
from lsr.building.synonyms import change_synonyms
from lsr.building.upgrade import upgrade_index
from lsr.cli import app
from lsr.corpus.corpus import open_corpus
from lsr.filter import Contains
from lsr.filter_text import parse
from lsr.indexes.manifest import read_manifest
from lsr.indexes.readings import alternatives, count_readings
from lsr.request import ask
from lsr.search import Searcher
from lsr.search.highlight import Match

TEXTS = {
    "car": "A fast car on the road",
    "auto": "An automobile in the garage, an old automobile",
    "states": "The United States of America have roads",
    "usa": "Roads of the USA",
    "america": "America has united many states",
    "uk": "Roads of Britain",
    "ukuk": "The UK today",
    "boat": "A boat on the water",
}
RULES = """# what we call things
car, automobile, motor vehicle
usa, united states of america

uk => britain
"""


def write(path, texts):
    path.write_text("\n".join(json.dumps({"_id": key, "text": of}) for key, of in texts.items()))
    return open_corpus(path)


@pytest.fixture
def index(tmp_path):
    build_index(write(tmp_path / "corpus.jsonl", TEXTS), tmp_path / "index", "lexical")
    return tmp_path / "index"


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synonyms")
    build_index(write(folder / "corpus.jsonl", TEXTS), folder / "index", "lexical")
    change_synonyms(folder / "index", RULES)
    with Searcher(folder / "index") as opened:
        yield opened


def ids(searcher, query, **settings):
    return sorted(hit.document.id for hit in searcher.search(query, **settings))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("cars", ["auto", "car"]),
        ("+automobiles", ["auto", "car"]),
        ("motor vehicles", ["auto", "car"]),
        ("motor", []),
        ('"fast automobile"', ["car"]),
        ("road -car", ["states", "uk", "usa"]),
        ("+usa", ["states", "usa"]),
        ('"united states of america"', ["states", "usa"]),
        ('"roads of the united states of america"', ["usa"]),
        ('"the usa have roads"', ["states"]),
        ("title:usa boat", []),
        ("uk", ["uk"]),
        ('"roads of the uk"', []),
        ('"roads of uk"', ["uk"]),
        ("boat", ["boat"]),
        ("automobil*", ["auto"]),
        ("usa~1", ["usa"]),
    ],
)
def test_what_synonyms_find(searcher, query, expected):
    assert ids(searcher, query, mode="words") == expected
    if '"' in query or "+" in query:
        assert set(ids(searcher, query, mode="sparse")) == set(expected)


def test_random_phrases_match_where_one_of_their_readings_does(tmp_path):
    rng = random.Random(23)
    groups = [
        ["car", "motor of vehicle", "fast box"],
        ["usa", "states of the america"],
        ["x y", "z"],
    ]
    others = ["road", "boat", "the", "in"]
    pieces = [side for group in groups for side in group] + others
    texts = {str(n): " ".join(rng.choices(pieces, k=rng.randint(2, 7))) for n in range(150)}
    build_index(write(tmp_path / "corpus.jsonl", texts), tmp_path / "index", "bm25")
    found = 0
    with open_live(tmp_path / "index") as plain:
        change_synonyms(tmp_path / "index", "\n".join(", ".join(group) for group in groups))
        with open_live(tmp_path / "index") as live:
            for _ in range(150):
                parts = [[rng.choice(others)], rng.choice(groups), [rng.choice(others)]]
                parts += [rng.choice(groups)] * rng.randint(0, 1)
                asked = " ".join(rng.choice(part) for part in parts)
                readings = [" ".join(reading) for reading in product(*parts)]
                expected = sorted(
                    {doc for one in readings for doc in plain.index.matching(Contains(one))}
                )
                assert live.index.matching(Contains(asked)) == expected, asked
                found += len(expected) > len(plain.index.matching(Contains(asked))) > 0
    assert found > 30


def test_filters_and_deletion_have_them_too(index):
    change_synonyms(index, RULES)
    with Searcher(index) as opened:
        assert opened.index.matching(parse("contains(automobile)")) == ["auto", "car"]
        assert opened.index.matching(parse('not contains("motor vehicle") and contains(road)')) == [
            *("states", "uk", "usa")
        ]
    assert delete_matching(index, Contains("automobile")) == 2


def test_a_synonym_weighs_at_most_as_much_as_what_was_asked_for(searcher):
    def words(query):
        return searcher.asked(ask(query, mode="words")).words

    idf = searcher.passes.statistics.idf(["car", "automobil", "usa", "unit", "state", "america"])
    assert idf["car"] == idf["automobil"] and "motor" not in words("boat")
    assert words("car boat") == {"car": 1, "automobil": 1, "motor": 1, "vehicl": 1, "boat": 1}
    # Three words in place of one have its weight together.
    found = words("usa")
    several = sum(idf[word] for word in ("unit", "state", "america"))
    share = idf["usa"] / several
    assert found == {"usa": 1, **dict.fromkeys(("unit", "state", "america"), pytest.approx(share))}
    assert sum(found[word] * idf[word] for word in ("unit", "state", "america")) == pytest.approx(
        idf["usa"]
    )
    # One in place of three weighs as it would alone.
    assert words("the united states of america") == {
        **dict.fromkeys(("unit", "state", "america"), 1),
        "usa": min(1, several / idf["usa"]),
    }
    assert words("uk") == {"britain": 1}
    assert words("motor vehicle") == {"motor": 1, "vehicl": 1, "car": 1, "automobil": 1}
    assert words("car car") == {"car": 2, "automobil": 1, "motor": 1, "vehicl": 1}
    assert math.isclose(sum(words("usa").values()), 1 + 3 * share)


def test_rankings_of_many_queries_have_them_too(searcher):
    plain = searcher.rank(["cars of the usa"], mode="words")[0]
    assert plain == [
        (hit.document.id, hit.score) for hit in searcher.search("cars of the usa", mode="words")
    ]
    assert {doc_id for doc_id, _ in plain} == {"car", "auto", "usa", "states", "america"}


def test_reasons_and_marks_show_them(searcher):
    why = searcher.explain("cars", "auto", mode="words")
    assert [(term.term, term.literal_in_query) for term in why.terms] == [("automobil", False)]
    assert why.score == why.terms[0].contribution > 0
    highlight = searcher.highlighter(ask("cars", mode="words"))
    assert highlight("an automobile, a car") == [
        Match(3, 13, "automobil", False),
        Match(17, 20, "cars", True),
    ]


def test_words_that_are_no_synonyms_score_as_before(index, searcher):
    with Searcher(index) as without:
        for query in ("boat road", "the old garage", '"fast car" road'):
            for mode in ("words", "learned", "sparse"):
                before = without.rank([query], mode=mode)
                if "car" not in query:
                    assert searcher.rank([query], mode=mode) == before
            assert without.asked(ask(query)).names == searcher.asked(ask(query)).names


def test_paths_are_those_that_the_rules_say(tmp_path):
    # Each word beside all that stands for it, without the gaps that stop words leave.
    sides = [["a b c", "d", "e of f"], ["g", "h i"]]
    rules = "\n".join(", ".join(side) for side in sides)
    build_index(
        write(tmp_path / "corpus.jsonl", {"1": "x"}), tmp_path / "index", "bm25", language="en"
    )
    change_synonyms(tmp_path / "index", rules.replace("a b", "aa b"))
    with open_live(tmp_path / "index") as live:
        for one, other in product(["aa b c", "d", "e of f"], sides[1]):
            (words,) = live.index.query_words([f"{one} {other} x"])
            found = [
                sorted(" ".join(word.word for word in path) for path in paths)
                for paths in alternatives(words)
            ]
            assert found == [["aa b c", "d", "e f"], ["g", "h i"], ["x"]], (one, other)
            own = [
                word.word
                for paths in alternatives(words)
                for path in paths
                if not any(word.is_synonym for word in path)
                for word in path
            ]
            assert own == f"{one} {other} x".replace("of ", "").split()


def test_a_phrase_of_too_many_readings_is_refused_at_once(index):
    change_synonyms(index, "x y, a b c, d e f g, h i")
    with Searcher(index) as opened:
        phrase = "x y " * 12
        message = rf"synonyms give the phrase '{phrase}' 16,777,216 readings, of at most 1,000"
        with pytest.raises(ValueError, match=message):
            opened.search(f'"{phrase}"')
        with pytest.raises(ValueError, match=message):
            opened.search("road", filter=f'contains("{phrase}")')
        with pytest.raises(ValueError, match="more than 1,000,000,000,000 readings"):
            opened.search(f'"{"x y " * 200}"')
        assert opened.search(f'"{"x y " * 4}"') == []
        phrases = [f'"{"x y " * 4}z{n}"' for n in range(40)]  # of 256 readings each
        assert opened.search(" ".join(phrases[:39])) == []
        message = "synonyms give 40 phrases of the filter 10,240 readings together, of at most 10,0"
        with pytest.raises(ValueError, match=message):
            opened.search(" ".join(phrases))
        # The words of a plain query are looked at one by one.
        assert opened.search("x y " * 200) == []


def test_a_phrase_of_too_many_words_is_refused(index):
    change_synonyms(index, ", ".join(["car", *(f"car{n}" for n in range(999))]))
    with Searcher(index) as opened:
        assert ids(opened, '"fast car"') == ["car"]
        with pytest.raises(ValueError, match="has 11,000 words with its synonyms, of at most 10,0"):
            opened.search(f'"{"car " * 11}"')


def test_long_rules_take_linear_time(index):
    calls = []
    rule = ", ".join(["car", *(" ".join(f"w{n}x{i}" for i in range(3)) for n in range(900))])
    change_synonyms(index, f"{rule}, {' '.join(f'z{n}' for n in range(1500))}")
    with Searcher(index) as opened:
        plain = opened.index.word_frequencies
        opened.index.word_frequencies = lambda words: calls.append(words) or plain(words)
        start = time.perf_counter()
        words = opened.asked(ask("car car", mode="words")).words
        assert time.perf_counter() - start < 1
        assert len(words) == 4201 and words["car"] == 2
        assert len(calls) == 1


def test_readings_are_those_that_are_walked(tmp_path):
    build_index(write(tmp_path / "corpus.jsonl", {"1": "x"}), tmp_path / "index", "bm25")
    change_synonyms(tmp_path / "index", "a b c, d, e of f\ng, h i, j")
    rng = random.Random(3)
    with open_live(tmp_path / "index") as live:
        for _ in range(30):
            query = " ".join(rng.choices(["bb", "d", "g", "e of f", "h i", "of"], k=5))
            (words,) = live.index.query_words([query])
            walked = math.prod(len(paths) for paths in alternatives(words))
            assert count_readings(words) == walked >= 1, query


def test_open_searchers_see_a_change_when_they_refresh(index):
    with Searcher(index) as opened:
        assert ids(opened, "cars", mode="words") == ["car"]
        assert ids(opened, "road +car", mode="words") == ["car"]
        commit = opened.commit
        change_synonyms(index, RULES)
        assert ids(opened, "cars", mode="words") == ["car"]
        opened.refresh()
        assert opened.commit == commit + 1
        assert ids(opened, "cars", mode="words") == ["auto", "car"]
        assert ids(opened, "road +car", mode="words") == ["auto", "car"]
        change_synonyms(index, None)
        opened.refresh()
        assert ids(opened, "road +car", mode="words") == ["car"]
        assert not (read_manifest(index).folder(index) / NAME).exists()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            "car, automobile\nthe, a\n",
            "synonyms, line 2: term: the was completely eliminated by analyzer: that of language "
            "'en' keeps no word of it",
        ),
        ("+++, cpp", r"line 1: term: \+\+\+ was .*: that of language 'en' keeps no word of it"),
        ("a => b => c", "synonyms, line 1: more than one explicit mapping"),
        ("# nothing\n\n", "synonyms, no line gives a word a synonym"),
        ("car", "synonyms, line 1: 'car' gives no word a synonym; a rule is 'car, automobile'"),
        (f"a, b\n{','.join(map(str, range(1001)))}", "line 2: the rule has 1,001 entries, of at m"),
        ("a, b\n\n# x\nfoo =>", "synonyms, line 4: 'foo =>' gives no word a synonym"),
        ("a, b\r\nc, d =>", "synonyms, line 2: 'c, d =>' gives"),
        ("a, b\r=> baz", "synonyms, line 2: '=> baz' gives"),
        ("a, b\nbar, ,", "synonyms, line 2: 'bar, ,' gives"),
        (r"a\, b", "synonyms, line 1: 'a"),
        ("a, b\u2028c\nbar", "synonyms, line 2: 'bar' gives"),
        ("", "synonyms, no line gives a word a synonym"),
    ],
)
def test_what_is_no_rule_is_refused_and_nothing_changes(index, rules, message):
    change_synonyms(index, RULES)
    with pytest.raises(ValueError, match=message):
        change_synonyms(index, rules)
    with open_live(index) as live:
        assert live.index.synonyms == RULES and live.index.count(Contains("motor vehicle")) == 2


def test_a_damaged_file_is_named(index):
    (read_manifest(index).folder(index) / NAME).write_text("x => y => z")
    message = (
        r"synonyms\.txt cannot be read: synonyms, line 1: more than one .*\. `lsr synonyms DIR "
        "FILE` stores others in its place, `lsr synonyms DIR --remove` removes them"
    )
    with pytest.raises(ValueError, match=message):
        Searcher(index)


@pytest.mark.parametrize("damaged", [b"x => y => z", b"\xff, a", b"the, a"])
def test_a_damaged_file_can_be_replaced_and_removed(index, tmp_path, damaged):
    path = read_manifest(index).folder(index) / NAME
    (tmp_path / "rules.txt").write_text(RULES)
    for arguments in ("--remove", str(tmp_path / "rules.txt")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="lsr synonyms DIR --remove"):
            add_documents(write(tmp_path / "more.jsonl", {"more": "A motor vehicle"}), index)
        result = CliRunner().invoke(app, ["synonyms", str(index), arguments])
        assert result.exit_code == 0, result.stderr
        with Searcher(index) as opened:
            cars = ["car"] if arguments == "--remove" else ["auto", "car"]
            assert ids(opened, "car", mode="words") == cars
    path.write_bytes(b"\xff")
    build = build_index(write(tmp_path / "corpus.jsonl", TEXTS), index, "bm25")
    (notice,) = [said for said in build.notices if "synonyms" in said]
    assert "cannot read (not UTF-8" in notice


def test_signs_that_are_dropped_are_named(index):
    rules = (
        "# c++\nc++, cpp\ne-mail, electronic mail\n\nunited states of america, u.s.a.\nx\\,y => c#"
    )
    assert change_synonyms(index, rules) == [
        "synonyms, line 2: 'c++' is read as 'c'",
        "synonyms, line 6: 'x,y' is read as 'x y'",
        "synonyms, line 6: 'c#' is read as 'c'",
    ]
    assert change_synonyms(index, RULES) == change_synonyms(index, None) == []


def test_a_build_in_place_keeps_them(index, tmp_path):
    change_synonyms(index, RULES)
    add_documents(write(tmp_path / "more.jsonl", {"more": "Motor vehicle tax"}), index)
    build_index(write(tmp_path / "corpus.jsonl", TEXTS | {"d": "motor vehicles"}), index, "bm25")
    with Searcher(index) as opened:
        assert ids(opened, "cars", mode="words") == ["auto", "car", "d"]
    change_synonyms(index, "der, auto")  # two words, in English
    build = build_index(write(tmp_path / "corpus.jsonl", TEXTS), index, "bm25", language="de")
    (notice,) = [said for said in build.notices if "synonyms" in said]
    assert notice.startswith(
        "dropped the synonyms, which the analyzer of language 'de' cannot read (synonyms, line 1"
    )
    with open_live(index) as live:
        assert live.index.synonyms is None


def test_an_upgrade_keeps_them(tmp_path):
    with zipfile.ZipFile(Path(__file__).with_name("format-2.zip")) as archive:
        archive.extractall(tmp_path / "index")
    (tmp_path / "index" / "generation-1" / NAME).write_text("heat, warmth")
    assert upgrade_index(tmp_path / "index").notice is None
    with Searcher(tmp_path / "index") as opened:
        assert ids(opened, "warmth", mode="words") == ids(opened, "heat", mode="words") != []


def test_the_command(index, tmp_path):
    def lsr(*arguments):
        result = CliRunner().invoke(app, ["synonyms", str(index), *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    file = tmp_path / "rules.txt"
    assert lsr() == lsr("--remove") == (0, "", f"{index} has no synonyms\n")
    file.write_bytes(b"\xef\xbb\xbf" + RULES.encode())
    assert lsr(file) == (0, "", f"3 rules stored with {index}\n")
    assert lsr() == (0, RULES, "")
    result = CliRunner().invoke(app, ["doctor", str(index)])
    assert "  synonyms: 3 rules\n" in result.stdout + result.stderr
    file.write_text("car, automobile")
    assert lsr(file) == (0, "", f"1 rule stored with {index}\n")
    assert lsr() == (0, "car, automobile\n", "")
    file.write_text("the => a")
    code, out, said = lsr(file)
    assert (code, out) == (1, "") and said.startswith(f"lsr: {file}: synonyms, line 1: term: the")
    file.write_bytes(b"\xff")
    assert lsr(file)[0] == 1 and "is not UTF-8" in lsr(file)[2]
    assert lsr(file, "--remove")[0] == 2
    assert lsr("--remove") == (0, "", f"1 rule removed from {index}\n")
    assert lsr() == (0, "", f"{index} has no synonyms\n")
    assert lsr(tmp_path / "absent")[0] == 1
    shutil.rmtree(index)
    assert lsr()[0] == 1


def test_the_command_says_what_is_dropped_and_what_deletion_asks_for(index, tmp_path):
    def lsr(*arguments):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        return result.exit_code, result.stderr

    file = tmp_path / "rules.txt"
    file.write_text("c++, cpp\ncar, automobile")
    assert lsr("synonyms", index, file) == (
        0,
        f"notice: {file}: synonyms, line 1: 'c++' is read as 'c'\n2 rules stored with {index}\n",
    )
    assert lsr("delete", index, "--filter", "contains(boa*)") == (
        0,
        f"deleted 1 document from {index}\n",
    )
    assert lsr("delete", index, "--filter", "contains(car)") == (
        0,
        "notice: contains(...) asked for the synonyms of its words too\n"
        f"deleted 2 documents from {index}\n",
    )


def test_rules_are_counted():
    assert count_rules(RULES) == 3
    assert count_rules("a, b\u2028c\x85d\r\ne, f\rg, h\n") == 3
    assert count_rules("") == 0
