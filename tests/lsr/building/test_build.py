"""lsr/building/build.py: resumed builds, additions, deletions, and conflicts that are refused."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from lsr.building import live, lock
from lsr.building.build import add_documents, build_index, delete_documents, merge_index
from lsr.corpus.corpus import open_corpus
from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import default_tokenizer
from lsr.indexes.lucene import IndexLockedError, LuceneError, LuceneIndex
from lsr.indexes.manifest import read_manifest
from lsr.search import Searcher

WORDS = "heat flow wing plate layer pressure shock nose cone cylinder boundary theory".split()


def write_corpus(path, ids, seed=0):
    rng = np.random.default_rng(seed)
    lines = [
        json.dumps({"_id": doc_id, "text": " ".join(rng.choice(WORDS, 9)), "seed": seed})
        for doc_id in ids
    ]
    path.write_text("\n".join(lines))
    return open_corpus(path)


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus.jsonl", [f"d{number}" for number in range(100)])


def contents(directory, **settings):
    """The ranking, the documents and the impacts of an index."""
    with Searcher(directory) as searcher:
        ids = [doc_id for doc_id, _ in searcher.rank([" ".join(WORDS)], 1000, **settings)[0]]
        found = sorted(ids)
        impacts = searcher.index.impacts(found).toarray().tolist()
        return ids, searcher.index.documents(found), impacts


def test_an_interrupted_build_goes_on_and_ends_as_if_it_had_not_been(
    corpus, tmp_path, monkeypatch, failing_after, small_steps
):
    build_index(corpus, tmp_path / "whole", "lexical")
    with monkeypatch.context() as patch:
        failing_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, tmp_path / "index", "lexical")
    with pytest.raises(FileNotFoundError, match="its build was not finished"):
        read_manifest(tmp_path / "index")
    steps = []
    build = build_index(
        corpus, tmp_path / "index", "lexical", progress=lambda *step: steps.append(step)
    )
    assert build.n_documents == 40
    assert [step for step in steps if step[0] == "encoding"][0] == ("encoding", 60, 100)
    assert contents(tmp_path / "index") == contents(tmp_path / "whole")
    manifests = [asdict(read_manifest(tmp_path / name)) for name in ("index", "whole")]
    for manifest in manifests:
        for own in ("created", "encode_docs_per_second", "quantisation_loss"):
            del manifest[own]
    assert manifests[0] == manifests[1]


@pytest.mark.slow
def test_a_killed_build_does_not_stand_in_the_way_of_one_by_another_encoder(
    corpus, tmp_path, monkeypatch, failing_after, small_steps
):
    with monkeypatch.context() as patch:
        failing_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, tmp_path / "index", "lexical")
    assert build_index(corpus, tmp_path / "index", "grafted").n_documents == 100
    assert read_manifest(tmp_path / "index").encoder == "grafted"


@pytest.mark.parametrize("change", ["corpus", "top_k"])
def test_a_build_with_other_settings_starts_afresh(
    corpus, tmp_path, monkeypatch, failing_after, small_steps, change
):
    with monkeypatch.context() as patch:
        failing_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, tmp_path / "index", "lexical")
    if change == "corpus":
        corpus = write_corpus(tmp_path / "corpus.jsonl", [f"d{n}" for n in range(100)], seed=1)
    build = build_index(corpus, tmp_path / "index", "lexical", top_k=7)
    assert build.n_documents == 100
    with Searcher(tmp_path / "index") as searcher:
        assert searcher.index.n_docs == 100
        assert searcher.index.check()[0]


def test_a_build_does_not_go_on_with_other_weights(
    tmp_path, corpus, monkeypatch, failing_after, small_steps
):
    with monkeypatch.context() as patch:
        failing_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, tmp_path / "index", "lexical")
    statistics = tmp_path / "index" / "generation-1" / "encoder"
    LexicalEncoder.fit(default_tokenizer(), [["something else"]]).save(statistics)
    assert build_index(corpus, tmp_path / "index", "lexical").n_documents == 100


def test_a_bad_corpus_leaves_nothing_behind(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}')
    with pytest.raises(ValueError, match=r"corpus.jsonl:2: duplicate id 'a'"):
        build_index(open_corpus(tmp_path / "corpus.jsonl"), tmp_path / "index", "lexical")
    assert not (tmp_path / "index").exists()


def test_a_failed_rebuild_leaves_the_live_index_alone(
    corpus, tmp_path, monkeypatch, failing_after, small_steps
):
    build_index(corpus, tmp_path / "index", "lexical")
    before = contents(tmp_path / "index")
    other = write_corpus(tmp_path / "other.jsonl", ["x", "y"] + [f"d{n}" for n in range(30)])
    with monkeypatch.context() as patch:
        failing_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            build_index(other, tmp_path / "index", "lexical")
    assert contents(tmp_path / "index") == before
    build_index(other, tmp_path / "index", "lexical")
    assert len(contents(tmp_path / "index")[0]) == 32
    assert [path.name for path in (tmp_path / "index").glob("gen*")] == ["generation-2"]


def test_add_replaces_by_id_and_delete_is_all_or_none(corpus, tmp_path):
    build_index(corpus, tmp_path / "index", "lexical")
    with Searcher(tmp_path / "index") as searcher:
        more = write_corpus(tmp_path / "more.jsonl", ["d7", "new1", "new2"], seed=5)
        build = add_documents(more, tmp_path / "index")
        assert (build.n_documents, build.n_empty) == (3, 0)
        assert searcher.index.n_docs == 100
        searcher.refresh()
        assert searcher.index.n_docs == 102
        assert searcher.index.documents(["d7"])[0].metadata == {"seed": 5}
        with pytest.raises(KeyError, match="no document 'nobody'"):
            delete_documents(tmp_path / "index", ["d1", "nobody"])
        delete_documents(tmp_path / "index", ["d1", "new2"])
        searcher.refresh()
        assert searcher.index.n_docs == 100
        with pytest.raises(KeyError):
            searcher.explain("heat", "d1")
        assert [hit.document.id for hit in searcher.search("heat", filter="seed = 5", k=9)]


def test_merging_leaves_one_segment_without_deleted_documents(tmp_path, small_steps):
    corpus = write_corpus(tmp_path / "corpus.jsonl", [f"d{number}" for number in range(30)])
    build_index(corpus, tmp_path / "index", "lexical")
    lucene = tmp_path / "index" / "generation-1" / "lucene"
    delete_documents(tmp_path / "index", ["d3", "d14"])
    before = contents(tmp_path / "index", mode="learned")
    assert len(list(lucene.glob("*.si"))) > 1
    merge_index(tmp_path / "index")
    assert contents(tmp_path / "index", mode="learned") == before
    assert len(list(lucene.glob("*.si"))) == 1
    # From now on, words are scored as if the deleted documents had never been there.
    rest = [json.dumps({"_id": d.id, "title": d.title, "text": d.text}) for d in before[1]]
    (tmp_path / "rest.jsonl").write_text("\n".join(rest))
    build_index(open_corpus(tmp_path / "rest.jsonl"), tmp_path / "rest", "lexical")
    found, _, _ = contents(tmp_path / "index", mode="words")
    assert found == contents(tmp_path / "rest", mode="words")[0]
    with Searcher(tmp_path / "index") as searcher:
        assert searcher.index.n_postings == sum(map(np.count_nonzero, before[2]))


def test_one_writer_at_a_time(corpus, tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    changes = (
        lambda: build_index(corpus, tmp_path / "index", "lexical"),
        lambda: add_documents(corpus, tmp_path / "index"),
        lambda: delete_documents(tmp_path / "index", ["d1"]),
        lambda: merge_index(tmp_path / "index"),
    )
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.05)
    for _ in range(2):
        for change in changes:
            change()
            with (
                FileLock(tmp_path / "index" / lock.LOCK),
                pytest.raises(IndexLockedError, match="is building it or writing to it"),
            ):
                change()


def test_who_waits_is_seen_and_nothing_is_made_to_look(tmp_path):
    assert not lock.awaited(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()
    with FileLock(tmp_path / lock.WAITING):
        assert lock.awaited(tmp_path)
    assert not lock.awaited(tmp_path)


def test_a_searcher_that_opens_during_a_swap_gets_the_new_generation(corpus, tmp_path, monkeypatch):
    build_index(corpus, tmp_path / "index", "lexical")
    old = read_manifest(tmp_path / "index")
    build_index(corpus, tmp_path / "index", "lexical")
    new = read_manifest(tmp_path / "index")
    answers = iter([old, new])
    monkeypatch.setattr(live, "read_manifest", lambda directory: next(answers))
    with Searcher(tmp_path / "index") as searcher:
        assert searcher.manifest == new
        assert searcher.index.n_docs == 100


def test_another_encoder_than_that_of_the_build_is_refused(corpus, tmp_path):
    build_index(corpus, tmp_path / "index", "lexical")
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    for field, reason in (
        ("encoder_sha256", "was built with other weights of encoder 'lexical'"),
        ("vocabulary_sha256", "was built with another vocabulary"),
    ):
        path.write_text(json.dumps(manifest | {field: "0" * 64}))
        for use in (lambda: Searcher(tmp_path / "index"), lambda: add(corpus, tmp_path)):
            with pytest.raises(ValueError, match=reason):
                use()


def add(corpus, tmp_path):
    add_documents(corpus, tmp_path / "index")


def test_missing_pieces_are_named(corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match="no encoder 'nowhere/nothing'"):
        build_index(corpus, tmp_path / "index", "nowhere/nothing")
    build_index(corpus, tmp_path / "index", "lexical")
    folder = tmp_path / "index" / "generation-1"
    statistics = folder / "encoder" / "lexical.npz"
    content = statistics.read_bytes()
    statistics.write_bytes(content[:1000])
    with pytest.raises(ValueError, match=re.escape(str(statistics))):
        Searcher(tmp_path / "index")
    statistics.write_bytes(content)
    (folder / "lucene").rename(folder / "elsewhere")
    with pytest.raises(LuceneError, match="IndexNotFoundException"):
        Searcher(tmp_path / "index")


FULL_DISK = """
set -eu
cd "$1"
mkdir disk
mount -t tmpfs -o size=2m tmpfs disk
python=$2
lsr() { "$python" -c 'from lsr.cli import app; app()' "$@"; }
lsr index small.jsonl --out disk/index --encoder lexical 2>/dev/null
if lsr index large.jsonl --out disk/index --encoder lexical 2>message; then exit 3; fi
lsr search disk/index "wing theory" --json >live
mount -o remount,size=60m disk
lsr index large.jsonl --out disk/index --encoder lexical 2>/dev/null
lsr doctor disk/index >doctor
"""


def can_mount():
    """Whether a user may mount a small file system here."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "x"]
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run([*command, "/mnt"], capture_output=True).returncode
    )


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs unshare(1) and the right to mount in it")
def test_a_full_disk_is_named_and_costs_nothing(tmp_path):
    write_corpus(tmp_path / "small.jsonl", ["s1", "s2"])
    rng = np.random.default_rng(0)
    with (tmp_path / "large.jsonl").open("w") as file:
        for number in range(4000):
            text = " ".join(map(str, rng.integers(0, 10**9, 60)))
            file.write(json.dumps({"_id": f"d{number}", "text": text}) + "\n")
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", FULL_DISK, "bash"]
    result = subprocess.run(
        [*command, tmp_path, sys.executable],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert result.returncode == 0, result.stderr
    last = (tmp_path / "message").read_text().splitlines()[-1]
    assert "the disk is full; committed documents are safe" in last
    live = (tmp_path / "live").read_text().splitlines()
    assert {json.loads(line)["id"] for line in live} <= {"s1", "s2"}
    assert live
    doctor = (tmp_path / "doctor").read_text()
    assert "4,000 documents" in doctor
    assert "CheckIndex: clean" in doctor


def test_empty_documents_are_kept_and_counted(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "a", "text": "heat"}\n{"_id": "b", "text": ""}\n')
    build = build_index(open_corpus(path), tmp_path / "index", "lexical")
    assert (build.n_documents, build.n_empty) == (2, 1)
    with Searcher(tmp_path / "index") as searcher:
        assert searcher.explain("heat", "b").terms == []
        assert searcher.search("") == []
    path.write_text('{"_id": "b", "text": ""}\n')
    with pytest.raises(ValueError, match="none of 1 documents holds a token"):
        build_index(open_corpus(path), tmp_path / "other", "lexical")


def test_paths_may_be_strings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corpus.jsonl").write_text('{"_id": "d1", "text": "heat flow"}\n')
    Path("more.jsonl").write_text('{"_id": "d2", "text": "heat and heat"}\n')
    build_index(open_corpus("corpus.jsonl"), "index", "lexical")
    add_documents(open_corpus("more.jsonl"), "index")
    with Searcher("index") as searcher:
        assert [hit.document.id for hit in searcher.search("heat")] == ["d2", "d1"]
        assert searcher.index.path == searcher.manifest.folder(Path("index")) / "lucene"
        path, vocabulary = str(searcher.index.path), searcher.encoder.vocabulary
    with LuceneIndex.open(path, vocabulary) as index:
        assert index.n_docs == 2 and index.size_bytes > 0
    delete_documents("index", ["d2"])
    merge_index("index")
    with live.open_live("index") as opened:
        assert opened.index.matching() == ["d1"]
    with live.open_live("index", writable=True) as opened:
        assert opened.manifest == read_manifest("index")
    with pytest.raises(FileNotFoundError, match="absent is not an index"):
        Searcher("absent")
