"""The engine's thread: it takes requests from a bounded queue, in micro-batches, with deadlines.

Only this thread uses the searchers. An index is swapped or refreshed between two micro-batches, so
that each answer comes from one state of the index.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from lsr.request import Request
from lsr.search import Hit, Position, Searcher
from lsr.service.metrics import Metrics
from lsr.service.served import Served

T = TypeVar("T")


class OverloadedError(RuntimeError):
    """The queue is full: try again later."""


class DeadlineError(TimeoutError):
    """The deadline passed before there was an answer."""


class ClosedError(RuntimeError):
    """The service is stopping."""


class Search(NamedTuple):
    """A request, the hit after which its hits begin, and a function that prepares the answer."""

    request: Request
    after: Position | None = None
    show: Callable[[Searcher, list[Hit]], Any] = lambda searcher, hits: hits


class Outcome(NamedTuple):
    """The result of a job, and the state of the index that it was made from."""

    value: Any
    generation: int
    commit: int
    queue_ms: float
    engine_ms: float


@dataclass(eq=False)
class _Job:
    served: Served
    deadline: float
    searches: Sequence[Search]  # or, where there are none:
    work: Callable[[Searcher], Any] | None = None
    future: Future[Outcome] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        return len(self.searches) or 1


class Dispatcher:
    """One thread that runs jobs in the order in which they were submitted."""

    def __init__(self, metrics: Metrics, *, queue: int, micro_batch: int, threads: int) -> None:
        """Start the thread.

        Args:
            metrics: where requests are counted and timed.
            queue: how many requests may wait.
            micro_batch: how many requests go through the engine together.
            threads: Java threads for a micro-batch.
        """
        self._metrics = metrics
        self._capacity = queue
        self._micro_batch = micro_batch
        self._threads = threads
        self._jobs: deque[_Job] = deque()
        self._queued = 0  # requests of these
        self._controls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="lsr-dispatcher", daemon=True)
        self._thread.start()

    def search(
        self, served: Served, searches: Sequence[Search], deadline: float
    ) -> Future[Outcome]:
        """Submit searches, which are answered from one state of the index.

        The outcome's value has for each search what its `show` returned, or the exception.

        Args:
            served: the index.
            searches: at least one.
            deadline: in seconds of time.monotonic; a job that waits longer is not begun.

        Raises:
            OverloadedError: the queue is full.
            ClosedError: the service is stopping.
        """
        return self._submit(_Job(served, deadline, searches))

    def work(
        self, served: Served, function: Callable[[Searcher], Any], deadline: float
    ) -> Future[Outcome]:
        """Submit a function of the index's searcher; for the arguments and errors see `search`."""
        return self._submit(_Job(served, deadline, (), function))

    def refusal(self) -> str | None:
        """Say why a request is refused now, and count the refusal; None if it is not refused."""
        if self._queued < self._capacity:
            return None
        self._metrics.refused.labels("queue full").inc()
        return (
            f"{self._queued} requests are waiting, and no more than {self._capacity} may: "
            "try again later"
        )

    def control(self, function: Callable[[], T]) -> Future[T]:
        """Run `function` before the next micro-batch; only ClosedError can refuse it."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise ClosedError("the service is stopping")
            self._controls.append((function, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Finish the accepted jobs, and stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _submit(self, job: _Job) -> Future[Outcome]:
        with self._changed:
            if self._closed:
                raise ClosedError("the service is stopping")
            if reason := self.refusal():
                raise OverloadedError(reason)
            self._jobs.append(job)
            self._count(job.size)
            self._changed.notify()
        return job.future

    def _count(self, change: int) -> None:
        self._queued += change
        self._metrics.queued.set(self._queued)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._jobs or self._controls or self._closed):
                    self._changed.wait()
                controls, self._controls = self._controls, deque()
                jobs = self._take()
                if not (controls or jobs):
                    return
            for function, future in controls:
                _resolve(future, function)
            if jobs:
                self._serve(jobs)

    def _take(self) -> list[_Job]:
        """Take the next jobs from the queue: searches of one index, or one job of another kind."""
        jobs: list[_Job] = []
        size = 0
        while self._jobs and size < self._micro_batch:
            job = self._jobs[0]
            if jobs and (job.work or jobs[0].work or job.served is not jobs[0].served):
                break
            self._jobs.popleft()
            self._count(-job.size)
            size += job.size
            jobs.append(job)
        return jobs

    def _serve(self, jobs: Sequence[_Job]) -> None:
        begun = time.monotonic()
        alive = []
        for job in jobs:
            self._metrics.stage_seconds.labels("queue").observe(begun - job.submitted)
            if not job.future.set_running_or_notify_cancel():
                continue  # the caller has cancelled it
            if begun > job.deadline:
                self._metrics.refused.labels("deadline").inc()
                job.future.set_exception(
                    DeadlineError(f"no answer within {job.deadline - job.submitted:.3g} seconds")
                )
                continue
            alive.append(job)
        if not alive:
            return
        served = alive[0].served
        try:
            values = self._values(served, alive)
        except Exception as error:
            # The thread must go on, and every waiting caller gets the exception.
            for job in alive:
                job.future.set_exception(error)
            return
        ended = time.monotonic()
        self._metrics.stage_seconds.labels("engine").observe(ended - begun)
        for job, value in zip(alive, values, strict=True):
            queue_ms, engine_ms = 1000 * (begun - job.submitted), 1000 * (ended - begun)
            state = served.state
            job.future.set_result(
                Outcome(value, state.generation, state.commit, queue_ms, engine_ms)
            )

    def _values(self, served: Served, jobs: Sequence[_Job]) -> list[Any]:
        if work := jobs[0].work:
            return [work(served.searcher)]
        searches = [search for job in jobs for search in job.searches]
        self._metrics.micro_batch.observe(len(searches))
        before = served.searcher.postings
        found: list[list[Hit] | Exception] = served.searcher.answer(
            [search.request for search in searches],
            [search.after for search in searches],
            threads=self._threads,
        )
        self._metrics.postings.labels(served.name).inc(served.searcher.postings - before)
        shown = [
            _shown(search, served.searcher, hits)
            for search, hits in zip(searches, found, strict=True)
        ]
        values = []
        for job in jobs:
            values.append(shown[: job.size])
            shown = shown[job.size :]
        return values


def _shown(search: Search, searcher: Searcher, hits: list[Hit] | Exception) -> Any:
    if isinstance(hits, Exception):
        return hits
    try:
        return search.show(searcher, hits)
    except (ValueError, KeyError) as error:
        return error


def _resolve(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)
