"""What several instances on one PostgreSQL promise together: each slot once, turns kept, the dead replaced."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from echosched import events
from echosched.clock import rfc3339
from echosched.errors import Conflict, NotFound, StoreUnavailable, StoreUnusable
from echosched.model import (
    After,
    AfterWhen,
    Catchup,
    Claim,
    Ended,
    JobRecord,
    OnAbandoned,
    Overlap,
    Result,
    State,
    Trigger,
)
from echosched.store.postgres import PostgresStore
from echosched.store.postgres_orders import MOST_AHEAD_SECONDS, Decision, Order
from echosched.store.postgres_turns import mend
from echosched.store.postgres_writes import Terms
from tests.postgres import PostgresServer

from .instances import SHORT_LEASE, Instance, ended, job, soon, until

SCHEMAS = itertools.count(1)
MakeInstance = Callable[..., Instance]


@pytest.fixture
async def make(contract_database: str) -> AsyncIterator[MakeInstance]:
    """Return a function that makes an instance; all of a test share a schema, and leave at its end."""
    schema, made = f"instances_{next(SCHEMAS)}", list[Instance]()

    def one(name: str, **options: Any) -> Instance:
        made.append(Instance(contract_database, schema, name, **options))
        return made[-1]

    yield one
    for instance in made:
        if instance.store.link._pool is not None:
            for attempted in instance.attempts:
                attempted.cancel("the test is over", state=State.CANCELLED, kill_after=timedelta(0))
            await instance.leave()


async def two(make: MakeInstance, *jobs: Any, **options: Any) -> tuple[Instance, Instance]:
    one, other = make("a", **options), make("b", **options)
    await one.begin(*jobs)
    await other.begin(*jobs)
    return one, other


def hold(*instances: Instance) -> None:
    """Let attempts run until the test ends them."""
    for instance in instances:
        instance.script = lambda attempt: None


def runner(run: int, *instances: Instance) -> Instance | None:
    return next((one for one in instances if run in one.started), None)


async def running(run: int, *instances: Instance) -> Instance:
    return await until(lambda: runner(run, *instances), f"run {run} begins")


# ── slots ─────────────────────────────────────────────────────────────────────────────────────


async def test_each_slot_runs_once_and_both_instances_run_some(make: MakeInstance) -> None:
    one, other = await two(make, *(job(f"job{n}", "every 200ms from 2026-01-01T00:00Z") for n in range(6)))
    await until(lambda: len(one.attempts) >= 20 and len(other.attempts) >= 20)
    slots = [(a.attempt.job.name, a.attempt.slot) for each in (one, other) for a in each.attempts]
    assert len(slots) == len(set(slots))
    for name in {
        name for name, _ in slots
    }:  # those that were skipped or missed on a busy machine are rows, too
        found = sorted(run.slot for run in await one.store.history(job=name, limit=10_000))
        assert {b - a for a, b in itertools.pairwise(found)} == {timedelta(milliseconds=200)}


async def test_a_slot_is_claimed_by_the_others_when_its_first_instance_is_gone(make: MakeInstance) -> None:
    jobs = [job(f"job{n}", "every 500ms from 2026-01-01T00:00Z") for n in range(8)]
    one, other = await two(make, *jobs, lease=30.0)
    await until(lambda: not one.scheduler.peers.alone and not other.scheduler.peers.alone)
    await other.vanish()
    gone_at = datetime.now(UTC)

    def left_over() -> list[Any]:
        found = [a for a in one.attempts if a.attempt.slot > gone_at]
        return [a for a in found if not one.scheduler.peers.claims(a.attempt.job.name, a.attempt.slot)]

    found = await until(left_over, "slots that were for the dead instance to claim run")
    assert (
        found[0].started_at - found[0].attempt.slot
    ).total_seconds() < 15.0  # long before the lease is over
    slots = [(a.attempt.job.name, a.attempt.slot) for each in (one, other) for a in each.attempts]
    assert len(slots) == len(set(slots))


async def test_slots_are_judged_by_the_databases_clock(make: MakeInstance) -> None:
    one = make("a")
    await one.begin(job("early"))
    slot = soon(0.6)
    one.clock.look(one.clock.now() + timedelta(seconds=2), one.clock.boot())  # a clock that is wrong
    run = await one.scheduler.trigger("early", Trigger.AFTER, slot=slot)
    assert run is not None
    assert datetime.now(UTC) >= slot - timedelta(milliseconds=50)


async def test_instances_agree_where_an_interval_counts_from(make: MakeInstance) -> None:
    jobs = [job("often", "every 7h")]
    one, other = await two(make, *jobs)
    anchors = {each.scheduler.roster.entry("often").anchor_at for each in (one, other)}
    assert len(anchors) == 1
    assert len({each.scheduler.roster.entry("often").slot for each in (one, other)}) == 1


async def test_missed_slots_are_rows_too_and_written_once(make: MakeInstance) -> None:
    late = datetime.now(UTC) - timedelta(minutes=10)
    jobs = [job("old", "* * * * *", catchup=Catchup.LAST)]
    early = make("early")
    await early.store.open()
    await early.store.save_jobs([JobRecord("old", late, timing="* * * * *")])
    await early.store.close()
    one, other = await two(make, *jobs)
    history = await until(lambda: enough_history(one, "old", 9))
    await asyncio.sleep(0.5)
    history = await one.store.history(job="old")
    slots = [run.slot for run in history]
    assert len(slots) == len(set(slots))
    assert sum(run.state is State.MISSED for run in history) >= 8
    told = [e for each in (one, other) for e in each.sink.of(events.RunMissed)]
    assert len(told) == sum(run.state is State.MISSED for run in history)


async def enough_history(instance: Instance, name: str, count: int) -> Any:
    found = await instance.store.history(job=name)
    return found if len(found) >= count else None


# ── turns ─────────────────────────────────────────────────────────────────────────────────────


async def slot_of(instance: Instance, name: str, slot: datetime) -> int | None:
    """Let a slot of job *name* come due at *instance* alone; return the run that accounts for it."""
    entry = instance.scheduler.roster.entry(name)
    from echosched.scheduler.judge import Wish

    claim = Claim(name, slot, Trigger.SCHEDULE, State.QUEUED, instance.clock.now())
    return (await instance.scheduler.placing.place([Wish(entry, claim)]))[0]


async def test_skip_holds_across_instances(make: MakeInstance) -> None:
    one, other = await two(make, job("busy", overlap=Overlap.SKIP))
    hold(one, other)
    now = datetime.now(UTC)
    first = await slot_of(one, "busy", now - timedelta(seconds=2))
    await running(first, one, other)
    second = await slot_of(other, "busy", now - timedelta(seconds=1))
    found = await one.store.get_run(second)
    assert (found.state, found.error) == (State.SKIPPED, f"run {first} is still active (overlap skip)")
    assert await slot_of(other, "busy", now - timedelta(seconds=1)) is None


async def test_queue_keeps_one_waiting_and_starts_it_when_the_first_has_ended(make: MakeInstance) -> None:
    one, other = await two(make, job("busy", overlap=Overlap.QUEUE))
    hold(one, other)
    now = datetime.now(UTC)
    runs = [
        await slot_of(each, "busy", now - timedelta(seconds=9 - n))
        for n, each in enumerate((one, other, one))
    ]
    first = await running(runs[0], one, other)
    assert (await one.store.get_run(runs[2])).state is State.SKIPPED
    await asyncio.sleep(0.3)
    assert runner(runs[1], one, other) is None
    first.attempt_of(runs[0]).end()
    await running(runs[1], one, other)


async def test_queue_all_runs_one_after_another_in_order(make: MakeInstance) -> None:
    one, other = await two(make, job("busy", overlap=Overlap.QUEUE_ALL))
    hold(one, other)
    now = datetime.now(UTC)
    runs = [await slot_of((one, other)[n % 2], "busy", now - timedelta(seconds=9 - n)) for n in range(4)]
    for number in runs:
        where = await running(number, one, other)
        active = [run for run in await one.store.active() if run.state is State.RUNNING]
        assert [run.run for run in active] == [number]
        where.attempt_of(number).end()
    assert [(await ended(one, number)).state for number in runs] == [State.SUCCEEDED] * 4


async def test_replace_ends_the_running_one_wherever_it_is(make: MakeInstance) -> None:
    one, other = await two(make, job("busy", overlap=Overlap.REPLACE))
    hold(one, other)
    now = datetime.now(UTC)
    first = await slot_of(one, "busy", now - timedelta(seconds=2))
    where = await running(first, one, other)
    elsewhere = other if where is one else one
    second = await slot_of(elsewhere, "busy", now - timedelta(seconds=1))
    gone = await ended(one, first)
    assert (gone.state, gone.error) == (State.CANCELLED, "replaced by a newer slot (overlap replace)")
    await running(second, one, other)


async def test_allow_runs_side_by_side(make: MakeInstance) -> None:
    one, other = await two(make, job("busy", overlap=Overlap.ALLOW))
    hold(one, other)
    now = datetime.now(UTC)
    runs = [await slot_of(one, "busy", now - timedelta(seconds=n)) for n in (2, 1)]
    for number in runs:
        await running(number, one, other)


async def test_a_manual_run_of_a_busy_job_waits_for_it(make: MakeInstance) -> None:
    one, other = await two(make, job("busy", overlap=Overlap.SKIP))
    hold(one, other)
    first = await one.scheduler.trigger("busy")
    where = await running(first, one, other)
    second = await other.scheduler.trigger("busy")
    await asyncio.sleep(0.3)
    assert runner(second, one, other) is None
    where.attempt_of(first).end()
    await running(second, one, other)


async def test_a_group_has_room_for_so_many_on_all_instances_together(make: MakeInstance) -> None:
    jobs = [job(f"job{n}", concurrency_group="disk", concurrency_limit=2) for n in range(6)]
    one, other = await two(make, *jobs)
    hold(one, other)
    runs = [await (one, other)[n % 2].scheduler.trigger(f"job{n}") for n in range(6)]
    for _ in range(3):
        await until(lambda: len(one.attempts) + len(other.attempts) >= 2)
        await asyncio.sleep(0.2)
        active = [run for run in await one.store.active() if run.state is State.RUNNING]
        assert len(active) == 2
        for run in active:
            where = await running(run.run, one, other)
            where.attempt_of(run.run).end()
        await until(lambda active=active: left(one, active))
    assert [(await ended(other, run)).state for run in runs] == [State.SUCCEEDED] * 6


async def left(instance: Instance, runs: Any) -> bool:
    """Tell whether all of *runs* have ended and as many others began, if there are any."""
    active = await instance.store.active()
    if {run.run for run in active} & {run.run for run in runs}:
        return False
    return not active or sum(run.state is State.RUNNING for run in active) == 2


async def test_priorities_order_what_waits_for_a_place(make: MakeInstance) -> None:
    one = make("a", capacity=1)
    await one.begin(job("first"), job("low", priority=-5), job("high", priority=5), job("middle"))
    hold(one)
    await running(await one.scheduler.trigger("first"), one)
    runs = {name: await one.scheduler.trigger(name) for name in ("low", "middle", "high")}
    for name in ("first", "high", "middle", "low"):
        await until(lambda name=name: one.attempts[-1].attempt.job.name == name)
        one.attempts[-1].end()
    await ended(one, runs["low"])


async def test_an_instance_takes_no_more_than_it_has_room_for(make: MakeInstance) -> None:
    one, other = make("a", capacity=2), make("b", capacity=3)
    jobs = [job(f"job{n}", overlap=Overlap.ALLOW) for n in range(8)]
    await one.begin(*jobs)
    await other.begin(*jobs)
    hold(one, other)
    for each in jobs:
        await one.scheduler.trigger(each.name)
    await until(lambda: len(one.attempts) == 2 and len(other.attempts) == 3)
    await asyncio.sleep(0.5)
    assert (len(one.attempts), len(other.attempts)) == (2, 3)
    one.attempts[0].end()
    await until(lambda: len(one.attempts) == 3)


# ── ahead of the slot ─────────────────────────────────────────────────────────────────────────

NEVER = "0 0 1 1 *"


async def hold_slot(
    instance: Instance, name: str, seconds: float = MOST_AHEAD_SECONDS - 0.1
) -> tuple[int | None, datetime]:
    """Let *instance* claim a slot of job *name* that comes in so many seconds."""
    from echosched.scheduler.judge import Wish

    entry, slot = instance.scheduler.roster.entry(name), soon(seconds)
    claim = Claim(name, slot, Trigger.SCHEDULE, State.QUEUED, instance.clock.now())
    return (await instance.scheduler.placing.place([Wish(entry, claim, until=slot.timestamp())]))[0], slot


def started_at(run: int, *instances: Instance) -> datetime:
    """Return when *run* began, for the first time."""
    return min(a.started_at for each in instances for a in each.attempts if a.attempt.run == run)


async def test_a_slot_is_claimed_and_taken_before_it_comes_and_begins_when_it_does(
    make: MakeInstance,
) -> None:
    one, other = await two(make)
    # The tables are there by now: there is time enough for the jobs to become known before their slot.
    jobs = [job(f"job{n}", f"every 1h from {soon(3.0):%FT%TZ}") for n in range(6)]
    for each in (one, other):
        await each.scheduler.apply({known.name: known for known in jobs})
    slot = one.scheduler.roster.entry("job0").slot
    assert slot is not None
    await until(lambda: len(one.attempts) + len(other.attempts) == 6)
    for n in range(6):
        [run] = await one.store.history(job=f"job{n}")
        assert run.slot == slot
        assert timedelta(0) < slot - run.queued_at < timedelta(seconds=0.5)
        begun = started_at(run.run, one, other)
        assert timedelta(milliseconds=-2) < begun - slot < timedelta(seconds=10)
    # No ticket was needed, so none is in Procrastinate's table.
    count = "SELECT count(*) FROM procrastinate_jobs"
    cursor = await one.store.link.transact(lambda connection: connection.execute(count))
    assert await cursor.fetchone() == (0,)


async def test_a_job_without_output_is_claimed_only_just_before_its_slot(make: MakeInstance) -> None:
    one = make("a")
    await one.begin()
    await one.scheduler.apply({"silent": job("silent", f"every 1h from {soon(3.0):%FT%TZ}", output=False)})
    await until(lambda: one.attempts)
    [run] = await one.store.history(job="silent")
    assert run.slot is not None
    assert run.slot - run.queued_at < timedelta(seconds=0.12)


async def test_a_slot_whose_job_is_busy_is_decided_when_it_comes(make: MakeInstance) -> None:
    one, other = await two(make, job("busy", NEVER, overlap=Overlap.SKIP))
    hold(one, other)
    first = await slot_of(one, "busy", datetime.now(UTC) - timedelta(seconds=2))
    where = await running(first, one, other)
    early, slot = await hold_slot(one, "busy", 1.5)
    assert early is None
    assert len(await one.store.history(job="busy")) == 1, "nothing is decided yet"
    where.attempt_of(first).end()
    second = await until(lambda: newest_run(one, slot))
    assert second.state is not State.SKIPPED
    assert second.queued_at >= slot
    await running(second.run, one, other)
    _, slot = await hold_slot(one, "busy", 0.4)
    third = await until(lambda: newest_run(one, slot))
    assert (third.state, third.error) == (State.SKIPPED, f"run {second.run} is still active (overlap skip)")
    assert third.queued_at >= slot


async def test_a_job_whose_row_somebody_deleted_runs_on_and_keeps_its_overlap_policy(
    make: MakeInstance,
) -> None:
    one = make("a")
    await one.begin(job("task", NEVER, overlap=Overlap.SKIP))
    hold(one)

    async def forget() -> None:
        await one.store.link.transact(lambda connection: connection.execute("DELETE FROM jobs"))

    await forget()
    first, slot = await hold_slot(one, "task", 0.5)
    assert first is not None, "its slot is not left waiting for ever"
    await running(first, one)
    assert (await one.store.load_jobs())["task"].cursor_at == slot, "the row is made anew"
    await forget()
    second = await one.store.get_run(await slot_of(one, "task", one.clock.now()))
    assert (second.state, second.error) == (State.SKIPPED, f"run {first} is still active (overlap skip)")


async def newest_run(instance: Instance, slot: datetime) -> Any:
    return next((run for run in await instance.store.history(limit=5) if run.slot == slot), None)


async def test_no_slot_is_decided_before_an_earlier_one_of_its_job(make: MakeInstance) -> None:
    one = make("a")
    await one.begin(job("busy", NEVER))
    now = datetime.now(UTC)
    first, second = (now + timedelta(seconds=MOST_AHEAD_SECONDS - left) for left in (0.2, 0.1))
    claims = [Claim("busy", slot, Trigger.SCHEDULE, State.QUEUED, now) for slot in (first, second)]
    start = Decision(State.QUEUED)
    # The first one may not be decided ahead here; so the second may not be either, though it could.
    orders = [
        Order(one_claim, Terms(queue="any"), lambda situation: start, direct=direct, ahead=True)
        for one_claim, direct in zip(claims, (False, True), strict=True)
    ]
    placement = await one.store.place(orders)
    assert (placement.waiting, placement.placed) == ([0, 1], [None, None])
    placement = await one.store.place(orders[1:])
    assert [placed.state for placed in placement.placed if placed] == [State.RUNNING]


async def test_who_is_far_too_early_has_a_wrong_clock_and_it_is_set(make: MakeInstance) -> None:
    one = make("a")
    await one.begin(job("early", NEVER))
    one.clock.look(one.clock.now() + timedelta(seconds=60), one.clock.boot())
    run, _ = await hold_slot(one, "early", 60.2)
    assert run is None
    assert abs(one.clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    assert await one.store.history() == []


async def test_a_pause_elsewhere_takes_back_what_was_claimed_already(make: MakeInstance) -> None:
    one, other = await two(make, job("task", NEVER))
    run, slot = await hold_slot(one, "task")
    await other.scheduler.roster.pause("task")
    found = await ended(other, run)
    assert (found.state, found.error) == (State.SKIPPED, "its job was paused before it came")
    assert found.ended_at < slot
    assert [*one.attempts, *other.attempts] == []
    assert (await hold_slot(one, "task", 0.1))[0] is None


async def test_a_cancel_elsewhere_ends_what_was_claimed_already(make: MakeInstance) -> None:
    one, other = await two(make, job("task", NEVER))
    run, _ = await hold_slot(one, "task")
    await other.scheduler.cancel(run, "not wanted")
    found = await ended(other, run)
    assert (found.state, found.error, found.started_at) == (State.CANCELLED, "not wanted", None)
    assert one.attempts == []


@pytest.mark.parametrize("way", ["drained", "stopped", "upgraded"])
async def test_what_a_host_holds_is_run_by_another_at_its_slot_when_it(make: MakeInstance, way: str) -> None:
    one, other = await two(make, *(job(f"job{n}", NEVER) for n in range(5)))
    held = [await hold_slot(one, f"job{n}") for n in range(5)]
    if way == "drained":
        await other.store.drain("a")
    elif way == "stopped":
        await one.leave()
    else:
        await one.scheduler.quiesce()
    for run, slot in held:
        found = await ended(other, run)
        assert (found.state, found.owner, found.attempt) == (State.SUCCEEDED, "b", 1)
        assert started_at(run, other) >= slot - timedelta(milliseconds=2)
        assert started_at(run, other) - slot < timedelta(seconds=12)  # long before the lease is over
    assert one.attempts == []
    assert await other.store.check() == []


async def test_a_host_that_was_stopped_starts_nothing_that_may_be_others_by_now(make: MakeInstance) -> None:
    again = job("again", NEVER, on_abandoned=OnAbandoned.RETRY)
    one, other = await two(make, again, lease=SHORT_LEASE)
    run, _ = await hold_slot(one, "again", 0.5)
    # It hears and is heard of no more, as a stopped one; its slot comes when its lease is nearly over.
    await one.scheduler.contact.stop()
    one.scheduler.contact.touched -= SHORT_LEASE - 0.1
    found = await ended(other, run)
    assert (found.state, found.attempt) == (State.SUCCEEDED, 1), "it was given back before it was given up"
    assert len(one.started) + len(other.started) == 1
    assert one.scheduler.rights._withdrawn == {}
    assert await other.store.check() == []


async def test_what_a_dead_host_held_is_found_and_run_again_where_that_is_wished(make: MakeInstance) -> None:
    one, other = await two(
        make, job("task", NEVER), job("again", NEVER, on_abandoned=OnAbandoned.RETRY), lease=2.0
    )
    held = [(await hold_slot(one, name))[0] for name in ("task", "again")]
    one.store.up.clear()  # it can give nothing back any more
    await one.vanish()
    assert (await ended(other, held[0])).state is State.ABANDONED
    found = await ended(other, held[1])
    assert (found.state, found.attempt, found.owner) == (State.SUCCEEDED, 2, "b")
    assert one.attempts == []


async def test_a_run_is_not_given_up_once_its_host_was_heard_of_again(make: MakeInstance) -> None:
    one, other = await two(make, job("long", NEVER))
    hold(one, other)
    run = await slot_of(one, "long", datetime.now(UTC) - timedelta(seconds=1))
    where = await running(run, one, other)
    end = Ended(run, "long", 1, datetime.now(UTC), Result(State.ABANDONED, error="gone"))
    assert await other.store.abandon([end]) == [False]
    where.attempt_of(run).end()
    assert (await ended(other, run)).state is State.SUCCEEDED


async def test_what_was_given_back_and_taken_again_before_that_was_known_is_given_back_again(
    make: MakeInstance,
) -> None:
    one = make("a", heartbeat=3.0, lease=30.0)
    begun_at = one.clock.boot()
    await one.begin(job("task", NEVER))
    await until(lambda: one.scheduler.contact.touched > begun_at, "the first beat")
    real, taken_again = one.store.give_back, asyncio.Event()

    async def slow(held: Any) -> None:
        await real(held)
        if not taken_again.is_set():  # the answer comes only after the ticket was used
            while not one.scheduler.rights._retaken:
                await asyncio.sleep(0.01)
            taken_again.set()

    one.store.give_back = slow  # type: ignore[method-assign]
    run, _ = await hold_slot(one, "task", 1.0)
    one.scheduler.contact.touched -= 25.0  # until the next beat, which comes behind the slot
    found = await ended(one, run)
    assert taken_again.is_set()
    assert (found.state, found.attempt, one.started.count(run)) == (State.SUCCEEDED, 1, 1)


async def test_a_run_is_given_back_once_however_many_wish_it(make: MakeInstance) -> None:
    one = make("a")
    await one.begin(job("task", NEVER))
    run, _ = await hold_slot(one, "task", 1.5)
    real, given = one.store.give_back, list[int]()

    async def counted(held: Any) -> None:
        given.extend(each.run for each in held)
        await real(held)

    one.store.give_back = counted  # type: ignore[method-assign]
    rights = one.scheduler.rights
    await asyncio.gather(*(rights.give_back_all() for _ in range(3)), rights.give_back())
    assert given == [run]
    assert (await ended(one, run)).state is State.SUCCEEDED
    assert one.started == [run]


async def test_a_start_is_written_with_the_end_that_follows_it(make: MakeInstance) -> None:
    one = make("a")
    await one.begin(job("quick", NEVER, retries=1, retry_delay=timedelta(milliseconds=50)))
    one.script = lambda attempt: Result(State.FAILED if attempt.number == 1 else State.SUCCEEDED, 0)
    run = await slot_of(one, "quick", datetime.now(UTC) - timedelta(seconds=1))
    found = await ended(one, run)
    first, second = (attempted.started_at for attempted in one.attempts)
    assert found.started_at == second
    assert found.process == one.attempts[1].process
    assert [attempt["started_at"] for attempt in found.attempts] == [rfc3339(first)]


# ── retries, followers, operators ─────────────────────────────────────────────────────────────


async def test_a_failed_attempt_is_tried_again_by_whoever_has_room(make: MakeInstance) -> None:
    flaky = job("flaky", retries=2, retry_delay=timedelta(milliseconds=300))
    one, other = await two(make, flaky)
    for each in (one, other):
        each.script = lambda attempt: Result(State.FAILED if attempt.number < 3 else State.SUCCEEDED, 1)
    run = await one.scheduler.trigger("flaky")
    found = await ended(other, run)
    assert (found.state, found.attempt, len(found.attempts)) == (State.SUCCEEDED, 3, 2)
    starts = sorted(a.started_at for each in (one, other) for a in each.attempts)
    assert all(timedelta(seconds=0.25) < b - a < timedelta(seconds=20) for a, b in itertools.pairwise(starts))


async def test_a_retry_waits_for_its_instant_also_when_a_reload_changed_its_job(make: MakeInstance) -> None:
    one = make("a")
    old = job("task", retries=1, retry_delay=timedelta(minutes=10), definition="old")
    await one.begin(old)
    one.script = lambda attempt: Result(State.FAILED, 1)
    run = await one.scheduler.trigger("task")
    retry = await until(lambda: waiting_retry(one, run))
    await one.scheduler.apply({"task": replace(old, definition="new")})
    await one.store.link.transact(lambda connection: mend(connection, 0.0, one.clock.now()))
    cursor = await one.store.link.transact(
        lambda connection: connection.execute("SELECT queue_name, scheduled_at FROM procrastinate_jobs")
    )
    tickets = await cursor.fetchall()
    assert len(tickets) == 2, "the run was offered anew, to those with the new definition"
    assert {at for _, at in tickets} == {retry.not_before_at}
    assert await one.store.take(["any"], 8, lambda name, definition: True, one.clock.now()) == ([], False)
    assert (await waiting_retry(one, run), len(one.attempts)) == (retry, 1)


async def waiting_retry(instance: Instance, run: int) -> Any:
    found = await instance.store.get_run(run)
    return found if (found.state, found.attempt) == (State.QUEUED, 2) else None


async def test_a_follower_runs_once_after_its_job_wherever_that_ran(make: MakeInstance) -> None:
    jobs = [job("first"), job("then", after=After("first", AfterWhen.SUCCESS))]
    one, other = await two(make, *jobs)
    slot = datetime.now(UTC) - timedelta(seconds=1)
    await slot_of(one, "first", slot)
    history = await until(lambda: enough_history(one, "then", 1))
    assert (history[0].slot, history[0].trigger) == (slot, Trigger.AFTER)
    await other.scheduler.follow_up("then", slot)
    assert len(await one.store.history(job="then")) == 1


async def test_a_follower_whose_host_died_before_it_could_place_it_is_started_by_another(
    make: MakeInstance,
) -> None:
    jobs = [
        job("first"),
        job("then", after=After("first", AfterWhen.SUCCESS)),
        job("else", after=After("first", AfterWhen.FAILURE)),
        job("paused", after=After("first", AfterWhen.SUCCESS)),
    ]
    one, other = await two(make, *jobs)
    await one.scheduler.roster.pause("paused")
    await until(lambda: other.scheduler.roster.entry("paused").paused)
    await until(lambda: all("then" in each.scheduler._sweeper._since for each in (one, other)))
    for each in (one, other):
        each.scheduler.runs._on_end = lambda live, state: None  # it dies here
    lost = one.clock.now()
    await ended(one, await slot_of(one, "first", lost))
    await until(lambda: one.sink.of(events.RunEnd) or other.sink.of(events.RunEnd))
    for each in (one, other):
        each.scheduler.runs._on_end = each.scheduler._start_followers
    later = one.clock.now()  # this one is followed, and moves the cursor on
    await ended(one, await slot_of(one, "first", later))
    history = await until(lambda: enough_history(other, "then", 2))
    assert sorted(run.slot for run in history) == [lost, later]
    await other.scheduler.roster.resume("paused")
    await other.scheduler._sweeper.follow_up()
    for name, runs in {"first": 2, "then": 2, "else": 0, "paused": 0}.items():
        assert len(await other.store.history(job=name)) == runs


async def test_words_too_long_for_a_notification_are_read_from_the_rows(make: MakeInstance) -> None:
    jobs = [job(f"{number:03}{'ä' * 100}", NEVER) for number in range(100)]
    one, other = await two(make, *jobs)
    entries = other.scheduler.roster.entries
    await one.store.save_jobs([replace(entry.record(), paused=True) for entry in entries.values()])
    await until(lambda: all(entry.paused for entry in entries.values()))


async def test_a_pause_on_one_instance_pauses_the_job_on_all(make: MakeInstance) -> None:
    one, other = await two(make, job("often", "every 300ms from 2026-01-01T00:00Z"))
    await until(lambda: one.attempts or other.attempts)
    await one.scheduler.roster.pause("often")
    await until(lambda: other.scheduler.roster.entry("often").paused)
    await asyncio.sleep(0.3)
    before = len(await one.store.history(job="often", limit=1000))
    await asyncio.sleep(1.0)
    assert len(await one.store.history(job="often", limit=1000)) == before
    await other.scheduler.roster.resume("often")
    await until(lambda: not one.scheduler.roster.entry("often").paused)
    await until(lambda: enough_history(one, "often", before + 2))
    slots = sorted(run.slot for run in await one.store.history(job="often", limit=1000))
    assert max(b - a for a, b in itertools.pairwise(slots)) > timedelta(seconds=0.9)


async def test_a_run_is_cancelled_from_any_instance(make: MakeInstance) -> None:
    one, other = await two(make, job("long", overlap=Overlap.QUEUE_ALL))
    hold(one, other)
    first, second = await one.scheduler.trigger("long"), await one.scheduler.trigger("long")
    where = await running(first, one, other)
    elsewhere = other if where is one else one
    await elsewhere.scheduler.cancel(second, "not wanted")
    assert (await ended(one, second)).state is State.CANCELLED
    await elsewhere.scheduler.cancel(first, "enough")
    found = await ended(elsewhere, first)
    assert (found.state, found.error, found.owner) == (State.CANCELLED, "enough", where.name)
    with pytest.raises(NotFound):
        await elsewhere.scheduler.cancel(first, "again")


def deaf(instance: Instance) -> None:
    """Let *instance* miss that its runs are to be ended."""
    instance.scheduler.messages.cancel_here = lambda wanted: None  # type: ignore[method-assign]


async def test_a_run_that_was_cancelled_before_its_host_died_does_not_begin_elsewhere(
    make: MakeInstance,
) -> None:
    again = job("again", on_abandoned=OnAbandoned.RETRY)
    one = make("a")
    await one.begin(again)
    hold(one)
    run = await one.scheduler.trigger("again")
    await running(run, one)
    deaf(one)
    other = make("b", lease=SHORT_LEASE)
    await other.begin(again)
    await other.scheduler.cancel(run, "enough")
    await one.scheduler.contact.stop()
    await one.store.leave()  # its lease is over now
    await one.vanish()
    found = await ended(other, run)
    assert (found.state, found.error, found.attempt) == (State.CANCELLED, "enough", 2)
    assert (other.attempts, [event.run for event in other.sink.of(events.RunEnd)]) == ([], [run])
    assert await other.store.check() == []


async def test_a_run_that_was_cancelled_while_its_host_gave_it_back_does_not_begin(
    make: MakeInstance,
) -> None:
    one = make("a")
    await one.begin(job("task"))
    rights, real, cancelled = one.scheduler.rights, one.store.give_back, asyncio.Event()

    async def later(held: Any) -> None:
        await cancelled.wait()
        await real(held)

    one.store.give_back = later  # type: ignore[method-assign]
    one.scheduler.runs.may_begin = rights._withdraw  # type: ignore[assignment,return-value]
    run = await one.scheduler.trigger("task")
    await until(lambda: rights._withdrawn)
    one.scheduler.runs.may_begin = rights.may_begin
    assert await one.store.cancel(run, "not wanted", one.clock.now()) is None
    cancelled.set()
    await rights.give_back()
    found = await ended(one, run)
    assert (found.state, found.error, found.attempt) == (State.CANCELLED, "not wanted", 1)
    await until(lambda: one.sink.of(events.RunEnd))
    assert one.attempts == []


async def test_a_run_that_was_cancelled_as_its_attempt_failed_is_not_tried_again(make: MakeInstance) -> None:
    one = make("a")
    await one.begin(job("task", retries=1, retry_delay=timedelta(minutes=10)))
    hold(one)
    run = await one.scheduler.trigger("task")
    await running(run, one)
    deaf(one)
    await one.store.cancel(run, "enough", one.clock.now())
    one.attempt_of(run).end(State.FAILED, 1)
    found = await ended(one, run)  # at once: nobody waits for the retry to end it
    assert (found.state, found.error, found.attempt) == (State.CANCELLED, "enough", 2)
    assert one.started == [run]


# ── instances ─────────────────────────────────────────────────────────────────────────────────


async def test_a_dead_instances_runs_are_abandoned_or_tried_again(make: MakeInstance) -> None:
    jobs = [job("once"), job("again", on_abandoned=OnAbandoned.RETRY)]
    one = make("a", lease=SHORT_LEASE)
    await one.begin(*jobs)
    hold(one)
    runs = [await one.scheduler.trigger(each.name) for each in jobs]
    for run in runs:
        await running(run, one)
    other = make("b", lease=SHORT_LEASE)
    await other.begin(*jobs)
    await one.vanish()
    abandoned = await ended(other, runs[0])
    assert (abandoned.state, abandoned.owner) == (State.ABANDONED, "a")
    assert "instance a was not heard of for its lease" in (abandoned.error or "")
    retried = await ended(other, runs[1])
    assert (retried.state, retried.attempt, retried.owner) == (State.SUCCEEDED, 2, "b")
    assert [event.run for event in other.sink.of(events.RunAbandoned)] == [runs[0]]


async def test_who_wakes_up_late_cannot_record_over_a_newer_attempt(make: MakeInstance) -> None:
    again = job("again", on_abandoned=OnAbandoned.RETRY)
    one, other = await two(make, again, lease=SHORT_LEASE)
    hold(one, other)
    run = await one.scheduler.trigger("again")
    late = await running(run, one, other)
    awake = other if late is one else one
    await late.scheduler.contact.stop()  # its loop goes on, but nobody hears of it
    await late.scheduler.worker.stop()
    await running(run, awake)
    late.attempt_of(run).end(State.FAILED, 9)
    awake.attempt_of(run).end()
    found = await ended(awake, run)
    assert (found.state, found.attempt, found.exit_code) == (State.SUCCEEDED, 2, 0)
    await asyncio.sleep(0.3)
    assert late.sink.of(events.RunEnd) == []


async def test_an_instance_that_was_out_of_touch_itself_declares_nobody_dead(make: MakeInstance) -> None:
    one, other = await two(make, job("long"), lease=SHORT_LEASE)
    hold(one, other)
    run = await one.scheduler.trigger("long")
    where = await running(run, one, other)
    asker = other if where is one else one
    await asker.scheduler.contact.stop()
    await where.scheduler.contact.stop()
    await asyncio.sleep(2.0)  # both leases are over, as after an outage of the database
    await asker.scheduler.contact._beat()
    assert await asker.store.dead_runs() == []
    await where.scheduler.contact._beat()
    assert (await one.store.get_run(run)).state is State.RUNNING


async def test_a_new_worker_of_the_same_home_may_take_the_name_and_finds_its_runs(make: MakeInstance) -> None:
    one = make("a", lease=30.0)
    await one.begin(job("long"))
    hold(one)
    run = await one.scheduler.trigger("long")
    await running(run, one)
    await one.vanish()
    again = make("a", lease=30.0)
    await again.store.open()
    await again.scheduler.join({})
    assert [left.run for left in await again.scheduler.left_behind()] == [run]


async def test_two_living_daemons_cannot_share_a_name(make: MakeInstance) -> None:
    one = make("a", lease=30.0)
    await one.begin()
    thief = make("a", home="elsewhere")
    await thief.store.open()
    with pytest.raises(StoreUnusable, match="a is alive already on host here, process 1"):
        await thief.scheduler.join({})
    await thief.store.close()


async def test_a_draining_instance_takes_nothing_and_a_removed_one_is_forgotten(make: MakeInstance) -> None:
    jobs = [job(f"job{n}", overlap=Overlap.ALLOW) for n in range(4)]
    one, other = await two(make, *jobs)
    await other.store.drain("a")
    await until(lambda: one.scheduler.contact.draining)
    for each in jobs:
        await ended(one, await one.scheduler.trigger(each.name))
    assert (len(one.attempts), len(other.attempts)) == (0, 4)
    with pytest.raises(Conflict, match="alive"):
        await other.store.remove("a")
    with pytest.raises(NotFound, match="no such instance"):
        await other.store.drain("nobody")
    await other.store.drain("a", draining=False)
    await until(lambda: not one.scheduler.contact.draining)
    await one.leave()
    assert [(each.name, each.alive) for each in await other.store.instances()] == [("a", False), ("b", True)]
    await other.store.remove("a")
    assert [each.name for each in await other.store.instances()] == ["b"]


async def test_a_run_goes_only_to_an_instance_with_the_same_definition(make: MakeInstance) -> None:
    old, new = (
        job("task", overlap=Overlap.ALLOW, definition="old"),
        job("task", overlap=Overlap.ALLOW, definition="new"),
    )
    one, other = make("a"), make("b")
    await one.begin(old)
    await other.begin(new)
    for _ in range(5):
        await ended(one, await one.scheduler.trigger("task"))
        await ended(one, await other.scheduler.trigger("task"))
    assert {a.attempt.job.definition for a in one.attempts} == {"old"}
    assert {a.attempt.job.definition for a in other.attempts} == {"new"}
    assert (len(one.attempts), len(other.attempts)) == (5, 5)
    differs = {each.name: each.differs for each in await one.store.instances()}
    assert sorted(differs.values()) == [(), ("task",)]


async def test_a_run_whose_definition_is_gone_everywhere_runs_as_it_is_now_or_is_cancelled(
    make: MakeInstance,
) -> None:
    one = make("a", capacity=1, lease=SHORT_LEASE)
    old, doomed, long = job("task", definition="old"), job("doomed"), job("long")
    await one.begin(old, doomed, long)
    hold(one)
    await running(await one.scheduler.trigger("long"), one)
    waits, goes = await one.scheduler.trigger("task"), await one.scheduler.trigger("doomed")
    table = {"task": replace(old, definition="new"), "long": long}
    await one.scheduler.apply(table)
    one.attempts[0].end()
    gone = await ended(one, goes)
    assert (gone.state, gone.error) == (State.CANCELLED, "its job was removed before it began")
    await running(waits, one)


async def test_a_job_with_labels_runs_where_they_are_offered(make: MakeInstance) -> None:
    plain, gpu = make("plain"), make("gpu", labels=("gpu", "big"))
    jobs = [job("train", labels=("gpu",), overlap=Overlap.ALLOW), job("any", overlap=Overlap.ALLOW)]
    await plain.begin(*jobs)
    await gpu.begin(*jobs)
    for _ in range(4):
        await ended(plain, await plain.scheduler.trigger("train"))
    assert {a.attempt.job.name for a in plain.attempts} <= {"any"}
    assert len(gpu.attempts) == 4


async def test_tickets_that_somebody_deleted_are_given_again(make: MakeInstance) -> None:
    one = make("a", capacity=1, lease=SHORT_LEASE)
    await one.begin(job("long"), job("next"))
    hold(one)
    await running(await one.scheduler.trigger("long"), one)
    run = await one.scheduler.trigger("next")
    await one.store.link.transact(lambda connection: connection.execute("DELETE FROM procrastinate_jobs"))
    one.attempts[0].end()
    await running(run, one)


# ── outages ───────────────────────────────────────────────────────────────────────────────────


async def test_an_end_waits_for_the_database_and_is_recorded_when_it_is_back(
    make: MakeInstance, postgres: PostgresServer
) -> None:
    one = make("a", lease=20.0)
    await one.begin(job("long"), job("often", "every 500ms from 2026-01-01T00:00Z", catchup=Catchup.LAST))
    one.script = lambda attempt: None if attempt.job.name == "long" else Result(State.SUCCEEDED, 0)
    run = await one.scheduler.trigger("long")
    await running(run, one)
    postgres.stop()
    try:
        await until(lambda: one.store.degraded_since is not None)
        one.attempt_of(run).end(State.FAILED, 3)
        with pytest.raises(StoreUnavailable):
            await one.scheduler.trigger("long")
        count = len(one.attempts)
        await asyncio.sleep(1.0)
        assert len(one.attempts) == count, "nothing new is started"
        assert (await one.store.counts())[State.RUNNING] >= 0, "status still answers"
    finally:
        postgres.start()
    await until(lambda: one.store.degraded_since is None)
    found = await ended(one, run)
    assert (found.state, found.exit_code) == (State.FAILED, 3)
    await until(lambda: len(one.attempts) > count)
    assert one.sink.names().count("store_degraded") == one.sink.names().count("store_recovered") == 1
    slots = [run.slot for run in await one.store.history(job="often", limit=1000)]
    assert len(slots) == len(set(slots))
    gaps = [a - b for a, b in itertools.pairwise(sorted(slots, reverse=True))]
    assert all(gap == timedelta(milliseconds=500) for gap in gaps), "each slot of the outage has its row"


async def test_a_run_that_was_taken_without_hearing_of_it_is_started_once(make: MakeInstance) -> None:
    one = make("a", heartbeat=30.0, lease=100.0)
    await one.begin(job("task", overlap=Overlap.ALLOW))
    await ended(one, await one.scheduler.trigger("task"))
    real = one.store.take

    async def swallowed(*arguments: Any) -> Any:
        runs, more = await real(*arguments)
        if not runs:
            return runs, more
        one.store.take = real  # type: ignore[method-assign]
        raise StoreUnavailable("the answer was lost with the connection")

    one.store.take = swallowed  # type: ignore[method-assign]
    run = await one.scheduler.trigger("task")
    await until(lambda: one.sink.of(events.StoreDegraded), "the loss is noticed")
    found = await ended(one, run)
    assert (found.state, found.attempt, one.started.count(run)) == (State.SUCCEEDED, 1, 1)
    await one.scheduler.start_lost()
    assert one.started.count(run) == 1


async def test_an_end_that_was_recorded_without_hearing_of_it_is_told_once(make: MakeInstance) -> None:
    one = make("a", heartbeat=30.0, lease=100.0)
    await one.begin(job("task", retries=1, retry_delay=timedelta(milliseconds=50)))
    real, lost = one.store.link.transact, list[bool]()

    async def swallowed(work: Any, **options: Any) -> Any:
        answer = await real(work, **options)
        if answer == [True] and len(lost) < 2:  # a finish of one end
            lost.append(True)
            raise StoreUnavailable("the answer was lost with the connection")
        return answer

    one.script = lambda attempt: Result(State.FAILED if attempt.number == 1 else State.SUCCEEDED, 0)
    one.store.link.transact = swallowed  # type: ignore[method-assign]
    run = await one.scheduler.trigger("task")
    found = await ended(one, run)
    assert (found.state, found.attempt, len(lost)) == (State.SUCCEEDED, 2, 2)
    await until(lambda: one.sink.of(events.RunEnd))
    assert [event.run for event in one.sink.of(events.RunRetry)] == [run]
    assert [event.run for event in one.sink.of(events.RunEnd)] == [run]


async def test_outputs_are_pruned_by_the_host_that_has_them(make: MakeInstance) -> None:
    one, other = await two(make, job("task", overlap=Overlap.ALLOW), capacity=4)
    hold(one, other)  # each takes what it has room for, however quick the other one is
    runs = [await one.scheduler.trigger("task") for _ in range(8)]
    await until(lambda: len(one.attempts) == len(other.attempts) == 4)
    for attempted in (*one.attempts, *other.attempts):
        attempted.end()
    for run in runs:
        await ended(one, run)
    future = datetime.now(UTC) + timedelta(days=1)
    past = datetime(2000, 1, 1, tzinfo=UTC)
    bounds: dict[str, Any] = {"keep": 1000, "outputs_before": past, "slots_before": past}
    for each in (one, other):
        pruned = await each.store.prune(runs_before=future, **bounds)
        assert sorted(run for run, _ in pruned.outputs) == sorted(each.started)
        assert pruned.runs == len(each.started)
    assert await one.store.history() == []


async def test_a_wrong_password_a_wrong_port_and_a_missing_database_are_a_line_each(
    postgres: PostgresServer,
) -> None:
    with postgres.database() as name:
        good = postgres.dsn(name)
        cases = [
            (
                good.replace(":%2F", "x:", 1) if "x:" in good else good.rsplit("/", 1)[0] + "/nowhere",
                "nowhere",
            ),
            (f"postgresql://echosched@127.0.0.1:1/{name}", "cannot be reached"),
            ("postgresql://[", "malformed"),
        ]
        for dsn, words in cases:
            with pytest.raises((StoreUnusable, StoreUnavailable), match=words) as caught:
                await PostgresStore(dsn, owner="a", connect_seconds=20.0).open()
            assert "\n" not in str(caught.value)


async def test_a_role_that_may_not_create_is_told_what_to_grant(postgres: PostgresServer) -> None:
    with postgres.database() as name:
        postgres.sql(name, "DROP ROLE IF EXISTS poor")
        postgres.sql(name, "CREATE ROLE poor LOGIN PASSWORD 'poor'")
        where = postgres.dsn(name).rpartition("@")[2]
        with pytest.raises(StoreUnusable, match="grant CREATE on the database") as caught:
            await PostgresStore(f"postgresql://poor:poor@{where}", owner="a").open()
        assert "\n" not in str(caught.value)
        postgres.sql(name, "DROP ROLE poor")


async def test_a_newer_schema_is_refused_and_left_as_it_is(contract_database: str) -> None:
    schema = f"instances_{next(SCHEMAS)}"
    store = PostgresStore(contract_database, owner="a", schema=schema)
    await store.open()
    await store.link.transact(lambda connection: connection.execute("UPDATE meta SET version = 99"))
    await store.close()
    again = PostgresStore(contract_database, owner="a", schema=schema)
    with pytest.raises(
        StoreUnusable, match="has version 99, and this program knows only up to 1; nothing was changed"
    ):
        await again.open()


async def test_an_older_schema_is_migrated_up_with_what_it_holds(contract_database: str) -> None:
    schema = f"instances_{next(SCHEMAS)}"
    store = PostgresStore(contract_database, owner="a", schema=schema)
    await store.open()
    await store.claim([Claim("job", None, Trigger.MANUAL, State.RUNNING, datetime.now(UTC))])
    steps = store._steps
    await store.close()
    newer = PostgresStore(
        contract_database,
        owner="a",
        schema=schema,
        steps=[*steps, "ALTER TABLE runs ADD COLUMN mood text DEFAULT 'good'"],
    )
    await newer.open()
    cursor = await newer.link.transact(lambda connection: connection.execute("SELECT run, mood FROM runs"))
    assert await cursor.fetchall() == [(1, "good")]
    await newer.close()


async def test_a_host_with_a_wrong_clock_is_warned_and_follows_the_databases(
    make: MakeInstance, caplog: pytest.LogCaptureFixture
) -> None:
    one = make("a")
    await one.store.open()
    await one.scheduler.contact.look_at_clock()
    assert abs(one.scheduler.contact.skew_seconds) < 1
    assert one.scheduler.contact.skew_warning is None
    one.clock.look(one.clock.now() - timedelta(seconds=90), one.clock.boot())
    one.scheduler.contact._judge_skew()
    one.scheduler.contact._judge_skew()
    assert "clock is 90.0 s ahead of the database's" in (one.scheduler.contact.skew_warning or "")
    assert sum("ahead of the database's" in record.message for record in caplog.records) == 1
    await one.store.close()


async def test_a_late_end_of_an_abandoned_run_is_refused(make: MakeInstance) -> None:
    one = make("a")
    await one.begin(job("once"))
    hold(one)
    run = await one.scheduler.trigger("once")
    await running(run, one)
    now = datetime.now(UTC)
    ends = [Ended(run, "once", 1, now, Result(State.ABANDONED, error="gone"))]
    assert await one.store.finish(ends) == [True]
    one.attempt_of(run).end()
    await until(lambda: run not in one.scheduler.runs.live)
    assert (await one.store.get_run(run)).state is State.ABANDONED
    assert one.sink.of(events.RunEnd) == []
