from collections import Counter

import pytest
import torch

from lsr.training.examples import Example, Examples, draw_negatives, hold_out
from lsr.training.texts import Texts

DOCUMENTS = {f"d{number}": f"text {number}" for number in range(6)}
ROWS = [
    Example("q0", "query 0", "d0", ("d1", "d2"), (3.0, 1.0, 0.5)),
    Example("q0", "query 0", "d3", ("d1", "d4"), (2.0, 1.5, 0.0), removed="3"),
    Example("q1", "query 1", "d5", ("d0", "d2"), (1.0, 0.0, 0.0)),
]


@pytest.fixture(params=[dict, lambda documents: Texts(documents.items())])
def examples(request):
    return Examples(ROWS, request.param(DOCUMENTS))


def test_texts_and_positives(examples):
    assert len(examples) == 3
    assert examples.texts(ROWS[0]) == ["text 0", "text 1", "text 2"]
    assert examples.texts(ROWS[1]) == ["text", "text 1", "text 4"]
    assert examples.positives == {"q0": {"d0", "d3"}, "q1": {"d5"}}
    assert examples.n_negatives == 2


def test_dataset_has_the_columns_that_training_expects(examples):
    dataset = examples.dataset()
    assert dataset.column_names == ["query", "document", "negative_1", "negative_2", "label"]
    assert dataset[1] == {
        "query": "query 0",
        "document": "text",
        "negative_1": "text 1",
        "negative_2": "text 4",
        "label": [2.0, 1.5, 0.0],
    }
    assert dataset.with_format(None)[0]["document"] == "d0"
    assert [row["document"] for row in dataset.select([2, 0])] == ["text 5", "text 0"]
    assert dataset.remove_columns("label")[0]["document"] == "text 0"


def test_dataset_without_scores_or_negatives():
    rows = [Example("q", "query", "d1"), Example("p", "other", "d2")]
    dataset = Examples(rows, DOCUMENTS).dataset()
    assert list(dataset) == [
        {"query": "query", "document": "text 1"},
        {"query": "other", "document": "text 2"},
    ]


def test_sentence_transformers_collates_and_samples_it(examples):
    from sentence_transformers.base.sampler import NoDuplicatesBatchSampler
    from sentence_transformers.sparse_encoder.data_collator import SparseEncoderDataCollator

    def preprocess(texts, **_):
        return {"input_ids": torch.tensor([[len(text)] for text in texts])}

    dataset = examples.dataset()
    collator = SparseEncoderDataCollator(preprocess_fn=preprocess)
    batch = collator(dataset.__getitems__([0, 1]))
    assert batch["label"].tolist() == [[3.0, 1.0, 0.5], [2.0, 1.5, 0.0]]
    assert batch["document_input_ids"].tolist() == [[6], [4]]
    assert {"query_input_ids", "negative_1_input_ids", "negative_2_input_ids"} <= batch.keys()
    sampler = NoDuplicatesBatchSampler(
        dataset, 2, drop_last=False, valid_label_columns=["label"], generator=torch.Generator()
    )
    # Rows 0 and 1 share a query, 0 and 2 a document: only 1 and 2 may be in one batch.
    assert sorted(map(sorted, sampler)) == [[0], [1, 2]]


def test_dataset_refuses():
    uneven = [ROWS[0], ROWS[1]._replace(negatives=())]
    with pytest.raises(ValueError, match=r"same number of negatives, got 0 to 2: draw_negatives"):
        Examples(uneven, DOCUMENTS).dataset()
    with pytest.raises(ValueError, match="there are no examples"):
        Examples([], DOCUMENTS).dataset()
    with pytest.raises(ValueError, match="only 2 of 3 rows have scores"):
        Examples([*ROWS[:2], ROWS[2]._replace(scores=None)], DOCUMENTS).dataset()


