"""The commands' messages on directories, ids and queries that they cannot use."""

import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import lsr as package
from lsr.building.build import build_index
from lsr.cli import app
from lsr.corpus.corpus import open_corpus

TEXTS = {"d1": "heat transfer in a pipe", "d2": "the boundary layer", "d3": "wing theory"}


def lsr(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def write(path, texts):
    lines = (json.dumps({"_id": key, "text": text}) for key, text in texts.items())
    path.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("messages")
    write(folder / "corpus.jsonl", TEXTS)
    build_index(open_corpus(folder / "corpus.jsonl"), folder / "index", "lexical")
    dataset = folder / "dataset"
    (dataset / "qrels").mkdir(parents=True)
    write(dataset / "corpus.jsonl", TEXTS)
    write(dataset / "queries.jsonl", {f"q{i}": "heat" for i in range(5)})
    qrels = "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td1\t1\n" for i in range(5))
    for split in ("dev", "test"):
        (dataset / "qrels" / f"{split}.tsv").write_text(qrels)
    return folder


@pytest.fixture
def damaged(folder, tmp_path):
    """A function that makes a directory that is no index or a damaged one, of a given kind."""

    def make(kind):
        path = tmp_path / kind
        if kind == "missing":
            return path
        if kind == "file":
            path.write_text("x")
            return path
        if kind == "foreign":
            path.mkdir()
            (path / "diary.txt").write_text("mine")
            return path
        shutil.copytree(folder / "index", path)
        manifest, generation = path / "manifest.json", path / "generation-1"
        if kind == "killed":
            manifest.unlink()
        elif kind == "newer":
            content = json.loads(manifest.read_text()) | {"format_version": 9}
            manifest.write_text(json.dumps(content))
        elif kind == "no lucene":
            shutil.rmtree(generation / "lucene")
        elif kind == "zeros":
            for segments in (generation / "lucene").glob("segments_*"):
                segments.write_bytes(b"\0" * segments.stat().st_size)
        else:
            shutil.rmtree(generation / "encoder")
        return path

    return make


DAMAGED = {
    "missing": "is not an index: there is no such directory",
    "file": "is not an index: it is a file, and an index is a directory",
    "foreign": "is not an index: it holds no manifest.json",
    "killed": "is not an index yet: its build was not finished",
    "newer": "/manifest.json: format version must be 3, got 9: a newer version of lsr",
    "no lucene": "is damaged: Lucene cannot read its files",
    "zeros": "is damaged: Lucene cannot read its files",
    "no statistics": "is damaged: lexical.npz is missing",
}
COMMANDS = (
    ("search", "INDEX", "heat"),
    ("explain", "INDEX", "heat", "d1"),
    ("add", "INDEX", "CORPUS"),
    ("delete", "INDEX", "d1"),
    ("merge", "INDEX"),
    ("doctor", "INDEX"),
    ("serve", "INDEX", "--port", "0"),
    ("tune", "INDEX", "DATASET"),
)
# If there is no index, this command builds one.
EVAL = ("eval", "DATASET", "--index", "INDEX")
NO_INDEX = ("missing", "file", "foreign", "killed")


@pytest.mark.usefixtures("log_kept")
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_directory_that_is_no_index_is_one_sentence_of_every_command(folder, damaged, kind):
    path = damaged(kind)
    for command in (*COMMANDS, *(() if kind in NO_INDEX else (EVAL,))):
        names = {"INDEX": path, "CORPUS": folder / "corpus.jsonl", "DATASET": folder / "dataset"}
        result = lsr(*(names.get(part, part) for part in command))
        assert result.exit_code == 1, command
        said = [line for line in result.stderr.splitlines() if line.startswith("lsr: ")]
        (message,) = said
        assert DAMAGED[kind] in message and str(path) in message, command
        assert "generation-" not in message and "org.apache" not in message, command


@pytest.mark.parametrize("kind", ["no lucene", "zeros", "no statistics"])
def test_a_damaged_index_is_built_again(folder, damaged, kind):
    path = damaged(kind)
    result = lsr("index", folder / "corpus.jsonl", "--out", path, "--encoder", "lexical")
    assert result.exit_code == 0, result.stderr
    assert lsr("search", path, "heat", "--json").stdout.count("\n") == 1


def test_an_index_is_not_built_into_a_file(folder, damaged):
    path = damaged("file")
    result = lsr("index", folder / "corpus.jsonl", "--out", path, "--encoder", "lexical")
    assert result.exit_code == 1
    assert result.stderr.endswith(f"lsr: {path} is a file: an index needs a directory\n")


def test_a_folder_without_a_model_is_no_checkpoint(folder, damaged):
    path = damaged("foreign")
    for options in (("--encoder", path), ("--encoder", "lexical", "--dense", path)):
        result = lsr("index", folder / "corpus.jsonl", "--out", folder / "unbuilt", *options)
        assert result.exit_code == 1
        assert "(it lacks modules.json and config.json)\n" in result.stderr


