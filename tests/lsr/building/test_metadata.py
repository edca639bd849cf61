"""Metadata changed without encoding: filters and facets see it, and nothing else changes."""

import json

import numpy as np
import pytest

from lsr.building.build import build_index, merge_index
from lsr.building.metadata import change_metadata
from lsr.corpus.corpus import open_corpus
from lsr.documents import change_of
from lsr.encoders.dense import DenseEncoder
from lsr.encoders.lexical import LexicalEncoder
from lsr.filter_text import parse
from lsr.indexes import jvm
from lsr.indexes.manifest import read_manifest
from lsr.search import Searcher

WORDS = "heat flow wing plate layer pressure shock nose cone cylinder boundary theory".split()
MODES = ("words", "learned", "sparse", "dense", "hybrid")
N = 60


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("metadata") / "corpus.jsonl"
    with path.open("w") as file:
        for n in range(N):
            record = {"_id": f"d{n}", "title": f"Title {n}", "text": " ".join(rng.choice(WORDS, 7))}
            more = {"kind": f"k{n % 3}", "year": 1950 + n, "of": {"a": n, "b": "x"}}
            file.write(json.dumps(record | more) + "\n")
    return open_corpus(path)


@pytest.fixture
def directory(corpus, tmp_path, dense_model):
    build_index(corpus, tmp_path / "index", "lexical", dense=dense_model)
    return tmp_path / "index"


@pytest.fixture
def no_encoder(monkeypatch):
    """Documents cannot be encoded."""

    def refuse(self, *arguments):
        raise AssertionError("an encoder was called")

    for kind in (LexicalEncoder, DenseEncoder):
        monkeypatch.setattr(kind, "encode_documents", refuse)


def seen(directory, modes=MODES):
    """Rankings, explanations, vectors and counts of an index."""
    ids = [f"d{n}" for n in range(N)]
    with Searcher(directory) as searcher:
        index, dense = searcher.index, searcher.passes.dense
        impacts = index.impacts(ids)
        return {
            "ranked": [searcher.rank(["heat wing", "cone 7"], mode=mode) for mode in modes],
            "why": [repr(searcher.explain("heat cone", d, mode=m)) for m in modes for d in ids[:9]],
            "impacts": (impacts.indices.tolist(), impacts.data.tolist()),
            "tokens": index.token_frequencies().tolist(),
            "vectors": dense.vectors(ids).tolist(),
            "texts": [(of.id, of.title, of.text) for of in index.documents(ids)],
            "user data": {k: v for k, v in index.user_data.items() if k != "commit"},
        }


def test_only_metadata_change(directory, no_encoder):
    before = seen(directory)
    changes = [change_of(f"d{n}", {"kind": "new", "of": {"a": None}, "n": [n]}) for n in range(N)]
    assert change_metadata(directory, changes) == N
    assert seen(directory) == before
    with Searcher(directory) as searcher:
        assert searcher.commit == 3
        counts = searcher.counts("heat", facets=["kind", "of.b", "n: 3..5"])
        values = [[tuple(of) for of in facet.values] for facet in counts.facets]
        assert values == [[("new", N)], [("x", N)], []]
        assert counts.facets[2].ranges[0].documents == 3
        assert searcher.counts("heat", filter="kind = k0").total == 0
        (document,) = searcher.index.documents(["d7"])
        assert document.metadata == {"kind": "new", "year": 1957, "of.b": "x", "n": [7]}
        hits = searcher.search("heat", mode="hybrid", filter="n = 7")
        assert [hit.document for hit in hits] == [document]


def test_one_document_changes_and_the_others_stay(directory, no_encoder):
    # A replaced document counts in the statistics of words until it is merged away.
    modes = ("learned", "dense")
    merge_index(directory)
    before, everything = seen(directory, modes), seen(directory)
    with Searcher(directory) as searcher:
        others = searcher.index.documents([f"d{n}" for n in range(N) if n != 7])
    assert change_metadata(directory, [change_of("d7", {"kind": None, "year": "soon"})]) == 1
    after = seen(directory, modes)
    assert after.pop("tokens") != before.pop("tokens")
    assert after == before
    merge_index(directory)
    assert seen(directory) == everything
    with Searcher(directory) as searcher:
        assert searcher.index.documents([of.id for of in others]) == others
        (document,) = searcher.index.documents(["d7"])
        assert document.metadata == {"year": "soon", "of.a": 7, "of.b": "x"}
        assert searcher.index.matching(parse("not exists(kind)")) == ["d7"]


def test_changes_of_one_document_follow_each_other(directory):
    changes = [
        change_of("d1", {"x": 1, "kind": "a"}),
        change_of("d2", {"x": 5}),
        change_of("d1", {"x": None, "y": 2}),
        change_of("d1", {"of": None, "of.c": 3}),
    ]
    assert change_metadata(directory, changes) == 2
    with Searcher(directory) as searcher:
        first, second = searcher.index.documents(["d1", "d2"])
    assert first.metadata == {"kind": "a", "year": 1951, "y": 2, "of.c": 3}
    assert second.metadata["x"] == 5


def test_with_an_unknown_id_nothing_is_changed(directory, monkeypatch):
    monkeypatch.setattr("lsr.building.metadata.SHARD", 1)
    before = seen(directory)
    changes = [change_of("d1", {"kind": "x"}), change_of("nobody", {"kind": "x"})]
    with pytest.raises(KeyError, match="no document 'nobody' in this index"):
        change_metadata(directory, changes)
    assert seen(directory) == before
    with Searcher(directory) as searcher:
        assert (searcher.commit, searcher.index.documents(["d1"])[0].metadata["kind"]) == (2, "k1")
    assert change_metadata(directory, []) == 0


def passages(directory):
    """The passage number of each document by id, as Lucene has them after a merge."""
    folder = read_manifest(directory).folder(directory) / "lucene"

    def read():
        from jnius import autoclass

        opened = autoclass("org.apache.lucene.store.FSDirectory").open(
            autoclass("java.nio.file.Path").of(str(folder))
        )
        reader = autoclass("org.apache.lucene.index.DirectoryReader").open(opened)
        values = autoclass("org.apache.lucene.index.MultiDocValues")
        ids = values.getBinaryValues(reader, "id")
        numbers = values.getNumericValues(reader, "passage")
        found = {}
        for doc in range(reader.maxDoc()):
            assert ids.advanceExact(doc) and numbers.advanceExact(doc)
            found[ids.binaryValue().utf8ToString()] = numbers.longValue()
        reader.close()
        opened.close()
        return found

    return jvm.call(read)


def test_a_passage_keeps_its_number(directory):
    merge_index(directory)
    before = passages(directory)
    change_metadata(directory, [change_of(f"d{n}", {"x": n}) for n in range(0, N, 2)])
    merge_index(directory)
    assert passages(directory) == before
    assert sorted(before.values()) == list(range(N))
