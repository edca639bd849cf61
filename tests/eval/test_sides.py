"""lsr/eval/sides.py on a small folder whose index is there."""

import json

import numpy as np
import pytest

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.encoders.load import default_tokenizer
from lsr.eval.datasets import load_dataset
from lsr.eval.measures import evaluate
from lsr.eval.sides import SYSTEMS, TUNED, main, markdown, measure, table
from lsr.run import Run
from lsr.search import Searcher

WORDS = "heat flow wing plate layer pressure shock nose cone theory speed drag".split()
N = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A collection with dev and test queries, and its index by BM25 and random word vectors."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    folder = tmp_path_factory.mktemp("sides") / "toy"
    (folder / "qrels").mkdir(parents=True)
    torch.manual_seed(0)
    tokenizer = default_tokenizer().backend_tokenizer
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)])
    model.save(str(folder.parent / "dense"))
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(N)]
    lines = [json.dumps({"_id": f"d{i}", "text": text}) for i, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    queries = [{"_id": f"q{i}", "text": " ".join(rng.choice(WORDS, 3))} for i in range(16)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    for split, numbers in (("dev", range(8)), ("test", range(8, 16))):
        judged = [f"q{i}\td{rng.integers(N)}\t1" for i in numbers]
        (folder / "qrels" / f"{split}.tsv").write_text(
            "\n".join(["query-id\tcorpus-id\tscore", *judged])
        )
    index = folder.parent / "indexes" / "toy"
    build_index(open_corpus(folder), index, "lexical", dense=str(folder.parent / "dense"))
    return folder


@pytest.fixture(scope="module")
def values(folder):
    return measure(folder, folder.parent / "indexes" / "toy")


def test_each_system_is_measured_as_it_is_searched(folder, values):
    dataset = load_dataset(folder)
    with Searcher(folder.parent / "indexes" / "toy") as searcher:
        for system, settings in SYSTEMS.items():
            ranked = searcher.rank([q.text for q in dataset.queries], 1000, **settings)
            run = Run({q.id: hits for q, hits in zip(dataset.queries, ranked, strict=True)})
            expected = evaluate(run, dataset.qrels, ["nDCG@10"]).per_query["nDCG@10"]
            assert values[system] == expected
    assert values[TUNED].keys() == dataset.qrels.keys()


def test_without_dev_queries_are_tuned_by_folds(folder, values):
    dev = folder / "qrels" / "dev.tsv"
    kept = dev.read_text()
    try:
        dev.unlink()
        found = measure(folder, folder.parent / "indexes" / "toy")
    finally:
        dev.write_text(kept)
    assert {name: found[name] for name in SYSTEMS} == {name: values[name] for name in SYSTEMS}
    assert found[TUNED].keys() == values[TUNED].keys()


def test_the_table_marks_what_differs(values, folder, capsys):
    queries = [f"q{i}" for i in range(40)]
    systems = {name: dict.fromkeys(queries, 0.2) for name in values}
    systems["all three"] = {query: 0.5 + 0.01 * (i % 5) for i, query in enumerate(queries)}
    records = table({"one": systems, "two": systems | {"all three": systems["words"]}})
    best = next(record for record in records if record["system"] == "all three")
    assert best["over words + dense"] == pytest.approx(0.32)
    lines = markdown(records).splitlines()
    assert lines[0] == "| | one | two | mean |"
    assert "| all three | 0.520†‡ | 0.200 | 0.360 |" in lines
    assert "p words + dense" not in next(r for r in records if r["system"] == "words + dense")
    main([str(folder), "--out", str(folder.parent / "indexes"), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert [record["system"] for record in printed] == [*SYSTEMS, TUNED]
