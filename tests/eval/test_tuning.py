"""eval/tuning.py and eval/feedback_grid.py: which queries choose a setting, and what is stored."""

import json
import shutil
from statistics import mean

import numpy as np
import pytest

from lsr.building.build import build_index
from lsr.building.tuning import Tuned
from lsr.corpus.corpus import open_corpus
from lsr.documents import Query
from lsr.encoders.load import default_tokenizer
from lsr.eval import feedback_grid as grid_module
from lsr.eval.datasets import Dataset
from lsr.eval.feedback_grid import STAGES, feedback_grid
from lsr.eval.feedback_report import stage_comparisons, write_stages
from lsr.eval.measures import evaluate
from lsr.eval.tuning import (
    ALPHAS,
    WEIGHTS,
    best_setting,
    cross_validate,
    folds,
    interpolations,
    tune,
    weighings,
)
from lsr.request import Words
from lsr.run import Run
from lsr.search import Searcher

WORDS = (
    "heat flow wing plate layer pressure shock nose cone theory speed drag lift mach jet".split()
)
N = 60


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """BM25 with a dense model of random word vectors."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    folder = tmp_path_factory.mktemp("tuning")
    torch.manual_seed(0)
    tokenizer = default_tokenizer().backend_tokenizer
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)])
    model.save(str(folder / "dense"))
    rng = np.random.default_rng(0)
    with (folder / "corpus.jsonl").open("w") as file:
        for number in range(N):
            record = {"_id": f"d{number}", "text": " ".join(rng.choice(WORDS, 6))}
            file.write(json.dumps(record) + "\n")
    corpus = open_corpus(folder / "corpus.jsonl")
    build_index(corpus, folder / "index", "lexical", dense=str(folder / "dense"))
    return folder / "index"


def dataset(split, n, seed):
    rng = np.random.default_rng(seed)
    queries = [Query(f"{split}{i}", " ".join(rng.choice(WORDS, 3))) for i in range(n)]
    qrels = {
        query.id: {f"d{number}": 1 for number in rng.choice(N, 6, replace=False).tolist()}
        for query in queries
    }
    return Dataset("toy", split, queries, qrels)


def test_folds_hold_each_query_once_whatever_the_order():
    ids = [f"q{number}" for number in range(23)]
    parts = folds(ids)
    assert sorted(query_id for part in parts for query_id in part) == sorted(ids)
    assert {len(part) for part in parts} == {4, 5}
    assert folds(ids[::-1]) == parts
    with pytest.raises(ValueError, match="5 folds need at least 5 queries, got 4"):
        folds(ids[:4])


def test_the_best_of_equals_is_the_first():
    values = {"x": {"a": 1.0, "b": 0.0}, "y": {"a": 0.0, "b": 1.0}, "z": {"a": 0.0, "b": 0.9}}
    assert best_setting(values, ["a", "b"]) == "x"
    assert best_setting(values, ["b"]) == "y"


def test_no_query_is_answered_by_what_was_chosen_on_it():
    ids = [f"q{number}" for number in range(10)]
    # Setting i is perfect on query i alone, so a choice that saw query i would take setting i.
    values = {i: {q: float(q == ids[i]) for q in ids} for i in range(10)}
    chosen = cross_validate(values, ids)
    assert all(values[chosen[query_id]][query_id] == 0 for query_id in ids)


def test_tuned_values_are_those_of_searches_with_the_setting(index):
    data = dataset("dev", 12, 1)
    found = tune(index, data, store=False)
    assert found.n_queries == 12 and list(found.means) == list(WEIGHTS)
    assert all(list(of["z-score"]) == list(ALPHAS) for of in found.means.values())
    texts = [query.text for query in data.queries]
    with Searcher(index) as searcher:

        def measured(**settings):
            rankings = searcher.rank(texts, 1000, **settings)
            run = Run({q.id: hits for q, hits in zip(data.queries, rankings, strict=True)})
            return evaluate(run, data.qrels, ["nDCG@10"]).means["nDCG@10"]

        for weight, normalisation, alpha in (
            (0.0, "min-max", 0.35),
            (1.0, "theoretical", 0.8),
            (4.0, "min-max", 0.9),
            (2.0, "z-score", 0.0),
        ):
            how = {"normalisation": normalisation, "alpha": alpha}
            expected = measured(mode="hybrid", interpolation=how, words={"weight": weight})
            assert found.means[weight][normalisation][alpha] == pytest.approx(expected)
        for weight in WEIGHTS:
            expected = measured(mode="sparse", words={"weight": weight})
            assert found.sides[f"sparse {weight:g}"] == pytest.approx(expected)
        assert found.sides["sparse 0"] == pytest.approx(measured(mode="learned"))
        assert found.sides["dense"] == pytest.approx(measured(mode="dense"))
        assert len(found.sides) == len(WEIGHTS) + 1
        best = found.best
        assert found.tuned == pytest.approx(measured(mode="hybrid", **best.model_dump()))
    assert found.tuned == max(
        max(of.values()) for of_weight in found.means.values() for of in of_weight.values()
    )
    assert found.cross_validated <= found.tuned
    record = json.loads(json.dumps(found.record()))
    assert record["best"] == json.loads(best.model_dump_json())
    assert record["means"]["0.25"]["z-score"]["0.05"] == found.means[0.25]["z-score"][0.05]


def test_of_equal_settings_the_nearest_to_the_default_is_taken(index):
    query = Query("q", "a")
    with Searcher(index) as searcher:
        # Nothing that is found is relevant.
        nothing = Dataset("none", "dev", [query], {"q": {"absent": 1}})
        values, _ = weighings(searcher, nothing, "nDCG@10")
    assert {value for of in values.values() for value in of.values()} == {0.0}
    assert best_setting(values, ["q"]) == Tuned()


def test_an_index_of_words_alone_has_nothing_to_weigh(tmp_path, index):
    corpus = open_corpus(index.parent / "corpus.jsonl")
    build_index(corpus, tmp_path / "words", "bm25")
    data = dataset("dev", 12, 1)
    with pytest.raises(ValueError, match="holds words alone"):
        tune(tmp_path / "words", data)
    build_index(corpus, tmp_path / "with-dense", "bm25", dense="default")
    found = tune(tmp_path / "with-dense", data)
    assert list(found.means) == [Words().weight] and found.best.words == Words()


def test_without_a_dense_side_the_weight_of_words_is_tuned(tmp_path, index):
    build_index(open_corpus(index.parent / "corpus.jsonl"), tmp_path / "index", "lexical")
    data = dataset("dev", 12, 1)
    found = tune(tmp_path / "index", data)
    assert found.best.words.weight in WEIGHTS
    assert found.means == {
        weight: {"sparse": {1.0: found.sides[f"sparse {weight:g}"]}} for weight in WEIGHTS
    }
    assert found.tuned == max(found.sides.values())
    texts = [query.text for query in data.queries]
    with Searcher(tmp_path / "index") as searcher:
        words = found.best.words.model_dump()
        tuned = searcher.rank(texts, 30)
        assert tuned == searcher.rank(texts, 30, mode="sparse", words=words)


def test_what_is_found_is_stored_with_the_index(index):
    found = tune(index, dataset("dev", 12, 1))
    path = index / "generation-1" / "tuning.json"
    try:
        with Searcher(index) as searcher:
            how = found.best.model_dump()
            tuned = searcher.rank(["heat flow"], 20, mode="hybrid")
            assert tuned == searcher.rank(["heat flow"], 20, mode="hybrid", **how)
    finally:
        path.unlink()


@pytest.mark.filterwarnings("ignore:.*relevant documents of toy")
def test_errors_of_tuning(index, tmp_path):
    with pytest.raises(ValueError, match="'nDCG@x' is not a measure"):
        tune(index, dataset("dev", 12, 1), "nDCG@x")
    with pytest.raises(ValueError, match="5 folds need at least 5 queries, got 3"):
        tune(index, dataset("dev", 3, 1))
    (tmp_path / "corpus.tsv").write_text("d1\theat\n")
    build_index(open_corpus(tmp_path / "corpus.tsv"), tmp_path / "sparse", "lexical")
    with Searcher(tmp_path / "sparse") as searcher:
        with pytest.raises(ValueError, match="no dense side"):
            interpolations(searcher, dataset("dev", 12, 1), "nDCG@10")


@pytest.fixture
def few_variants(monkeypatch):
    monkeypatch.setattr(grid_module, "DOCUMENTS", (1, 3))
    monkeypatch.setattr(grid_module, "BETAS", (0.5,))


def test_grid_is_tuned_on_dev_and_measured_on_test(index, tmp_path, few_variants):
    dev, test = dataset("dev", 9, 2), dataset("test", 7, 3)
    found = feedback_grid(index, test, dev, tmp_path, measures=["nDCG@10", "R@100"])
    names = [f"{side} feedback: {stage}" for side in ("dense", "sparse") for stage in STAGES]
    assert [result.system for result in found.results] == [
        "interpolated",
        "sparse",
        "dense",
        *names,
    ]
    with Searcher(index) as searcher:
        for result in found.results:
            (request,) = found.chosen[result.system]
            texts = [query.text for query in test.queries]
            expected = searcher.rank(texts, 1000, **json.loads(request))
            rankings = [result.run[query.id] for query in test.queries]
            assert rankings == expected
            evaluation = evaluate(result.run, test.qrels, ["nDCG@10", "R@100"])
            assert result.evaluation == evaluation
        # The chosen variant is the best one on dev.
        name = "dense feedback: both"
        means = {
            request: mean
            for request, mean in found.means.items()
            if (how := json.loads(request)["feedback"]).get("side") == "dense"
            and how["interpolate"] == "both"
        }
        texts = [query.text for query in dev.queries]
        for request, value in means.items():
            rankings = searcher.rank(texts, 1000, **json.loads(request))
            run = Run({q.id: hits for q, hits in zip(dev.queries, rankings, strict=True)})
            assert evaluate(run, dev.qrels, ["nDCG@10"]).means["nDCG@10"] == pytest.approx(value)
        assert means[found.chosen[name][0]] == max(means.values())


def test_measures_count_from_the_grade_of_the_track(index, tmp_path, few_variants):
    data = dataset("test", 7, 3)
    graded = {q: {d: 1 + n % 2 for n, d in enumerate(of)} for q, of in data.qrels.items()}
    track = data._replace(qrels=graded, relevant_grade=2)
    found = feedback_grid(index, track, None, tmp_path, measures=["RR@10"])
    for result in found.results:
        expected = evaluate(result.run, graded, ["RR(rel=2)@10"])
        assert result.evaluation == expected
    tuned = tune(index, track, "RR@10", store=False)
    assert 0 < tuned.tuned < tune(index, data, "RR@10", store=False).tuned


@pytest.mark.slow
def test_grid_without_dev_is_cross_validated_and_goes_on(
    index, tmp_path, few_variants, monkeypatch
):
    test = dataset("test", 11, 4)
    whole = feedback_grid(index, test, None, tmp_path / "whole", measures=["nDCG@10"])
    part = folds(list(test.qrels))[0]
    others = [query_id for query_id in test.qrels if query_id not in part]
    kept = test._replace(
        queries=[query for query in test.queries if query.id in others],
        qrels={query_id: test.qrels[query_id] for query_id in others},
    )
    with Searcher(index) as searcher:
        values, _ = interpolations(
            searcher,
            kept,
            "nDCG@10",
            normalisations=grid_module.NORMALISATIONS,
            alphas=grid_module.ALPHAS,
        )
        texts = {query.id: query.text for query in test.queries}
        how = best_setting(values, others).model_dump()
        for query_id in part:
            (expected,) = searcher.rank([texts[query_id]], 1000, mode="hybrid", interpolation=how)
            assert whole.results[0].run[query_id] == expected

    calls = 0
    original = grid_module.evaluate_run

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(grid_module, "evaluate_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        feedback_grid(index, test, None, tmp_path / "cut", measures=["nDCG@10"])
    (kept,) = (tmp_path / "cut").iterdir()
    lines = kept.read_bytes()
    assert lines.count(b"\n") == 9
    kept.write_bytes(lines[:-20])  # as if killed while writing
    again = feedback_grid(index, test, None, tmp_path / "cut", measures=["nDCG@10"])
    assert again == whole
    (kept,) = (tmp_path / "cut").iterdir()
    assert calls - 10 == len(kept.read_bytes().splitlines()) - 8 + len(whole.results)


def test_stages_are_compared_and_drawn(index, tmp_path, few_variants, monkeypatch):
    from lsr.eval import feedback_report

    monkeypatch.setattr(feedback_report, "DOCUMENTS", (1, 3))
    dev, test = dataset("dev", 9, 2), dataset("test", 7, 3)
    found = feedback_grid(index, test, dev, tmp_path, measures=["nDCG@10"])
    rows = stage_comparisons(found, "nDCG@10")
    assert len(rows) == 12
    values = {r.system: r.evaluation.per_query["nDCG@10"] for r in found.results}
    side, first, second, pair, p = rows[-1]
    assert (side, first, second) == ("sparse", "after", "both")
    expected = mean(values["sparse feedback: both"].values()) - mean(
        values["sparse feedback: after"].values()
    )
    assert pair.difference == pytest.approx(expected) and p >= pair.p_randomisation
    write_stages({"toy": found}, "nDCG@10", tmp_path / "report")
    table = (tmp_path / "report" / "stages.md").read_text().splitlines()
    assert table[-1].startswith("| toy | sparse |") and f"{expected:+.4f}" in table[-1]
    chosen = json.loads((tmp_path / "report" / "chosen.json").read_text())
    assert chosen["toy"]["interpolated"][0]["mode"] == "hybrid"
    first_bytes = (tmp_path / "report" / "stages.svg").read_bytes()
    write_stages({"toy": found}, "nDCG@10", tmp_path / "report")
    assert (tmp_path / "report" / "stages.svg").read_bytes() == first_bytes


@pytest.mark.slow
def test_the_command_line_tunes_and_writes_the_grid(index, tmp_path, few_variants, monkeypatch):
    from typer.testing import CliRunner

    from lsr.cli import app
    from lsr.eval import feedback_report

    monkeypatch.setattr(feedback_report, "DOCUMENTS", (1, 3))
    folder = tmp_path / "toy"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_bytes((index.parent / "corpus.jsonl").read_bytes())
    lines = []
    for split, n, seed in (("dev", 9, 2), ("test", 7, 3)):
        data = dataset(split, n, seed)
        lines += [json.dumps({"_id": query.id, "text": query.text}) for query in data.queries]
        judged = [f"{q}\t{d}\t{g}" for q, of in data.qrels.items() for d, g in of.items()]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(judged) + "\n")
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")

    def lsr(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    arguments = ("grid", folder, "--encoder", "lexical", "--dense", index.parent / "dense")
    arguments += ("--out", tmp_path / "out", "--cache", tmp_path / "cache")
    found = lsr(*arguments)
    assert found.exit_code == 0, found.output
    assert "dense feedback: both" in found.stdout and "| toy | sparse |" in found.stdout
    out = tmp_path / "out" / "lexical"
    for name in ("report.html", "report.tex", "stages.svg", "chosen.json", "results.json"):
        assert (out / name).stat().st_size > 0
    assert len(list((out / "runs").rglob("*.trec"))) == 11
    assert lsr(*arguments).stdout == found.stdout

    # Two datasets of the same name would overwrite each other's results.
    (tmp_path / "more").mkdir()
    shutil.copytree(folder, tmp_path / "more" / "toy")
    refused = lsr(*arguments, tmp_path / "more" / "toy")
    assert refused.exit_code == 1
    assert "several datasets are called 'toy': names must differ" in refused.stderr
    refused = lsr(*arguments, "--encoder", tmp_path / "lexical")
    assert refused.exit_code == 1 and "several encoders are called 'lexical'" in refused.stderr

    (built,) = (tmp_path / "cache" / "indexes").iterdir()
    tuned = lsr("tune", built, folder, "--json")
    assert tuned.exit_code == 0, tuned.output
    assert json.loads(tuned.stdout)["n_queries"] == 9
    assert (built / "generation-1" / "tuning.json").exists()
    refused = lsr("tune", built, folder, "--split", "train")
    assert refused.exit_code == 1 and "no split 'train'" in refused.stderr
