"""A server in a process of its own, and clients that are light enough to share its machine."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lsr.documents import Document
from lsr.eval.benchmarks.service_replay import Answered
from lsr.request import Request, ask

K = 10


class Reply(NamedTuple):
    """One answer of the server, and its time."""

    status: int
    content: bytes
    ms: float

    def answered(self, number: int) -> Answered:
        """Return the answer to the request of this number in the form that the replay checks.

        Raises:
            RuntimeError: the server answered with an error.
        """
        if self.status != 200:
            raise RuntimeError(f"status {self.status}: {self.content.decode()}")
        found = json.loads(self.content)
        state = found["state"]
        ranking = [(hit["id"], hit["score"]) for hit in found["hits"]]
        return Answered(state["generation"], state["commit"], number, ranking)


class Connection:
    """One client on one connection that is kept open; far lighter than an HTTP library."""

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
        if self._reader.at_eof():  # the server closed it because it was idle for too long
            self.close()
            await self.open()
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
    """Open `n` connections."""
    connections = [await Connection(port).open() for _ in range(n)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


class Server:
    """`lsr serve` in a process of its own."""

    def __init__(self, directory: Path, log: Path) -> None:
        """Start the server, and wait until it answers."""
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
        """Return the server's resident megabytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def first_lines(documents: Sequence[Document], n: int) -> list[str]:
    """Return `n` distinct queries of 4 to 10 words: lines of the documents, first lines first."""
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
    """Return requests that alternate between mode sparse and mode hybrid."""
    return [
        ask(query, k=K, mode="hybrid" if number % 2 else "sparse", operators=False)
        for number, query in enumerate(queries)
    ]


def body_of(request: Request) -> bytes:
    """Return a request in the form that the API takes."""
    return request.model_dump_json(exclude_unset=True).encode()


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Return the 50th, 95th and 99th percentile of milliseconds."""
    p50, p95, p99 = np.percentile(times, (50, 95, 99)).tolist()
    return {"p50": p50, "p95": p95, "p99": p99}


def summary(times: Sequence[float], seconds: float) -> dict[str, float]:
    """Return percentiles of milliseconds, and queries per second."""
    return percentiles(times) | {"queries_per_second": len(times) / seconds}


async def closed_loop(
    server: Server, requests: Sequence[tuple[int, Request]], clients: int
) -> dict[int, Reply]:
    """Return replies by number. Each client sends its next request once it has its answer."""
    waiting = iter([(number, body_of(request)) for number, request in requests])
    replies = {}

    async def client(connection: Connection) -> None:
        for number, body in waiting:
            replies[number] = await connection.ask("POST", server.path + "/search", body)

    async with connected(server.port, clients) as connections:
        await asyncio.gather(*map(client, connections))
    return replies
