"""service/dispatcher.py: order, micro-batches, bounded queue, deadlines, swaps between batches."""

import threading
import time
from types import SimpleNamespace

import pytest

from lsr.request import ask
from lsr.service.dispatcher import (
    ClosedError,
    DeadlineError,
    Dispatcher,
    OverloadedError,
    Search,
)
from lsr.service.metrics import Metrics

LATER = 60.0


class Engine:
    """A searcher that records its requests, and answers when the test allows it."""

    def __init__(self, name="first"):
        self.name = name
        self.postings = 0
        self.batches = []
        self.may_answer = threading.Event()
        self.asked = threading.Event()
        self.may_answer.set()

    def answer(self, requests, after=None, *, threads=1):
        self.batches.append([request.query for request in requests])
        self.asked.set()
        assert self.may_answer.wait(10)
        return [
            ValueError("bad") if request.query == "bad" else [f"{self.name}: {request.query}"]
            for request in requests
        ]


def index(engine):
    state = SimpleNamespace(generation=1, commit=0)
    return SimpleNamespace(searcher=engine, state=state, name=engine.name)


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def dispatcher(metrics):
    opened = Dispatcher(metrics, queue=8, micro_batch=4, threads=1)
    yield opened
    opened.close()


def until():
    return time.monotonic() + LATER


def held(dispatcher, served):
    """Start a search that keeps the engine busy until the test allows an answer."""
    engine = served.searcher
    engine.may_answer.clear()
    engine.asked.clear()
    job = dispatcher.search(served, [Search(ask("held"))], until())
    assert engine.asked.wait(10)
    return job


def test_waiting_searches_go_together_in_order_but_no_more_than_a_micro_batch(dispatcher):
    served = index(Engine())
    first = held(dispatcher, served)
    jobs = [dispatcher.search(served, [Search(ask(f"q{i}"))], until()) for i in range(6)]
    served.searcher.may_answer.set()
    assert first.result(10).value == [["first: held"]]
    assert [job.result(10).value for job in jobs] == [[[f"first: q{i}"]] for i in range(6)]
    assert served.searcher.batches == [["held"], ["q0", "q1", "q2", "q3"], ["q4", "q5"]]


def test_a_job_of_many_requests_stays_whole(dispatcher):
    served = index(Engine())
    held(dispatcher, served)
    many = dispatcher.search(served, [Search(ask(f"m{i}")) for i in range(6)], until())
    served.searcher.may_answer.set()
    assert many.result(10).value == [[f"first: m{i}"] for i in range(6)]
    assert served.searcher.batches[1] == [f"m{i}" for i in range(6)]


def test_indexes_are_not_mixed_and_work_runs_alone(dispatcher):
    one, two = index(Engine("one")), index(Engine("two"))
    held(dispatcher, one)
    a = dispatcher.search(one, [Search(ask("a"))], until())
    b = dispatcher.search(two, [Search(ask("b"))], until())
    c = dispatcher.work(two, lambda searcher: searcher.name, until())
    one.searcher.may_answer.set()
    assert [job.result(10).value for job in (a, b, c)] == [[["one: a"]], [["two: b"]], "two"]
    assert one.searcher.batches == [["held"], ["a"]] and two.searcher.batches == [["b"]]


def test_a_full_queue_refuses_at_once(dispatcher, metrics):
    served = index(Engine())
    held(dispatcher, served)
    jobs = [dispatcher.search(served, [Search(ask("q"))], until()) for _ in range(8)]
    with pytest.raises(OverloadedError, match="8 requests are waiting, and no more than 8 may"):
        dispatcher.search(served, [Search(ask("q"))], until())
    with pytest.raises(OverloadedError):
        dispatcher.work(served, lambda searcher: 1, until())
    assert b'lsr_refused_requests_total{reason="queue full"} 2.0' in metrics.text()
    assert b"lsr_queued_requests 8.0" in metrics.text()
    served.searcher.may_answer.set()
    assert all(job.result(10).value for job in jobs)
    assert dispatcher.search(served, [Search(ask("q"))], until()).result(10).value
    assert b"lsr_queued_requests 0.0" in metrics.text()


def test_what_waited_past_its_deadline_is_not_begun(dispatcher):
    served = index(Engine())
    held(dispatcher, served)
    late = dispatcher.search(served, [Search(ask("late"))], time.monotonic() - 1)
    fine = dispatcher.search(served, [Search(ask("fine"))], until())
    served.searcher.may_answer.set()
    with pytest.raises(DeadlineError, match="no answer within"):
        late.result(10)
    assert fine.result(10).value == [["first: fine"]]
    assert served.searcher.batches == [["held"], ["fine"]]


def test_what_nobody_waits_for_is_not_begun(dispatcher):
    served = index(Engine())
    held(dispatcher, served)
    gone = dispatcher.search(served, [Search(ask("gone"))], until())
    assert gone.cancel()
    served.searcher.may_answer.set()
    assert dispatcher.search(served, [Search(ask("q"))], until()).result(10).value
    assert ["gone"] not in served.searcher.batches


def test_errors_go_to_those_they_belong_to(dispatcher):
    served = index(Engine())

    def fail(searcher, hits):
        raise KeyError("show")

    searches = [Search(ask("bad")), Search(ask("q")), Search(ask("q"), show=fail)]
    bad, good, shown = dispatcher.search(served, searches, until()).result(10).value
    assert isinstance(bad, ValueError) and good == ["first: q"] and isinstance(shown, KeyError)
    with pytest.raises(ZeroDivisionError):
        dispatcher.work(served, lambda searcher: 1 / 0, until()).result(10)
    served.searcher.answer = None
    with pytest.raises(TypeError):
        dispatcher.search(served, [Search(ask("q"))], until()).result(10)
    served.searcher = Engine("again")
    assert dispatcher.search(served, [Search(ask("q"))], until()).result(10).value


def test_controls_come_between_two_micro_batches(dispatcher):
    served = index(Engine())
    held(dispatcher, served)
    before = dispatcher.search(served, [Search(ask("q"))], until())

    def swap():
        served.searcher = Engine("second")
        served.state = SimpleNamespace(generation=2, commit=5)
        return "swapped"

    swapped = dispatcher.control(swap)
    served.searcher.may_answer.set()
    assert swapped.result(10) == "swapped"
    # It was waiting when the index changed, so the newer index answers, and the answer says so.
    outcome = before.result(10)
    assert (outcome.value, outcome.generation, outcome.commit) == ([["second: q"]], 2, 5)
    with pytest.raises(ZeroDivisionError):
        dispatcher.control(lambda: 1 / 0).result(10)


def test_closing_finishes_what_was_accepted(metrics):
    dispatcher = Dispatcher(metrics, queue=8, micro_batch=2, threads=1)
    served = index(Engine())
    held(dispatcher, served)
    jobs = [dispatcher.search(served, [Search(ask("q"))], until()) for _ in range(5)]
    closing = threading.Thread(target=dispatcher.close)
    closing.start()
    while not dispatcher._closed:
        time.sleep(0.001)
    for refused in (
        lambda: dispatcher.search(served, [Search(ask("q"))], until()),
        lambda: dispatcher.control(lambda: 1),
    ):
        with pytest.raises(ClosedError, match="stopping"):
            refused()
    served.searcher.may_answer.set()
    closing.join(10)
    assert all(job.result(0).value for job in jobs)
