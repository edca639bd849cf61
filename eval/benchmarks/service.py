"""What the API costs over the engine, and what it does during ingest, swaps and overload.

    python -m lsr.eval.benchmarks.service [--documents N] [--queries N] [--clients N] [--swaps N]
                                         [--seconds S] [--part PART] [--folder F] [--json]

The corpus is the documentation of the standard library, and its own first lines are the queries.
Every second query has mode hybrid. The server is a process of its own. There are three parts:
`cost` sends the same queries to the engine and to the API in turns; `swaps` compares answers with a
replay of their state while documents are written and generations change; `overload` offers three
times what the server can do.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lsr.building.build import build_index, delete_documents
from lsr.building.lock import locked
from lsr.corpus.corpus import open_corpus
from lsr.documents import Document
from lsr.eval.benchmarks.service_load import (
    Connection,
    Reply,
    Server,
    body_of,
    closed_loop,
    connected,
    first_lines,
    percentiles,
    requests_of,
    summary,
)
from lsr.eval.benchmarks.service_replay import Write, differing
from lsr.indexes.manifest import NAME, read_manifest, write_manifest
from lsr.request import Request
from lsr.run import Ranking
from lsr.search import Searcher
from lsr.service.settings import Settings

WARM = 40
ROUNDS = 10
OVERLOAD = 3
# Documents of one write, and seconds between two attempts while another holds the lock.
GROUP = 4
PARTS = ("cost", "swaps", "overload")
CORPUS = "corpus.jsonl"
RETRY_SECONDS = 0.02


# Cost


def measure_cost(
    searcher: Searcher, server: Server, requests: Sequence[Request], clients: int
) -> dict[str, Any]:
    """Measure the engine and the API in turns, with one client and with many."""

    def direct(item: tuple[int, Request]) -> tuple[int, Timed]:
        begun = time.perf_counter()
        hits = searcher.search(item[1])
        ms = 1000 * (time.perf_counter() - begun)
        return item[0], Timed(ms, [(hit.document.id, hit.score) for hit in hits])

    def engine(some: Sequence[tuple[int, Request]], threads: int) -> dict[int, Timed]:
        with ThreadPoolExecutor(threads) as pool:
            return dict(pool.map(direct, some))

    def api(some: Sequence[tuple[int, Request]], n: int) -> dict[int, Timed]:
        replies = asyncio.run(closed_loop(server, some, n))
        return {n: Timed(r.ms, r.answered(n).ranking) for n, r in replies.items()}

    arms = {
        f"{name}, {n} client{'s' * (n > 1)}": (of, n)
        for n in dict.fromkeys((1, clients))
        for name, of in (("engine", engine), ("API", api))
    }
    numbered = list(enumerate(requests))
    size = -(-len(numbered) // ROUNDS)
    for of, n in arms.values():
        of(numbered[:WARM], n)
    found: dict[str, dict[int, Timed]] = {arm: {} for arm in arms}
    seconds = dict.fromkeys(arms, 0.0)
    for turn in range(ROUNDS):
        for arm in list(arms)[:: -1 if turn % 2 else 1]:
            of, n = arms[arm]
            begun = time.perf_counter()
            some = of(numbered[turn * size : (turn + 1) * size], n)
            seconds[arm] += time.perf_counter() - begun
            found[arm] |= some
    serial = found["engine, 1 client"]
    others = {arm: of for arm, of in found.items() if of is not serial}
    paired = [found["API, 1 client"][n].ms - timed.ms for n, timed in serial.items()]
    return {
        "arms": {
            arm: summary([timed.ms for timed in of.values()], seconds[arm])
            | {f"p50 {mode}": _median(of, requests, mode) for mode in ("sparse", "hybrid")}
            for arm, of in found.items()
        },
        # The API's time less the engine's, for each query.
        "API, 1 client − engine": percentiles(paired),
        "answers": sum(map(len, others.values())),
        "differing": sum(
            timed.ranking != serial[n].ranking for of in others.values() for n, timed in of.items()
        ),
    }


class Timed(NamedTuple):
    """The hits of a query, and its milliseconds."""

    ms: float
    ranking: Ranking


def _median(found: Mapping[int, Timed], requests: Sequence[Request], mode: str) -> float:
    return float(np.median([timed.ms for n, timed in found.items() if requests[n].mode == mode]))


# Swaps


def publish(prepared: Path, directory: Path) -> int:
    """Make a copy of a prepared index the live generation, as a build does; return its number."""
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
        self.replies: list[Reply] = []
        self.stopped = False
        self._server = server
        self._documents = documents

    async def run(self) -> None:
        """Write until `stopped`."""
        choice = random.Random(0)
        async with connected(self._server.port, 1) as (connection,):
            while not self.stopped:
                texts = choice.sample(self._documents, GROUP)
                written = [
                    # Half of the writes replace documents of the original corpus.
                    replace(
                        document,
                        id=texts[place].id if place % 2 else f"new-{choice.randrange(500)}-{place}",
                        title=texts[0].title,
                    )
                    for place, document in enumerate(texts)
                ]
                lines = b"".join(json.dumps(asdict(d)).encode() + b"\n" for d in written)
                while not self.stopped:
                    path = self._server.path + "/documents"
                    reply = await connection.ask("POST", path, lines, "x-ndjson")
                    self.replies.append(reply)
                    if reply.status == 200:
                        state = json.loads(reply.content)
                        self.writes.append(Write(state["generation"], state["commit"], written))
                        break
                    await asyncio.sleep(RETRY_SECONDS)


async def measure_swaps(
    server: Server,
    directory: Path,
    prepared: Sequence[Path],
    requests: Sequence[Request],
    clients: int,
    swaps: int,
) -> dict[str, Any]:
    """Search while documents are written and generations change, and compare with a replay."""
    ingest = Ingest(server, list(open_corpus(prepared[0].parent / CORPUS)))
    bases = {read_manifest(directory).generation: prepared[0]}
    replies: list[tuple[int, Reply]] = []
    bodies = itertools.cycle([(number, body_of(r)) for number, r in enumerate(requests)])
    done = False

    async def client(connection: Connection) -> None:
        while not done or len(replies) < len(requests):
            number, body = next(bodies)
            replies.append((number, await connection.ask("POST", server.path + "/search", body)))

    async def more_replies(n: int) -> None:
        target = len(replies) + n
        while len(replies) < target:
            await asyncio.sleep(RETRY_SECONDS)

    async def swap() -> None:
        nonlocal done
        share = len(requests) // (swaps + 1)
        for number in range(1, swaps + 1):
            await more_replies(share)
            base = prepared[number % len(prepared)]
            bases[await asyncio.to_thread(publish, base, directory)] = base
            if number % 2 or number == swaps:  # the service finds the others by itself
                async with connected(server.port, 1) as (connection,):
                    await connection.ask("POST", "/admin/reload")
        await more_replies(share)
        done = True

    begun = time.perf_counter()
    async with connected(server.port, clients) as connections:
        writing = asyncio.create_task(ingest.run())
        await asyncio.gather(swap(), *map(client, connections))
        seconds = time.perf_counter() - begun
        ingest.stopped = True
        await writing
    statuses = Counter(reply.status for _, reply in replies)
    answers = [reply.answered(number) for number, reply in replies if reply.status == 200]
    with tempfile.TemporaryDirectory() as folder:
        wrong = differing(answers, ingest.writes, bases, requests, Path(folder))
    return {
        "searches": summary([reply.ms for _, reply in replies], seconds),
        "answers": len(answers),
        "differing": len(wrong),
        "errors": len(replies) - statuses[200],
        "generations": len({answer.generation for answer in answers}),
        "states": len({answer[:2] for answer in answers}),
        "writes": len(ingest.writes),
        "writes_refused": dict(Counter(r.status for r in ingest.replies if r.status != 200)),
        "write_ms": percentiles([r.ms for r in ingest.replies if r.status == 200]),
    }


# Overload


async def measure_overload(
    server: Server, requests: Sequence[Request], clients: int, seconds: float
) -> dict[str, Any]:
    """Offer three times the server's capacity at a steady rate, whatever it answers."""
    numbered = list(enumerate(requests))
    memory = {"before": server.memory()}
    calm = await closed_loop(server, numbered[: 3 * WARM], 1)
    before = await _rate(server, numbered, clients)
    bodies = itertools.cycle(map(body_of, requests))
    replies: list[Reply] = []
    free: list[Connection] = []
    used: list[Connection] = []
    late = 0.0

    async def offer(body: bytes) -> None:
        if not free:
            used.append(await Connection(server.port).open())
            free.append(used[-1])
        connection = free.pop()
        replies.append(await connection.ask("POST", server.path + "/search", body))
        free.append(connection)

    begun = time.perf_counter()
    tasks: list[asyncio.Task[None]] = []
    while (passed := time.perf_counter() - begun) < seconds:
        while len(tasks) < passed * OVERLOAD * before:
            tasks.append(asyncio.create_task(offer(next(bodies))))
        woken = time.perf_counter()
        await asyncio.sleep(0.002)
        late = max(late, time.perf_counter() - woken)  # the clients' delay, not the server's
    memory["at the end"] = server.memory()
    await asyncio.gather(*tasks)
    answered = sum(reply.status == 200 for reply in replies)
    until_the_last = time.perf_counter() - begun
    after = await closed_loop(server, numbered[: 3 * WARM], 1)
    memory["after"] = server.memory()
    # Measured again, because the speed of a shared machine changes.
    capacity = (before + await _rate(server, numbered, clients)) / 2
    for connection in used:
        connection.close()
    refused = [reply.ms for reply in replies if reply.status == 429]
    return {
        # The capacity before and after, taken together.
        "capacity_per_second": capacity,
        "offered_per_second": len(tasks) / seconds,
        "answered_per_second": answered / until_the_last,
        "answered / capacity": answered / until_the_last / capacity,
        "statuses": dict(Counter(reply.status for reply in replies)),
        "refusal_ms": percentiles(refused) if refused else None,
        "clients_late_ms": 1000 * late,
        "answer_ms": percentiles([r.ms for r in replies if r.status == 200]),
        "connections": len(used),
        "memory_mb": memory,
        "p50_before": percentiles([reply.ms for reply in calm.values()])["p50"],
        "p50_after": percentiles([reply.ms for reply in after.values()])["p50"],
    }


