"""What happens while something else is under way: a commit, the wait for a retry, the last moment before a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from echosched.errors import ExecutionError, NotFound, OutputUnavailable, StoreError
from echosched.model import Attempt, Catchup, Job, Overlap, Result, State
from echosched.scheduler import alarm, core

from .conftest import AHEAD, START, Rig, advance, make_job, make_scheduler, settle

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
SOON = timedelta(seconds=0.1)  # well within what is claimed ahead
FAILED = Result(State.FAILED, 1, None, "exit code 1")


def fails_first(attempt: Attempt) -> Result | None:
    """Let run 1 fail at its first attempt; all else runs on."""
    return FAILED if (attempt.run, attempt.number) == (1, 1) else None


def hold_up(rig: Rig, monkeypatch: pytest.MonkeyPatch, what: str) -> asyncio.Event:
    """Let the store's *what* wait until the event is set."""
    gate = asyncio.Event()
    real: Callable[..., Awaitable[Any]] = getattr(rig.store, what)

    async def slow(items: Sequence[Any]) -> Any:
        await gate.wait()
        return await real(items)

    monkeypatch.setattr(rig.store, what, slow)
    return gate


def running(rig: Rig) -> list[int]:
    return [live.run for live in rig.scheduler.runs.running()]


# ── overlap ───────────────────────────────────────────────────────────────────────────────────


async def test_a_slot_is_skipped_for_a_manual_run_that_began_after_its_claim(early: Rig) -> None:
    early.executor.script = lambda attempt: None
    await early.begin(make_job(overlap=Overlap.SKIP))
    await advance(early, MINUTE - SOON)
    await early.scheduler.trigger("job")
    await advance(early, SOON)
    assert running(early) == [2]
    slot = await early.store.get_run(1)
    assert slot is not None
    assert (slot.state, slot.error) == (State.SKIPPED, "run 2 is still active (overlap skip)")
    assert "run_end" in early.sink.names()


@pytest.mark.parametrize("overlap", [Overlap.QUEUE, Overlap.QUEUE_ALL])
async def test_a_slot_waits_for_a_manual_run_that_began_after_its_claim(early: Rig, overlap: Overlap) -> None:
    early.executor.script = lambda attempt: None
    await early.begin(make_job(overlap=overlap))
    await advance(early, MINUTE - SOON)
    await early.scheduler.trigger("job")
    await advance(early, SOON)
    assert running(early) == [2]
    early.executor.started[0].end()
    await settle()
    assert running(early) == [1]


@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.QUEUE, Overlap.QUEUE_ALL])
@pytest.mark.parametrize("manual", [False, True])
async def test_the_next_attempt_waits_for_a_run_that_began_before_it(
    rig: Rig, overlap: Overlap, manual: bool
) -> None:
    rig.executor.script = fails_first
    await rig.begin(make_job(overlap=overlap, retries=1, retry_delay=MINUTE * 1.5))
    await advance(rig, MINUTE)
    if manual:
        await rig.scheduler.trigger("job")
    await advance(rig, MINUTE)  # the next slot
    await advance(rig, MINUTE * 0.75)  # the delay is over
    if overlap is Overlap.SKIP and not manual:
        assert running(rig) == [1]
        return
    assert running(rig) == [2]
    assert [(each.attempt.run, each.attempt.number) for each in rig.executor.started] == [(1, 1), (2, 1)]
    rig.executor.started[-1].end()
    await settle()
    assert running(rig) == [1]


async def test_who_waits_for_a_retry_is_not_queued(rig: Rig) -> None:
    rig.executor.script = fails_first
    await rig.begin(make_job(overlap=Overlap.QUEUE, retries=1, retry_delay=MINUTE * 10))
    await advance(rig, MINUTE)
    await advance(rig, MINUTE)
    await advance(rig, MINUTE)
    await advance(rig, MINUTE)
    # One runs, one is queued behind it, and the fourth finds both.
    assert await rig.states("job") == [State.QUEUED, State.RUNNING, State.QUEUED, State.SKIPPED]


async def test_runs_of_a_job_that_may_overlap_do(rig: Rig) -> None:
    rig.executor.script = lambda attempt: None
    await rig.begin(make_job(overlap=Overlap.ALLOW))
    await advance(rig, MINUTE)
    await advance(rig, MINUTE)
    assert running(rig) == [1, 2]


