"""Training through the command line, and an index made with the trained model."""

import json

import pytest
from typer.testing import CliRunner

from lsr.cli import app

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]
STEPS = ("--set", "training.max_steps=20", "--set", "training.save_steps=20")


def lsr(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["splade-doc", "echo-mistral"])
def test_a_trained_encoder_indexes_searches_and_explains(tmp_path, recipe):
    out = tmp_path / "run"
    result = lsr("train", recipe, "--tiny", "--out", out, *STEPS, "--json")
    assert result.exit_code == 0, result.output
    learned = json.loads(result.stdout.splitlines()[-1])
    assert learned["held_out_queries"] == 100
    assert learned["model"] == str(out / "model")
    assert set(learned["before"]) == set(learned["after"]) >= {"nDCG@10", "document terms"}
    # The same command again finds the run finished.
    again = lsr("train", recipe, "--tiny", "--out", out, *STEPS)
    assert again.exit_code == 0, again.output
    assert "100 held-out queries" in again.stdout and "terms kept" in again.stdout
    index = tmp_path / "index"
    result = lsr("index", out / "collection", "--out", index, "--encoder", out / "model")
    assert result.exit_code == 0, result.output
    document = json.loads((out / "collection" / "corpus.jsonl").read_text().splitlines()[0])
    result = lsr("search", index, document["text"], "--json", "-k", "3")
    assert result.exit_code == 0, result.output
    hits = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(hits) == 3
    own = set(document["text"].split())
    for hit in hits:
        assert sum(term["contribution"] for term in hit["terms"]) == pytest.approx(hit["score"])
        for term in hit["terms"]:
            assert term["literal_in_query"] == (term["term"] in own)
    result = lsr("eval", out / "collection", "--split", "dev", "--index", index, "--json")
    assert result.exit_code == 0, result.output
    assert 0 <= json.loads(result.stdout)["means"]["nDCG@10"] <= 1


def test_recipes_are_listed():
    result = lsr("recipes")
    assert result.exit_code == 0
    assert "inference-free\n" in result.stdout and "arXiv:2411.04403" in result.stdout
    whole = json.loads(lsr("recipes", "adapt").stdout)
    assert whole["model"]["queries"] == "idf"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("train", "none", "--out", "x"), 1, "no recipe 'none'"),
        (("train", "splade-doc", "--out", "x", "--set", "seed"), 2, "--set wants KEY=VALUE"),
        (("train", "splade-doc", "--out", "x", "--set", "a.b=1"), 1, "Unexpected keyword"),
        (("train", "csr", "--out", "x"), 1, "data.source is not set: give --data"),
        (
            ("train", "finetune", "--tiny", "--data", "pairs.tsv", "--out", "x"),
            1,
            "leave out --tiny to train on your own data",
        ),
        (("adapt", "nowhere.jsonl", "--out", "x"), 1, "nowhere.jsonl"),
        (("recipes", "none"), 1, "no recipe 'none'"),
    ],
)
def test_errors(arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = lsr(*arguments)
    assert result.exit_code == code
    assert message in result.output


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [
        ("splade-doc", "model.base={}"),
        ("echo-mistral", "decoder.base={}"),
        ("csr", "autoencoder.base={}"),
        ("adapt", 'teachers.names=["bm25", "sparse:{}"]'),
    ],
)
def test_a_model_that_is_missing_is_named_before_data_are_prepared(tmp_path, recipe, setting):
    missing = tmp_path / "missing"
    (tmp_path / "data.jsonl").write_text('{"_id": "a", "text": "heat"}\n')
    result = lsr(
        *("train", recipe, "--data", tmp_path / "data.jsonl", "--out", tmp_path / "run"),
        *("--set", setting.format(missing)),
    )
    assert result.exit_code == 1
    assert f"{missing}: no such directory of a checkpoint" in result.stderr
    assert not (tmp_path / "run").exists()


def test_what_training_lacks_is_said(tmp_path, monkeypatch):
    def learn(*arguments):
        raise ImportError("no module named 'datasets'")

    monkeypatch.setattr("lsr.eval.learning.learn", learn)
    result = lsr("train", "splade-doc", "--tiny", "--out", tmp_path)
    assert result.exit_code == 1
    assert "'datasets'; training needs `pip install \"lsr-search[train]\"`" in result.output
