"""Who comes first: a slot and a ticket each have one living instance that looks after them at once.

The database decides, always; this only spares it the crowd. Were all instances to claim every slot at its instant,
and to look for every ticket, all but one would wait for a lock to learn that they came too late. So one of them
goes ahead, chosen alike by all from the list of the living, and the others look a moment later whether it did.
Since whoever claims a slot mostly runs it, this is also what shares the load.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from zlib import crc32

_GOLDEN = 0.6180339887498949
"""Of all numbers the one whose multiples spread most evenly over a circle, however few of them one takes."""

_SPREAD = 2_654_435_761  # Knuth's: neighbouring numbers fall far apart


_Circle = tuple[list[str], list[int]]


class Peers:
    """The living instances that take runs, as the last heartbeat saw them, and this one among them."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._names: tuple[str, ...] = ()
        self._bounds: list[int] = []
        self._living: list[tuple[str, int, frozenset[str]]] = []
        self._able: dict[tuple[str, ...], _Circle] = {}

    def see(self, living: Sequence[tuple[str, int, Sequence[str]]]) -> None:
        """Take note of the names, capacities and labels of all that live and take runs."""
        self._living = sorted(
            (name, max(1, capacity), frozenset(labels)) for name, capacity, labels in living
        )
        self._able.clear()
        self._names = tuple(name for name, _, _ in self._living)
        self._bounds = list(accumulate(capacity for _, capacity, _ in self._living))

    @property
    def alone(self) -> bool:
        """Tell whether nobody else is known to be there."""
        return not self._names or self._names == (self._me,)

    def claims(self, job: str, slot: datetime, labels: tuple[str, ...] = ()) -> bool:
        """Tell whether this instance is the one that claims that *slot* of *job* first, which asks for *labels*.

        The slots of a job go round those that have the labels, each by its capacity: none has many of them in a
        row, also where two instances define a job differently (a roll-out).
        """
        if not self._names:
            return True
        circle = self._able.get(labels)
        if circle is None:
            able = [one for one in self._living if one[2].issuperset(labels)] or self._living
            names, bounds = [one[0] for one in able], list(accumulate(one[1] for one in able))
            circle = self._able[labels] = names, bounds
        names, bounds = circle
        place = (crc32(job.encode()) / 2**32 + slot.timestamp() * _GOLDEN) % 1.0
        return names[min(bisect_right(bounds, place * bounds[-1]), len(names) - 1)] == self._me

    def takes(self, number: int) -> bool:
        """Tell whether this instance is the first to take ticket *number*: each by its capacity."""
        if not self._names:
            return True
        place = number * _SPREAD % self._bounds[-1]
        return self._names[bisect_right(self._bounds, place)] == self._me
