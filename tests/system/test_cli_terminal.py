"""What people see at a terminal: live views, tables, colours, Ctrl-C; and what a pipe gets instead."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from terminal import Terminal

from .conftest import waiting

if TYPE_CHECKING:
    from tests.system.conftest import House

ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-P", str(ROOT / "echosched" / "cli" / "__main__.py")]
# A machine without the extra `pretty`: importing rich fails there.
NO_RICH = [
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules['rich'] = None\n"
    "from echosched.cli import main; sys.exit(main())",
]
# Not every whole second: a watch that looks each second would fall between two runs for ever.
JOBS = """
[job.steady]
schedule = "every 1.3s"
command = "sleep 0.4; echo 1; sleep 0.4"
overlap = "skip"
[job.sour]
schedule = "every 1s"
command = "exit 3"
[job.daily]
schedule = "0 8 * * *"
command = "true"
"""
OTHER_SCREEN, FIRST_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
GREEN, RED, YELLOW = "\x1b[32m", "\x1b[31m", "\x1b[33m"

Open = Callable[..., Terminal]


@pytest.fixture
def open_terminal(house: House) -> Iterator[Open]:
    opened: list[Terminal] = []

    def open_terminal(
        *words: str, program: list[str] = CLI, environ: dict[str, str] | None = None, **options: Any
    ) -> Terminal:
        argv = [*program, words[0], "--home", str(house.directory), *words[1:]]
        environment = {key: value for key, value in house.environ.items() if key != "NO_COLOR"}
        environment |= environ or {}
        terminal = Terminal(argv, environment, **options)
        opened.append(terminal)
        return terminal

    yield open_terminal
    for terminal in opened:
        terminal.close()


@pytest.fixture
def lively(house: House) -> House:
    """A daemon whose jobs succeed, fail and take their time."""
    house.write(JOBS)
    house.ok("start")
    house.last("steady")
    return house


# ── status --watch ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("program", [CLI, NO_RICH], ids=["rich", "plain"])
def test_watch_shows_progress_against_the_usual_and_leaves_cleanly(
    lively: House, open_terminal: Open, program: list[str]
) -> None:
    terminal = open_terminal("status", "--watch", program=program)
    terminal.expect(r"steady .*of usually (?:0\.[89]\d|[1-9][\d.]+)s")
    terminal.expect(r"daily +in \d+h\d\dm")
    terminal.expect(r"sour +failed +.* ago")
    first = terminal.expect(r"activity +(\S+) ago")
    terminal.expect(r"(?s)activity.*activity.*activity")  # drawn again and again
    assert first
    assert terminal.raw.startswith(OTHER_SCREEN) or OTHER_SCREEN in terminal.raw
    terminal.press("\x03")
    assert terminal.end() == 0
    assert FIRST_SCREEN in terminal.raw.rpartition(OTHER_SCREEN)[2]
    assert "\x1b[?25h" in terminal.raw.rpartition(OTHER_SCREEN)[2]  # the cursor is back
    assert "Traceback" not in terminal.text


def test_watch_notices_that_the_daemon_comes_and_goes(house: House, open_terminal: Open) -> None:
    house.write(JOBS)
    terminal = open_terminal("status", "--watch")
    terminal.expect("echoschedd is not running")
    house.ok("start")
    terminal.expect(r"is running \(pid \d+\)")
    before = len(terminal.text)
    house.ok("stop", "--force")
    deadline = time.monotonic() + 60
    while "is not running" not in terminal.text[before:]:
        terminal.read()
        assert time.monotonic() < deadline
    terminal.press("\x03")
    assert terminal.end() == 3


def test_watch_ends_with_the_terminal(lively: House, open_terminal: Open) -> None:
    terminal = open_terminal("status", "--watch")
    terminal.expect("NEXT")
    terminal.child.send_signal(signal.SIGTERM)
    assert terminal.end() == -signal.SIGTERM


def test_watch_in_a_pipe_prints_blocks_without_colours(lively: House) -> None:
    child = lively.popen("status", "--watch", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    shown = [child.stdout.readline()]
    while "daily" not in shown[-1]:  # the last line of NEXT
        shown.append(child.stdout.readline())
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 0
    assert shown[0].startswith("echoschedd is running")
    assert "NEXT\n" in shown
    assert "\x1b" not in "".join(shown)
    assert errors == ""


def test_watch_keeps_to_no_color(lively: House, open_terminal: Open) -> None:
    terminal = open_terminal("status", "--watch", environ={"NO_COLOR": "1"})
    terminal.expect("ENDED")
    terminal.press("\x03")
    terminal.end()
    assert not any(f"\x1b[{code}m" in terminal.raw for code in range(30, 38))


# ── tables ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["status"], r"(?s)is running.*NEXT +AT.*daily"),
        (["jobs"], r"(?s)JOB +STATE +NEXT.*──.*steady +active"),
        (["history", "--failed"], r"(?s)RUN +JOB.*──.*sour +failed.*exit code 3"),
        (["next"], r"(?s)JOB +AT.*──.*steady"),
    ],
)
def test_tables_are_drawn_on_a_terminal_and_plain_in_a_pipe(
    lively: House, open_terminal: Open, words: list[str], wanted: str
) -> None:
    eventually_failed(lively)
    terminal = open_terminal(*words)
    assert terminal.end() == 0
    terminal.expect(wanted, 1)
    piped = lively.ok(*words)
    assert "──" not in piped
    assert "\x1b" not in piped


def eventually_failed(house: House) -> None:
    assert house.last("sour")["state"] == "failed"


def test_a_narrow_terminal_gets_plain_lines(lively: House, open_terminal: Open) -> None:
    terminal = open_terminal("history", columns=50)
    assert terminal.end() == 0
    assert "──" not in terminal.text
    assert "RUN" in terminal.text


@pytest.mark.parametrize(("term", "environ"), [("dumb", {}), ("xterm", {"NO_COLOR": "1"})])
def test_no_colours_where_they_are_unwanted(
    lively: House, open_terminal: Open, term: str, environ: dict[str, str]
) -> None:
    eventually_failed(lively)
    terminal = open_terminal("history", term=term, environ=environ)
    assert terminal.end() == 0
    assert not any(f"\x1b[{code}m" in terminal.raw for code in range(30, 38))


def test_hostile_names_and_errors_cannot_move_the_cursor(house: House, open_terminal: Open) -> None:
    house.write(
        """
