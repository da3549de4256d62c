"""Bad times: the disk fails in every way that can be arranged inside one process."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from datetime import UTC, datetime, timedelta

import pytest

from echosched.errors import StoreCorrupt, StoreUnavailable
from echosched.events import StoreDegraded, StoreRecovered
from echosched.model import Claim, Ended, JobRecord, ProcessIdentity, Result, Started, State, Trigger
from echosched.store import badtimes
from echosched.store.resilient import ResilientStore
from echosched.store.sqlite import SqliteStore
from echosched.testing import FakeClock, RecordingSink

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Disk(SqliteStore):
    """A real SQLite store with a switch: while *fault* is set, transactions raise it."""

    fault = None
    reads_fail = False

    async def _write(self, work):
        if self.fault is not None:
            await asyncio.sleep(0)
            raise self.fault
        return await super()._write(work)

    async def _read(self, work):
        if self.reads_fail:
            raise StoreUnavailable("an input/output error")
        return await super()._read(work)


class Bench:
    """A resilient store on a disk that can be broken, with everything that watches it."""

    def __init__(self, path, *, make=Disk, **settings):
        self.clock = FakeClock(NOW)
        self.sink = RecordingSink()
        self.told = []
        self.disk = make(path, owner="here:1", clock=self.clock)
        settings = {"retry_seconds": (0.001, 0.01)} | settings
        self.store = ResilientStore(
            self.disk, self.clock, self.sink, on_degraded=self.told.append, **settings
        )

    def full(self):
        self.disk.fault = StoreUnavailable("the disk is full")

    async def recover(self):
        self.disk.fault = None
        self.disk.reads_fail = False
        await self.until_good()

    async def until_good(self):
        async with asyncio.timeout(60):
            while self.store.degraded_since is not None:
                await asyncio.sleep(0.002)


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path / "echosched.db")
    await bench.store.open()
    yield bench
    bench.disk.fault = None
    await bench.store.close()


def claim_of(job="brief", minute=0, state=State.RUNNING, **more) -> Claim:
    return Claim(job, NOW + minute * MINUTE, Trigger.SCHEDULE, state, NOW, **more)


def end_of(run, job="brief", attempt=1, state=State.SUCCEEDED, retry_at=None, **result) -> Ended:
    return Ended(run, job, attempt, NOW + MINUTE, Result(state, **result), retry_at)


async def test_a_fault_is_told_once_and_so_is_the_recovery(bench):
    await bench.store.claim([claim_of(minute=0)])
    bench.full()
    for minute in range(1, 5):
        await bench.store.claim([claim_of(minute=minute)])
    (degraded,) = bench.sink.of(StoreDegraded)
    assert "disk is full" in degraded.reason
    assert bench.store.degraded_since == NOW
    assert "disk is full" in bench.store.reason
    bench.clock.advance(timedelta(seconds=30))
    await bench.recover()
    (recovered,) = bench.sink.of(StoreRecovered)
    assert (recovered.written, recovered.lost, recovered.seconds, recovered.set_aside) == (4, 0, 30.0, None)
    assert bench.told == [NOW, None]


async def test_runs_claimed_and_ended_in_bad_times_are_in_the_database_afterwards(bench):
    bench.full()
    run, other, skipped = await bench.store.claim(
        [claim_of(), claim_of("report"), claim_of("brief", 1, State.SKIPPED, error="still running")]
    )
    bench.store.started([Started(run, 1, NOW, ProcessIdentity(10, 20))])
    assert await bench.store.finish([end_of(run, exit_code=0, output_bytes=7)]) == [True]
    assert await bench.store.finish([end_of(run, state=State.FAILED)]) == [False]
    assert await bench.disk.history() == []
    seen = await bench.store.history()
    await bench.recover()
    assert await bench.disk.history() == seen
    stored = await bench.disk.get_run(run)
    assert (stored.state, stored.exit_code, stored.output_bytes) == (State.SUCCEEDED, 0, 7)
    assert (stored.started_at, stored.process, stored.owner) == (NOW, ProcessIdentity(10, 20), "here:1")
    assert [r.run for r in await bench.disk.active()] == [other]
    assert (await bench.disk.get_run(skipped)).error == "still running"
    assert await bench.disk.check() == []


async def test_a_run_claimed_before_the_fault_ends_in_it(bench):
    (run,) = await bench.store.claim([claim_of()])
    bench.store.started([Started(run, 1, NOW, ProcessIdentity(10, 20))])
    bench.full()
    assert await bench.store.finish([end_of(run, exit_code=3, state=State.FAILED)]) == [True]
    assert (await bench.disk.get_run(run)).state == State.RUNNING
    assert (await bench.store.get_run(run)).state == State.FAILED
    await bench.recover()
    stored = await bench.disk.get_run(run)
    assert (stored.state, stored.exit_code, stored.process) == (State.FAILED, 3, ProcessIdentity(10, 20))
    assert (await bench.disk.load_jobs())["brief"].last_run == run


async def test_a_run_of_an_earlier_life_ends_in_bad_times(bench, tmp_path):
    (run,) = await bench.store.claim([claim_of()])
    await bench.store.close()
    again = Bench(tmp_path / "echosched.db")
    await again.store.open()
    again.full()
    assert await again.store.finish([end_of(run)]) == [True]
    await again.recover()
    assert (await again.disk.get_run(run)).state == State.SUCCEEDED
    await again.store.close()


async def test_retries_go_on_in_bad_times_and_over_their_end(bench):
    (run,) = await bench.store.claim([claim_of()])
    bench.full()
    retry_at = NOW + 2 * MINUTE
    await bench.store.finish([end_of(run, state=State.FAILED, retry_at=retry_at, error="first")])
    queued = await bench.store.get_run(run)
    assert (queued.state, queued.attempt, queued.not_before_at) == (State.QUEUED, 2, retry_at)
    await bench.recover()
    assert await bench.disk.get_run(run) == queued
    await bench.store.starting([run])
    bench.full()
    assert await bench.store.finish([end_of(run, attempt=2, state=State.FAILED, retry_at=retry_at)]) == [True]
    await bench.store.starting([run])
    assert await bench.store.finish([end_of(run, attempt=3)]) == [True]
    await bench.recover()
    stored = await bench.disk.get_run(run)
    assert (stored.state, stored.attempt, len(stored.attempts)) == (State.SUCCEEDED, 3, 2)
    assert stored.attempts[0]["error"] == "first"


async def test_each_slot_runs_once_across_good_and_bad_times(bench):
    (before,) = await bench.store.claim([claim_of(minute=0)])
    bench.full()
    answers = await bench.store.claim([claim_of(minute=0), claim_of(minute=1), claim_of(minute=1)])
    assert answers[0] is None  # the database can still be read to have it
    assert answers[1] is not None
    assert answers[2] is None
    await bench.recover()
    assert await bench.store.claim([claim_of(minute=0), claim_of(minute=1)]) == [None, None]
    assert [run.run for run in await bench.disk.history()] == [answers[1], before]


async def test_each_slot_runs_once_even_if_nothing_can_be_read(bench):
    """With the clock set back the scheduler may claim slots of this life again."""
    runs = await bench.store.claim([claim_of(minute=minute) for minute in range(6)])
    await bench.store.finish([end_of(run) for run in runs])
    bench.full()
    bench.disk.reads_fail = True
    answers = await bench.store.claim([claim_of(minute=minute) for minute in (2, 5, 6, 6)])
    assert [run is None for run in answers] == [True, True, False, True]
    assert (await bench.store.claim([claim_of("other", minute=2)]))[0] is not None


async def test_run_numbers_never_repeat_over_many_faults(bench):
    numbers = []
    for minute in range(60):
        if minute % 10 == 3:
            bench.full()
        if minute % 10 == 7:
            await bench.recover()
        numbers += await bench.store.claim([claim_of(job, minute) for job in ("a", "b")])
    await bench.recover()
    assert None not in numbers
    assert sorted(set(numbers)) == numbers
    assert sorted(run.run for run in await bench.disk.history(limit=1_000)) == numbers


async def test_a_number_that_a_failed_commit_may_have_used_is_left_out(bench):
    (first,) = await bench.store.claim([claim_of(minute=0)])
    bench.full()
    runs = await bench.store.claim([claim_of("a", 1), claim_of("b", 1)])
    assert min(runs) > first + 2


async def test_many_callers_at_the_moment_of_the_fault_all_get_answers(bench):
    async def caller(n: int) -> int:
        if n == 20:
            bench.full()
        (run,) = await bench.store.claim([claim_of(f"job{n}")])
        assert await bench.store.finish([end_of(run, job=f"job{n}")]) == [True]
        if n == 40:
            bench.disk.fault = None
        return run

    runs = await asyncio.gather(*(caller(n) for n in range(60)))
    assert len(set(runs)) == 60
    await bench.recover()
    assert (await bench.disk.counts())[State.SUCCEEDED] == 60
    assert await bench.disk.check() == []


async def test_callers_during_the_recovery_lose_nothing(bench):
    """Claims and ends go on while portions are being written and while the gate closes."""
    bench.full()
    runs = await bench.store.claim([claim_of(f"job{n}") for n in range(5_000)])
    bench.disk.fault = None
    more = []
    minute = 1
    while bench.store.degraded_since is not None:
        more += await bench.store.claim([claim_of("brief", minute)])
        await bench.store.finish([end_of(run, job="x") for run in runs[minute * 10 : minute * 10 + 10]])
        minute += 1
    assert (await bench.disk.counts())[State.RUNNING] == len(await bench.disk.active())
    assert len(await bench.disk.history(limit=10_000)) == 5_000 + len(more)
    assert await bench.disk.check() == []


async def test_reads_in_bad_times_join_the_database_and_memory(bench):
    a, b = await bench.store.claim([claim_of("a"), claim_of("b")])
    bench.full()
    (c,) = await bench.store.claim([claim_of("c", 1)])
    await bench.store.finish([end_of(a, job="a", state=State.FAILED)])
    history = await bench.store.history()
    assert [(run.run, run.state) for run in history] == [
        (c, State.RUNNING),
        (b, State.RUNNING),
        (a, State.FAILED),
    ]
    assert [run.run for run in await bench.store.history(states=[State.FAILED])] == [a]
    assert [run.run for run in await bench.store.history(states=[State.RUNNING], limit=1)] == [c]
    assert [run.run for run in await bench.store.history(job="b")] == [b]
    assert [run.run for run in await bench.store.active()] == [b, c]
    counts = await bench.store.counts()
    assert (counts[State.RUNNING], counts[State.FAILED]) == (2, 1)
    assert (await bench.store.load_jobs())["c"].cursor_at == NOW + MINUTE
    assert await bench.store.check() == ["the disk is full"]


async def test_reads_answer_from_memory_where_nothing_can_be_read(bench):
    await bench.store.save_jobs([JobRecord("brief", cursor_at=NOW, paused=True)])
    await bench.store.set_note("boot", "abc")
    (run,) = await bench.store.claim([claim_of()])
    bench.full()
    bench.disk.reads_fail = True
    (later,) = await bench.store.claim([claim_of(minute=1)])
    assert [r.run for r in await bench.store.active()] == [run, later]
    assert [r.run for r in await bench.store.history()] == [later]
    assert (await bench.store.get_run(run)).state == State.RUNNING
    assert (await bench.store.counts())[State.RUNNING] == 1
    assert await bench.store.get_note("boot") == "abc"
    record = (await bench.store.load_jobs())["brief"]
    assert (record.paused, record.cursor_at) == (True, NOW + MINUTE)


async def test_a_read_that_fails_in_good_times_is_answered_and_begins_bad_ones(bench):
    await bench.store.claim([claim_of()])
    bench.disk.reads_fail = True
    assert len(await bench.store.active()) == 1
    assert bench.store.degraded_since is not None
    await asyncio.sleep(0.05)
    assert bench.store.degraded_since is not None, "it must not flap while reading fails"
    assert len(bench.sink.of(StoreDegraded)) == 1
    await bench.recover()


async def test_job_records_and_notes_of_bad_times_are_written_afterwards(bench):
    await bench.store.save_jobs([JobRecord("brief", cursor_at=NOW)])
    await bench.store.set_note("gone", "x")
    bench.full()
    record = JobRecord("brief", cursor_at=NOW, paused=True, timing="t")
    await bench.store.save_jobs([record])
    await bench.store.set_note("boot", "def")
    await bench.store.set_note("gone", None)
    assert (await bench.store.load_jobs())["brief"] == record
    assert await bench.store.get_note("boot") == "def"
    assert await bench.store.get_note("gone") is None
    await bench.store.claim([claim_of(minute=9)])
    await bench.recover()
    stored = (await bench.disk.load_jobs())["brief"]
    assert (stored.paused, stored.timing, stored.cursor_at) == (True, "t", NOW + 9 * MINUTE)
    assert await bench.disk.get_note("boot") == "def"
    assert await bench.disk.get_note("gone") is None


async def test_memory_is_bounded_and_says_what_it_lost(tmp_path):
    bench = Bench(tmp_path / "echosched.db", most_runs=100, most_slots=300)
    await bench.store.open()
    bench.full()
    (living,) = await bench.store.claim([claim_of("living")])
    for minute in range(250):
        (run,) = await bench.store.claim([claim_of("brief", minute)])
        assert await bench.store.finish([end_of(run)]) == [True]
    assert len(await bench.store.history(limit=1_000)) <= 100
    await bench.recover()
    (recovered,) = bench.sink.of(StoreRecovered)
    assert recovered.lost + recovered.written == 251
    assert recovered.lost >= 150
    assert (await bench.disk.get_run(living)).state == State.RUNNING
    # The details are gone, the slots are not: none of them runs again.
    assert await bench.store.claim([claim_of("brief", minute) for minute in range(250)]) == [None] * 250
    assert await bench.disk.check() == []
    await bench.store.close()


async def test_slots_beyond_the_bound_are_rather_not_run_than_run_twice(tmp_path):
    bench = Bench(tmp_path / "echosched.db", most_slots=10)
    await bench.store.open()
    bench.full()
    for minute in range(50):
        await bench.store.claim([claim_of("brief", minute, State.SKIPPED)])
    assert await bench.store.claim([claim_of("brief", minute) for minute in range(50)]) == [None] * 50
    assert (await bench.store.claim([claim_of("brief", 50)]))[0] is not None
    bench.disk.fault = None
    await bench.store.close()


async def test_closing_in_bad_times_writes_what_can_be_written(bench, tmp_path):
    bench.full()
    (run,) = await bench.store.claim([claim_of()])
    bench.disk.fault = None
    await bench.store.close()
    async with contextlib.AsyncExitStack() as stack:
        again = SqliteStore(tmp_path / "echosched.db", read_only=True)
        await again.open()
        stack.push_async_callback(again.close)
        assert (await again.get_run(run)).job == "brief"


async def test_closing_on_a_disk_that_stays_full_ends_and_says_so(bench, caplog):
    bench.full()
    await bench.store.claim([claim_of()])
    await bench.store.close()
    assert "closes without 1 rows" in caplog.text


async def test_a_caller_who_gives_up_leaves_memory_in_order(bench):
    call = asyncio.ensure_future(bench.store.claim([claim_of()]))
    await asyncio.sleep(0)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    async with asyncio.timeout(60):
        while not await bench.disk.history():  # it goes on without its caller
            await asyncio.sleep(0.002)
    bench.full()
    (run,) = await bench.store.claim([claim_of("report")])
    await bench.recover()
    assert [r.job for r in await bench.disk.history()] == ["report", "brief"]
    assert (await bench.disk.get_run(run)).job == "report"


async def test_mistakes_of_the_program_do_not_begin_bad_times(bench):
    with pytest.raises(AttributeError):
        await bench.store.claim([None])
    assert bench.store.degraded_since is None


# ── damage ────────────────────────────────────────────────────────────────────────────────────


async def test_a_damaged_file_is_set_aside_and_a_fresh_one_takes_over(bench, tmp_path):
    await bench.store.save_jobs([JobRecord("brief", cursor_at=NOW, paused=True, timing="t")])
    await bench.store.set_note("boot", "abc")
    run, ended = await bench.store.claim([claim_of(), claim_of("report")])
    bench.store.started([Started(run, 1, NOW, ProcessIdentity(10, 20))])
    await bench.store.finish([end_of(ended, job="report")])
    bench.clock.advance(3 * MINUTE)
    bench.disk.fault = StoreCorrupt("its pages are damaged")
    (later,) = await bench.store.claim([claim_of(minute=1)])
    bench.disk.fault = None
    await bench.until_good()
    aside = tmp_path / "echosched.db.damaged-20260301T080300Z"
    assert aside.exists()
    assert bench.sink.of(StoreRecovered)[0].set_aside == str(aside)
    assert [r.run for r in await bench.disk.active()] == [run, later]
    assert (await bench.disk.get_run(run)).process == ProcessIdentity(10, 20)
    records = await bench.disk.load_jobs()
    assert records["brief"] == JobRecord("brief", cursor_at=NOW + 3 * MINUTE, paused=True, timing="t")
    assert await bench.disk.get_note("boot") == "abc"
    (newer,) = await bench.store.claim([claim_of(minute=9)])
    assert newer > later > ended
    assert await bench.store.claim([claim_of(minute=0), claim_of(minute=1)]) == [None, None]
    assert await bench.store.finish([end_of(run)]) == [True]
    old = SqliteStore(aside, read_only=True)
    await old.open()
    assert (await old.get_run(ended)).state == State.SUCCEEDED
    await old.close()


async def test_the_schedulers_own_records_begin_the_fresh_database(tmp_path):
    mine = [JobRecord("mine", cursor_at=NOW - MINUTE, parked="no such user")]
    bench = Bench(tmp_path / "echosched.db", jobs=lambda: mine)
    await bench.store.open()
    bench.disk.fault = StoreCorrupt("its pages are damaged")
    await bench.store.claim([claim_of()])
    bench.disk.fault = None
    await bench.until_good()
    records = await bench.disk.load_jobs()
    assert records["mine"] == JobRecord("mine", cursor_at=NOW, parked="no such user")
    assert records["brief"].cursor_at == NOW
    await bench.store.close()


async def test_a_damaged_file_found_at_opening_is_set_aside(tmp_path):
    path = tmp_path / "echosched.db"
    plain = SqliteStore(path)
    await plain.open()
    await plain.claim([claim_of(f"job{n}") for n in range(2_000)])
    await plain.close()
    damaged = bytearray(path.read_bytes())
    damaged[200:4096] = b"\xff" * 3896  # the root page: header still good
    path.write_bytes(damaged)
    bench = Bench(path, highest_trace=lambda: 2_000)
    await bench.store.open()
    assert bench.store.degraded_since is None
    aside = tmp_path / "echosched.db.damaged-20260301T080000Z"
    assert aside.read_bytes() == damaged
    assert [e.event for e in bench.sink.events] == ["store_degraded", "store_recovered"]
    assert await bench.store.claim([claim_of()]) == [2_001]
    await bench.store.close()


async def test_a_store_that_cannot_be_written_at_opening_is_refused_or_borne(tmp_path, monkeypatch):
    path = tmp_path / "echosched.db"
    plain = SqliteStore(path)
    await plain.open()
    (run,) = await plain.claim([claim_of()])
    await plain.save_jobs([JobRecord("brief", cursor_at=NOW, paused=True)])
    await plain.close()

    broken = True
    really = SqliteStore._connect_writer

    def connect(self):
        if broken:
            raise StoreUnavailable("the disk is full")
        return really(self)

    monkeypatch.setattr(SqliteStore, "_connect_writer", connect)
    strict = Bench(path)
    with pytest.raises(StoreUnavailable):
        await strict.store.open()
    bench = Bench(path, lenient=True)
    await bench.store.open()
    assert bench.store.degraded_since == NOW
    assert (await bench.store.load_jobs())["brief"].paused
    assert await bench.store.claim([claim_of(minute=0)]) == [None]
    (later,) = await bench.store.claim([claim_of(minute=1)])
    assert later > run
    assert await bench.store.finish([end_of(run), end_of(later)]) == [True, True]
    broken = False
    await bench.until_good()
    assert (await bench.disk.counts())[State.SUCCEEDED] == 2
    assert (await bench.disk.load_jobs())["brief"].paused
    await bench.store.close()


async def test_a_store_opened_blind_keeps_what_it_could_not_read(tmp_path, monkeypatch):
    path = tmp_path / "echosched.db"
    plain = SqliteStore(path)
    await plain.open()
    await plain.claim([claim_of()])
    await plain.save_jobs([JobRecord("brief", cursor_at=NOW, paused=True)])
    await plain.close()
    bench = Bench(path, lenient=True)

    broken = True

    def unless_broken(really):
        def connect(self):
            if broken:
                raise StoreUnavailable("an input/output error")
            return really(self)

        return connect

    for name in ("_connect_writer", "_connect_reader"):
        monkeypatch.setattr(SqliteStore, name, unless_broken(getattr(SqliteStore, name)))
    await bench.store.open()
    assert await bench.store.load_jobs() == {}
    await bench.store.save_jobs([JobRecord("brief", cursor_at=NOW + MINUTE)])
    (run,) = await bench.store.claim([claim_of(minute=2)])
    assert run > 1_000_000
    broken = False
    await bench.until_good()
    record = (await bench.disk.load_jobs())["brief"]
    assert (record.paused, record.cursor_at) == (True, NOW + 2 * MINUTE)
    assert (await bench.disk.get_run(run)).slot == NOW + 2 * MINUTE
    await bench.store.close()


async def test_what_a_crash_would_leave_unknown_begins_before_the_slots_that_memory_alone_knows(bench):
    bench.clock.advance(timedelta(seconds=1))
    bench.full()
    await bench.store.claim([claim_of()])  # its slot lies a second before the fault
    assert bench.told[-1] < NOW
    await bench.store.claim([claim_of(minute=-60)])  # caught up in bad times
    assert bench.told[-1] < NOW - 60 * MINUTE
    before = list(bench.told)
    await bench.store.claim([claim_of(minute=1), claim_of(minute=-30)])
    assert bench.told == before
    await bench.recover()
    assert bench.told[-1] is None


class Liar:
    """A connection whose commits fail while *lies* is set, whole on the disk all the same or not at all."""

    def __init__(self, connection, disk):
        self._connection, self._disk = connection, disk

    def execute(self, sql, *more):
        if sql == self._disk.hangs_at:
            self._disk.hangs_at = None
            assert self._disk.goes_on.wait(60)
        if sql == "COMMIT" and self._disk.lies:
            lie = self._disk.lies.pop(0)
            if lie == "none":
                return self._connection.execute(sql)
            self._connection.execute("COMMIT" if lie == "it is there" else "ROLLBACK")
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return self._connection.execute(sql, *more)

    def __getattr__(self, name):
        return getattr(self._connection, name)


class DoubtfulDisk(SqliteStore):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.lies = []
        self.hangs_at = None
        self.goes_on = threading.Event()

    def _connect_writer(self):
        return Liar(super()._connect_writer(), self)


def be_patient(bench, *, patient):
    """Have the store take a disk that is silent for an instant for one that hangs, or none that is merely slow."""
    times = bench.store._times
    times._hang_seconds = 60 if patient else 0.05
    if times._watch is not None:  # for what was asked before
        times._watch.cancel()
        times._watch = None


@pytest.fixture
async def doubtful(tmp_path):
    bench = Bench(tmp_path / "echosched.db", make=DoubtfulDisk, hang_seconds=60)
    await bench.store.open()
    yield bench
    bench.disk.lies.clear()
    bench.disk.goes_on.set()
    await bench.store.close()


@pytest.mark.parametrize("lie", ["it is there", "it is not"])
async def test_claims_whose_commit_failed_are_ours_whether_it_is_found_whole_or_not(doubtful, lie):
    """Asked again, the database would say that their slots are accounted for: by nobody who would run them."""
    (before,) = await doubtful.store.claim([claim_of(minute=0)])
    doubtful.disk.lies = [lie]
    by_hand = Claim("brief", None, Trigger.MANUAL, State.RUNNING, NOW)
    runs = await doubtful.store.claim([claim_of(minute=1), claim_of(minute=0), claim_of(minute=2), by_hand])
    assert runs[1] is None
    first, second, third = runs[0], runs[2], runs[3]
    assert len({before, first, second, third}) == 4
    await doubtful.until_good()
    assert await doubtful.store.finish([end_of(run) for run in (first, second, third)]) == [True] * 3
    assert sorted((r.run, r.slot) for r in await doubtful.disk.history() if r.slot) == [
        (before, NOW), (first, NOW + MINUTE), (second, NOW + 2 * MINUTE),
    ]  # fmt: skip
    assert [r.run for r in await doubtful.disk.active()] == [before]
    assert (await doubtful.store.claim([claim_of(minute=3)]))[0] > max(first, second, third)
    assert await doubtful.disk.check() == []


@pytest.mark.parametrize("lie", ["it is there", "it is not"])
async def test_ends_whose_commit_failed_count_as_the_first_whether_it_is_found_whole_or_not(doubtful, lie):
    run, other = await doubtful.store.claim([claim_of("a"), claim_of("b")])
    doubtful.disk.lies = [lie]
    ends = [end_of(run, "a"), end_of(other, "b", state=State.FAILED, retry_at=NOW + MINUTE)]
    assert await doubtful.store.finish(ends) == [True, True]
    await doubtful.until_good()
    assert (await doubtful.disk.get_run(run)).state == State.SUCCEEDED
    again = await doubtful.disk.get_run(other)
    assert (again.state, again.attempt) == (State.QUEUED, 2)
    assert len(again.attempts) == 1
    assert await doubtful.disk.check() == []


@pytest.mark.parametrize("lies", [["it is there"], ["it is not"], ["it is not"] * 2, ["it is there"] * 2])
async def test_a_number_that_two_commits_used_goes_to_the_later_one(doubtful, lies):
    """What waits behind a commit that fails is the next transaction: it may get the very numbers of the first."""
    store = doubtful.store
    await store.claim([claim_of(minute=0)])
    writer, held = doubtful.disk._writer, threading.Event()
    take = writer._take

    def take_one():
        with writer._wake:
            later = [writer._tasks.pop() for _ in range(len(writer._tasks) - 1)]
        taken = take()
        with writer._wake:
            writer._tasks.extend(reversed(later))
        return taken

    def hold(connection):
        held.wait(60)
        doubtful.disk.lies += ["none", *lies]  # its own commit goes well

    writer._take = take_one
    holder = writer.submit(hold)
    first = asyncio.ensure_future(store.claim([claim_of("a", 1), claim_of("b", 1)]))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(store.claim([claim_of("c", 1), claim_of("d", 1)]))
    await asyncio.sleep(0)
    held.set()
    await holder
    runs = [*await first, *await second]
    assert None not in runs
    assert len(set(runs)) == 4
    await doubtful.until_good()
    assert sorted(run.run for run in await doubtful.disk.history() if run.slot > NOW) == sorted(runs)
    assert await doubtful.disk.check() == []


@pytest.mark.parametrize("place", ["BEGIN IMMEDIATE", "COMMIT"])
async def test_a_disk_that_hangs_stops_nobody_and_what_it_did_late_is_ours(doubtful, place):
    store, disk = doubtful.store, doubtful.disk
    (before,) = await store.claim([claim_of(minute=0)])
    disk.hangs_at = place
    be_patient(doubtful, patient=False)
    async with asyncio.timeout(60):
        first = asyncio.ensure_future(store.claim([claim_of(minute=1), claim_of(minute=0)]))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(store.claim([claim_of(minute=2)]))  # waits behind it
        ended = asyncio.ensure_future(store.finish([end_of(before)]))
        (run, none), (other,) = await first, await second
        assert none is None
        assert await ended == [True]
        assert len({before, run, other}) == 3
        assert "has not answered" in doubtful.sink.of(StoreDegraded)[0].reason
        (third,) = await store.claim([claim_of(minute=3)])
        assert await store.finish([end_of(run)]) == [True]
    assert store.degraded_since is not None
    be_patient(doubtful, patient=True)
    disk.goes_on.set()
    await doubtful.until_good()
    rows = {r.run: r.state for r in await disk.history()}
    assert rows == {
        before: State.SUCCEEDED, run: State.SUCCEEDED, other: State.RUNNING, third: State.RUNNING,
    }  # fmt: skip
    assert await store.claim([claim_of(minute=n) for n in range(4)]) == [None] * 4
    assert await disk.check() == []


async def test_a_store_that_closes_while_the_disk_hangs_says_what_it_could_not_write(doubtful, caplog):
    doubtful.disk.hangs_at = "COMMIT"
    be_patient(doubtful, patient=False)
    (run,) = await doubtful.store.claim([claim_of()])
    closing = asyncio.ensure_future(doubtful.store.close())
    async with asyncio.timeout(60):
        while "closes without 1 rows" not in caplog.text:
            await asyncio.sleep(0.01)
    be_patient(doubtful, patient=True)
    doubtful.disk.goes_on.set()
    await closing
    await doubtful.store.open()
    assert (await doubtful.disk.get_run(run)).state == State.RUNNING


async def test_an_answer_that_is_slow_but_comes_is_no_fault(doubtful, monkeypatch):
    monkeypatch.setattr(badtimes, "_SUSPICION_SECONDS", 60)
    doubtful.disk.hangs_at = "COMMIT"
    be_patient(doubtful, patient=False)
    claim = asyncio.ensure_future(doubtful.store.claim([claim_of()]))
    await asyncio.sleep(0.1)
    doubtful.disk.goes_on.set()
    assert await claim == [1]
    assert not doubtful.sink.events
