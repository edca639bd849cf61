"""Sends requests to the dispatcher, and makes answers of the outcomes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, MutableMapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from lsr.facet import Counts
from lsr.request import Mode, Request
from lsr.search import Hit, Position, Searcher
from lsr.search.notices import of_query
from lsr.service.answering import Fields, Shown
from lsr.service.bodies import GoneError, SearchBody, asked_of, check_limits, cursor_after
from lsr.service.dispatcher import DeadlineError, Outcome, Search
from lsr.service.served import Served
from lsr.service.service import Service
from lsr.service.settings import Settings


class Made(NamedTuple):
    """What the engine's thread has made of one request."""

    mode: Mode
    shown: Shown
    counts: Counts
    approximate: list[str]
    notices: list[str]


async def answers(
    service: Service, served: Served, bodies: Sequence[SearchBody], scope: MutableMapping[str, Any]
) -> list[Fields]:
    """Answer requests from one state of an index, with the fields of Answer.

    Args:
        service: the service that the index belongs to.
        served: the index.
        bodies: at least one request.
        scope: of the HTTP request; mode, times and counts are added to its log line.

    Raises:
        ValueError: a request does not fit the index or the limits.
        GoneError: a cursor belongs to another generation.
        DeadlineError, OverloadedError, ClosedError: see `Dispatcher`.
    """
    begun = time.monotonic()
    generation = served.state.generation
    searches = []
    for body in bodies:
        request = asked_of(body)
        after = body.after(request, generation)
        check_limits(request, service.settings, after.rank if after else 0)
        searches.append(Search(request, after, _shows(body, request)))
    deadline = begun + min(_milliseconds(body, service.settings) for body in bodies) / 1000
    outcome = await _outcome(service.dispatcher.search(served, searches, deadline), deadline)
    if outcome.generation != generation and any(search.after for search in searches):
        raise GoneError("the index has changed its generation: search again")
    found = []
    for number, (search, made) in enumerate(zip(searches, outcome.value, strict=True), 1):
        if isinstance(made, ValueError) and len(searches) > 1:
            raise ValueError(f"request {number} of {len(searches)}: {made}") from made
        if isinstance(made, Exception):
            raise made
        found.append(_answer(service, served, search, made, outcome, begun))
    formatting = time.monotonic() - begun - (outcome.queue_ms + outcome.engine_ms) / 1000
    service.metrics.stage_seconds.labels("format").observe(max(formatting, 0.0))
    _log(scope, served, outcome)
    scope["state"]["log"] |= {
        "mode": found[0]["mode"],
        "k": searches[0].request.k,
        "requests": len(searches),
        "hits": sum(len(answer["hits"]) for answer in found),
    }
    return found


async def work(
    service: Service,
    served: Served,
    function: Callable[[Searcher], Any],
    scope: MutableMapping[str, Any],
) -> Outcome:
    """Run `function` on the index's searcher; see `Dispatcher.work`, and `answers` for `scope`."""
    deadline = time.monotonic() + service.settings.timeout_ms / 1000
    outcome = await _outcome(service.dispatcher.work(served, function, deadline), deadline)
    _log(scope, served, outcome)
    return outcome


def state_of(served: Served, outcome: Outcome) -> Fields:
    """Return the state of the index that an answer comes from, with the fields of State."""
    return {
        "index": served.name,
        "generation": outcome.generation,
        "commit": outcome.commit,
    }


def _log(scope: MutableMapping[str, Any], served: Served, outcome: Outcome) -> None:
    scope["state"]["log"] = state_of(served, outcome) | {
        "queue_ms": round(outcome.queue_ms, 3),
        "engine_ms": round(outcome.engine_ms, 3),
    }


def _answer(
    service: Service,
    served: Served,
    search: Search,
    made: Made,
    outcome: Outcome,
    begun: float,
) -> Fields:
    hits = made.shown.hits()
    rank = (search.after.rank if search.after else 0) + len(hits)
    cursor = None
    if len(hits) == search.request.k and rank < service.settings.max_depth:
        place = Position(hits[-1]["score"], hits[-1]["id"], rank)
        cursor = cursor_after(search.request, outcome.generation, place)
    return {
        "state": state_of(served, outcome),
        "mode": made.mode,
        "hits": hits,
        **made.counts.to_json(),
        "cursor": cursor,
        "approximate": made.approximate,
        "notices": made.notices,
        "took_ms": round(1000 * (time.monotonic() - begun), 3),
    }


def _shows(body: SearchBody, request: Request) -> Callable[[Searcher, list[Hit]], Any]:
    def show(searcher: Searcher, hits: list[Hit]) -> Made:
        # The index that answers may be newer than the one that was there when the request came.
        asked = request.resolved(dense=searcher.manifest.dense is not None)
        assert asked.mode is not None
        return Made(
            asked.mode,
            Shown(searcher, body, asked, hits),
            searcher.counts(asked),
            searcher.approximations(asked),
            of_query(searcher, asked, found=bool(hits)),
        )

    return show


async def _outcome(job: Future[Outcome], deadline: float) -> Outcome:
    """Wait for a job; raise DeadlineError if the engine has not answered by the deadline."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await asyncio.wrap_future(job)
    except DeadlineError:
        raise
    except TimeoutError as error:
        raise DeadlineError("the engine did not answer before the deadline") from error


def _milliseconds(body: SearchBody, settings: Settings) -> int:
    return min(body.timeout_ms or settings.timeout_ms, settings.timeout_ms)