async def _rate(server: Server, requests: Sequence[tuple[int, Request]], clients: int) -> float:
    begun = time.perf_counter()
    await closed_loop(server, requests, clients)
    return len(requests) / (time.perf_counter() - begun)


# Command


def prepare(folder: Path, n: int) -> list[Path]:
    """Build an index of `n` documents and one of half of them, unless `folder` holds them."""
    whole, half = folder / "whole", folder / "half"
    if not (whole / NAME).exists():
        documents = list(open_corpus("pydoc"))
        with (folder / CORPUS).open("w") as file:
            for document in documents[:: max(1, len(documents) // n)][:n]:
                file.write(json.dumps(asdict(document)) + "\n")
        build_index(open_corpus(folder / CORPUS), whole, dense="default")
    if not half.exists():
        shutil.copytree(whole, folder / "half.tmp")
        ids = [document.id for document in open_corpus(folder / CORPUS)]
        delete_documents(folder / "half.tmp", ids[::2])
        (folder / "half.tmp").rename(half)
    return [whole, half]


def main(arguments: Sequence[str]) -> None:
    """Prepare, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m lsr.eval.benchmarks.service")
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20, help="of overload")
    parser.add_argument("--part", choices=PARTS, action="append", help="all by default")
    parser.add_argument("--folder", type=Path, help="where the indexes are kept")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    # The server's number of threads: a model's last bits may depend on it, and so does its speed.
    torch.set_num_threads(Settings().model_threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepared = prepare(folder, options.documents)
        documents = list(open_corpus(folder / CORPUS))
        requests = requests_of(first_lines(documents, options.queries))
        found = {}
        for part in options.part or PARTS:
            directory = Path(temporary) / part
            shutil.copytree(prepared[0], directory)
            with Server(directory, Path(temporary) / f"{part}.log") as server:
                if part == "cost":
                    with Searcher(prepared[0]) as searcher:
                        found[part] = measure_cost(searcher, server, requests, options.clients)
                    continue
                asyncio.run(closed_loop(server, list(enumerate(requests[:WARM])), 1))
                if part == "swaps":
                    run = measure_swaps(
                        server, directory, prepared, requests, options.clients, options.swaps
                    )
                else:
                    run = measure_overload(server, requests, options.clients, options.seconds)
                found[part] = asyncio.run(run)
    found["run"] = {
        "documents": len(documents),
        "queries": len(requests),
        "clients": options.clients,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(json.dumps(found) if options.json else "\n".join(lines_of(found)))


def lines_of(found: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Return the findings as lines for people."""
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}"
            yield from lines_of(value, indent + "    ")
        else:
            shown = f"{value:.2f}" if isinstance(value, float) else str(value)
            yield f"{indent + str(name):40} {shown:>12}"


if __name__ == "__main__":
    main(sys.argv[1:])
