"""When a process was born, to the kernel's tick, mostly without asking it.

A process's start in /proc is CLOCK_BOOTTIME at its birth, rounded down to hundredths of a second. Where
that clock shows the same hundredth before and after the spawn there is nothing to look up; and looking
up costs more than all else that a start does in Python.
"""

from __future__ import annotations

from echosched.clock import SystemClock
from echosched.executor import proc
from echosched.protocols import Clock

_MARGIN = 0.001  # of a tick: a float so close to the edge may stand on either side of it


class BirthClock:
    """Tells the start ticks of the child spawned since :meth:`before`; one for each spawner thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # A clock of another kind says nothing about the kernel's; the real one is put to the test first.
        self._trusted = isinstance(clock, SystemClock)
        self._tested = False
        self._before = 0.0

    def before(self) -> None:
        """Note the time just before a spawn."""
        self._before = self._clock.boot() * proc.TICKS_PER_SECOND

    def start_ticks(self, pid: int) -> int:
        """Return the start ticks of *pid*, our unreaped child, spawned just now."""
        if not self._trusted:
            return proc.start_ticks(pid)
        after = self._clock.boot() * proc.TICKS_PER_SECOND
        ticks = int(self._before)
        certain = self._before - ticks > _MARGIN and ticks < after < ticks + 1 - _MARGIN
        if certain and self._tested:
            return ticks
        looked_up = proc.start_ticks(pid)
        if certain:
            # A kernel that rounds in another way, or a time namespace, would show here.
            self._tested = True
            self._trusted = looked_up == ticks
        return looked_up