async def test_a_backlog_is_worked_off_one_by_one_beside_runs_that_may_overlap(rig: Rig) -> None:
    rig.executor.script = lambda attempt: None
    await rig.begin(make_job(overlap=Overlap.ALLOW, catchup=Catchup.ALL))
    rig.clock.advance(MINUTE * 3)  # three slots at once: a backlog
    await settle()
    assert running(rig) == [1]
    await advance(rig, MINUTE)
    assert running(rig) == [1, 4]
    rig.executor.started[0].end()
    await settle()
    assert running(rig) == [2, 4]  # though the job is never without a run


# ── the wait for the next attempt ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("change", ["pause", "schedule", "command"])
async def test_what_waits_for_its_next_attempt_is_not_taken_back(early: Rig, change: str) -> None:
    early.executor.script = fails_first
    job = make_job(retries=1, retry_delay=SECOND * 30)
    await early.begin(job)
    await advance(early, MINUTE - SOON)
    await advance(early, SOON)
    if change == "pause":
        await early.scheduler.roster.pause("job")
    else:
        new = "30 3 * * *" if change == "schedule" else "* * * * *"
        await early.scheduler.apply(
            {"job": make_job(schedule=new, retries=1, retry_delay=SECOND * 30, priority=5)}
        )
    await settle()
    await advance(early, SECOND * 31)
    assert [each.attempt.number for each in early.executor.started] == [1, 2]
    assert early.executor.started[-1].attempt.job is job


async def test_a_cancel_holds_while_a_failed_attempts_end_is_committed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.executor.script = lambda attempt: FAILED
    await rig.begin(make_job(schedule="0 0 1 1 *", retries=3, retry_delay=MINUTE * 10))
    gate = hold_up(rig, monkeypatch, "finish")
    run = await rig.scheduler.trigger("job")
    assert run is not None
    await settle()
    await rig.scheduler.cancel(run, "cancelled by an operator")
    gate.set()
    await settle()
    found = await rig.scheduler.wait(run)
    assert (found.state, found.error) == (State.CANCELLED, "cancelled by an operator")
    assert len(rig.executor.started) == 1
    with pytest.raises(NotFound):
        await rig.scheduler.cancel(run, "once more")


# ── a claim under way ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("jobs", "state", "reason"),
    [
        ([], State.CANCELLED, "its job was removed"),
        ([make_job(schedule="30 3 * * *")], State.SKIPPED, "its job was changed before it came"),
        ([make_job(enabled=False)], State.SKIPPED, "its job was changed before it came"),
    ],
)
async def test_a_reload_counts_for_what_is_being_claimed(
    early: Rig, monkeypatch: pytest.MonkeyPatch, jobs: list[Job], state: State, reason: str
) -> None:
    await early.begin(make_job())
    gate = hold_up(early, monkeypatch, "claim")
    await advance(early, MINUTE - SOON)
    await early.scheduler.apply({job.name: job for job in jobs})
    gate.set()
    await settle()
    await advance(early, SOON)
    assert early.executor.started == []
    [run] = await early.store.history(job="job")
    assert (run.state, run.error) == (state, reason)


