"""eval/cache.py: what is read from the cache, and what is computed again."""

import shutil

import pytest

from lsr.building.build import add_documents, build_index
from lsr.corpus.corpus import open_corpus
from lsr.eval.cache import Cache, IndexSpec, default_folder, encoder_identity
from lsr.eval.datasets import load_dataset
from lsr.eval.systems import evaluate_system, parse_system


@pytest.mark.slow
def test_a_damaged_run_is_computed_again(two):
    cache = Cache(two[0].parent / "cache")
    system, dataset = parse_system("lexical"), load_dataset(two[0])
    found = evaluate_system(system, dataset, ["RR@10"], cache=cache)
    (run,), (record,) = cache.folder.glob("runs/*.trec"), cache.folder.glob("runs/*.json")
    whole = run.read_text()
    for damage in (whole[:-20], whole[: whole.index("\n") + 1], ""):
        run.write_text(damage)
        with pytest.warns(UserWarning, match=r"\.trec is damaged and computed again: its SHA-256"):
            again = evaluate_system(system, dataset, ["RR@10"], cache=cache)
        assert again.run == found.run and run.read_text() == whole
    described = record.read_text()
    for damage in (described[:-20], "{}", "[]", "", '{"cost": {"x": 1}}'):
        record.write_text(damage)
        with pytest.warns(UserWarning, match="is damaged and computed again"):
            assert evaluate_system(system, dataset, ["RR@10"], cache=cache).run == found.run
    run.unlink()
    with pytest.warns(UserWarning, match="No such file"):
        assert evaluate_system(system, dataset, ["RR@10"], cache=cache).run == found.run
    assert not list(cache.folder.rglob("*.partial"))


def test_what_is_cached_is_known_by_its_content(two, builds):
    cache = Cache(two[0].parent / "cache")
    dataset = load_dataset(two[0])
    path = cache.index(IndexSpec(dataset, "lexical", 256, None))
    assert (
        cache.index(
            IndexSpec(dataset._replace(name=str(two[0]), split="dev"), "lexical", 256, None)
        )
        == path
    )
    assert cache.index_path(IndexSpec(dataset, "lexical", 64, None)) != path
    assert cache.index_path(IndexSpec(dataset, "grafted", 256, None)) != path
    assert cache.index_path(IndexSpec(dataset, "lexical", 256, "default")) != path
    assert cache.index_path(IndexSpec(dataset, "lexical", 256, None, "float32")) != path
    assert cache.index_path(IndexSpec(load_dataset(two[1]), "lexical", 256, None)) != path
    assert len(builds) == 1
    # A copy of the documents at another path has the same key.
    shutil.copytree(two[0], two[0].parent / "copy")
    copy = load_dataset(two[0].parent / "copy")
    assert Cache(cache.folder).index_path(IndexSpec(copy, "lexical", 256, None)) == path
    with (two[0].parent / "copy" / "corpus.jsonl").open("a") as file:
        file.write('\n{"_id": "new", "text": "flow"}')
    assert Cache(cache.folder).index_path(IndexSpec(copy, "lexical", 256, None)) != path


def test_an_index_that_changes_is_ranked_again(two):
    root = two[0].parent
    build_index(open_corpus(two[0]), root / "index", "lexical")
    cache, dataset = Cache(root / "cache"), load_dataset(two[0])
    system = parse_system(str(root / "index"))

    def reciprocal_rank():
        return evaluate_system(system, dataset, ["RR"], cache=cache).evaluation.means["RR"]

    assert reciprocal_rank() == reciprocal_rank() == 0.25
    assert len(list(cache.folder.glob("runs/*.trec"))) == 1
    (root / "more.tsv").write_text("b\theat flow heat flow\n")
    add_documents(open_corpus(root / "more.tsv"), root / "index")
    assert reciprocal_rank() == 0.5


def test_the_default_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "lsr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "lsr"


def test_encoders_without_a_checkpoint_are_known_by_name():
    for name in ("bm25", "lexical", "grafted"):
        assert encoder_identity(name)[0] == name
