"""lsr/training/losses.py compared with values by hand and sentence-transformers' losses."""

import math

import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.losses import (
    SparseDistillKLDivLoss,
    SparseMarginMSELoss,
    SparseMultipleNegativesRankingLoss,
)
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from transformers import BertConfig, BertForMaskedLM

import lsr
from lsr.encoders.load import default_tokenizer
from lsr.training.losses import Objective, infonce, kl_divergence, margin_mse
from lsr.training.regularisers import L1, DFFlops, Flops
from lsr.training.sparsity import Fixed, Penalty

ALL = {"infonce": 1.0, "margin_mse": 0.3, "kl": 2.0}
BATCH, INPUTS, TERMS = 5, 4, 12


class Toy(torch.nn.Module):
    """Maps rows of numbers to vectors that are not negative, with dropout."""

    def __init__(self, dropout=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn((INPUTS, TERMS), generator=generator, dtype=torch.float64)
        self.weight = torch.nn.Parameter(weight)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, features):
        vectors = (self.dropout(features["input_ids"]) @ self.weight).relu()
        return features | {"sentence_embedding": vectors}


def batch(negatives=2, rows=BATCH, seed=1):
    """Columns and teacher scores."""
    generator = torch.Generator().manual_seed(seed)
    columns = [
        {"input_ids": torch.randn((rows, INPUTS), generator=generator, dtype=torch.float64)}
        for _ in range(negatives + 2)
    ]
    return columns, torch.randn((rows, negatives + 1), generator=generator)


def penalties():
    document, query = Penalty(Flops(threshold=2), Fixed(0.4)), Penalty(L1(), Fixed(0.2))
    return {"penalties": {"document": document, "query": query}}


def total(components):
    return torch.stack(list(components.values())).sum()


def test_infonce_by_hand():
    queries = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    # Positives, then negatives.
    documents = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]])
    # Scores of query 0: 1, 0, 2, 0; of query 1: 0, 2, 0, 0.
    expected = (math.log(math.e + 1 + math.e**2 + 1) - 1 + math.log(1 + math.e**2 + 1 + 1) - 2) / 2
    assert infonce(queries, documents, 1.0).item() == pytest.approx(expected, rel=1e-6)
    halved = infonce(queries / 2, documents, 1.0)
    assert infonce(queries, documents, 2.0).item() == pytest.approx(halved.item(), rel=1e-6)


def test_margin_mse_by_hand():
    scores, labels = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[10.0, 9.0, 5.0]])
    # Margins 2 and 1 against 1 and 5.
    assert margin_mse(scores, labels).item() == ((2 - 1) ** 2 + (1 - 5) ** 2) / 2


def test_kl_divergence_by_hand():
    scores, labels = torch.tensor([[0.0, 2 * math.log(3)]]), torch.tensor([[0.0, 0.0]])
    # Teacher ½, ½; student, at a temperature of 2, ¼, ¾.
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(scores, labels, 2.0, 7.0).item() == pytest.approx(expected, rel=1e-6)
    # Teacher ¼, ¾ at a temperature of 4: nothing left to learn.
    labels = torch.tensor([[0.0, 4 * math.log(3)]])
    assert kl_divergence(scores, labels, 2.0, 4.0).item() == pytest.approx(0, abs=1e-7)


def test_kl_divergence_leaves_documents_out():
    scores = torch.tensor([[1.0, 5.0, 2.0], [1.0, 2.0, 3.0]], requires_grad=True)
    labels = torch.tensor([[0.0, -math.inf, 3.0], [2.0, 1.0, 0.0]])
    without = kl_divergence(scores[:1, [0, 2]], labels[:1, [0, 2]], 2.0, 1.5)
    expected = (without + kl_divergence(scores[1:], labels[1:], 2.0, 1.5)) / 2
    loss = kl_divergence(scores, labels, 2.0, 1.5)
    torch.testing.assert_close(loss, expected)
    gradient = torch.autograd.grad(loss, scores)[0]
    assert torch.isfinite(gradient).all()
    assert gradient[0, 1] == 0