def test_digest_sees_texts_not_ids():
    digest = Examples(ROWS, DOCUMENTS).digest
    assert digest == Examples(ROWS, Texts(DOCUMENTS.items())).digest
    assert digest == Examples([row._replace(scores=None) for row in ROWS], DOCUMENTS).digest
    renamed = {f"{doc_id}x": text for doc_id, text in DOCUMENTS.items()}
    rows = [
        row._replace(positive=f"{row.positive}x", negatives=tuple(f"{i}x" for i in row.negatives))
        for row in ROWS
    ]
    assert digest == Examples(rows, renamed).digest
    others = [
        Examples(ROWS, DOCUMENTS | {"d4": "text 5"}),
        Examples(ROWS[:2], DOCUMENTS),
        Examples([ROWS[0]._replace(query="query 1"), *ROWS[1:]], DOCUMENTS),
        Examples([ROWS[0]._replace(negatives=("d2", "d1")), *ROWS[1:]], DOCUMENTS),
        Examples([ROWS[0], ROWS[1]._replace(removed=""), ROWS[2]], DOCUMENTS),
    ]
    assert len({digest, *(other.digest for other in others)}) == 6


def many(n):
    return Examples(
        [Example(f"q{i}", "query", f"d{j}") for i in range(n) for j in (1, 2)], DOCUMENTS
    )


def test_held_out_are_whole_queries_and_about_the_share():
    examples = many(2000)
    rest, held_out = hold_out(examples, 0.2)
    assert rest.positives.keys() | held_out.positives.keys() == examples.positives.keys()
    assert not rest.positives.keys() & held_out.positives.keys()
    assert 330 < len(held_out.positives) < 470  # 400, deviation 18
    assert len(rest) + len(held_out) == 4000
    assert list(rest.rows) == [row for row in examples.rows if row.query_id in rest.positives]


def test_a_querys_side_depends_on_its_id_and_the_seed_alone():
    _, held_out = hold_out(many(500), 0.2)
    _, again = hold_out(many(1000), 0.2)
    same = {query_id for query_id in again.positives if int(query_id[1:]) < 500}
    assert same == held_out.positives.keys()
    _, larger = hold_out(many(500), 0.4)
    assert larger.positives.keys() > held_out.positives.keys()
    _, other = hold_out(many(500), 0.2, seed=1)
    assert other.positives.keys() != held_out.positives.keys()


def test_hold_out_refuses():
    for share in (0, 1, 1.5):
        with pytest.raises(ValueError, match=rf"`share` must be in \(0, 1\), got {share}"):
            hold_out(many(10), share)
    with pytest.raises(ValueError, match="holding out 1e-06 of 10 queries leaves 20 rows and .* 0"):
        hold_out(many(10), 1e-6)


def test_drawn_negatives_keep_their_scores():
    doc_ids = tuple(f"d{number}" for number in range(1, 6))
    scores = (9.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    rows = [Example(f"q{i}", "query", "d0", doc_ids, scores) for i in range(300)]
    rows.append(Example("few", "query", "d0", ("d1",), (9.0, 1.0)))
    drawn = draw_negatives(Examples(rows, DOCUMENTS), 2)
    assert len(drawn) == 300
    for row in drawn.rows:
        assert len(set(row.negatives)) == 2
        assert row.scores == (9.0, *(float(doc_id[1:]) for doc_id in row.negatives))
    counts = Counter(doc_id for row in drawn.rows for doc_id in row.negatives)
    assert min(counts.values()) > 80  # 120 each, deviation 8.5
    assert draw_negatives(Examples(rows, DOCUMENTS), 2).rows == drawn.rows
    assert draw_negatives(Examples(rows, DOCUMENTS), 2, seed=1).rows != drawn.rows
    assert draw_negatives(Examples(rows[:3], DOCUMENTS), 5).rows == rows[:3]
    with pytest.raises(ValueError, match="no row has 6 negatives: the most that one has is 5"):
        draw_negatives(Examples(rows, DOCUMENTS), 6)
