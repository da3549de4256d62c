"""Where daylight saving meets a schedule: the times it skips or repeats, and what then happens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from echosched.clock import EPOCH, from_micros, to_micros
from echosched.schedule.base import Timetable
from echosched.schedule.combine import Union
from echosched.schedule.exceptions import Excluding
from echosched.schedule.instants import Once
from echosched.schedule.wall import ALL_HOURS, Wall


class Shift(NamedTuple):
    """One meeting of a schedule with a change of the wall clock.

    *kind* is ``gap`` (skipped) or ``repeat``; *at* the instant of the change (aware UTC); *local* the
    first time of the schedule that it skips or repeats, on the wall clock of *timezone* (naive); *runs*
    says what happens.
    """

    kind: str
    at: datetime
    local: datetime
    timezone: str
    runs: str

    def __str__(self) -> str:
        verb = "is skipped" if self.kind == "gap" else "comes twice"
        return f"{self.local:%Y-%m-%d %H:%M} {verb} in {self.timezone}: {self.runs}"


def transitions(schedule: Timetable, start: datetime, end: datetime) -> list[Shift]:
    """Return the gaps and repeats in ``[start, end)`` (aware) that *schedule* meets, in order.

    Intervals meet none, being elapsed time. Nor does what runs in every hour and follows real time
    (``*/5 * * * *``): it goes on as if nothing had happened.
    """
    return sorted(_meet(schedule, to_micros(start), to_micros(end)))


def _meet(schedule: Timetable, begin: int, end: int) -> list[Shift]:
    if isinstance(schedule, Union):
        return list({shift: None for part in schedule.parts for shift in _meet(part, begin, end)})
    if isinstance(schedule, Excluding):
        met = _meet(schedule.inner, begin, end)
        return [shift for shift in met if not _excluded(schedule, shift)]
    if isinstance(schedule, Wall):
        return _meet_wall(schedule, begin, end)
    if isinstance(schedule, Once):
        return _meet_once(schedule, begin, end)
    return []


def _meet_wall(wall: Wall, begin: int, end: int) -> list[Shift]:
    if wall.follow and wall.hours == ALL_HOURS:
        return []
    found = []
    for at, record, before, after in wall.zone.shifts(begin, end):
        kind, low, high = ("gap", record, after) if after > record else ("repeat", after, record)
        if after == before:
            continue
        local = wall.next_local(low)
        if local is None or local >= high:
            continue
        if kind == "repeat":
            runs = "runs both times" if wall.follow else "runs once, the first time"
        elif wall.follow or wall.dst == "skip":
            runs = "does not run"
        else:
            runs = f"runs at {_wall_clock(after):%H:%M}, right after the gap"
        found.append(Shift(kind, from_micros(at), _wall_clock(local), wall.timezone, runs))
    return found


def _meet_once(once: Once, begin: int, end: int) -> list[Shift]:
    if once.local is None:
        return []
    for at, record, _, after in once.zone.shifts(begin, end):
        gap = record <= once.local < after
        if gap or after <= once.local < record:
            runs = "runs both times" if len(once.instants) > 1 else "runs once, the first time"
            if gap:
                runs = f"runs at {_wall_clock(after):%H:%M}, right after the gap"
            kind = "gap" if gap else "repeat"
            return [Shift(kind, from_micros(at), _wall_clock(once.local), once.timezone, runs)]
    return []


def _excluded(schedule: Excluding, shift: Shift) -> bool:
    """Tell whether the day of the meeting is left out anyhow."""
    first = schedule.inner.next_micros(to_micros(shift.at - timedelta(hours=3)))
    return first is not None and any(rule.resume(first) != first for rule in schedule.rules)


def _wall_clock(local: int) -> datetime:
    return (EPOCH + timedelta(microseconds=local)).astimezone(UTC).replace(tzinfo=None)
