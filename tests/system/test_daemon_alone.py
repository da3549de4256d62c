"""A worker without a supervisor, and a web server in the foreground: seen and stopped like the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import House, eventually, waiting

QUICK = '[job.hello]\ncommand = "echo hello"\n[job.long]\ncommand = "sleep 90"\nkill_after = "1s"\n'


def alone(house: House) -> subprocess.Popen[bytes]:
    child = house.popen(
        "start", "--no-supervise", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    eventually(lambda: house.status["health"] == "ok")
    return child


def state(house: House) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((house.directory / "echosched.state.json").read_text())
    return document


def test_a_worker_alone_says_that_it_stops_and_how_it_ended(house: House) -> None:
    house.write('[daemon]\ngrace = "80s"\n' + QUICK)
    child = alone(house)
    house.ok("run", "long")
    eventually(lambda: house.status["runs"]["running"] == 1)
    child.send_signal(signal.SIGTERM)
    eventually(lambda: house.status["stopping"])
    assert house.status["stopping"]["reason"] == "SIGTERM"
    child.send_signal(signal.SIGTERM)  # at once
    assert child.wait(30) == 0
    status = house.status
    assert (status["running"], status["last_exit"]["how"], status["last_exit"]["exit_code"]) == (
        False,
        "clean",
        0,
    )
    assert [event["removed_pid"] for event in house.events("cleanup")] == [child.pid]
    assert not {"echosched.pid", "echosched.beat"} & set(os.listdir(house.directory))


def test_an_upgrade_of_a_worker_alone_is_refused_and_changes_nothing(house: House) -> None:
    house.write(QUICK)
    child = alone(house)
    done = house.run("upgrade")
    assert done.returncode == 1
    assert "without a supervisor" in done.stderr
    assert house.status["pid"] == child.pid
    house.ok("run", "hello", "--wait")


def test_a_worker_alone_leaves_its_jobs_to_the_next_daemon_when_asked_to(house: House) -> None:
    enough = house.directory / "enough"
    house.write(f'[job.slow]\ncommand = "{waiting(enough)}; exit 3"\n')
    child = alone(house)
    house.ok("run", "slow")
    eventually(lambda: house.status["runs"]["running"] == 1)
    house.ok("restart", "--keep-jobs")
    assert child.wait(30) == 0
    assert house.history("slow", "--state", "running")
    enough.touch()
    row = house.last("slow")
    assert row["error"] is None or "stop" not in row["error"]
    assert row["state"] in ("failed", "abandoned")  # its parent is gone: not every kernel tells the exit code
    assert row["exit_code"] in (3, None)


def test_a_worker_alone_that_cannot_start_leaves_its_reason(house: House) -> None:
    house.write("[job.x]\ncommand = 1\n")
    child = house.popen(
        "start", "--no-supervise", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert child.wait(30) == 6
    last = house.status["last_exit"]
    assert (last["how"], last["exit_code"]) == ("failed to start", 6)
    assert "job.x.command" in last["detail"]


# ── the web server ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def web(house: House) -> Iterator[subprocess.Popen[bytes]]:
    house.write(QUICK)
    child = house.popen("web", "--port", "0", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    eventually(lambda: house.json("service", "status")["web"]["health"] == "ok")
    yield child
    if child.poll() is None:
        child.terminate()
        child.wait(30)


def test_service_sees_a_web_server_whoever_started_it(house: House, web: subprocess.Popen[bytes]) -> None:
    facts = house.json("service", "status")["web"]
    assert (facts["running"], facts["pid"], facts["mode"]) == (True, web.pid, "foreground")
    assert f"running already (pid {web.pid})" in house.ok("service", "start", "web")
    assert f"stopped (pid {web.pid})" in house.ok("service", "stop", "web")
    assert web.wait(30) == 0
    done = house.run("service", "status", "web")
    assert done.returncode == 3
    assert "not running, last exit clean" in done.stdout


def test_a_killed_web_server_is_told_as_such(house: House, web: subprocess.Popen[bytes]) -> None:
    web.kill()
    web.wait(30)
    done = house.run("service", "status", "web")
    assert done.returncode == 1
    assert "last exit signal 9" in done.stdout


def test_a_second_web_server_serves_and_says_that_service_shows_the_first(
    house: House, web: subprocess.Popen[bytes]
) -> None:
    second = house.popen("web", "--port", "0", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert second.stdout is not None
    assert second.stderr is not None
    assert second.stdout.readline().startswith(b"dashboard: ")
    line = second.stderr.readline().decode()
    assert f"service status will not show this server: it shows another one, pid {web.pid}" in line
    second.terminate()
    assert second.wait(30) == 0
    assert house.json("service", "status")["web"]["pid"] == web.pid
