import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from lsr.corpus.pydoc import read_pydoc
from lsr.documents import Query
from lsr.eval.datasets import GROUPS, SHORT_NAMES, Dataset, load_dataset, load_datasets
from lsr.lines import CorpusError

SHARED = Path(__file__).parents[3] / "shared" / "data"
HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text(
        "".join(f'{{"_id": "q{i}", "text": "text {i}"}}\n' for i in (3, 1, 2, 4))
    )
    (tmp_path / "qrels" / "test.tsv").write_text(
        HEADER + "q1\ta\t1\nq1\tb\t0\nq2\ta\t0\nq3\tc\t2\nq3\tc\t2\n"
    )
    (tmp_path / "qrels" / "dev.tsv").write_text("q4\ta\t1\r\n")
    return tmp_path


def test_beir_folder_keeps_queries_with_a_relevant_document(folder: Path) -> None:
    expected = Dataset(
        str(folder),
        "test",
        [Query("q3", "text 3"), Query("q1", "text 1")],
        {"q3": {"c": 2}, "q1": {"a": 1, "b": 0}},
    )
    assert load_dataset(folder) == load_dataset(str(folder), "test") == expected


def test_qrels_without_header(folder: Path) -> None:
    dataset = load_dataset(folder, "dev")
    assert dataset.split == "dev"
    assert dataset.qrels == {"q4": {"a": 1}}