async def test_a_reload_that_keeps_the_slot_lets_what_is_being_claimed_run_as_the_job_is_now(
    early: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await early.begin(make_job())
    gate = hold_up(early, monkeypatch, "claim")
    await advance(early, MINUTE - SOON)
    new = make_job(priority=5)
    await early.scheduler.apply({"job": new})
    gate.set()
    await settle()
    await advance(early, SOON)
    [execution] = early.executor.started
    assert execution.attempt.job is new


async def test_a_job_removed_while_its_slot_is_claimed_too_late_does_not_run(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.begin(make_job())
    gate = hold_up(rig, monkeypatch, "claim")
    await advance(rig, MINUTE)
    await rig.scheduler.apply({})
    gate.set()
    await settle()
    assert rig.executor.started == []
    assert await rig.states("job") == [State.CANCELLED]


class Bell:
    """A wake-up as the system's: it rings once, when somebody armed it."""

    def __init__(self, rig: Rig) -> None:
        self.at: float | None = None
        self.ring: Callable[[], None] = lambda: None
        self.rung_at: list[timedelta] = []
        self._rig = rig

    def arm(self, epoch: float | None) -> None:
        self.at = epoch

    def close(self) -> None:
        self.at = None

    async def pass_time(self, by: timedelta) -> None:
        """Let the time pass, to each instant for which the bell is set."""
        clock = self._rig.clock
        until = clock.now() + by
        while self.at is not None and (at := datetime.fromtimestamp(self.at, UTC)) <= until:
            clock.advance(max(at - clock.now(), timedelta(0)))
            self.at = None
            self.rung_at.append(clock.now() - START)
            self.ring()
            await settle()
        clock.advance(until - clock.now())
        await settle()


@pytest.fixture
def bell(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Bell:
    made = Bell(rig)

    def make_wakeup(_loop: Any, _clock: Any, on_wake: Callable[[], None]) -> Bell:
        made.ring = on_wake
        return made

    monkeypatch.setattr(alarm, "make_wakeup", make_wakeup)
    return made


def spread_out(rig: Rig, spread: dict[str, float]) -> tuple[Job, ...]:
    """Give *rig* a scheduler that claims early; return jobs that come so many seconds after the minute."""
    rig.scheduler = make_scheduler(
        rig.clock,
        rig.store,
        rig.sink,
        rig.executor,
        ahead=AHEAD.total_seconds(),
        jitter=lambda name, slot, jitter: spread[name],
    )
    return tuple(make_job(name, jitter=SECOND) for name in spread)


async def test_what_is_held_for_its_slot_does_not_wait_for_another_claim(
    rig: Rig, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.begin(*spread_out(rig, {"first": 0.0, "second": 0.12, "third": 0.30}))
    await bell.pass_time(MINUTE)  # the first one's instant; the second one is held
    gate = hold_up(rig, monkeypatch, "claim")
    await bell.pass_time(timedelta(seconds=0.1))  # the third one's claim begins, and hangs
    assert [each.attempt.job.name for each in rig.executor.started] == ["first"]
    await bell.pass_time(timedelta(seconds=0.02))
    assert [each.attempt.job.name for each in rig.executor.started] == ["first", "second"]
    gate.set()
    await settle()


async def test_a_moment_before_a_held_run_starts_is_rung_once_so_that_all_are_awake(
    rig: Rig, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    roused = []
    monkeypatch.setattr(rig.executor, "rouse", lambda: roused.append(rig.clock.now() - START), raising=False)
    jobs = spread_out(rig, {"first": 0.0, "soon": 0.004, "later": 0.1})
    await rig.begin(*jobs)
    early = timedelta(seconds=alarm.EARLY_SECONDS)
    tenth = timedelta(seconds=0.1)
    await bell.pass_time(MINUTE - early)
    assert rig.executor.started == []
    await bell.pass_time(early)
    assert [each.attempt.job.name for each in rig.executor.started] == ["first"]
    await bell.pass_time(tenth)
    assert [each.attempt.job.name for each in rig.executor.started] == ["first", "soon", "later"]
    assert roused == [MINUTE - early, MINUTE + tenth - early]  # for the second one all were awake
    assert bell.rung_at.count(MINUTE) == bell.rung_at.count(MINUTE + tenth) == 1


async def test_a_clock_that_was_set_back_does_not_take_a_sleeper_for_awake(
    rig: Rig, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    roused = []
    monkeypatch.setattr(rig.executor, "rouse", lambda: roused.append(rig.clock.now() - START), raising=False)
    await rig.begin(*spread_out(rig, {"job": 0.0}))
    await bell.pass_time(MINUTE)
    rig.clock.set(START - 10 * MINUTE)
    bell.ring()  # the kernel tells of it
    await settle()
    await bell.pass_time(MINUTE)  # to the next slot by the clock as it is now
    early = timedelta(seconds=alarm.EARLY_SECONDS)
    assert roused == [MINUTE - early, -9 * MINUTE - early]


# ── what the store refuses ────────────────────────────────────────────────────────────────────


def refuse(rig: Rig, monkeypatch: pytest.MonkeyPatch, what: str, name: str, times: int) -> None:
    """Let the store refuse *what* (once for each of *times*) if anything in it is of job *name*."""
    real: Callable[..., Awaitable[Any]] = getattr(rig.store, what)
    left = times

    async def picky(items: Sequence[Any]) -> Any:
        nonlocal left
        if left and any(item.job == name for item in items):
            left -= 1
            raise StoreError("it is not to my taste")
        return await real(items)

    monkeypatch.setattr(rig.store, what, picky)


async def test_an_end_that_the_store_refuses_costs_no_other(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.begin(*(make_job(name) for name in ("good", "bad", "better")))
    refuse(rig, monkeypatch, "finish", "bad", 2)
    await advance(rig, MINUTE)
    assert await rig.states("good") == await rig.states("better") == [State.SUCCEEDED]
    assert await rig.states("bad") == [State.RUNNING]
    # The next worker is to learn how it ended: nothing of it is let go.
    assert [(each.attempt.job.name, each.settled) for each in rig.executor.started] == [
        ("good", True),
        ("bad", False),
        ("better", True),
    ]


async def test_an_end_that_the_store_refuses_once_is_not_lost(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.begin(make_job())
    refuse(rig, monkeypatch, "finish", "job", 1)
    await advance(rig, MINUTE)
    assert await rig.states("job") == [State.SUCCEEDED]


async def test_a_start_that_the_store_refuses_gives_its_place_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.scheduler.runs.queue.max_concurrent = 1
    rig.executor.script = lambda attempt: None
    await rig.begin(make_job(schedule="0 0 1 1 *"), make_job("other", schedule="0 0 1 1 *"))
    await rig.scheduler.trigger("job")
    await rig.scheduler.trigger("job")  # waits for the first, without the right to start

    async def refuse_start(_runs: Sequence[int]) -> None:
        raise StoreError("it is not to my taste")

    monkeypatch.setattr(rig.store, "starting", refuse_start)
    await settle()
    rig.executor.started[0].end()
    await settle()
    await rig.scheduler.trigger("other")
    await settle()
    assert await rig.states("job") == [State.SUCCEEDED, State.FAILED]
    assert running(rig) == [3]


async def test_a_claim_that_the_store_refuses_costs_no_other_and_is_made_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "FAILED_PAUSE_SECONDS", 0.0)
    await rig.begin(*(make_job(name) for name in ("good", "bad", "better")))
    refuse(rig, monkeypatch, "claim", "bad", 2)
    await advance(rig, MINUTE)
    assert await rig.states("good") == await rig.states("better") == [State.SUCCEEDED]
    assert await rig.states("bad") == []
    await advance(rig, SECOND)
    assert await rig.states("bad") == [State.SUCCEEDED]
    assert {run.slot for run in await rig.store.history()} == {START + MINUTE}


# ── outputs that cannot be made ───────────────────────────────────────────────────────────────


async def test_an_attempt_whose_output_cannot_be_made_begins_once_more_with_a_spare_one(rig: Rig) -> None:
    def script(attempt: Attempt) -> Result | ExecutionError:
        usual = attempt.output_path is None or not attempt.output_path.startswith("/spare/")
        return OutputUnavailable("no room") if usual else FAILED

    rig.executor.script = script
    rig.scheduler.runs.spare_path = lambda run, attempt: f"/spare/{run}.{attempt}"
    await rig.begin(make_job(retries=1, retry_delay=SECOND))
    await advance(rig, MINUTE)
    await advance(rig, SECOND * 2)
    assert [each.attempt.output_path for each in rig.executor.started] == ["/spare/1.1", "/spare/1.2"]
    assert await rig.states("job") == [State.FAILED]


@pytest.mark.parametrize("spare", [None, lambda run, attempt: "/spare"])
async def test_an_attempt_that_finds_no_place_for_its_output_has_failed(rig: Rig, spare: Any) -> None:
    rig.executor.script = lambda attempt: OutputUnavailable("no room")
    rig.scheduler.runs.spare_path = spare
    await rig.begin(make_job())
    await advance(rig, MINUTE)
    [run] = await rig.store.history(job="job")
    assert (run.state, run.error) == (State.FAILED, "no room")
