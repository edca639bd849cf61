"""lsr eval: the names of systems, the cache, and the command from end to end."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lsr.building.build import build_index
from lsr.cli import app
from lsr.corpus.corpus import open_corpus
from lsr.eval import cache as caching
from lsr.eval import systems as evaluating
from lsr.eval.cache import Cache, IndexSpec
from lsr.eval.datasets import load_dataset
from lsr.eval.systems import parse_system
from lsr.run import Run

SHARED = Path(__file__).parents[3] / "shared" / "data"


def lsr_eval(*arguments):
    return CliRunner().invoke(app, ["eval", *(str(argument) for argument in arguments)])


def records(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("text", "name", "source", "settings", "rest"),
    [
        ("default", "default", "default", {"mode": "sparse"}, (256, None)),
        ("BM25=lexical", "BM25", "lexical", {"mode": "sparse"}, (256, None)),
        ("x=lexical?mode=words", "x", "lexical", {"mode": "words"}, (256, None)),
        ("x=lexical?dense=a/b", "x", "lexical", {"mode": "hybrid"}, (256, "a/b")),
        ("default?top_k=64", "default?top_k=64", "default", {"mode": "sparse"}, (64, None)),
        (
            "x=default?max_terms=5&mass=0.9",
            "x",
            "default",
            {"mode": "sparse", "max_terms": 5, "mass": 0.9},
            None,
        ),
        ("x=lexical?mode=dense", "x", "lexical", {"mode": "dense"}, (256, "default")),
        ("x=lexical?mode=dense&dense=a/b", "x", "lexical", {"mode": "dense"}, (256, "a/b")),
        (
            "x=lexical?filter=year=1990",
            "x",
            "lexical",
            {"mode": "sparse", "filter": "year = 1990"},
            None,
        ),
        (
            "x=lexical?filter=a.b=1..2.5",
            "x",
            "lexical",
            {"mode": "sparse", "filter": "a.b = 1..2.5"},
            None,
        ),
        (
            "x=default?mode=hybrid&interpolation.alpha=0.4&feedback.documents=5",
            "x",
            "default",
            {"mode": "hybrid", "interpolation": {"alpha": 0.4}, "feedback": {"documents": 5}},
            (256, "default"),
        ),
    ],
)
def test_systems_by_encoder_and_settings(text, name, source, settings, rest):
    system = parse_system(text)
    assert (system.name, system.source, system.kind) == (name, source, "encoder")
    assert system.settings == settings
    assert rest is None or (system.top_k, system.dense) == rest


def test_systems_by_path(two, monkeypatch):
    monkeypatch.chdir(two[0].parent)
    build_index(open_corpus("one"), Path("index"), "lexical")
    Path("checkpoint").mkdir()
    Path("checkpoint/config.json").write_text("{}")
    shutil.copy("runs/one.trec", "odd=name?.trec")
    for text, name, source, kind in (
        ("runs/one.trec", "runs/one.trec", "runs/one.trec", "run"),
        ("odd=name?.trec", "odd=name?.trec", "odd=name?.trec", "run"),
        ("A=runs", "A", "runs", "runs"),
        ("A=index?max_terms=3", "A", "index", "index"),
        ("checkpoint", "checkpoint", "checkpoint", "encoder"),
    ):
        system = parse_system(text)
        assert (system.name, system.source, system.kind) == (name, source, kind)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("x=", ValueError, r"'x=': must be \[NAME=\]SYSTEM"),
        ("lexical?mode=hybird", ValueError, "`mode` must be one of 'words', .* got 'hybird'"),
        ("lexical?colour=red", ValueError, "unknown setting 'colour' with value 'red'; known are"),
        ("lexical?feedback.x=1", ValueError, "'feedback.x' .* feedback.documents, .*top_k, dense"),
        ("lexical?query=x", ValueError, "unknown setting 'query'"),
        ("lexical?k=5", ValueError, "unknown setting 'k'"),
        (
            "lexical?mode=hybrid&interpolation.alpha=1.5",
            ValueError,
            r"`interpolation.alpha` must be in \[0.*, 1.*\], got '1.5'",
        ),
        ("lexical?interpolation.alpha=0.5", ValueError, "is for mode 'hybrid', got mode 'sparse'"),
        ("lexical?max_terms=1&max_terms=2", ValueError, "'max_terms' is given 2 times"),
        ("lexical?max_terms", ValueError, "a setting must be KEY=VALUE, got 'max_terms'"),
        ("lexical?top_k=0", ValueError, "'top_k' must be a number from 1 on, got '0'"),
        (
            "lexical?mode=words&dense=default",
            ValueError,
            "'dense' is for mode 'dense' or 'hybrid'",
        ),
        ("runs/one.trec?max_terms=1", ValueError, "a run file takes no settings, got 'max_terms=1"),
        ("index?top_k=5", ValueError, "'top_k' is for an index that is built, index is there"),
        ("one/qrels", ValueError, "one/qrels: this folder holds no index .*manifest.json"),
        ("gone.trec", FileNotFoundError, "gone.trec: no such run file, index directory"),
        ("/gone/index", FileNotFoundError, "/gone/index: no such run file, index directory"),
        ("./gone", FileNotFoundError, "^./gone: no such run file, index directory or checkpoint$"),
        ("runs/a/b", FileNotFoundError, "runs/a/b: no such .*; runs exists, but does not hold"),
        ("x=~/gone", FileNotFoundError, "~/gone: no such .* write the home directory out"),
        ("missing/model", FileNotFoundError, "no encoder 'missing/model'"),
    ],
)
def test_bad_systems(two, monkeypatch, text, error, message):
    monkeypatch.chdir(two[0].parent)
    Path("index").mkdir()
    Path("index/manifest.json").write_text("{}")
    with pytest.raises(error, match=message):
        parse_system(text)


@pytest.mark.slow
def test_two_datasets_and_two_systems_and_a_second_time_nothing_is_done(two, builds, monkeypatch):
    out, cache = two[0].parent / "out", two[0].parent / "cache"
    arguments = (*two, "--system", "BM25=lexical?mode=learned")
    # Words are not cut.
    arguments += ("--system", "cut=lexical?mode=learned&max_terms=1")
    arguments += ("--measures", "RR@10 R@1", "--cache", cache, "--out", out)
    first = lsr_eval(*arguments, "--json")
    assert f"cache: {cache}" in first.stderr
    # Both systems search the same indexes.
    assert builds == [("lexical", None)] * 2
    found = records(first)
    names = [(Path(record["dataset"]).name, record["system"]) for record in found[:4]]
    assert names == [("one", "BM25"), ("one", "cut"), ("other", "BM25"), ("other", "cut")]
    # In one, q1 finds a, then b; in other a is the answer, and q3 finds d (twice its word), then c.
    # Cut to its rarest word, "flow", q1 finds nothing but itself.
    means = [record["means"] for record in found[:4]]
    assert means == [
        {"RR@10": 0.25, "R@1": 0.0},
        {"RR@10": 0.0, "R@1": 0.0},
        {"RR@10": pytest.approx(2 / 3), "R@1": pytest.approx(2 / 3)},
        {"RR@10": pytest.approx(1 / 3), "R@1": pytest.approx(1 / 3)},
    ]
    assert found[2]["per_query"]["RR@10"] == {"q1": 1.0, "q2": 0.0, "q3": 1.0}
    assert found[0]["cost"]["postings"] == 2.0 and found[1]["cost"]["postings"] == 0.5
    assert found[3]["baseline"] == "BM25"
    assert found[3]["tests"]["RR@10"]["difference"] == pytest.approx(-1 / 3)
    average = found[4]
    assert (average["average"], average["datasets"]) == ("mean", ["one", "other"])
    assert average["means"]["RR@10"] == pytest.approx((0.25 + 2 / 3) / 2)
    assert json.loads((out / "results.json").read_text()) == found
    runs = sorted(path.relative_to(out / "runs").as_posix() for path in out.rglob("*.trec"))
    assert runs == ["BM25/one.trec", "BM25/other.trec", "cut/one.trec", "cut/other.trec"]
    page = (out / "report.html").read_text(encoding="utf-8")
    # The page holds the documents' texts and the reasons for their ranks.
    assert "heat wing" in page and '"reasons"' in page
    assert (out / "report.md").exists() and (out / "report.tex").exists()
    # No run holds a query's own document.
    assert [hit[0] for hit in Run.read_trec(out / "runs" / "BM25" / "one.trec")["q1"]] == ["a", "b"]

    # Nothing is built, opened or ranked again; the times are those of the first run.
    monkeypatch.setattr(evaluating, "Searcher", None)
    assert records(lsr_eval(*arguments, "--json")) == found
    assert len(builds) == 2
    # Written runs can be evaluated as a system, with the same scores.
    reread = records(lsr_eval(*two, "--system", out / "runs" / "BM25", "--json"))
    assert reread[0]["means"]["RR@10"] == 0.25 and reread[0]["cost"] is None
    assert reread[1]["means"]["RR@10"] == pytest.approx(2 / 3)

    shown = lsr_eval(*arguments).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["one,", "2", "queries", "BM25", "cut"] in lines
    assert ["RR@10", "0.2500", "0.0000"] in lines
    assert ["mean", "of", "2", "BM25", "cut"] in lines
    assert "3 queries; p values corrected by Holm for 1 comparisons" in shown


def test_an_evaluation_that_was_cut_off_goes_on(two, builds, monkeypatch):
    arguments = (*two, "--system", "lexical", "--cache", two[0].parent / "cache", "--json")
    ranked = []

    def rank_queries(searcher, dataset, **options):
        ranked.append(dataset.label)
        if dataset.label == "other" and len(ranked) == 2:
            raise KeyboardInterrupt
        return real(searcher, dataset, **options)

    real = evaluating.rank_queries
    monkeypatch.setattr(evaluating, "rank_queries", rank_queries)
    result = lsr_eval(*arguments)
    assert result.exit_code == 130
    # The first dataset was printed.
    assert len(result.stdout.splitlines()) == 1
    assert len(records(lsr_eval(*arguments))) == 3
    assert ranked == ["one", "other", "other"]
    assert len(builds) == 2


def test_a_sparse_system_shares_the_index_that_a_dense_one_needs(two, builds, monkeypatch):
    dataset = load_dataset(two[0])
    cache = Cache(two[0].parent / "cache")
    texts = ("lexical", "hybrid=lexical?mode=hybrid", "other=grafted?mode=hybrid")
    sparse, hybrid, other = map(parse_system, texts)
    monkeypatch.setattr(
        caching, "build_index", lambda *_, **options: builds.append(options["dense"])
    )

    def index_of(system, beside):
        return evaluating.index_of(system, beside, dataset, cache, lambda *_: None)

    assert index_of(sparse, [sparse, other]) != index_of(sparse, [sparse, hybrid])
    assert index_of(sparse, [sparse, hybrid]) == index_of(hybrid, [sparse, hybrid])
    assert builds[0] is None and set(builds[1:]) == {"default"}
    # An index without a dense side is used once it exists.
    plain = cache.index_path(IndexSpec(dataset, "lexical", 256, None))
    plain.mkdir(parents=True)
    (plain / "manifest.json").write_text("{}")
    assert index_of(sparse, [sparse, hybrid]) == plain


@pytest.mark.slow
def test_dense_and_hybrid_systems(two, builds):
    cache = two[0].parent / "cache"
    texts = ("lexical", "D=lexical?mode=dense", "H=lexical?mode=hybrid&interpolation.alpha=0.25")
    systems = [part for text in texts for part in ("--system", text)]
    arguments = (two[1], *systems, "--measures", "RR@10", "--cache", cache, "--json")
    sparse, dense, hybrid = found = records(lsr_eval(*arguments))
    assert builds == [("lexical", "default")]
    # "nothing" is in no document, but has a dense vector like all texts.
    assert sparse["per_query"]["RR@10"]["q2"] == 0 < dense["per_query"]["RR@10"]["q2"]
    assert sparse["cost"]["postings"] == hybrid["cost"]["postings"] > dense["cost"]["postings"] == 0
    assert sparse["cost"]["index_bytes"] < dense["cost"]["index_bytes"]
    assert dense["cost"]["index_bytes"] == hybrid["cost"]["index_bytes"]
    assert sparse["cost"]["encode_query_us"] < dense["cost"]["encode_query_us"]
    assert records(lsr_eval(*arguments)) == found and len(builds) == 1


def test_run_files_of_several_datasets(two):
    runs = two[0].parent / "runs"
    found = records(lsr_eval(*two, "--system", f"A={runs}", "--measures", "RR", "--json"))
    means = [record["means"]["RR"] for record in found]
    assert means == [0.5, pytest.approx(1 / 6), pytest.approx(1 / 3)]
    (runs / "other.trec").unlink()
    result = lsr_eval(*two, "--system", runs)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no other.trec or other.trec.gz in this folder" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["one"], 2, "give at least one --system, or --index"),
        (["one", "gone", "--system", "lexical"], 1, "gone: not a folder or an ir_datasets id"),
        (["one", "./gone", "--system", "lexical"], 1, "lsr: ./gone: no such folder"),
        (["one/gone", "--system", "lexical"], 1, "one/gone: no such folder or ir_datasets id; one"),
        (["runs/one.trec", "--system", "lexical"], 1, "a dataset is a BEIR folder, and this is a"),
        (["one", "--system", "lexical", "--encoder", "x"], 1, "--encoder is for --index"),
        (
            ["one", "--system", "lexical", "--measures", "RR@10 RR@10"],
            1,
            "`measures` names 'RR@10' twice",
        ),
        (
            ["one", "--split", "graded", "--system", "lexical", "--measures", "ERR@10"],
            1,
            "document 'b': ERR@10 is defined for grades up to 4, got 5",
        ),
        (
            ["one", "--system", "lexical", "--measures", "R@5000"],
            1,
            "'R@5000': the cutoff must be in [1, 1000], the documents of a query that are measured",
        ),
        (["one", "one", "--system", "lexical"], 1, "2 datasets are called 'one'"),
        (
            ["one", "--system", "lexical", "--system", "lexical"],
            1,
            "2 systems are called 'lexical'",
        ),
        (["one", "--system", "lexical", "--measures", "mrr"], 1, "'mrr' is not a measure"),
        (
            ["one", "--system", "lexical", "--split", "dev"],
            1,
            "no split 'dev'; available: graded, test",
        ),
        (
            ["one", "other", "--system", "runs/one.trec"],
            1,
            "one run file for 2 datasets: give a folder that holds one.trec",
        ),
        (["one", "other", "--system", "lexical", "--run", "x"], 1, "--run is for 1 system on 1"),
        (["one", "other", "--index", "new"], 1, "new: one index for 2 corpora"),
    ],
)
def test_bad_arguments_are_told_before_any_work(two, builds, monkeypatch, arguments, code, message):
    monkeypatch.chdir(two[0].parent)
    (two[0] / "qrels" / "graded.tsv").write_text("q1\tb\t5\n")
    result = lsr_eval(*arguments, "--cache", "cache")
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in " ".join(result.stderr.split())
    assert builds == [] and not Path("cache").exists()


def test_an_index_is_a_system(two):
    root = two[0].parent
    build_index(open_corpus(two[0]), root / "index", "lexical")
    options = ("--cache", root / "cache", "--measures", "RR@10", "--json")
    (by_index,) = records(lsr_eval(two[0], "--index", root / "index", *options))
    (by_system,) = records(lsr_eval(two[0], "--system", root / "index", *options))
    assert by_index == by_system and by_index["means"] == {"RR@10": 0.25}
    both = records(lsr_eval(two[0], "--index", root / "index", "--system", "lexical", *options))
    assert [record["system"] for record in both] == [str(root / "index"), "lexical"]


def test_relevant_grade_of_a_folder(two):
    (two[0] / "qrels" / "test.tsv").write_text("q1\tb\t1\nq1\ta\t2\nq2\tc\t1\n")
    run = two[0].parent / "runs" / "one.trec"
    (record,) = records(lsr_eval(two[0], "--system", run, "--relevant-grade", 2, "--json"))
    assert list(record["means"]) == [
        *("nDCG@10", "RR(rel=2)@10", "AP(rel=2)", "R(rel=2)@100", "R(rel=2)@1000", "Judged@10")
    ]
    # b, with grade 1, comes first.
    assert record["per_query"]["RR(rel=2)@10"] == {"q1": 0.5, "q2": 0.0}


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development collections in {SHARED}")
def test_published_runs_have_their_published_values():
    """The runs are over 8.8M passages, so they hold documents that the reduced corpus lacks."""
    folder = SHARED / "msmarco-dl19"
    runs = {"bm25-anserini": 0.506, "splade-pp-ed": 0.731, "distilbert-tasb": 0.721}
    systems = []
    for name in runs:
        systems += ["--system", f"{name}={folder}/reference_runs/{name}.trec.gz"]
    found = records(lsr_eval(folder, *systems, "--json"))
    for record, (name, value) in zip(found, runs.items(), strict=True):
        assert record["system"] == name
        assert round(record["means"]["nDCG@10"], 3) == value
    # TREC counts grades 2 and 3 as relevant (Craswell et al., 2020).
    graded = records(lsr_eval(folder, *systems[:2], "--relevant-grade", 2, "--json"))
    assert round(graded[0]["means"]["RR(rel=2)@10"], 3) == 0.702


def test_an_index_of_another_encoder_is_not_taken_for_the_one_asked_for(two):
    root = two[0].parent
    build_index(open_corpus(two[0]), root / "index", "lexical")
    arguments = (
        two[0],
        "--index",
        root / "index",
        "--measures",
        "RR@10",
        "--cache",
        root / "cache",
    )
    for encoder in ("default", "no-such"):
        result = lsr_eval(*arguments, "--encoder", encoder)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"was built with encoder 'lexical', not '{encoder}'" in " ".join(
            result.stderr.split()
        )
    (record,) = records(lsr_eval(*arguments, "--encoder", "lexical", "--json"))
    assert record["means"] == {"RR@10": 0.25}


@pytest.mark.parametrize("command", ["eval", "compare"])
def test_a_run_file_that_shares_no_document_with_the_judgements(two, command):
    path = two[0].parent / "other.trec"
    Run({"q1": [("B", 1.0), ("q1", 2.0)]}).write_trec(path, "x")
    arguments = [two[0], "--system", path] if command == "eval" else [two[0], path, path]
    result = CliRunner().invoke(app, [command, *map(str, arguments)])
    assert (result.exit_code, result.stdout) == (1, "")
    message = "none of its documents is among the 2 judged ones of"
    assert message in result.stderr and "'q1' here, 'b' there" in result.stderr
    Run({"Q1": [("b", 1.0)]}).write_trec(path, "x")
    result = CliRunner().invoke(app, [command, *map(str, arguments)])
    assert "none of its 1 queries is among" in result.stderr
    assert "'Q1' here, 'q1' there" in result.stderr


def test_tied_scores_of_a_run_file_are_ranked_as_by_trec_eval(two):
    """nDCG@10 of a run file equals trec_eval's, also after writing the run again."""
    import pytrec_eval

    path, out = two[0].parent / "tied.trec", two[0].parent / "out"
    path.write_text("q1 Q0 b 1 1.0 x\nq1 Q0 c 2 1.0 x\nq2 Q0 a 1 0 x\nq2 Q0 c 2 0 x\n")
    arguments = (two[0], "--system", f"tied={path}", "--measures", "nDCG@10 RR", "--json")
    (record,) = records(lsr_eval(*arguments, "--out", out))
    evaluator = pytrec_eval.RelevanceEvaluator(
        {"q1": {"b": 1}, "q2": {"c": 1}}, {"ndcg_cut_10", "recip_rank"}
    )
    expected = evaluator.evaluate({"q1": {"b": 1.0, "c": 1.0}, "q2": {"a": 0.0, "c": 0.0}})
    for query_id, values in expected.items():
        assert record["per_query"]["nDCG@10"][query_id] == pytest.approx(values["ndcg_cut_10"])
        assert record["per_query"]["RR"][query_id] == values["recip_rank"]
    assert record["per_query"]["RR"] == {"q1": 0.5, "q2": 1.0}
    (again,) = records(
        lsr_eval(two[0], "--system", out / "runs/tied/one.trec", "--measures", "RR", "--json")
    )
    assert again["per_query"]["RR"] == record["per_query"]["RR"]
