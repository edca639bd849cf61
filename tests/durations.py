"""Lists the tests that take more than two seconds alone: a plugin of pytest for `make durations`.

Shared work does not count for any test: the libraries and Java are loaded before the first one, and
fixtures of a module or of the session are listed separately.
"""

import os
import time
from collections import Counter

import pytest

LIMIT = 2.0  # seconds
tests: Counter[str] = Counter()
fixtures: Counter[str] = Counter()


def pytest_sessionstart():
    import datasets  # noqa: F401
    import sentence_transformers  # noqa: F401

    from lsr.indexes import jvm

    jvm.call(jvm.engine_class)


def pytest_runtest_logreport(report):
    tests[report.nodeid] += report.duration


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    start = time.perf_counter()
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":
            seconds = time.perf_counter() - start
            fixtures[f"{fixturedef.baseid}::{fixturedef.argname}"] += seconds
            tests[os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]] -= seconds


def pytest_terminal_summary(terminalreporter):
    for title, seconds in (("tests", tests), ("shared fixtures", fixtures)):
        slow = [(name, value) for name, value in seconds.most_common() if value > LIMIT]
        terminalreporter.section(f"{title} of more than {LIMIT:g} seconds: {len(slow)}")
        for name, value in slow:
            terminalreporter.write_line(f"{value:7.1f} s  {name}")
