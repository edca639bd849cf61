"""lsr reproduce: published values, verdicts on differences, and runs on the miniature."""

import json
import os
import shutil
import urllib.error
from email.message import Message
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from typer.testing import CliRunner

from lsr.cli import app
from lsr.corpus.corpus import open_corpus
from lsr.eval import reproduce as reproducing
from lsr.eval.datasets import load_dataset
from lsr.eval.measures import evaluate
from lsr.eval.reproduce import MEAN, Model, Row, Source, Table, choose, read_published, verdict
from lsr.run import Run

PUBLISHED = read_published()
# The fastest encoder, with its numbers on the miniature only.
BRIEF = PUBLISHED._replace(
    tables={
        **PUBLISHED.tables,
        "miniature": Table(["miniature"], PUBLISHED.tables["miniature"].rows[:3]),
    }
)
MINIATURE = Path(reproducing.__file__).with_name("miniature")


def lsr_reproduce(*arguments):
    return CliRunner().invoke(app, ["reproduce", *(str(argument) for argument in arguments)])


def records(result):
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


@pytest.fixture
def offline(monkeypatch):
    """No host can be reached, and the caches of the hub and of ir_datasets are empty."""

    def no_snapshot(name, **options):
        assert options == {"local_files_only": True}
        raise LocalEntryNotFoundError("no snapshot")

    def only_folders(name, split="test"):
        if not Path(name).is_dir():
            assert os.environ["IR_DATASETS_DL_TRIES"] == "1"
            raise ConnectionError("could not download it")
        return load_dataset(name, split)

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_snapshot)
    monkeypatch.setattr(reproducing, "load_dataset", only_folders)
    monkeypatch.setattr(reproducing, "unreachable", lambda url: "no network")
    monkeypatch.setattr(reproducing, "read_published", lambda: BRIEF)


@pytest.fixture
def two_datasets(monkeypatch, tmp_path):
    """A cache, and a table of two datasets which are both the miniature.

    "good" and "bad" are the encoder lexical with different published values; "none" cannot
    be run.
    """
    rows = [
        Row("t", "good", "arguana", "nDCG@10", 0.5116 - 0.02, "a"),
        Row("t", "good", "scifact", "nDCG@10", 0.5116 + 0.002, "a"),
        Row("t", "good", "scifact", "R@10", 0.6667 - 0.009, "b"),
        Row("t", "good", MEAN, "nDCG@10", 0.512, "a"),
        Row("t", "bad", "scifact", "nDCG@10", 0.5116 - 0.02, "a"),
        Row("t", "none", "scifact", "nDCG@10", 0.6, "a"),
    ]
    models = {
        **{name: Model("lexical", "") for name in ("good", "bad")},
        "none": Model("", "another engine"),
        **BRIEF.models,
    }
    sources = {"a": Source("A", "https://a"), "b": Source("B", "https://b"), **BRIEF.sources}
    tables = {"t": Table(["arguana", "scifact"], rows), **BRIEF.tables}
    published = reproducing.Published(sources, models, tables, {})
    monkeypatch.setattr(reproducing, "read_published", lambda: published)
    monkeypatch.setattr(reproducing, "load_dataset", lambda name: load_dataset(MINIATURE))
    monkeypatch.setattr(reproducing, "unreachable", lambda url: "")
    return tmp_path / "cache"


VERDICTS = """
    scifact        0.7   0.7      ok
    scifact        0.7   0.703    ok
    scifact        0.7   0.697    ok
    scifact        0.7   0.70301  close
    scifact        0.7   0.71     close
    scifact        0.7   0.69     close
    scifact        0.7   0.71001  off
    scifact        0.7   0.6      off
    arguana        0.5   0.503    ok
    arguana        0.5   0.5031   close
    climate-fever  0.25  0.28     close
    trec-covid     0.7   0.67     close
    trec-covid     0.7   0.6699   off
    mean           0.5   0.52     off
"""


@pytest.mark.parametrize("line", VERDICTS.strip().splitlines())
def test_verdicts(line):
    dataset, published, ours, expected = line.split()
    assert verdict(dataset, float(published), float(ours)) == expected


