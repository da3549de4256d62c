"""selfheal: checks, mends, runs again; each step alone."""

from __future__ import annotations

import os

import pytest

from echosched.builtin import load
from echosched.builtin.selfheal import low_space
from echosched.errors import Conflict, ExecutionError
from echosched.events import SelfHealStartup
from echosched.model import JobRecord, State, Trigger


async def test_heal_jobs_whose_last_run_failed_run_again(make, rows, a_run, a_job):
    now = make().clock.now()
    rows.runs = [
        a_run(1, "well", State.FAILED), a_run(2, "well"),
        a_run(3, "unwell"), a_run(4, "unwell", State.FAILED), a_run(5, "unwell", State.SKIPPED),
        a_run(6, "late", State.TIMED_OUT),
        a_run(7, "hidden", State.ABANDONED),
        a_run(8, "unasked", State.FAILED),
        a_run(9, "off", State.FAILED),
        a_run(10, "paused", State.FAILED),
        a_run(11, "again", State.FAILED), a_run(12, "again", State.RUNNING, ended_at=None),
    ]  # fmt: skip
    rows.records = {"paused": JobRecord("paused", now, paused=True)}
    names = ("well", "unwell", "late", "hidden", "paused", "again", "never")
    jobs = {name: a_job(name, heal=True) for name in names}
    jobs["unasked"] = a_job("unasked")
    jobs["off"] = a_job("off", heal=True, enabled=False)
    answer = await load("selfheal")(make(jobs=jobs))
    assert answer["retried_count"] == 3
    assert make.triggered == [(name, Trigger.HEAL) for name in ("unwell", "late", "hidden")]
    assert "unwell: last run failed, runs again as #901" in "".join(make.output)
    assert "retried_count: 3 (unwell, late, hidden)\n" in "".join(make.output)
    assert make.events == []


async def test_at_boot_the_event_tells_how_many_ran_again(make, rows, a_run, a_job):
    rows.runs = [a_run(1, "unwell", State.FAILED)]
    await load("selfheal")(make(jobs={"unwell": a_job("unwell", heal=True)}, started_by=Trigger.BOOT))
    (event,) = make.events
    assert isinstance(event, SelfHealStartup)
    assert event.retried_count == 1


async def test_a_job_that_cannot_be_run_again_is_a_problem_and_stops_nothing(make, rows, a_run, a_job):
    async def trigger(job, why):
        if job == "a":
            raise Conflict("job a: is being removed")
        return 5

    rows.runs = [a_run(1, "a", State.FAILED), a_run(2, "b", State.FAILED)]
    jobs = {name: a_job(name, heal=True) for name in "ab"}
    answer = await load("selfheal")(make(jobs=jobs, trigger=trigger))
    assert answer["retried"] == ["b"]
    assert "job a: cannot be run again: job a: is being removed" in answer["problems"]


async def test_outputs_without_a_run_are_removed_unless_young(make, rows, a_run):
    context = make()
    rows.runs = [a_run(1)]
    old = context.clock.now().timestamp() - 7200
    for name in ("1.1.out", "2.1.out", "3.2", "notes.txt"):
        (context.runs_dir / name).write_bytes(b"xy")
        os.utime(context.runs_dir / name, (old, old))
    young = context.clock.now().timestamp() - 60
    (context.runs_dir / "9.1.out").touch()
    os.utime(context.runs_dir / "9.1.out", (young, young))
    answer = await load("selfheal")(context)
    assert (answer["orphans_removed"], answer["orphan_bytes"]) == (2, 4)
    assert sorted(p.name for p in context.runs_dir.iterdir()) == ["1.1.out", "9.1.out", "notes.txt"]


async def test_parked_jobs_get_another_try(make, rows, a_job):
    now = make().clock.now()
    rows.records = {
        "mended": JobRecord("mended", now, parked="zone unknown"),
        "broken": JobRecord("broken", now, parked="zone unknown"),
        "gone": JobRecord("gone", now, parked="x"),
        "fine": JobRecord("fine", now),
    }
    asked = []

    async def unpark(job):
        asked.append(job)
        return job == "mended"

    jobs = {name: a_job(name) for name in ("mended", "broken", "fine")}
    answer = await load("selfheal")(make(jobs=jobs, unpark=unpark))
    assert asked == ["mended", "broken"]
    assert answer["unparked"] == ["mended"]
    assert answer["problems"] == ["job broken: parked: zone unknown"]


async def test_unsent_messages_are_sent_again(make):
    async def resend():
        return 4

    answer = await load("selfheal")(make(resend=resend))
    assert answer["messages_sent"] == 4


async def test_a_damaged_database_fails_the_run_after_everything_else_was_done(make, rows, a_run, a_job):
    rows.damage = ["row 5 missing from index runs_by_job"]
    rows.runs = [a_run(1, "unwell", State.FAILED)]
    with pytest.raises(ExecutionError, match="row 5 missing"):
        await load("selfheal")(make(jobs={"unwell": a_job("unwell", heal=True)}))
    assert make.triggered == [("unwell", Trigger.HEAL)]


async def test_a_store_that_cannot_be_asked_is_a_problem_and_removes_nothing(make, rows):
    context = make()
    rows.broken = True
    (context.runs_dir / "1.1.out").touch()
    os.utime(context.runs_dir / "1.1.out", (0, 0))
    answer = await load("selfheal")(context)
    assert (context.runs_dir / "1.1.out").exists()
    assert any("database: cannot be checked" in text for text in answer["problems"])
    assert any("cannot be compared" in text for text in answer["problems"])


def test_little_space_is_told_once_for_each_file_system(tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)

    class Full:
        f_bavail, f_frsize, f_blocks, f_files, f_favail = 100, 4096, 1_000_000, 1000, 5

    assert isinstance(real.f_bavail, int)
    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    (tmp_path / "a").mkdir()
    problems = low_space([tmp_path, tmp_path / "a", tmp_path / "none"])
    assert len(problems) == 2
    assert "only 0 MiB free" in problems[0]
    assert "only 5 inodes free" in problems[1]
    Full.f_bavail, Full.f_favail = 900_000, 900
    assert low_space([tmp_path]) == []
