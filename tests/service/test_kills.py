"""Acknowledged writes survive SIGKILL at any moment, and no write is applied in part.

A child is killed once, and in the slow test LSR_KILLS times (default 2).
"""

import json
import os
import random
import signal
import time

import numpy as np
import pytest

from lsr.building.live import open_live
from lsr.vectors import quantise

KILLS = [1, pytest.param(int(os.environ.get("LSR_KILLS", "2")), marks=pytest.mark.slow)]
SUBMITTERS = 4

# Submits without end, from several threads, each with its own ids. The journal has a line before
# each operation is submitted, and one after it is acknowledged. It runs with the variables folder,
# n_submitters and seed.
CHILD = """
import json, os, random, threading, time
from pathlib import Path
from lsr.documents import Document
from lsr.building.live import open_live
from lsr.service.ingest import Delete, Ingest, Put

words = "heat flow wing plate layer pressure shock nose cone cylinder boundary theory".split()
with open_live(folder / "wings") as live:
    there = live.index.matching()
ingest = Ingest(folder / "wings", lambda generation, commit: None, idle_seconds=0.02)
journal = (folder / "journal").open("a")
writing = threading.Lock()

def write(**record):
    with writing:
        journal.write(json.dumps(record) + "\\n")
        journal.flush()
        os.fsync(journal.fileno())

def submitter(name):
    rng = random.Random(f"{seed} {name}")
    alive = {i for i in there if i.startswith(name)}
    number = 0
    while True:
        futures = []
        for _ in range(rng.randint(1, 4)):
            number += 1
            if alive and rng.random() < 0.3:
                ids = rng.sample(sorted(alive), min(len(alive), rng.randint(1, 2)))
                write(by=name, begin=number, gone=ids)
                operation = Delete(tuple(ids))
                alive -= {*ids}
            else:
                texts = {
                    f"{name}-{rng.randrange(30)}": " ".join(rng.choices(words, k=9))
                    for _ in range(rng.randint(1, 3))
                }
                write(by=name, begin=number, put=texts)
                operation = Put(tuple(Document(i, "", text) for i, text in texts.items()))
                alive |= texts.keys()
            futures.append((number, ingest.submit(operation, time.monotonic() + 60)))
        for done, future in futures:
            future.result()
            write(by=name, end=done)
        if rng.random() < 0.1:
            time.sleep(0.05)  # the index is closed, and opened again

def submit_or_die(name):
    try:
        submitter(name)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)

threads = [threading.Thread(target=submit_or_die, args=(f"t{n}",)) for n in range(n_submitters)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def after(texts, record):
    """Return id → text after an operation is applied."""
    if "put" in record:
        return texts | record["put"]
    return {doc_id: text for doc_id, text in texts.items() if doc_id not in record["gone"]}


def whole_states(before, records):
    """Return a submitter's possible documents: after all acknowledged operations, or later ones."""
    begun = [record for record in records if "begin" in record]
    ended = [record["end"] for record in records if "end" in record]
    assert ended == [record["begin"] for record in begun[: len(ended)]]
    states = [before]
    for record in begun:
        states.append(after(states[-1], record))
    return states[len(ended) :]


def documents(directory):
    """Return id → text; check that the index is clean, and each text's vectors on both sides."""
    with open_live(directory) as live:
        clean, report = live.index.check()
        assert clean, report
        ids = live.index.matching()
        assert live.dense.ids == ids and live.index.n_docs == len(ids)
        found = live.index.documents(ids)
        texts = [document.content for document in found]
        weights = live.encoder.encode_documents(texts, live.manifest.top_k)
        expected = quantise(weights, live.manifest.impact_scale)
        assert (live.index.impacts(ids) != expected).nnz == 0
        vectors = live.dense_encoder.encode_documents(texts)
        np.testing.assert_allclose(live.dense.vectors(ids), vectors, atol=1e-6)
        return {document.id: document.text for document in found}


def of_submitter(texts, name):
    return {doc_id: text for doc_id, text in texts.items() if doc_id.startswith(name)}


@pytest.mark.parametrize("kills", KILLS)
def test_every_acknowledged_write_survives_kills(index, processes, kills):
    folder, rng = index.parent, random.Random(11)
    journal = folder / "journal"
    before = documents(index)
    of_others = of_submitter(before, "d")
    acknowledged = pending = cut_off = applied = 0
    for number in range(kills):
        journal.write_text("")
        settings = {"folder": folder, "n_submitters": SUBMITTERS, "seed": number}
        child = processes.Process(target=exec, args=(CHILD, settings))
        child.start()
        while '"end"' not in journal.read_text():
            assert child.is_alive(), "the child failed"
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 1.0))
        assert child.is_alive(), "the child failed"
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        # The last line may be cut off, but then its operation was not submitted yet.
        records = [json.loads(line) for line in journal.read_text().split("\n")[:-1]]
        found = documents(index)
        assert of_submitter(found, "d") == of_others
        for name in (f"t{n}" for n in range(SUBMITTERS)):
            own = [record for record in records if record["by"] == name]
            possible = whole_states(of_submitter(before, name), own)
            state = of_submitter(found, name)
            assert state in possible, (number, name, state, possible)
            n_pending = len(possible) - 1
            acknowledged += sum("end" in record for record in own)
            pending += n_pending
            applied += bool(n_pending and state != possible[0])
            cut_off += bool(n_pending and state == possible[0])
        before = found
    print(
        f"{kills} kills: {acknowledged} operations acknowledged, {pending} pending; of the "
        f"submitters with pending ones {applied} had some of them applied, {cut_off} none"
    )
    assert acknowledged
