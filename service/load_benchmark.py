"""What the API costs over the engine, and what it does during ingest, swaps and overload.

    python -m lsr.service.load_benchmark [--documents N] [--queries N] [--clients N] [--swaps N]
                                         [--seconds S] [--part PART] [--folder F] [--json]

The corpus is the documentation of the standard library, its own first lines are the queries, every
second one in mode hybrid. The server is a process of its own. Three parts: `cost` puts the same
queries to the engine and to the API in turns; `swaps` searches while documents are written and
generations change, and compares each answer with that of a replay of its state; `overload` offers
three times what the server can do.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lsr.corpus import Document, open_corpus
from lsr.indexes.lucene import IndexLockedError
from lsr.indexes.manifest import NAME, generation_folder, read_manifest, write_manifest
from lsr.indexing import build_index, delete_documents
from lsr.live import locked
from lsr.request import Request, ask
from lsr.search import Searcher
from lsr.service.replay import Answered, Write, differing

K = 10
WARM = 40
ROUNDS = 10
OVERLOAD = 3
# Documents of one write, and seconds between two attempts at what another holds the lock for.
GROUP = 4
RETRY_SECONDS = 0.02


class Reply(NamedTuple):
    """What came back, and after how long."""

    status: int
    content: bytes
    ms: float

    def answered(self, number: int) -> Answered:
        """An answer to the query of this number, as the replay checks it."""
        found = json.loads(self.content)
        state = found["state"]
        ranking = [(hit["id"], hit["score"]) for hit in found["hits"]]
        return Answered(state["generation"], state["commit"], number, ranking)


class Connection:
    """One client on one kept connection; far lighter than an HTTP library."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> Connection:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "json") -> Reply:
        """Send one request and wait for its answer."""
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/{kind}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        begun = time.perf_counter()
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, _, after = answer.partition(b"\r\ncontent-length: ")
        content = await self._reader.readexactly(int(after.partition(b"\r\n")[0]))
        ms = 1000 * (time.perf_counter() - begun)
        return Reply(int(answer[9:12]), content, ms)

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()


