"""lsr/encoders/autoencoder.py and its loss: CSR over a small dense model and over the trunk."""

import dataclasses

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.losses import CSRLoss

from lsr.encoders.autoencoder import (
    AutoencoderConfig,
    autoencoder_alone,
    base_embeddings,
    build_autoencoder,
    csr_loss,
)
from lsr.encoders.load import trunk_path
from lsr.encoders.model_encoder import open_model
from lsr.indexes.exact import search
from lsr.vectors import quantise

SMALL = {"hidden_dim": 96, "k": 6, "k_aux": 16}


@pytest.fixture
def dense_base(save_model, tmp_path):
    """A dense model of 32 dimensions whose embeddings are not of length 1."""
    transformer = Transformer(save_model(head=False))
    model = SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu")
    model.save(str(tmp_path / "dense"))
    return str(tmp_path / "dense")


def train(model, config, texts, folder, steps=200):
    data = Dataset.from_dict(
        {"query": [" ".join(text.split()[:4]) for text in texts], "document": texts}
    )
    arguments = SparseEncoderTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=1,
    )
    SparseEncoderTrainer(
        model=model, args=arguments, train_dataset=data, loss=csr_loss(model, config)
    ).train()


def save(model, folder):
    model.save(str(folder))
    return folder


def unexplained(model, texts):
    """Share of the embeddings' variance that the k latents do not reconstruct."""
    with torch.no_grad():
        features = model.eval()(model.preprocess(texts))
    dense, again = features["sentence_embedding_backbone"], features["decoded_embedding_k"]
    return float(((dense - again) ** 2).sum() / ((dense - dense.mean(0)) ** 2).sum())


@pytest.mark.slow
def test_training_learns_codes_that_search_and_open_with_equal_vectors(dense_base, texts, tmp_path):
    config = AutoencoderConfig(base=dense_base, **SMALL)
    torch.manual_seed(0)
    model = build_autoencoder(config)
    frozen = {name: p.clone() for name, p in model[0].state_dict().items()}
    before = unexplained(model, texts)
    train(model, config, texts, tmp_path / "run")
    after = unexplained(model, texts)
    assert before > 1 and after < 0.5
    assert all(torch.equal(frozen[name], p) for name, p in model[0].state_dict().items())

    model.save(str(tmp_path / "saved"))
    stock = SparseEncoder(str(tmp_path / "saved"), device="cpu")
    encoder = open_model(tmp_path / "saved", device="cpu")
    documents = encoder.encode_documents(texts)
    assert documents.shape == (80, 96) and np.diff(documents.indptr).max() == 6
    np.testing.assert_allclose(
        documents.toarray(), stock.encode_document(texts).to_dense().numpy(), atol=1e-6
    )
    np.testing.assert_allclose(
        encoder.encode_queries(texts).toarray(), documents.toarray(), atol=1e-6
    )
    fewer = encoder.encode_documents(texts, top_k=2)
    assert np.diff(fewer.indptr).max() == 2

    impacts = quantise(documents, 256.0)
    ids = [f"d{row}" for row in range(80)]
    hits = search(impacts, ids, quantise(encoder.encode_queries(texts), 256.0), 10)
    found = sum(ids[row] in [doc_id for doc_id, _ in hits[row]] for row in range(80))
    assert found > 70


def test_the_loss_is_the_stock_ones_with_squared_distances(dense_base, texts):
    config = AutoencoderConfig(base=dense_base, **SMALL, beta=0.25, gamma=0.5, temperature=0.1)
    model = build_autoencoder(config).train()
    loss = csr_loss(model, config)
    assert isinstance(loss, CSRLoss)
    columns = [texts[:16], texts[16:32], texts[32:48]]

    def features():
        return [model.preprocess(column) for column in columns]

    # Make all latents dead, so that their loss is tested too.
    model[-1].stats_last_nonzero.fill_(100)
    state = model[-1].stats_last_nonzero.clone()
    found = loss(features(), None)
    model[-1].stats_last_nonzero.copy_(state)
    outputs = [model(given) for given in features()]
    squared = {"k": 0.0, "4k": 0.0}
    for output in outputs:
        dense = output["sentence_embedding_backbone"]
        assert dense.norm(dim=1).allclose(torch.ones(16))
        for size in squared:
            error = (dense - output[f"decoded_embedding_{size}"]).square().sum(1).mean()
            squared[size] += error.item() / 3
    codes = [output["sentence_embedding"] for output in outputs]
    scores = codes[0] @ torch.cat(codes[1:]).T / 0.1
    contrastive = torch.nn.functional.cross_entropy(scores, torch.arange(16))
    assert found["reconstruction_loss_k"].item() == pytest.approx(squared["k"], rel=1e-4)
    assert found["reconstruction_loss_4k"].item() == pytest.approx(squared["4k"] / 8, rel=1e-4)
    assert found["base_loss"].item() == pytest.approx(0.5 * contrastive.item(), rel=1e-4)
    assert found["reconstruction_loss_aux"].item() > 0
    sum(found.values()).backward()
    assert model[-1].encoder.weight.grad.any()
    assert not any(p.requires_grad for module in list(model)[:-1] for p in module.parameters())


