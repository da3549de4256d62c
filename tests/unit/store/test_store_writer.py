"""The writer thread: what shares a commit, what does not share a fate, who is told what."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from datetime import UTC, datetime, timedelta

import pytest

from echosched.errors import StoreError, StoreUnavailable
from echosched.model import Claim, Ended, ProcessIdentity, Result, Started, State, Trigger
from echosched.store.sqlite import SqliteStore
from echosched.store.writer import Writer

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)


def claim_of(job, minute=0, state=State.RUNNING):
    return Claim(job, NOW + timedelta(minutes=minute), Trigger.SCHEDULE, state, NOW)


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore(tmp_path / "echosched.db")
    await store.open()
    yield store
    await store.close()


class Held:
    """Holds the writer thread until released, so that what is submitted meanwhile waits together."""

    def __init__(self, store):
        self._began = threading.Event()
        self._go = threading.Event()
        self.future = store._writer.submit(self._hold)
        assert self._began.wait(60)

    def _hold(self, connection):
        self._began.set()
        self._go.wait(60)

    def release(self):
        self._go.set()


def counting_transactions(store):
    """Return a list that grows with each COMMIT of the writing connection."""
    statements = []
    store._writer._connection.set_trace_callback(statements.append)
    return statements


async def test_what_waits_together_is_one_transaction(store):
    held = Held(store)
    statements = counting_transactions(store)
    futures = [asyncio.ensure_future(store.claim([claim_of(f"job{n}")])) for n in range(300)]
    await asyncio.sleep(0)
    held.release()
    runs = await asyncio.gather(*futures)
    assert len({run for (run,) in runs}) == 300
    assert statements.count("COMMIT") == 2  # the holder's own, and one for all


async def test_all_answers_of_a_commit_arrive_in_one_turn_of_the_loop(store):
    held = Held(store)
    turns = []
    loop = asyncio.get_running_loop()

    async def ask(n):
        await store.claim([claim_of(f"job{n}")])
        turns.append(loop.time())

    tasks = [asyncio.ensure_future(ask(n)) for n in range(50)]
    await asyncio.sleep(0)
    wakeups = []
    really = loop.call_soon_threadsafe
    loop.call_soon_threadsafe = lambda *arguments: (wakeups.append(1), really(*arguments))[1]
    held.release()
    await asyncio.gather(*tasks)
    del loop.call_soon_threadsafe
    assert len(turns) == 50
    assert len(wakeups) == 2  # for the holder and for the fifty


async def test_a_mistake_in_one_callers_work_undoes_only_that(store):
    held = Held(store)

    def half_done(connection):
        connection.execute("INSERT INTO notes VALUES ('half', 'done')")
        raise ValueError("a mistake")

    def bad_sql(connection):
        connection.execute("INSERT INTO notes VALUES ('bad', 'sql')")
        connection.execute("INSERT INTO notes VALUES ('bad', 'sql')")

    before = store._writer.submit(lambda c: c.execute("INSERT INTO notes VALUES ('before', '1')").rowcount)
    mistake = store._writer.submit(half_done)
    constraint = store._writer.submit(bad_sql)
    after = store._writer.submit(lambda c: c.execute("INSERT INTO notes VALUES ('after', '1')").rowcount)
    held.release()
    assert (await before, await after) == (1, 1)
    with pytest.raises(ValueError, match="a mistake"):
        await mistake
    with pytest.raises(StoreError, match="UNIQUE"):
        await constraint
    assert await store.get_note("before") == await store.get_note("after") == "1"
    assert await store.get_note("half") is None
    assert await store.get_note("bad") is None


async def test_a_mistake_alone_is_undone_too(store):
    def half_done(connection):
        connection.execute("INSERT INTO notes VALUES ('half', 'done')")
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        await store._writer.submit(half_done)
    assert await store.get_note("half") is None
    await store.set_note("next", "works")


async def test_starts_ride_on_the_next_commit_and_cost_none_of_their_own(store):
    (run,) = await store.claim([claim_of("brief")])
    statements = counting_transactions(store)
    store.started([Started(run, 1, NOW, ProcessIdentity(1, 2))])
    await store.claim([claim_of("report")])
    assert statements.count("COMMIT") == 1
    connection = sqlite3.connect(store.path)
    assert connection.execute("SELECT pid FROM runs WHERE run = ?", (run,)).fetchone() == (1,)
    connection.close()


async def test_starts_are_written_soon_when_nothing_else_is(store, monkeypatch):
    monkeypatch.setattr("echosched.store.sqlite._STARTS_WAIT_SECONDS", 0.01)
    (run,) = await store.claim([claim_of("brief")])
    store.started([Started(run, 1, NOW, ProcessIdentity(1, 2))])
    connection = sqlite3.connect(store.path)
    async with asyncio.timeout(60):
        while connection.execute("SELECT pid FROM runs WHERE run = ?", (run,)).fetchone() != (1,):
            await asyncio.sleep(0.05)
    connection.close()


async def test_starts_that_could_not_be_written_are_tried_again(store):
    (run,) = await store.claim([claim_of("brief")])
    blocker = sqlite3.connect(store.path, isolation_level=None)
    store._writer._connection.execute("PRAGMA busy_timeout = 10")
    blocker.execute("BEGIN IMMEDIATE")
    store.started([Started(run, 1, NOW, ProcessIdentity(1, 2))])
    with pytest.raises(StoreUnavailable, match="another program holds its lock"):
        await store.claim([claim_of("report")])
    assert (await store.get_run(run)).process is None
    blocker.execute("ROLLBACK")
    blocker.close()
    await store.claim([claim_of("report")])
    assert (await store.get_run(run)).process == ProcessIdentity(1, 2)


async def test_background_work_waits_until_nothing_else_does(store):
    held = Held(store)
    order = []
    low = [store._writer.submit(lambda c, n=n: order.append(f"low{n}"), background=True) for n in range(3)]
    high = store._writer.submit(lambda c: order.append("high"))
    held.release()
    await asyncio.gather(*low, high)
    assert order == ["high", "low0", "low1", "low2"]


async def test_a_caller_who_gives_up_does_not_disturb_the_others(store):
    held = Held(store)
    impatient = asyncio.ensure_future(store.claim([claim_of("a")]))
    patient = asyncio.ensure_future(store.claim([claim_of("b")]))
    await asyncio.sleep(0)
    impatient.cancel()
    held.release()
    assert (await patient)[0] is not None
    assert {run.job for run in await store.history()} == {"a", "b"}


async def test_closing_finishes_what_waits(tmp_path):
    store = SqliteStore(tmp_path / "echosched.db")
    await store.open()
    futures = [asyncio.ensure_future(store.claim([claim_of(f"job{n}")])) for n in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert all(run is not None for (run,) in await asyncio.gather(*futures))


async def test_work_after_closing_is_refused_and_never_hangs(tmp_path):
    writer = Writer(str(tmp_path / "x.db"), lambda: sqlite3.connect(":memory:"), lambda: None, lambda: None)
    with pytest.raises(StoreError, match="closed"):
        writer.submit(lambda connection: None)
    writer.start()
    writer.close()
    with pytest.raises(StoreError, match="closed"):
        writer.submit(lambda connection: None)


async def test_a_connection_that_cannot_be_opened_fails_the_callers_and_is_tried_again(tmp_path):
    tries = []

    def connect():
        tries.append(1)
        if len(tries) < 3:
            raise StoreUnavailable("not yet")
        return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)

    writer = Writer("x.db", connect, lambda: None, lambda: None)
    writer.start()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="not yet"):
            await writer.submit(lambda connection: None)
    assert await writer.submit(lambda connection: connection.execute("SELECT 7").fetchone()) == (7,)
    writer.close()


async def test_files_that_cannot_be_looked_at_are_an_outside_fault(tmp_path, monkeypatch):
    """Whoever bears outside faults must bear this too, for reads as for writes."""
    store = SqliteStore(tmp_path / "echosched.db")
    await store.open()

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("echosched.store.schema.reading_mode", refuse)
        with pytest.raises(StoreError):  # in the writer's own thread, which may be looking at it
            await store._writer.submit(lambda connection: connection.close())
        with pytest.raises(StoreUnavailable, match="Permission denied"):
            await store.claim([claim_of("a")])
    assert (await store.claim([claim_of("a")]))[0] is not None
    await store.close()
    reader = SqliteStore(tmp_path / "echosched.db", read_only=True)
    await reader.open()
    with monkeypatch.context() as patch:
        patch.setattr("echosched.store.schema.reading_mode", refuse)
        with pytest.raises(StoreUnavailable, match="Permission denied"):
            await reader.active()
    assert len(await reader.active()) == 1
    await reader.close()


async def test_a_mistake_in_a_start_does_not_end_the_thread(store, caplog):
    (run,) = await store.claim([claim_of("brief")])
    store.started([Started(run, 1, "not an instant")])
    with pytest.raises(StoreError):
        await store.claim([claim_of("report")])
    assert "made a mistake" in caplog.text
    assert (await store.claim([claim_of("report")]))[0] is not None


async def test_a_long_read_does_not_delay_a_claim(store):
    slow = asyncio.ensure_future(
        store._read(
            lambda connection: connection.execute(
                # Minutes, unless it is interrupted: longer than any disk takes over five claims.
                "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000)"
                " SELECT max(i) FROM n"
            ).fetchone()
        )
    )
    try:
        await asyncio.sleep(0.01)
        for minute in range(5):
            assert (await store.claim([claim_of("brief", minute)]))[0] is not None
        assert not slow.done(), "the claims waited for the read"
    finally:
        while not slow.done():  # what has not begun yet is not interrupted
            store._reader._connection.interrupt()
            await asyncio.sleep(0.01)
    with pytest.raises(StoreUnavailable, match="interrupted"):
        await slow


async def test_the_log_is_moved_into_the_file_after_a_burst(store):
    for minute in range(12):
        runs = await store.claim([claim_of(f"job{n}", minute) for n in range(500)])
        ends = [Ended(run, f"job{n}", 1, NOW, Result(State.SUCCEEDED)) for n, run in enumerate(runs)]
        await store.finish(ends)
    log = store.path.with_name(store.path.name + "-wal")
    async with asyncio.timeout(60):
        while store.path.stat().st_size < 1_000_000:
            await asyncio.sleep(0.02)
    assert log.exists()
    assert await store.check() == []
