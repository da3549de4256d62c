"""What the worker's loop says of itself while it goes round: the beat for the supervisor, the tick for the journal.

The beat file outlives the worker: what it says of bad times, the next one must learn (see ``inherited``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from echosched import events
from echosched.clock import rfc3339, to_micros
from echosched.daemon.beat import Beat, interval_for

if TYPE_CHECKING:
    from echosched.app.worker import Worker

_NO_TICK_SECONDS = 60.0
_MOST_NAMED = 20


class Heartbeat:
    """The beat and the ticks of *worker*, by the settings in force at each of them."""

    def __init__(self, worker: Worker) -> None:
        """Open the beat file; nothing beats yet. Raises ``OSError``."""
        self._worker = worker
        self.file = Beat(worker.link.beat_path)
        self.ticks = 0
        self._beat_due = self._tick_due = 0.0
        self._blind_is_known = False  # an earlier worker's bad times are accounted for, in memory at least

    def begin(self) -> None:
        """Beat from now on; ticks count from now as well, though the first is :meth:`tick_on`'s."""
        self._beat_due = self._tick_due = asyncio.get_running_loop().time()
        self._beat_on()

    def _beat_on(self) -> None:
        worker = self._worker
        self.file.set_ailing(worker.journal.failing is not None or worker.outputs.spare.is_failing)
        self.file.beat()
        spare = worker.outputs.spare
        if spare.may_come_home:
            worker.scheduler.spawn(asyncio.to_thread(spare.bring_home, set(worker.scheduler.runs.live)))
        watchdog = worker.config.daemon.watchdog
        interval = self.file.interval_seconds if watchdog is None else interval_for(watchdog.total_seconds())
        self._beat_due = _call_next(self._beat_due, interval, self._beat_on)

    def tick_on(self) -> None:
        """Tell the journal what comes next, now and from now on."""
        worker = self._worker
        every = worker.config.daemon.tick
        if every is not None:
            self._tick()
        seconds = _NO_TICK_SECONDS if every is None else every.total_seconds()  # a reload may turn it on
        self._tick_due = _call_next(self._tick_due, seconds, self.tick_on)

    def _tick(self) -> None:
        worker = self._worker
        self.ticks += 1
        roster = worker.scheduler.roster
        coming: dict[str, str | None] = {job: rfc3339(at) for job, at in roster.next_slots(_MOST_NAMED)}
        total = len(roster.entries)
        if total <= _MOST_NAMED:
            coming = {name: coming.get(name) for name in roster.entries}
        jobs = total if total > _MOST_NAMED else None
        worker.emit(events.Tick(ts=worker.clock.now(), tick=self.ticks, next=coming, jobs=jobs))

    def degraded(self, since: datetime | None) -> None:
        """Say since when the store is kept in memory; ``None``: it is not."""
        self.file.set_degraded(None if since is None else to_micros(since))
        if since is None and self._blind_is_known:
            self.file.forget_inherited()

    def inherited_is_known(self) -> None:
        """Say that an earlier worker's bad times are accounted for: once all is well they may be forgotten."""
        self._blind_is_known = True


def _call_next(due: float, seconds: float, callback: Callable[[], None]) -> float:
    """Have the loop call *callback* that long after it was *due*, not after it came; return when that is.

    Beats and ticks that keep their measure coincide, and an idle loop wakes up once for both.
    """
    loop = asyncio.get_running_loop()
    due = max(due + seconds, loop.time())
    loop.call_at(due, callback)
    return due
