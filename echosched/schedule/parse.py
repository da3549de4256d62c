"""The door of the room: text in, schedule out.

A prefix (``cron``, ``calendar``, ``every``, ``at``) decides what a text is; without one its form does:
``@`` opens a nickname, five words or more are cron, a date with a ``T`` is an instant, anything else
is a calendar expression (which never has more than four words).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from echosched.errors import ScheduleError
from echosched.schedule.base import Timetable, quoted
from echosched.schedule.cron import NICKNAMES, parse_cron
from echosched.schedule.zones import Zone, find_zone, get_zone

_LONGEST = 2_000
_DST = ("once", "skip", "every")
_HASHED = re.compile(r"(?<![0-9A-Za-z])[Hh](?![A-Za-z])")  # cron's H, not the h of 6h or Thu
_INSTANT = re.compile(r"\d{4}-\d{1,2}-\d{1,2}[Tt]\d", re.ASCII)

# Equal texts share one object. Schedules are immutable, so sharing is safe; the bound keeps the keys of
# a hundred thousand different expressions from outweighing the expressions.
_BOUND = 4096
_cache: dict[tuple[str, str, str, str, datetime | None], Timetable] = {}


def parse_schedule(
    text: str | Sequence[str],
    timezone: str = "UTC",
    *,
    name: str = "",
    anchor: datetime | None = None,
    dst: str = "once",
    except_: str | Sequence[str] = (),
) -> Timetable:
    """Return the schedule that *text* describes; a list of texts is their union.

    *timezone* names the zone of its wall clock, *name* (the job's) seeds ``H``, *anchor* (aware) is where
    an interval without ``from`` counts from (the Unix epoch if not given), *dst* is what happens to times
    that daylight saving skips or repeats: ``once``, ``skip`` or ``every``. *except_* leaves out dates,
    date ranges and what other schedules cover. Raises ``ScheduleError``, one line, for anything malformed
    and for what can never fire.
    """
    if except_:
        from echosched.schedule.exceptions import excluding

        schedule = parse_schedule(text, timezone, name=name, anchor=anchor, dst=dst)
        return excluding(schedule, [except_] if isinstance(except_, str) else list(except_), timezone)
    if not isinstance(text, str):
        return _union(text, timezone, name, anchor, dst)
    hashed = ("H" in text or "h" in text) and _HASHED.search(text)
    key = (text, timezone, dst, name if hashed else "", anchor)
    try:
        return _cache[key]
    except KeyError:
        pass
    except TypeError:  # an unhashable zone or mode: the checks below name it
        return _parse(text, timezone, name, anchor, dst)
    schedule = _parse(text, timezone, name, anchor, dst)
    if len(_cache) >= _BOUND:
        _cache.clear()
    _cache[key] = schedule
    return schedule


def _union(texts: Sequence[str], timezone: str, name: str, anchor: datetime | None, dst: str) -> Timetable:
    from echosched.schedule.combine import Union

    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise ScheduleError(f"{quoted(texts)}: must be an expression or a list of expressions")
    parts = tuple(parse_schedule(text, timezone, name=name, anchor=anchor, dst=dst) for text in texts)
    return parts[0] if len(parts) == 1 else Union(parts, timezone)


def _parse(text: str, timezone: str, name: str, anchor: datetime | None, dst: str) -> Timetable:
    if dst not in _DST:
        raise ScheduleError(f"dst must be one of {' '.join(_DST)}, not {quoted(dst)}")
    if anchor is not None and anchor.tzinfo is None:
        raise ScheduleError(f"anchor must be an aware instant, not {anchor}")
    zone = get_zone(timezone)
    if len(text) > _LONGEST:
        raise ScheduleError(f"{quoted(text)}: is too long ({_LONGEST} characters at most)")
    if not text.isprintable():
        odd = next((c for c in text if not c.isprintable() and c not in " \t\r\n"), "")
        if odd:
            raise ScheduleError(f"{quoted(text)}: must be plain text, without control characters")
    words = text.split(None, 1)
    if not words:
        raise ScheduleError(f"{quoted(text)}: is empty (use cron, calendar, every or at)")
    kind, body = words[0].lower(), words[1] if len(words) > 1 else ""
    if kind in _PREFIXES:
        if not body:
            raise ScheduleError(f"{quoted(text)}: nothing follows {kind}")
        return _PREFIXES[kind](body, zone, name, anchor, dst, text)
    if kind == "after":
        raise ScheduleError(
            f"{quoted(text)}: waits for another job and must stand alone, as a job's only schedule"
        )
    if kind.startswith("@"):
        return _at_sign(kind, body, zone, name, anchor, dst, text)
    if len(text.split()) >= 5:
        return _cron(text, zone, name, anchor, dst, text)
    if _INSTANT.match(text.strip()):
        return _once(text, zone, name, anchor, dst, text)
    return _calendar(text, zone, name, anchor, dst, text)


def _at_sign(
    kind: str, body: str, zone: Zone, name: str, anchor: datetime | None, dst: str, text: str
) -> Timetable:
    if kind == "@every":
        return _every(body, zone, name, anchor, dst, text)
    if kind in ("@boot", "@reboot") and not body:
        from echosched.schedule.combine import OnStart

        return OnStart(text, zone.name, kind[1:])
    if kind in NICKNAMES and not body:
        return parse_cron(kind, zone, name=name, dst=dst, shown=text)
    if kind[1:2].isdigit():  # systemd's @SECONDS-SINCE-THE-EPOCH
        return _calendar(text, zone, name, anchor, dst, text)
    raise ScheduleError(
        f"{quoted(text)}: unknown nickname (one of {' '.join(NICKNAMES)} @every @boot @reboot)"
    )


def _cron(body: str, zone: Zone, name: str, anchor: datetime | None, dst: str, text: str) -> Timetable:
    try:
        return parse_cron(body, zone, name=name, dst=dst, shown=text)
    except ScheduleError:
        last = body.split()[-1]
        if find_zone(last) is None:
            raise
    # Calendar expressions end with one: it is easily taken for a habit of all.
    raise ScheduleError(
        f"{quoted(text)}: a cron expression names no time zone itself (write timezone = {quoted(last)} beside it)"
    )


def _every(body: str, zone: Zone, name: str, anchor: datetime | None, dst: str, text: str) -> Timetable:
    from echosched.schedule.interval import parse_interval

    return parse_interval(body, zone, anchor=anchor, dst=dst, shown=text)


def _once(body: str, zone: Zone, name: str, anchor: datetime | None, dst: str, text: str) -> Timetable:
    from echosched.schedule.instants import parse_once

    return parse_once(body, zone, dst=dst, shown=text)


def _calendar(body: str, zone: Zone, name: str, anchor: datetime | None, dst: str, text: str) -> Timetable:
    from echosched.schedule.calendar import parse_calendar

    return parse_calendar(body, zone, dst=dst, shown=text)


_PREFIXES = {"cron": _cron, "every": _every, "at": _once, "calendar": _calendar}
