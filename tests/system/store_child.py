"""A process that claims slots and says so, for tests that kill it or break its disk.

    store_child.py MODE DATABASE BEGIN COUNT BATCH

MODE is ``plain`` or ``resilient``. It claims COUNT batches of BATCH slots, a minute apart from BEGIN minutes on,
and prints one line for each batch once the store has answered: ``minute run run …`` (``-`` where a slot was taken).
Every second run is ended as succeeded, and ``ended run`` is printed once that is answered. Events of the store are
printed too. Lines are written whole, so that whoever reads them may kill this process at any time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta

from echosched.clock import SystemClock
from echosched.model import Claim, Ended, Result, Started, State, Trigger
from echosched.store.resilient import ResilientStore
from echosched.store.sqlite import SqliteStore

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


class Sink:
    def emit(self, event):
        say(f"event {event.event} {getattr(event, 'reason', '')}".strip())


async def main(mode: str, path: str, begin: int, count: int, batch: int) -> None:
    owner = f"child:{os.getpid()}"
    store = SqliteStore(path, owner=owner, busy_seconds=10.0)
    if mode == "resilient":
        store = ResilientStore(store, SystemClock(), Sink(), retry_seconds=(0.01, 0.1))
    await store.open()
    say("open")
    for minute in range(begin, begin + count):
        slot = EPOCH + timedelta(minutes=minute)
        now = SystemClock().now()
        claims = [Claim(f"job{n}", slot, Trigger.SCHEDULE, State.RUNNING, now) for n in range(batch)]
        runs = await store.claim(claims)
        say(" ".join([str(minute), *("-" if run is None else str(run) for run in runs)]))
        store.started([Started(run, 1, now) for run in runs if run is not None])
        ends = [
            Ended(run, f"job{n}", 1, now, Result(State.SUCCEEDED, exit_code=0))
            for n, run in enumerate(runs)
            if run is not None and n % 2 == 0
        ]
        await store.finish(ends)
        say(" ".join(["ended", *(str(end.run) for end in ends)]))
        await asyncio.sleep(0)
    if mode == "resilient":
        async with asyncio.timeout(60):
            while store.degraded_since is not None:
                await asyncio.sleep(0.01)
    await store.close()
    say("closed")


if __name__ == "__main__":
    mode, path, *numbers = sys.argv[1:]
    asyncio.run(main(mode, path, *map(int, numbers)))
