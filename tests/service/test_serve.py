"""The command `lsr serve`: its output, what it refuses, and how it stops."""

import json
import signal
import subprocess
import sys
import urllib.request

import pytest
from typer.testing import CliRunner

from lsr.cli import app

# A server started in this process logs to a stream that is closed after the test.
pytestmark = pytest.mark.usefixtures("log_kept")


def run(*arguments, **environment):
    return CliRunner().invoke(app, ["serve", *map(str, arguments)], env=environment)


@pytest.mark.parametrize(
    ("options", "environment", "told"),
    [
        (["--host", "0.0.0.0"], {}, "'0.0.0.0' can be reached from elsewhere: set LSR_READ_KEY"),
        ([], {"LSR_READ_KEY": "short-secret"}, "LSR_READ_KEY: a key must be 16 or more"),
        (["--port", "70000"], {}, "LSR_PORT: Input should be less than or equal to 65535"),
        ([], {"LSR_QUEUE": "many"}, "LSR_QUEUE: Input should be a valid integer"),
    ],
)
def test_settings_that_are_refused(tmp_path, options, environment, told):
    result = run(tmp_path, *options, **environment)
    assert result.exit_code == 1 and told in result.output
    assert "short-secret" not in result.output and "pydantic" not in result.output


def test_without_its_libraries_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lsr.service.server", None)
    result = run(tmp_path)
    assert result.exit_code == 1 and 'pip install "lsr-search[service]"' in result.output


def test_what_is_no_index_is_refused(tmp_path):
    result = run(tmp_path, "--port", 0)
    assert result.exit_code == 1 and "is not an index" in result.output


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 0), ("SIGTERM", -signal.SIGTERM)])
def test_it_says_where_it_serves_and_stops_when_told(built, sent, code):
    command = [sys.executable, "-c", "from lsr.cli import app; app()", "serve", str(built)]
    with subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True) as server:
        line = next(line for line in server.stderr if line.startswith("serving at "))
        url = line.removeprefix("serving at ").strip()
        with urllib.request.urlopen(f"{url}indexes/wings", timeout=30) as answer:
            assert json.load(answer)["documents"] == 200
        server.send_signal(getattr(signal, sent))
        said = server.stderr.read()
        assert server.wait(60) == code
        assert "Traceback" not in said and "interrupted" not in said
        records = [json.loads(line) for line in said.splitlines()]
        assert any(record.get("path") == "/indexes/wings" for record in records)
