"""The touch that an instance keeps with the database: heartbeats, its clock, outages and what follows them.

An instance that is out of touch takes nothing, and keeps what it runs. It tries again with growing pauses, each
shortened by chance, so that a hundred instances do not fall upon a server that has just come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from echosched import events
from echosched.clock import SharedClock
from echosched.errors import OUTSIDE, StoreError
from echosched.model import Trigger
from echosched.scheduler.peers import Peers
from echosched.store.postgres_cluster import ClusterStore

log = logging.getLogger(__name__)

SKEW_SECONDS = 1.0
"""A host whose clock differs by more is told so: its own logs and its jobs follow a wrong clock."""

QUICK_SECONDS = 0.004
"""An answer that comes so quickly always counts as a look at the clock."""

SHORTEST_SECONDS = 0.2
LONGEST_SECONDS = 5.0
SWEEP_SECONDS = 5.0


class Lags:
    """Keeps how late the latest runs began here; an event sink."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=200)

    def emit(self, event: events.Event) -> None:
        """Take note of first attempts: a retry is late because it failed before, not because of us."""
        if (
            isinstance(event, events.RunStart)
            and event.slot is not None
            and event.attempt == 1
            and event.trigger == Trigger.SCHEDULE
        ):
            self._latest.append((event.ts - event.slot).total_seconds())

    @property
    def median_seconds(self) -> float | None:
        """Return the median from slot to start; ``None`` before the first."""
        lags = sorted(self._latest)
        return lags[len(lags) // 2] if lags else None


class Contact:
    """Beats, and knows whether the database answers. *back* is awaited when it does so again.

    *sure* is called when this instance is certain again to be alive for the others, though the database never was away.
    """

    def __init__(
        self,
        store: ClusterStore,
        clock: SharedClock,
        *,
        heartbeat: timedelta,
        emit: Callable[[events.Event], None],
        back: Callable[[], Awaitable[None]],
        sweep: Callable[[], Awaitable[None]],
        rejoin: Callable[[], Awaitable[None]],
        sure: Callable[[], None],
        peers: Peers,
        on_degraded: Callable[[datetime | None], None] = lambda since: None,
    ) -> None:
        self.draining = False
        self.skew_seconds = 0.0
        self.taken = 0
        self.touched = clock.boot()
        """When the latest beat that was answered was sent, by the boot clock: the lease has not begun before."""
        self.lags = Lags()
        self._store = store
        self._clock = clock
        self._heartbeat = heartbeat.total_seconds()
        self._emit = emit
        self._back = back
        self._sweep = sweep
        self._rejoin = rejoin
        self._sure = sure
        self._peers = peers
        self._on_degraded = on_degraded
        self._down_at = 0.0
        self._hurry = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._told_skew = False
        self._quick = QUICK_SECONDS

    @property
    def up(self) -> bool:
        """Tell whether the database answers."""
        return self._store.up.is_set()

    @property
    def certain(self) -> bool:
        """Tell whether nobody can have declared this instance dead: it has been heard of lately.

        With a third of the lease to spare, since a crash of the server may undo a beat. A host that was stopped is
        not certain when it goes on.
        """
        return self.up and self._clock.boot() - self.touched < self._store.myself.lease_seconds * 2 / 3

    def begin(self) -> None:
        """Beat and sweep from now on."""
        self.hurry()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._beats(), name="heartbeat"),
            loop.create_task(self._sweeps(), name="sweep"),
        ]

    async def stop(self) -> None:
        """Beat no more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def hurry(self) -> None:
        """Beat at once: something was said that a beat will clear up."""
        self._hurry.set()

    def lost(self, error: StoreError) -> None:
        """Take note that the database did not answer."""
        if not self.up:
            return
        self._store.up.clear()
        self._store.degraded_since, self._store.reason = self._clock.now(), str(error)
        self._down_at = self._clock.monotonic()
        log.warning("The database does not answer; what runs goes on, nothing new is started: %s", error)
        self._on_degraded(self._store.degraded_since)
        self._emit(events.StoreDegraded(ts=self._clock.now(), reason=str(error)))
        self.hurry()

    # ── beats ─────────────────────────────────────────────────────────────────────────────────

    async def look_at_clock(self) -> None:
        """Take the database's time, from the quickest of three answers."""
        best = None
        for _ in range(3):
            before = self._clock.boot()
            now = await self._store.now()
            after = self._clock.boot()
            if best is None or after - before < best[0]:
                best = (after - before, now, (before + after) / 2)
        assert best is not None  # noqa: S101  (three times round)
        self._clock.look(best[1], best[2])
        self._judge_skew()

    def compare(self, now: datetime, before: float, after: float) -> None:
        """Set the clock right where it cannot be: the database's stood at *now* between two boot times."""
        shown = self._clock.now() - timedelta(seconds=self._clock.boot() - before)
        if shown > now:
            self._clock.look(now, before)
        elif shown + timedelta(seconds=after - before) < now:
            self._clock.look(now, after)

    def _judge_skew(self) -> None:
        self.skew_seconds = round(self._clock.skew_seconds, 6)
        wrong = abs(self.skew_seconds) > SKEW_SECONDS
        if wrong and not self._told_skew:
            log.warning("%s", self.skew_warning)
        self._told_skew = wrong

    @property
    def skew_warning(self) -> str | None:
        """Return what to tell people about this host's clock, ``None`` if it is right."""
        if abs(self.skew_seconds) <= SKEW_SECONDS:
            return None
        where = "ahead of" if self.skew_seconds > 0 else "behind"
        return (
            f"this host's clock is {abs(self.skew_seconds):.1f} s {where} the database's, by which slots are judged"
            " (set it, or let ntpd or chronyd do so)"
        )

    async def _beats(self) -> None:
        pause = self._heartbeat
        shortest = SHORTEST_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), pause)
            self._hurry.clear()
            try:
                if not self.up:
                    await self._store.link.renew()
                await self._beat()
            except OUTSIDE as error:
                self.lost(error)
                self._hurry.clear()
                pause = shortest * random.uniform(0.5, 1.0)
                shortest = min(shortest * 2, LONGEST_SECONDS, max(1.0, self._heartbeat / 2))
                continue
            except Exception:
                log.exception("a heartbeat failed; the next one comes")
            pause, shortest = self._heartbeat, SHORTEST_SECONDS

    async def _beat(self) -> None:
        before = self._clock.boot()
        answer = await self._store.beat(
            taken=self.taken,
            lag_seconds=self.lags.median_seconds,
            skew_seconds=self.skew_seconds,
            gap_seconds=2 * self._heartbeat + 1.0,
        )
        after = self._clock.boot()
        if answer is None:
            await self._rejoin()  # removed by an operator while we were away, or the database was made anew
            return
        doubted, self.touched = self.up and not self.certain, before
        now, self.draining, living = answer
        self._peers.see(living)
        # A slow answer says little about the time: half of how slow it was may be wrong. A crystal drifts by less
        # in a minute, so only quick answers count, by what is quick here.
        self._quick *= 1.1
        if after - before <= self._quick:
            self._quick = max(after - before, QUICK_SECONDS)
            self._clock.look(now, (before + after) / 2)
            self._judge_skew()
        if not self.up:
            await self._regained()
        elif doubted and self.certain:
            self._sure()

    async def _regained(self) -> None:
        if self._clock.monotonic() - self._down_at > 0:
            await self.look_at_clock()
        self._store.up.set()
        self._store.degraded_since = self._store.reason = None
        seconds = round(self._clock.monotonic() - self._down_at, 3)
        log.warning("The database answers again, after %.1f s", seconds)
        self._on_degraded(None)
        self._emit(events.StoreRecovered(ts=self._clock.now(), written=0, lost=0, seconds=seconds))
        await self._back()

    async def _sweeps(self) -> None:
        while True:
            await asyncio.sleep(min(self._heartbeat, SWEEP_SECONDS) * random.uniform(0.8, 1.0))
            if not self.up:
                continue
            try:
                await self._sweep()
            except OUTSIDE:
                continue  # told by the store
            except Exception:
                log.exception("a sweep failed; the next one comes")
