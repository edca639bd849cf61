"""eval/benchmarks/training.py: an epoch of SparseEncoderTrainer, all sides, small."""

import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import BertConfig, BertForMaskedLM

from lsr.encoders.load import default_tokenizer
from lsr.eval.benchmarks.training import SIDES, train

WORDS = "heat flow wing plate layer pressure shock nose cone cylinder boundary theory".split()


# datasets and torch warn about how the trainer uses them.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_all_sides_train_with_the_same_losses(tmp_path, capsys):
    tokenizer = default_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    transformer = Transformer(str(tmp_path / "plain"), transformer_task="fill-mask")
    SparseEncoder(modules=[transformer, SpladePooling()]).save(str(tmp_path / "stock"))
    pairs = [(word, f"{word} {other}") for word in WORDS for other in WORDS[:2]]
    capsys.readouterr()
    stock, *others = (train(side, str(tmp_path / "stock"), pairs, 6) for side in SIDES)
    assert capsys.readouterr().out == ""
    assert len(stock.losses) == 4
    assert len(set(stock.losses)) == 4
    for side in others:
        assert side.losses == pytest.approx(stock.losses, rel=1e-4)
