import gzip
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest

from lsr.lines import CorpusError
from lsr.training.examples import Example
from lsr.training.sources import ExampleSource, load_examples, read_scored_lists, read_scores

SHARED = Path(__file__).parents[4] / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development collections in {SHARED}")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "title": "T", "text": f"text {n}"} for n in range(5)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    queries = [{"_id": str(n), "text": f"query {n}"} for n in range(4)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    (folder / "qrels" / "train.tsv").write_text(
        "query-id\tcorpus-id\tscore\n2\td1\t2\n0\td0\t1\n0\td1\t0\n0\td3\t1\n"
    )
    return folder


def test_beir_folder(folder):
    examples = load_examples(ExampleSource(str(folder)))
    assert examples.rows == [
        Example("2", "query 2", "d1"),
        Example("0", "query 0", "d0"),
        Example("0", "query 0", "d3"),
    ]
    assert examples.texts(examples.rows[0]) == ["T text 1"]
    assert len(examples.documents) == 5
    assert load_examples(ExampleSource(str(folder), limit=2)).rows == examples.rows[:2]


def test_beir_folder_refuses(folder):
    with pytest.raises(ValueError, match="beir: no split 'dev'; available: train"):
        load_examples(ExampleSource(str(folder), split="dev"))
    with pytest.raises(ValueError, match="`limit` must be at least 1, got 0"):
        load_examples(ExampleSource(str(folder), limit=0))
    qrels = folder / "qrels" / "train.tsv"
    qrels.write_text("9\td1\t1\n")
    with pytest.raises(ValueError, match="beir: no examples: .* the collection has no query '9'"):
        load_examples(ExampleSource(str(folder)))
    qrels.write_text("1\td9\t1\n")
    with pytest.raises(ValueError, match="the collection has no document 'd9'"):
        load_examples(ExampleSource(str(folder)))
    qrels.write_text("1\td1\t0\n")
    with pytest.raises(ValueError, match="beir: no examples"):
        load_examples(ExampleSource(str(folder)))
    qrels.write_text("1\td1\t1\n1\td1\n")
    with pytest.raises(CorpusError, match=r"train\.tsv:2: expected 3 columns .*, got 2"):
        load_examples(ExampleSource(str(folder)))


def texts(examples):
    return [(row.query, *examples.texts(row)) for row in examples.rows]


@pytest.mark.parametrize("suffix", ["tsv", "tsv.gz"])
def test_tsv_of_texts(tmp_path, suffix):
    path = tmp_path / f"triples.{suffix}"
    content = b'what is "x"?\tx is y.\tz\tw\nwhat is "x"?\tan x\nwho\tx is y.\tan x\n'
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    examples = load_examples(ExampleSource(str(path)))
    assert texts(examples) == [
        ('what is "x"?', "x is y.", "z", "w"),
        ('what is "x"?', "an x"),
        ("who", "x is y.", "an x"),
    ]
    assert len(examples.documents) == 4
    first, second, third = examples.rows
    assert first.query_id == second.query_id != third.query_id
    assert first.positive == third.positive
    assert texts(load_examples(ExampleSource(str(path), limit=1))) == texts(examples)[:1]


def test_tsv_of_ids(tmp_path, folder):
    path = tmp_path / "triples.tsv"
    path.write_text("1\td0\td1\td2\n3\td4\td0\td1\n")
    examples = load_examples(ExampleSource(str(path), collection=str(folder)))
    assert examples.rows == [
        Example("1", "query 1", "d0", ("d1", "d2")),
        Example("3", "query 3", "d4", ("d0", "d1")),
    ]


@pytest.mark.parametrize("kind", ["ids", "beir"])
def test_rows_that_the_collection_lacks_are_left_out_and_counted(tmp_path, folder, caplog, kind):
    """Rows from a file of ids, and from a BEIR folder's judgements; d7 and query 7 do not exist."""
    path = tmp_path / "pairs.tsv"
    judged = [("1", "d7"), ("1", "d0"), ("7", "d1"), ("3", "d4")]

    def load(pairs, limit=None):
        if kind == "ids":
            path.write_text("".join(f"{query}\t{doc_id}\n" for query, doc_id in pairs))
            return load_examples(ExampleSource(str(path), collection=str(folder), limit=limit))
        lines = ["query-id\tcorpus-id\tscore", *(f"{query}\t{d}\t1" for query, d in pairs)]
        (folder / "qrels" / "train.tsv").write_text("\n".join(lines) + "\n")
        return load_examples(ExampleSource(str(folder), limit=limit))

    left = [Example("1", "query 1", "d0"), Example("3", "query 3", "d4")]
    assert sorted(load(judged).rows) == left
    assert "2 rows were left out, the first because the collection has no document 'd7'" in (
        caplog.text
    )
    caplog.clear()
    assert load(judged, limit=1).rows == left[:1]
    assert load(judged[1::2]).rows == left
    assert "2 rows" not in caplog.text
    with pytest.raises(ValueError, match="no examples: 1 row was left out, .* no query '7'"):
        load(judged[2:3])


