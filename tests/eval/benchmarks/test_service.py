"""eval/benchmarks/service.py runs on a small index; times are not checked."""

import json
import shutil

import pytest

from lsr.documents import Document
from lsr.eval.benchmarks.service import main
from lsr.eval.benchmarks.service_load import first_lines, requests_of
from lsr.eval.benchmarks.service_replay import Answered, Write, differing
from lsr.request import ask
from lsr.search import Searcher


def test_queries_are_distinct_lines_of_4_to_10_words():
    documents = [
        Document("a", text="one two three four\nfive six seven eight nine"),
        Document("b", text="too few words\n" + "w " * 30),
        Document("c", text="one two three four"),
    ]
    expected = ["one two three four", "five six seven eight nine", " ".join("w" * 10)]
    assert first_lines(documents, 3) == expected
    with pytest.raises(ValueError, match="lines for 3 queries, asked for 4"):
        first_lines(documents, 4)
    assert [request.mode for request in requests_of(expected)] == ["sparse", "hybrid", "sparse"]


def test_a_replay_finds_what_is_not_of_its_state(built, tmp_path):
    asked = [ask("heat flow"), ask("heat flow", mode="hybrid", k=3)]
    written = Document("new", text="heat flow heat flow")
    with Searcher(built) as searcher:
        before = [[(h.document.id, h.score) for h in searcher.search(request)] for request in asked]
        base = searcher.commit
    bases = {3: built}
    writes = [Write(3, base + 1, [written]), Write(3, base + 2, [], ["new"])]
    right = [Answered(3, commit, n, before[n]) for n in (0, 1) for commit in (base, base + 2)]
    assert differing(right, writes, bases, asked, tmp_path) == []
    # An answer from before the write that claims to be from after it, and one with a wrong score.
    late = Answered(3, base + 1, 0, before[0])
    off = Answered(3, base, 1, [(before[1][0][0], before[1][0][1] + 1e-9), *before[1][1:]])
    found = differing([*right, late, off], writes, bases, asked, tmp_path)
    assert [answer for answer, _ in found] == [off, late]
    assert "new" in [doc_id for doc_id, _ in found[1][1]]
    with pytest.raises(ValueError, match=f"an answer is of commit {base + 9} of generation 3"):
        differing([Answered(3, base + 9, 0, before[0])], writes, bases, asked, tmp_path / "other")


@pytest.mark.slow
def test_all_parts_are_measured(built, corpus_of, tmp_path, capsys):
    shutil.copytree(built, tmp_path / "whole")
    corpus_of(tmp_path / "corpus.jsonl", 200)
    arguments = ["--queries", "40", "--clients", "4", "--swaps", "2", "--seconds", "1"]
    main([*arguments, "--folder", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    cost, swaps, overload = found["cost"], found["swaps"], found["overload"]
    assert list(cost["arms"]) == [
        f"{name}, {n}" for n in ("1 client", "4 clients") for name in ("engine", "API")
    ]
    assert (cost["answers"], cost["differing"]) == (120, 0)
    assert swaps["answers"] >= 40 and swaps["generations"] == 3 and swaps["writes"] > 0
    assert (swaps["differing"], swaps["errors"]) == (0, 0)
    assert overload["statuses"].keys() <= {"200", "429"}
    assert overload["memory_mb"]["at the end"] > 0
    main([*arguments, "--folder", str(tmp_path), "--part", "cost"])
    assert capsys.readouterr().out.startswith("cost\n")
