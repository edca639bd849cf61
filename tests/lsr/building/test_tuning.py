"""Settings stored by `lsr tune` are kept by a rebuild, or it reports that they are dropped."""

import json

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from lsr.building.build import add_documents, build_index
from lsr.building.tuning import NAME, Tuned, read_tuning, write_tuning
from lsr.corpus.corpus import open_corpus
from lsr.encoders.load import default_tokenizer
from lsr.indexes.manifest import read_manifest
from lsr.request import Interpolation, Words
from lsr.search import Searcher

TUNED = Tuned(
    words=Words(weight=2.5), interpolation=Interpolation(alpha=0.35, normalisation="z-score")
)
KEPT = "kept what `lsr tune` stored (words 2.5, α 0.35, z-score): "
DROPPED = "dropped what `lsr tune` stored (words 2.5, α 0.35, z-score): "


def corpus_of(path, *texts):
    lines = (json.dumps({"_id": f"d{n}", "text": text}) for n, text in enumerate(texts))
    path.write_text("\n".join(lines))
    return open_corpus(path)


@pytest.fixture
def corpus(tmp_path):
    return corpus_of(tmp_path / "corpus.jsonl", "heat transfer", "wing theory", "flow of heat")


def stored(directory):
    return read_tuning(read_manifest(directory).folder(directory))


@pytest.fixture
def tuned(corpus, tmp_path, dense_model):
    """An index with a tuned interpolation, and the settings of its build."""
    settings = {"encoder": "lexical", "dense": dense_model}
    build_index(corpus, tmp_path / "index", **settings)
    write_tuning(read_manifest(tmp_path / "index").folder(tmp_path / "index"), TUNED)
    return tmp_path / "index", settings


def test_the_same_build_again_keeps_it(corpus, tuned):
    index, settings = tuned
    build = build_index(corpus, index, **settings)
    assert read_manifest(index).generation == 2
    assert stored(index) == TUNED
    assert build.notices == (f"{KEPT}models and documents are the same",)
    with Searcher(index) as searcher:
        tuned_hits = searcher.search("heat", mode="hybrid")
        given = TUNED.model_dump()
        assert tuned_hits == searcher.search("heat", mode="hybrid", **given)
        for name in given:
            assert tuned_hits != searcher.search("heat", mode="hybrid", **(given | {name: {}}))


@pytest.mark.parametrize("how", ["another corpus", "documents were added before"])
def test_other_documents_keep_it_and_say_so(corpus, tuned, tmp_path, how):
    """Even though the lexical encoder's weights are statistics that change with the corpus."""
    index, settings = tuned
    other = corpus_of(tmp_path / "other.jsonl", "heat", "slender bodies", "a", "wings")
    if how == "another corpus":
        build = build_index(other, index, **settings)
    else:
        add_documents(other, index)
        build = build_index(corpus, index, **settings)
    assert stored(index) == TUNED
    assert [notice.partition("; it was")[0] for notice in build.notices] == [
        f"{KEPT}the models are the same"
    ]
    assert "tuned on other documents" in build.notices[0]


def other_dense(path):
    torch.manual_seed(1)
    vectors = StaticEmbedding(default_tokenizer().backend_tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[vectors]).save(str(path))
    return str(path)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"encoder": "default"}, "the encoder was 'lexical' and is 'default'"),
        ({"top_k": 16}, "--top-k was 256 and is 16"),
        ({"language": "de"}, "--language was 'en' and is 'de'"),
        ({"dense": None}, "the index has no dense side any more"),
        ({"dense": "other"}, "the dense model was "),
    ],
)
def test_other_models_drop_it_and_say_why(corpus, tuned, tmp_path, changed, reason):
    index, settings = tuned
    if changed.get("dense"):
        changed = {"dense": other_dense(tmp_path / "other")}
    build = build_index(corpus, index, **settings | changed)
    assert stored(index) is None
    (notice,) = build.notices
    assert notice.startswith(DROPPED + reason)
    assert notice.endswith("; tune again with `lsr tune`")


def test_other_weights_of_the_dense_model_drop_it(corpus, tmp_path, tuned, dense_model):
    import shutil

    index = tmp_path / "own"
    model = tmp_path / "model"
    shutil.copytree(dense_model, model)
    build_index(corpus, index, "lexical", dense=str(model))
    write_tuning(read_manifest(index).folder(index), TUNED)
    shutil.rmtree(model)
    other_dense(model)
    (notice,) = build_index(corpus, index, "lexical", dense=str(model)).notices
    assert notice.startswith(f"{DROPPED}dense model {str(model)!r} has other weights")
    assert stored(index) is None


def test_a_damaged_file_is_dropped_and_named(corpus, tuned):
    index, settings = tuned
    path = read_manifest(index).folder(index) / NAME
    path.write_text(path.read_text()[:10])
    (notice,) = build_index(corpus, index, **settings).notices
    assert notice.startswith("dropped what `lsr tune` stored, which cannot be read")
    assert stored(index) is None


def test_what_was_tuned_before_there_were_words_is_about_learned_terms(corpus, tuned):
    index, settings = tuned
    folder = read_manifest(index).folder(index)
    (folder / NAME).unlink()
    older = Interpolation(alpha=0.35, normalisation="z-score")
    (folder / "interpolation.json").write_text(older.model_dump_json(exclude={"sides"}))
    expected = Tuned(interpolation=older.model_copy(update={"sides": ("learned", "dense")}))
    assert stored(index) == expected
    (notice,) = build_index(corpus, index, **settings).notices
    assert notice.startswith("kept what `lsr tune` stored (words 0.75, α 0.35, z-score): ")
    assert stored(index) == expected
    assert not (read_manifest(index).folder(index) / "interpolation.json").exists()


def test_nothing_is_said_where_nothing_was_tuned(corpus, tmp_path):
    for _ in range(2):
        assert build_index(corpus, tmp_path / "plain", "lexical").notices == ()


def test_a_damaged_index_that_is_built_again_keeps_it(corpus, tuned):
    index, settings = tuned
    for segments in (read_manifest(index).folder(index) / "lucene").glob("segments_*"):
        segments.write_bytes(b"\0" * segments.stat().st_size)
    (notice,) = build_index(corpus, index, **settings).notices
    assert notice == (
        f"{KEPT}the models are the same; documents of a damaged index are not compared"
    )
    assert stored(index) == TUNED