def test_missing_split_lists_those_available(folder: Path) -> None:
    with pytest.raises(ValueError, match="no split 'train'; available: dev, test"):
        load_dataset(folder, "train")
    with pytest.raises(ValueError, match="no split 'test'; available: none"):
        load_dataset(folder / "qrels")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q2", "expected 3 columns separated by tabs, or the columns of TREC, got 1: q2"),
        ("q2\t0\ta\t1\tx", "expected 3 columns .*, got 5"),
        ("q2\ta\t1_0", "score must be an integer, got '1_0'"),
        ("q2\ta\t3000000000", r"a grade must be in \[-32767, 32767\], got 3000000000: q2"),
        (f"q2\ta\t{10**26}", "score must be an integer, got '1000"),
        ("q2\ta b\t1", "white space in id 'a b'"),
        ("q2\t \t1", "empty id"),
        ("q2\ta\t1.5", "score must be an integer, got '1.5': q2"),
        ("q1\ta\t2", "a second grade for document 'a': q1"),
        ("q2\t\udcff\t1", "invalid UTF-8 .invalid start byte at byte 3"),
        ("q2\ta", "expected 3 columns separated by tabs, or the columns of TREC, got 2"),
    ],
)
def test_bad_qrels_line(folder: Path, line: str, message: str) -> None:
    content = (HEADER + "q1\ta\t1\n" + line).encode("utf-8", "surrogateescape")
    (folder / "qrels" / "test.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=r"test\.tsv:3: " + message):
        load_dataset(folder)


def test_beir_folder_rejects(folder: Path) -> None:
    qrels = folder / "qrels" / "test.tsv"
    qrels.write_text(HEADER + "q1\ta\t1\nq9\ta\t1\nq8\ta\t1\n")
    with pytest.raises(ValueError, match="judges 2 queries that are not among .* such as 'q8'"):
        load_dataset(folder)
    qrels.write_text(HEADER + "q1\ta\t0\n")
    with pytest.raises(ValueError, match="split 'test' has no query with a relevant document"):
        load_dataset(folder)
    with (folder / "queries.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(CorpusError, match=r"queries\.jsonl:5: invalid JSON"):
        load_dataset(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(
        FileNotFoundError, match="no queries.jsonl or queries.jsonl.gz in this folder"
    ):
        load_dataset(folder)


def test_ir_datasets_id(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = SimpleNamespace(
        has_qrels=lambda: True,
        has_queries=lambda: True,
        queries_iter=lambda: iter(
            [
                SimpleNamespace(query_id="1", text="x"),
                SimpleNamespace(query_id="2", default_text=lambda: "y"),
                SimpleNamespace(query_id="3", text="z"),
            ]
        ),
        qrels_iter=lambda: iter(
            SimpleNamespace(query_id=query_id, doc_id=doc_id, relevance=grade)
            for query_id, doc_id, grade in [("2", "a", 1), ("1", "b", 3), ("3", "a", 0)]
        ),
    )
    bare = SimpleNamespace(has_qrels=lambda: False, has_queries=lambda: False)
    module = ModuleType("ir_datasets")
    module.load = {"beir/x": bare, "beir/x/test": judged, "y": bare, "y/test": bare}.__getitem__
    monkeypatch.setitem(sys.modules, "ir_datasets", module)
    queries, qrels = [Query("1", "x"), Query("2", "y")], {"1": {"b": 3}, "2": {"a": 1}}
    expected = Dataset("beir/x", "test", queries, qrels, source="beir/x/test")
    assert load_dataset("beir/x") == expected
    assert load_dataset("beir/x/test", "dev") == expected._replace(name="beir/x/test")
    with pytest.raises(ValueError, match="beir/x: not a folder or .* with split 'dev'"):
        load_dataset("beir/x", "dev")
    with pytest.raises(ValueError, match="y: this ir_datasets id has no queries with judgements"):
        load_dataset("y")


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """ir_datasets with real ids and two made-up queries for each; returns the set of loaded ids."""
    import ir_datasets

    loaded = set()

    def load(name: str) -> SimpleNamespace:
        real = ir_datasets_load(name)
        loaded.add(name)
        query = SimpleNamespace(query_id="1", text="x")
        judgement = SimpleNamespace(query_id="1", doc_id="a", relevance=3)
        return SimpleNamespace(
            has_qrels=real.has_qrels,
            has_queries=real.has_queries,
            has_docs=real.has_docs,
            queries_iter=lambda: iter([query]),
            qrels_iter=lambda: iter([judgement]),
        )

    ir_datasets_load = ir_datasets.load
    monkeypatch.setattr(ir_datasets, "load", load)
    return loaded


def test_every_short_name_is_an_id_with_documents_queries_and_judgements(collections) -> None:
    import ir_datasets

    names = {*SHORT_NAMES, *(part for parts in GROUPS.values() for part in parts)}
    for name in names:
        dataset = load_dataset(name)
        assert dataset.source in collections
        assert ir_datasets.load(dataset.source).has_docs()
    assert len(GROUPS["beir"]) == len(GROUPS["nano-beir"]) == 13
    assert len(GROUPS["cqadupstack"]) == 12


@pytest.mark.parametrize(
    ("name", "split", "source", "judged", "relevant_grade"),
    [
        ("scifact", "test", "beir/scifact/test", "test", 1),
        ("beir/scifact", "train", "beir/scifact/train", "train", 1),
        ("msmarco", "test", "beir/msmarco/dev", "dev", 1),
        ("beir/msmarco", "test", "beir/msmarco/test", "test", 2),
        ("msmarco-passage", "dev", "msmarco-passage/dev/small", "dev", 1),
        ("msmarco-passage", "dl20", "msmarco-passage/trec-dl-2020/judged", "test", 2),
        ("dl19", "test", "msmarco-passage/trec-dl-2019/judged", "test", 2),
        ("dl-hard", "test", "msmarco-passage/trec-dl-hard", "test", 2),
        ("msmarco-passage-v2", "dl23", "msmarco-passage-v2/trec-dl-2023/judged", "test", 2),
        ("lotte/pooled/search", "dev", "lotte/pooled/dev/search", "dev", 1),
        ("nano-beir/scifact", "test", "nano-beir/scifact", "test", 1),
    ],
)
def test_short_names(collections, name, split, source, judged, relevant_grade) -> None:
    dataset = load_dataset(name, split)
    assert (dataset.source, dataset.split) == (source, judged)
    assert dataset.relevant_grade == relevant_grade


def test_touche_says_its_version(collections) -> None:
    shown = {
        "webis-touche2020": "webis-touche2020/v2",
        "webis-touche2020/v1": "webis-touche2020/v1",
        "beir/webis-touche2020": "beir/webis-touche2020/v1",
        "beir/webis-touche2020/v2": "beir/webis-touche2020/v2",
    }
    for name, label in shown.items():
        assert load_dataset(name).label == label
    assert load_dataset("webis-touche2020").source == "beir/webis-touche2020/v2"
    assert load_dataset("webis-touche2020/v1").source == "beir/webis-touche2020"


def test_groups_are_several_datasets(collections, folder, monkeypatch) -> None:
    parts = load_datasets("cqadupstack")
    assert [part.name for part in parts[:2]] == [
        "beir/cqadupstack/android",
        "beir/cqadupstack/english",
    ]
    assert {part.group for part in parts} == {"cqadupstack"} and len(parts) == 12
    # A list of datasets, each of them evaluated separately.
    assert {part.group for part in load_datasets("beir")} == {""}
    assert [part.name for part in load_datasets("scifact")] == ["scifact"]
    with pytest.raises(ValueError, match="cqadupstack is 12 datasets .*: name one of them"):
        load_dataset("cqadupstack")
    # A folder of that name takes precedence.
    monkeypatch.chdir(folder.parent)
    folder.rename("cqadupstack")
    (found,) = load_datasets("cqadupstack")
    assert found.name == found.label == "cqadupstack" and len(found.queries) == 2


def test_names_that_do_not_exist(collections) -> None:
    with pytest.raises(ValueError, match="scifakt: not a folder or .* short names: beir, .*, dl19"):
        load_dataset("scifakt")
    message = "msmarco-passage: no split 'test'; available: dev, dl19, dl20, dl-hard"
    with pytest.raises(ValueError, match=message):
        load_dataset("msmarco-passage")


def test_a_folder_is_shown_by_its_last_part(folder: Path) -> None:
    assert load_dataset(folder).label == folder.name


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development collections in {SHARED}")
def test_development_collections() -> None:
    assert len(load_dataset(SHARED / "nfcorpus").queries) == 323
    assert len(load_dataset(SHARED / "cranfield").queries) == 225


# Words that say nothing about the topic of a question.
STOPWORDS = set(
    "a the of in to is it how do i my with and on what at for this does was all its by that an "
    "from when be am which where who so let has have into up off some both no not or each".split()
)


def words(text: str) -> set[str]:
    return set(re.findall("[a-z0-9]+", text.lower())) - STOPWORDS


def test_pydoc_asks_100_questions_whose_answers_exist_and_many_share_no_word_with_them() -> None:
    dataset = load_dataset("pydoc")
    documents = {document.id: document for document in read_pydoc()}
    assert len(dataset.queries) == len({query.text for query in dataset.queries}) == 100
    disjoint = 0
    for query in dataset.queries:
        grades = dataset.qrels[query.id]
        assert set(grades.values()) <= {1, 2}
        assert grades.keys() <= documents.keys()
        answers = [documents[doc_id] for doc_id, grade in grades.items() if grade == 2]
        assert answers
        text = " ".join(f"{answer.id} {answer.title} {answer.text}" for answer in answers)
        disjoint += not words(query.text) & words(text)
    assert disjoint >= 30


def test_pydoc_has_one_split() -> None:
    with pytest.raises(ValueError, match="pydoc: no split 'dev'; available: test"):
        load_dataset("pydoc", "dev")
