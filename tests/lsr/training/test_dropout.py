"""lsr/training/dropout.py on small models, in an objective."""

import pytest
import torch

from lsr.training.dropout import has_dropout
from lsr.training.losses import Objective
from lsr.training.regularisers import L1, Flops
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


def batch(seed=1):
    """Columns and teacher scores."""
    generator = torch.Generator().manual_seed(seed)
    columns = [
        {"input_ids": torch.randn((BATCH, INPUTS), generator=generator, dtype=torch.float64)}
        for _ in range(4)
    ]
    return columns, torch.randn((BATCH, 3), generator=generator)


def penalties():
    document, query = Penalty(Flops(threshold=2), Fixed(0.4)), Penalty(L1(), Fixed(0.2))
    return {"penalties": {"document": document, "query": query}}


@pytest.mark.parametrize("size", [None, 2])
def test_terms_without_dropout(size):
    """The expected ratio comes from the same random numbers; the model stays in training mode."""
    columns, labels = batch()
    model = Toy(0.5)
    objective = Objective(model, rankings=ALL, **penalties(), mini_batch_size=size)
    objective(columns, labels)
    # Only the last batch counts, and only the positives among its documents.
    columns, labels = batch(seed=2)
    torch.manual_seed(0)
    objective(columns, labels)
    torch.manual_seed(0)
    parts = [part for column in columns for part in column["input_ids"].split(size or 99)]
    if size is None:
        parts = [columns[0]["input_ids"], torch.cat([c["input_ids"] for c in columns[1:]])]
    dropped = torch.cat([model({"input_ids": part})["sentence_embedding"] for part in parts])
    ratios = objective.probe.ratios(objective.model, objective.sides)
    assert model.training
    for number, side in enumerate(("query", "document")):
        used = (columns[number]["input_ids"] @ model.weight).relu()
        trained = dropped[number * BATCH : (number + 1) * BATCH]
        assert ratios[side] == pytest.approx(float((used > 0).sum() / (trained > 0).sum()))
        assert ratios[side] != 1


def test_terms_without_dropout_are_counted_in_parts():
    """No pass has more texts than `mini_batch_size`; the counts are those of the whole batch."""
    passed = []

    class Model(Toy):
        def forward(self, features):
            passed.append(len(features["input_ids"]))
            assert self.training or not torch.is_grad_enabled()
            return super().forward(features)

    columns, labels = batch()
    ratios = []
    for size in (2, BATCH):
        objective = Objective(Model(0.5), rankings=ALL, **penalties(), mini_batch_size=size)
        torch.manual_seed(0)
        objective([dict(column) for column in columns], labels)
        objective.probe._terms = {"document": torch.tensor(4.0), "query": torch.tensor(8.0)}
        passed.clear()
        ratios.append(objective.probe.ratios(objective.model, objective.sides))
        assert max(passed) == size and sum(passed) == 2 * BATCH
    assert ratios[0] == pytest.approx(ratios[1])


@pytest.mark.parametrize("size", [None, 2])
def test_a_model_without_dropout_is_not_passed_again(size):
    columns, labels = batch()
    model = Toy()
    objective = Objective(model, rankings=ALL, **penalties(), mini_batch_size=size)
    objective(columns, labels)
    model.forward = None
    assert objective.probe.ratios(objective.model, objective.sides) == {
        "document": 1.0,
        "query": 1.0,
    }
    assert model.training


def test_dropout_is_seen_where_it_is():
    model = Toy()
    assert not has_dropout(model)
    model.attention = torch.nn.Linear(1, 1)
    model.attention.attention_dropout = 0.0
    assert not has_dropout(model)
    model.attention.attention_dropout = 0.1
    assert has_dropout(model)
    assert has_dropout(Toy(0.1))
