"""``jobs`` and ``next`` where no daemon runs: what is configured, and when it would come due."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from echosched.clock import SystemClock, parse_rfc3339

from .conftest import House

JOBS = """
[job.yearly]
schedule = "0 0 1 1 *"
command = "true"
[job.often]
schedule = "every 10m"
command = "true"
[job.off]
schedule = "@daily"
command = "true"
enabled = false
[job.byhand]
command = "true"
"""
SAID = (
    "echoschedd: no daemon runs: this is what is configured, and when it would come due (echoschedd start)\n"
)


def test_the_configuration_alone_says_what_would_come_due(house: House) -> None:
    house.write(JOBS)
    done = house.run("jobs")
    assert (done.returncode, done.stderr) == (0, SAID)
    rows = {row["name"]: row for row in house.json("jobs")}
    assert list(rows) == ["yearly", "often", "off", "byhand"]
    now = SystemClock().now()
    assert parse_rfc3339(rows["yearly"]["next_at"]).strftime("%m-%d %H:%M") == "01-01 00:00"
    assert now < parse_rfc3339(rows["often"]["next_at"]) <= now + timedelta(minutes=10)
    assert rows["off"]["next_at"] is None
    assert rows["byhand"]["next_at"] is None
    coming = house.json("next", "often", "-n", "3")
    apart = [parse_rfc3339(slot["at"]) for slot in coming]
    assert [later - earlier for earlier, later in pairwise(apart)] == [timedelta(minutes=10)] * 2
    assert {slot["job"] for slot in house.json("next", "-n", "4")} == {"often"}
    assert not (house.directory / "echosched.db").exists()  # looking makes nothing


def test_what_a_daemon_left_counts_too(house: House) -> None:
    house.write(JOBS)
    house.ok("start")
    house.ok("run", "byhand", "--wait")
    house.ok("pause", "yearly")
    before = {row["name"]: row for row in house.json("jobs")}
    house.ok("stop")
    after = {row["name"]: row for row in house.json("jobs")}
    assert after["often"]["next_at"] == before["often"]["next_at"]  # the same anchor: its first start
    assert after["byhand"]["last_run"]["state"] == "succeeded"
    assert (after["yearly"]["paused"], after["yearly"]["next_at"]) == (True, None)
    assert after.keys() == before.keys()
    assert after["often"].keys() == before["often"].keys()


def test_an_unknown_job_and_a_wrong_configuration_are_errors_as_ever(house: House) -> None:
    house.write(JOBS)
    done = house.run("next", "oftne")
    assert done.returncode == 1
    assert done.stderr == "echoschedd: job oftne: there is no such job (did you mean often?)\n"
    house.write("[nonsense]\n")
    for verb in ("jobs", "next"):
        done = house.run(verb)
        assert done.returncode == 69
        assert "nonsense" in done.stderr


@pytest.mark.parametrize("words", [["jobs"], ["next"]])
def test_records_that_cannot_be_read_are_told_and_not_passed_over(house: House, words: list[str]) -> None:
    house.write(JOBS)
    (house.directory / "echosched.db").write_text("this is no database, whatever its name says" * 100)
    done = house.run(*words)
    assert done.returncode == 69
    assert "records cannot be read" in done.stderr