@asynccontextmanager
async def connected(port: int, n: int) -> AsyncIterator[list[Connection]]:
    """`n` connections."""
    connections = [await Connection(port).open() for _ in range(n)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


class Server:
    """`lsr serve` in a process of its own."""

    def __init__(self, directory: Path, log: Path) -> None:
        """Start it, and wait until it answers."""
        self.path = f"/indexes/{directory.resolve().name}"
        code = "from lsr.cli import app; app()"
        command = [sys.executable, "-c", code, "serve", str(directory), "--port", "0"]
        with log.open("w") as file:
            self._process = subprocess.Popen(command, stderr=file, stdout=subprocess.DEVNULL)
        while " at http://" not in (text := log.read_text()):
            if self._process.poll() is not None:
                raise RuntimeError(f"the server did not start: {text[-1000:]}")
            time.sleep(0.05)
        self.port = int(text.partition(" at http://")[2].split("/")[0].rpartition(":")[2])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def memory(self) -> float:
        """Resident megabytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def first_lines(documents: Sequence[Document], n: int) -> list[str]:
    """`n` distinct queries of 4 to 10 words: lines of the documents, their first ones first."""
    found: dict[str, None] = {}
    lines = [document.text.splitlines() for document in documents]
    for of_all in itertools.zip_longest(*lines, fillvalue=""):
        for line in of_all:
            words = line.split()[:10]
            if len(words) >= 4 and len(found) < n:
                found[" ".join(words)] = None
    if len(found) < n:
        raise ValueError(f"the corpus has lines for {len(found)} queries, asked for {n}")
    return list(found)


def requests_of(queries: Sequence[str]) -> list[Request]:
    """Requests in mode sparse and hybrid by turns."""
    return [
        ask(query, k=K, mode="hybrid" if number % 2 else "sparse")
        for number, query in enumerate(queries)
    ]


def body_of(request: Request) -> bytes:
    """A request as the API takes it."""
    return request.model_dump_json(exclude_unset=True).encode()


def summary(times: Sequence[float], seconds: float) -> dict[str, float]:
    """Percentiles of milliseconds, and queries per second."""
    p50, p95, p99 = np.percentile(times, (50, 95, 99)).tolist()
    return {"p50": p50, "p95": p95, "p99": p99, "queries_per_second": len(times) / seconds}


async def closed_loop(
    server: Server, requests: Sequence[tuple[int, Request]], clients: int
) -> dict[int, Reply]:
    """Replies by number; each client sends its next request once it has its answer."""
    waiting = iter([(number, body_of(request)) for number, request in requests])
    replies = {}

    async def client(connection: Connection) -> None:
        for number, body in waiting:
            replies[number] = await connection.ask("POST", server.path + "/search", body)

    async with connected(server.port, clients) as connections:
        await asyncio.gather(*map(client, connections))
    return replies


# Cost


def measure_cost(
    searcher: Searcher, server: Server, requests: Sequence[Request], clients: int
) -> dict[str, Any]:
    """The engine and the API by turns, from one client and from many."""
    times: dict[str, dict[int, float]] = {}
    rankings: dict[str, dict[int, list[tuple[str, float]]]] = {}
    seconds: Counter[str] = Counter()

    def direct(item: tuple[int, Request]) -> tuple[int, float, list[tuple[str, float]]]:
        begun = time.perf_counter()
        hits = searcher.search(item[1])
        ms = 1000 * (time.perf_counter() - begun)
        return item[0], ms, [(hit.document.id, hit.score) for hit in hits]

    def engine(some: Sequence[tuple[int, Request]], threads: int) -> Iterator[Any]:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(direct, some)

    def api(some: Sequence[tuple[int, Request]], n: int) -> Iterator[Any]:
        for number, reply in asyncio.run(closed_loop(server, some, n)).items():
            if reply.status != 200:
                raise RuntimeError(f"status {reply.status}: {reply.content!r}")
            yield number, reply.ms, reply.answered(number).ranking

    arms = [(name, of, n) for n in (1, clients) for name, of in (("engine", engine), ("API", api))]
    numbered = list(enumerate(requests))
    for _, of, n in arms:
        list(of(numbered[:WARM], n))
    for turn in range(ROUNDS):
        for name, of, n in arms[:: -1 if turn % 2 else 1]:
            begun = time.perf_counter()
            found = list(of(numbered[turn::ROUNDS], n))
            arm = f"{name}, {n} client{'s' * (n > 1)}"
            seconds[arm] += time.perf_counter() - begun
            for number, ms, ranking in found:
                times.setdefault(arm, {})[number] = ms
                rankings.setdefault(arm, {})[number] = ranking
    first, *others = (rankings[arm] for arm in sorted(rankings, key="engine, 1 client".__ne__))
    arms_found = {
        arm: summary(list(of.values()), seconds[arm])
        | {
            mode: float(np.median([ms for number, ms in of.items() if requests[number].mode == mode]))
            for mode in ("sparse", "hybrid")
        }
        for arm, of in times.items()
    }
    paired = [times["API, 1 client"][number] - ms for number, ms in times["engine, 1 client"].items()]
    return {
        "arms": arms_found,
        "paired": dict(zip(("p25", "p50", "p75"), np.percentile(paired, (25, 50, 75)).tolist())),
        "answers": sum(map(len, others)),
        "differing": sum(of[number] != first[number] for of in others for number in of),
    }


# Swaps


def publish(prepared: Path, directory: Path) -> int:
    """Make a copy of a prepared index the live generation, as a build does; its number.

    Raises:
        IndexLockedError: somebody writes to it.
    """
    with locked(directory):
        older = read_manifest(directory)
        manifest = replace(read_manifest(prepared), generation=older.generation + 1)
        folder = manifest.folder(directory)
        shutil.copytree(read_manifest(prepared).folder(prepared), folder)
        write_manifest(directory, manifest)
        shutil.rmtree(older.folder(directory))
        return manifest.generation


class Ingest:
    """A client that writes without a pause, and keeps what was acknowledged."""

    def __init__(self, server: Server, documents: Sequence[Document]) -> None:
        self.writes: list[Write] = []
        self.refused: Counter[int] = Counter()
        self.errors: list[str] = []
        self.stopped = False
        self.paused = False
        self._server = server
        self._documents = documents

    async def run(self) -> None:
        """Write until `stopped`."""
        choice = random.Random(0)
        (connection,) = [await Connection(self._server.port).open()]
        for number in itertools.count():
            texts = choice.choices(self._documents, k=GROUP)
            written = [
                replace(document, id=f"new-{choice.randrange(500)}-{place}")
                for place, document in enumerate(texts)
            ]
            # Every fourth write changes documents that were there from the start.
            if number % 4 == 0:
                written = [
                    replace(document, text=f"{document.text} {texts[0].title}")
                    for document in {document.id: document for document in texts}.values()
                ]
            lines = b"".join(json.dumps(asdict(d)).encode() + b"\n" for d in written)
            reply = None
            while not self.stopped and (reply is None or reply.status != 200):
                if self.paused or reply is not None:
                    await asyncio.sleep(RETRY_SECONDS)
                if self.paused:
                    continue
                reply = await connection.ask(
                    "POST", self._server.path + "/documents", lines, "x-ndjson"
                )
                self.refused[reply.status] += 1
                if reply.status not in (200, 503):
                    self.errors.append(reply.content.decode())
            if self.stopped:
                break
            assert reply is not None
            state = json.loads(reply.content)
            self.writes.append(Write(state["generation"], state["commit"], written))
        connection.close()


async def _swaps(
    server: Server,
    directory: Path,
    prepared: Sequence[Path],
    requests: Sequence[Request],
    clients: int,
    swaps: int,
) -> dict[str, Any]:
    documents = list(open_corpus(prepared[0].parent / "corpus.jsonl"))
    ingest = Ingest(server, documents)
    bases = {read_manifest(directory).generation: prepared[0]}
    replies: list[tuple[int, Reply]] = []
    rounds = itertools.cycle([(number, body_of(r)) for number, r in enumerate(requests)])
    done = False

    async def client(connection: Connection) -> None:
        while not done or len(replies) < len(requests):
            number, body = next(rounds)
            replies.append((number, await connection.ask("POST", server.path + "/search", body)))

    async def swap(connection: Connection) -> None:
        nonlocal done
        for number in range(1, swaps + 1):
            before = len(replies)
            while len(replies) - before < len(requests) / (swaps + 1):
                await asyncio.sleep(RETRY_SECONDS)
            base = prepared[number % len(prepared)]
            ingest.paused = True  # as a build does, which takes no writes meanwhile
            while True:
                try:
                    bases[await asyncio.to_thread(publish, base, directory)] = base
                    break
                except IndexLockedError:
                    await asyncio.sleep(RETRY_SECONDS)
            ingest.paused = False
            if number % 2:  # the others are found by the server itself
                await connection.ask("POST", "/admin/reload")
        done = True

    begun = time.perf_counter()
    async with connected(server.port, clients + 1) as (first, *others):
        writing = asyncio.create_task(ingest.run())
        await asyncio.gather(swap(first), *map(client, others))
        seconds = time.perf_counter() - begun
        ingest.stopped = True
        await writing
    return {"replies": replies, "ingest": ingest, "bases": bases, "seconds": seconds}