def test_dead_latents_get_a_gradient_by_the_auxiliary_loss_alone(dense_base, texts):
    gradients = []
    for k_aux in (0, 16):
        config = AutoencoderConfig(base=dense_base, **(SMALL | {"k_aux": k_aux}))
        torch.manual_seed(0)
        model = build_autoencoder(config).train()
        # The first twenty latents are above 0 for some texts, but never among the largest.
        with torch.no_grad():
            model[-1].latent_bias[20:] = 1.0
        model[-1].stats_last_nonzero[:20] = 100
        columns = [model.preprocess(texts[:16]), model.preprocess(texts[16:32])]
        sum(csr_loss(model, config)(columns, None).values()).backward()
        gradients.append(model[-1].encoder.weight.grad[:20])
    assert not gradients[0].any()
    assert gradients[1].any(1).sum() > 10


def test_a_frozen_base_embeds_alike_in_training(dense_base, texts):
    for train_base in (False, True):
        config = AutoencoderConfig(base=dense_base, **SMALL, train_base=train_base)
        model = build_autoencoder(config)
        found = []
        for training in (False, True):
            model.train(training)
            features = model(model.preprocess(texts[:4]))
            found.append(features["sentence_embedding_backbone"].detach())
        assert torch.equal(*found) == (not train_base)
        assert model[0].model.embeddings.word_embeddings.weight.requires_grad == train_base


def test_a_frozen_base_is_looked_up_and_the_autoencoder_trains_alone(dense_base, texts, tmp_path):
    config = AutoencoderConfig(base=dense_base, **SMALL)
    model = build_autoencoder(config).train()
    embeddings = base_embeddings(model, config, lambda: iter(texts), tmp_path / "embeddings")
    loss = csr_loss(model, config)
    columns = [texts[:16], texts[16:32]]
    stock = SparseEncoder(str(save(model, tmp_path / "before")), device="cpu").encode(texts)
    whole = loss([model.preprocess(column) for column in columns], None)
    model[-1].stats_last_nonzero.zero_()
    passed = []
    model[0].register_forward_hook(lambda *_: passed.append(1))
    with autoencoder_alone(model):
        alone = loss([embeddings.features(column) for column in columns], None)
        assert not passed
        # Texts must work too: model cards and evaluators encode them during training.
        torch.testing.assert_close(model.eval().encode(texts).to_dense(), stock.to_dense())
        assert passed
        folder = save(model, tmp_path / "within")
    assert {name: value.item() for name, value in alone.items()} == pytest.approx(
        {name: value.item() for name, value in whole.items()}, rel=1e-4
    )
    assert "forward" not in vars(model)
    for file in ("modules.json", "config_sentence_transformers.json"):
        assert (folder / file).read_text() == (tmp_path / "before" / file).read_text()
    opened = SparseEncoder(str(folder), device="cpu").encode(texts)
    assert torch.equal(opened.to_dense(), stock.to_dense())


def test_a_base_that_trains_or_has_routes_is_not_looked_up(dense_base, texts, tmp_path):
    config = AutoencoderConfig(base=dense_base, **SMALL, train_base=True)
    model = build_autoencoder(config)
    assert base_embeddings(model, config, lambda: iter(texts), tmp_path) is None
    modules = list(SentenceTransformer(dense_base, device="cpu"))
    routed = SentenceTransformer(
        modules=[Router.for_query_document(modules, list(modules)), Normalize()], device="cpu"
    )
    config = AutoencoderConfig(base=str(save(routed, tmp_path / "routed")), **SMALL)
    model = build_autoencoder(config)
    assert base_embeddings(model, config, lambda: iter(texts), tmp_path / "embeddings") is None
    assert not (tmp_path / "embeddings").exists()


def test_the_default_base_is_the_trunk_that_ships():
    model = build_autoencoder(AutoencoderConfig())
    assert [type(module).__name__ for module in model] == [
        *("Transformer", "Pooling", "Normalize", "SparseAutoEncoder")
    ]
    dense = SentenceTransformer(str(trunk_path()), device="cpu")
    with torch.no_grad():
        features = model.eval()(model.preprocess(["a wing", "heat"]))
    torch.testing.assert_close(
        features["sentence_embedding_backbone"],
        dense.encode(["a wing", "heat"], convert_to_tensor=True),
    )
    codes = model.encode_document(["a wing"])
    assert codes.shape == (1, 1536) and 32 < codes.to_dense().count_nonzero() <= 64


def test_an_embedding_that_is_not_of_length_one_becomes_so(dense_base):
    modules = list(build_autoencoder(AutoencoderConfig(base=dense_base, **SMALL)))
    assert isinstance(modules[-2], Normalize) and modules[-1].input_dim == 32


def test_a_base_that_is_no_dense_model_is_refused(save_model):
    with pytest.raises(ValueError, match="holds no modules.json; `base` must be a dense model of"):
        build_autoencoder(AutoencoderConfig(base=save_model()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, r"`k` must be in \[1, 384\], up to a quarter of `hidden_dim`, got 0"),
        ({"k": 385}, r"`k` must be in \[1, 384\], up to a quarter of `hidden_dim`, got 385"),
        ({"k_aux": 1537}, r"`k_aux` must be in \[0, 1536\], got 1537"),
        ({"dead_threshold": 0}, "`dead_threshold` must be at least 1, got 0"),
        ({"beta": -1.0}, "`beta` must be at least 0, got -1.0"),
        ({"gamma": -1.0}, "`gamma` must be at least 0, got -1.0"),
        ({"temperature": 0.0}, "`temperature` must be positive, got 0.0"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(AutoencoderConfig(), **changes)
