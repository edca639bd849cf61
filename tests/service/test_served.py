"""service/served.py: newer commits and generations are opened between two micro-batches."""

import json
import shutil
import threading
import time

import pytest

from lsr.building.build import add_documents, build_index, delete_documents
from lsr.corpus.corpus import open_corpus
from lsr.request import ask
from lsr.search import Searcher
from lsr.service.dispatcher import Dispatcher, Search
from lsr.service.metrics import Metrics
from lsr.service.served import Served


@pytest.fixture
def dispatcher():
    opened = Dispatcher(Metrics(), queue=64, micro_batch=8, threads=1)
    yield opened
    opened.close()


@pytest.fixture
def served(index):
    opened = Served("wings", index)
    yield opened
    opened.close()


def found(dispatcher, served, query="heat flow", **settings):
    job = dispatcher.search(served, [Search(ask(query, **settings))], time.monotonic() + 60)
    outcome = job.result(60)
    return outcome, [(hit.document.id, hit.score) for hit in outcome.value[0]]


def one_document(path, doc_id="new", text="heat flow heat flow"):
    path.write_text(json.dumps({"_id": doc_id, "text": text}) + "\n")
    return open_corpus(path)


def test_a_commit_is_seen_after_a_look(dispatcher, served, index, tmp_path):
    before, hits = found(dispatcher, served)
    assert (served.state.generation, served.state.documents) == (1, 200)
    add_documents(one_document(tmp_path / "new.jsonl"), index)
    again, same = found(dispatcher, served)
    assert same == hits and again.commit == before.commit
    state = served.look(dispatcher.control)
    assert state.commit > before.commit and state.documents == 201
    after, hits = found(dispatcher, served)
    assert hits[0][0] == "new" and (after.generation, after.commit) == (1, state.commit)
    delete_documents(index, ["new"])
    assert served.look(dispatcher.control).commit > state.commit
    assert found(dispatcher, served)[1] == same
    last = served.state
    assert served.look(dispatcher.control) == last  # nothing has changed


def test_a_generation_is_opened_beside_the_old_one(dispatcher, served, index, tmp_path, corpus_of):
    old = served.searcher
    build_index(
        open_corpus(corpus_of(tmp_path / "other.jsonl", 50, seed=7)),
        index,
        "lexical",
        dense=served.state.dense,
    )
    # The old generation still answers, although its files are deleted.
    assert found(dispatcher, served, mode="hybrid")[0].generation == 1
    state = served.look(dispatcher.control)
    assert (state.generation, state.documents) == (2, 50) and served.searcher is not old
    outcome, hits = found(dispatcher, served, mode="hybrid")
    assert outcome.generation == 2
    with Searcher(index) as fresh:
        assert hits == [(h.document.id, h.score) for h in fresh.search("heat flow", mode="hybrid")]


def test_an_index_of_words_alone_changes_its_generation(dispatcher, corpus_of, tmp_path):
    corpus = open_corpus(corpus_of(tmp_path / "c.jsonl", 20))
    build_index(corpus, tmp_path / "alone", "bm25")
    served = Served("alone", tmp_path / "alone")
    try:
        assert (served.state.sides, served.state.mode) == (["words"], "sparse")
        build_index(corpus, tmp_path / "alone", "bm25")
        assert served.look(dispatcher.control).generation == 2
        assert found(dispatcher, served)[1] == found(dispatcher, served, mode="words")[1] != []
    finally:
        served.close()


def test_one_that_cannot_be_opened_leaves_the_old_one_answering(
    dispatcher, served, index, tmp_path, corpus_of
):
    _, hits = found(dispatcher, served)
    build_index(open_corpus(corpus_of(tmp_path / "c.jsonl", 50)), index, "lexical")
    shutil.rmtree(index / "generation-2" / "lucene")
    with pytest.raises((FileNotFoundError, RuntimeError)):
        served.look(dispatcher.control)
    assert found(dispatcher, served)[1] == hits


@pytest.mark.slow
def test_answers_while_generations_change_are_of_one_of_them(
    dispatcher, served, index, tmp_path, corpus_of
):
    """Each answer comes from the generation and commit that it names."""
    dense = served.state.dense
    expected = {1: found(dispatcher, served, mode="hybrid")[1]}
    answers, stop = [], threading.Event()

    def ask_on():
        while not stop.is_set():
            outcome, hits = found(dispatcher, served, mode="hybrid")
            answers.append((outcome.generation, hits))

    clients = [threading.Thread(target=ask_on) for _ in range(4)]
    for client in clients:
        client.start()
    for generation in (2, 3, 4):
        corpus = corpus_of(tmp_path / f"{generation}.jsonl", 60, seed=generation)
        build_index(open_corpus(corpus), index, "lexical", dense=dense)
        with Searcher(index) as fresh:
            hits = fresh.search("heat flow", mode="hybrid")
            expected[generation] = [(hit.document.id, hit.score) for hit in hits]
        assert served.look(dispatcher.control).generation == generation
    stop.set()
    for client in clients:
        client.join()
    assert {generation for generation, _ in answers} >= {1, 4}
    assert all(hits == expected[generation] for generation, hits in answers)
