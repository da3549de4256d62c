"""What a new worker makes of an earlier one's runs: adopt, record, start, abandon."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from echosched import events
from echosched.model import (
    After,
    AfterWhen,
    Attempt,
    Claim,
    Ended,
    OnAbandoned,
    ProcessIdentity,
    Result,
    Started,
    State,
    Trigger,
)
from echosched.scheduler.recovery import Evidence, account_for_blind_time, follow_up, recover
from tests.scripted import ScriptedExecution

from .conftest import START, Rig, make_job, settle

MINUTE = timedelta(minutes=1)
PROCESS = ProcessIdentity(4711, 99)


class Scene:
    """A store with one run of ``job`` left over, and what the system knows about it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.adopted: list[ScriptedExecution] = []
        self.facts: dict[str, Any] = {
            "same_boot": True,
            "held": {},
            "find": lambda attempt: None,
            "began": lambda run, attempt: False,
        }

    async def leave(self, state: State, *, started: ProcessIdentity | None = None, **job: Any) -> int:
        self.job = make_job(**job)
        claim = Claim("job", START + MINUTE, Trigger.SCHEDULE, state, START + MINUTE)
        [number] = await self.rig.store.claim([claim])
        assert number is not None
        if started is not None:
            self.rig.store.started([Started(number, 1, START + MINUTE, started)])
        self.rig.clock.advance(2 * MINUTE)
        return number

    async def recover(self, *, blind: bool = False) -> None:
        def adopt(attempt: Attempt, process: ProcessIdentity) -> ScriptedExecution:
            self.adopted.append(ScriptedExecution(attempt, self.rig.clock.now(), None))
            return self.adopted[-1]

        scheduler = self.rig.scheduler
        await scheduler.load({"job": self.job})
        evidence = Evidence(adopt=adopt, output_path=lambda run, attempt: None, **self.facts)
        await recover(scheduler, evidence, self.rig.clock.now() if blind else None)
        scheduler.runs.starting = True
        scheduler.runs.pump()
        await settle()

    async def state(self) -> State:
        [run] = await self.rig.store.history(job="job")
        return run.state


@pytest.fixture
def scene(rig: Rig) -> Scene:
    return Scene(rig)


async def test_a_process_that_the_supervisor_holds_is_adopted(scene: Scene) -> None:
    number = await scene.leave(State.RUNNING)
    scene.facts["held"] = {f"{number}.1": PROCESS}
    await scene.recover()
    [event] = scene.rig.sink.of(events.RunAdopted)
    assert event.pid == 4711
    scene.adopted[0].end(State.FAILED, 3)
    await settle()
    assert await scene.state() is State.FAILED
    assert scene.adopted[0].settled


async def test_a_recorded_process_is_adopted_even_when_the_supervisor_died_too(scene: Scene) -> None:
    await scene.leave(State.RUNNING, started=PROCESS)
    scene.facts["began"] = lambda run, attempt: True
    await scene.recover()
    assert len(scene.adopted) == 1


async def test_a_marked_process_is_found_where_no_pid_was_recorded(scene: Scene) -> None:
    await scene.leave(State.RUNNING)
    scene.facts.update(began=lambda run, attempt: True, find=lambda attempt: PROCESS)
    await scene.recover()
    assert len(scene.adopted) == 1


async def test_an_answer_left_behind_is_the_outcome(scene: Scene) -> None:
    await scene.leave(State.RUNNING)
    answer = Result(State.FAILED, error="HTTP status 503")
    scene.facts.update(
        same_boot=False,
        began=lambda run, attempt: True,
        past=lambda attempt: ScriptedExecution(attempt, START + MINUTE, answer),
    )
    await scene.recover()
    [run] = await scene.rig.store.history(job="job")
    assert (run.state, run.error) == (State.FAILED, "HTTP status 503")
    assert scene.rig.sink.of(events.RunAdopted) == []
    assert scene.rig.executor.slots == []


