"""From a corpus to explained answers, through the command line, on a small real text."""

import json
import re
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from lsr.cli import app
from lsr.encoders.lexical import LexicalEncoder
from lsr.search import Searcher

DOCUMENTS = {
    "d1": "The boundary layer over a flat plate in laminar flow.",
    "d2": "Heat transfer in turbulent flow through a pipe, and heat loss.",
    "d3": "Wing theory for slender bodies.",
    "d4": "",
}


def lsr(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in DOCUMENTS.items())
    )
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "heat flow"}\n')
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td2\t1\n")
    result = lsr("index", folder, "--out", folder / "index", "--encoder", "lexical")
    assert result.exit_code == 0, result.output
    return folder


def test_search_gives_hits_whose_reasons_sum_to_the_score(built):
    result = lsr("search", built / "index", "heat flow", "--json")
    hits = [json.loads(line) for line in result.stdout.splitlines()]
    assert [hit["id"] for hit in hits] == ["d2", "d1"]
    for hit in hits:
        assert sum(term["contribution"] for term in hit["terms"]) == hit["score"]
        assert sum(term["share"] for term in hit["terms"]) == pytest.approx(1)
        assert all(term["literal_in_query"] for term in hit["terms"])


def test_run_and_eval(built):
    run = built / "run.trec"
    result = lsr("search", built / "index", "--queries", built / "queries.jsonl", "--run", run)
    assert result.exit_code == 0, result.output
    assert [line.split()[2] for line in run.read_text().splitlines()] == ["d2", "d1"]
    result = lsr("eval", built, "--index", built / "index", "--json")
    assert json.loads(result.stdout)["means"]["RR@10"] == 1.0


def test_operators_of_a_query(built):
    def found(*arguments):
        result = lsr("search", built / "index", *arguments, "--json")
        assert result.exit_code == 0, result.output
        return [json.loads(line)["id"] for line in result.stdout.splitlines()], result.stderr

    assert found("flow -plate") == (["d2"], "3 documents pass the conditions of the query\n")
    assert found('"laminar flow"') == (["d1"], "1 document passes the conditions of the query\n")
    assert found("lam* theory", "--mode", "words") == (["d3", "d1"], "")
    assert found("flow", "--filter", 'not contains("heat loss")') == (
        ["d1"],
        "3 documents pass the filter\n",
    )
    assert found("flow +rocket") == (
        [],
        'notice: no document matches `contains("rocket")`\nno document matches\n'
        "0 documents pass the conditions of the query\n",
    )
    ids, said = found('5 "laminar flow')
    assert ids == ["d1", "d2"] and said.startswith('notice: the quote " at character 3 is never')
    assert found("flow -plate", "--set", "operators=false") == (["d1", "d2"], "")
    result = lsr("search", built / "index", "--json", "--", "-plate flow")
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["d2"]
    result = lsr("search", built / "index", "--", "-plate")
    assert (result.exit_code, result.stderr) == (
        1,
        "lsr: the query '-plate' only says what must match or must not: add a word to look for\n",
    )
    result = lsr("explain", built / "index", '"heat transfer" -plate', "d2", "--json")
    assert [term["term"] for term in json.loads(result.stdout)["terms"]][0] == "heat"


def test_queries_of_a_file_are_plain(built, tmp_path):
    texts = {"q1": '"flow', "q2": "-plate", "q3": "flow -heat"}
    lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
    (tmp_path / "queries.jsonl").write_text("\n".join(lines))
    arguments = ["search", built / "index", "--queries", tmp_path / "queries.jsonl"]
    arguments += ["--mode", "words", "--run", tmp_path / "run.trec"]
    result = lsr(*arguments)
    assert result.exit_code == 0 and "query" not in result.stderr, result.output
    rows = [line.split() for line in (tmp_path / "run.trec").read_text().splitlines()]
    found = [[row[2] for row in rows if row[0] == query] for query in texts]
    assert list(map(sorted, found)) == [["d1", "d2"], ["d1"], ["d1", "d2"]]
    (tmp_path / "queries.jsonl").write_text(lines[2])
    assert lsr(*arguments, "--set", "operators=true").exit_code == 0
    assert [line.split()[2] for line in (tmp_path / "run.trec").read_text().splitlines()] == ["d1"]


