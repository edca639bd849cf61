"""Indexes with a dense side: build.py, live.py and the commands keep it with Lucene's."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from typer.testing import CliRunner

from lsr.building import live
from lsr.building.build import add_documents, build_index, delete_documents, merge_index
from lsr.building.live import open_live
from lsr.cli import app
from lsr.cli.indexing import DenseKind
from lsr.corpus.corpus import open_corpus
from lsr.encoders.dense import DenseEncoder
from lsr.encoders.load import default_tokenizer
from lsr.indexes.approximate import KINDS
from lsr.indexes.dense import DenseIndex
from lsr.indexes.dense_writer import DenseWriter
from lsr.indexes.lucene import LuceneIndex
from lsr.indexes.manifest import read_manifest
from lsr.search import Searcher

WORDS = "heat flow wing plate layer pressure shock nose cone cylinder boundary theory".split()


def save_model(path, seed=0):
    """Save a bi-encoder of random word vectors; a text's vector is the mean of its words'."""
    torch.manual_seed(seed)
    words = StaticEmbedding(default_tokenizer().backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[words]).save(str(path), create_model_card=False)
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("dense") / "model")


def write_corpus(path, ids, seed=0):
    rng = np.random.default_rng(seed)
    texts = ({"_id": doc_id, "text": " ".join(rng.choice(WORDS, 9))} for doc_id in ids)
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return open_corpus(path)


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus.jsonl", [f"d{number}" for number in range(100)])


def build(corpus, directory, model, **settings):
    return build_index(corpus, directory, "lexical", dense=model, **settings)


def check_sides(opened):
    """Check that both sides hold the same documents, each with the vector of its text."""
    ids = opened.index.matching()
    assert opened.dense.ids == ids
    assert len(opened.dense) == opened.index.n_docs == len(ids)
    texts = [document.content for document in opened.index.documents(ids)]
    assert (opened.dense.vectors(ids) == opened.dense_encoder.encode_documents(texts)).all()
    return ids


def sides(directory):
    with open_live(directory) as opened:
        return check_sides(opened)


def interrupted(monkeypatch, failing_after, corpus, directory, model, **settings):
    """Start a build that is interrupted after six commits."""
    with monkeypatch.context() as patch:
        failing_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            build(corpus, directory, model, **settings)


def dense_files(directory, generation=1):
    folder = directory / f"generation-{generation}" / "dense"
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


def test_a_build_makes_both_sides(corpus, tmp_path, model, small_steps):
    build(corpus, tmp_path / "index", model)
    assert len(sides(tmp_path / "index")) == 100
    manifest = read_manifest(tmp_path / "index")
    assert (manifest.dense, manifest.dense_kind) == (model, "auto")
    assert manifest.dense_sha256 == DenseEncoder(model).fingerprint
    assert dense_files(tmp_path / "index").keys() == {".npy", ".json"}
    with open_live(tmp_path / "index") as opened:
        names = json.loads(opened.index.user_data["dense"])
        assert list(opened.dense.names) == names and len(names) == 1
        query = opened.dense_encoder.encode_queries(["wing theory"])
        hits = opened.dense.search(query, 5)[0]
        assert [score for _, score in hits] == sorted((s for _, s in hits), reverse=True)


def test_an_index_without_a_dense_side_is_as_it_was(corpus, tmp_path):
    build_index(corpus, tmp_path / "index", "lexical")
    with open_live(tmp_path / "index") as opened:
        assert opened.dense is None and opened.dense_encoder is None
        keys = {"n_documents", "settings", "encoder_sha256", "n_capped", "truncation", "commit"}
        assert opened.index.user_data.keys() == keys
        opened.refresh()
    assert not (tmp_path / "index" / "generation-1" / "dense").exists()
    add_documents(write_corpus(tmp_path / "more.jsonl", ["x"]), tmp_path / "index")
    delete_documents(tmp_path / "index", ["d1"])
    merge_index(tmp_path / "index")
    with Searcher(tmp_path / "index") as searcher:
        assert searcher.index.n_docs == 100


@pytest.mark.parametrize("kind", ["auto", "hnsw"])
def test_an_interrupted_build_goes_on_and_ends_as_if_it_had_not_been(
    corpus, tmp_path, model, monkeypatch, failing_after, small_steps, kind
):
    build(corpus, tmp_path / "whole", model, dense_kind=kind)
    interrupted(monkeypatch, failing_after, corpus, tmp_path / "index", model, dense_kind=kind)
    assert build(corpus, tmp_path / "index", model, dense_kind=kind).n_documents == 40
    assert len(sides(tmp_path / "index")) == 100
    assert dense_files(tmp_path / "index") == dense_files(tmp_path / "whole")
    with open_live(tmp_path / "index") as opened:
        assert opened.dense.kind == ("flat" if kind == "auto" else kind)


def test_a_build_cut_off_while_vectors_are_merged_goes_on(
    corpus, tmp_path, model, monkeypatch, small_steps
):
    with monkeypatch.context() as patch:
        patch.setattr(DenseWriter, "merge", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(corpus, tmp_path / "index", model)
    assert build(corpus, tmp_path / "index", model).n_documents == 0
    assert len(sides(tmp_path / "index")) == 100


@pytest.mark.parametrize("change", ["none", "kind", "weights", "added"])
def test_a_build_with_another_dense_side_starts_afresh(
    corpus, tmp_path, model, monkeypatch, failing_after, small_steps, change
):
    path = tmp_path / "model"
    shutil.copytree(model, path)
    before = None if change == "added" else str(path)
    interrupted(monkeypatch, failing_after, corpus, tmp_path / "index", before)
    if change == "weights":
        shutil.rmtree(path)
        save_model(path, seed=1)
    after = None if change == "none" else str(path)
    kind = "flat" if change == "kind" else "auto"
    assert build(corpus, tmp_path / "index", after, dense_kind=kind).n_documents == 100
    if after:
        assert len(sides(tmp_path / "index")) == 100


def test_adding_deleting_and_merging_keep_both_sides_in_step(corpus, tmp_path, model):
    directory = tmp_path / "index"
    build(corpus, directory, model)
    with open_live(directory) as opened:
        more = write_corpus(tmp_path / "more.jsonl", ["d7", "new1", "new2"], seed=5)
        add_documents(more, directory)
        assert len(check_sides(opened)) == 100  # of the commit that was opened
        opened.refresh()
        assert len(check_sides(opened)) == 102
        with pytest.raises(KeyError, match="no document 'nobody'"):
            delete_documents(directory, ["d1", "nobody"])
        delete_documents(directory, ["d1", "new2"])
        opened.refresh()
        assert {"d1", "new2"}.isdisjoint(check_sides(opened))
        assert len(opened.dense.names) == 3
        steps = []
        merge_index(directory, progress=lambda *step: steps.append(step))
        assert len(check_sides(opened)) == 100
        opened.refresh()
        assert len(check_sides(opened)) == 100
        assert len(opened.dense.names) == 1
        assert steps == []  # flat vectors need no structure
    assert dense_files(directory).keys() == {".npy", ".json"}
    delete_documents(directory, sides(directory))
    merge_index(directory)
    assert sides(directory) == []


@pytest.mark.parametrize("operation", ["add", "delete", "merge"])
def test_a_kill_between_the_vectors_and_the_commit_changes_nothing(
    corpus, tmp_path, model, monkeypatch, operation
):
    directory = tmp_path / "index"
    build(corpus, directory, model)
    delete_documents(directory, ["d9"])
    more = write_corpus(tmp_path / "more.jsonl", ["d7", "new"], seed=5)
    change = {
        "add": partial(add_documents, more, directory),
        "delete": partial(delete_documents, directory, ["d1", "d2"]),
        "merge": partial(merge_index, directory),
    }[operation]
    before = sides(directory)
    folder = directory / "generation-1" / "dense"
    files = set(folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(LuceneIndex, "commit", lambda self, user_data: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            change()
    rubbish = set(folder.iterdir()) - files
    assert rubbish
    assert sides(directory) == before
    delete_documents(directory, ["d3"])
    with open_live(directory) as opened:
        assert {path.stem for path in folder.iterdir()} == {*opened.dense.names}
    assert sides(directory) == [doc_id for doc_id in before if doc_id != "d3"]
    change()
    sides(directory)


def test_a_merge_between_the_opening_of_the_two_sides(corpus, tmp_path, model, monkeypatch):
    directory = tmp_path / "index"
    build(corpus, directory, model)
    delete_documents(directory, ["d1"])
    real = DenseIndex.open
    calls = []

    def late(folder, names):
        calls.append(names)
        if len(calls) == 1:
            merge_index(directory)
        return real(folder, names)

    monkeypatch.setattr(live.DenseIndex, "open", late)
    assert len(sides(directory)) == 99
    first, of_merge, again = calls
    assert first == of_merge != again


def test_a_merge_during_a_refresh(corpus, tmp_path, model, monkeypatch):
    directory = tmp_path / "index"
    build(corpus, directory, model)
    with open_live(directory) as opened:
        delete_documents(directory, ["d1"])
        real = DenseIndex.refresh

        def late(self, names):
            monkeypatch.setattr(DenseIndex, "refresh", real)
            merge_index(directory)
            real(self, names)

        monkeypatch.setattr(DenseIndex, "refresh", late)
        opened.refresh()
        assert len(check_sides(opened)) == 99


def test_a_lost_file_is_an_error(corpus, tmp_path, model):
    build(corpus, tmp_path / "index", model)
    (path,) = (tmp_path / "index" / "generation-1" / "dense").glob("*.npy")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name), open_live(tmp_path / "index"):
        pass


def test_another_dense_model_is_refused_when_it_is_needed(corpus, tmp_path, model):
    path = tmp_path / "model"
    shutil.copytree(model, path)
    build(corpus, tmp_path / "index", str(path))
    shutil.rmtree(path)
    save_model(path, seed=1)
    with Searcher(tmp_path / "index") as searcher:
        assert searcher.search("heat", 3, mode="sparse")
        with pytest.raises(ValueError, match="has other weights"):
            searcher.search("heat", 3)
    with open_live(tmp_path / "index") as opened:
        with pytest.raises(ValueError, match="has other weights .* than those the vectors were"):
            opened.dense_encoder.encode_queries(["heat"])
    with pytest.raises(ValueError, match="has other weights"):
        add_documents(corpus, tmp_path / "index")
    delete_documents(tmp_path / "index", ["d1"])  # no model is needed for that
    shutil.rmtree(path)
    with (
        open_live(tmp_path / "index") as opened,
        pytest.raises(FileNotFoundError, match="no such directory of a checkpoint"),
    ):
        opened.dense_encoder.encode_queries(["heat"])


def test_opening_loads_no_model(corpus, tmp_path, model):
    build(corpus, tmp_path / "index", model)
    code = (
        "import sys; from pathlib import Path; from lsr.building.live import open_live\n"
        "with open_live(Path(sys.argv[1])) as opened: assert len(opened.dense) == 100\n"
        "assert not {'sentence_transformers', 'faiss'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "index"], check=True)


def test_refuses_before_anything_is_touched(corpus, tmp_path, model):
    build(corpus, tmp_path / "index", model)
    with pytest.raises(ValueError, match="`dense_kind` must be one of auto, .* got 'tree'"):
        build(corpus, tmp_path / "index", model, dense_kind="tree")
    with pytest.raises(ValueError, match="`dtype` must be one of float32, bfloat16, got 'int8'"):
        build(corpus, tmp_path / "index", model, dtype="int8")
    with pytest.raises(FileNotFoundError, match="no encoder 'nowhere/nothing'"):
        build(corpus, tmp_path / "index", "nowhere/nothing")
    assert [path.name for path in (tmp_path / "index").glob("gen*")] == ["generation-1"]


def lsr(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_commands(corpus, tmp_path, model):
    index = tmp_path / "index"
    command = ("index", tmp_path / "corpus.jsonl", "--out", index, "--encoder", "lexical")
    result = lsr(*command, "--dense", model, "--dense-kind", "hnsw")
    assert result.exit_code == 0, result.output
    result = lsr("doctor", index)
    assert result.exit_code == 0, result.output
    assert f"dense side: {model}, hnsw, 100 vectors of 8 numbers, 0.0 MB" in result.stdout
    assert "both sides hold the same documents" in result.stdout
    assert asdict(read_manifest(index))["dense_kind"] == "hnsw"
    with open_live(index, writable=True) as opened:
        opened.index.delete(["d3", "d5"])
        opened.index.commit(opened.index.user_data)
    result = lsr("doctor", index)
    assert result.exit_code == 1
    assert "2 documents are on one side only, such as 'd3'" in result.stdout
    (path,) = (index / "generation-1" / "dense").glob("*.faiss")
    path.write_bytes(path.read_bytes()[:100])
    result = lsr("doctor", index)
    assert result.exit_code == 1
    assert f"{path}: not a faiss index, or a truncated one" in result.stderr
    assert lsr(*command, "--dense", model, "--dense-kind", "tree").exit_code == 2


def test_the_commands_kinds_are_all():
    assert tuple(kind.value for kind in DenseKind) == KINDS
