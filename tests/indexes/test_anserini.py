"""Words as Anserini's BM25 searcher reads and scores them, from the same index."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.eval.datasets import load_dataset
from lsr.eval.measures import evaluate
from lsr.run import Run
from lsr.search import Searcher

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not version("pyserini").startswith("1."),
        reason="pyserini 2 downloads a list of indexes whenever it is imported",
    ),
]
SHARED = Path(__file__).parents[3] / "shared" / "data"
# A weight is rounded to a 1024th of the query's largest, and a word's score to a 1024th.
NEAR = 0.002


def anserini(index, queries, k1, b, k):
    """(id, score) of the k best documents of each query, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("anserini_worker.py"))]
    answer = subprocess.run(
        [*command, str(index), str(k1), str(b), str(k)],
        input=json.dumps(queries),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.shared
@pytest.mark.parametrize(("name", "k1", "b"), [("cranfield", 0.9, 0.4), ("nfcorpus", 1.2, 0.75)])
def test_rankings_are_anserini_s_near_ties_aside(tmp_path, name, k1, b):
    build_index(open_corpus(SHARED / name), tmp_path / "index", "bm25")
    dataset = load_dataset(SHARED / name)
    texts = [query.text for query in dataset.queries]
    with Searcher(tmp_path / "index") as searcher:
        settings = {"mode": "words", "words": {"k1": k1, "b": b, "title": 0}}
        ours = searcher.rank(texts, 1000, **settings)
        folder = searcher.index.path
    theirs = anserini(folder, texts, k1, b, 1000)
    alike = 0
    for mine, other in zip(ours, theirs, strict=True):
        scores = dict(other)
        step = NEAR * other[0][1] if other else 0
        assert [score for _, score in mine] == pytest.approx([s for _, s in other], abs=step)
        # The documents in our order have the scores of Anserini's order.
        found = [scores.get(doc_id, 0) for doc_id, _ in mine[:10]]
        alike += found == pytest.approx([score for _, score in other[:10]], rel=NEAR)
    assert alike >= 0.95 * len(texts)
    means = [
        evaluate(Run(dict(zip(ids, run, strict=True))), dataset.qrels, ["nDCG@10"]).means["nDCG@10"]
        for ids in [[query.id for query in dataset.queries]]
        for run in (ours, [[(doc_id, score) for doc_id, score in of] for of in theirs])
    ]
    assert means[0] == pytest.approx(means[1], abs=0.001)