@pytest.mark.parametrize("allowed", [True, False])
async def test_what_ended_with_the_worker_begins_anew_if_it_may(scene: Scene, allowed: bool) -> None:
    asked = []

    async def again(attempt: Attempt) -> bool:
        asked.append(attempt.tag)
        return allowed

    number = await scene.leave(State.RUNNING)
    scene.facts.update(began=lambda run, attempt: True, again=again)
    await scene.recover()
    assert asked == [f"{number}.1"]
    [run] = await scene.rig.store.history(job="job")
    assert run.attempt == 1
    assert run.state is (State.SUCCEEDED if allowed else State.ABANDONED)


async def test_a_file_proves_the_start_of_what_discards_its_output_only_where_it_makes_one(
    scene: Scene,
) -> None:
    await scene.leave(State.RUNNING, output=False)
    scene.facts["traced"] = lambda job: True
    await scene.recover()
    assert await scene.state() is State.SUCCEEDED


async def test_what_never_began_is_started_now(scene: Scene) -> None:
    await scene.leave(State.RUNNING)
    await scene.recover()
    assert scene.rig.executor.slots == [START + MINUTE]
    assert await scene.state() is State.SUCCEEDED


async def test_what_began_and_left_no_trace_is_abandoned(scene: Scene) -> None:
    await scene.leave(State.RUNNING)
    scene.facts["began"] = lambda run, attempt: True
    await scene.recover()
    assert await scene.state() is State.ABANDONED
    assert scene.rig.executor.started == []
    assert scene.rig.sink.of(events.RunAbandoned)


async def test_an_abandoned_run_is_retried_where_the_job_says_so(scene: Scene) -> None:
    await scene.leave(State.RUNNING, on_abandoned=OnAbandoned.RETRY)
    scene.facts["began"] = lambda run, attempt: True
    await scene.recover()
    assert await scene.state() is State.SUCCEEDED
    assert scene.rig.executor.started[0].attempt.number == 2


async def test_after_a_reboot_nothing_is_adopted_and_what_may_have_begun_is_abandoned(scene: Scene) -> None:
    await scene.leave(State.RUNNING, started=PROCESS)
    scene.facts["same_boot"] = False
    await scene.recover()
    assert scene.adopted == []
    assert await scene.state() is State.ABANDONED


async def test_after_a_reboot_what_was_only_queued_is_started(scene: Scene) -> None:
    await scene.leave(State.QUEUED)
    scene.facts["same_boot"] = False
    await scene.recover()
    assert await scene.state() is State.SUCCEEDED


async def test_a_queued_run_older_than_the_window_is_missed(scene: Scene) -> None:
    await scene.leave(State.QUEUED, catchup_window=timedelta(seconds=30))
    await scene.recover()
    assert await scene.state() is State.MISSED


async def test_a_queued_run_of_a_removed_job_is_cancelled_and_a_running_one_ends(scene: Scene) -> None:
    queued = await scene.leave(State.QUEUED)
    claim = Claim("gone", START, Trigger.SCHEDULE, State.RUNNING, START)
    [running] = await scene.rig.store.claim([claim])
    scene.facts["held"] = {f"{running}.1": PROCESS}
    scene.job = make_job("other")
    await scene.recover()
    run = await scene.rig.store.get_run(queued)
    assert run is not None
    assert run.state is State.CANCELLED
    scene.adopted[0].end()
    await settle()
    [gone] = await scene.rig.store.history(job="gone")
    assert gone.state is State.SUCCEEDED


