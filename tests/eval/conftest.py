"""Small BEIR folders whose values are worked out by hand."""

import json
import shutil

import pytest

CORPUS = {"q1": "heat flow", "a": "heat", "b": "heat wing wing wing", "c": "plate"}


@pytest.fixture
def beir_folder(tmp_path):
    """A BEIR folder where, by BM25, q1 finds itself, a and b, and q2 finds nothing."""
    lines = [json.dumps({"_id": key, "text": text}) for key, text in CORPUS.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "heat flow"}\n{"_id": "q2", "text": "nothing"}\n'
    )
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q1\tb\t1\nq2\tc\t1\n")
    return tmp_path


@pytest.fixture
def two(beir_folder):
    """Two datasets, where the second has another answer and one query more; and two runs."""
    from lsr.run import Run

    one, other = beir_folder / "one", beir_folder / "other"
    one.mkdir()
    for name in ("corpus.jsonl", "queries.jsonl", "qrels"):
        (beir_folder / name).rename(one / name)
    shutil.copytree(one, other)
    with (other / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q3", "text": "plate"}\n')
    with (other / "corpus.jsonl").open("a") as file:
        file.write('\n{"_id": "d", "text": "plate plate"}\n')
    (other / "qrels" / "test.tsv").write_text("q1\ta\t1\nq2\tc\t1\nq3\td\t1\n")
    for dataset in ("one", "other"):
        (beir_folder / "runs").mkdir(exist_ok=True)
        Run({"q1": [("b", 2.0), ("a", 1.0)]}).write_trec(beir_folder / f"runs/{dataset}.trec", "x")
    return one, other


@pytest.fixture
def builds(monkeypatch):
    """The paths of the indexes that are built in a cache, in the order of their start."""
    from lsr.building.build import build_index
    from lsr.eval import cache as caching

    begun = []

    def build(corpus, path, *arguments, **options):
        begun.append((path.name.rpartition("-")[0], options["dense"]))
        return build_index(corpus, path, *arguments, **options)

    monkeypatch.setattr(caching, "build_index", build)
    return begun
