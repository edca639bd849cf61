"""service/ingest.py: order, group commit, errors, backpressure, and the index's lock."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest

from lsr.building.build import build_index
from lsr.building.live import open_live
from lsr.building.lock import locked
from lsr.corpus.corpus import open_corpus
from lsr.documents import Document, change_of, changed
from lsr.encoders.lexical import LexicalEncoder
from lsr.filter import Comparison
from lsr.filter_text import parse
from lsr.indexes.lucene import IndexLockedError, LuceneIndex
from lsr.indexes.manifest import read_manifest, write_manifest
from lsr.search import Searcher
from lsr.service.dispatcher import ClosedError, DeadlineError, OverloadedError
from lsr.service.ingest import Delete, DeleteMatching, Ingest, Put, Receipt, Revise


def put(*pairs):
    """Documents of (id, text)."""
    return Put(tuple(Document(doc_id, "", text) for doc_id, text in pairs))


def soon(seconds=30.0):
    return time.monotonic() + seconds


@contextmanager
def ingest(directory, on_commit=lambda generation, commit: None, **settings):
    opened = Ingest(directory, on_commit, **settings)
    try:
        yield opened
    finally:
        opened.close(30)


def texts(directory):
    """Return id → text of all documents; check that the dense side has their vectors."""
    with open_live(directory) as live:
        ids = live.index.matching()
        documents = live.index.documents(ids)
        if live.dense:
            assert live.dense.ids == ids
            vectors = live.dense_encoder.encode_documents([d.content for d in documents])
            np.testing.assert_allclose(live.dense.vectors(ids), vectors, atol=1e-6)
        return {document.id: document.text for document in documents}


def commit_of(directory):
    with open_live(directory) as live:
        return live.commit


def until(condition):
    limit = soon(20)
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_the_log_says_how_many_weights_reached_the_cap(index, monkeypatch, caplog):
    encode = LexicalEncoder.encode_documents
    with ingest(index) as writes:
        writes.submit(put(("a", "heat")), soon()).result(30)
        assert "largest impact" not in caplog.text
        monkeypatch.setattr(
            LexicalEncoder,
            "encode_documents",
            lambda self, texts, *more: encode(self, texts, *more) * np.float32(1e3),
        )
        receipt = writes.submit(put(("a", "heat flow")), soon()).result(30)
    assert caplog.messages == [
        f"{index}: commit {receipt.commit}: 2 weights reached the largest impact, 16,383: weights "
        "above 255.98 count as that"
    ]


def test_operations_that_wait_are_applied_in_order_and_committed_once(index):
    before, commit = texts(index), commit_of(index)
    with ingest(index) as writes:
        with locked(index):
            accepted = [
                writes.submit(operation, soon())
                for operation in (
                    put(("a", "one")),
                    put(("a", "two"), ("b", "heat")),
                    Delete(("b",)),
                    Delete(("d0", "d1")),
                    put(("d1", "again")),
                    put(("c", "first")),
                    Delete(("c",)),
                    put(("c", "last")),
                    put(("e", "x"), ("e", "y")),
                )
            ]
            gone = writes.submit(Delete(("d2", "d0")), soon())  # d0 is deleted by then
            unknown = writes.submit(Delete(("nobody",)), soon())
        receipts = [future.result(30) for future in accepted]
    assert receipts == [Receipt(1, commit + 1, n) for n in (1, 2, 1, 2, 1, 1, 1, 1, 2)]
    for future, doc_id in ((gone, "d0"), (unknown, "nobody")):
        with pytest.raises(KeyError, match=f"no document '{doc_id}' in this index"):
            future.result(30)
    del before["d0"]
    assert texts(index) == before | {"a": "two", "c": "last", "d1": "again", "e": "y"}
    with open_live(index) as live:
        assert len(live.dense.names) == 2  # a segment of the build, and one of this group
        assert live.commit == commit + 1


def revise(doc_id, **metadata):
    return Revise((change_of(doc_id, metadata),))


def test_changes_of_metadata_follow_the_writes_before_them(index):
    before, commit = texts(index), commit_of(index)
    with ingest(index) as writes:
        with locked(index):
            operations = [
                Put((Document("a", text="one", metadata={"n": 1, "m": 1}),)),
                revise("a", n=2, o=3),
                revise("a", m=None),
                revise("d1", kind="new"),
                revise("d1", year=None),
                revise("d2", kind="lost"),
                Put((Document("d2", text="again", metadata={"n": 5}),)),
                revise("d3", kind="lost"),
                Delete(("d3",)),
                Put((Document("d4", text="again", metadata={"n": 1}),)),
                Delete(("d4",)),
                Revise((change_of("d5", {"x": 1}), change_of("d6", {"x": 2}))),
                DeleteMatching(parse("x = 2")),
                revise("d5", x=3),
            ]
            accepted = [writes.submit(operation, soon()) for operation in operations]
            unknown = [
                writes.submit(operation, soon())
                for operation in (
                    revise("d3", x=1),
                    Revise((change_of("d7", {"x": 1}), change_of("d6", {"x": 1}))),
                )
            ]
        receipts = [future.result(30) for future in accepted]
        for future, doc_id in zip(unknown, ("d3", "d6"), strict=True):
            with pytest.raises(KeyError, match=f"no document '{doc_id}' in this index"):
                future.result(30)
    assert [receipt.documents for receipt in receipts] == [1] * 11 + [2, 1, 1]
    assert [receipt.commit - commit for receipt in receipts] == [1] * 12 + [2, 3]
    for doc_id in ("d3", "d4", "d6"):
        del before[doc_id]
    assert texts(index) == before | {"a": "one", "d2": "again"}
    with open_live(index) as live:
        found = [of.metadata for of in live.index.documents(["a", "d1", "d2", "d5", "d7"])]
    assert found == [
        {"n": 2, "o": 3},
        {"kind": "new"},
        {"n": 5},
        {"kind": "k2", "year": 1955, "x": 3},
        {"kind": "k1", "year": 1957},
    ]


def test_random_writes_leave_what_a_dictionary_would_hold(index):
    choice = random.Random(0)
    with open_live(index) as live:
        expected = {of.id: of for of in live.index.documents(live.index.matching())}
    ids = [*sorted(expected)[:4], "x", "y"]
    with ingest(index, group=30) as writes:
        for _ in range(4):
            futures = []
            with locked(index):
                for n in range(40):
                    doc_id = choice.choice(ids)
                    kind = choice.choice([Put, Revise, Revise, Delete])
                    change = {choice.choice("ab"): choice.choice([None, n]), "of": {"c": n}}
                    if kind is Put:
                        document = Document(doc_id, text=f"heat {n}", metadata={"a": -n})
                        operation, expected[doc_id] = Put((document,)), document
                    elif kind is Revise:
                        operation = Revise((change_of(doc_id, change),))
                        if doc_id in expected:
                            document = expected[doc_id]
                            expected[doc_id] = changed(document, operation.changes[0])
                    else:
                        operation = Delete((doc_id,))
                        expected.pop(doc_id, None)
                    futures.append(writes.submit(operation, soon()))
            wait(futures, 30)
            assert all(isinstance(of.exception(), KeyError | None) for of in futures)
    assert texts(index) == {doc_id: of.text for doc_id, of in expected.items()}
    with open_live(index) as live:
        assert live.index.documents(sorted(expected)) == [expected[d] for d in sorted(expected)]
        for doc_id, document in expected.items():
            for key, value in document.metadata.items():
                assert doc_id in live.index.matching(Comparison(key, "=", value))


def test_deleting_by_filter_sees_all_writes_before_it(index):
    before, commit = texts(index), commit_of(index)
    new = [
        Document("a", text="one", metadata={"n": 1}),
        Document("b", text="two", metadata={"n": 2}),
        Document("c", text="three", metadata={"n": 3}),
    ]
    with ingest(index) as writes:
        with locked(index):
            operations = [
                Put(tuple(new)),
                Put((Document("c", text="three", metadata={"n": 1}),)),
                DeleteMatching(parse("n = 1")),
                Put((Document("a", text="again"),)),
                DeleteMatching(parse("n > 5")),
            ]
            accepted = [writes.submit(operation, soon()) for operation in operations]
            unknown = writes.submit(DeleteMatching(parse("m = 1")), soon())
        receipts = [future.result(30) for future in accepted]
        with pytest.raises(ValueError, match="no document of this index has a value under the key"):
            unknown.result(30)
    assert [receipt.documents for receipt in receipts] == [3, 1, 2, 1, 0]
    assert receipts[0].commit == commit + 1 and receipts[2].commit == commit + 2
    assert texts(index) == before | {"a": "again", "b": "two"}
    with open_live(index) as live:
        assert live.dense.ids == live.index.matching()


def test_a_commit_takes_no_more_than_a_group(index):
    with ingest(index, group=10) as writes:
        with locked(index):
            sizes = [4, 4, 4, 25, 1]
            accepted = [
                writes.submit(put(*((f"{i}-{j}", "heat") for j in range(size))), soon())
                for i, size in enumerate(sizes)
            ]
        commits = [future.result(30).commit for future in accepted]
    first = commits[0]
    assert commits == [first, first, first + 1, first + 2, first + 3]
    assert len(texts(index)) == 200 + sum(sizes)


def test_an_acknowledged_write_is_visible(index):
    with Searcher(index) as searcher:
        seen = []

        def on_commit(generation, commit):
            searcher.refresh()
            seen.append((generation, commit))

        with ingest(index, on_commit) as writes:
            for number in range(5):
                doc = Document(f"n{number}", "", f"flutter {number}", {"n": f"x{number}"})
                receipt = writes.submit(Put((doc,)), soon()).result(30)
                assert seen[-1] == receipt[:2]
                for mode in ("sparse", "dense"):
                    (hit,) = searcher.search("flutter", filter=f"n = x{number}", mode=mode)
                    assert hit.document == doc
        assert [commit for _, commit in seen] == list(range(seen[0][1], seen[0][1] + 5))


def test_an_error_is_that_of_its_operation(index, monkeypatch):
    real = LexicalEncoder.encode_documents

    def encode_documents(self, batch, *rest):
        if any("broken" in text for text in batch):
            raise RuntimeError("no weights")
        weights = real(self, batch, *rest)
        for row, text in enumerate(batch):
            if "negative" in text:
                weights.data[weights.indptr[row]] = -1.0
        return weights

    monkeypatch.setattr(LexicalEncoder, "encode_documents", encode_documents)
    before = texts(index)
    with ingest(index) as writes:
        with locked(index):
            good = [
                writes.submit(operation, soon())
                for operation in (put(("a", "heat")), put(("b", "flow")))
            ]
            broken = writes.submit(put(("b", "broken"), ("z", "heat")), soon())
            negative = writes.submit(put(("a", "negative")), soon())
            good.append(writes.submit(put(("c", "wing")), soon()))
        assert len({future.result(30).commit for future in good}) == 1
        with pytest.raises(RuntimeError, match="no weights"):
            broken.result(30)
        with pytest.raises(ValueError, match="among documents 'a' to 'a': weights must be"):
            negative.result(30)
        alone = writes.submit(put(("a", "negative")), soon())
        with pytest.raises(ValueError, match="weights must be"):
            alone.result(30)
    assert texts(index) == before | {"a": "heat", "b": "flow", "c": "wing"}


@pytest.mark.parametrize(
    ("operation", "told"),
    [
        (put(("a b", "x")), "white space in id 'a b'"),
        (Delete(("",)), "empty id"),
        (Put((Document("a", "", "\ud800"),)), "surrogates not allowed"),
        (Put((Document("a", "", "x", {"key": "\ud800"}),)), "key holds a lone surrogate"),
        (Put(()), "Put must have at least one document, got none"),
        (Delete(()), "Delete must have at least one document, got none"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(index, operation, told):
    with ingest(index) as writes, pytest.raises(ValueError, match=told):
        writes.submit(operation, soon())


def test_an_error_of_the_commit_is_that_of_its_group_only(index, monkeypatch):
    before = texts(index)
    with ingest(index) as writes:
        writes.submit(put(("first", "heat")), soon()).result(30)
        with monkeypatch.context() as patch:
            patch.setattr(LuceneIndex, "commit", lambda self, user_data: 1 / 0)
            with locked(index):
                failed = [writes.submit(put((f"f{n}", "flow")), soon()) for n in range(3)]
                failed.append(writes.submit(Delete(("d3",)), soon()))
                unknown = writes.submit(Delete(("nobody",)), soon())
            for future in failed:
                with pytest.raises(ZeroDivisionError):
                    future.result(30)
            with pytest.raises(KeyError):
                unknown.result(30)
        writes.submit(put(("last", "wing")), soon()).result(30)
    assert texts(index) == before | {"first": "heat", "last": "wing"}


def test_what_is_not_visible_is_not_acknowledged(index):
    def on_commit(generation, commit):
        raise OSError("no more files")

    with ingest(index, on_commit) as writes:
        for doc_id in ("a", "b"):
            with pytest.raises(OSError, match="no more files"):
                writes.submit(put((doc_id, "heat")), soon()).result(30)
    assert texts(index).keys() >= {"a", "b"}


@pytest.mark.parametrize("bound", ["operations", "bytes"])
def test_a_full_queue_makes_submitters_wait_until_their_deadline(index, bound):
    room = {"capacity": 2} if bound == "operations" else {"capacity_bytes": 5000}
    long = "heat " * 500
    with ingest(index, **room) as writes:
        with locked(index):
            accepted = [
                writes.submit(put((f"a{n}", long)), soon())
                for n in range(2 if room.get("capacity") else 1)
            ]
            begun = time.monotonic()
            with pytest.raises(OverloadedError, match="are waiting, and no more than"):
                writes.submit(put(("late", long)), soon(0.1))
            assert time.monotonic() - begun >= 0.1
            patient = threading.Thread(
                target=lambda: accepted.append(writes.submit(put(("patient", long)), soon()))
            )
            patient.start()
            time.sleep(0.05)
            assert patient.is_alive()
        patient.join(30)
        for future in accepted:
            future.result(30)
    found = texts(index)
    assert "patient" in found and "late" not in found


def test_one_operation_may_be_larger_than_the_queue(index):
    with ingest(index, capacity_bytes=10, group=1) as writes:
        receipt = writes.submit(put(("a", "heat"), ("b", "flow")), soon()).result(30)
    assert receipt.documents == 2


def test_what_is_not_begun_by_its_deadline_is_not_done(index):
    held, leave = threading.Event(), threading.Event()

    def on_commit(generation, commit):
        held.set()
        assert leave.wait(30)

    with ingest(index, on_commit) as writes:
        first = writes.submit(put(("a", "heat")), soon())
        assert held.wait(30)
        late = writes.submit(put(("b", "flow")), soon(0.02))
        cancelled = writes.submit(put(("c", "wing")), soon())
        last = writes.submit(put(("d", "nose")), soon())
        assert cancelled.cancel()
        time.sleep(0.03)
        leave.set()
        with pytest.raises(DeadlineError, match="before the write began"):
            late.result(30)
        assert last.result(30).commit == first.result(30).commit + 1
    found = texts(index)
    assert {"a", "d"} <= found.keys() and {"b", "c"}.isdisjoint(found)


def test_writes_wait_for_another_process_until_their_deadline(index):
    with ingest(index) as writes:
        with locked(index):
            late = writes.submit(put(("late", "heat")), soon(0.1))
            patient = writes.submit(put(("patient", "heat")), soon())
            with pytest.raises(IndexLockedError, match="is building it or writing to it"):
                late.result(30)
            assert not patient.done()
        patient.result(30)
    assert "patient" in (found := texts(index)) and "late" not in found


def is_free(directory):
    try:
        with locked(directory, wait=0):
            return True
    except IndexLockedError:
        return False


def test_the_lock_is_given_back_when_idle_or_awaited(index):
    with ingest(index, idle_seconds=0.05) as writes:
        writes.submit(put(("a", "heat")), soon()).result(30)
        until(lambda: is_free(index))
        writes.submit(put(("b", "heat")), soon()).result(30)
    assert is_free(index)
    with ingest(index, idle_seconds=600) as writes:
        writes.submit(put(("c", "heat")), soon()).result(30)
        assert not is_free(index)
        with locked(index):
            waiting = writes.submit(put(("d", "heat")), soon())
            time.sleep(0.2)
            assert not waiting.done()
        waiting.result(30)
        assert not is_free(index)
    assert is_free(index)
    assert {"a", "b", "c", "d"} <= texts(index).keys()


@pytest.mark.slow
def test_writes_without_end_give_way(index):
    done = threading.Event()
    with ingest(index, group=1) as writes:

        def write():
            while not done.is_set():
                accepted = [writes.submit(put((f"{n}", "heat")), soon()) for n in range(5)]
                assert not wait(accepted, 30).not_done

        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(write) for _ in range(2)]
            try:
                commits = [-1]
                for _ in range(5):
                    with locked(index):
                        commits.append(commit_of(index))
                        time.sleep(0.05)
                        assert commit_of(index) == commits[-1]
                    until(lambda: commit_of(index) > commits[-1])
            finally:
                done.set()
            for future in running:
                future.result()


def test_models_are_kept_while_the_lock_is_not(index, monkeypatch):
    loads = []
    real = LexicalEncoder.load.__func__
    monkeypatch.setattr(
        LexicalEncoder, "load", classmethod(lambda *args: loads.append(1) or real(*args))
    )
    with ingest(index) as writes:
        for doc_id in ("a", "b"):
            writes.submit(put((doc_id, "heat")), soon()).result(30)
            with locked(index):
                pass
    assert len(loads) == 1


def test_writes_go_to_the_generation_that_is_live(index, corpus_of, tmp_path):
    corpus = open_corpus(corpus_of(tmp_path / "other.jsonl", 50, seed=9))
    during = []
    with ingest(index) as writes:
        assert writes.submit(put(("old", "heat")), soon()).result(30).generation == 1

        def progress(step, done, total):
            if step == "encoding" and not during:
                during.append(writes.submit(put(("during", "heat")), soon()))

        build_index(corpus, index, "lexical", progress=progress)
        assert during[0].result(30).generation == 2
        assert writes.submit(put(("after", "heat")), soon()).result(30).generation == 2
        assert len(texts(index)) == 52
        # Another generation is put in place without the lock, while the writer has this one open.
        copytree(index / "generation-2", index / "generation-3")
        write_manifest(index, replace(read_manifest(index), generation=3))
        assert writes.submit(put(("third", "heat")), soon()).result(30).generation == 3
    assert texts(index).keys() > {"during", "after", "third"}


def test_an_index_that_cannot_be_opened_is_told_and_may_come_back(index):
    elsewhere = index.with_name("elsewhere")
    index.rename(elsewhere)
    with ingest(index) as writes:
        with pytest.raises(FileNotFoundError, match="is not an index"):
            writes.submit(put(("a", "heat")), soon()).result(30)
        elsewhere.rename(index)
        writes.submit(put(("b", "heat")), soon()).result(30)
    assert "b" in texts(index)


def test_closing_finishes_what_was_accepted(index):
    writes = Ingest(index, lambda generation, commit: None, group=1, capacity=3)
    refused = []

    def refuse():
        try:
            writes.submit(put(("blocked", "heat")), soon())
        except ClosedError as error:
            refused.append(error)

    with locked(index):
        accepted = [writes.submit(put((f"a{n}", "heat")), soon()) for n in range(3)]
        blocked = threading.Thread(target=refuse)  # the queue is full
        blocked.start()
        time.sleep(0.02)
        closing = threading.Thread(target=writes.close, args=(30,))
        closing.start()
        blocked.join(30)
        assert refused and closing.is_alive()
    closing.join(30)
    assert [future.result(0).documents for future in accepted] == [1, 1, 1]
    with pytest.raises(ClosedError, match="stopping"):
        writes.submit(put(("z", "heat")), soon())
    assert {"a0", "a1", "a2"} < texts(index).keys()
    assert is_free(index)


def test_closing_does_not_wait_for_ever(index):
    writes = Ingest(index, lambda generation, commit: None)
    with locked(index):
        future = writes.submit(put(("a", "heat")), soon())
        writes.close(0.05)
        with pytest.raises(ClosedError, match="has stopped: not written"):
            future.result(30)
    writes.close(30)
    assert "a" not in texts(index)


def test_many_submitters_at_once(index):
    commits = []
    with ingest(index, lambda generation, commit: commits.append(commit), capacity=8) as writes:
        futures = []

        def submit(name):
            for number in range(20):
                futures.append(writes.submit(put((f"{name}-{number}", "heat flow")), soon()))

        threads = [threading.Thread(target=submit, args=(name,)) for name in "abcde"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wait(futures, 60).not_done
    assert {future.result().documents for future in futures} == {1}
    assert len(texts(index)) == 300
    assert len(commits) < 100 and commits == sorted(set(commits))


def test_the_log_says_how_much_of_documents_was_not_read(tmp_path, short_sighted, caplog):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "w1"}')
    build_index(open_corpus(tmp_path / "corpus.jsonl"), tmp_path / "index", short_sighted)
    caplog.set_level("INFO", "lsr.service")
    with ingest(tmp_path / "index") as writes:
        writes.submit(put(("b", "w2 w3")), soon()).result(30)
        assert caplog.messages == []
        writes.submit(put(("c", "w1 " * 16), ("d", "w1 " * 8)), soon()).result(30)
    assert caplog.messages == [
        f"{tmp_path / 'index'}: commit 3: 1 of 2 documents is longer than the 10 tokens that "
        f"encoder {short_sighted!r} reads: 33 % of all tokens were not read"
    ]
