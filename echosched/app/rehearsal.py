"""Time passing at will: from one moment at which something happens to the next."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast

from echosched.clock import from_micros
from echosched.errors import UsageError

if TYPE_CHECKING:
    from echosched.scheduler import Scheduler
    from echosched.testing import FakeClock

_STEP = timedelta(milliseconds=50)
_MICROSECOND = timedelta(microseconds=1)


async def elapse(scheduler: Scheduler, retries: Mapping[int, datetime], by: timedelta) -> None:
    """Let *by* pass; *retries* are the instants at which runs try again."""
    if not hasattr(scheduler.clock, "advance"):
        raise UsageError("time passes at will only on a FakeClock (Scheduler(clock=FakeClock()))")
    clock = cast("FakeClock", scheduler.clock)
    if by < timedelta(0):
        raise UsageError(f"{by}: time does not pass backwards")
    end = clock.now() + by
    await settle(scheduler)
    while (moment := _next_moment(scheduler, retries)) is not None and moment <= end:
        clock.advance(max(moment - clock.now(), _MICROSECOND))
        await settle(scheduler)
    clock.advance(max(end - clock.now(), timedelta(0)))
    await settle(scheduler)


async def settle(scheduler: Scheduler) -> None:
    """Wait until nothing is due, running or being recorded."""
    while not scheduler.idle:
        if scheduler.runs.queue.placed:
            await scheduler.runs.drain(60.0)
        else:
            await asyncio.sleep(0)


def _next_moment(scheduler: Scheduler, retries: Mapping[int, datetime]) -> datetime | None:
    """Return when something happens next: a slot, a retry, or a catch-up run whose turn comes."""
    moments = list(retries.values())
    first = scheduler.roster.heap.first()
    if first is not None:
        moments.append(from_micros(math.ceil(first * 1e6)))
    live = scheduler.runs.live
    if any(run.handle is not None and number not in retries for number, run in live.items()):
        moments.append(scheduler.clock.now() + _STEP)
    return min(moments, default=None)
