"""lsr/encoders/folding.py: tokens that share a term, for each kind of tokenizer, and weights."""

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lsr.encoders.folding import Fold, control_ids, fold_vocabulary


def tokenizer_of(tokens, decoder, **special):
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if decoder is not None:
        backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def groups(tokenizer):
    """The tokens of each term."""
    terms, places = fold_vocabulary(tokenizer)
    tokens = np.array(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    return {term: tokens[places == number].tolist() for number, term in enumerate(terms)}


def test_byte_level_tokens_fold_by_case_and_leading_space():
    tokens = ["<unk>", "wing", "Ġwing", "Wing", "ĠWING", "ĠĠwing", "ing", "Ċwing", "Ġ", "Ċ"]
    tokens += ["Ã¤", "ĠÃĦ", "Ã", "ã", "ï¿½", "Ġ,", ",", ",Ċ"]
    found = groups(tokenizer_of(tokens, decoders.ByteLevel(), unk_token="<unk>"))
    assert found == {
        "wing": ["wing", "Ġwing", "Wing", "ĠWING", "ĠĠwing", "Ċwing"],
        "ing": ["ing"],
        "<Ġ>": ["Ġ"],
        "<Ċ>": ["Ċ"],
        "ä": ["Ã¤", "ĠÃĦ"],
        # Bytes that are no whole character, and the replacement character.
        "<Ã>": ["Ã"],
        "<ã>": ["ã"],
        "<ï¿½>": ["ï¿½"],
        ",": ["Ġ,", ","],
        "<,Ċ>": [",Ċ"],
    }
    assert list(found) == ["wing", "ing", "<Ġ>", "<Ċ>", "ä", "<Ã>", "<ã>", "<ï¿½>", ",", "<,Ċ>"]


def test_sentencepiece_tokens_fold_and_bytes_stay():
    decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokens = ["<unk>", "<s>", "<0x0A>", "<0xE3>", "▁Wing", "wing", "▁", "▁▁", "É", "▁é"]
    tokenizer = tokenizer_of(tokens, decoder, unk_token="<unk>", bos_token="<s>")
    assert groups(tokenizer) == {
        "<<0x0A>>": ["<0x0A>"],
        "<<0xE3>>": ["<0xE3>"],
        "wing": ["▁Wing", "wing"],
        "<▁>": ["▁"],
        "<▁▁>": ["▁▁"],
        "é": ["É", "▁é"],
    }


@pytest.mark.parametrize("decoder", [None, decoders.WordPiece()], ids=["none", "wordpiece"])
def test_a_continuation_is_no_variant_of_a_word(decoder):
    tokens = ["<unk>", "Wing", "wing", "##Ing", "##ing", "ing"]
    assert groups(tokenizer_of(tokens, decoder, unk_token="<unk>")) == {
        "wing": ["Wing", "wing"],
        "##ing": ["##Ing", "##ing"],
        "ing": ["ing"],
    }


def test_control_tokens_are_special_ones_and_those_added_as_special():
    tokenizer = tokenizer_of(["<unk>", "a", "<s>"], None, unk_token="<unk>", bos_token="<s>")
    tokenizer.add_tokens([AddedToken("<|reserved|>", special=True)], special_tokens=False)
    tokenizer.add_tokens([AddedToken("word", special=False)])
    assert control_ids(tokenizer).tolist() == [0, 2, 3]
    terms, places = fold_vocabulary(tokenizer)
    assert terms == ["a", "word"]
    assert places.tolist() == [-1, 0, -1, -1, 1]


def test_a_term_weighs_as_much_as_its_heaviest_token_and_sends_the_gradient_there():
    fold = Fold(["a", "b", "c"], [0, 1, -1, 0, 1])
    vectors = torch.tensor([[1.0, 0.0, 9.0, 2.0, 0.0], [0.5, 3.0, 9.0, 0.25, 1.0]])
    vectors.requires_grad_()
    folded = fold({"sentence_embedding": vectors})["sentence_embedding"]
    assert folded.tolist() == [[2.0, 0.0, 0.0], [0.5, 3.0, 0.0]]
    (folded * torch.tensor([[1.0, 1.0, 1.0], [5.0, 7.0, 1.0]])).sum().backward()
    # A gradient at weights of 0 goes no further than the head, whose relu is flat there.
    assert vectors.grad[0, [0, 2, 3]].tolist() == [0.0, 0.0, 1.0]
    assert vectors.grad[1].tolist() == [5.0, 7.0, 0.0, 0.0, 0.0]


def test_numbers_that_are_no_terms_are_refused():
    with pytest.raises(ValueError, match=r"`places` must be in \[-1, 1\], got 0 to 2"):
        Fold(["a", "b"], [0, 2])
    with pytest.raises(ValueError, match=r"`places` must be in \[-1, 1\], got -2 to 1"):
        Fold(["a", "b"], [-2, 1])


def test_a_fold_opens_again_from_a_folder(tmp_path):
    fold = Fold(["é", "b"], [0, 1, -1, 0])
    fold.save(str(tmp_path))
    again = Fold.load(str(tmp_path))
    assert again.terms == fold.terms and torch.equal(again.places, fold.places)
    assert repr(again) == "Fold(4 tokens, 2 terms)"
    assert again.get_embedding_dimension() == 2