async def test_slots_of_a_blind_time_are_abandoned_and_not_caught_up(rig: Rig) -> None:
    job = make_job()
    await rig.begin(job)
    await rig.pass_time(2 * MINUTE)
    await rig.scheduler.quiesce()
    blind = rig.clock.now()
    rig.clock.advance(3 * MINUTE)
    rig.scheduler = type(rig.scheduler)(
        store=rig.store, executor=rig.executor, clock=rig.clock, sinks=[rig.sink]
    )
    await rig.scheduler.load({"job": job})
    await account_for_blind_time(rig.scheduler, blind)
    rig.scheduler.begin()
    await settle()
    assert await rig.states("job") == [State.SUCCEEDED] * 2 + [State.ABANDONED] * 3
    await rig.pass_time(MINUTE)
    assert len(rig.executor.slots) == 3


async def test_slots_of_a_blind_time_that_are_to_run_again_do_so_once(rig: Rig) -> None:
    scene = Scene(rig)
    scene.job = make_job(on_abandoned=OnAbandoned.RETRY)
    await rig.scheduler.load({"job": scene.job})
    blind = rig.clock.now()
    rig.clock.advance(3 * MINUTE)
    await account_for_blind_time(rig.scheduler, blind)
    await scene.recover()  # which finds them among the active rows
    await rig.pass_time(timedelta(seconds=10))
    assert sorted(rig.executor.slots) == [START + n * MINUTE for n in (1, 2, 3)]


@pytest.mark.parametrize("when", [AfterWhen.SUCCESS, AfterWhen.FAILURE, AfterWhen.ANY])
async def test_what_may_have_followed_in_a_blind_time_does_not_follow_again(
    rig: Rig, when: AfterWhen
) -> None:
    """The first run's end was written, its follower's was not; later ones are hidden altogether."""
    jobs = [
        make_job("first"),
        make_job("then", None, after=After("first", when)),
        make_job("last", None, after=After("then", AfterWhen.ANY)),
    ]
    await rig.begin(*jobs)
    await rig.scheduler.quiesce()
    blind = rig.clock.now()
    state = State.FAILED if when is AfterWhen.FAILURE else State.SUCCEEDED
    claim = Claim("first", START + MINUTE, Trigger.SCHEDULE, State.RUNNING, START + MINUTE)
    [number] = await rig.store.claim([claim])
    assert number is not None
    await rig.store.finish([Ended(number, "first", 1, START + MINUTE, Result(state, 0))])
    rig.clock.advance(3 * MINUTE)
    rig.scheduler = type(rig.scheduler)(
        store=rig.store, executor=rig.executor, clock=rig.clock, sinks=[rig.sink]
    )
    await rig.scheduler.load({job.name: job for job in jobs})
    await account_for_blind_time(rig.scheduler, blind)
    rig.scheduler.begin()
    await follow_up(rig.scheduler)
    await settle()
    assert rig.executor.slots == []
    for follower in ("then", "last"):
        rows = await rig.store.history(job=follower)
        assert {run.state for run in rows} == {State.ABANDONED}
        assert len(rows) == 3
        assert all(run.error for run in rows)


async def test_what_may_have_followed_a_run_that_ended_unseen_in_a_blind_time_has_a_row(scene: Scene) -> None:
    number = await scene.leave(State.RUNNING, started=PROCESS)
    then = make_job("then", None, after=After("job"))
    scene.facts["began"] = lambda run, attempt: True
    scene.facts["same_boot"] = False
    scheduler = scene.rig.scheduler
    await scheduler.load({"job": scene.job, "then": then})
    evidence = Evidence(
        adopt=lambda attempt, process: pytest.fail("it is gone"),
        output_path=lambda run, attempt: None,
        **scene.facts,
    )
    await recover(scheduler, evidence, START)
    scheduler.begin()
    await follow_up(scheduler)
    await settle()
    run = await scene.rig.store.get_run(number)
    assert run is not None
    assert run.state is State.ABANDONED
    [row] = await scene.rig.store.history(job="then")
    assert (row.slot, row.state) == (START + MINUTE, State.ABANDONED)
    assert "nobody knows" in (row.error or "")


