"""Slots in, runs out: what fires, when, and what is recorded."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from echosched import events
from echosched.errors import Conflict, ExecutionError, NotFound, StoreUnavailable
from echosched.model import After, AfterWhen, Catchup, Overlap, Result, State, Trigger

from .conftest import START, Rig, make_job, settle

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
FAILED = Result(State.FAILED, 1, None, "exit code 1")


async def test_each_slot_runs_once_at_its_time(rig: Rig) -> None:
    await rig.begin(make_job())
    await rig.pass_time(5 * MINUTE)
    assert rig.executor.slots == [START + n * MINUTE for n in range(1, 6)]
    assert await rig.states("job") == [State.SUCCEEDED] * 5


async def test_a_job_first_seen_now_does_not_catch_up_its_past(rig: Rig) -> None:
    rig.clock.advance(timedelta(hours=10))
    await rig.begin(make_job(schedule="0 8 * * *"))
    await rig.pass_time(HOUR)
    assert rig.executor.slots == []


async def test_claim_is_told_before_start_and_end_after_commit(rig: Rig) -> None:
    await rig.begin(make_job())
    await rig.pass_time(MINUTE)
    assert rig.sink.names() == ["slot_claimed", "run_start", "run_end"]
    [execution] = rig.executor.started
    assert execution.settled


async def test_a_broken_schedule_is_parked_and_the_others_go_on(rig: Rig) -> None:
    class Broken:
        text = "broken"
        on_start: frozenset[str] = frozenset()

        def next_after(self, instant: datetime) -> datetime | None:
            raise ZeroDivisionError("boom")

    good, bad = make_job("good"), make_job("bad", None)
    object.__setattr__(bad, "schedule", Broken())
    await rig.begin(good, bad)
    await rig.pass_time(2 * MINUTE)
    [parked] = rig.sink.of(events.JobParked)
    assert parked.job == "bad"
    assert "boom" in parked.reason
    assert len(rig.executor.slots) == 2


async def test_an_attempt_that_cannot_start_is_a_failed_run_with_the_reason(rig: Rig) -> None:
    rig.executor.script = lambda attempt: ExecutionError("nosuch: not found")
    await rig.begin(make_job())
    await rig.pass_time(MINUTE)
    [run] = await rig.store.history(limit=5)
    assert (run.state, run.error) == (State.FAILED, "nosuch: not found")


# ── catch-up ──────────────────────────────────────────────────────────────────────────────────


async def missed_hour(rig: Rig, **policy: Any) -> None:
    job = make_job(schedule="*/10 * * * *", **policy)
    await rig.begin(job)
    await rig.scheduler.quiesce()
    rig.clock.advance(HOUR + timedelta(minutes=5))
    await rig.restart(job)
    for _ in range(10):
        await rig.pass_time(timedelta(seconds=1))


async def test_catchup_last_runs_the_newest_missed_slot_and_records_the_others(rig: Rig) -> None:
    await missed_hour(rig)
    assert rig.executor.slots == [START + HOUR]
    runs = list(reversed(await rig.store.history(limit=20)))
    assert [run.state for run in runs] == [State.MISSED] * 5 + [State.SUCCEEDED]
    assert runs[-1].trigger is Trigger.CATCHUP
    assert "coalesced" in (runs[0].error or "")


async def test_catchup_none_runs_nothing_and_records_all(rig: Rig) -> None:
    await missed_hour(rig, catchup=Catchup.NONE)
    assert rig.executor.slots == []
    assert await rig.states("job") == [State.MISSED] * 6


async def test_catchup_all_runs_every_slot_in_order(rig: Rig) -> None:
    await missed_hour(rig, catchup=Catchup.ALL)
    assert rig.executor.slots == [START + n * timedelta(minutes=10) for n in range(1, 7)]


async def test_catchup_all_drops_no_slot_of_an_outage_of_seconds(rig: Rig) -> None:
    job = make_job(schedule="every 1s", catchup=Catchup.ALL)
    await rig.begin(job)
    await rig.scheduler.quiesce()
    rig.clock.advance(timedelta(seconds=6))
    await rig.restart(job)
    for _ in range(10):
        await rig.pass_time(timedelta(milliseconds=90))
    assert rig.executor.slots == [START + timedelta(seconds=n) for n in range(1, 7)]


async def test_many_catchups_at_once_start_staggered_and_oldest_first(rig: Rig) -> None:
    # The hourly job was missed first, but what it runs now is its newest slot.
    jobs = [
        make_job("hourly", "0 * * * *"),
        *(make_job(f"at{hour}", f"30 {hour} * * *") for hour in range(1, 11)),
    ]
    await rig.begin(*reversed(jobs))
    await rig.scheduler.quiesce()
    rig.clock.advance(timedelta(hours=11, minutes=45))
    await rig.restart(*reversed(jobs))
    for _ in range(20):
        await rig.pass_time(timedelta(milliseconds=40))
    slots = [slot for slot in rig.executor.slots if slot is not None]
    assert len(slots) == len(jobs)
    assert slots == sorted(slots)
    starts = [execution.started_at for execution in rig.executor.started]
    assert all(later - earlier >= timedelta(milliseconds=40) for earlier, later in pairwise(starts))


async def test_catchup_reaches_no_further_back_than_its_window(rig: Rig) -> None:
    await missed_hour(rig, catchup=Catchup.ALL, catchup_window=timedelta(minutes=30))
    assert rig.executor.slots == [START + timedelta(minutes=n) for n in (40, 50, 60)]
    assert await rig.states("job") == [State.MISSED] * 3 + [State.SUCCEEDED] * 3


async def test_a_slot_late_by_seconds_is_no_misfire_even_without_catchup(rig: Rig) -> None:
    job = make_job(catchup=Catchup.NONE)
    await rig.begin(job)
    await rig.scheduler.quiesce()
    rig.clock.advance(MINUTE + timedelta(seconds=20))
    await rig.restart(job)
    assert rig.executor.slots == [START + MINUTE]


async def test_ten_thousand_missed_slots_have_a_row_each(rig: Rig) -> None:
    job = make_job()
    await rig.begin(job)
    await rig.scheduler.quiesce()
    rig.clock.advance(timedelta(minutes=10_000))
    await rig.restart(job)
    async with asyncio.timeout(30):
        while len(states := await rig.states("job")) < 10_000:
            await settle()
    assert states.count(State.MISSED) == 9_999


async def test_a_paused_job_owes_nothing_for_the_pause(rig: Rig) -> None:
    await rig.begin(make_job())
    assert await rig.scheduler.roster.pause("job")
    assert not await rig.scheduler.roster.pause("job")
    await rig.pass_time(HOUR)
    assert await rig.scheduler.roster.resume("job")
    await rig.pass_time(MINUTE)
    assert rig.executor.slots == [START + HOUR + MINUTE]
    assert [event.job for event in rig.sink.of(events.JobPaused)] == ["job"]


async def test_a_pause_survives_a_restart(rig: Rig) -> None:
    await rig.begin(make_job())
    await rig.scheduler.roster.pause("job")
    await rig.restart()
    await rig.pass_time(HOUR)
    assert rig.executor.slots == []
    assert rig.scheduler.roster.entry("job").paused


# ── overlap ───────────────────────────────────────────────────────────────────────────────────


async def busy(rig: Rig, overlap: Overlap, minutes: int = 4) -> None:
    rig.executor.script = lambda attempt: None
    await rig.begin(make_job(overlap=overlap))
    await rig.pass_time(minutes * MINUTE)


async def test_overlap_skip_records_the_slot_with_its_reason(rig: Rig) -> None:
    await busy(rig, Overlap.SKIP)
    assert await rig.states("job") == [State.RUNNING] + [State.SKIPPED] * 3
    assert "run 1 is still active" in rig.sink.of(events.RunSkipped)[0].reason


async def test_overlap_queue_keeps_one_and_skips_the_rest(rig: Rig) -> None:
    await busy(rig, Overlap.QUEUE)
    assert await rig.states("job") == [State.RUNNING, State.QUEUED, State.SKIPPED, State.SKIPPED]
    rig.executor.started[0].end()
    await settle()
    assert rig.executor.slots == [START + MINUTE, START + 2 * MINUTE]


async def test_overlap_queue_all_runs_them_one_after_another(rig: Rig) -> None:
    await busy(rig, Overlap.QUEUE_ALL)
    for n in range(4):
        assert len(rig.executor.started) == n + 1
        rig.executor.started[n].end()
        await settle()
    assert rig.executor.slots == [START + n * MINUTE for n in range(1, 5)]


async def test_overlap_replace_cancels_the_running_one(rig: Rig) -> None:
    await busy(rig, Overlap.REPLACE, 2)
    assert await rig.states("job") == [State.CANCELLED, State.RUNNING]
    assert "replaced" in (rig.executor.started[0].cancelled or "")


async def test_overlap_allow_runs_side_by_side(rig: Rig) -> None:
    await busy(rig, Overlap.ALLOW)
    assert await rig.states("job") == [State.RUNNING] * 4


async def test_max_concurrent_queues_and_the_highest_priority_starts_first(rig: Rig) -> None:
    rig.executor.script = lambda attempt: None
    rig.scheduler.runs.queue.max_concurrent = 1
    await rig.begin(make_job("a"), make_job("b"), make_job("urgent", priority=5))
    await rig.pass_time(MINUTE)
    assert [execution.attempt.job.name for execution in rig.executor.started] == ["urgent"]
    rig.executor.started[0].end()
    await settle()
    assert rig.executor.started[1].attempt.job.name == "a"


async def test_a_concurrency_group_limits_across_jobs(rig: Rig) -> None:
    rig.executor.script = lambda attempt: None
    jobs = [make_job(name, concurrency_group="db", concurrency_limit=2) for name in "abc"]
    await rig.begin(*jobs, make_job("free"))
    await rig.pass_time(MINUTE)
    assert sorted(execution.attempt.job.name for execution in rig.executor.started) == ["a", "b", "free"]
    rig.executor.started[0].end()
    await settle()
    assert rig.executor.started[-1].attempt.job.name == "c"


# ── retries ───────────────────────────────────────────────────────────────────────────────────


async def test_retries_follow_with_backoff_and_keep_the_run_number(rig: Rig) -> None:
    rig.executor.script = lambda attempt: FAILED if attempt.number < 3 else Result(State.SUCCEEDED, 0)
    await rig.begin(make_job(schedule="0 0 1 4 *", retries=3, retry_delay=timedelta(seconds=10)))
    number = await rig.scheduler.trigger("job")
    await settle()
    assert len(rig.executor.started) == 1
    await rig.pass_time(timedelta(seconds=10))
    assert len(rig.executor.started) == 2
    await rig.pass_time(timedelta(seconds=15))
    assert len(rig.executor.started) == 2  # 20 s, less at most a tenth
    await rig.pass_time(timedelta(seconds=6))
    assert [execution.attempt.number for execution in rig.executor.started] == [1, 2, 3]
    assert number is not None
    run = await rig.store.get_run(number)
    assert run is not None
    assert (run.state, run.attempt, len(run.attempts)) == (State.SUCCEEDED, 3, 2)
    assert len(rig.sink.of(events.RunRetry)) == 2


@pytest.mark.parametrize("step", [timedelta(hours=-2), timedelta(hours=2)])
async def test_a_step_of_the_clock_moves_no_retry(rig: Rig, step: timedelta) -> None:
    rig.executor.script = lambda attempt: FAILED if attempt.number < 2 else Result(State.SUCCEEDED, 0)
    await rig.begin(make_job(schedule="0 0 1 4 *", retries=1, retry_delay=timedelta(seconds=10)))
    await rig.scheduler.trigger("job")
    await settle()
    rig.clock.set(rig.clock.now() + step)
    await settle()
    await rig.pass_time(timedelta(seconds=8))
    assert len(rig.executor.started) == 1
    await rig.pass_time(timedelta(seconds=3))
    assert len(rig.executor.started) == 2


async def test_retries_end_with_the_last_failure(rig: Rig) -> None:
    rig.executor.script = lambda attempt: FAILED
    await rig.begin(make_job(schedule=None, retries=1, retry_delay=timedelta(seconds=1)))
    await rig.scheduler.trigger("job")
    await settle()
    await rig.pass_time(timedelta(seconds=2))
    assert await rig.states("job") == [State.FAILED]
    assert len(rig.sink.of(events.RunEnd)) == 1


async def test_a_run_waiting_for_its_retry_can_be_cancelled(rig: Rig) -> None:
    rig.executor.script = lambda attempt: FAILED
    await rig.begin(make_job(schedule=None, retries=1, retry_delay=HOUR))
    number = await rig.scheduler.trigger("job")
    await settle()
    assert number is not None
    rig.scheduler.runs.cancel(number, "no more")
    await settle()
    assert await rig.states("job") == [State.CANCELLED]
    await rig.pass_time(2 * HOUR)
    assert len(rig.executor.started) == 1


# ── manual runs, chains, waiting ──────────────────────────────────────────────────────────────


async def test_a_manual_run_waits_for_an_active_one(rig: Rig) -> None:
    rig.executor.script = lambda attempt: None
    await rig.begin(make_job(schedule=None))
    first, second = await rig.scheduler.trigger("job"), await rig.scheduler.trigger("job")
    await settle()
    assert (first, second) == (1, 2)
    assert len(rig.executor.started) == 1
    rig.executor.started[0].end()
    await settle()
    assert len(rig.executor.started) == 2


async def test_an_unknown_job_is_named_with_the_nearest(rig: Rig) -> None:
    await rig.begin(make_job("brief", None))
    with pytest.raises(NotFound, match="did you mean brief"):
        await rig.scheduler.trigger("brif")


@pytest.mark.parametrize(
    ("when", "outcome", "follows"),
    [
        (AfterWhen.SUCCESS, Result(State.SUCCEEDED, 0), True),
        (AfterWhen.SUCCESS, FAILED, False),
        (AfterWhen.FAILURE, FAILED, True),
        (AfterWhen.FAILURE, Result(State.SUCCEEDED, 0), False),
        (AfterWhen.ANY, FAILED, True),
    ],
)
async def test_after_follows_the_outcomes_it_wants(
    rig: Rig, when: AfterWhen, outcome: Result, follows: bool
) -> None:
    rig.executor.script = lambda attempt: (
        outcome if attempt.job.name == "first" else Result(State.SUCCEEDED, 0)
    )
    await rig.begin(make_job("first"), make_job("then", None, after=After("first", when)))
    await rig.pass_time(MINUTE)
    await settle()
    assert ("then" in {execution.attempt.job.name for execution in rig.executor.started}) is follows
    if follows:
        [run] = await rig.store.history(job="then")
        assert (run.trigger, run.slot) == (Trigger.AFTER, START + MINUTE)


async def test_wait_returns_the_run_when_it_has_ended(rig: Rig) -> None:
    rig.executor.script = lambda attempt: None
    await rig.begin(make_job(schedule=None))
    number = await rig.scheduler.trigger("job")
    assert number is not None
    waiting = asyncio.create_task(rig.scheduler.runs.wait(number))
    await settle()
    assert not waiting.done()
    rig.executor.started[0].end()
    run = await waiting
    assert run.state is State.SUCCEEDED


# ── clocks ────────────────────────────────────────────────────────────────────────────────────


async def test_a_clock_set_back_doubles_nothing(rig: Rig) -> None:
    await rig.begin(make_job())
    await rig.pass_time(10 * MINUTE)
    rig.clock.set(rig.clock.now() - 5 * MINUTE)
    await settle()
    await rig.pass_time(10 * MINUTE)
    slots = rig.executor.slots
    assert slots == [START + n * MINUTE for n in range(1, 16)]
    [jump] = rig.sink.of(events.ClockJump)
    assert jump.seconds == pytest.approx(-300)
    assert not jump.suspended


async def test_a_clock_set_forward_is_caught_up_by_policy(rig: Rig) -> None:
    await rig.begin(make_job(schedule="*/10 * * * *"))
    rig.clock.set(START + HOUR)
    await settle()
    for _ in range(5):
        await rig.pass_time(timedelta(seconds=1))
    assert rig.executor.slots == [START + HOUR]
    assert len(await rig.states("job")) == 6


async def test_a_suspend_is_told_apart_from_a_step(rig: Rig) -> None:
    await rig.begin(make_job())
    rig.clock.suspend(HOUR)
    await settle()
    [jump] = rig.sink.of(events.ClockJump)
    assert jump.suspended


async def test_a_boot_in_1970_fires_nothing_twice_once_the_clock_is_right(rig: Rig) -> None:
    job = make_job(schedule="0 * * * *")
    await rig.begin(job)
    await rig.pass_time(2 * HOUR)
    now = rig.clock.now()
    await rig.scheduler.quiesce()
    rig.clock.set(datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC))
    await rig.restart(job)
    await rig.pass_time(timedelta(seconds=30))
    rig.clock.set(now + MINUTE)
    await settle()
    await rig.pass_time(HOUR)
    real = [slot for slot in rig.executor.slots if slot is not None and slot.year == 2026]
    assert real == [START + n * HOUR for n in range(1, 4)]


# ── reload ────────────────────────────────────────────────────────────────────────────────────


async def test_a_reload_leaves_unchanged_jobs_and_their_timers_alone(rig: Rig) -> None:
    await rig.begin(make_job("same"), make_job("gone"))
    entry = rig.scheduler.roster.entry("same")
    slot = entry.slot
    event = await rig.scheduler.apply({"same": make_job("same"), "new": make_job("new")})
    assert rig.scheduler.roster.entry("same") is entry
    assert entry.slot == slot
    assert (event.added, event.removed, event.changed) == (("new",), ("gone",), ())
    await rig.pass_time(MINUTE)
    assert sorted(e.attempt.job.name for e in rig.executor.started) == ["new", "same"]


async def test_a_rescheduled_job_does_not_catch_up_what_its_new_schedule_missed(rig: Rig) -> None:
    rig.clock.advance(timedelta(hours=10))
    await rig.begin(make_job(schedule="0 12 * * *"))
    await rig.scheduler.apply({"job": make_job(schedule="0 8 * * *")})
    await rig.pass_time(HOUR)
    assert rig.executor.slots == []


async def test_removing_a_job_lets_its_running_attempt_end_and_cancels_queued_ones(rig: Rig) -> None:
    await busy(rig, Overlap.QUEUE, 2)
    await rig.scheduler.apply({})
    await settle()
    assert await rig.states("job") == [State.RUNNING, State.CANCELLED]
    rig.executor.started[0].end()
    await settle()
    assert await rig.states("job") == [State.SUCCEEDED, State.CANCELLED]


async def test_disabled_and_enabled_again_owes_nothing_in_between(rig: Rig) -> None:
    await rig.begin(make_job())
    await rig.scheduler.apply({"job": make_job(enabled=False)})
    await rig.pass_time(HOUR)
    await rig.scheduler.apply({"job": make_job()})
    await rig.pass_time(MINUTE)
    assert rig.executor.slots == [START + HOUR + MINUTE]


async def test_a_reload_that_cannot_be_saved_is_in_force_and_saved_by_the_next(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await busy(rig, Overlap.QUEUE, 2)
    jobs = {"new": make_job("new"), "newer": make_job("newer", "0 * * * *")}

    async def away(records: Any) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(rig.store, "save_jobs", away)
        with pytest.raises(StoreUnavailable):
            await rig.scheduler.apply(jobs)
    await settle()
    assert await rig.states("job") == [State.RUNNING, State.CANCELLED], "what was removed is taken back"
    await rig.pass_time(MINUTE)
    assert "new" in [e.attempt.job.name for e in rig.executor.started]
    assert "newer" not in await rig.store.load_jobs()
    await rig.scheduler.apply(jobs)
    assert {"new", "newer"} <= set(await rig.store.load_jobs())
    assert not rig.scheduler.roster.owes


# ── stopping ──────────────────────────────────────────────────────────────────────────────────


async def test_a_stop_without_running_jobs_returns_at_once_and_starts_nothing_more(rig: Rig) -> None:
    await rig.begin(make_job())
    await rig.scheduler.stop(10.0)
    with pytest.raises(Conflict):
        await rig.scheduler.trigger("job")


async def test_a_stop_cancels_what_outlives_the_grace(rig: Rig) -> None:
    await busy(rig, Overlap.SKIP, 1)
    await rig.scheduler.stop(0.0)
    assert await rig.states("job") == [State.CANCELLED]
    assert rig.executor.started[0].settled


async def test_jitter_moves_the_start_and_not_the_slot(rig: Rig) -> None:
    rig.scheduler.roster._jitter = lambda name, slot, jitter: 7.0
    await rig.begin(make_job(jitter=timedelta(seconds=10)))
    await rig.pass_time(MINUTE + timedelta(seconds=6))
    assert rig.executor.slots == []
    await rig.pass_time(timedelta(seconds=1))
    [execution] = rig.executor.started
    assert execution.attempt.slot == START + MINUTE
    assert execution.started_at == START + MINUTE + timedelta(seconds=7)


async def test_an_interval_keeps_its_anchor_over_a_restart(rig: Rig) -> None:
    job = make_job(schedule="every 7m")
    await rig.begin(job)
    await rig.pass_time(10 * MINUTE)
    await rig.restart(job)
    await rig.pass_time(5 * MINUTE)
    assert rig.executor.slots == [START + 7 * MINUTE, START + 14 * MINUTE]


async def test_a_year_of_daily_slots_passes_in_a_moment(rig: Rig) -> None:
    await rig.begin(make_job(schedule="30 2 * * *", timezone="Europe/Berlin"))
    await rig.pass_time(timedelta(days=365))
    assert len(rig.executor.slots) == 365
    assert await rig.states("job") == [State.SUCCEEDED] * 365


async def test_a_running_job_does_not_give_way_to_a_slot_that_comes_due_again(rig: Rig) -> None:
    rig.executor.script = lambda attempt: None
    await rig.begin(make_job(overlap=Overlap.REPLACE))
    await rig.pass_time(timedelta(minutes=1))
    rig.clock.set(rig.clock.now() - timedelta(seconds=30))
    await settle()
    await rig.pass_time(timedelta(seconds=40))
    [execution] = rig.executor.started
    assert execution.cancelled is None


async def test_a_slot_that_was_due_when_the_clock_was_set_back_is_not_stepped_over(rig: Rig) -> None:
    await rig.begin(make_job())
    rig.clock.advance(timedelta(seconds=90))  # due for half a minute: the loop was busy
    rig.clock.set(rig.clock.now() - timedelta(seconds=20))
    await settle()
    assert rig.executor.slots == [START + timedelta(minutes=1)]


async def test_a_clock_that_was_half_a_century_wrong_leaves_no_row_for_each_minute(rig: Rig) -> None:
    rig.clock.set(datetime(1970, 1, 1, tzinfo=UTC))
    await rig.restart(make_job())
    await rig.pass_time(timedelta(minutes=2))
    rig.clock.set(START)
    await settle()
    await rig.pass_time(timedelta(minutes=2))
    minute = timedelta(minutes=1)
    assert rig.executor.slots[-2:] == [START + minute, START + 2 * minute]
    assert len(rig.executor.slots) == 4
    assert len(await rig.store.history(limit=1000)) == 4
    [job] = (await rig.store.load_jobs()).values()
    assert job.cursor_at >= START
