"""lsr/training/known_positives.py compared with loops over all pairs, alone and in the loss."""

import math
import random

import pytest
import torch

from lsr.training.arguments import batches_without_repeats
from lsr.training.examples import Example, Examples
from lsr.training.known_positives import ANSWERS, KEY, KnownPositives, take_known_positives
from lsr.training.losses import Objective, infonce
from lsr.training.neighbours import WholeBatch

INPUTS, TERMS = 6, 10


class Collator:
    """Maps texts to rows of numbers that depend only on the text."""

    valid_label_columns = ("label",)

    def __call__(self, rows):
        return {
            f"{column}_input_ids": self.preprocess_fn([row[column] for row in rows])["input_ids"]
            for column in rows[0]
            if column != "label"
        }

    @staticmethod
    def preprocess_fn(texts, prompt=None, task=None):
        generators = [torch.Generator().manual_seed(sum(text.encode())) for text in texts]
        return {"input_ids": torch.stack([torch.randn(INPUTS, generator=g) for g in generators])}


def examples(seed):
    """Queries with one to three positives, some of equal text; negatives answer other queries."""
    generator = random.Random(seed)
    texts = {f"d{n}": f"text {n // 2} of a document" for n in range(8)}
    texts |= {f"d{n}": texts[f"d{n - 7}"].upper() + " " for n in range(8, 11)}
    rows = []
    for number in range(12):
        positives = generator.sample(sorted(texts), generator.randint(1, 3))
        for positive in positives:
            others = [d for d in texts if d not in positives]
            negatives = tuple(generator.sample(others, 2))
            removed = "of a" if number % 4 == 0 and int(positive[1:]) < 8 else ""
            query = f"Query {number % 10}"  # some queries have equal texts
            rows.append(Example(f"q{number}", query, positive, negatives, removed=removed))
    generator.shuffle(rows)
    return Examples(rows, texts)


def collated(made, rows, collator=None):
    names = ("document", "negative_1", "negative_2")
    given = [{"query": row.query} | dict(zip(names, made.texts(row), strict=True)) for row in rows]
    return KnownPositives(collator or Collator(), made)(given)


def columns_of(batch):
    names = ("query", "document", "negative_1", "negative_2")
    return [
        {
            key.removeprefix(f"{name}_"): value
            for key, value in batch.items()
            if key.startswith(name)
        }
        for name in names
    ]


def alike(one, other):
    return one.lower().split() == other.lower().split()


def oracle(made, rows):
    """For each row the documents, column after column, that are other positives of its query."""
    documents = [row.positive for row in rows]
    documents += [row.negatives[number] for number in range(2) for row in rows]
    found = torch.zeros(len(rows), len(documents), dtype=torch.bool)
    for at, row in enumerate(rows):
        for other, doc_id in enumerate(documents):
            answers = [r.positive for r in made.rows if r.query == row.query]
            known = any(alike(made.documents[doc_id], made.documents[a]) for a in answers)
            found[at, other] = known and other != at
    return found


@pytest.mark.parametrize("seed", range(5))
def test_other_positives_are_those_of_a_loop_over_all_pairs(seed):
    made = examples(seed)
    seen = 0
    for start in range(0, len(made), 7):
        rows = made.rows[start : start + 7]
        columns = columns_of(collated(made, rows))
        found = take_known_positives(columns)
        expected = oracle(made, rows)
        assert torch.equal(found, expected)
        assert not any(KEY in column or ANSWERS in column for column in columns)
        seen += int(expected.sum())
    assert seen > 10


def test_without_keys_nothing_is_known():
    assert take_known_positives([{"input_ids": torch.zeros(1)}, {}]) is None