[job."x[bold]".http]
url = "http://127.0.0.1:9/"
[job.evil]
command = 'printf "\\033[2J\\033]0;owned\\007" ; exit 1'
description = "a \\u001b[31m red one"
""".replace('[job."x[bold]".http]', "[job.x.http]")
    )
    house.ok("start")
    house.outcome("evil")
    for words in (["history"], ["jobs"], ["status"], ["logs"]):
        terminal = open_terminal(*words)
        terminal.end()
        assert "\x1b[2J" not in terminal.raw
        assert "\x1b]0;" not in terminal.raw


# ── logs and runs ─────────────────────────────────────────────────────────────────────────────


def test_logs_follow_in_colours_by_event(lively: House, open_terminal: Open) -> None:
    terminal = open_terminal("logs", "-f", "-n", "200")
    terminal.expect(r"run_end +steady #\d+ succeeded")
    terminal.expect(r"run_end +sour #\d+ failed")
    before = terminal.text.count("run_end")
    deadline = time.monotonic() + 60
    while terminal.text.count("run_end") < before + 2:
        terminal.read()
        assert time.monotonic() < deadline
    lines = terminal.raw.splitlines()
    assert any(GREEN in line and "succeeded" in line for line in lines)
    assert any(RED in line and "failed" in line for line in lines)
    lively.ok("pause", "sour")
    terminal.press("\x03")
    assert terminal.end() == 130
    assert "Traceback" not in terminal.text


def test_odd_events_are_told_in_yellow(house: House, open_terminal: Open) -> None:
    house.write('[job.long]\nschedule = "every 1s"\ncommand = "sleep 60"\n[daemon]\ngrace = "0s"\n')
    house.ok("start")
    terminal = open_terminal("logs", "-f")
    terminal.expect(r"run_skipped +long")
    assert any(YELLOW in line and "run_skipped" in line for line in terminal.raw.splitlines())
    terminal.press("\x03")
    terminal.end()


def test_run_wait_shows_output_as_it_comes_and_the_outcome(house: House, open_terminal: Open) -> None:
    enough = house.directory / "enough"
    house.write(f'[job.talk]\ncommand = "echo one; {waiting(enough)}; echo two; exit 4"\n')
    house.ok("start")
    terminal = open_terminal("run", "talk", "--wait")
    terminal.expect("one")
    assert "two" not in terminal.text
    enough.touch()
    terminal.expect("two")
    terminal.expect(r"run 1 of talk: failed in \d[\d.]*s: exit code 4")
    assert terminal.end() == 1
    assert RED in terminal.raw


def test_leaving_a_wait_leaves_the_run(house: House, open_terminal: Open) -> None:
    house.write('[job.long]\ncommand = "echo begun; sleep 60"\n')
    house.ok("start")
    terminal = open_terminal("run", "long", "--wait")
    terminal.expect("begun")
    terminal.press("\x03")
    assert terminal.end() == 130
    assert "run 1 goes on" in terminal.text
    assert house.history()[0]["state"] == "running"
