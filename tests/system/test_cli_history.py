"""``history``: what ran lately, what failed, with or without a daemon."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from echosched.clock import SystemClock, rfc3339

if TYPE_CHECKING:
    from tests.system.conftest import House

JOBS = """
[job.good]
command = "true"
[job.bad]
command = "exit 3"
[job.slow]
command = "sleep 60"
timeout = "200ms"
"""


@pytest.fixture
def lived(house: House) -> House:
    house.write(JOBS)
    house.ok("start")
    for job in ("good", "bad", "slow"):
        house.outcome(job)
    return house


def shown(house: House, *words: str) -> list[str]:
    """Return the jobs in the table, newest first."""
    lines = house.ok("history", *words).splitlines()
    return [line.split()[1] for line in lines[1:]]


def test_only_what_failed(lived: House) -> None:
    assert shown(lived) == ["slow", "bad", "good"]
    assert shown(lived, "--failed") == ["slow", "bad"]
    assert shown(lived, "--state", "timed_out,succeeded") == ["slow", "good"]
    assert shown(lived, "bad", "-n", "1") == ["bad"]
    assert lived.ok("history", "good", "--failed") == "no runs match\n"


def test_only_what_is_recent(lived: House) -> None:
    moment = rfc3339(SystemClock().now())
    lived.outcome("good")
    assert shown(lived, "--since", moment) == ["good"]
    assert shown(lived, "--since", "1h") == ["good", "slow", "bad", "good"]
    assert lived.ok("history", "--since", "0s") == "no runs match\n"


def test_times_are_told_as_people_tell_them(lived: House) -> None:
    line = next(line for line in lived.ok("history").splitlines() if " bad " in line)
    assert re.search(r"manual +\d[\dm.]*s ago +\d[\d.]*s +3 +exit code 3$", line)


def test_the_same_is_told_when_nothing_runs(lived: House) -> None:
    before = lived.json("history")
    lived.ok("stop")
    assert lived.json("history") == before
    assert shown(lived, "--failed") == ["slow", "bad"]
    assert shown(lived, "--failed", "--since", "1h", "bad") == ["bad"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--since", "yesterday"], "--since"),
        (["--since", "2026-13-01"], "--since"),
        (["--state", "sleeping"], "unknown"),
        (["-n", "many"], "whole number"),
        (["-n", "10001"], "0 to 10000"),
    ],
)
def test_wrong_questions_are_told_in_a_line(house: House, words: list[str], reason: str) -> None:
    done = house.run("history", *words)
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
