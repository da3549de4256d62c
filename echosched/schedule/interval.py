"""Intervals: ``every 6h``, ``every 90s from 2026-01-01T00:00Z``. Elapsed time, blind to time zones."""

from __future__ import annotations

import re
from datetime import datetime

from echosched.clock import to_micros
from echosched.errors import ScheduleError
from echosched.schedule.base import Timetable, quoted
from echosched.schedule.durations import duration_micros
from echosched.schedule.instants import read_instant
from echosched.schedule.zones import Zone

_SHORTEST = 1_000  # a millisecond: anything below is a typing error, not a schedule


class Interval(Timetable):
    """Slots at *anchor* ± any number of *period* (microseconds); it extends both ways."""

    __slots__ = ("anchor", "anchored", "cover", "period")

    def __init__(self, text: str, timezone: str, period: int, anchor: int, *, anchored: bool) -> None:
        """Keep them; not *anchored* means that the anchor is yet to be learned."""
        self.text, self.timezone, self.period, self.anchor = text, timezone, period, anchor
        self.anchored = anchored
        self.cover = 1

    @property
    def needs_anchor(self) -> bool:
        """Tell whether it has no ``from``: its anchor is its job's first start."""
        return not self.anchored

    def with_anchor(self, instant: datetime) -> Interval:
        """Return the same interval counting from *instant* (aware), unless it has an anchor already."""
        if self.anchored:
            return self
        return Interval(self.text, self.timezone, self.period, to_micros(instant), anchored=True)

    def next_micros(self, after: int) -> int | None:
        """Return the first slot strictly after *after*, both in microseconds since the epoch."""
        return after + self.period - (after - self.anchor) % self.period


def parse_interval(
    body: str, zone: Zone, *, anchor: datetime | None = None, dst: str = "once", shown: str = ""
) -> Interval:
    """Return the schedule of ``every`` *body*: a length, and perhaps ``from`` an instant."""
    shown = shown or body
    length, *start = re.split(r"\s+from\s+", body.strip(), maxsplit=1, flags=re.IGNORECASE)
    try:
        period = duration_micros(length, bare=False)
    except ScheduleError as error:
        raise ScheduleError(f"{quoted(shown)}: {error}") from None
    if period < _SHORTEST:
        raise ScheduleError(f"{quoted(shown)}: interval must be at least 1ms, not {' '.join(length.split())}")
    if start:
        _, instants, _, _ = read_instant(start[0], zone, dst=dst, shown=shown)
        return Interval(shown, zone.name, period, instants[0], anchored=True)
    first = 0 if anchor is None else to_micros(anchor)
    return Interval(shown, zone.name, period, first, anchored=anchor is not None)