@pytest.mark.parametrize("command", [("explain", "heat"), ("delete",)])
def test_an_unknown_id_is_named(folder, command):
    name, *query = command
    result = lsr(name, folder / "index", *query, "nobody")
    assert (result.exit_code, result.stderr) == (1, "lsr: no document 'nobody' in this index\n")


@pytest.mark.parametrize("query", [("",), (" \t\n",), ("--weights", "{}")])
def test_an_empty_query_is_bad_usage(folder, query):
    result = lsr("search", folder / "index", *query)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "the query is empty: give at least one word" in result.stderr
    if len(query) == 1:
        assert lsr("explain", folder / "index", *query, "d1").exit_code == 2


def test_a_query_without_a_known_term_is_an_answer_and_a_notice(folder):
    # A word that the analyzer keeps, so that of both sides only one knows nothing of it.
    result = lsr("search", folder / "index", "🦓 🦒", "--mode", "learned")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        "notice: the query holds no term that encoder 'lexical' knows: nothing can match it\n"
        "no document matches\n"
    )
    result = lsr("search", folder / "index", "zebra")  # known, but in no document
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no document matches\n")


def test_a_run_names_queries_without_hits(folder, tmp_path):
    write(tmp_path / "queries.jsonl", {"q1": "heat", "q2": "🦓", "q3": " "} | {"q4": "zebra"})
    arguments = ("search", folder / "index", "--mode", "learned", "--queries")
    arguments += (tmp_path / "queries.jsonl", "--run")
    result = lsr(*arguments, tmp_path / "run.trec")
    assert result.exit_code == 0
    unknown = "the query holds no term that encoder 'lexical' knows: nothing can match it"
    assert result.stderr.splitlines()[-3:] == [
        "3 of 4 queries have no hits and no line in the run: 'q2', 'q3', 'q4'",
        f"query 'q2': {unknown}",
        f"query 'q3': {unknown}",
    ]
    write(tmp_path / "queries.jsonl", {f"q{n}": "🦓" for n in range(9)} | {"good": "heat"})
    told = lsr(*arguments, tmp_path / "run.trec").stderr.splitlines()
    assert told[-7] == (
        "9 of 10 queries have no hits and no line in the run: 'q0', 'q1', 'q2', 'q3', 'q4', … "
        "(4 more)"
    )
    assert told[-1] == "the like is true of 4 more: 'q5', 'q6', 'q7', 'q8'"
    write(tmp_path / "queries.jsonl", {"q1": "heat"})
    assert "hits" not in lsr(*arguments, tmp_path / "run.trec").stderr


def test_a_run_that_cannot_be_written_is_refused_before_the_search(folder, tmp_path):
    write(tmp_path / "queries.jsonl", {"q1": "heat"})
    arguments = ("search", folder / "index", "--queries", tmp_path / "queries.jsonl", "--run")
    result = lsr(*arguments, tmp_path / "no" / "run.trec")
    assert (result.exit_code, result.stderr) == (
        1,
        f"lsr: {tmp_path / 'no'}: no such directory to write the run into\n",
    )


def test_what_a_model_did_not_read_is_said(tmp_path, short_sighted):
    words = [f"w{number}" for number in range(12)]
    write(tmp_path / "corpus.jsonl", {"long": " ".join(words), "short": "w1"})
    build_index(open_corpus(tmp_path / "corpus.jsonl"), tmp_path / "index", short_sighted)
    what = f"has 12 tokens, of which encoder {short_sighted!r} reads the first 8"
    result = lsr("search", tmp_path / "index", " ".join(words), "--json")
    assert result.stderr.startswith(f"notice: the query {what}: what follows them matches nothing")
    assert lsr("search", tmp_path / "index", "w1", "--json").stderr == ""


def test_an_explanation_of_0_says_that_the_document_goes_on(tmp_path, short_sighted, monkeypatch):
    from lsr.search import Searcher
    from lsr.search.explanation import Explanation, SideScore

    long = " ".join(f"w{number}" for number in range(12))
    write(tmp_path / "corpus.jsonl", {"long": long, "short": "w1"})
    build_index(open_corpus(tmp_path / "corpus.jsonl"), tmp_path / "index", short_sighted)
    nothing = Explanation(0.0, [SideScore("sparse", 0.0, 0.0)], [])
    monkeypatch.setattr(Searcher, "explain", lambda *arguments, **settings: nothing)
    result = lsr("explain", tmp_path / "index", "w11", "long")
    assert result.exit_code == 0
    assert result.stderr == (
        f"notice: the document has 12 tokens, of which encoder {short_sighted!r} reads the first "
        "8: what follows them matches nothing\n"
    )
    assert lsr("explain", tmp_path / "index", "w11", "short").stderr == ""


def test_version_and_module():
    assert lsr("--version").stdout == f"lsr {package.__version__}\n"
    for module in ("lsr", "lsr.cli"):
        ran = subprocess.run(
            [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True
        )
        assert ran.stdout == f"lsr {package.__version__}\n"
