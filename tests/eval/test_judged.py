"""An index of another corpus is refused; missing judged documents are reported."""

import json

import pytest
from typer.testing import CliRunner

from lsr.building.build import build_index, delete_documents
from lsr.cli import app
from lsr.corpus.corpus import open_corpus
from lsr.eval.comparison import read_system
from lsr.eval.datasets import load_dataset
from lsr.eval.judged import check_index
from lsr.eval.tuning import tune


@pytest.fixture
def index(beir_folder):
    """An index of the folder's corpus."""
    build_index(open_corpus(beir_folder), beir_folder / "index", "lexical")
    return beir_folder / "index"


def index_of(folder, documents):
    """An index of other documents: id → text."""
    folder.mkdir()
    lines = [json.dumps({"_id": key, "text": text}) for key, text in documents.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    build_index(open_corpus(folder), folder / "index", "lexical")
    return folder / "index"


def test_the_index_of_the_corpus_is_taken(beir_folder, index):
    check_index(index, load_dataset(beir_folder))


def test_an_index_without_any_relevant_document_is_refused(beir_folder, tmp_path):
    other = index_of(tmp_path / "other", {"x1": "heat flow", "x2": "wing"})
    dataset = load_dataset(beir_folder)
    message = (
        r"other/index holds none of the 2 relevant documents of .*, split 'test', such as 'b': it "
        r"is an index of .*other with 2 documents, such as 'x1'"
    )
    with pytest.raises(ValueError, match=message):
        check_index(other, dataset)
    with pytest.raises(ValueError, match=message):
        read_system(other, dataset)
    for command in (
        ["eval", beir_folder, "--index", other, "--cache", tmp_path / "cache"],
        ["eval", beir_folder, "--system", other, "--cache", tmp_path / "cache"],
        ["compare", beir_folder, other, other],
    ):
        result = CliRunner().invoke(app, [str(part) for part in command])
        assert (result.exit_code, result.stdout) == (1, "")
        assert "holds none of the 2 relevant documents" in result.stderr


def test_tune_and_grid_refuse_an_index_of_another_corpus(beir_folder, tmp_path):
    from lsr.eval.feedback_grid import feedback_grid

    other = index_of(tmp_path / "other", {"x1": "heat flow"})
    dataset = load_dataset(beir_folder)
    grades = {f"q{number}": {"b": 1} for number in range(5)}
    five = dataset._replace(qrels=grades)
    with pytest.raises(ValueError, match="holds none of the 1 relevant documents"):
        tune(other, five)
    with pytest.raises(ValueError, match="holds none of the 2 relevant documents"):
        feedback_grid(other, dataset, None, tmp_path / "values")


def test_the_same_ids_with_other_texts_are_another_corpus(beir_folder, tmp_path):
    other = index_of(tmp_path / "other", {"b": "cats", "c": "dogs", "z": "birds"})
    with pytest.raises(ValueError, match="not of .*: document 'b' has another text there"):
        check_index(other, load_dataset(beir_folder))


def test_documents_that_the_index_lacks_are_counted(beir_folder, index, tmp_path):
    delete_documents(index, ["b"])
    message = r"holds 1 of the 2 relevant documents of .*: the others, such as 'b', count as not"
    with pytest.warns(UserWarning, match=message):
        check_index(index, load_dataset(beir_folder))


@pytest.mark.filterwarnings("default")
def test_the_command_prints_what_the_index_lacks_each_time(beir_folder, index, tmp_path):
    delete_documents(index, ["b"])
    for _ in range(2):
        arguments = [beir_folder, "--index", index, "--cache", tmp_path / "cache", "--json"]
        result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
        assert result.exit_code == 0
        assert f"lsr: {index} holds 1 of the 2 relevant documents" in result.stderr
        assert len(result.stdout.splitlines()) == 1
