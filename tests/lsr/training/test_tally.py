"""lsr/training/tally.py by hand, in an objective."""

import math

import pytest
import torch

from lsr.training.losses import Objective
from lsr.training.regularisers import Flops
from lsr.training.sparsity import Fixed, Penalty


def test_statistics_by_hand():
    class Given(torch.nn.Module):
        def forward(self, features):
            return {"sentence_embedding": features["vectors"]}

    def columns(*vectors):
        return [{"vectors": torch.tensor(rows, requires_grad=True)} for rows in vectors]

    objective = Objective(
        Given(),
        rankings={"infonce": 2.0},
        penalties={"document": Penalty(Flops(), Fixed(0.0))},
    )
    assert objective.tally.statistics == {} and math.isnan(objective.tally.ranking_loss)
    queries = [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    losses = [
        objective(columns(queries, [[1.0, 0.0, 3.0], [0.0, 0.0, 0.0]])),
        objective(columns(queries, [[5.0, 1.0, 1.0], [2.0, 0.0, 0.0]])),
    ]
    with torch.no_grad():  # an evaluation between steps
        objective(columns(queries, queries))
    objective.tally.take()
    documents, asked = objective.tally.statistics["document"], objective.tally.statistics["query"]
    assert documents.mean_terms == (2 + 0 + 3 + 1) / 4
    assert documents.zero_share == 1 / 4
    assert documents.term_shares.tolist() == [3 / 4, 1 / 4, 2 / 4]
    assert documents.mean_weight == pytest.approx((4 + 7 + 2) / 6)
    # Σ_j w_1j w_2j of the two batches: 0 and 10.
    assert documents.penalty == pytest.approx(5)
    assert (asked.mean_terms, asked.zero_share, asked.penalty) == (1.5, 0, 0)
    expected = (losses[0]["infonce"] + losses[1]["infonce"]) / 2
    assert objective.tally.ranking_loss == pytest.approx(expected.item())
    assert losses[0]["document_penalty"].item() == 0
    objective.tally.take()  # nothing new to take
    assert objective.tally.statistics["document"] is documents
    objective(columns(queries, [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    objective.tally.take()
    assert objective.tally.statistics["document"].mean_weight == 0
    assert objective.tally.statistics["document"].zero_share == 1