def loop_infonce(queries, documents, left_out, temperature):
    """InfoNCE row by row, over the documents that are not left out."""
    losses = []
    for row, query in enumerate(queries):
        scores = [
            float(query @ document) / temperature
            for at, document in enumerate(documents)
            if at == row or not left_out[row, at]
        ]
        own = float(query @ documents[row]) / temperature
        losses.append(math.log(sum(math.exp(score) for score in scores)) - own)
    return sum(losses) / len(losses)


def test_infonce_leaves_documents_out():
    generator = torch.Generator().manual_seed(0)
    queries, documents = (torch.rand(n, TERMS, generator=generator) for n in (4, 12))
    left_out = torch.rand(4, 12, generator=generator) < 0.4
    left_out[range(4), range(4)] = False
    left_out[2, :] = torch.arange(12) != 2  # only its own positive is left
    queries.requires_grad_()
    found = infonce(queries, documents.view(3, 4, TERMS), 1.5, left_out)
    expected = loop_infonce(queries.detach(), documents, left_out, 1.5)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert torch.isfinite(torch.autograd.grad(found, queries)[0]).all()
    none = torch.zeros_like(left_out)
    of_all = infonce(queries, documents.view(3, 4, TERMS), 1.5)
    assert torch.equal(infonce(queries, documents.view(3, 4, TERMS), 1.5, none), of_all)


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn((INPUTS, TERMS), generator=generator))

    def forward(self, features):
        assert features.keys() <= {"input_ids", "task"}
        return {"sentence_embedding": (features["input_ids"] @ self.weight).relu()}


@pytest.mark.parametrize("size", [None, 2])
def test_the_objective_takes_no_known_positive_for_a_negative(size):
    made = examples(0)
    rows = list(made.rows)[:9]
    left_out = oracle(made, rows)
    assert left_out.any()
    columns = columns_of(collated(made, rows))
    model = Toy()
    loss = Objective(model, rankings={"infonce": 1.0}, mini_batch_size=size)(columns)["infonce"]
    loss.backward()
    vectors = [model({"input_ids": c["input_ids"]})["sentence_embedding"] for c in columns]
    queries, documents = vectors[0].detach(), torch.cat(vectors[1:]).detach()
    expected = loop_infonce(queries, documents, left_out, 1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert model.weight.grad.any()


def test_nor_where_a_batch_is_compared_with_near_queries():
    class Near:
        """Adds two queries to a batch, and scores all pairs as 0."""

        def compare(self, queries, documents, most):
            asked = [*queries, "near 1", "near 2"]
            return asked, torch.zeros(len(asked), len(documents)).numpy()

    made = examples(0)
    rows = list(made.rows)[:9]
    batch = collated(made, rows, WholeBatch(Collator(), Near(), most=11))
    assert len(batch["query_input_ids"]) == 11
    columns = columns_of(batch)
    model = Toy()
    objective = Objective(model, rankings={"infonce": 1.0, "kl": 1.0})
    found = objective(columns, batch["label"])["infonce"].item()
    vectors = [model({"input_ids": c["input_ids"]})["sentence_embedding"] for c in columns]
    queries, documents = vectors[0].detach()[:9], torch.cat(vectors[1:]).detach()
    assert found == pytest.approx(
        loop_infonce(queries, documents, oracle(made, rows), 1.0), rel=1e-5
    )


def test_no_query_or_document_is_twice_in_a_batch_of_an_autoencoder():
    made = examples(1)
    made = Examples([row._replace(negatives=()) for row in made.rows], made.documents)
    settings = {"drop_last": True, "generator": torch.Generator(), "seed": 0}
    settings["valid_label_columns"] = []
    batches = list(batches_without_repeats(made.dataset(), batch_size=4, **settings))
    assert len(batches) >= len(made) // 4 - 1
    for batch in batches:
        rows = [made.rows[at] for at in batch]
        assert len({row.query for row in rows}) == len({row.positive for row in rows}) == 4
    with pytest.raises(ValueError, match="at most the 10 different query texts, .* got 11"):
        batches_without_repeats(made.dataset(), batch_size=11, **settings)
