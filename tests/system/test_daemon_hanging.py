"""A daemon of which starts hang in the kernel: it starts the others, says so, and leaves in good order."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from echosched.daemon.handover import KEEP_JOBS_SIGNAL

from .conftest import House, StalledProgram, eventually

JOBS = 5  # more than there are threads for


def let_hang(house: House, stalled: StalledProgram) -> None:
    for number in range(JOBS):
        house.ok("run", f"stuck{number}")
    eventually(lambda: house.status["runs"]["running"] == JOBS)


@pytest.fixture
def home(house: House, stalled: StalledProgram) -> House:
    stuck = "".join(f'[job.stuck{number}]\ncommand = ["{stalled.path}"]\n' for number in range(JOBS))
    house.write(f'[daemon]\ngrace = "60s"\n[job.hello]\ncommand = "echo hello"\n{stuck}')
    return house


def left_in_order(house: House) -> None:
    """See that nobody was killed: whoever closes the database leaves no log of it."""
    assert house.status["last_exit"]["how"] == "clean"
    assert not (house.directory / "echosched.db-wal").exists()
    assert "killed" not in house.out


def test_a_daemon_whose_starts_hang_goes_on_says_so_and_stops_in_order(
    home: House, stalled: StalledProgram
) -> None:
    home.ok("start")
    let_hang(home, stalled)
    assert home.outcome("hello")["state"] == "succeeded"
    told = eventually(lambda: (status := home.status).get("reasons") and status)
    assert told["health"] == "degraded"
    assert told["reasons"][0].startswith("starts hang: stuck0")
    began = time.monotonic()
    home.ok("stop")
    assert time.monotonic() - began < 40  # and not all of its grace
    left_in_order(home)


def test_a_worker_alone_whose_starts_hang_stops_in_order(home: House, stalled: StalledProgram) -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    child = home.popen("start", "--no-supervise", **quiet)
    eventually(lambda: home.status["health"] == "ok")
    let_hang(home, stalled)
    child.send_signal(signal.SIGTERM)
    assert child.wait(40) == 0
    left_in_order(home)


def test_a_daemon_whose_starts_hang_leaves_in_order_and_keeps_its_jobs(
    home: House, stalled: StalledProgram
) -> None:
    home.ok("start")
    let_hang(home, stalled)
    os.kill(home.pid, KEEP_JOBS_SIGNAL)  # what restart --keep-jobs and upgrade do, but nobody comes after it
    eventually(lambda: not home.status["running"], 40)
    left_in_order(home)
    home.ok("start")
    assert home.outcome("hello")["state"] == "succeeded"
