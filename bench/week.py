"""Whether anything grows: a week of a hundred jobs, simulated, with a retention pass each day.

    python bench/week.py [--days N] [--jobs N]

The scheduler, the SQLite store, the journal and the metrics are the real ones; the clock is moved by hand and
the jobs end at once. After each day the living Python objects and the resident memory are counted, after
everything of that day is committed. What the last day has more than the second is growth.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import common

from echosched.journal import Journal
from echosched.metrics import Metrics
from echosched.model import Attempt, CommandAction, Job, Result, State
from echosched.schedule import parse_schedule
from echosched.scheduler import Scheduler
from echosched.store.resilient import ResilientStore
from echosched.store.sqlite import SqliteStore
from echosched.testing import FakeClock, RecordingSink

MINUTE = timedelta(minutes=1)


class Ended:
    """An attempt that is over as soon as it began."""

    process = None

    def __init__(self, started_at: datetime) -> None:
        self.started_at = started_at

    async def wait(self) -> Result:
        return Result(State.SUCCEEDED, 0)

    def cancel(self, reason: str, *, state: State, kill_after: timedelta) -> None:
        return None

    def settle(self) -> None:
        return None


class AtOnce:
    """Carries out everything in no time."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    async def start(self, attempt: Attempt) -> Ended:
        return Ended(self._clock.now())

    async def close(self) -> None:
        return None


async def idle(scheduler: Scheduler) -> None:
    while not scheduler.idle:
        await asyncio.sleep(0)


async def live(home: Path, days: int, jobs: int) -> tuple[list[int], list[float], int]:
    clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
    store = ResilientStore(SqliteStore(home / "week.db", owner="bench", clock=clock), clock, RecordingSink())
    await store.open()
    journal = Journal(home / "week.log", call_soon=asyncio.get_running_loop().call_soon)
    scheduler = Scheduler(store=store, executor=AtOnce(clock), clock=clock, sinks=[journal, Metrics()])
    every = max(1, jobs * 7 // 70)  # minutes between the runs of one job: about ten runs a minute in all
    await scheduler.load(
        {
            f"job{n}": Job(
                f"job{n}", CommandAction("true"), parse_schedule(f"{n % every}/{every} * * * *"), timing="t"
            )
            for n in range(jobs)
        }
    )
    scheduler.begin()
    objects: list[int] = []
    memory: list[float] = []
    for _ in range(days):
        for _ in range(24 * 60):
            clock.advance(MINUTE)
            await idle(scheduler)
        now = clock.now()
        old = {
            "runs_before": now - timedelta(days=1),
            "outputs_before": now,
            "slots_before": now - timedelta(days=1),
        }
        while True:
            pruned = await store.prune(keep=1000, **old)
            if not (pruned.runs or pruned.slots or pruned.outputs):
                break
        await scheduler.runs.settle()
        os.truncate(home / "week.log", 0)
        gc.collect()
        objects.append(len(gc.get_objects()))
        memory.append(common.rss_bytes(os.getpid()) / 1e6)
    await scheduler.quiesce()
    runs = await store.highest_run() if hasattr(store, "highest_run") else 0
    await store.close()
    journal.close()
    return objects, memory, runs


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--days", type=int, default=7)
    options.add_argument("--jobs", type=int, default=100)
    chosen = options.parse_args()
    with common.workshop() as directory:
        objects, memory, _ = asyncio.run(live(directory, chosen.days, chosen.jobs))
    return common.report(
        "week",
        [
            common.row(
                "objects more after the last day than after the second", objects[-1] - objects[1], 200
            ),
            common.row(
                "memory more after the last day than after the second", memory[-1] - memory[1], 1.0, "MB"
            ),
            common.row("living objects after the last day", objects[-1], None),
        ],
        objects=objects,
        memory_mb=memory,
    )


if __name__ == "__main__":
    sys.exit(main())