@pytest.mark.parametrize("size", [None, 2])
def test_more_queries_than_rows_are_compared_with_all_documents(size):
    columns, _ = batch()
    generator = torch.Generator().manual_seed(3)
    more = torch.randn((3, INPUTS), generator=generator, dtype=torch.float64)
    columns[0] = {"input_ids": torch.cat([columns[0]["input_ids"], more])}
    labels = torch.randn((BATCH + 3, 3 * BATCH), generator=generator)
    labels[2, 4] = -math.inf
    model = Toy()
    rankings = {"infonce": 0.5, "kl": 2.0}
    objective = Objective(model, rankings=rankings, mini_batch_size=size, **penalties())
    components = objective([dict(column) for column in columns], labels)
    queries, *documents = (model(column)["sentence_embedding"] for column in columns)
    scores = queries @ torch.cat(documents).T
    expected = {
        # InfoNCE is over the rows' own queries only.
        "infonce": 0.5 * infonce(queries[:BATCH], torch.stack(documents), 1.0),
        "kl": 2 * kl_divergence(scores, labels.double(), 1.0, 1.0),
        "document_penalty": 0.4 * Flops(threshold=2)(torch.cat(documents)),
        "query_penalty": 0.2 * L1()(queries),
    }
    torch.testing.assert_close(total(components), total(expected))
    if size is None:
        torch.testing.assert_close(components, expected)
        assert objective.probe.ratios(objective.model, objective.sides) == {
            "document": 1.0,
            "query": 1.0,
        }


def test_components_are_weighted_and_sum_over_documents_of_all_columns():
    columns, labels = batch()
    model = Toy()
    components = Objective(model, rankings=ALL, temperature=1.5, **penalties())(columns, labels)
    queries, *documents = (model(column)["sentence_embedding"] for column in columns)
    scores = torch.stack([(queries * column).sum(1) for column in documents], dim=1)
    assert list(components) == [*ALL, "document_penalty", "query_penalty"]
    expected = {
        "infonce": infonce(queries, torch.stack(documents), 1.5),
        "margin_mse": 0.3 * margin_mse(scores, labels.double()),
        "kl": 2 * kl_divergence(scores, labels.double(), 1.5, 1.0),
        "document_penalty": 0.4 * Flops(threshold=2)(torch.cat(documents)),
        "query_penalty": 0.2 * L1()(queries),
    }
    torch.testing.assert_close(components, expected)


@pytest.mark.parametrize("negatives", [0, 2])
def test_infonce_equals_sentence_transformers(negatives):
    columns, _ = batch(negatives)
    model = Toy()
    vectors = [model(column)["sentence_embedding"] for column in columns]
    theirs = SparseMultipleNegativesRankingLoss(model, scale=1 / 1.5)
    expected = theirs.compute_loss_from_embeddings(vectors, None)
    ours = Objective(model, rankings={"infonce": 1.0}, temperature=1.5)(columns)["infonce"]
    torch.testing.assert_close(ours, expected)


def test_distillation_equals_sentence_transformers():
    columns, labels = batch()
    labels = labels.double()
    model = Toy()
    vectors = [model(column)["sentence_embedding"] for column in columns]
    objective = Objective(
        model, rankings={"kl": 1.0, "margin_mse": 1.0}, temperature=1.5, teacher_temperature=3.0
    )
    ours = objective(columns, labels)
    kl = SparseDistillKLDivLoss(model, student_temperature=1.5, teacher_temperature=3.0)
    theirs = kl.compute_loss_from_embeddings(vectors, labels) / 1.5**2  # see kl_divergence
    torch.testing.assert_close(ours["kl"], theirs)
    theirs = SparseMarginMSELoss(model).compute_loss_from_embeddings(
        vectors, labels[:, :1] - labels[:, 1:]
    )
    torch.testing.assert_close(ours["margin_mse"], theirs)


def run(settings, dropout=0.0, scale=1.0):
    """Return components, gradient and statistics of two accumulated batches."""
    torch.manual_seed(0)
    model = Toy(dropout)
    objective = Objective(model, rankings=ALL, **penalties(), **settings)
    seen = []
    for seed in (1, 2):
        seen.append(objective(*batch(seed=seed)))
        (scale * total(seen[-1])).backward()
    objective.tally.take()
    return seen, model.weight.grad, objective