def test_a_build_an_addition_and_doctor_say_how_many_weights_reached_the_cap(
    built, tmp_path, monkeypatch
):
    cap = "reached the largest impact, 16,383: weights above 255.98 count as that"
    directory = tmp_path / "index"
    assert "largest impact" not in lsr("doctor", built / "index").stderr
    assert f"  0 weights {cap}\n" in lsr("doctor", built / "index").stdout
    encode = LexicalEncoder.encode_documents
    monkeypatch.setattr(
        LexicalEncoder,
        "encode_documents",
        lambda self, texts, *more: encode(self, texts, *more) * np.float32(1e3),
    )
    (tmp_path / "corpus.jsonl").write_text('{"_id": "x", "text": "heat flow"}\n')
    result = lsr("index", tmp_path / "corpus.jsonl", "--out", directory, "--encoder", "lexical")
    assert (result.exit_code, result.stdout) == (0, "") and f"2 weights {cap}" in result.stderr
    (tmp_path / "corpus.jsonl").write_text('{"_id": "y", "text": "heat"}\n')
    result = lsr("add", directory, tmp_path / "corpus.jsonl")
    assert result.exit_code == 0 and f"1 weight {cap}" in result.stderr
    result = lsr("doctor", directory)
    assert result.exit_code == 0 and f"  3 weights {cap}\n" in result.stdout


def test_explain_prints_a_chart(built):
    result = lsr("explain", built / "index", "heat", "d2", "--mode", "learned")
    assert result.exit_code == 0
    assert "100.0%" in result.stdout
    result = lsr("explain", built / "index", "heat", "d2")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("heat ")]
    assert {row[4] for row in rows} == {"literal", "word"}
    shares = [float(row[6].rstrip("%")) for row in rows]
    assert min(shares) > 0 and abs(sum(shares) - 100) <= 0.1


def test_a_second_build_replaces_the_first(built):
    out = built / "twice"
    for generation in (1, 2):
        assert lsr("index", built, "--out", out, "--encoder", "lexical").exit_code == 0
        assert [path.name for path in out.glob("generation-*")] == [f"generation-{generation}"]
    with Searcher(out) as searcher:
        assert [hit.document.id for hit in searcher.search("wing")] == ["d3"]


def test_weights_as_query_and_their_errors(built):
    with Searcher(built / "index") as searcher:
        assert [hit.document.id for hit in searcher.search({"wing": 2.0})] == ["d3"]
        with pytest.raises(ValueError, match="'qqqq' is not in the index's vocabulary"):
            searcher.search({"qqqq": 1.0})
        for weight in (0.0, -1.0, float("nan"), 1e101):
            with pytest.raises(
                ValueError, match=r"weight of 'wing' must be in \[1e-100, 1e\+100\]"
            ):
                searcher.search({"wing": weight})


