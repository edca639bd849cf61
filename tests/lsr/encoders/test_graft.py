"""lsr/encoders/graft.py and trunk.py, on the real trunk and a few real sentences."""

import re

import numpy as np
import pytest
import torch

from lsr.encoders.calibrate import logit_statistics, token_states
from lsr.encoders.graft import SAMPLE, WORD, GraftedEncoder, _sampled
from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import default_tokenizer
from lsr.encoders.tokens import count_terms
from lsr.encoders.trunk import TrunkWithHead, head, load_trunk

TEXTS = [
    "The boundary layer over a flat plate in laminar flow.",
    "Heat transfer in turbulent flow through a pipe, and heat loss.",
    "Wing theory for slender bodies at supersonic speed.",
    "A cat sat on the mat and purred.",
    "Parliament passed the budget after a long debate on taxes.",
    "",
]


@pytest.fixture(scope="module")
def tokenizer():
    return default_tokenizer()


@pytest.fixture(scope="module")
def fitted(tokenizer):
    return GraftedEncoder.fit(tokenizer, [TEXTS[:4], TEXTS[4:]], target_terms=50)


def test_weights_are_bm25_plus_the_pooled_standardised_logits_written_out(fitted, tokenizer):
    fitted = GraftedEncoder(fitted.lexical, fitted.mean, fitted.deviation, fitted.threshold)
    vectors = fitted.encode_documents(TEXTS).toarray()
    embeddings = load_trunk().get_input_embeddings().weight.detach()
    words = np.array([WORD.fullmatch(term) is not None for term in fitted.vocabulary])
    for row, text in enumerate(TEXTS):
        tokens = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            states = load_trunk()(**tokens).last_hidden_state[0]
        logits = ((states @ embeddings.T).numpy() - fitted.mean) / fitted.deviation
        surplus = np.maximum(logits - fitted.threshold, 0).max(0)
        expected = np.where(words, 0.7 * np.log1p(surplus), 0)
        expected += fitted.lexical.encode_documents([text]).toarray()[0]
        # A wide tolerance, since the head uses bfloat16 on CPUs that have it.
        np.testing.assert_allclose(vectors[row], expected, rtol=0.05, atol=0.05)


def test_the_calibration_is_that_of_the_logits_written_out(fitted, tokenizer):
    embeddings = load_trunk().get_input_embeddings().weight.detach()
    ones = np.ones(len(embeddings), np.float32)
    model = TrunkWithHead(load_trunk(), head(ones, ones - 1)).eval()
    texts = sorted(TEXTS, key=len)
    states, cu_seqlens, _ = token_states(model, tokenizer, TEXTS, 256)
    assert cu_seqlens.diff().tolist() == [len(tokenizer(text)["input_ids"]) for text in texts]
    with torch.inference_mode():
        alone = [
            load_trunk()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            for text in texts
        ]
    torch.testing.assert_close(states, torch.cat(alone), rtol=1e-4, atol=1e-4)
    logits = states @ embeddings.T
    np.testing.assert_allclose(fitted.mean, logits.mean(0).numpy(), rtol=1e-3, atol=1e-4)
    deviation = logits.std(0, correction=0)
    np.testing.assert_allclose(fitted.deviation, deviation.numpy(), rtol=1e-2)
    mean, deviation = logit_statistics(states, embeddings)
    words = [WORD.fullmatch(term) is not None for term in fitted.vocabulary]
    standard = ((logits - mean) / deviation)[:, words]
    largest = torch.cat([part.amax(0) for part in standard.split(cu_seqlens.diff().tolist())])
    assert fitted.threshold == pytest.approx(float(largest.topk(50 * 6).values[-1]), rel=1e-4)


def test_where_fewer_terms_are_above_their_mean_all_are_active(tokenizer):
    assert GraftedEncoder.fit(tokenizer, [["wing"]], target_terms=30_000).threshold == 0.0


