"""lsr/encoders/fuse.py against stock sentence-transformers."""

import copy

import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

import lsr
from lsr.encoders.load import default_tokenizer

TEXTS = ["heat transfer in a pipe", "", "the boundary layer " * 9, "wing theory"]
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
MODELS = {
    "bert": lambda n: BertForMaskedLM(
        BertConfig(vocab_size=n, intermediate_size=32, initializer_range=0.5, **SIZES)
    ),
    "distilbert": lambda n: DistilBertForMaskedLM(
        DistilBertConfig(
            vocab_size=n, dim=16, n_heads=2, n_layers=1, hidden_dim=32, initializer_range=0.5
        )
    ),
    "roberta": lambda n: RobertaForMaskedLM(
        RobertaConfig(vocab_size=n, intermediate_size=32, initializer_range=0.5, **SIZES)
    ),
    "xlm-roberta": lambda n: XLMRobertaForMaskedLM(
        XLMRobertaConfig(vocab_size=n, intermediate_size=32, initializer_range=0.5, **SIZES)
    ),
    "modernbert": lambda n: ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=n, intermediate_size=32, initializer_range=0.5, pad_token_id=0, **SIZES
        )
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    return default_tokenizer()


@pytest.fixture
def stock(request, tmp_path, tokenizer):
    """A stock SPLADE: a small random masked LM and SpladePooling."""
    kind, activation, pooling = getattr(request, "param", ("bert", "relu", "max"))
    torch.manual_seed(0)
    MODELS[kind](len(tokenizer)).save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    transformer = Transformer(
        str(tmp_path / "plain"), transformer_task="fill-mask", max_seq_length=24
    )
    splade = SpladePooling(pooling_strategy=pooling, activation_function=activation)
    return SparseEncoder(modules=[transformer, splade], device="cpu")


def embeddings(model):
    return model.encode_document(TEXTS, convert_to_sparse_tensor=False)


@pytest.mark.parametrize(
    "stock",
    [
        *((kind, "relu", "max") for kind in MODELS),
        ("bert", "log1p_relu", "max"),
        ("bert", "relu", "sum"),
        ("distilbert", "log1p_relu", "sum"),
    ],
    indirect=True,
    ids=lambda of: "-".join(of),
)
def test_fused_embeddings_equal_stock_ones_and_saving_writes_the_stock_layout(stock, tmp_path):
    expected = embeddings(stock)
    assert (expected > 0).any()
    for _ in range(2):  # the first save fills in defaults
        stock.save(str(tmp_path / "before"))
    assert lsr.fuse(stock) is stock
    torch.testing.assert_close(embeddings(stock), expected, rtol=1e-4, atol=1e-5)
    stock.save(str(tmp_path / "after"))
    for path in (tmp_path / "before").rglob("*.json"):
        again = tmp_path / "after" / path.relative_to(tmp_path / "before")
        assert again.read_bytes() == path.read_bytes(), path.name
    opened = SparseEncoder(str(tmp_path / "after"), device="cpu")
    torch.testing.assert_close(embeddings(opened), expected)


def test_gradients_of_all_parameters_equal_stock_ones(stock, tokenizer):
    stock.double()
    fused = lsr.fuse(copy.deepcopy(stock))
    features = stock.preprocess(TEXTS)
    gradients = []
    for model in (stock, fused):
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        output = model(dict(features))["sentence_embedding"]
        (output * torch.linspace(-1, 1, output.shape[1])).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        if expected is None:
            assert gradients[1][name] is None
        else:
            torch.testing.assert_close(gradients[1][name], expected, rtol=1e-6, atol=1e-9)


def test_autocast_computes_in_its_dtype(stock):
    exact = embeddings(stock)
    lsr.fuse(stock)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = embeddings(stock)
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()


def test_both_routes_of_a_router_are_fused_and_a_shared_one_once(stock, tokenizer):
    transformer, pooling = stock
    router = Router.for_query_document(
        query_modules=[SparseStaticEmbedding(tokenizer, weight=torch.rand(len(tokenizer)))],
        document_modules=[transformer, pooling],
    )
    asymmetric = SparseEncoder(modules=[router], device="cpu")
    expected = (asymmetric.encode_query(TEXTS).to_dense(), embeddings(asymmetric))
    lsr.fuse(asymmetric)
    found = (asymmetric.encode_query(TEXTS).to_dense(), embeddings(asymmetric))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert "forward" in vars(pooling)


def test_a_fused_model_can_be_copied(stock):
    lsr.fuse(stock)
    twin = copy.deepcopy(stock)
    expected = embeddings(stock)
    torch.testing.assert_close(embeddings(twin), expected)
    with torch.no_grad():
        stock[0].model.get_output_embeddings().weight.zero_()
    torch.testing.assert_close(embeddings(twin), expected)


def test_what_cannot_be_fused_is_refused_and_left_as_it_was(stock, tokenizer):
    expected = embeddings(stock)
    inference_free = SparseEncoder(
        modules=[SparseStaticEmbedding(tokenizer, weight=torch.rand(len(tokenizer)))], device="cpu"
    )
    with pytest.raises(ValueError, match="SparseEncoder has no SpladePooling: nothing to fuse"):
        lsr.fuse(inference_free)

    class Adapted(torch.nn.Linear):
        pass

    model = stock[0].model
    plain = model.get_output_embeddings()
    adapted = Adapted(plain.in_features, plain.out_features)
    adapted.weight, adapted.bias = plain.weight, plain.bias
    model.set_output_embeddings(adapted)
    with pytest.raises(ValueError, match="must be a plain torch.nn.Linear, got Adapted"):
        lsr.fuse(stock)
    model.set_output_embeddings(plain)
    torch.testing.assert_close(embeddings(stock), expected)
    lsr.fuse(stock)
    with pytest.raises(ValueError, match="BertForMaskedLM is fused already"):
        lsr.fuse(stock)
    torch.testing.assert_close(embeddings(stock), expected, rtol=1e-4, atol=1e-5)