def test_the_miniature_is_a_whole_collection():
    dataset = load_dataset(MINIATURE)
    ids = [document.id for document in open_corpus(MINIATURE)]
    assert (len(dataset.queries), len(ids)) == (10, 40)
    grades = [grade for of in dataset.qrels.values() for grade in of.values()]
    assert set(grades) == {1, 2}
    assert {doc_id for of in dataset.qrels.values() for doc_id in of} <= set(ids)


@pytest.mark.slow
def test_miniature_end_to_end(monkeypatch):
    # Weights, and so the numbers, must not depend on the CPU's fastest dtype.
    monkeypatch.setattr("lsr.encoders.masked_lm.bfloat16_is_fast", lambda: True)
    result = lsr_reproduce("miniature", "--json")
    assert result.exit_code == 0, result.output
    found = records(result)
    models = ["bm25-default", "lexical", "grafted", "default"]
    assert [record["model"] for record in found[::3]] == models
    assert {record["verdict"] for record in found} == {"ok"}
    # The recorded values have four digits.
    assert all(abs(record["difference"]) <= 0.00005 for record in found)


def test_a_wrong_number_is_off_and_fails(monkeypatch):
    rows = [
        row._replace(published=row.published + (0.02 if row.measure == "RR@10" else 0))
        for row in PUBLISHED.tables["miniature"].rows
        if row.model == "lexical"
    ]
    table = Table(["miniature"], rows)
    wrong = PUBLISHED._replace(tables={"miniature": table})
    monkeypatch.setattr(reproducing, "read_published", lambda: wrong)
    result = lsr_reproduce("miniature")
    assert result.exit_code == 1
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("lexical")]
    assert [(line[2], line[-2]) for line in lines] == [
        ("nDCG@10", "ok"),
        ("RR@10", "off"),
        ("R@10", "ok"),
    ]
    assert lines[1][3:6] == ["0.5233", "0.5033", "-0.0200"]
    assert result.stdout.splitlines()[-1] == "3 numbers: 2 ok, 0 close, 1 off, 0 missing"


def test_a_table_is_run_with_its_mean_and_found_in_the_cache_again(two_datasets, builds):
    arguments = ("t", "--model", "good", "--cache", two_datasets, "--json")
    result = lsr_reproduce(*arguments)
    assert result.exit_code == 0, result.output
    found = [(r["dataset"], r["measure"], r["verdict"], r["url"]) for r in records(result)]
    assert found == [
        ("arguana", "nDCG@10", "close", "https://a"),
        ("scifact", "nDCG@10", "ok", "https://a"),
        ("scifact", "R@10", "close", "https://b"),
        (MEAN, "nDCG@10", "ok", "https://a"),
    ]
    assert len(builds) == 1
    assert records(lsr_reproduce(*arguments)) == records(result)
    assert len(builds) == 1


def test_only_a_dataset_and_only_what_can_be_run(two_datasets):
    result = lsr_reproduce("t", "--dataset", "scifact", "--cache", two_datasets, "--json")
    assert result.exit_code == 1
    found = [(r["model"], r["measure"], r["verdict"]) for r in records(result)]
    assert found == [
        ("good", "nDCG@10", "ok"),
        ("good", "R@10", "close"),
        ("bad", "nDCG@10", "off"),
    ]


def test_measures_without_grades_count_from_the_relevant_grade(two_datasets, monkeypatch):
    graded = load_dataset(MINIATURE)._replace(relevant_grade=2)
    monkeypatch.setattr(reproducing, "load_dataset", lambda name: graded)
    result = lsr_reproduce("t", "--dataset", "scifact", "--cache", two_datasets, "--json")
    found = {record["measure"]: record for record in records(result)[:2]}
    assert found["nDCG@10"]["verdict"] == "ok"
    run = next((two_datasets / "runs").glob("*.trec"))
    expected = evaluate(Run.read_trec(run), graded.qrels, ["R(rel=2)@10"]).means
    assert found["R@10"]["ours"] == expected["R(rel=2)@10"] != pytest.approx(0.6667, abs=1e-4)


