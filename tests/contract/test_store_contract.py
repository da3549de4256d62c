"""What every store promises, run over each of them.

A new store joins by a branch in the fixture ``make_store``: a function that returns a new, unopened
store on the same data each time it is called.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from echosched.clock import SystemClock
from echosched.errors import StoreError, StoreUnavailable
from echosched.model import (
    Claim,
    Ended,
    JobRecord,
    ProcessIdentity,
    Result,
    Run,
    Started,
    State,
    Trigger,
)
from echosched.protocols import Store
from echosched.store.postgres import PostgresStore
from echosched.store.resilient import ResilientStore
from echosched.store.sqlite import SqliteStore
from echosched.testing import MemoryStore, RecordingSink

NOW = datetime(2026, 3, 1, 8, 0, 0, 123456, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
MakeStore = Callable[[], Store]
SCHEMAS = itertools.count(1)


class FailingStore(SqliteStore):
    """A SQLite store whose disk is full from the first write after opening until it closes."""

    fault = False

    async def open(self, *, must_write: bool = True) -> None:
        await super().open(must_write=must_write)
        self.fault = True

    async def close(self) -> None:
        self.fault = False
        await super().close()

    async def _write(self, work):
        if self.fault:
            raise StoreUnavailable("the disk is full")
        return await super()._write(work)


class RecoveringAtClose(ResilientStore):
    """In bad times all its life; the disk has room again when it closes."""

    async def close(self) -> None:
        self._inner.fault = False
        await super().close()


@pytest.fixture(params=["memory", "sqlite", "resilient", "degraded", "postgres"])
def make_store(request, tmp_path) -> MakeStore:
    kind = request.param
    path = tmp_path / "echosched.db"
    if kind == "memory":
        store = MemoryStore(owner="here:1")
        return lambda: store
    if kind == "sqlite":
        return lambda: SqliteStore(path, owner="here:1")
    if kind == "resilient":
        return lambda: ResilientStore(SqliteStore(path, owner="here:1"), SystemClock(), RecordingSink())
    if kind == "degraded":
        never = (3_600.0, 3_600.0)
        return lambda: RecoveringAtClose(
            FailingStore(path, owner="here:1"), SystemClock(), RecordingSink(), retry_seconds=never
        )
    if kind == "postgres":
        dsn, schema = request.getfixturevalue("contract_database"), f"contract_{next(SCHEMAS)}"
        return lambda: PostgresStore(dsn, owner="here:1", schema=schema)
    raise AssertionError(kind)


@pytest.fixture
async def store(make_store):
    store = make_store()
    await store.open()
    yield store
    await store.close()


def slot(minutes: int = 0) -> datetime:
    return NOW.replace(second=0, microsecond=0) + minutes * MINUTE


SLOT = slot()


def claim_of(job="brief", at_slot=SLOT, state=State.RUNNING, **more) -> Claim:
    return Claim(job, at_slot, more.pop("trigger", Trigger.SCHEDULE), state, more.pop("at", NOW), **more)


def end_of(
    run, attempt=1, state=State.SUCCEEDED, job="brief", at=NOW + MINUTE, retry_at=None, **result
) -> Ended:
    return Ended(run, job, attempt, at, Result(state, **result), retry_at)


async def claim_one(store, *arguments, **more) -> int:
    (run,) = await store.claim([claim_of(*arguments, **more)])
    assert run is not None
    return run


async def reopened(store, make_store):
    await store.close()
    again = make_store()
    await again.open()
    return again


async def totals_agree(store) -> bool:
    runs = await store.history(limit=100_000)
    counts = await store.counts()
    return all(counts[state] == sum(run.state == state for run in runs) for state in State)


# ── claims ────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_store_is_empty(store):
    assert await store.load_jobs() == {}
    assert await store.active() == []
    assert await store.history() == []
    assert await store.get_run(1) is None
    assert await store.counts() == dict.fromkeys(State, 0)
    assert await store.check() == []
    assert await store.get_note("boot_id") is None


async def test_a_claim_gives_a_run_with_everything_the_claim_says(store):
    claim = claim_of("brief", slot(5), State.QUEUED, priority=7, trigger=Trigger.CATCHUP)
    (run,) = await store.claim([claim])
    assert await store.get_run(run) == Run(
        run=run,
        job="brief",
        slot=slot(5),
        trigger=Trigger.CATCHUP,
        attempt=1,
        state=State.QUEUED,
        queued_at=NOW,
        owner="here:1",
        priority=7,
    )


async def test_a_slot_is_claimed_once(store):
    first = await store.claim([claim_of()])
    second = await store.claim([claim_of(), claim_of("brief", slot(1))])
    assert first[0] is not None
    assert second[0] is None
    assert second[1] is not None
    assert [run.slot for run in await store.history()] == [slot(1), slot()]


async def test_a_slot_twice_in_one_batch_is_claimed_once(store):
    runs = await store.claim([claim_of(), claim_of(), claim_of("report")])
    assert [run is None for run in runs] == [False, True, False]
    assert await totals_agree(store)


async def test_the_same_instant_of_two_jobs_is_two_slots(store):
    runs = await store.claim([claim_of("brief"), claim_of("report")])
    assert None not in runs
    assert len(set(runs)) == 2


async def test_manual_claims_have_no_slot_and_never_collide(store):
    manual = claim_of("brief", None, trigger=Trigger.MANUAL)
    runs = await store.claim([manual, manual, manual])
    assert len(set(runs)) == 3
    assert None not in runs
    assert "brief" not in await store.load_jobs()


@pytest.mark.needs_disk
async def test_run_numbers_are_positive_and_grow_over_reopening_and_pruning(store, make_store):
    first = await claim_one(store, "brief", slot(0), State.SKIPPED)
    second = await claim_one(store, "brief", slot(1), State.SKIPPED)
    everything = NOW + DAY
    pruned = await store.prune(
        runs_before=everything, keep=9, outputs_before=everything, slots_before=everything
    )
    assert pruned.runs == 2
    store = await reopened(store, make_store)
    third = await claim_one(store, "brief", slot(2))
    await store.close()
    assert 0 < first < second < third


async def test_a_skipped_missed_or_abandoned_claim_is_an_outcome_at_once_with_its_reason(store):
    runs = await store.claim(
        [
            claim_of("a", state=State.SKIPPED, error="run 7 is still running"),
            claim_of("b", state=State.MISSED, error="older than 24h"),
            claim_of("c", state=State.ABANDONED, error="the store could not be written"),
        ]
    )
    found = [await store.get_run(run) for run in runs]
    assert [(run.state, run.ended_at, run.error) for run in found] == [
        (State.SKIPPED, NOW, "run 7 is still running"),
        (State.MISSED, NOW, "older than 24h"),
        (State.ABANDONED, NOW, "the store could not be written"),
    ]
    assert await store.active() == []


async def test_a_claim_advances_the_jobs_cursor_and_never_moves_it_back(store):
    await store.save_jobs([JobRecord("brief", cursor_at=slot(-10), timing="abc", paused=True)])
    await store.claim([claim_of("brief", slot(3)), claim_of("brief", slot(1))])
    await store.claim([claim_of("brief", slot(-20), trigger=Trigger.CATCHUP)])
    record = (await store.load_jobs())["brief"]
    assert record.cursor_at == slot(3)
    assert (record.timing, record.paused) == ("abc", True)


async def test_a_claim_makes_the_row_of_an_unknown_job(store):
    await store.claim([claim_of("unknown", slot(2))])
    assert (await store.load_jobs())["unknown"] == JobRecord("unknown", cursor_at=slot(2))


async def test_a_claim_that_came_too_late_advances_the_cursor_all_the_same(store):
    await store.claim([claim_of("brief", slot(5))])
    await store.save_jobs([JobRecord("brief", cursor_at=slot(0))])
    assert await store.claim([claim_of("brief", slot(5))]) == [None]
    assert (await store.load_jobs())["brief"].cursor_at == slot(5)


async def test_no_claims_are_no_runs(store):
    assert await store.claim([]) == []
    assert await store.finish([]) == []
    await store.starting([])
    store.started([])
    await store.save_jobs([])


async def test_a_thousand_claims_with_some_taken_already(store):
    await store.claim([claim_of(f"job{n}", slot()) for n in range(0, 1_000, 3)])
    runs = await store.claim([claim_of(f"job{n}", slot()) for n in range(1_000)])
    assert [n for n, run in enumerate(runs) if run is None] == list(range(0, 1_000, 3))
    won = [run for run in runs if run is not None]
    assert sorted(set(won)) == won
    for run in won[::100]:
        assert (await store.get_run(run)).run == run
    assert (await store.counts())[State.RUNNING] == 1_000
    assert len(await store.active()) == 1_000


@pytest.mark.needs_disk
async def test_two_owners_claiming_the_same_slots_get_one_run_each_slot(make_store, tmp_path):
    one, two = make_store(), make_store()
    await one.open()
    await two.open()
    wanted = [claim_of(f"job{n}", slot()) for n in range(200)]

    async def piecemeal(store, order):
        won = []
        for begin in range(0, 200, 10):
            batch = order[begin : begin + 10]
            won += [c.job for c, run in zip(batch, await store.claim(batch), strict=True) if run is not None]
        return won

    won = await asyncio.gather(piecemeal(one, wanted), piecemeal(two, wanted[::-1]))
    assert sorted(won[0] + won[1]) == sorted(claim.job for claim in wanted)
    assert len(await one.history(limit=1_000)) == 200
    assert await totals_agree(two)
    await one.close()
    await two.close()


# ── the life of a run ─────────────────────────────────────────────────────────────────────────


async def test_a_run_starts_and_ends(store):
    run = await claim_one(store)
    store.started([Started(run, 1, NOW + timedelta(seconds=1), ProcessIdentity(4711, 123456))])
    running = await store.get_run(run)
    assert running.state == State.RUNNING
    assert running.started_at == NOW + timedelta(seconds=1)
    assert running.process == ProcessIdentity(4711, 123456)
    assert await store.finish(
        [end_of(run, state=State.FAILED, exit_code=3, signal=None, error="exit 3", output_bytes=12)]
    ) == [True]
    ended = await store.get_run(run)
    assert (ended.state, ended.exit_code, ended.error, ended.output_bytes) == (State.FAILED, 3, "exit 3", 12)
    assert ended.ended_at == NOW + MINUTE
    assert ended.duration_seconds == 59
    assert await store.active() == []


async def test_a_run_ends_once(store):
    run = await claim_one(store)
    assert await store.finish([end_of(run, state=State.SUCCEEDED)]) == [True]
    assert await store.finish([end_of(run, state=State.ABANDONED)]) == [False]
    assert (await store.get_run(run)).state == State.SUCCEEDED
    assert await totals_agree(store)


async def test_two_ends_of_one_run_in_one_batch_are_one(store):
    run = await claim_one(store)
    assert await store.finish([end_of(run), end_of(run, state=State.FAILED)]) == [True, False]
    assert (await store.get_run(run)).state == State.SUCCEEDED


async def test_an_end_of_an_unknown_run_is_refused(store):
    assert await store.finish([end_of(4711)]) == [False]


async def test_an_end_with_another_attempt_is_refused(store):
    run = await claim_one(store)
    assert await store.finish([end_of(run, attempt=2)]) == [False]
    assert (await store.get_run(run)).state == State.RUNNING


async def test_an_end_must_be_an_outcome_and_a_wrong_one_changes_nothing(store):
    one, two = await store.claim([claim_of("a"), claim_of("b")])
    with pytest.raises(StoreError, match="is no outcome"):
        await store.finish([end_of(one, job="a"), end_of(two, job="b", state=State.RUNNING)])
    assert (await store.get_run(one)).state == State.RUNNING
    assert await totals_agree(store)


async def test_a_retried_run_goes_back_to_the_queue_and_remembers_the_attempt(store):
    run = await claim_one(store)
    store.started([Started(run, 1, NOW + timedelta(seconds=1), ProcessIdentity(10, 20))])
    later = NOW + 5 * MINUTE
    assert await store.finish(
        [end_of(run, state=State.FAILED, exit_code=9, error="boom", output_bytes=5, retry_at=later)]
    ) == [True]
    queued = await store.get_run(run)
    assert (queued.state, queued.attempt, queued.not_before_at) == (State.QUEUED, 2, later)
    assert (queued.started_at, queued.ended_at, queued.exit_code, queued.error) == (None, None, None, None)
    assert (queued.process, queued.output_bytes) == (None, None)
    assert queued.attempts == (
        {
            "attempt": 1,
            "state": "failed",
            "started_at": "2026-03-01T08:00:01.123456Z",
            "ended_at": "2026-03-01T08:01:00.123456Z",
            "exit_code": 9,
            "signal": None,
            "error": "boom",
        },
    )
    assert await store.finish([end_of(run, attempt=1)]) == [False]  # the old attempt is over
    await store.starting([run])
    running = await store.get_run(run)
    assert (running.state, running.not_before_at) == (State.RUNNING, None)
    store.started([Started(run, 1, NOW)])  # a late word of the first attempt
    assert (await store.get_run(run)).started_at is None
    store.started([Started(run, 2, later)])
    assert await store.finish(
        [end_of(run, attempt=2, at=later + MINUTE, signal=9, state=State.TIMED_OUT)]
    ) == [True]
    ended = await store.get_run(run)
    assert (ended.state, ended.attempt, ended.signal, ended.started_at) == (State.TIMED_OUT, 2, 9, later)
    assert len(ended.attempts) == 1
    assert await totals_agree(store)


async def test_three_attempts_are_listed_in_order(store):
    run = await claim_one(store)
    for attempt in (1, 2, 3):
        await store.finish(
            [end_of(run, attempt=attempt, state=State.FAILED, retry_at=NOW, error=f"try {attempt}")]
        )
        await store.starting([run])
    assert [a["error"] for a in (await store.get_run(run)).attempts] == ["try 1", "try 2", "try 3"]


async def test_starting_moves_only_queued_runs(store):
    queued, ended = await store.claim([claim_of("a", state=State.QUEUED), claim_of("b", state=State.SKIPPED)])
    await store.starting([queued, ended, 4711])
    assert (await store.get_run(queued)).state == State.RUNNING
    assert (await store.get_run(ended)).state == State.SKIPPED
    assert await totals_agree(store)


async def test_a_queued_run_can_be_cancelled(store):
    run = await claim_one(store, state=State.QUEUED)
    assert await store.finish([end_of(run, state=State.CANCELLED, error="by the operator")]) == [True]
    assert (await store.get_run(run)).state == State.CANCELLED
    assert await store.active() == []


async def test_a_start_that_is_told_after_the_end_is_kept(store):
    run = await claim_one(store)
    await store.finish([end_of(run)])
    store.started([Started(run, 1, NOW)])
    found = await store.get_run(run)
    assert (found.state, found.started_at) == (State.SUCCEEDED, NOW)


async def test_starts_are_durable_after_close(store, make_store):
    run = await claim_one(store)
    store.started([Started(run, 1, NOW, ProcessIdentity(1, 2))])
    store = await reopened(store, make_store)
    assert (await store.get_run(run)).process == ProcessIdentity(1, 2)
    await store.close()


async def test_active_is_ordered_by_slot_and_manual_runs_by_when_they_were_queued(store):
    claims = [
        claim_of("late", slot(9), State.QUEUED),
        claim_of("manual", None, State.QUEUED, at=slot(5)),
        claim_of("early", slot(1), State.RUNNING),
        claim_of("gone", slot(0), State.MISSED),
    ]
    await store.claim(claims)
    assert [run.job for run in await store.active()] == ["early", "manual", "late"]


async def test_many_writers_at_once_are_all_served(store):
    async def life(n: int) -> bool:
        run = await claim_one(store, f"job{n}", slot(n), State.QUEUED)
        await store.starting([run])
        store.started([Started(run, 1, NOW)])
        return (await store.finish([end_of(run, job=f"job{n}")])) == [True]

    assert all(await asyncio.gather(*(life(n) for n in range(100))))
    assert (await store.counts())[State.SUCCEEDED] == 100
    assert all(run.started_at == NOW for run in await store.history(limit=200))


async def test_one_callers_mistake_does_not_undo_anothers_work(store):
    run = await claim_one(store)
    good, bad, also_good = await asyncio.gather(
        store.claim([claim_of("a")]),
        store.finish([end_of(run, state=State.QUEUED)]),
        store.claim([claim_of("b")]),
        return_exceptions=True,
    )
    assert isinstance(bad, StoreError)
    assert (await store.get_run(good[0])).job == "a"
    assert (await store.get_run(also_good[0])).job == "b"


# ── job records and notes ─────────────────────────────────────────────────────────────────────


async def test_job_records_come_back_as_they_were_saved(store, make_store):
    records = {
        "plain": JobRecord("plain", cursor_at=NOW),
        "rich": JobRecord(
            "rich", NOW, NOW - DAY, "digest", enabled=False, paused=True, parked="no such user"
        ),
        "ünï cödé": JobRecord("ünï cödé", datetime(1969, 7, 20, tzinfo=UTC)),
    }
    await store.save_jobs(records.values())
    store = await reopened(store, make_store)
    assert await store.load_jobs() == records
    await store.close()


async def test_saving_a_job_replaces_all_but_its_last_run(store):
    run = await claim_one(store)
    await store.finish([end_of(run)])
    await store.save_jobs([JobRecord("brief", cursor_at=slot(-5), paused=True, last_run=999)])
    assert (await store.load_jobs())["brief"] == JobRecord(
        "brief", cursor_at=slot(-5), paused=True, last_run=run
    )


async def test_the_last_run_is_the_newest_that_ended(store):
    one, two = await store.claim([claim_of("brief", slot(1)), claim_of("brief", slot(2))])
    await store.finish([end_of(two)])
    await store.finish([end_of(one)])
    assert (await store.load_jobs())["brief"].last_run == two


async def test_a_retry_is_no_last_run(store):
    run = await claim_one(store)
    await store.finish([end_of(run, state=State.FAILED, retry_at=NOW)])
    assert (await store.load_jobs())["brief"].last_run is None


async def test_notes_are_kept_replaced_and_forgotten(store, make_store):
    await store.set_note("boot_id", "abc")
    await store.set_note("boot_id", "def")
    await store.set_note("gone", "x")
    await store.set_note("gone", None)
    await store.set_note("never", None)
    store = await reopened(store, make_store)
    assert await store.get_note("boot_id") == "def"
    assert await store.get_note("gone") is None
    await store.close()


async def test_text_that_no_database_takes_is_kept_visibly_escaped_or_as_it_is(store):
    run = await claim_one(store)
    await store.finish([end_of(run, state=State.FAILED, error="caf\udce9 \0 ü 🙂")])
    error = (await store.get_run(run)).error
    assert error in ("caf\udce9 \0 ü 🙂", "caf\\udce9 \\x00 ü 🙂")


# ── history, counts ───────────────────────────────────────────────────────────────────────────


async def fill(store) -> list[int]:
    """Twenty runs of two jobs, a minute apart; every fifth failed, one is still running."""
    claims = [claim_of(f"job{n % 2}", slot(n), at=slot(n)) for n in range(20)]
    runs = await store.claim(claims)
    await store.finish(
        [
            end_of(
                run,
                job=f"job{n % 2}",
                at=slot(n) + MINUTE,
                state=State.FAILED if n % 5 == 0 else State.SUCCEEDED,
            )
            for n, run in enumerate(runs[:-1])
        ]
    )
    return runs


async def test_history_is_newest_first_and_limited(store):
    runs = await fill(store)
    assert [run.run for run in await store.history()] == runs[::-1]
    assert [run.run for run in await store.history(limit=3)] == runs[:-4:-1]
    assert await store.history(limit=0) == []


async def test_history_of_one_job(store):
    runs = await fill(store)
    assert [run.run for run in await store.history(job="job1")] == runs[1::2][::-1]
    assert await store.history(job="nobody") == []


async def test_history_by_state(store):
    runs = await fill(store)
    failed = [run for n, run in enumerate(runs) if n % 5 == 0]
    assert [run.run for run in await store.history(states=[State.FAILED])] == failed[::-1]
    both = await store.history(states=[State.RUNNING, State.FAILED, State.RUNNING], limit=2)
    assert [run.run for run in both] == [runs[-1], runs[15]]
    assert [run.run for run in await store.history(job="job0", states=[State.FAILED])] == [runs[10], runs[0]]
    assert await store.history(states=[State.ABANDONED]) == []


async def test_history_of_a_period_includes_its_begin_and_not_its_end(store):
    runs = await fill(store)
    found = await store.history(since=slot(5), until=slot(8))
    assert [run.run for run in found] == runs[5:8][::-1]
    found = await store.history(since=slot(5), until=slot(12), job="job0", states=[State.FAILED])
    assert [run.run for run in found] == [runs[10]]
    assert [run.run for run in await store.history(until=slot(2))] == [runs[1], runs[0]]


async def test_history_is_paged_by_run(store):
    runs = await fill(store)
    seen, before = [], None
    while page := await store.history(before_run=before, limit=7):
        seen += [run.run for run in page]
        before = page[-1].run
    assert seen == runs[::-1]


async def test_counts_follow_every_change(store):
    await fill(store)
    counts = await store.counts()
    assert (counts[State.FAILED], counts[State.SUCCEEDED], counts[State.RUNNING]) == (4, 15, 1)
    assert await totals_agree(store)


# ── retention ─────────────────────────────────────────────────────────────────────────────────

NEVER = datetime(1970, 1, 2, tzinfo=UTC)


async def prune_all(store, batch=500, **rules):
    rules = {"runs_before": NEVER, "keep": 10**6, "outputs_before": NEVER, "slots_before": NEVER} | rules
    passes = []
    while (pruned := await store.prune(batch=batch, **rules)) and (
        pruned.runs or pruned.slots or pruned.outputs
    ):
        passes.append(pruned)
        assert len(passes) < 1_000
    return passes


@pytest.mark.needs_disk
async def test_pruning_by_age_removes_old_ended_runs_only(store):
    runs = await fill(store)
    old = await claim_one(store, "job0", slot(-100), State.QUEUED, at=slot(-100))
    passes = await prune_all(store, runs_before=slot(10))
    assert sum(p.runs for p in passes) == 10
    assert [run.run for run in await store.history()] == [old, *runs[:9:-1]]
    assert await totals_agree(store)
    assert await store.check() == []


@pytest.mark.needs_disk
async def test_pruning_keeps_the_newest_ended_runs_of_each_job(store):
    runs = await fill(store)
    passes = await prune_all(store, keep=3, batch=4)
    assert all(p.runs <= 4 for p in passes)
    assert sum(p.runs for p in passes) == 13
    assert [run.run for run in await store.history()] == runs[:-8:-1]  # one of them still runs
    assert await totals_agree(store)


@pytest.mark.needs_disk
async def test_pruned_runs_and_aged_outputs_are_named_once(store):
    run = await claim_one(store)
    await store.finish([end_of(run, state=State.FAILED, retry_at=NOW)])
    await store.starting([run])
    await store.finish([end_of(run, attempt=2, at=NOW)])
    kept = await claim_one(store, "report")
    await store.finish([end_of(kept, job="report", at=NOW + DAY)])
    await store.claim([claim_of("skipped", state=State.SKIPPED)])  # never had an output
    passes = await prune_all(store, outputs_before=NOW + MINUTE)
    assert [p.outputs for p in passes] == [((run, 1), (run, 2))]
    assert sum(p.runs for p in passes) == 0
    passes = await prune_all(store, runs_before=NOW + MINUTE)
    assert [output for p in passes for output in p.outputs] == [(kept, 1)]
    assert await store.history() == []


@pytest.mark.needs_disk
async def test_slot_rows_outlive_their_runs_until_they_are_old_enough(store):
    await fill(store)
    await prune_all(store, runs_before=NOW + DAY)
    assert await store.claim([claim_of("job0", slot(0))]) == [None]
    passes = await prune_all(store, slots_before=slot(10), batch=3)
    assert sum(p.slots for p in passes) == 10
    assert all(p.slots <= 3 for p in passes)
    assert (await store.claim([claim_of("job0", slot(0))]))[0] is not None
    assert await store.claim([claim_of("job0", slot(10))]) == [None]


@pytest.mark.needs_disk
async def test_pruning_goes_on_where_new_runs_came_after_a_finished_pass(store):
    await fill(store)
    await prune_all(store, keep=1)
    await store.claim([claim_of("job0", slot(50 + n), State.SKIPPED) for n in range(5)])
    passes = await prune_all(store, keep=1)
    assert sum(p.runs for p in passes) == 5