@pytest.mark.parametrize("size", [1, 2, 5, 99])
def test_gradcache_equals_the_plain_loss(size):
    plain, gradient, objective = run({}, scale=0.5)
    cached, again, other = run({"mini_batch_size": size}, scale=0.5)
    assert gradient.any()
    torch.testing.assert_close(again, gradient, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(cached, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        assert sum(value.requires_grad for value in ours.values()) == 1
    for side, statistics in objective.tally.statistics.items():
        for ours, theirs in zip(other.tally.statistics[side], statistics, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_gradcache_draws_the_same_dropout_twice():
    """Compared with one graph over the same parts, with the same random numbers."""
    columns, labels = batch()
    models, losses = [Toy(0.5), Toy(0.5)], []
    for model, size in zip(models, (None, 2), strict=True):
        objective = Objective(model, rankings=ALL, **penalties(), mini_batch_size=size)
        torch.manual_seed(0)
        if size is None:
            parts = [
                [
                    model({"input_ids": part})["sentence_embedding"]
                    for part in column["input_ids"].split(2)
                ]
                for column in columns
            ]
            losses.append(objective.calculate_loss(parts, labels))
        else:
            losses.append(total(objective(columns, labels)))
        losses[-1].backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(models[1].weight.grad, models[0].weight.grad, rtol=1e-12, atol=1e-12)
    _, gradient, _ = run({})
    assert not torch.allclose(models[0].weight.grad, gradient)  # dropout was active


def test_gradcache_keeps_only_one_part_in_memory():
    """A part's graph is freed before the next part's is made."""
    alive, most = [0], [0]

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows):
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            return rows.clone()

        @staticmethod
        def backward(ctx, gradient):
            alive[0] -= 1
            return gradient

    class Model(Toy):
        def forward(self, features):
            result = super().forward(features)
            if torch.is_grad_enabled():
                result["sentence_embedding"] = Counted.apply(result["sentence_embedding"])
            return result

    objective = Objective(Model(), rankings=ALL, mini_batch_size=1)
    total(objective(*batch())).backward()
    assert most == [1] and alive == [0]


def test_strengths_are_read_at_each_step():
    strength = Fixed(8.0, ramp_steps=2)
    objective = Objective(
        Toy(), rankings={"kl": 1.0}, penalties={"document": Penalty(L1(), strength)}
    )
    values = []
    for _ in range(3):
        values.append(objective(*batch())["document_penalty"].item())
        strength.step()
    assert values == pytest.approx([0, values[2] / 4, values[2]])


def test_scores_and_penalties_are_float32_under_autocast():
    columns, labels = batch()
    model = Toy().float()
    columns = [{"input_ids": column["input_ids"].float()} for column in columns]

    def components(objective):
        with torch.autocast("cpu", torch.bfloat16):
            return objective(columns, labels)

    with torch.autocast("cpu", torch.bfloat16):
        vectors = [model(column)["sentence_embedding"] for column in columns]
    assert vectors[0].dtype == torch.bfloat16

    class Given(torch.nn.Module):
        def forward(self, features):
            return {"sentence_embedding": features["input_ids"]}

    objective = Objective(Given(), rankings=ALL, **penalties())
    expected = objective([{"input_ids": rows.float()} for rows in vectors], labels)
    found = components(Objective(model, rankings=ALL, **penalties()))
    assert all(value.dtype == torch.float32 for value in found.values())
    torch.testing.assert_close(found, expected)


def bert(tmp_path, tokenizer):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=32,
        initializer_range=0.05,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return Transformer(str(tmp_path), transformer_task="fill-mask", max_seq_length=16)


TEXTS = [
    ["wing theory", "heat transfer in a pipe"],
    ["the lift of a slender wing at low speed", "heat"],
    ["boundary layer", "the boundary layer of a flat plate with suction"],
]


@pytest.mark.parametrize("inference_free", [False, True])
@pytest.mark.parametrize("size", [None, 1])
def test_real_encoders(tmp_path, inference_free, size):
    """Texts of different lengths; documents pass the fused model together, or one by one."""
    tokenizer = default_tokenizer()
    document = [bert(tmp_path, tokenizer), SpladePooling()]
    if inference_free:
        query = [SparseStaticEmbedding(tokenizer=tokenizer, frozen=False)]
        modules = [Router.for_query_document(query_modules=query, document_modules=document)]
    else:
        modules = document
    model = lsr.fuse(SparseEncoder(modules=modules, device="cpu")).eval()  # no dropout
    tasks = ["query", "document", "document"]
    columns = [
        model.preprocess(texts, task=task) | ({"task": task} if inference_free else {})
        for texts, task in zip(TEXTS, tasks, strict=True)
    ]
    objective = Objective(
        model,
        rankings=ALL,
        penalties={"document": Penalty(Flops(), Fixed(1e-3))},
        mini_batch_size=size,
    )
    labels = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    loss = total(objective([dict(column) for column in columns], labels))
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    queries, *documents = (model(dict(column))["sentence_embedding"] for column in columns)
    scores = torch.stack([(queries * column).sum(1) for column in documents], dim=1)
    expected = (
        infonce(queries, torch.stack(documents), 1.0)
        + 0.3 * margin_mse(scores, labels)
        + 2 * kl_divergence(scores, labels, 1.0, 1.0)
        + 1e-3 * Flops()(torch.cat(documents))
    )
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    torch.testing.assert_close(found, gradients, rtol=1e-4, atol=1e-6 * largest)


def test_model_card_settings():
    objective = Objective(Toy(), rankings=ALL, **penalties())
    assert objective.get_config_dict() == {
        "rankings": ALL,
        "temperature": 1.0,
        "document_regulariser": "Flops",
        "query_regulariser": "L1",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rankings": {}}, "`rankings` must name at least one of 'infonce', 'margin_mse', 'kl'"),
        ({"rankings": {"mnrl": 1.0}}, "`rankings` must be of .*, got 'mnrl'"),
        ({"rankings": {"kl": 0.0}}, "weight of 'kl' must be positive and finite, got 0.0"),
        ({"rankings": {"kl": math.inf}}, "weight of 'kl' must be positive and finite, got inf"),
        ({"temperature": 0.0}, "`temperature` must be positive and finite, got 0.0"),
        ({"teacher_temperature": -1.0}, "`teacher_temperature` must be positive .* got -1.0"),
        ({"mini_batch_size": 0}, "`mini_batch_size` must be at least 1, got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Objective(Toy(), **({"rankings": ALL} | settings))


NAN = torch.tensor([[0.0, 1.0], [2.0, math.nan]])


@pytest.mark.parametrize("ranking", ["margin_mse", "kl"])
@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize(
    ("negatives", "labels", "message"),
    [
        (1, None, "need teacher scores: the data have no column `label`"),
        (1, NAN, "`label` must be finite, got nan for document 1 of query 1 of the batch"),
        (1, torch.zeros(2, 3), r"for each of 2 documents of 2 queries, got shape \(2, 3\)"),
        (1, torch.zeros(2), r"for each of 2 documents of 2 queries, got shape \(2,\)"),
        (0, torch.zeros(2, 1), "need at least 1 negative for each query, got none"),
    ],
)
def test_bad_labels(ranking, size, negatives, labels, message):
    columns, _ = batch(negatives, rows=2)
    objective = Objective(Toy(), rankings={ranking: 1.0}, mini_batch_size=size)
    with pytest.raises(ValueError, match=message):
        objective(columns, labels)


def test_bad_labels_of_whole_batches():
    columns, _ = batch(1, rows=2)
    labels = torch.zeros(2, 4)
    for rankings in ({"kl": 1.0, "margin_mse": 1.0}, {"margin_mse": 1.0}):
        with pytest.raises(ValueError, match=r"2 documents of 2 queries, got shape \(2, 4\)"):
            Objective(Toy(), rankings=rankings)(columns, labels)
    labels[1, 3] = math.inf
    with pytest.raises(ValueError, match="must be finite, got inf for document 3 of query 1"):
        Objective(Toy(), rankings={"kl": 1.0})(columns, labels)
    labels = torch.tensor([[0.0, -math.inf], [0.0, 1.0]])
    with pytest.raises(ValueError, match="must be finite, got -inf for document 1 of query 0"):
        Objective(Toy(), rankings={"kl": 1.0})(columns, labels)


def test_bad_batches():
    columns, _ = batch(0, rows=1)
    with pytest.raises(ValueError, match="got a batch of one query without negatives"):
        Objective(Toy(), rankings={"infonce": 1.0})(columns)
    with pytest.raises(ValueError, match=r"columns query and document, got 1 column\(s\)"):
        Objective(Toy(), rankings={"infonce": 1.0})(columns[:1])
    columns, labels = batch(1, rows=1)
    objective = Objective(Toy(), rankings=ALL, penalties={"query": Penalty(Flops(), Fixed(1.0))})
    with pytest.raises(ValueError, match="at least 2 vectors over all processes"):
        objective(columns, labels)
    objective = Objective(
        Toy(), rankings=ALL, penalties={"document": Penalty(DFFlops(9), Fixed(1.0))}
    )
    with pytest.raises(ValueError, match="of 9 terms, but the vectors have 12"):
        objective(columns, labels)
