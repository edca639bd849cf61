"""lsr/building/writer.py: the writer of an open index, and the numbers of its commits."""

import json

import numpy as np
import pytest

from lsr.building.build import add_documents, build_index, delete_documents, merge_index
from lsr.building.live import open_live
from lsr.building.writer import Writer
from lsr.corpus.corpus import open_corpus
from lsr.documents import Document
from lsr.encoders.load import default_tokenizer
from lsr.indexes import exact
from lsr.request import ask
from lsr.search import Searcher
from lsr.vectors import MAX_IMPACT, quantise

WORDS = "heat flow wing plate layer pressure shock nose cone cylinder boundary theory".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The path of a dense model of random word vectors."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    torch.manual_seed(0)
    path = str(tmp_path_factory.mktemp("dense") / "model")
    words = StaticEmbedding(default_tokenizer().backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[words]).save(path, create_model_card=False)
    return path


def write_corpus(path, ids, seed=0):
    rng = np.random.default_rng(seed)
    texts = ({"_id": doc_id, "text": " ".join(rng.choice(WORDS, 9))} for doc_id in ids)
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return open_corpus(path)


@pytest.fixture(params=["sparse", "both sides"])
def directory(request, tmp_path, model):
    """An index of 30 documents."""
    corpus = write_corpus(tmp_path / "corpus.jsonl", [f"d{n}" for n in range(30)])
    dense = model if request.param == "both sides" else None
    build_index(corpus, tmp_path / "index", "lexical", dense=dense)
    return tmp_path / "index"


def commit_of(directory):
    with open_live(directory) as live, Searcher(directory) as searcher:
        assert live.commit == searcher.commit == int(live.index.user_data["commit"])
        return live.commit


def test_each_commit_has_the_number_after_that_before(directory, tmp_path):
    first = commit_of(directory)
    assert first >= 1
    more = write_corpus(tmp_path / "more.jsonl", ["d7", "new"], seed=5)
    changes = (
        lambda: add_documents(more, directory),
        lambda: delete_documents(directory, ["d1"]),
        lambda: merge_index(directory),
        lambda: merge_index(directory),  # counts as a commit although nothing is left to merge
    )
    with open_live(directory) as opened:
        for number, change in enumerate(changes, first + 1):
            change()
            assert commit_of(directory) == number
            assert opened.commit == number - 1
            opened.refresh()
            assert opened.commit == number


def test_a_build_that_goes_on_counts_on(tmp_path, monkeypatch, failing_after, small_steps):
    corpus = write_corpus(tmp_path / "corpus.jsonl", [f"d{n}" for n in range(100)])
    with monkeypatch.context() as patch:
        failing_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, tmp_path / "index", "lexical")
    build_index(corpus, tmp_path / "index", "lexical")
    assert commit_of(tmp_path / "index") == 6 + 4 + 1  # one per ten documents, and one at the end
    # A new generation counts from 0 again.
    build_index(corpus, tmp_path / "index", "lexical")
    assert commit_of(tmp_path / "index") == 11


def test_an_index_from_before_commits_were_counted(directory):
    with open_live(directory, writable=True) as live:
        data = live.index.user_data
        del data["commit"]
        live.index.commit(data)
        assert live.commit == 0
    delete_documents(directory, ["d0"])
    assert commit_of(directory) == 1


def test_changes_are_part_of_the_index_with_a_commit(directory):
    documents = [Document("d3", "", "wing " * 200), Document("new", "A title", "cone", {"n": 1})]
    with open_live(directory) as reader, open_live(directory, writable=True) as live:
        before, n_documents = live.index.user_data, reader.index.n_docs
        writer = Writer.of(live, directory)
        encoded = writer.encode(documents)
        writer.add(encoded)
        writer.delete(["d5", "unknown"])
        reader.refresh()
        assert reader.index.n_docs == n_documents and reader.index.documents(["d5"])
        assert writer.holds("d5") and not writer.holds("new")
        number = writer.commit()
        assert not writer.holds("d5") and writer.holds("new")
        reader.refresh()
        assert reader.commit == number == int(before["commit"]) + 1
        assert reader.index.documents(["d3", "new"]) == documents
        assert (reader.index.impacts(["d3", "new"]) != encoded.impacts).nnz == 0
        if reader.dense:
            assert reader.dense.ids == reader.index.matching()
            assert (reader.dense.vectors(["d3", "new"]) == encoded.vectors).all()
        after = reader.index.user_data
        assert after.keys() == before.keys()
        kept = {"settings", "encoder_sha256", "dense_sha256"} & before.keys()
        assert len(kept) == (3 if reader.dense else 2)
        assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
        assert after["n_capped"] == before["n_capped"] == "0"


