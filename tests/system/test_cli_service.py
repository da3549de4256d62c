"""``service``: scheduler and web server by the same machinery; each has its line, nothing ever hangs."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from echosched.daemon import lock, proc

sys.path.insert(0, str(Path(__file__).parent))

from terminal import Terminal

from .conftest import free_port

if TYPE_CHECKING:
    from tests.system.conftest import House

CLI = [sys.executable, "-P", str(Path(__file__).resolve().parents[2] / "echosched" / "cli" / "__main__.py")]
JOB = '[job.a]\nschedule = "every 1s"\ncommand = "true"\n'


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def both(house: House, port: int) -> Iterator[House]:
    house.write(f"[web]\nport = {port}\n" + JOB)
    yield house
    for pid in (lock.read_pid(str(house.directory / "echosched-web.pid")),):
        if pid is not None and proc.is_alive(pid):
            os.kill(pid, signal.SIGCONT)
    house.run("service", "stop", "web")


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def timed(house: House, *words: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    begun = time.monotonic()
    done = house.run("service", *words)
    return time.monotonic() - begun, done


def test_both_are_started_watched_restarted_and_stopped(both: House, port: int) -> None:
    _, done = timed(both, "start")
    assert done.returncode == 0, done.stderr
    scheduler, web = (
        re.search(rf"^{part} +started \(pid (\d+)\)", done.stdout, re.M) for part in ("scheduler", "web")
    )
    assert scheduler is not None
    assert web is not None
    assert f"http://127.0.0.1:{port}/dashboard" in done.stdout
    assert "key: " in done.stdout
    assert healthy(port)
    _, again = timed(both, "start")
    assert again.stdout.count("running already") == 2
    assert "key: " not in again.stdout  # named once
    _, status = timed(both, "status")
    assert status.returncode == 0
    assert re.search(r"^scheduler +running \(pid \d+\), ok", status.stdout, re.M)
    assert re.search(r"^web +running \(pid \d+\), ok", status.stdout, re.M)
    facts: dict[str, Any] = both.json("service", "status")
    assert {part: facts[part]["running"] for part in facts} == {"scheduler": True, "web": True}
    _, restarted = timed(both, "restart", "web")
    assert re.search(r"^web +restarted \(pid \d+\)", restarted.stdout, re.M)
    assert both.pid == int(scheduler[1])  # the other one was left alone
    _, logs = timed(both, "logs")
    assert "── scheduler" in logs.stdout
    assert "── web" in logs.stdout
    assert "dashboard: " in logs.stdout
    _, stopped = timed(both, "stop")
    assert [line.split()[0] for line in stopped.stdout.splitlines()] == ["web", "scheduler"]
    _, gone = timed(both, "status")
    assert gone.returncode == 3
    assert not healthy(port)
    _, twice = timed(both, "stop")
    assert twice.returncode == 0
    assert twice.stdout.count("not running") == 2


def test_one_that_cannot_start_leaves_the_other_and_has_its_line(both: House, port: int) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        seconds, done = timed(both, "start")
    assert done.returncode != 0
    assert seconds < 60
    assert re.search(r"^scheduler +started", done.stdout, re.M)
    assert re.search(rf"^web +.*{port}", done.stdout, re.M)
    assert both.status["running"]


def test_a_bad_configuration_restarts_nothing(both: House) -> None:
    both.ok("service", "start", "scheduler")
    pid = both.pid
    both.write('[daemon]\ngrace = "soon"\n' + JOB)
    _, done = timed(both, "restart", "scheduler")
    assert done.returncode != 0
    assert "grace" in done.stdout
    assert both.pid == pid


def test_a_stopped_process_does_not_hang_status_or_stop(both: House) -> None:
    both.write('[daemon]\ngrace = "1s"\n' + JOB)
    both.ok("service", "start", "scheduler")
    pid, worker = both.pid, both.worker_pid
    for process in (pid, worker):
        os.kill(process, signal.SIGSTOP)
    try:
        seconds, done = timed(both, "status")
        assert seconds < 60
        assert "running" in done.stdout
        seconds, done = timed(both, "stop")
        assert done.returncode == 1
        assert "has not ended after" in done.stdout
        assert seconds < 80
    finally:
        for process in (pid, worker):
            os.kill(process, signal.SIGCONT)


def test_nobody_listening_to_its_output_does_not_hang_it(both: House) -> None:
    """The daemons inherit no pipe: a reader of this command's output sees its end at once."""
    child = both.popen("service", "start", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    out, _ = child.communicate(timeout=80)
    assert child.returncode == 0, out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["begin"], "no such verb"),
        (["start", "everything"], "no such part"),
        (["logs", "-f"], "one part"),
        (["start", "--port", "99999"], "out of range"),
    ],
)
def test_wrong_words_are_told_in_a_line(house: House, words: list[str], reason: str) -> None:
    house.write(JOB)
    done = house.run("service", *words)
    assert done.returncode == 2
    assert reason in done.stderr + done.stdout


# ── hosts that end detached processes ─────────────────────────────────────────────────────────


def test_where_detached_processes_die_both_stay_in_the_foreground(both: House, port: int) -> None:
    both.environ["REPL_ID"] = "x"
    terminal = Terminal([*CLI, "service", "start", "--home", str(both.directory)], both.environ)
    try:
        terminal.expect(r"staying in the foreground: Replit")
        terminal.expect(r"scheduler +started \(pid \d+\)")
        assert both.status["health"] == "ok"  # started means started
        assert both.status["mode"] == "foreground"
        terminal.expect(rf"dashboard: http://127\.0\.0\.1:{port}/dashboard")
        terminal.expect(r"web +started \(pid \d+\)")  # and not a moment before it listens
        assert healthy(port)
        assert both.json("service", "status")["web"]["health"] == "ok"
        terminal.press("\x03")
        assert terminal.end() == 0
        assert not both.status["running"]
        assert not healthy(port)
    finally:
        terminal.close()


def test_a_web_server_that_cannot_listen_is_not_told_as_started(both: House, port: int) -> None:
    both.environ["REPL_ID"] = "x"
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = both.run("service", "start")
    assert done.returncode == 1
    assert re.search(r"^scheduler +started", done.stdout, re.M)
    assert not re.search(r"^web +started", done.stdout, re.M)
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert not both.status["running"]


@pytest.mark.parametrize(("how", "code"), [("stop", 0), ("kill", 1)])
def test_when_one_ends_by_itself_the_other_is_not_left_alone(
    both: House, port: int, how: str, code: int
) -> None:
    both.environ["REPL_ID"] = "x"
    child = both.popen("service", "start", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not healthy(port):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if how == "stop":
        both.ok("stop")
    else:
        os.kill(both.pid, signal.SIGKILL)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == code
    assert f"scheduler  ended with exit code {'-9' if code else '0'}" in out
    assert not healthy(port)
