"""What happens to the work when the scheduler is killed, hangs, is upgraded or restarted under it."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest

from .conftest import House, eventually

KINDS = {
    # name: (command, exit code, output)
    "quick": ("echo quick", 0, "quick\n"),
    "slow": ("echo a; sleep {t}; echo b", 0, "a\nb\n"),
    "fails": ("sleep {t}; echo no >&2; exit 5", 5, "no\n"),
    "dies": ("echo dying; sleep {t}; kill -USR1 $$; sleep 9", None, "dying\n"),
    "tree": ("(sleep {t}; echo child) & wait; echo done", 0, "child\ndone\n"),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fifty_mixed_jobs_end_as_if_the_worker_had_never_been_killed(house: House) -> None:
    rng = random.Random(20261121)
    lines, wanted = ["[daemon]\nmax_restarts = 100\n[defaults]\noverlap = 'allow'\n"], {}
    for n in range(50):
        kind = rng.choice(sorted(KINDS))
        command, code, output = KINDS[kind]
        name = f"{kind}{n}"
        lines.append(
            f'[job.{name}]\nschedule = "@boot"\ncommand = "{command.format(t=rng.choice([0.2, 1, 4, 8]))}"\n'
        )
        wanted[name] = (code, output)
    house.write("".join(lines))
    house.ok("start")
    for _ in range(4):
        time.sleep(rng.uniform(0.3, 1.5))
        worker = eventually(lambda: house.worker_pid)
        os.kill(worker, signal.SIGKILL)
        eventually(lambda worker=worker: house.worker_pid not in (0, worker))
    eventually(lambda: house.status["health"] == "ok")
    for name, (code, output) in wanted.items():
        row = house.last(name)
        assert row["exit_code"] == code, row
        assert row["state"] == ("succeeded" if code == 0 else "failed"), row
        assert row["signal"] == (signal.SIGUSR1 if code is None else None), row
        assert house.ok("output", str(row["run"])) == output
    assert len(house.history()) == 50
    assert house.status["restarts"] == 4


def test_an_upgrade_keeps_jobs_running_and_loses_no_slot(house: House) -> None:
    house.write(
        '[job.long]\ncommand = "echo a; sleep 6; echo b; exit 3"\n'
        '[job.tock]\nschedule = "every 1s"\ncatchup = "all"\ncommand = "true"\n'
    )
    house.ok("start")
    supervisor, worker = house.pid, house.worker_pid
    house.ok("run", "long")
    eventually(lambda: len(house.history("tock")) >= 3)
    assert "upgraded" in house.ok("upgrade")
    assert house.pid == supervisor
    assert house.worker_pid != worker
    row = house.last("long")
    assert (row["state"], row["exit_code"]) == ("failed", 3)
    assert house.ok("output", str(row["run"])) == "a\nb\n"
    slots = sorted({row["slot"] for row in house.history("tock")})
    seconds = [int(slot[17:19]) for slot in slots]
    assert all((after - before) % 60 == 1 for before, after in itertools.pairwise(seconds))
    assert house.status["restarts"] == 0


def test_an_upgrade_that_cannot_start_changes_nothing(house: House) -> None:
    house.write('[job.tock]\nschedule = "every 1s"\ncommand = "true"\n')
    house.ok("start")
    worker = house.worker_pid
    house.write("[nonsense]\n")
    refused = house.run("upgrade")
    assert refused.returncode == 1
    assert "nonsense" in refused.stderr
    assert house.worker_pid == worker
    count = len(house.history("tock"))
    eventually(lambda: len(house.history("tock")) > count)


def test_restart_with_keep_jobs_watches_them_to_their_end(house: House) -> None:
    house.write('[job.long]\ncommand = "echo a; sleep 4; echo b"\n')
    house.ok("start")
    house.ok("run", "long")
    eventually(lambda: house.events("run_start"))
    before = house.pid
    house.ok("restart", "--keep-jobs")
    assert house.pid != before
    assert house.last("long")["state"] in (
        "succeeded",
        "abandoned",
    )  # a stranger's exit code needs Linux 6.15
    assert house.ok("output", str(house.last("long")["run"])) == "a\nb\n"


def test_a_stop_ends_what_outlives_the_grace_with_its_whole_tree(house: House, tmp_path: Path) -> None:
    marks = tmp_path / "pids"
    house.write(
        f"""
        [daemon]
        grace = "1s"
        [job.stubborn]
        kill_after = "1s"
        command = "trap '' TERM; setsid sh -c 'echo $$ >> {marks}; sleep 50' & echo $$ >> {marks}; sleep 50"
        """
    )
    house.ok("start")
    house.ok("run", "stubborn")
    eventually(lambda: marks.exists() and len(marks.read_text().split()) == 2)
    house.ok("stop")
    for pid in marks.read_text().split():
        assert not os.path.exists(f"/proc/{pid}") or ") Z" in Path(f"/proc/{pid}/stat").read_text()
    house.ok("start")
    [row] = house.history("stubborn")
    assert row["state"] == "cancelled"
    assert "stopped" in row["error"]


def test_cancel_and_time_out_are_told_apart_in_the_history(house: House) -> None:
    house.write(
        '[job.late]\ntimeout = "500ms"\ncommand = "sleep 50"\n[job.long]\ncommand = "sleep 50"\n'
        '[job.missing]\ncommand = ["/no/such/program"]\n[job.module]\npython = "no_such_module:f"\n'
    )
    house.ok("start")
    assert house.outcome("late")["state"] == "timed_out"
    house.ok("run", "long")
    [row] = eventually(lambda: house.history("long", "--state", "running"))
    house.ok("cancel", str(row["run"]))
    assert house.last("long")["state"] == "cancelled"
    assert "not found: /no/such/program" in house.outcome("missing")["error"]
    assert "no_such_module" in house.outcome("module")["error"]
    assert house.run("cancel", "999999").returncode == 1


def test_queued_runs_survive_a_stop_and_start_with_the_next_daemon(house: House) -> None:
    house.write(
        '[daemon]\nmax_concurrent = 1\ngrace = "0s"\n[job.hog]\ncommand = "sleep 50"\n[job.next]\ncommand = "echo hi"\n'
    )
    house.ok("start")
    house.ok("run", "hog")
    eventually(lambda: house.history("hog", "--state", "running"))
    house.ok("run", "next")
    assert house.history("next")[0]["state"] == "queued"
    house.ok("stop")
    house.ok("start")
    assert house.last("next")["state"] == "succeeded"


def test_boot_jobs_do_not_fire_again_over_an_upgrade(house: House) -> None:
    house.write('[job.boot]\nschedule = "@boot"\ncommand = "true"\n')
    house.ok("start")
    house.last("boot")
    house.ok("upgrade")
    time.sleep(1)
    assert len(house.history("boot")) == 1
