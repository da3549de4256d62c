"""Single instants: ``at 2026-12-01T09:00 Europe/Berlin``, and the ``from`` of an interval."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from echosched.errors import ScheduleError
from echosched.schedule.base import Timetable, quoted
from echosched.schedule.zones import MINUTE, SECOND, Zone, get_zone

_INSTANT = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[Tt ]\s*(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,6}))?)?)?"
    r"\s*(?:([Zz])|([+-])(\d{2}):?(\d{2}))?(?:\s+([A-Za-z]\S*))?",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - stands for wall-clock time, which has no zone


class Once(Timetable):
    """One instant; two only where ``dst = "every"`` meets a repeated hour."""

    __slots__ = ("cover", "instants", "local", "zone")

    def __init__(
        self, text: str, zone: Zone, instants: tuple[int, ...], cover: int, local: int | None = None
    ) -> None:
        """Keep the instants, in order; *cover* is how long one lasts when it serves as an exception.

        *local* is the wall-clock time that was asked for, ``None`` where it was given in UTC.
        """
        self.text, self.timezone, self.zone, self.instants = text, zone.name, zone, instants
        self.cover, self.local = cover, local

    def next_micros(self, after: int) -> int | None:
        """Return the first slot strictly after *after*, both in microseconds since the epoch."""
        for instant in self.instants:
            if instant > after:
                return instant
        return None


def parse_once(body: str, zone: Zone, *, dst: str = "once", shown: str = "") -> Once:
    """Return the schedule of ``at`` *body*; raises ``ScheduleError`` also for a time that never comes."""
    shown = shown or body
    return Once(shown, *read_instant(body, zone, dst=dst, shown=shown))


def read_instant(
    body: str, zone: Zone, *, dst: str = "once", shown: str = ""
) -> tuple[Zone, tuple[int, ...], int, int | None]:
    """Return what *body* names: its zone, its instants, its precision and its wall-clock time if not UTC.

    Date and time as in RFC 3339, the time optional; then an offset, a zone name, or nothing (*zone*).
    A time that daylight saving skips is the end of the gap, an error unless *dst* is ``once``; a
    repeated one is its first occurrence, both if *dst* is ``every``.
    """
    shown = quoted(shown or body)
    match = _INSTANT.fullmatch(body.strip())
    if match is None:
        raise ScheduleError(
            f"{shown}: must be a date and time such as 2026-12-01T09:00, Z or a zone after it"
        )
    year, month, day, hour, minute, second, fraction = match.groups()[:7]
    zulu, sign, offset_hours, offset_minutes, zone_name = match.groups()[7:]
    try:
        wall = datetime(  # noqa: DTZ001
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0").ljust(6, "0")),
        )
    except ValueError as error:
        raise ScheduleError(f"{shown}: {error}") from None
    local = (wall - _EPOCH) // timedelta(microseconds=1)
    cover = SECOND if second else MINUTE
    if fraction:
        cover = 1
    if zulu or sign:
        if zone_name:
            raise ScheduleError(f"{shown}: has an offset and a zone name (only one of them may stand)")
        shift = (int(offset_hours) * 60 + int(offset_minutes)) * MINUTE if sign else 0
        if shift >= 24 * 60 * MINUTE or int(offset_minutes or 0) > 59:
            raise ScheduleError(f"{shown}: offset must be within 23:59 hours")
        return get_zone("UTC"), (local + shift if sign == "-" else local - shift,), cover, None
    if zone_name:
        zone = get_zone("UTC" if zone_name.upper() == "UTC" else zone_name)
    if dst == "once":
        return zone, (zone.reaching(local),), cover, local
    instants = tuple(sorted(zone.showing(local)))
    if not instants:
        raise ScheduleError(f"{shown}: never comes: {zone.name} skips that time (daylight saving)")
    return zone, instants if dst == "every" else instants[:1], cover, local
