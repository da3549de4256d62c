"""Slots that are claimed a little before they come: the run is ready, and starts at the very instant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from echosched.model import Attempt, Catchup, Claim, Ended, Job, Overlap, State
from echosched.scheduler import runs
from echosched.scheduler.recovery import Evidence, recover

from .conftest import AHEAD, START, Rig, advance, make_job, make_scheduler, settle

MINUTE = timedelta(minutes=1)
SOON = timedelta(seconds=0.1)  # well within what is claimed ahead


async def test_a_slot_is_claimed_before_it_comes_and_started_when_it_comes(early: Rig) -> None:
    await early.begin(make_job())
    await advance(early, MINUTE - AHEAD)
    assert early.sink.names() == ["slot_claimed"]
    [run] = await early.store.history(job="job")
    assert (run.slot, run.state) == (START + MINUTE, State.RUNNING)
    await advance(early, AHEAD - timedelta(microseconds=1))
    assert early.executor.started == []
    await advance(early, timedelta(microseconds=1))
    [execution] = early.executor.started
    assert execution.started_at == START + MINUTE
    assert await early.states("job") == [State.SUCCEEDED]


async def test_every_slot_still_runs_once_and_in_time(early: Rig) -> None:
    await early.begin(make_job(schedule="* * * * * *"))
    for _ in range(100):
        await advance(early, timedelta(seconds=0.1))
    assert early.executor.slots == [START + timedelta(seconds=n) for n in range(1, 11)]
    assert [each.started_at for each in early.executor.started] == early.executor.slots


async def test_a_slot_whose_verdict_is_still_open_is_judged_when_it_comes(early: Rig) -> None:
    early.executor.script = lambda attempt: None
    await early.begin(make_job(overlap=Overlap.SKIP))
    await advance(early, MINUTE)
    await advance(early, MINUTE - SOON)
    assert len(await early.states("job")) == 1  # the first one runs: nobody knows yet whether it will be over
    early.executor.started[0].end()
    await settle()
    await advance(early, SOON)
    assert early.executor.slots == [START + MINUTE, START + 2 * MINUTE]


async def test_a_run_without_an_output_file_is_not_claimed_ahead(early: Rig) -> None:
    await early.begin(make_job(output=False))
    await advance(early, MINUTE - SOON)
    assert await early.states("job") == []
    await advance(early, SOON)
    assert early.executor.slots == [START + MINUTE]


async def test_a_pause_just_before_a_slot_holds(early: Rig) -> None:
    await early.begin(make_job())
    await advance(early, MINUTE - SOON)
    await early.scheduler.roster.pause("job")
    await advance(early, MINUTE)
    assert early.executor.started == []
    [run] = await early.store.history(job="job")
    assert (run.state, run.error) == (State.SKIPPED, "its job was paused before it came")


async def test_a_pause_while_a_slot_is_being_claimed_takes_it_back(
    early: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await early.begin(make_job())
    claim, may_go = early.store.claim, asyncio.Event()

    async def slowly(claims: Sequence[Claim]) -> list[int | None]:
        await may_go.wait()
        return await claim(claims)

    monkeypatch.setattr(early.store, "claim", slowly)
    await advance(early, MINUTE - SOON)
    await early.scheduler.roster.pause("job")
    may_go.set()
    await settle()
    await advance(early, MINUTE)
    assert early.executor.started == []
    assert await early.states("job") == [State.SKIPPED]


async def test_a_reload_just_before_a_slot_counts_for_it(early: Rig) -> None:
    await early.begin(make_job())
    await advance(early, MINUTE - SOON)
    changed = replace(make_job(), definition="another")
    await early.scheduler.apply({"job": changed})
    await advance(early, SOON)
    [execution] = early.executor.started
    assert execution.attempt.job is changed


async def test_what_was_made_ready_before_a_reload_is_not_started_after_it(rig: Rig) -> None:
    asked: list[tuple[Job, bool]] = []
    started: list[Job] = []

    def prepare(attempt: Attempt, *steps: object, early: bool) -> Callable[[], None]:
        asked.append((attempt.job, early))
        return lambda: started.append(attempt.job)

    rig.executor.prepare = prepare  # type: ignore[attr-defined]
    rig.scheduler = make_scheduler(rig.clock, rig.store, rig.sink, rig.executor, ahead=AHEAD.total_seconds())
    await rig.begin(job := make_job())
    await advance(rig, MINUTE - SOON)
    changed = replace(make_job(), definition="another")
    await rig.scheduler.apply({"job": changed})
    await advance(rig, SOON)
    assert asked == [(job, True), (changed, False)]
    assert started == [changed]
    assert rig.executor.started == []


async def test_a_slot_that_a_new_schedule_lacks_is_taken_back_and_one_that_it_has_is_kept(early: Rig) -> None:
    await early.begin(make_job("kept"), make_job("moved"), make_job("gone"), make_job("off"))
    await advance(early, MINUTE - SOON)
    jobs = [make_job("kept", "*/1 * * * *"), make_job("moved", "30 3 * * *"), make_job("off", enabled=False)]
    await early.scheduler.apply({job.name: job for job in jobs})
    await advance(early, 2 * SOON)
    assert [each.attempt.job.name for each in early.executor.started] == ["kept"]
    assert await early.states("moved") == await early.states("off") == [State.SKIPPED]
    assert await early.states("gone") == [State.CANCELLED]


async def test_a_clock_set_back_under_a_held_run_starts_it_once(early: Rig) -> None:
    await early.begin(make_job())
    await advance(early, MINUTE - SOON)
    early.clock.set(early.clock.now() - timedelta(seconds=30))
    await settle()
    assert early.executor.slots == [START + MINUTE]
    await advance(early, MINUTE)
    assert early.executor.slots == [START + MINUTE]


async def test_more_slots_than_one_turn_takes_start_together(
    early: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "RELEASE_PAUSE_SECONDS", 0)  # no time passes here but the clock's
    early.scheduler.runs.queue.max_concurrent = 1000
    await early.begin(*(make_job(f"job{n}") for n in range(600)))
    await advance(early, MINUTE - AHEAD)
    assert sum((await early.store.counts()).values()) == 600
    await advance(early, AHEAD)
    assert {each.started_at for each in early.executor.started} == {START + MINUTE}
    assert len(early.executor.started) == 600


async def test_a_worker_that_ends_before_the_slot_leaves_it_to_the_next(early: Rig) -> None:
    await early.begin(make_job())
    await advance(early, MINUTE - SOON)
    await early.scheduler.stop(0.0)
    assert early.executor.started == []
    [run] = await early.store.active()
    assert (run.state, run.slot) == (State.RUNNING, START + MINUTE)
    assert run.queued_at < run.slot


MISSED, SUCCEEDED = State.MISSED, State.SUCCEEDED


@pytest.mark.parametrize(
    ("catchup", "away", "absent", "states"),
    [
        (Catchup.LAST, 50, True, [SUCCEEDED]),
        (Catchup.NONE, 50, True, [MISSED]),
        (Catchup.NONE, 20, True, [MISSED]),
        (Catchup.NONE, 20, False, [SUCCEEDED]),
        (Catchup.LAST, 130, True, [MISSED, MISSED, SUCCEEDED]),
        (Catchup.LAST, 130, False, [MISSED, MISSED, SUCCEEDED]),
        (Catchup.ALL, 130, True, [SUCCEEDED, SUCCEEDED, SUCCEEDED]),
    ],
)
async def test_what_was_claimed_and_not_started_is_caught_up_as_the_job_says(
    early: Rig, catchup: Catchup, away: int, absent: bool, states: list[State]
) -> None:
    await early.begin(make_job(catchup=catchup))
    await advance(early, MINUTE - SOON)
    await early.scheduler.stop(0.0)
    early.clock.advance(SOON + timedelta(seconds=away))
    await take_over(early, absent=absent)
    await early.pass_time(timedelta(seconds=1))  # starts of a backlog are staggered
    seen = {run.slot: run.state for run in await early.store.history(job="job")}
    assert seen == {START + (n + 1) * MINUTE: state for n, state in enumerate(states)}


@pytest.mark.parametrize("change", [{"schedule": "*/30 * * * *"}, {"enabled": False}])
async def test_what_was_claimed_runs_where_no_newer_slot_will(early: Rig, change: dict[str, Any]) -> None:
    await early.begin(make_job())
    await advance(early, MINUTE - SOON)
    await early.scheduler.stop(0.0)
    early.clock.advance(SOON + timedelta(seconds=130))
    early.jobs = {"job": make_job(**change)}
    await take_over(early, absent=True)
    [run] = await early.store.history(job="job")
    assert (run.slot, run.state) == (START + MINUTE, SUCCEEDED)


async def test_the_next_worker_starts_it_no_earlier_either(early: Rig) -> None:
    await early.begin(make_job())
    await advance(early, MINUTE - SOON)
    await early.scheduler.quiesce()
    await take_over(early)
    assert early.executor.started == []
    await advance(early, SOON)
    [execution] = early.executor.started
    assert execution.started_at == START + MINUTE


async def take_over(rig: Rig, *, absent: bool = False) -> None:
    """Let another worker begin on the same store; *absent*: nobody was there until now."""
    rig.scheduler = make_scheduler(rig.clock, rig.store, rig.sink, rig.executor, ahead=AHEAD.total_seconds())
    rig.scheduler.roster.absent_until = rig.clock.now() if absent else None
    await rig.scheduler.load(rig.jobs)
    nothing = Evidence(
        same_boot=True,
        held={},
        find=lambda attempt: None,
        began=lambda run, attempt: False,
        adopt=lambda *_: pytest.fail("there is nothing to adopt"),
        output_path=lambda run, attempt: None,
    )
    await recover(rig.scheduler, nothing)
    rig.scheduler.begin()
    await settle()


async def test_a_run_that_is_over_is_in_nobodys_way_while_its_end_waits_for_the_commit(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_up = asyncio.Event()
    finish = rig.store.finish

    async def slow(ends: Sequence[Ended]) -> list[bool]:
        await held_up.wait()
        return await finish(ends)

    monkeypatch.setattr(rig.store, "finish", slow)
    await rig.begin(make_job(overlap=Overlap.SKIP))
    await advance(rig, MINUTE)
    await advance(rig, MINUTE)
    assert rig.executor.slots == [START + MINUTE, START + 2 * MINUTE]
    held_up.set()
    await settle()
    assert await rig.states("job") == [State.SUCCEEDED] * 2