def test_head_scales_and_shifts_logits():
    embeddings = load_trunk().get_input_embeddings().weight.detach()
    scale = np.linspace(0.5, 2, len(embeddings), dtype=np.float32)
    shift = np.linspace(-1, 1, len(embeddings), dtype=np.float32)
    states = torch.randn(3, 384)
    expected = (states @ embeddings.T).numpy() * scale + shift
    found = head(scale, shift)(states).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_head_makes_the_target_number_of_terms_active_and_own_terms_stay(fitted, tokenizer):
    own = count_terms(tokenizer, TEXTS)
    vectors = fitted.encode_documents(TEXTS)
    assert 0.8 * 50 * len(TEXTS) < vectors.nnz - own.nnz < 1.2 * 50 * len(TEXTS)
    for top_k in (1, 10):
        kept = fitted.encode_documents(TEXTS, top_k)
        assert (kept.toarray() > 0)[own.toarray() > 0].all()
        assert (np.diff(kept.indptr) <= np.diff(own.indptr) + top_k).all()
        assert kept.has_sorted_indices
    expansion = (vectors.toarray() > 0) & (own.toarray() == 0)
    for term in np.unique(np.nonzero(expansion)[1]):
        assert re.fullmatch("[a-z]{2,}|[0-9]+", fitted.vocabulary[term])


def test_expansion_means_something(fitted):
    """Each document's expansion favours terms of its own topic."""
    vectors = fitted.encode_documents(TEXTS).toarray()
    ids = {term: number for number, term in enumerate(fitted.vocabulary)}
    assert vectors[3, ids["cats"]] > vectors[2, ids["cats"]]
    assert vectors[4, ids["government"]] + vectors[4, ids["tax"]] > 0


def test_queries_are_the_idf_of_each_token_however_often(fitted):
    query = fitted.encode_queries(["heat heat flow"])
    weights = {fitted.vocabulary[i]: w for i, w in zip(query.indices, query.data, strict=True)}
    idf = fitted.lexical.idf
    ids = {term: number for number, term in enumerate(fitted.vocabulary)}
    assert weights == {"heat": idf[ids["heat"]], "flow": idf[ids["flow"]]}


def test_save_and_load(fitted, tokenizer, tmp_path):
    fitted.save(tmp_path)
    loaded = GraftedEncoder.load(tokenizer, tmp_path)
    assert loaded.fingerprint == fitted.fingerprint
    assert (loaded.encode_documents(TEXTS) != fitted.encode_documents(TEXTS)).nnz == 0
    shifted = GraftedEncoder(fitted.lexical, fitted.mean + 1, fitted.deviation, fitted.threshold)
    assert shifted.fingerprint != fitted.fingerprint


def test_truncated_foreign_and_mismatched_files_are_refused(fitted, tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError):
        GraftedEncoder.load(tokenizer, tmp_path)
    fitted.save(tmp_path)
    path = tmp_path / "graft.npz"
    content = path.read_bytes()
    for broken in (content[:-100], content[:10], b"", b"something else"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"{path}: not the calibration of an encoder"):
            GraftedEncoder.load(tokenizer, tmp_path)
    np.savez(path, mean=np.zeros(3), deviation=np.ones(3), threshold=0.0, expansion=1.0)
    with pytest.raises(ValueError, match="the calibration has 3 and 3 terms, the vocabulary 30522"):
        GraftedEncoder.load(tokenizer, tmp_path)


def test_sample_is_of_the_whole_corpus_and_batches_pass_unchanged():
    batches = [[f"{start + i}" for i in range(100)] for start in range(0, 5000, 100)]
    sample = []
    assert list(_sampled(batches, sample)) == batches
    assert len(sample) == len(set(sample)) == SAMPLE
    numbers = np.array(sample, dtype=int)
    assert 2000 < numbers.mean() < 3000
    few = []
    list(_sampled([["a", "b"]], few))
    assert few == ["a", "b"]


def test_a_corpus_without_tokens_cannot_be_fitted(tokenizer):
    with pytest.raises(ValueError, match="none of 2 documents holds a token"):
        GraftedEncoder.fit(tokenizer, [["", " "]])
    assert isinstance(LexicalEncoder.fit(tokenizer, [["a", ""]]), LexicalEncoder)


@pytest.mark.parametrize("fast", [False, True])
def test_the_dtype_asked_for_reaches_the_model(fitted, tokenizer, tmp_path, monkeypatch, fast):
    from lsr.building.encoders import open_encoder

    monkeypatch.setattr("lsr.encoders.masked_lm.bfloat16_is_fast", lambda: fast)
    fitted.save(tmp_path)
    expected = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    expected[None] = torch.bfloat16 if fast else torch.float32
    for dtype, found in expected.items():
        assert open_encoder("grafted", tmp_path, dtype)._head.dtype == found
