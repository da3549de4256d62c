"""Who comes first: a slot and a ticket each have one living instance that looks after them at once.

The database decides, always; this only spares it the crowd. Were all instances to claim every slot at its instant,
and to look for every ticket, all but one would wait for a lock to learn that they came too late. So one of them
goes ahead, chosen alike by all from the list of the living, and the others look a moment later whether it did.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from zlib import crc32

TURN_SECONDS = 10
"""How long one instance goes ahead for a job."""

_SPREAD = 2_654_435_761  # Knuth's: neighbouring numbers fall far apart


class Peers:
    """The living instances that take runs, as the last heartbeat saw them, and this one among them."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._names: tuple[str, ...] = ()
        self._bounds: list[int] = []

    def see(self, living: Sequence[tuple[str, int]]) -> None:
        """Take note of the names and capacities of all that live and take runs."""
        self._names = tuple(name for name, _ in sorted(living))
        self._bounds = list(accumulate(max(1, capacity) for _, capacity in sorted(living)))

    @property
    def alone(self) -> bool:
        """Tell whether nobody else is known to be there."""
        return not self._names or self._names == (self._me,)

    def claims(self, job: str, slot: datetime) -> bool:
        """Tell whether this instance is the one that claims that *slot* of *job* first.

        For a while one instance claims all slots of a job, then another: where two of them define a job
        differently (a roll-out), both definitions have their turns.
        """
        if not self._names:
            return True
        turn = int(slot.timestamp()) // TURN_SECONDS
        return self._names[(turn + crc32(job.encode())) % len(self._names)] == self._me

    def takes(self, number: int) -> bool:
        """Tell whether this instance is the first to take ticket *number*: each by its capacity."""
        if not self._names:
            return True
        place = number * _SPREAD % self._bounds[-1]
        return self._names[bisect_right(self._bounds, place)] == self._me
