"""lsr/encoders/calibrate.py on decoder LLMs: texts get the wanted number of active terms."""

import pytest
import torch

from lsr.encoders.calibrate import choose_shift
from lsr.encoders.decoder_modules import Decoder, DecoderPooling
from lsr.encoders.folding import Fold, fold_vocabulary

SPECIAL = [0, 1, 2]


def modules(path, attention, folded):
    decoder = Decoder(path, attention=attention, max_seq_length=24)
    fold = None
    if folded:
        terms, places = fold_vocabulary(decoder.tokenizer)
        fold = Fold(terms, places.tolist())
    return decoder, DecoderPooling(len(decoder.tokenizer), silent=SPECIAL), fold


def encode(decoder, pooling, fold, texts):
    features = pooling(decoder(decoder.preprocess(texts)))
    return (features if fold is None else fold(features))["sentence_embedding"].detach()


@pytest.mark.parametrize("folded", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional", "echo"])
@pytest.mark.parametrize("size", [0.02, 1.0], ids=["faint logits", "loud logits"])
def test_the_asked_terms_are_active_with_weights_of_about_one(
    size, attention, folded, save_decoder, sentences
):
    path = save_decoder(initializer_range=size)
    decoder, pooling, fold = modules(path, attention, folded)
    choose_shift(decoder, pooling, fold, sentences, 30)
    vectors = encode(decoder, pooling, fold, sentences)
    assert int((vectors > 0).sum()) == pytest.approx(30 * len(sentences), abs=1)
    surplus = vectors[vectors > 0].expm1()
    assert 0.7 < float(surplus.mean()) < 1.42
    assert pooling.scale == 2.0 ** round(torch.tensor(pooling.scale).log2().item())


def test_terms_that_are_loud_everywhere_are_not_active_everywhere(save_decoder, sentences):
    decoder, pooling, _ = modules(save_decoder(), "causal", False)
    texts = [word for sentence in sentences for word in sentence.split()]
    with torch.no_grad():
        # All states share a direction that gives terms 10 to 19 large logits.
        shared = encode_states(decoder, texts).mean(0)
        weight = decoder.model.get_output_embeddings().weight
        weight[10:20] += 20 * shared / shared.norm()
    choose_shift(decoder, pooling, None, texts, 30)
    active = (encode(decoder, pooling, None, texts) > 0).float().mean(0)
    assert active[10:20].max() < 0.9
    with torch.no_grad():
        pooling.bias.fill_(float(pooling.bias.median()))
    active = (encode(decoder, pooling, None, texts) > 0).float().mean(0)
    assert active[10:20].min() > 0.9


def encode_states(decoder, texts):
    features = decoder(decoder.preprocess(texts))
    return features["token_embeddings"][features["pooling_mask"].bool()]


def test_what_cannot_be_chosen_is_refused(save_decoder, sentences):
    decoder, pooling, _ = modules(save_decoder(template="$A"), "causal", False)
    for texts in ([], ["", ""]):
        with pytest.raises(ValueError, match="on texts, but `texts` holds no token"):
            choose_shift(decoder, pooling, None, texts, 30)
    message = r"`calibrate_terms` must be below \d+, the terms of a text .* got 100000"
    with pytest.raises(ValueError, match=message):
        choose_shift(decoder, pooling, None, sentences, 100_000)
