"""What commands say of a daemon that is stopping, of jobs that are not there, of an upgrade that was refused."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess

import pytest

from .conftest import House, eventually, waiting


def test_a_daemon_that_stops_says_so_and_what_it_waits_for(house: House) -> None:
    enough = house.directory / "enough"
    house.write(f'[daemon]\ngrace = "2m"\n[job.slow]\ncommand = "{waiting(enough)}"\n')
    house.ok("start")
    house.ok("run", "slow")
    eventually(lambda: house.status["runs"]["running"] == 1)
    assert house.status["stopping"] is None
    assert "stopping" not in house.ok("status")
    leaving = house.popen("stop", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shown = eventually(lambda: (text := house.ok("status").splitlines()[0]) and "stopping" in text and text)
    assert shown.endswith("ok, stopping (SIGTERM), waiting for 1 running job")
    assert house.status["stopping"]["reason"] == "SIGTERM"
    enough.touch()
    assert leaving.wait(60) == 0
    assert house.status["running"] is False
    assert house.status["stopping"] is None


def test_the_history_of_a_mistyped_job_is_an_error_with_and_without_a_daemon(house: House) -> None:
    house.write('[job.nightly]\ncommand = "true"\n[job.gone]\ncommand = "true"\n')
    house.ok("start")
    house.outcome("gone")
    house.write('[job.nightly]\ncommand = "true"\n')
    house.ok("reload")

    def look() -> None:
        wrong = house.run("history", "nightyl")
        assert wrong.returncode == 1
        assert wrong.stderr == "echoschedd: job nightyl: there is no such job (did you mean nightly?)\n"
        assert house.run("history", "nightyl", "--json").stdout == ""
        assert house.ok("history", "nightly") == "no runs match\n"
        assert len(house.history("gone")) == 1  # no longer configured, but it has rows
        assert house.ok("history", "gone", "--failed") == "no runs match\n"

    look()
    house.ok("stop")
    look()
    house.write("[nonsense]\n")  # what is configured cannot be known: nothing is called unknown
    assert house.ok("history", "nightyl") == "no runs match\n"


@pytest.mark.parametrize("problems", [1, 3])
def test_a_refused_upgrade_says_what_the_new_worker_could_not_do(house: House, problems: int) -> None:
    house.write('[job.tock]\ncommand = "true"\n')
    house.ok("start")
    house.write("".join(f"[nonsense{n}]\n" for n in range(problems)))
    refused = house.run("upgrade")
    assert refused.returncode == 1
    more = "" if problems == 1 else f" (and {problems - 1} more)"
    assert refused.stderr.startswith("echoschedd: upgrade: the new worker could not start: ")
    assert refused.stderr.endswith(f"{more} (the old version goes on)\n")
    assert "nonsense0" in refused.stderr


def test_an_upgrade_whose_program_is_too_old_for_the_database_is_refused_while_the_old_worker_goes_on(
    house: House,
) -> None:
    house.write('[job.tock]\ncommand = "true"\n')
    house.ok("start")
    worker = house.worker_pid
    with contextlib.closing(sqlite3.connect(house.directory / "echosched.db")) as connection:
        connection.execute("PRAGMA user_version = 99")  # as a later program would leave it
    refused = house.run("upgrade")
    assert refused.returncode == 1
    assert "upgrade: the new worker could not start: " in refused.stderr
    assert "has schema 99, and this program knows only up to" in refused.stderr
    assert house.worker_pid == worker
    assert house.outcome("tock")["state"] == "succeeded"


def test_an_attempt_that_never_was_is_an_error_with_and_without_a_daemon(house: House) -> None:
    house.write('[job.a]\ncommand = "echo hello"\n')
    house.ok("start")
    number = str(house.outcome("a")["run"])
    for _ in range(2):
        assert house.ok("output", number, "--attempt", "1") == "hello\n"
        for attempt in ("0", "2"):
            wrong = house.run("output", number, "--attempt", attempt)
            assert wrong.returncode == 1
            assert f"run {number}: there is no attempt {attempt} (it has had one attempt)" in wrong.stderr
        house.ok("stop")


def test_what_cannot_be_seen_is_unknown_and_not_called_stopped(house: House) -> None:
    house.write("")
    for name in ("echosched.pid", "echosched-web.pid"):
        (house.directory / name).symlink_to("elsewhere")  # never followed; as good as no right to look
    done = house.run("status")
    assert done.returncode == 4
    assert done.stdout.startswith("whether echoschedd runs is unknown: ")
    done = house.run("service", "status")
    assert done.returncode == 4
    assert done.stdout.count("unknown: ") == 2
    assert "not running" not in done.stdout


def test_a_reload_names_what_is_in_force_only_after_a_restart(house: House) -> None:
    job = '[job.tock]\nschedule = "@yearly"\ncommand = "true"\n'
    house.write(job)
    house.ok("start")
    house.write(f'[daemon]\nworking_directory = "/tmp"\ngrace = "3s"\numask = "077"\n{job}')
    for _ in range(2):  # until it is so
        told = house.run("reload")
        assert (told.returncode, told.stdout) == (0, "reloaded: 1 jobs (nothing changed)\n")
        assert told.stderr == (
            "warning: daemon.umask, daemon.working_directory: in force only after a restart (echoschedd restart)\n"
        )
    house.ok("restart")
    assert house.run("reload").stderr == ""


def test_history_by_state_goes_by_the_state_that_people_are_shown(house: House) -> None:
    """A run that waits for its place has the right to start already, but nobody calls that running."""
    house.write(
        "[daemon]\nmax_concurrent = 1\n"
        + "".join(f'[job.j{n}]\ncommand = "sleep 120"\n' for n in range(4))
        + '[job.bad]\ncommand = "false"\n'
    )
    house.ok("start")
    house.outcome("bad")
    for n in range(4):
        house.ok("run", f"j{n}")
    eventually(lambda: house.status["runs"]["running"] == 1)

    def look() -> None:
        for states, jobs in (
            ("running", ["j0"]),
            ("queued", ["j3", "j2", "j1"]),
            ("queued,running", ["j3", "j2", "j1", "j0"]),
            ("queued,failed", ["j3", "j2", "j1", "bad"]),
        ):
            rows = house.history("--state", states)
            assert [row["job"] for row in rows] == jobs
            assert {row["state"] for row in rows} <= set(states.split(","))
            assert [row["job"] for row in house.json("history", "-n", "1", "--state", states)] == jobs[:1]

    look()
    assert house.history("j0", "--state", "queued") == []
    house.ok("stop", "--force")
