"""Many clients during ingest and swaps: each answer equals that of a serial search of its state.

The slow test can use more of them: LSR_CLIENTS=64 LSR_QUERIES=2000 LSR_SWAPS=10.
"""

import json
import os
import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

import pytest

from lsr.building.build import build_index
from lsr.client import Client, ServiceError
from lsr.corpus.corpus import open_corpus
from lsr.documents import Document
from lsr.eval.benchmarks.service_replay import Answered, Write, differing
from lsr.indexes.manifest import read_manifest
from lsr.request import ask
from lsr.service.app import app_around
from lsr.service.protocol import protocol
from lsr.service.service import Service
from lsr.service.settings import Settings

# The numbers of clients, of distinct queries (shared out among the clients), and of swaps.
FEW = (4, 40, 1)
MANY = tuple(
    int(os.environ.get(f"LSR_{name}", default))
    for name, default in (("CLIENTS", "16"), ("QUERIES", "200"), ("SWAPS", "3"))
)
WORDS = (
    "heat flow wing plate layer pressure shock nose cone cylinder boundary theory speed drag lift "
    "mach body angle attack tunnel jet nozzle flutter beam shell panel stress buckling fatigue"
).split()


def texts(seed, n, length):
    choice = random.Random(seed)
    return [" ".join(choice.choices(WORDS, k=choice.randint(*length))) for _ in range(n)]


@pytest.fixture
def served(serving):
    """A context manager that serves an index, and gives the service and its URL."""

    @contextmanager
    def serve(directory):
        settings = Settings()
        service = Service([directory], settings)
        app = app_around(lambda: service, settings)
        with serving(app, http=protocol(settings)) as (host, port):
            yield service, f"http://{host}:{port}"

    return serve


@pytest.fixture
def bases(tmp_path, dense_model):
    """Two indexes of different documents, and their corpora."""
    found = []
    for number in range(2):
        path = tmp_path / f"corpus-{number}.jsonl"
        with path.open("w") as file:
            for n, text in enumerate(texts(number, 150, (1, 12))):
                file.write(json.dumps({"_id": f"d{n}", "text": text, "part": n % 3}) + "\n")
        build_index(open_corpus(path), tmp_path / f"base-{number}", "lexical", dense=dense_model)
        found.append((open_corpus(path), tmp_path / f"base-{number}"))
    return found


def requests_of(n_queries):
    return [
        ask(
            query,
            mode="hybrid" if n % 2 else "sparse",
            filter=f"part = {n % 3}" if n % 5 == 4 else None,
        )
        for n, query in enumerate(texts(7, n_queries, (2, 4)))
    ]


class Traffic:
    """Searches and writes of clients until `done`, and their results."""

    def __init__(self, url, directory, requests):
        self.url, self.directory, self.requests = url, directory, requests
        self.done = threading.Event()
        self.answers, self.writes = [], []
        self.numbers = count()

    def search(self):
        with Client(self.url, retries=0) as client:
            while (n := next(self.numbers)) < len(self.requests) or not self.done.is_set():
                number = n % len(self.requests)
                answer = client.search(self.requests[number], text=False)
                ranking = [(hit.id, hit.score) for hit in answer.hits]
                state = answer.state
                self.answers.append(Answered(state.generation, state.commit, number, ranking))

    def write(self, name):
        """Add, replace and delete documents whose ids are this writer's own."""
        choice = random.Random(name)
        with Client(self.url, retries=100) as client:
            for n in count():
                if self.done.is_set():
                    return
                documents = [
                    Document(f"{name}-{choice.randrange(40)}-{place}", "", text, {"part": n % 3})
                    for place, text in enumerate(texts(f"{name} {n}", 3, (1, 12)))
                ]
                put = client.add(documents)
                self.writes.append(Write(put.generation, put.commit, documents))
                try:
                    gone = client.delete(documents[0].id)
                except ServiceError as error:
                    # A build has replaced the index by one without the document.
                    assert error.status == 404
                    assert read_manifest(self.directory).generation > put.generation
                else:
                    self.writes.append(Write(gone.generation, gone.commit, [], [documents[0].id]))


@pytest.mark.parametrize(
    ("clients", "queries", "swaps"), [FEW, pytest.param(*MANY, marks=pytest.mark.slow)]
)
def test_answers_are_the_serial_ones_of_their_state(
    tmp_path, bases, served, clients, queries, swaps
):
    requests = requests_of(queries)
    directory = tmp_path / "wings"
    shutil.copytree(bases[0][1], directory)
    generations = {read_manifest(directory).generation: bases[0][1]}
    with served(directory) as (service, url):
        traffic = Traffic(url, directory, requests)
        with ThreadPoolExecutor(clients + 2) as pool:
            running = [pool.submit(traffic.search) for _ in range(clients)]
            running += [pool.submit(traffic.write, f"writer{n}") for n in range(2)]
            try:
                for number in range(1, swaps + 1):
                    corpus, base = bases[number % 2]
                    dense = read_manifest(base).dense
                    build_index(corpus, directory, "lexical", dense=dense)
                    generations[read_manifest(directory).generation] = base
                    with Client(url) as client:
                        (state,) = client.reload()
                    assert state.generation == read_manifest(directory).generation
            finally:
                traffic.done.set()
            for future in running:
                future.result()
    assert len(traffic.answers) >= queries
    assert {answer.generation for answer in traffic.answers} == set(generations)
    assert differing(traffic.answers, traffic.writes, generations, requests, tmp_path) == []