def test_a_negative_that_the_collection_lacks_takes_its_row_along(tmp_path, folder, caplog):
    """Otherwise rows would have different numbers of negatives."""
    path = tmp_path / "triples.tsv"
    path.write_text("1\td0\td7\n3\td4\td0\n")
    examples = load_examples(ExampleSource(str(path), collection=str(folder)))
    assert examples.rows == [Example("3", "query 3", "d4", ("d0",))]
    assert "1 row was left out" in caplog.text


def test_a_file_has_no_splits(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("query\tdocument\n")
    with pytest.raises(ValueError, match="pairs.tsv: a file has no splits, got 'dev'"):
        load_examples(ExampleSource(str(path), split="dev"))


def jsonl(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_jsonl_of_texts(tmp_path):
    path = jsonl(
        tmp_path / "data.jsonl",
        {"query": "a", "positive": "b", "negatives": ["c", "d"], "scores": [1, 0.5, 0]},
        {"anchor": "a", "document": "b", "negative": "c"},
        {"query": "e", "positive": ["b", "f"], "negatives": ["c"], "scores": [3, 2, 1]},
        {"query": "g", "document": "h", "other": 1},
    )
    examples = load_examples(ExampleSource(str(path)))
    assert texts(examples) == [
        ("a", "b", "c", "d"),
        ("a", "b", "c"),
        ("e", "b", "c"),
        ("e", "f", "c"),
        ("g", "h"),
    ]
    scores = [row.scores for row in examples.rows]
    assert scores == [(1.0, 0.5, 0.0), None, (3.0, 1.0), (2.0, 1.0), None]


def test_hard_negatives_of_sentence_transformers(tmp_path, folder):
    path = jsonl(
        tmp_path / "hard.jsonl",
        {"qid": 1, "pos": ["d0", "d1"], "neg": {"bm25": ["d2", "d3"], "none": [], "x": ["d3"]}},
        {
            "qid": 2,
            "pos": [{"pid": "d0", "ce-score": 9.5}],
            "neg": {
                "bm25": [{"pid": "d2", "ce-score": 1.5}],
                "x": [{"pid": "d2", "ce-score": 1.5}, {"pid": "d4", "ce-score": -2}],
            },
        },
    )
    examples = load_examples(ExampleSource(str(path), collection=str(folder)))
    assert examples.rows == [
        Example("1", "query 1", "d0", ("d2", "d3")),
        Example("1", "query 1", "d1", ("d2", "d3")),
        Example("2", "query 2", "d0", ("d2", "d4"), (9.5, 1.5, -2.0)),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "invalid JSON"),
        ('{"positive": "b"}', "no query .expected under one of query, anchor, qid, query_id"),
        ('{"query": "a"}', "no positive .expected under one of positive, document, pos"),
        ('{"query": "a", "positive": [1.5]}', "positive must hold strings or integers, got float"),
        ('{"query": "a", "positive": []}', "positive holds nothing"),
        ('{"query": "a", "positive": " "}', "positive holds an empty text"),
        ('{"query": ["a", "b"], "positive": "c"}', "expected one query, got 2"),
        ('{"query": "a", "positive": {"x": 1}}', "no pid .expected under one of pid, docid"),
        (
            '{"query": "a", "positive": "b", "neg": {"bm25": [true]}}',
            "neg bm25 must hold strings or integers, got bool",
        ),
        (
            '{"query": "a", "positive": "b", "scores": [1, 2]}',
            "scores must have a number for each of 1 documents, got 2",
        ),
        (
            '{"query": "a", "positive": "b", "scores": ["1"]}',
            "scores must be finite numbers, got '1'",
        ),
        (
            '{"query": "a", "positive": "b", "scores": [NaN]}',
            "scores must be finite numbers, got nan",
        ),
    ],
)
def test_bad_json_line(tmp_path, line, message):
    path = tmp_path / "data.jsonl"
    path.write_text('{"query": "a", "positive": "b"}\n\n' + line + "\n")
    with pytest.raises(CorpusError, match=r"data\.jsonl:3: " + message):
        load_examples(ExampleSource(str(path)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("query", "expected at least 2 tab-separated columns .query, positive., got 1: query"),
        ("query\t\tnegative", "an empty column"),
        ("que\udcffry\tx", "invalid UTF-8"),
    ],
)
def test_bad_tsv_line(tmp_path, line, message):
    path = tmp_path / "data.tsv"
    path.write_bytes(b"a\tb\n" + line.encode("utf-8", "surrogateescape"))
    with pytest.raises(CorpusError, match=r"data\.tsv:2: " + message):
        load_examples(ExampleSource(str(path)))


def test_files_that_are_not_there_or_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="data.jsonl: no such file"):
        load_examples(ExampleSource(str(tmp_path / "data.jsonl")))
    (tmp_path / "data.tsv").write_text("\n")
    with pytest.raises(ValueError, match="data.tsv: no examples"):
        load_examples(ExampleSource(str(tmp_path / "data.tsv")))