def test_a_failure_is_a_reason_and_the_rest_is_run(two_datasets, monkeypatch):
    def evaluate(system, *arguments, **options):
        if system.name == "bad":
            raise ValueError("the checkpoint holds something else")
        return reproducing_evaluate(system, *arguments, **options)

    reproducing_evaluate = reproducing.evaluate_system
    monkeypatch.setattr(reproducing, "evaluate_system", evaluate)
    result = lsr_reproduce("t", "--dataset", "scifact", "--cache", two_datasets)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert ["missing", "bad", "scifact", "nDCG@10", "[1]"] in [line.split() for line in lines]
    assert "[1] the checkpoint holds something else" in lines
    assert "3 numbers: 1 ok, 1 close, 0 off, 1 missing" in lines
    # Then the check of the machinery.
    assert lines[-1] == "3 numbers: 3 ok, 0 close, 0 off, 0 missing"


def test_checkpoints_are_searched_with_all_their_terms(two_datasets, monkeypatch):
    systems = []

    def evaluate(system, *arguments, **options):
        systems.append(system)
        raise FileNotFoundError("gone")

    monkeypatch.setattr(reproducing, "evaluate_system", evaluate)
    monkeypatch.setattr(reproducing, "missing_checkpoint", lambda encoder: "")
    assert lsr_reproduce("msmarco-dev", "--model", "splade-tiny").exit_code == 1
    assert (systems[0].source, systems[0].name) == ("rasyosef/splade-tiny", "splade-tiny")
    assert systems[0].top_k > 100_000


def test_offline_what_is_missing_is_listed_and_the_machinery_checked(offline):
    result = lsr_reproduce("beir13", "--model", "splade-v3")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    missing = [line.split()[2:] for line in lines if line.startswith("missing")]
    assert missing[0] == ["trec-covid", "nDCG@10", "R@100", "[1][2]"]
    assert missing[1] == ["nfcorpus", "nDCG@10", "R@100", "[1][3]"]
    assert missing[-1] == ["mean", "nDCG@10", "[15]"]
    assert len(missing) == 14
    assert (
        "[1] naver/splade-v3: not in the hub cache, and https://huggingface.co does not answer: "
        "no network (about 440 MB; the hub wants its conditions accepted first)"
    ) in lines
    assert (
        "[2] trec-covid (74 MB): not on disk, and https://public.ukp.informatik.tu-darmstadt.de "
        "does not answer: no network"
    ) in lines
    assert "[15] a mean over 13 datasets, of which 13 were not measured" in lines
    assert "40 numbers: 0 ok, 0 close, 0 off, 40 missing" in lines
    assert lines[-1] == "3 numbers: 3 ok, 0 close, 0 off, 0 missing"
    assert "IR_DATASETS_DL_TRIES" not in os.environ


def test_offline_in_json(offline):
    result = lsr_reproduce("dl20", "--model", "splade-pp-sd", "--json")
    assert result.exit_code == 1
    found = records(result)
    assert [r["table"] for r in found].count("miniature") == 3
    assert {r["verdict"] for r in found if r["table"] == "dl20"} == {"missing"}
    assert all(len(r["reasons"]) == 2 for r in found if r["table"] == "dl20")
    assert len(found) == len(result.stdout.splitlines())


def test_no_data_are_fetched_for_checkpoints_that_are_missing(monkeypatch):
    monkeypatch.setattr(reproducing, "unreachable", lambda url: "")
    monkeypatch.setattr(reproducing, "load_dataset", lambda name: pytest.fail(name))
    monkeypatch.setattr(reproducing, "missing_checkpoint", lambda encoder: f"no {encoder}")
    rows = choose(PUBLISHED, "dl19", "splade-v3")
    outcomes = list(reproducing.reproduce(PUBLISHED, rows, None, None))
    assert {outcome.verdict for outcome in outcomes} == {"missing"}
    assert outcomes[0].reasons[0].startswith("no naver/splade-v3 (about 440 MB")


