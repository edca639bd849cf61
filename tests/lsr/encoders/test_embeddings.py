"""lsr/encoders/embeddings.py against the dense model's own encode."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from lsr.encoders import embeddings
from lsr.encoders.embeddings import embed_once


@pytest.fixture
def dense(save_model):
    modules = [Transformer(save_model(head=False)), Pooling(32), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu")


@pytest.fixture
def encoded(dense, monkeypatch):
    """The number of texts in each call of `dense.encode`; a shard is 30 texts."""
    monkeypatch.setattr(embeddings, "SHARD", 30)
    counts = []
    encode = dense.encode

    def counting(texts, **settings):
        counts.append(len(texts))
        return encode(texts, **settings)

    monkeypatch.setattr(dense, "encode", counting)
    return counts


def embed(dense, texts, folder, **settings):
    return embed_once(dense, lambda: iter(texts), folder, **settings)


def test_looked_up_are_the_models_own(dense, encoded, texts, tmp_path):
    texts = [*texts, "", "w1 😀"]
    told = []
    found = embed(
        dense, [*texts[:50], *texts[::-1]], tmp_path, progress=lambda *args: told.append(args[1:])
    )
    assert len(found) == len(set(texts)) == 82
    assert encoded == [30, 30, 22]
    assert told == [(30, 82), (60, 82), (82, 82)]
    asked = [*texts, texts[3], texts[3]]
    features = found.features(asked, prompt=None, task=None)
    assert list(features) == ["sentence_embedding"]
    torch.testing.assert_close(
        features["sentence_embedding"], dense.encode(asked, convert_to_tensor=True)
    )
    with pytest.raises(KeyError):
        found.features(["never seen"])


def test_what_was_computed_is_read(dense, encoded, texts, tmp_path):
    first = embed(dense, texts, tmp_path).features(texts)["sentence_embedding"]
    encoded.clear()
    again = embed(dense, texts, tmp_path).features(texts)["sentence_embedding"]
    assert torch.equal(first, again) and not encoded


def test_other_texts_and_another_model_are_not_mixed_up(dense, encoded, texts, tmp_path):
    embed(dense, texts, tmp_path)
    embed(dense, texts[:-1], tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    with torch.no_grad():
        dense[0].model.embeddings.word_embeddings.weight.mul_(2)
    other = embed(dense, texts, tmp_path)
    dense.max_seq_length = 4
    short = embed(dense, texts, tmp_path)
    assert sum(encoded) == 80 + 79 + 80 + 80
    assert not torch.equal(*(made.features(texts)["sentence_embedding"] for made in (other, short)))


@pytest.mark.parametrize("lost", [0, 1, 5000])
def test_a_killed_pass_goes_on_after_its_last_shard(dense, encoded, texts, tmp_path, lost):
    whole = embed(dense, texts, tmp_path / "whole").features(texts)["sentence_embedding"]

    def kill(step, done, total):
        if done == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(dense, texts, tmp_path / "killed", progress=kill)
    (partial,) = (tmp_path / "killed").glob("*.partial")
    assert not list((tmp_path / "killed").glob("*.npy"))
    with partial.open("r+b") as file:
        file.truncate(partial.stat().st_size - lost)
    encoded.clear()
    again = embed(dense, texts, tmp_path / "killed").features(texts)["sentence_embedding"]
    assert encoded == {0: [20], 1: [30, 20], 5000: [30, 30, 20]}[lost]
    assert torch.equal(whole, again)
    assert not partial.exists()


@pytest.mark.parametrize("size", [0, 5, 100, 5000, -32, -1])
def test_a_truncated_file_is_computed_again(dense, texts, tmp_path, size):
    whole = embed(dense, texts, tmp_path).features(texts)["sentence_embedding"]
    (path,) = tmp_path.glob("*.npy")
    with path.open("r+b") as file:
        file.truncate(size % path.stat().st_size)
    with pytest.warns(UserWarning, match=f"{path.name} is damaged and computed again: "):
        again = embed(dense, texts, tmp_path)
    assert torch.equal(again.features(texts)["sentence_embedding"], whole)
    assert torch.equal(embed(dense, texts, tmp_path).features(texts)["sentence_embedding"], whole)


def test_a_changed_byte_and_another_shape_are_noticed(dense, texts, tmp_path):
    embed(dense, texts, tmp_path)
    (path,) = tmp_path.glob("*.npy")
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="its SHA-256 is not the one that it was written with"):
        embed(dense, texts, tmp_path)
    np.save(path, np.zeros((80, 31), np.float32))
    with pytest.warns(UserWarning, match=r"it holds float32 \(80, 31\), not float32 \(80, 32\)"):
        embed(dense, texts, tmp_path)
