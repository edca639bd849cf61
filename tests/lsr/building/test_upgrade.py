"""lsr/building/upgrade.py on an index that the version before wrote: format-2.zip.

It was built by `lexical` with vectors of the default dense model from documents a (with a title and
metadata), b and c; then b was replaced, c deleted, and an interpolation stored.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lsr.building.build import add_documents
from lsr.building.live import open_live
from lsr.building.lock import locked
from lsr.building.tuning import read_tuning
from lsr.building.upgrade import upgrade_index
from lsr.cli import app
from lsr.corpus.corpus import open_corpus
from lsr.documents import Document
from lsr.indexes.dense import DenseIndex
from lsr.indexes.lucene import IndexLockedError, LuceneIndex
from lsr.indexes.manifest import read_manifest
from lsr.search import Searcher


@pytest.fixture
def older(tmp_path):
    with zipfile.ZipFile(Path(__file__).with_name("format-2.zip")) as archive:
        archive.extractall(tmp_path / "index")
    return tmp_path / "index"


def test_everything_is_kept_and_words_are_added(older, tmp_path):
    generation = older / "generation-1"
    with LuceneIndex.open(generation / "lucene", [f"t{i}" for i in range(30_522)]) as index:
        impacts, user_data = index.impacts(["a", "b"]).toarray(), index.user_data
    vectors = DenseIndex.open(generation / "dense", json.loads(user_data["dense"]))
    vectors = vectors.vectors(["a", "b"])
    upgraded = upgrade_index(older)
    assert upgraded == (2, None)
    manifest = read_manifest(older)
    assert (manifest.format_version, manifest.generation, manifest.language) == (3, 2, "en")
    assert not generation.exists()
    tuned = read_tuning(manifest.folder(older)).interpolation
    assert (tuned.alpha, tuned.sides) == (0.3, ("learned", "dense"))
    with open_live(older) as live:
        assert live.index.documents(["a", "b"]) == [
            Document("a", "Heat", "Heat transfer in a pipe.", {"year": 1957, "tags": ["x", "y"]}),
            Document("b", "New", "Shock waves and heat."),
        ]
        assert live.index.user_data == user_data
        assert (live.index.impacts(["a", "b"]).toarray() == impacts).all()
        assert np.array_equal(live.dense.vectors(["a", "b"]), vectors)
        assert live.index.word_frequencies(["heat", "wave", "wing"])[1].tolist() == [2, 1, 0]
        heat = live.encoder.vocabulary.index("heat")
        assert live.index.token_frequencies()[heat] == 2
    (tmp_path / "more.jsonl").write_text('{"_id": "d", "text": "more heat"}')
    add_documents(open_corpus(tmp_path / "more.jsonl"), older)
    with Searcher(older) as searcher:
        assert {hit.document.id for hit in searcher.search("heat", mode="sparse")} == {
            "a",
            "b",
            "d",
        }


def test_a_killed_upgrade_leaves_the_index_as_it_was_and_starts_again(older, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lsr.building.upgrade.write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            upgrade_index(older)
    assert read_manifest(older, older=True).generation == 1
    assert (older / "generation-1").exists() and (older / "generation-2").exists()
    assert upgrade_index(older).n_documents == 2


@pytest.mark.parametrize("gone", [True, False])
def test_an_index_with_damaged_vectors_stays_as_it_was(older, gone):
    path = max((older / "generation-1" / "dense").glob("*.npy"))
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    if gone:
        path.unlink()
    with pytest.raises(FileNotFoundError if gone else ValueError, match=path.name):
        upgrade_index(older)
    assert sorted(of.name for of in older.glob("generation-*")) == ["generation-1"]
    path.write_bytes(content)
    assert upgrade_index(older).n_documents == 2


def test_a_locked_index_is_not_upgraded(older, monkeypatch):
    monkeypatch.setattr("lsr.building.lock.LOCK_SECONDS", 0.0)
    with locked(older), pytest.raises(IndexLockedError):
        upgrade_index(older)


def test_the_command(older):
    def lsr(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    result = lsr("search", older, "heat")
    assert result.exit_code == 1 and f"`lsr upgrade {older}`" in result.stderr
    result = lsr("upgrade", older, "--language", "tlh")
    assert result.exit_code == 1 and "got 'tlh'" in result.stderr
    result = lsr("upgrade", older, "--language", "auto")
    assert result.exit_code == 0
    assert "100% of the documents are in language 'en', by which words" in result.stderr
    assert "2 documents of" in result.stderr
    result = lsr("upgrade", older)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "has the format of this version already" in result.stderr
