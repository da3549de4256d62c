"""The alarm of the clockwork: it rings for slots that are to be dealt with, and for runs that are held until theirs.

A machine that has nothing to do sleeps: whoever is called at the very instant needs some tenths of a millisecond to be
as quick as before. So ahead of a run that is held it rings once more, for nothing else: when the slot comes, the loop
has just turned, and a thread that starts processes has, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from echosched.protocols import Clock
from echosched.scheduler.roster import Roster
from echosched.scheduler.runs import Runs
from echosched.timer import Wakeup, make_wakeup

EARLY_SECONDS = 0.0007
"""How much earlier: after 2 ms half of what it gained is lost again, with 0.3 ms it may itself be too late."""

AWAKE_SECONDS = 0.01
"""Who was called so lately is not called to be awake: runs that start one after another cost no more than one."""


class Alarm:
    """Calls *ring* (epoch seconds: now) when something of *roster* or *runs* is due, or when the clock was set."""

    def __init__(self, clock: Clock, roster: Roster, runs: Runs, ring: Callable[[float], None]) -> None:
        self._clock = clock
        self._roster = roster
        self._runs = runs
        self._ring = ring
        self._wakeup: Wakeup | None = None
        self._awake_until = 0.0  # epoch seconds

    def begin(self) -> None:
        """Be ready to be set; call it in the loop that *ring* belongs to."""
        self._wakeup = make_wakeup(asyncio.get_running_loop(), self._clock, self._called)

    def set(self, *, slots: bool = True) -> None:
        """Ring for whatever comes next; without *slots*: for the next run that is held."""
        if self._wakeup is None:
            return
        slot, start = self._roster.heap.first() if slots else None, self._runs.held.first()
        if start is not None and not self._is_awake(start):
            start -= EARLY_SECONDS
        self._wakeup.arm(start if slot is None else slot if start is None else min(slot, start))

    def close(self) -> None:
        """Ring no more."""
        if self._wakeup is not None:
            self._wakeup.close()
            self._wakeup = None

    def _called(self) -> None:
        now = self._clock.now().timestamp()
        early = self._is_early(now)
        self._awake_until = now + AWAKE_SECONDS
        if early:
            self.set()
            self._runs.rouse()
        else:
            self._ring(now)

    def _is_early(self, now: float) -> bool:
        """Tell whether nothing is due, and a run is held that starts in a moment."""
        slot, start = self._roster.heap.first(), self._runs.held.first()
        if start is None or not now < start <= now + 2 * EARLY_SECONDS or self._is_awake(start):
            return False
        return slot is None or slot > now

    def _is_awake(self, epoch: float) -> bool:
        # By no more than AWAKE_SECONDS: a clock that is set back would otherwise leave us awake for as long.
        return 0.0 <= self._awake_until - epoch <= AWAKE_SECONDS
