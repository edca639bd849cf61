"""lsr/cli/terminal.py: text of a corpus, a query or an error cannot control the terminal."""

import json

import pytest
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from typer.testing import CliRunner

from lsr.cli import app
from lsr.cli.terminal import say, terminal, visible

# Clear the screen, set the window's title, a link, a C1 code, backspaces, right-to-left override.
STEERING = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x1b]8;;http://x\x1b\\",
    "\x9b2J",
    "a\b\b",
    "\r",
    "\0",
    "\x7f",
    "\u202egnp.exe",
    "\u2066",
    "\ud800",
]
HARMLESS = "tab\t new\nline é 漢字 👩\u200d🔬 עברית \u2028 ␛"


def has_steering(text):
    return any(ord(c) < 32 and c not in "\t\n" or 0x7F <= ord(c) < 0xA0 for c in text) or bool(
        {"\u202e", "\u2066", "\ud800"} & set(text)
    )


@pytest.mark.parametrize("text", STEERING)
def test_each_control_character_becomes_one_sign(text):
    assert has_steering(text)
    shown = visible(text)
    assert len(shown) == len(text)
    assert not has_steering(shown)


def test_other_text_stays():
    assert visible(HARMLESS) == HARMLESS
    assert visible("\x1b[2J") == "␛[2J"


@pytest.mark.parametrize("text", STEERING)
def test_nothing_that_is_printed_steers(text, capsys):
    table = Table(text, "other", title=text)
    table.add_row(text, "[bold]plain[/bold] :smile:")
    terminal().print(Group(table, Panel(text)), text)
    terminal(stderr=True).print(text)
    say(text)
    say(text, err=True)
    printed = capsys.readouterr()
    assert not has_steering(printed.out) and not has_steering(printed.err)
    assert "[bold]plain[/bold] :smile:" in printed.out


@pytest.fixture(scope="module")
def steering_index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steering")
    records = [
        {"id": f"d{number}{text.strip()}", "title": f"T {text}", "text": f"heat {text} flow"}
        for number, text in enumerate(STEERING[:-1])
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "corpus.jsonl").write_text(lines + '{"text": "heat \x1b[2J"}\n')
    options = ("--out", str(folder / "index"), "--encoder", "lexical", "--skip-bad")
    result = CliRunner().invoke(app, ["index", str(folder), *options])
    assert result.exit_code == 0 and "corpus.jsonl:11: " in result.stderr
    assert not has_steering(result.stderr.replace("\x1b[2K", ""))
    return folder / "index"


@pytest.mark.slow
def test_hits_explanations_and_errors_do_not_steer(steering_index):
    doc_id = f"d0{STEERING[0]}"
    commands = [
        ("search", steering_index, "heat"),
        ("explain", steering_index, "heat", doc_id),
        ("explain", steering_index, "heat", "no\x1b[2J"),
        ("delete", steering_index, "no\x1b[2J"),
        ("search", steering_index, "heat", "--filter", "a\x1b[2J"),
        ("search", steering_index, "heat", "--filter", "a\x1b[2J=b"),
        ("search", "no\x1b[2J", "heat"),
        ("doctor", steering_index),
    ]
    for command in commands:
        result = CliRunner().invoke(app, [str(part) for part in command])
        assert result.stdout or result.stderr
        assert not has_steering(result.stdout) and not has_steering(result.stderr), command
    result = CliRunner().invoke(app, ["search", str(steering_index), "heat", "--json"])
    assert {json.loads(line)["id"] for line in result.stdout.splitlines()} > {doc_id}
