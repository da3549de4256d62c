"""Random lives of a resilient store on a disk that comes and goes, compared with the store in memory."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echosched.clock import SystemClock
from echosched.errors import StoreCorrupt, StoreUnavailable
from echosched.model import Claim, Ended, JobRecord, ProcessIdentity, Result, Started, State, Trigger
from echosched.store.resilient import ResilientStore
from echosched.store.sqlite import SqliteStore
from echosched.testing import MemoryStore, RecordingSink

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)
JOBS = ["a", "b", "c"]
OUTCOMES = [State.SUCCEEDED, State.FAILED, State.CANCELLED]

claims = st.lists(
    st.tuples(
        st.sampled_from(JOBS),
        st.one_of(st.none(), st.integers(0, 6)),
        st.sampled_from([State.RUNNING, State.QUEUED, State.SKIPPED, State.MISSED]),
    ),
    min_size=1,
    max_size=4,
)
picks = st.lists(st.integers(0, 30), min_size=1, max_size=3)
steps = st.one_of(
    st.tuples(st.just("claim"), claims),
    st.tuples(st.just("claim"), claims),
    st.tuples(st.just("starting"), picks),
    st.tuples(st.just("started"), picks),
    st.tuples(
        st.just("finish"),
        st.lists(st.tuples(st.integers(0, 30), st.sampled_from(OUTCOMES), st.booleans()), max_size=3),
    ),
    st.tuples(st.just("pause"), st.sampled_from(JOBS)),
    st.tuples(st.just("note"), st.sampled_from("xy")),
    st.tuples(st.just("fault"), st.booleans()),
    st.tuples(st.just("turn"), st.integers(0, 3)),
    st.tuples(st.just("compare"), st.none()),
    st.tuples(st.just("restart"), st.none()),
)


class Disk(SqliteStore):
    fault = None

    async def _write(self, work):
        if self.fault is not None:
            raise self.fault
        return await super()._write(work)


class Pair:
    """The store and its model, driven alike. Run numbers differ; the n-th run of one is the n-th of the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = MemoryStore(owner="me")
        self.numbers: dict[int, int] = {}  # model's → real
        self.tick = 0

    async def open(self) -> None:
        self.disk = Disk(self.path, owner="me", busy_seconds=0.1)
        self.store = ResilientStore(self.disk, SystemClock(), RecordingSink(), retry_seconds=(0.0005, 0.002))
        await self.store.open()

    async def good(self) -> None:
        self.disk.fault = None
        async with asyncio.timeout(30):
            while self.store.degraded_since is not None:
                await asyncio.sleep(0.001)

    def pick(self, index: int) -> int:
        known = list(self.numbers)
        return known[index % len(known)] if known else 4711

    def real(self, number: int) -> int:
        return self.numbers.get(number, 999_999_999)

    async def step(self, kind: str, value) -> None:
        self.tick += 1
        at = NOW + timedelta(seconds=self.tick)
        match kind:
            case "claim":
                wanted = [
                    Claim(
                        job,
                        None if n is None else NOW + n * timedelta(minutes=1),
                        Trigger.SCHEDULE,
                        state,
                        at,
                    )
                    for job, n, state in value
                ]
                mine, theirs = await self.model.claim(wanted), await self.store.claim(wanted)
                assert [n is None for n in mine] == [n is None for n in theirs]
                self.numbers.update((m, t) for m, t in zip(mine, theirs, strict=True) if m and t)
            case "starting":
                picked = [self.pick(index) for index in value]
                await self.model.starting(picked)
                await self.store.starting([self.real(n) for n in picked])
            case "started":
                for index in value:
                    run = await self.model.get_run(self.pick(index))
                    if run is not None and not run.state.is_outcome:
                        start = Started(run.run, run.attempt, at, ProcessIdentity(run.run, self.tick))
                        self.model.started([start])
                        self.store.started([replace(start, run=self.real(run.run))])
            case "finish":
                ends = []
                for index, state, retry in value:
                    run = await self.model.get_run(self.pick(index))
                    if run is not None:
                        ends.append(
                            Ended(run.run, run.job, run.attempt, at, Result(state), at if retry else None)
                        )
                expected = await self.model.finish(ends)
                assert await self.store.finish([replace(e, run=self.real(e.run)) for e in ends]) == expected
            case "pause":
                known = await self.model.load_jobs()
                record = replace(
                    known.get(value, JobRecord(value, NOW)), paused=self.tick % 2 == 0, last_run=None
                )
                await self.model.save_jobs([record])
                await self.store.save_jobs([record])
            case "note":
                text = None if self.tick % 3 == 0 else str(self.tick)
                await self.model.set_note(value, text)
                await self.store.set_note(value, text)
            case "fault":
                self.disk.fault = StoreUnavailable("the disk is full") if value else None
            case "turn":
                for _ in range(value):
                    await asyncio.sleep(0.001)
            case "compare":
                await self.compare(self.store)
            case "restart":
                self.disk.fault = None
                await self.store.close()
                await self.open()

    async def compare(self, store) -> None:
        back = {real: mine for mine, real in self.numbers.items()}
        expected = await self.model.history(limit=10_000)
        found = [replace(run, run=back[run.run]) for run in await store.history(limit=10_000)]
        assert sorted(found, key=lambda run: -run.run) == expected
        assert [run.run for run in found] == [run.run for run in expected], "numbers grow alike"
        active = [replace(run, run=back[run.run]) for run in await store.active()]
        assert active == await self.model.active()
        counts = await store.counts()
        assert counts == await self.model.counts()
        assert counts == {state: n for state in State for n in [Counter(r.state for r in found)[state]]}
        jobs = await self.model.load_jobs()
        theirs = await store.load_jobs()
        for name, record in jobs.items():
            last = record.last_run and self.numbers[record.last_run]
            if last is None and theirs[name].last_run is not None:
                # The model forgets it where the job had no record yet when its run ended.
                run = await store.get_run(theirs[name].last_run)
                assert run.job == name
                assert run.state.is_outcome
                last = run.run
            assert theirs[name] == replace(record, last_run=last)
        assert theirs.keys() == jobs.keys()
        for key in "xy":
            assert await store.get_note(key) == await self.model.get_note(key)