async def test_a_chain_broken_by_a_crash_is_taken_up_once(rig: Rig) -> None:
    first, then = make_job("first"), make_job("then", None, after=After("first"))
    await rig.begin(first, then)
    await rig.pass_time(MINUTE)
    await settle()
    assert len(await rig.states("then")) == 1
    # The next run of the first job ends, and the crash comes before its follower is claimed.
    await rig.scheduler.quiesce()
    claim = Claim("first", START + 2 * MINUTE, Trigger.SCHEDULE, State.RUNNING, START + 2 * MINUTE)
    [number] = await rig.store.claim([claim])
    assert number is not None
    await rig.store.finish([Ended(number, "first", 1, START + 2 * MINUTE, Result(State.SUCCEEDED, 0))])
    rig.clock.advance(MINUTE + timedelta(seconds=30))
    await rig.restart()
    await follow_up(rig.scheduler)
    await follow_up(rig.scheduler)
    await settle()
    assert [run.slot for run in reversed(await rig.store.history(job="then"))] == [
        START + MINUTE,
        START + 2 * MINUTE,
    ]


async def test_a_retry_that_comes_too_late_is_a_failure_and_not_a_missed_slot(scene: Scene) -> None:
    number = await scene.leave(State.RUNNING, retries=1)
    failed = Result(State.FAILED, 1)
    await scene.rig.store.finish([Ended(number, "job", 1, START, failed, START + MINUTE)])
    scene.rig.clock.advance(timedelta(days=2))
    await scene.recover()
    assert await scene.state() is State.FAILED


@pytest.mark.parametrize(
    ("before", "blind", "after"),
    [
        (State.RUNNING, False, State.SUCCEEDED),
        (State.RUNNING, True, State.ABANDONED),  # its file may have gone down with the filesystem
        (State.QUEUED, True, State.SUCCEEDED),
    ],
)
async def test_a_missing_output_file_proves_nothing_after_bad_times(
    scene: Scene, before: State, blind: bool, after: State
) -> None:
    await scene.leave(before)
    await scene.recover(blind=blind)
    assert await scene.state() is after


async def crash_behind_an_end(rig: Rig, slot: datetime, ended_at: datetime) -> list[datetime | None]:
    """Let ``first``'s run for *slot* end, and the worker before ``then`` follows; return what the next one has."""
    await rig.scheduler.quiesce()
    [number] = await rig.store.claim([Claim("first", slot, Trigger.SCHEDULE, State.RUNNING, slot)])
    assert number is not None
    await rig.store.finish([Ended(number, "first", 1, ended_at, Result(State.SUCCEEDED, 0))])
    await rig.restart()
    await follow_up(rig.scheduler)
    await settle()
    return [run.slot for run in await rig.store.history(job="then")]


async def test_what_was_not_followed_before_a_crash_is_though_a_later_slot_was(rig: Rig) -> None:
    await rig.begin(make_job("first", "0 * * * *"), make_job("then", None, after=After("first")))
    await rig.pass_time(timedelta(hours=1))
    hour = START + timedelta(hours=1)
    assert [run.slot for run in await rig.store.history(job="then")] == [hour]
    rig.clock.advance(MINUTE)
    # An earlier one, which ended last; and once more: nothing is followed twice.
    assert await crash_behind_an_end(rig, hour - MINUTE, hour + MINUTE) == [hour - MINUTE, hour]
    assert await crash_behind_an_end(rig, hour - 2 * MINUTE, hour - MINUTE) == [hour - MINUTE, hour]


async def test_what_was_not_followed_before_a_crash_is_though_the_clock_was_set_back(rig: Rig) -> None:
    await rig.begin(make_job("first", "0 * * * *"), make_job("then", None, after=After("first")))
    await rig.pass_time(timedelta(hours=1))
    hour = START + timedelta(hours=1)
    rig.clock.set(hour - 10 * MINUTE)
    await settle()
    rig.clock.advance(2 * MINUTE)
    slot = hour - 9 * MINUTE
    assert await crash_behind_an_end(rig, slot, slot) == [slot, hour]
