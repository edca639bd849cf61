"""A small BEIR folder whose values are worked out by hand."""

import json

import pytest

CORPUS = {"q1": "heat flow", "a": "heat", "b": "heat wing wing wing", "c": "plate"}


@pytest.fixture
def beir_folder(tmp_path):
    """By BM25 q1 finds itself, a and b; q2 finds nothing."""
    lines = [json.dumps({"_id": key, "text": text}) for key, text in CORPUS.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "heat flow"}\n{"_id": "q2", "text": "nothing"}\n'
    )
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q1\tb\t1\nq2\tc\t1\n")
    return tmp_path
