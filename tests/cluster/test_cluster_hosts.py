"""Two hosts with one set of jobs, as an operator sees them: who runs what, labels, drain, remove, roll-outs."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from functools import partial
from typing import Any

import pytest

from tests.system.conftest import eventually

from .conftest import MakeFleet
from .fleet import EXACT, Fleet, Host, Task

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(400)]


def seconds(count: int, rest: str = "", keys: str = EXACT) -> dict[str, Task]:
    return {f"j{n}": Task("* * * * * *", rest, keys) for n in range(count)}


def owners(fleet: Fleet, *, after: int = 0, job: str = "%") -> Counter[str]:
    """Return how many runs each instance started, of those with a number above *after*."""
    return Counter(
        dict(
            fleet.query(
                "SELECT owner, count(*) FROM runs WHERE run > %s AND job LIKE %s AND started_at IS NOT NULL"
                " GROUP BY 1",
                [after, job],
            )
        )
    )


def newest(fleet: Fleet) -> int:
    return int(fleet.query("SELECT coalesce(max(run), 0) FROM runs")[0][0])


def instance(host: Host, name: str) -> dict[str, Any]:
    """Return what *host* says of the instance *name*."""
    [row] = [row for row in host.json("cluster", "status")["instances"] if row["name"] == name]
    return dict(row)


def test_hosts_share_the_load_and_every_view_says_who_ran_what(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(3)
    fleet.furnish(seconds(30) | {"long": Task("*/3 * * * * *", "sleep 1.5")})
    fleet.start()
    first = fleet.hosts[0]
    eventually(lambda: len(owners(fleet)) == 3)
    mark = newest(fleet)

    def even() -> bool:
        """Tell whether the shares are alike: what one host lost while it stood still carries less and less weight."""
        shares = owners(fleet, after=mark)
        each = shares.total() / 3
        return each > 60 and all(abs(shares[host.name] - each) <= 0.2 * each for host in fleet.hosts)

    eventually(even)

    def told() -> dict[str, Any] | None:
        """Return what is said of the instances once they have beaten with figures of their own."""
        document = first.json("cluster", "status")
        good = [
            row["alive"] and not row["differs"] and row["jobs"] == 31 and row["lag_seconds"] is not None
            for row in document["instances"]
        ]
        return document if all(good) else None

    document = eventually(told)
    assert document is not None
    assert document["instance"] == "host-0"
    assert fleet.server.dsn("cluster").partition(":")[2][:20] not in str(document)
    rows = {row["name"]: row for row in document["instances"]}
    assert set(rows) == {"host-0", "host-1", "host-2"}
    eventually(lambda: any(row["runs"] for row in first.json("cluster", "status")["instances"]))
    assert {row["owner"] for row in first.history("long")} <= set(rows) | {None}

    assert "host-0 *" in first.ok("cluster", "status")
    eventually(
        lambda: (
            [row["name"] for row in first.status["cluster"].get("instances", ())]
            == ["host-0", "host-1", "host-2"]
        )
    )
    eventually(lambda: "3 alive" in first.ok("status"))
    table = first.ok("history", "-n", "400").splitlines()
    assert table[0].split()[-2:] == ["ON", "ERROR"]
    assert any("host-1" in line for line in table)

    until = fleet.calm_down()
    fleet.account(until).hold()


def test_a_drained_host_starts_nothing_until_it_may_again(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2)
    fleet.furnish(seconds(10) | {"long": Task("*/3 * * * * *", "sleep 2")})
    fleet.start()
    first, second = fleet.hosts
    eventually(lambda: len(owners(fleet)) == 2)
    said = first.ok("cluster", "drain", "host-1", "--wait")
    assert said == "host-1 starts no more runs, and all that it ran have ended\n"
    assert instance(second, "host-1")["draining"]
    mark = newest(fleet)
    eventually(lambda: owners(fleet, after=mark)["host-0"] > 15)
    assert owners(fleet, after=mark)["host-1"] == 0
    # It stays so over a restart: that is what one drains for.
    second.ok("restart")
    mark = newest(fleet)
    eventually(lambda: owners(fleet, after=mark)["host-0"] > 15)
    assert owners(fleet, after=mark)["host-1"] == 0
    assert "drained" in second.ok("cluster", "status")
    assert second.ok("cluster", "drain", "--undo") == "host-1 starts runs again\n"
    eventually(lambda: owners(fleet, after=mark)["host-1"] > 10)
    fleet.account(fleet.calm_down()).hold()


def test_a_dead_hosts_runs_are_found_and_it_can_be_removed(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2, heartbeat="1s", lease="3s")
    retry = EXACT + 'on_abandoned = "retry"\n'
    # They rest between two slots: what came due while a host stood still waits until its job does.
    tasks = {f"left{n}": Task("*/5 * * * * *", "sleep 3") for n in range(4)}
    again = {f"again{n}": Task("*/5 * * * * *", "sleep 3", retry) for n in range(4)}
    fleet.furnish(tasks | again, repeatable=list(again))
    fleet.start()
    first, second = fleet.hosts
    eventually(lambda: len(owners(fleet, job="left%")) == 2 and len(owners(fleet, job="again%")) == 2)
    refused = first.run("cluster", "remove", "host-1")
    assert refused.returncode == 1
    assert refused.stderr.startswith("echoschedd: instance host-1: it is alive (stop it first")
    assert "is this one" in first.run("cluster", "remove", "host-0").stderr
    assert first.run("cluster", "remove", "nobody").returncode != 0

    # A machine that is gone: all its processes at once.
    worker = second.find_worker()
    assert worker is not None
    running = "SELECT run, job FROM runs WHERE state = 'running' AND owner = 'host-1' ORDER BY run"
    # Of the next slot, so that they have just begun.
    eventually(lambda: not fleet.query(running))
    eventually(lambda: {job.rstrip("0123456789") for _, job in fleet.query(running)} == {"left", "again"})
    for pid in (second.pid, worker):
        os.kill(pid, signal.SIGKILL)
    died = time.monotonic()
    lost = dict(fleet.query(running))
    runs = list(lost)
    assert runs

    def found() -> bool:
        rows = fleet.query("SELECT job, state, owner, attempt FROM runs WHERE run = ANY(%s)", [runs])
        return all(
            state == "abandoned" if job.startswith("left") else attempt == 2 and owner == "host-0"
            for job, state, owner, attempt in rows
        )

    eventually(found)  # lease + 10 s; and the machine may be busy
    print(f"a dead host's runs were found after {time.monotonic() - died:.1f} s (lease 3 s)")
    assert "host-1 gives no sign of life" in first.ok("cluster", "status")
    assert first.ok("cluster", "remove", "host-1") == "host-1 is forgotten; its runs stay in the history\n"
    assert [row["name"] for row in first.json("cluster", "status")["instances"]] == ["host-0"]
    assert "host-1" in {row["owner"] for job in set(lost.values()) - set(again) for row in first.history(job)}
    fleet.account(fleet.calm_down()).hold()


def test_a_job_with_labels_runs_where_they_are_offered(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2)
    tasks = {
        "anywhere": Task("* * * * * *"),
        "gpu": Task("* * * * * *", "", EXACT + 'labels = ["gpu"]\n'),
        "both": Task("* * * * * *", "", EXACT + 'labels = ["eu", "gpu"]\n'),
    }
    fleet.furnish(tasks, hosts=fleet.hosts[:1], cluster='labels = ["eu"]\n')
    fleet.furnish(tasks, hosts=fleet.hosts[1:], cluster='labels = ["gpu", "eu"]\n')
    fleet.start()
    eventually(lambda: owners(fleet, job="both").total() > 4 and len(owners(fleet, job="anywhere")) == 2)
    assert set(owners(fleet, job="gpu")) == {"host-1"}
    assert set(owners(fleet, job="both")) == {"host-1"}
    assert instance(fleet.hosts[0], "host-1")["labels"] == ["eu", "gpu"]
    fleet.account(fleet.calm_down()).hold()


def test_two_definitions_of_a_job_work_side_by_side_while_one_is_rolled_out(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2)
    log = fleet.directory / "versions"
    old, new = (
        {"job": Task("* * * * * *", f'echo "{word} $ECHOSCHED_SLOT" >> {log}')} for word in ("old", "new")
    )
    fleet.furnish(old)
    fleet.start()
    first, second = fleet.hosts
    eventually(lambda: len(owners(fleet)) == 2)
    assert not instance(first, "host-1")["differs"]
    fleet.furnish(new, hosts=[second])
    second.ok("reload")

    def sides() -> dict[str, set[str]]:
        """Return definition → instances that ran it."""
        by_slot = {slot: word for word, slot in (line.split() for line in log.read_text().splitlines())}
        found: dict[str, set[str]] = {}
        for row in first.history("job"):
            if row["slot"] in by_slot:
                found.setdefault(by_slot[row["slot"]], set()).add(row["owner"])
        return found

    eventually(lambda: "new" in sides())

    def told() -> list[str]:
        return [
            row["name"] for row in first.json("cluster", "status")["instances"] if row["differs"] == ["job"]
        ]

    eventually(lambda: len(told()) == 1)  # of two that differ, one differs from "most"
    # A status waits for the database for a moment only.
    eventually(lambda: "defines otherwise than most: job" in first.ok("status"))
    # Whatever was decided by one definition is run by it: what is new never runs on the old host.
    eventually(lambda: sides().get("new", set()) == {"host-1"})
    fleet.furnish(new, hosts=[first])
    first.ok("reload")
    eventually(lambda: sides()["new"] == {"host-0", "host-1"})
    eventually(lambda: not any(row["differs"] for row in first.json("cluster", "status")["instances"]))
    fleet.account(fleet.calm_down()).hold()


def test_the_database_may_be_away_and_jobs_are_caught_up_when_it_is_back(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2)
    ended = fleet.directory / "ended"
    ended.touch()
    fleet.furnish(
        seconds(3) | {"long": Task("*/5 * * * * *", f'sleep 3.5; echo "$ECHOSCHED_RUN" >> {ended}')}
    )
    fleet.start()
    first, _second = fleet.hosts
    eventually(lambda: len(owners(fleet)) == 2)
    running = "SELECT run FROM runs WHERE job = 'long' AND state = 'running' AND started_at IS NOT NULL"
    [run], *_ = eventually(lambda: fleet.query(running))
    fleet.server.stop()
    eventually(lambda: first.status["health"] == "degraded")
    shown = first.run("status").stdout
    assert "degraded" in shown
    assert fleet.server.dsn("x")[20:40] not in shown
    begun = time.monotonic()
    first.run("status")
    assert time.monotonic() - begun < 20
    refused = first.run("cluster", "status")
    assert refused.returncode != 0
    assert len(refused.stderr.splitlines()) == 1
    eventually(lambda: str(run) in ended.read_text().split())
    fleet.server.start()
    for host in fleet.hosts:
        eventually(lambda host=host: host.status["health"] == "ok")
    until = fleet.calm_down()
    tally = fleet.account(until)
    tally.hold()
    assert tally.account.abandoned == 0, "what ran on while the database was away ended, and was written down"
    for host in fleet.hosts:
        assert len(host.events("store_degraded")) == len(host.events("store_recovered")) == 1


def test_a_host_that_is_cut_off_keeps_its_jobs_starts_no_new_ones_and_reports_when_back(
    make_fleet: MakeFleet,
) -> None:
    # A lease that holds until the host is back, however long this machine takes for all that comes before.
    fleet = make_fleet(2, heartbeat="1s", lease="100s")
    ended = fleet.directory / "ended"
    ended.touch()
    fleet.furnish(
        seconds(4) | {"long": Task("*/5 * * * * *", f'sleep 3.5; echo "$ECHOSCHED_RUN" >> {ended}')}
    )
    fleet.start()
    _first, second = fleet.hosts
    begun_there = "SELECT run FROM runs WHERE job='long' AND state='running' AND owner='host-1'"
    begun_there += " AND started_at IS NOT NULL"
    running = [run for (run,) in eventually(lambda: fleet.query(begun_there))]
    second.way.cut()
    eventually(lambda: second.status["health"] == "degraded")
    eventually(lambda: {str(run) for run in running} <= set(ended.read_text().split()))
    begun = [event["run"] for event in second.events("run_start")]
    time.sleep(2.0)
    assert [event["run"] for event in second.events("run_start")] == begun, (
        "it started something while cut off"
    )
    eventually(lambda: fleet.query("SELECT 1 FROM runs WHERE run > %s AND owner = 'host-0'", [max(running)]))
    second.way.join()
    eventually(lambda: second.status["health"] == "ok")

    def reported() -> bool:
        rows = fleet.query("SELECT state, owner FROM runs WHERE run = ANY(%s)", [running])
        return all(row == ("succeeded", "host-1") for row in rows)

    eventually(reported)
    fleet.account(fleet.calm_down()).hold()


def test_an_operators_verbs_hold_for_all_hosts(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2)
    never = "0 0 1 1 *"
    single = 'concurrency_group = "one"\noverlap = "allow"\n'
    lock, met = fleet.directory / "lock", fleet.directory / "met"
    alone = f'mkdir {lock} || echo "$ECHOSCHED_JOB" >> {met}; sleep 0.4; rmdir {lock}'
    fleet.furnish(
        {
            "tick": Task("* * * * * *"),
            "sleeper": Task(never, "exec sleep 300"),
            "first": Task(never, alone, single),
            "second": Task(never, alone, single),
            "third": Task(never, alone, single),
        }
    )
    for host in fleet.hosts:
        with open(host.directory / "echosched.toml", "a") as file:
            file.write('[job.follower]\nafter = "first"\ncommand = "echo followed"\n')
    fleet.start()
    one, two = fleet.hosts
    # A pause on one host pauses the job on all.
    eventually(lambda: len(owners(fleet, job="tick")) == 2)
    one.ok("pause", "tick")
    time.sleep(1.0)
    mark = newest(fleet)
    time.sleep(3.0)
    assert newest(fleet) == mark
    assert [row["paused"] for row in two.json("jobs") if row["name"] == "tick"] == [True]
    two.ok("resume", "tick")
    eventually(lambda: owners(fleet, after=mark, job="tick").total() > 1)

    # Whoever runs it, anybody can wait for it and cancel it.
    for host, other in ((one, two), (two, one)):
        number = host.json("run", "sleeper")["run"]
        state = partial(fleet.query, "SELECT state, started_at IS NULL FROM runs WHERE run = %s", [number])
        eventually(lambda state=state: state() == [("running", False)])
        other.ok("cancel", str(number))
        eventually(lambda state=state: state()[0][0] == "cancelled")
    assert one.run("run", "first", "--wait").returncode == 0
    eventually(lambda: fleet.query("SELECT 1 FROM runs WHERE job = 'follower' AND state = 'succeeded'"))

    # A group of one, asked for on both hosts at once: never two at the same time.
    for job in ("first", "second", "third"):
        one.ok("run", job)
        two.ok("run", job)
    eventually(lambda: not fleet.query("SELECT 1 FROM runs WHERE grp = 'one' AND ended_at IS NULL"))
    assert fleet.query("SELECT state, count(*) FROM runs WHERE grp = 'one' GROUP BY 1") == [("succeeded", 7)]
    assert not met.exists(), "two of a group of one ran at the same time"


def test_the_output_of_a_run_lies_where_it_ran_and_the_others_say_where(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(2)
    fleet.furnish({"job": Task("0 0 1 1 *", "echo done", EXACT + "output = true\n")})
    for host in fleet.hosts:  # the fleet's jobs discard their output
        path = host.directory / "echosched.toml"
        path.write_text(path.read_text().replace("output = false\n", ""))
    fleet.start()
    first, second = fleet.hosts
    first.ok("run", "job", "--wait")
    [[run, owner]] = fleet.query("SELECT run, owner FROM runs")
    here, there = (first, second) if owner == "host-0" else (second, first)
    assert here.ok("output", str(run)) == "done\n"
    told = there.run("output", str(run))
    assert (told.returncode, told.stdout) == (0, "")
    assert told.stderr == f"echoschedd: run {run}: ran on {owner}, and its output lies there\n"