def test_foreign_and_absent_directories_are_refused(built, tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    result = lsr("index", built, "--out", tmp_path)
    assert result.exit_code == 1
    assert "is not an index and not empty (it holds 'diary.txt')" in result.stderr
    assert (tmp_path / "diary.txt").read_text() == "mine"
    result = lsr("search", tmp_path, "x")
    assert result.exit_code == 1
    assert "holds no manifest.json" in result.stderr


def test_bad_line_stops_the_build_unless_told_to_skip(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "text": "heat"}\n{"_id": "b", "text"\n')
    command = ("index", corpus, "--out", tmp_path / "index", "--encoder", "lexical")
    result = lsr(*command)
    assert result.exit_code == 1
    assert "corpus.jsonl:2" in result.stderr
    result = lsr(*command, "--skip-bad")
    assert result.exit_code == 0, result.output
    assert "1 bad lines were skipped" in result.stderr


def test_usage_errors_exit_with_2(built):
    assert lsr("search", built / "index").exit_code == 2


def test_add_delete_merge_and_doctor(built, tmp_path):
    index = tmp_path / "index"
    assert lsr("index", built, "--out", index, "--encoder", "lexical").exit_code == 0
    more = tmp_path / "more.tsv"
    more.write_text("d9\tflutter of a wing\nd3\tnothing of the kind\n")
    result = lsr("add", index, more)
    assert result.exit_code == 0, result.output
    assert "2 documents added to" in result.stderr
    found = lsr("search", index, "wing", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in found] == ["d9"]
    result = lsr("delete", index, "d9", "d8")
    assert (result.exit_code, "no document 'd8'" in result.stderr) == (1, True)
    assert lsr("delete", index, "d9").exit_code == 0
    for arguments in ((), ("d0", "--filter", "year = 1")):
        result = lsr("delete", index, *arguments)
        assert (result.exit_code, "give ids of documents, or --filter" in result.stderr) == (
            2,
            True,
        )
    result = lsr("delete", index, "--filter", "yaer = 1")
    assert (result.exit_code, "under the key 'yaer'" in result.stderr) == (1, True)
    assert lsr("merge", index).exit_code == 0
    result = lsr("search", index, "wing")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no document matches" in result.stderr
    result = lsr("doctor", index)
    assert result.exit_code == 0
    for part in ("4 documents", "CheckIndex: clean", "encoder: lexical", "suitable", "anserini"):
        assert part in result.stdout
    for path in (index / "generation-1" / "lucene").glob("*.doc"):
        path.write_bytes(b"\0" * path.stat().st_size)
    result = lsr("doctor", index)
    assert result.exit_code == 1


def test_eval_builds_the_index_that_is_not_there(built, tmp_path):
    arguments = ("eval", built, "--index", tmp_path / "new", "--encoder", "lexical")
    result = lsr(*arguments, "--measures", "RR@10", "--run", tmp_path / "run.trec")
    assert result.exit_code == 0, result.output
    assert ["RR@10", "1.0000"] in [line.split() for line in result.stdout.splitlines()]
    assert (tmp_path / "run.trec").read_text().startswith("q1 Q0 d2 1 ")
    created = (tmp_path / "new" / "manifest.json").read_text()
    assert lsr(*arguments).exit_code == 0
    assert (tmp_path / "new" / "manifest.json").read_text() == created


def test_commands_are_listed_in_order():
    text = lsr("--help").stdout
    names = (
        "index",
        "add",
        "metadata",
        "delete",
        "merge",
        "upgrade",
        "synonyms",
        "search",
        "explain",
        "serve",
        "eval",
    )
    names += (
        "compare",
        "tune",
        "grid",
        "reproduce",
        "train",
        "adapt",
        "recipes",
        "export",
        "demo",
        "doctor",
    )
    found = re.findall(r"^│ (\w+) ", text.partition("Commands")[2], re.MULTILINE)
    assert tuple(found) == names


@pytest.mark.slow
def test_the_default_model_is_exported_once(tmp_path):
    assert lsr("export", str(tmp_path / "model")).exit_code == 0
    assert (tmp_path / "model" / "modules.json").exists()
    again = lsr("export", str(tmp_path / "model"))
    assert again.exit_code == 1
    assert "model exists: export into a directory that does not" in " ".join(again.stderr.split())


@pytest.fixture
def runs(tmp_path):
    """A BEIR folder of four queries and two runs; the second ranks each answer first."""
    (tmp_path / "queries.jsonl").write_text(
        "".join(f'{{"_id": "q{n}", "text": "x"}}\n' for n in range(4))
    )
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("".join(f"q{n}\ta\t1\n" for n in range(4)))
    own = "q0 Q0 q0 1 9 x\n"  # a query's own document, which is dropped
    for name, order in (("base", "ba"), ("better", "ab")):
        lines = "q{0} Q0 {1} 1 2 x\nq{0} Q0 {2} 2 1 x\n"
        text = own + "".join(lines.format(n, *order) for n in range(4))
        (tmp_path / f"{name}.trec").write_text(text)
    return tmp_path


def test_compare_run_files(runs):
    base, better = runs / "base.trec", runs / "better.trec"
    arguments = ("compare", runs, base, better, "--measures", "RR@10 R@1")
    result = lsr(*arguments)
    assert result.exit_code == 0, result.output
    for part in (
        "RR@10",
        "R@1",
        "0.5000",
        "+1.0000",
        "4/0/0",
        "4 queries; p values corrected by Holm",
    ):
        assert part in result.stdout
    record = json.loads(lsr(*arguments, "--json").stdout)
    assert record["measures"]["RR@10"]["baseline_mean"] == 0.5
    (system,) = record["measures"]["RR@10"]["systems"]
    assert (system["mean"], system["difference"], system["wins"]) == (1.0, 0.5, 4)
    assert system["p_randomisation"] == system["p_randomisation_holm"] == 2 / 2**4


def test_compare_an_index(built, tmp_path):
    """The fixture has one query; a second one is added here, for the same index."""
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / name).write_text((built / name).read_text())
    with (tmp_path / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q2", "text": "wing"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q1\td2\t1\nq2\td3\t1\n")
    run = tmp_path / "run.trec"
    run.write_text("q1 Q0 d1 1 2 x\nq1 Q0 d2 2 1 x\n")
    result = lsr("compare", tmp_path, run, built / "index", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert list(record["measures"]) == ["nDCG@10", "RR@10", "R@100"]
    (system,) = record["measures"]["RR@10"]["systems"]
    assert (system["mean"], system["difference"], system["wins"]) == (1.0, 0.75, 2)


@pytest.mark.parametrize(
    ("systems", "options", "code", "message"),
    [
        (["base.trec"], [], 2, "a baseline and at least one system"),
        (["base.trec", "gone.trec"], [], 1, "no run file or index directory: gone.trec"),
        (["base.trec", "better.trec"], ["--split", "dev"], 1, "no split 'dev'; available: test"),
        (["base.trec", "better.trec"], ["--measures", "mrr"], 1, "'mrr' is not a measure"),
    ],
)
def test_compare_errors(runs, monkeypatch, systems, options, code, message):
    monkeypatch.chdir(runs)
    result = lsr("compare", ".", *systems, *options)
    assert result.exit_code == code
    assert message in result.output


@pytest.fixture(scope="module")
def filterable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filterable")
    records = [
        {"id": "d1", "text": "heat", "price": 5, "n": 2**53, "status": "open"},
        {"id": "d2", "text": "heat", "price": 5.5, "n": 2**53 + 1, "by": {"tags": ["a", "b"]}},
        {"id": "d3", "text": "heat", "price": "5.0", "n": 2**53 + 2, "status": "a,b"},
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = lsr("index", folder, "--out", folder / "index", "--encoder", "lexical")
    assert result.exit_code == 0, result.output
    return folder / "index"


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        (["price=5"], ["d1"]),
        (["price=5.0"], ["d1"]),
        (["price='5.0'"], ["d3"]),
        (["price=5..5.5"], ["d1", "d2"]),
        ([f"n={2**53 + 1}"], ["d2"]),
        ([f"n={2**53 + 1}..{2**53 + 1}"], ["d2"]),
        (["by.tags=b"], ["d2"]),
        (["by.tags has all (a, b) and not price > 6"], ["d2"]),
        (["status='a,b'"], ["d3"]),
        (["status!=open"], ["d2", "d3"]),
        (["status in (open, closed)"], ["d1"]),
        (["exists(by)"], ["d2"]),
        (["status=open or n > 5", "price=5"], ["d1"]),
        (["status=closed"], []),
    ],
)
def test_filters(filterable, filters, ids):
    for option, prefix in (("--filter", ""), ("--set", "filter=")):
        options = [part for one in filters for part in (option, prefix + one)]
        result = lsr("search", filterable, "heat", "--json", *options)
        hits = [json.loads(line) for line in result.stdout.splitlines()]
        assert (result.exit_code, [hit["id"] for hit in hits]) == (0, ids), result.output
    assert ids != ["d2"] or hits[0]["metadata"] == {
        "price": 5.5,
        "n": 2**53 + 1,
        "by.tags": ["a", "b"],
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("state=open", 'filter `state = "open"`: no document of this index has a value under'),
        ("state=open", "the keys are status (string), by.tags (string), n (integer), price (str"),
        ("status=open,closed", "character 12: expected .., `and`, `or` or the end, got ',closed'"),
        ("price=>100", "filter, character 7: expected a value or .., got '>100'"),
        ("price=2020-01-01..", "'price' holds strings and integers and floats in this index, and"),
        ("price=6..5", "the bounds of a range must be low ≤ high, got 6..5"),
    ],
)
def test_filters_that_are_none(filterable, given, message):
    result = lsr("search", filterable, "heat", "--filter", given)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_metadata(filterable, tmp_path):
    directory = tmp_path / "index"
    shutil.copytree(filterable, directory)
    result = lsr("metadata", directory, "d1", "status=closed", "price=null", 'n=["02", 7]')
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    assert result.stderr.endswith(f"changed 1 document of {directory}\n")
    (hit,) = lsr("search", directory, "heat", "--json", "--filter", "n=7").stdout.splitlines()
    assert json.loads(hit)["metadata"] == {"n": ["02", 7], "status": "closed"}
    changes = tmp_path / "changes.jsonl"
    changes.write_text(
        '{"id": "d1", "metadata": {"n": 1}}\n{"_id": "d2", "metadata": {"by": null}}'
    )
    assert "changed 2 documents" in lsr("metadata", directory, "--file", changes).stderr
    hits = lsr("search", directory, "heat", "--json", "--filter", "not exists(by)").stdout
    found = {hit["id"]: hit["metadata"] for hit in map(json.loads, hits.splitlines())}
    assert found["d1"] == {"n": 1, "status": "closed"}
    assert found["d2"] == {"n": 2**53 + 1, "price": 5.5}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["d9", "a=1"], 1, "no document 'd9' in this index"),
        (["d1"], 2, "give the id of a document and KEY=VALUE, or --file"),
        ([], 2, "give the id of a document and KEY=VALUE, or --file"),
        (["d1", "a=1", "--file", "x.jsonl"], 2, "give the id"),
        (["d1", "a"], 1, "a value of metadata must be KEY=VALUE, got 'a'"),
        (["d1", "a=1", "a=2"], 1, "a is given twice"),
        (["d1", 'a={"b": 1}', "a.b=2"], 1, "a.b is given twice"),
        (["d1", "a=NaN"], 1, "a must be finite"),
        (["--file", "none.jsonl"], 1, "none.jsonl: no such file"),
        (["--file", "x.tsv"], 1, "x.tsv"),
    ],
)
def test_metadata_that_cannot_be_changed(filterable, arguments, code, message):
    result = lsr("metadata", filterable, *arguments)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.replace("│", "").split())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "d1", "metadata": {"a": 1}, "text": "x"}', "and nothing else, got 'text'"),
        ('{"id": "d1"}', "metadata must be an object, got NoneType"),
        ('{"metadata": {"a": 1}}', "no id"),
        ('{"id": "d1", "metadata": {}}', "must name a key of metadata"),
        ("", "no changes"),
    ],
)
def test_lines_that_are_no_change(filterable, tmp_path, line, message):
    (tmp_path / "changes.jsonl").write_text("\n" + line)
    result = lsr("metadata", filterable, "--file", tmp_path / "changes.jsonl")
    assert result.exit_code == 1 and message in result.stderr
    assert not line or "changes.jsonl:2: " in result.stderr


