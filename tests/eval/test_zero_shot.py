"""lsr/eval/zero_shot.py on a small folder, and its arithmetic by hand."""

import json
import shutil

import pytest
import torch

from lsr.encoders.default import DefaultEncoder
from lsr.encoders.masked_lm import MaskedLMEncoder
from lsr.eval import zero_shot
from lsr.eval.datasets import load_dataset
from lsr.eval.zero_shot import interpolate_runs, kept_as, main, markdown, run_of, table
from lsr.request import Interpolation
from lsr.run import Run


def test_interpolation_by_hand():
    sparse = Run({"q": [("a", 30.0), ("b", 20.0), ("c", 10.0)], "r": [("a", 5.0)]})
    dense = Run({"q": [("d", 0.9), ("b", 0.8), ("a", 0.4)], "s": [("b", 0.1), ("c", 0.1)]})
    mixed = interpolate_runs(sparse, dense, Interpolation(alpha=0.75, missing="zero"))
    assert mixed["q"] == [
        ("a", pytest.approx(0.75)),
        ("b", pytest.approx(0.75 * 0.5 + 0.25 * 0.8)),
        ("d", pytest.approx(0.25)),
        ("c", pytest.approx(0.0)),
    ]
    assert mixed["r"] == [("a", pytest.approx(0.75))]  # the only document is the best
    assert mixed["s"] == [("b", pytest.approx(0.25)), ("c", pytest.approx(0.25))]
    alone = interpolate_runs(sparse, dense, Interpolation(alpha=1.0, missing="zero"))
    assert alone["q"][:2] == [("a", 1.0), ("b", 0.5)]


def test_a_table_of_means_and_marks():
    queries = [f"q{number}" for number in range(40)]
    systems = {
        "words": dict.fromkeys(queries, 0.2),
        "dense": {query: 0.2 + 0.01 * (number % 3) for number, query in enumerate(queries)},
        "default": {query: 0.5 + 0.01 * (number % 5) for number, query in enumerate(queries)},
    }
    records = table({"one": systems, "two": systems | {"default": systems["words"]}})
    assert [record["system"] for record in records[:3]] == ["words", "dense", "default"]
    best = records[2]
    assert best["nDCG@10"] == pytest.approx(0.52)
    assert best["over_words"] == pytest.approx(0.32)
    assert best["over_dense"] == pytest.approx(0.52 - systems_mean(systems["dense"]))
    assert best["p_words"] < 0.01 and best["p_dense"] < 0.01
    assert "p_words" not in records[0]
    assert records[5]["p_words"] == 1.0
    lines = markdown(records).splitlines()
    assert lines[0] == "| | one | two | mean |" and len(lines) == 5
    assert lines[2].startswith("| words | 0.200")
    assert lines[4].startswith("| default | 0.520†‡ | 0.200")
    assert lines[4].endswith("| 0.360 |")


def systems_mean(values):
    return sum(values.values()) / len(values)


@pytest.mark.slow
def test_every_system_ranks_and_a_second_run_reads_what_the_first_wrote(
    beir_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(zero_shot, "FOLDERS", ("small",))
    collections = tmp_path / "collections"
    shutil.copytree(beir_folder, collections / "small", ignore=shutil.ignore_patterns("coll*"))
    main([str(collections), "--out", str(tmp_path / "out"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [record["system"] for record in found["quality"]] == list(zero_shot.SYSTEMS)
    for record in found["quality"]:
        run = Run.read_trec(tmp_path / "out" / "small" / f"{kept_as(record['system'])}.trec")
        # Its own document is dropped; a comes before b by BM25, which has one more word.
        assert "q1" not in dict(run["q1"]) and {"a", "b"} <= dict(run["q1"]).keys()
    cost = found["cost"]["small"]["words"]
    # "heat" is in three documents, "flow" in one; q2's word in none.
    assert cost["postings"] == 2.0
    assert cost["encode_us"] > 0 and cost["p50_ms"] <= cost["p95_ms"]
    dataset = load_dataset(collections / "small")
    for system in zero_shot.SYSTEMS:
        monkeypatch.setattr(zero_shot, "build_index", None)
        assert run_of(system, collections / "small", dataset, tmp_path / "out" / "small")
    main([str(collections), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.startswith("| | small | mean |")


def test_what_other_weights_of_the_default_model_gave_is_not_reused(monkeypatch):
    names = [kept_as(system) for system in zero_shot.SYSTEMS]
    monkeypatch.setattr(DefaultEncoder, "fingerprint", "0123456789abcdef")
    others = [kept_as(system) for system in zero_shot.SYSTEMS]
    assert others[4:] == ["default-float32-0123456789ab", "default+dense-float32-0123456789ab"]
    assert others[:4] == names[:4] == ["words", "bm25s", "dense", "grafted-float32"]
    assert len({*names, *others}) == 8


@pytest.mark.slow
@pytest.mark.parametrize("system", ["grafted", "default"])
def test_documents_are_encoded_in_float32_on_a_cpu_with_bfloat16(
    beir_folder, tmp_path, monkeypatch, system
):
    dtypes = []
    real = MaskedLMEncoder.encode_documents

    def encode_documents(self, *arguments, **options):
        dtypes.append(self.dtype)
        return real(self, *arguments, **options)

    monkeypatch.setattr(MaskedLMEncoder, "encode_documents", encode_documents)
    monkeypatch.setattr("lsr.encoders.masked_lm.bfloat16_is_fast", lambda: True)
    run_of(system, beir_folder, load_dataset(beir_folder), tmp_path / "out")
    assert set(dtypes) == {torch.float32}