def test_a_folder_is_not_taken_for_a_published_dataset(monkeypatch, tmp_path):
    shutil.copytree(MINIATURE, tmp_path / "scifact")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproducing, "missing_checkpoint", lambda encoder: "")
    rows = choose(PUBLISHED, "beir13", "splade-v3", "scifact")
    outcomes = list(reproducing.reproduce(PUBLISHED, rows, None, None))
    assert {outcome.ours for outcome in outcomes} == {None}
    assert "scifact: the folder of this name in the working directory" in outcomes[0].reasons[0]


def test_the_hub_is_not_asked_where_that_is_forbidden(offline, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(reproducing, "unreachable", pytest.fail)
    assert "HF_HUB_OFFLINE is set" in reproducing.missing_checkpoint("naver/splade-v3")
    assert reproducing.missing_checkpoint("default") == ""


def test_a_licence_that_is_not_accepted_is_a_reason(offline, monkeypatch):
    def gated(name, file, etag_timeout):
        raise LocalEntryNotFoundError("accept the licence first")

    monkeypatch.setattr(reproducing, "unreachable", lambda url: "")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", gated)
    reason = reproducing.missing_checkpoint("naver/splade-v3")
    assert reason == "naver/splade-v3: accept the licence first"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: "config.json")
    assert reproducing.missing_checkpoint("naver/splade-v3") == ""


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (urllib.error.HTTPError("u", 404, "not found", Message(), None), ""),
        (urllib.error.URLError(TimeoutError("timed out")), "timed out"),
        (ConnectionResetError("reset"), "reset"),
    ],
)
def test_a_host_that_answers_anything_is_reachable(answer, expected, monkeypatch):
    asked = []

    def urlopen(request, timeout):
        asked.append((request.get_method(), timeout))
        raise answer

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    reproducing.unreachable.cache_clear()
    for _ in range(2):
        assert reproducing.unreachable("https://host.invalid") == expected
    reproducing.unreachable.cache_clear()
    assert asked == [("HEAD", reproducing.TIMEOUT_S)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a table (see --list): beir13, cqadupstack, msmarco-dev, dl19, dl20, miniature"),
        (("beir",), "no table 'beir'; there are beir13, cqadupstack, msmarco-dev, dl19, dl20"),
        (("dl19", "--model", "x"), "no model 'x' in table dl19; of those lsr can run: splade-v3,"),
        (("dl19", "--model", "ance"), "lsr cannot run ance: dense vectors"),
        (
            ("beir13", "--dataset", "dl19"),
            "no dataset 'dl19' in table beir13; there are trec-covid",
        ),
    ],
)
def test_what_is_not_there(arguments, message):
    result = lsr_reproduce(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr


def test_list():
    result = lsr_reproduce("--list")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "splade-v3 naver/splade-v3" in lines
    assert any(line.startswith("bm25-rm3 Anserini's RM3") for line in lines)
    assert any(line.startswith("beir13: ") and "trec-covid" in line for line in lines)
    assert "runs splade-v3 anserini-configs, splade-v3-paper" in lines
    assert "runs bm25-flat pyserini-2cr-beir" in lines
    assert "- bm25-multifield pyserini-2cr-beir" in lines
    assert any("mteb-results: MTEB" in line and "commit f4cc6c8" in line for line in lines)
    found = records(lsr_reproduce("--list", "--json"))
    assert [record["table"] for record in found if "table" in record] == list(PUBLISHED.tables)
    assert {record["model"] for record in found if "model" in record} == PUBLISHED.models.keys()


def test_a_wrong_judgement_shows(tmp_path, monkeypatch):
    """The check of the machinery really reads its data."""
    shutil.copytree(MINIATURE, tmp_path / "miniature")
    qrels = tmp_path / "miniature" / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text().replace("bees-4", "moon-4"))
    monkeypatch.setattr(
        reproducing, "load_dataset", lambda name: load_dataset(tmp_path / "miniature")
    )
    assert lsr_reproduce("miniature", "--model", "default").exit_code == 1
