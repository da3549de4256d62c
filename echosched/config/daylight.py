"""Which jobs meet a change of the clocks: named by ``check`` with the date, counted by ``start``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast

from echosched.config.checks import place_of
from echosched.config.values import shown
from echosched.model import Job

if TYPE_CHECKING:
    from echosched.schedule import Shift, Timetable

AHEAD = timedelta(days=366)


def daylight_warnings(jobs: Iterable[Job], now: datetime) -> list[str]:
    """Return a line for each time that is skipped or repeated within a year of *now*.

    ``file: job.NAME.schedule: expression: time, zone and what happens then``.
    """
    return [
        f"{place_of(job)}.schedule: {shown(job.schedule_text)}: {shift}"
        for job, shifts in _meetings(jobs, now)
        for shift in shifts
    ]


def count_daylight(jobs: Iterable[Job], now: datetime) -> int:
    """Return how many jobs have a time that is skipped or repeated within a year of *now*.

    Jobs that share a schedule are judged once: a second for a hundred thousand different schedules.
    """
    return sum(1 for _ in _meetings(jobs, now))


def _meetings(jobs: Iterable[Job], now: datetime) -> Iterator[tuple[Job, list[Shift]]]:
    from echosched.schedule import transitions

    known: dict[int, list[Shift]] = {}
    for job in jobs:
        if job.schedule is None or not job.enabled:
            continue
        shifts = known.get(id(job.schedule))
        if shifts is None:
            timetable = cast("Timetable", job.schedule)
            shifts = known[id(job.schedule)] = transitions(timetable, now, now + AHEAD)
        if shifts:
            yield job, shifts
