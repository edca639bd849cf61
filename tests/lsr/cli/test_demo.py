"""lsr/cli/demo.py on the documents that answer the bundled questions."""

import json
import sys

import pytest

import lsr.cli.demo as demo  # `from lsr.cli import demo` is the command of this name
from lsr.building import build
from lsr.corpus.corpus import Corpus
from lsr.corpus.pydoc import read_pydoc
from lsr.eval.datasets import load_dataset


@pytest.mark.slow
def test_what_is_indexed_is_searched_again_unless_the_weights_are_others(
    tmp_path, monkeypatch, capsys
):
    answers = {doc_id for grades in load_dataset("pydoc").qrels.values() for doc_id in grades}
    documents = [document for document in read_pydoc() if document.id in answers]
    corpus = Corpus("pydoc", lambda on_bad: iter(documents))
    monkeypatch.setattr(demo, "open_corpus", lambda name: corpus)
    demo.run_demo(tmp_path)
    shown = capsys.readouterr().out
    assert shown.startswith("Indexing the standard library's documentation")
    for query in demo.QUERIES:
        assert query in shown
    assert "1. shutil.copy2" in shown
    assert ["documents", *[str(len(documents))] * len(demo.MODES)] in [
        line.split() for line in shown.splitlines()
    ]
    monkeypatch.setattr(build, "build_index", None)
    monkeypatch.setattr(demo, "build_index", None)
    demo.run_demo(tmp_path)
    again = capsys.readouterr().out
    assert again.splitlines()[:20] == shown.splitlines()[1:21]
    assert "lsr explain" in again
    home = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert again.rstrip().splitlines()[-1] == f"    lsr serve {tmp_path / home / 'default'}"

    # As after an update of lsr with other weights.
    (path,) = tmp_path.glob(f"{home}/default/manifest.json")
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"encoder_sha256": "0" * 64}))
    monkeypatch.undo()
    monkeypatch.setattr(demo, "open_corpus", lambda name: corpus)
    demo.run_demo(tmp_path)
    updated = capsys.readouterr().out
    assert updated.startswith("Indexing the standard library's documentation")
    assert json.loads(path.read_text())["generation"] == manifest["generation"] + 1
    assert updated.splitlines()[1:21] == shown.splitlines()[1:21]
