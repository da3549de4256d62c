"""``except``: dates, date ranges and schedules that leave slots out.

An exception covers as much time as the finest thing written in it: a date its whole day, ``08:30`` or a
five-field cron expression the minute, a seconds field the second; an interval covers instants only. So
``* 22-23 * * *`` leaves out two hours, ``Sat,Sun`` the weekend, ``12-25`` Christmas Day of every year.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from datetime import date, datetime
from typing import Protocol

from echosched.errors import ScheduleError
from echosched.schedule.base import Timetable, quoted
from echosched.schedule.combine import OnStart, Union
from echosched.schedule.days import Days
from echosched.schedule.instants import Once
from echosched.schedule.interval import Interval
from echosched.schedule.parse import parse_schedule
from echosched.schedule.wall import ALL_HOURS, ALL_MINUTES, EVERY_SECOND, Wall
from echosched.schedule.zones import DAY, EPOCH_ORDINAL, HOUR, MAX_MICROS, MIN_MICROS, Zone, get_zone

_DATES = re.compile(r"(\d{4}-\d{2}-\d{2})\s*\.\.\s*(\d{4}-\d{2}-\d{2})", re.ASCII)
_PATIENCE = 20_000  # looks before giving up; rules jump by days and hours, so real ones need a few hundred


class Exclusion(Protocol):
    """A stretch of time to leave out."""

    def resume(self, slot: int) -> int:
        """Return *slot* itself if it is not covered, else a later instant before which everything is."""


class Excluding(Timetable):
    """A schedule without the slots that its exceptions cover."""

    __slots__ = ("exceptions", "inner", "rules")

    def __init__(self, inner: Timetable, exceptions: tuple[str, ...], rules: tuple[Exclusion, ...]) -> None:
        """Keep *inner* and the compiled *rules*; *exceptions* are their texts."""
        self.text, self.timezone, self.inner = inner.text, inner.timezone, inner
        self.exceptions, self.rules = exceptions, rules

    @property
    def on_start(self) -> frozenset[str]:
        """Return which starts fire it; exceptions do not concern those."""
        return self.inner.on_start

    @property
    def needs_anchor(self) -> bool:
        """Tell whether it holds an interval without ``from``."""
        return self.inner.needs_anchor

    def with_anchor(self, instant: datetime) -> Excluding:
        """Return the same with its anchorless intervals counting from *instant* (aware)."""
        if not self.needs_anchor:
            return self
        return Excluding(self.inner.with_anchor(instant), self.exceptions, self.rules)

    def next_micros(self, after: int) -> int | None:
        """Return the first slot strictly after *after*, both in microseconds since the epoch."""
        slot = self.inner.next_micros(after)
        for _ in range(_PATIENCE):
            if slot is None:
                return None
            resume = max([rule.resume(slot) for rule in self.rules], default=slot)
            if resume == slot:
                return slot
            if resume > MAX_MICROS:
                return None
            slot = self.inner.next_micros(resume - 1)
        return None


class WholeDays:
    """Leaves out days: those of a rule, or those between two dates (both included)."""

    __slots__ = ("days", "first", "last", "zone")

    def __init__(self, zone: Zone, days: Days | None, first: int = 0, last: int = 0) -> None:
        """*first* and *last* are epoch days, looked at where *days* is ``None``."""
        self.zone, self.days, self.first, self.last = zone, days, first, last

    def resume(self, slot: int) -> int:
        """Return *slot*, or the start of the first day after it that is not left out."""
        day = (slot + self.zone.offset_at(slot)) // DAY
        if self.days is not None:
            if self.days.next(day) != day:
                return slot
            free = self.days.next_other(day)
        else:
            if not self.first <= day <= self.last:
                return slot
            free = self.last + 1
        # Where a whole day was repeated (Kwajalein 1969) the day after was first reached before this slot.
        return MAX_MICROS + 1 if free is None else max(slot + 1, self.zone.reaching(free * DAY))


class WallClock:
    """Leaves out the hours, minutes or seconds that a cron or calendar expression names."""

    __slots__ = ("stretch", "wall")

    def __init__(self, wall: Wall) -> None:
        """Find the longest unit that every match fills: jumping by hours keeps a search short."""
        self.wall = wall
        full = wall.minutes == ALL_MINUTES and (wall.cover >= 60_000_000 or wall.seconds is EVERY_SECOND)
        self.stretch = HOUR if full else wall.cover

    def resume(self, slot: int) -> int:
        """Return *slot*, or the end of the hour, minute or second that covers it."""
        zone = self.wall.zone
        local = slot + zone.offset_at(slot)
        start = local - local % self.wall.cover
        if self.wall.next_local(start) != start:
            return slot
        end = slot - local % self.stretch + self.stretch
        # The clock may shift before that; what it shows then must be looked at anew.
        starts = zone.table[0]
        return min(end, starts[bisect_right(starts, slot)])


class Instants:
    """Leaves out what coincides with the slots of an interval or an instant."""

    __slots__ = ("other",)

    def __init__(self, other: Interval | Once) -> None:
        """*other* names the instants."""
        self.other = other

    def resume(self, slot: int) -> int:
        """Return *slot*, or the end of the instant that covers it."""
        met = self.other.next_micros(slot - self.other.cover)
        return slot if met is None or met > slot else met + self.other.cover


def excluding(schedule: Timetable, exceptions: Sequence[str], timezone: str = "UTC") -> Timetable:
    """Return *schedule* without what the *exceptions* cover on the clock of *timezone*.

    Each is a date, a range of dates (``2026-12-24..2026-12-26``) or any schedule expression. Raises
    ``ScheduleError`` for a malformed one, and if nothing at all is left.
    """
    zone = get_zone(timezone)
    rules: list[Exclusion] = []
    for text in exceptions:
        if not isinstance(text, str):
            raise ScheduleError(f"except: {quoted(text)}: must be a date, a range of dates or a schedule")
        try:
            rules.extend(_rules(text, zone))
        except ScheduleError as error:
            raise ScheduleError(f"except: {error}") from None
    if not rules:
        return schedule
    left = Excluding(schedule, tuple(exceptions), tuple(rules))
    if schedule.next_micros(MIN_MICROS) is not None and left.next_micros(MIN_MICROS) is None:
        raise ScheduleError(f"{quoted(schedule.text)}: never fires: except leaves nothing of it")
    return left


def _rules(text: str, zone: Zone) -> list[Exclusion]:
    match = _DATES.fullmatch(text.strip())
    if match is not None:
        try:
            first, last = (date.fromisoformat(day).toordinal() - EPOCH_ORDINAL for day in match.groups())
        except ValueError as error:
            raise ScheduleError(f"{quoted(text)}: {error}") from None
        if last < first:
            raise ScheduleError(f"{quoted(text)}: runs backwards (the earlier date first)")
        return [WholeDays(zone, None, first, last)]
    return [_rule(part, text) for part in _members(parse_schedule(text, zone.name, dst="every"))]


def _members(schedule: Timetable) -> Sequence[Timetable]:
    return schedule.parts if isinstance(schedule, Union) else (schedule,)


def _rule(schedule: Timetable, text: str) -> Exclusion:
    if isinstance(schedule, Wall):
        whole_minutes = schedule.hours == ALL_HOURS and schedule.minutes == ALL_MINUTES
        filled = schedule.cover >= 60_000_000 or schedule.seconds is EVERY_SECOND
        if schedule.cover == DAY or (whole_minutes and filled):
            return WholeDays(schedule.zone, schedule.days)
        return WallClock(schedule)
    if isinstance(schedule, Interval | Once):
        return Instants(schedule)
    assert isinstance(schedule, OnStart)  # noqa: S101 - nothing else can be written
    raise ScheduleError(f"{quoted(text)}: is a start, not a time that could be left out")
