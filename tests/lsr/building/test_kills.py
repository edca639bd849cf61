"""Acknowledged changes survive SIGKILL at any moment of build, add, delete and merge.

A child is killed once, and in the slow tests LSR_KILLS times (default 4).
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from lsr.building.live import open_live
from lsr.encoders.load import default_tokenizer
from lsr.search import Searcher

KILLS = [1, pytest.param(int(os.environ.get("LSR_KILLS", "4")), marks=pytest.mark.slow)]
WORDS = "heat flow wing plate layer pressure shock nose cone cylinder boundary theory".split()

# Writes to the index without end: one line in the journal before each operation, one after it.
# It runs with the variables folder, words, number and dense.
CHILD = """
import json, os, random
from lsr.building import build as indexing
from lsr.corpus.corpus import open_corpus
from lsr.encoders.dense import DenseEncoder

if dense:
    DenseEncoder(dense).encode_queries(["heat"])  # its first use takes longer than the others
indexing.SHARD, indexing.COMMIT_SECONDS = 16, 0.02
journal = (folder / "journal").open("a")
rng = random.Random(os.getpid())

def write(**record):
    journal.write(json.dumps(record) + "\\n")
    journal.flush()
    os.fsync(journal.fileno())

def corpus(ids):
    path = folder / "corpus.jsonl"
    texts = ({"_id": i, "text": " ".join(rng.choices(words, k=9))} for i in ids)
    path.write_text("".join(json.dumps(text) + "\\n" for text in texts))
    return open_corpus(path)

def do(kind, ids, operation):
    write(begin=kind, ids=ids)
    operation()
    write(end=kind)

alive = json.loads((folder / "alive").read_text())
first = True
while True:
    number += 1
    if alive is None or (not first and rng.random() < 0.15):
        alive = [f"g{number}-{i}" for i in range(400)]
        built = corpus(alive)
        settings = {"dense": dense, "dense_kind": rng.choice(["flat", "hnsw"])}
        build = lambda: indexing.build_index(built, folder / "index", "lexical", **settings)
        do("build", alive, build)
    elif rng.random() < 0.2:
        do("merge", [], lambda: indexing.merge_index(folder / "index"))
    elif rng.random() < 0.5 and len(alive) > 50:
        gone = rng.sample(alive, 20)
        do("delete", gone, lambda: indexing.delete_documents(folder / "index", gone))
        alive = [i for i in alive if i not in set(gone)]
    else:
        more = [f"a{number}-{i}" for i in range(20)]
        added = corpus(more)
        do("add", more, lambda: indexing.add_documents(added, folder / "index"))
        alive += more
    first = False
"""


def after(alive, kind, ids):
    """The ids that an index should hold after an operation."""
    if kind == "build":
        return set(ids)
    return alive | set(ids) if kind == "add" else alive - set(ids)  # a merge has none


def holds_exactly(folder, ids):
    """Whether the index is clean and holds exactly these documents and forward vectors.

    A dense side must hold the same documents as Lucene, with the vectors of their texts.
    """
    with Searcher(folder / "index") as searcher:
        clean, report = searcher.index.check()
        assert clean, report
        check_dense(folder)
        if searcher.index.n_docs != len(ids):
            return False
        try:
            searcher.index.impacts(sorted(ids))
        except KeyError:
            return False
        return True


def check_dense(folder):
    """Check that the dense side has Lucene's documents, and the vectors of their texts."""
    with open_live(folder / "index") as live:
        if live.dense:
            assert live.dense.ids == (ids := live.index.matching())
            live.dense.check()
            texts = [document.content for document in live.index.documents(ids)]
            vectors = live.dense_encoder.encode_documents(texts)
            np.testing.assert_allclose(live.dense.vectors(ids), vectors, atol=1e-6)


@pytest.fixture(params=["sparse", "both sides"])
def dense_model(request, tmp_path):
    """The path of a dense model of random word vectors; empty for an index without one."""
    if request.param == "sparse":
        return ""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    torch.manual_seed(0)
    words = StaticEmbedding(default_tokenizer().backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[words]).save(str(tmp_path / "model"), create_model_card=False)
    return str(tmp_path / "model")


def acknowledged(folder, alive):
    """The ids in the index by the journal, and the operation that was cut off, if any."""
    pending = None
    for line in (folder / "journal").read_text().splitlines():
        record = json.loads(line)
        if "begin" in record:
            pending = (record["begin"], record["ids"])
        else:
            alive, pending = after(alive or set(), *pending), None
    return alive, pending


@pytest.mark.parametrize("kills", KILLS)
def test_every_acknowledged_document_survives_kills(tmp_path, dense_model, processes, kills):
    rng = random.Random(7)
    alive = None
    cut_off = dict.fromkeys(("build", "add", "delete", "merge", None), 0)
    for number in range(kills):
        (tmp_path / "journal").write_text("")
        (tmp_path / "alive").write_text(json.dumps(None if alive is None else sorted(alive)))
        settings = {"folder": tmp_path, "words": WORDS, "number": 1000 * number}
        settings["dense"] = dense_model or None
        child = processes.Process(target=exec, args=(CHILD, settings))
        child.start()
        while not (tmp_path / "journal").stat().st_size:
            assert child.is_alive(), "the child failed"
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 4.0))
        assert child.is_alive(), "the child failed"
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        alive, pending = acknowledged(tmp_path, alive)
        cut_off[pending[0] if pending else None] += 1
        if alive is None:
            # The first build was cut off: there is no index, or a complete one.
            if not (tmp_path / "index" / "manifest.json").exists():
                continue
            alive = set(pending[1])
            assert holds_exactly(tmp_path, alive)
        elif not holds_exactly(tmp_path, alive):
            assert pending is not None
            alive = after(alive, *pending)
            assert holds_exactly(tmp_path, alive), (number, pending)
    print(f"{kills} kills, by the operation cut off: {cut_off}")
    assert Path(tmp_path / "index").exists()