async def live(path: Path, life) -> None:
    pair = Pair(path)
    await pair.open()
    try:
        for kind, value in life:
            await pair.step(kind, value)
        await pair.compare(pair.store)
        await pair.good()
        await pair.compare(pair.store)
        await pair.compare(pair.disk)
        assert await pair.disk.check() == []
    finally:
        pair.disk.fault = None
        await pair.store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=25))
def test_whatever_happens_to_the_disk_the_store_is_what_memory_says(life):
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(live(Path(directory) / "echosched.db", life))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=12), st.lists(claims, min_size=1, max_size=6))
def test_after_damage_no_slot_of_this_life_runs_twice_and_no_active_run_is_lost(life, later):
    async def scenario(path: Path) -> None:
        pair = Pair(path)
        await pair.open()
        for kind, value in life:
            if kind != "restart":  # what an earlier life claimed is guarded by the cursors
                await pair.step(kind, value)
        await pair.good()
        active = {run.run: run for run in await pair.store.active()}
        pair.disk.fault = StoreCorrupt("its pages are damaged")
        numbers = []
        for wanted in later:
            batch = [
                Claim(job, NOW + timedelta(days=1, minutes=n or 0), Trigger.SCHEDULE, state, NOW)
                for job, n, state in wanted
            ]
            numbers += await pair.store.claim(batch)
            pair.disk.fault = None
        await pair.good()
        assert active.items() <= {run.run: run for run in await pair.disk.active()}.items()
        given_out = [number for number in numbers if number is not None]
        assert len(set(given_out)) == len(given_out)
        assert min(given_out) > max(pair.numbers.values(), default=0)
        for wanted in later:
            batch = [
                Claim(job, NOW + timedelta(days=1, minutes=n or 0), Trigger.SCHEDULE, state, NOW)
                for job, n, state in wanted
            ]
            assert await pair.store.claim(batch) == [None] * len(batch)
        assert await pair.disk.check() == []
        await pair.store.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(scenario(Path(directory) / "echosched.db"))