class Doc(NamedTuple):
    doc_id: str
    text: str


class Pair(NamedTuple):
    query_id: str
    doc_id_a: str
    doc_id_b: str


class Judgement(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int


def test_ir_datasets(monkeypatch):
    def dataset(qrels=(), pairs=(), queries=True):
        return SimpleNamespace(
            has_docs=lambda: True,
            has_queries=lambda: queries,
            has_qrels=lambda: bool(qrels),
            has_docpairs=lambda: bool(pairs),
            docs_iter=lambda: iter([Doc("a", "text a"), Doc("b", "text b")]),
            queries_iter=lambda: iter(
                [
                    SimpleNamespace(query_id="1", text="x"),
                    SimpleNamespace(query_id="2", default_text=lambda: "y"),
                ]
            ),
            qrels_iter=lambda: iter(qrels),
            docpairs_iter=lambda: iter(pairs),
        )

    known = {
        "x": dataset(queries=False),
        "x/train": dataset(qrels=[Judgement("2", "a", 1), Judgement("1", "b", 0)]),
        "x/triples": dataset([Judgement("1", "a", 1)], [Pair("1", "a", "b"), Pair("2", "b", "a")]),
        "x/missing": dataset([Judgement("1", "c", 1)]),
    }
    module = ModuleType("ir_datasets")
    module.load = known.__getitem__
    monkeypatch.setitem(sys.modules, "ir_datasets", module)
    examples = load_examples(ExampleSource("x"))
    assert examples.rows == [Example("2", "y", "a")]
    assert dict(examples.documents) == {"a": "text a", "b": "text b"}
    assert load_examples(ExampleSource("x/train")).rows == examples.rows
    pairs = [Example("1", "x", "a", ("b",)), Example("2", "y", "b", ("a",))]
    assert load_examples(ExampleSource("x/triples")).rows == pairs
    assert load_examples(ExampleSource("x", split="triples", limit=1)).rows == pairs[:1]
    with pytest.raises(ValueError, match="x: not a folder, .* of split 'dev'"):
        load_examples(ExampleSource("x", split="dev"))
    with pytest.raises(ValueError, match="missing: no examples: .* no document 'c'"):
        load_examples(ExampleSource("x/missing"))


def test_scores(tmp_path):
    path = tmp_path / "run.trec"
    path.write_text("q1 Q0 d1 1 2.5 tag\nq1\tQ0\td2\t2\t-1e3\ttag\n\nq2 Q0 d1 1 7 tag\n")
    expected = [("q1", "d1", 2.5), ("q1", "d2", -1000.0), ("q2", "d1", 7.0)]
    assert list(read_scores(path)) == expected
    path = tmp_path / "scores.tsv.gz"
    path.write_bytes(gzip.compress(b"query-id\tcorpus-id\tscore\nq1\td1\t2.5\nq1\td2\t-1e3\n"))
    assert list(read_scores(path)) == expected[:2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1\td1", "expected 3 columns separated by tabs, or the columns of TREC, got 2"),
        ("q1\td1\tx", "score must be a number, got 'x'"),
        ("q1 Q0 d1 1 inf tag", "score must be finite, got inf"),
    ],
)
def test_bad_score(tmp_path, line, message):
    path = tmp_path / "scores.tsv"
    path.write_text(f"q0\td0\t1\n{line}\n")
    with pytest.raises(CorpusError, match=r"scores\.tsv:2: " + message):
        list(read_scores(path))


def test_scored_lists_are_rankings(tmp_path):
    path = tmp_path / "scores.tsv"
    path.write_text("q1\td1\t1\nq2\td1\t1\nq1\td0\t1\nq1\td2\t3\n")
    assert dict(read_scored_lists(path)) == {
        "q1": [("d2", 3.0), ("d0", 1.0), ("d1", 1.0)],
        "q2": [("d1", 1.0)],
    }
    path.write_text("q1\td1\t1\nq1\td1\t2\n")
    with pytest.raises(ValueError, match="query q1: document d1 is ranked twice"):
        read_scored_lists(path)


@pytest.mark.shared
@shared
def test_development_collections():
    examples = load_examples(ExampleSource(str(SHARED / "mlquestions")))
    assert len(examples) == 6516 and len(examples.positives) == 6505
    assert len(examples.documents) == 9204
    row = examples.rows[0]
    assert (row.query_id, row.positive) == ("train0", "p0")
    assert examples.texts(row)[0].startswith("In a supervised learning model, the algorithm")


@pytest.mark.shared
@shared
def test_files_of_a_development_collection(tmp_path):
    nfcorpus = SHARED / "nfcorpus"
    rows = load_examples(ExampleSource(str(nfcorpus))).rows
    assert len(rows) == 110_075
    tsv = tmp_path / "pairs.tsv"
    tsv.write_text("".join(f"{row.query_id}\t{row.positive}\n" for row in rows[:500]))
    assert load_examples(ExampleSource(str(tsv), collection=str(nfcorpus))).rows == rows[:500]