def test_delete_by_filter(filterable, tmp_path):
    shutil.copytree(filterable, tmp_path / "index")
    result = lsr("delete", tmp_path / "index", "--filter", "status = open or n > 9007199254740993")
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    assert result.stderr.startswith("deleted 2 documents from ")
    hits = lsr("search", tmp_path / "index", "heat", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in hits] == ["d2"]
    result = lsr("delete", tmp_path / "index", "--filter", "price = 6")
    assert (result.exit_code, result.stderr[:19]) == (0, "deleted 0 documents")


def test_settings_hold_beside_options(filterable):
    result = lsr("search", filterable, "heat", "--set", "query=flow")
    assert (result.exit_code, result.stderr[:12]) == (1, "lsr: `query`")
    for settings in (["k=1"], ["max_terms=1", "k=1"], ["min_score=1000"]):
        options = [part for one in settings for part in ("--set", one)]
        result = lsr("search", filterable, "heat", "--json", *options)
        assert result.exit_code == 0, result.output
        assert len(result.stdout.splitlines()) == (0 if "min_score=1000" in settings else 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("heat", "--filter", "kind"), "filter, character 5: expected one of = != < <= > >="),
        (("heat", "--set", "filters.a=1"), "`filters` has become `filter`, an expression: write"),
        (("--weights", "{"), "--weights is not valid JSON"),
        (("--weights", "[1]"), '--weights must be a JSON object {"term": weight}'),
        (("--weights", '{"heat": -1}'), "the weight of 'heat' must be in [1e-100, 1e+100], got -1"),
        (("heat", "-k", "0"), "`k` must be in [1, 1000000], got 0"),
        (("heat", "--min-score", "nan"), "`min_score` must be finite and at least 0, got nan"),
    ],
)
def test_bad_arguments_are_a_line_on_stderr(built, arguments, message):
    result = lsr("search", built / "index", *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("lsr: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_interrupted_build_says_that_it_goes_on(built, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("lsr.building.build.build_index", interrupted)
    result = lsr("index", built, "--out", tmp_path / "index")
    assert result.exit_code == 130
    assert "interrupted; a build goes on when it is run again" in result.stderr


def test_facets_and_totals(filterable):
    arguments = ("search", filterable, "heat", "-k", 1)
    facets = ("--facet", "status", "--facet", "price: ..5, 5.5..", "--facet", "by.tags: 1")
    result = lsr(*arguments, "--json", *facets, "--filter", "n > 5")
    hit, counts = map(json.loads, result.stdout.splitlines())
    assert (result.exit_code, result.stderr, hit["id"]) == (0, "", "d1")
    ranges = [{"range": "..5", "documents": 1}, {"range": "5.5..", "documents": 1}]
    statuses = [{"value": "a,b", "documents": 1}, {"value": "open", "documents": 1}]
    one = [{"value": "a", "documents": 1}]
    assert counts == {
        "total": 3,
        "facets": [
            {"key": "status", "documents": 2, "values": statuses, "others": 0, "ranges": []},
            {"key": "price", "documents": 3, "values": [], "others": 0, "ranges": ranges},
            {"key": "by.tags", "documents": 1, "values": one, "others": 1, "ranges": []},
        ],
    }
    result = lsr(*arguments, *facets)
    shown = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "3 documents pass the filter" in shown and "5.5.. 1" in shown
    assert "by.tags 1 have it" in shown and "1 more values" in shown
    result = lsr(*arguments, "--json", "--filter", "price < 6")
    assert (len(result.stdout.splitlines()), result.stderr) == (1, "2 documents pass the filter\n")
    assert lsr(*arguments).stderr == ""


def test_sort_and_group(filterable):
    def found(*options):
        result = lsr("search", filterable, "heat", "--json", *options)
        assert result.exit_code == 0, result.output
        hits = [json.loads(line) for line in result.stdout.splitlines()]
        return [(hit["id"], hit["group"]) for hit in hits]

    assert found("--sort", "-n") == [("d3", None), ("d2", None), ("d1", None)]
    assert found("--sort", "status", "--sort", "-n") == [("d3", None), ("d1", None), ("d2", None)]
    assert found("--set", "sort=status,-n") == found("--sort", "status", "--sort", "-n")
    assert found("--sort", "n", "--group", "price") == [("d1", 5), ("d2", 5.5), ("d3", "5.0")]
    both = found("--group", "by.tags", "--set", "group.hits=2", "--sort", "n")
    assert both == [("d1", None), ("d2", "a"), ("d3", None)]
    result = lsr("search", filterable, "heat", "--group", "status")
    assert 'group "open"' in result.stdout, result.output


def test_facets_that_are_none(filterable):
    for facet, message in (
        ("state", "facet 'state': no document of this index has a value under the key"),
        ("price: 6..5", "facet 'price: 6..5': the bounds of a range must be low ≤ high"),
    ):
        result = lsr("search", filterable, "heat", "--facet", facet)
        assert result.exit_code == 1 and message in result.stderr