def test_one_large_weight_is_capped_and_lowers_no_precision(directory):
    queries = [{"heat": 1.0, "wing": 0.9}, {"cone": 0.01, "nose": 0.003, "shock": 0.02}]
    with Searcher(directory) as searcher:
        expected = searcher.rank(queries)
    with open_live(directory, writable=True) as live:
        writer = Writer.of(live, directory)
        encoded = writer.encode([Document("huge", "", "heat wing cone nose shock")])
        encoded.weights.data[:] = 1e6
        writer.add(encoded._replace(impacts=quantise(encoded.weights, 64)))
        assert writer.n_capped == 5
        writer.commit()
    with Searcher(directory) as searcher:
        assert searcher.index.user_data["n_capped"] == "5"
        ranked = searcher.rank(queries)
        assert [hits[0][0] for hits in ranked] == ["huge", "huge"]
        assert [hits[1:] for hits in ranked] == expected
        why = searcher.explain(queries[0], "huge")
        assert {term.document_weight for term in why.terms} == {MAX_IMPACT / 64}
    delete_documents(directory, ["huge"])
    with Searcher(directory) as searcher:
        assert searcher.rank(queries) == expected


def test_an_index_from_before_impacts_had_a_cap(directory):
    """Its user data lack `n_capped`, and it may hold impacts above the cap, which stay exact."""
    with open_live(directory, writable=True) as live:
        data = live.index.user_data
        del data["n_capped"]
        impacts = live.index.impacts(["d1", "d2"])
        impacts.data[:] = 65535
        impacts.data[0] = 65534
        live.index.add(live.index.documents(["d1", "d2"]), impacts)
        live.index.commit(data | {"max_impact": "65535", "commit": "8"})
    with Searcher(directory) as searcher:
        ids = [f"d{n}" for n in range(30)]
        request = ask(" ".join(WORDS), mode="learned")
        batch = searcher.passes.encode([request.query], request, 1)
        vector, _, (factor,) = searcher.passes.impacts(batch, "learned", request)
        (expected,) = exact.search(searcher.index.impacts(ids), ids, vector, 30)
        assert expected[1][1] > 2**24
        (found,) = searcher.rank([request.query], 30, mode="learned")
        assert found == [(doc_id, score * factor) for doc_id, score in expected]
    delete_documents(directory, ["d1"])
    with Searcher(directory) as searcher:
        assert "max_impact" not in searcher.index.user_data
        assert searcher.index.user_data["n_capped"] == "0"
        left = [hit for hit in found if hit[0] != "d1"]
        assert searcher.rank([request.query], 30, mode="learned") == [left]


def test_what_was_not_committed_is_lost(directory):
    number = commit_of(directory)
    with open_live(directory, writable=True) as live:
        writer = Writer.of(live, directory)
        writer.add(writer.encode([Document("new", "", "wing")]))
        writer.delete(["d5"])
    assert commit_of(directory) == number
    with open_live(directory) as live:
        assert live.index.n_docs == 30
        if live.dense:
            assert live.dense.ids == live.index.matching()


def test_rows_of_what_is_encoded(directory):
    documents = [Document(f"n{n}", "", " ".join(WORDS[: n + 1])) for n in range(4)]
    with open_live(directory, writable=True) as live:
        writer = Writer.of(live, directory)
        chosen = writer.encode(documents).rows([3, 1])
        alone = writer.encode([documents[3], documents[1]])
    assert chosen.documents == alone.documents
    assert (chosen.weights != alone.weights).nnz == (chosen.impacts != alone.impacts).nnz == 0
    if alone.vectors is None:
        assert chosen.vectors is None
    else:
        assert (chosen.vectors == alone.vectors).all()


@pytest.mark.parametrize("directory", ["both sides"], indirect=True)
def test_bad_vectors_are_told_before_anything_is_changed(directory, monkeypatch):
    with open_live(directory, writable=True) as live:
        writer = Writer.of(live, directory)
        monkeypatch.setattr(
            type(live.dense_encoder),
            "encode_documents",
            lambda self, texts, lengths: np.full((len(texts), 8), np.nan, np.float32),
        )
        with pytest.raises(ValueError, match="must be finite, that of document 'new' is not"):
            writer.encode([Document("new", "", "wing")])
        number = writer.commit()
    with open_live(directory) as live:
        assert live.commit == number and live.index.n_docs == len(live.dense) == 30


def test_models_are_used_again_where_a_generation_names_the_same(directory, tmp_path):
    with open_live(directory) as before:
        pass
    with open_live(directory, before=before) as again, open_live(directory) as anew:
        assert again.encoder is before.encoder is not anew.encoder
        assert again.dense_encoder is before.dense_encoder
        assert again.index.n_docs == 30
    dense = before.manifest.dense
    other = write_corpus(tmp_path / "other.jsonl", ["x", "y"], seed=3)
    build_index(other, directory, "lexical", dense=dense)
    with open_live(directory, before=before) as live:
        assert live.encoder is not before.encoder  # fitted on another corpus
        assert live.encoder.fingerprint == live.manifest.encoder_sha256
        assert live.dense_encoder is before.dense_encoder
