"""Calendar expressions: the grammar and meaning of systemd's OnCalendar (systemd.time(7)).

``Mon..Fri 2026-*-* 08:00:00 Europe/Berlin``: weekdays, date, time, zone; all but one may be left out.
The limits are systemd's too: ranges do not wrap, a repetition must fit at least once, ``~`` counts days
from the end of the month (``*-*~01`` is the last day, ``*-*~07/1`` the last seven). Only the rule for
daylight saving is this house's own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from echosched.errors import ScheduleError
from echosched.schedule.base import quoted, short
from echosched.schedule.days import ALL_DOM, ALL_MONTHS, ALL_WEEKDAYS, Days
from echosched.schedule.durations import duration_micros
from echosched.schedule.instants import Once
from echosched.schedule.wall import (
    ALL_HOURS,
    ALL_MINUTES,
    EVERY_SECOND,
    ON_THE_MINUTE,
    FineWall,
    Seconds,
    Wall,
)
from echosched.schedule.zones import DAY, MAX_MICROS, MINUTE, SECOND, Zone, find_zone, get_zone

NICKNAMES = {
    "minutely": "*:*",
    "hourly": "*:00",
    "daily": "00:00",
    "weekly": "Mon 00:00",
    "monthly": "*-*-01 00:00",
    "quarterly": "*-01,04,07,10-01 00:00",
    **dict.fromkeys(("biannually", "bi-annually", "semiannually", "semi-annually"), "*-01,07-01 00:00"),
    **dict.fromkeys(("yearly", "annually", "anually"), "*-01-01 00:00"),
}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEKDAY = {name: number for number, day in enumerate(_WEEKDAYS) for name in (day, day[:3])}
_NUMBER = r"([0-9]{1,9})(?:\.([0-9]+))?"
_ITEM = re.compile(rf"{_NUMBER}(?:\.\.{_NUMBER})?(?:/{_NUMBER})?")
_TIMESTAMP = re.compile(r"@([0-9]{1,12})(?:\.([0-9]{1,6}))?")


class Part(NamedTuple):
    """``first[..last][/step]``; *last* -1: open, *step* 0: the first value alone."""

    first: int
    last: int
    step: int


class Unit(NamedTuple):
    """A component of date or time: its name and its range."""

    name: str
    low: int
    high: int


YEAR, MONTH = Unit("year", 1970, 2199), Unit("month", 1, 12)
DOM, FROM_END = Unit("day", 1, 31), Unit("day from the month's end", 1, 28)
HOUR, MINUTES = Unit("hour", 0, 23), Unit("minute", 0, 59)
SECONDS = Unit("second", 0, MINUTE - 1)


def parse_calendar(text: str, zone: Zone, *, dst: str = "once", shown: str = "") -> Wall | Once:
    """Return the schedule that a calendar expression describes; *zone* serves where it names none.

    Raises ``ScheduleError`` naming the component, its value and the allowed range, also for an
    expression that can never fire.
    """
    shown = shown or text
    try:
        return _parse(text, zone, dst, shown)
    except ScheduleError as error:
        raise ScheduleError(f"{quoted(shown)}: {error}") from None


def _parse(text: str, zone: Zone, dst: str, shown: str) -> Wall | Once:
    words = text.split()
    if not words:
        raise ScheduleError("is empty (a calendar expression is such as Mon..Fri 08:00)")
    if words[0].startswith("@"):
        return _timestamp(words, shown)
    if len(words) > 1 and words[-1][0].isalpha():
        zone = get_zone("UTC") if words[-1].upper() == "UTC" else find_zone(words[-1]) or get_zone(words[-1])
        words.pop()
    if len(words) == 1 and words[0].lower() in NICKNAMES:
        words = NICKNAMES[words[0].lower()].split()
    weekdays = ALL_WEEKDAYS
    if words[0][0].isalpha():
        weekdays = _weekdays(words.pop(0))
    time = words.pop() if words and ":" in words[-1] else None
    date = words.pop() if words else None
    if words or (date is not None and not re.search("[-~]", date)):
        raise ScheduleError(_neither(text))
    days = _days(date, weekdays)
    hours, minutes, seconds, star = _time(time)
    if seconds is ON_THE_MINUTE:
        wall = Wall(shown, zone, days, hours, minutes, star=star, dst=dst)
    else:
        wall = FineWall(shown, zone, days, hours, minutes, seconds, star=star, dst=dst)
    if time is None:
        wall.cover = DAY
    elif time.count(":") == 2:
        wall.cover = SECOND if not seconds.parts else 1
    return wall


def _neither(text: str) -> str:
    """Return what to tell somebody whose text is no calendar expression, nor anything else."""
    try:
        duration_micros(text, bare=False)
    except ScheduleError:
        return (
            "is neither a cron expression (5–7 fields) nor a calendar one "
            "(weekdays, date, time, zone, such as Mon..Fri *-*-* 08:00)"
        )
    return f"is a length, not a time (write every {' '.join(text.split())})"


def _timestamp(words: list[str], shown: str) -> Once:
    match = _TIMESTAMP.fullmatch(words[0])
    if match is None or len(words) > 1:
        raise ScheduleError("must be @ and seconds since the epoch, such as @1893456000, and nothing more")
    micros = int(match[1]) * SECOND + int((match[2] or "0").ljust(6, "0"))
    if micros > MAX_MICROS:
        raise ScheduleError(f"seconds since the epoch must be 0–{MAX_MICROS // SECOND}, not {match[1]}")
    return Once(shown, get_zone("UTC"), (micros,), SECOND)


def _weekdays(word: str) -> int:
    """Return a weekday list such as ``Mon..Wed,Fri`` as a bit set; one trailing comma is allowed."""
    mask = 0
    for item in word.removesuffix(",").split(","):
        first, *last = re.split(r"\.\.|-", item, maxsplit=1)
        numbers = [_WEEKDAY.get(name.lower()) for name in (first, *last)]
        if None in numbers:
            wrong = (first, *last)[numbers.index(None)]
            raise ScheduleError(f"weekday must be Mon–Sun, not {short(wrong)} in {short(word)}")
        low, high = numbers[0], numbers[-1]
        assert low is not None  # noqa: S101 - for the type checker: None was refused above
        assert high is not None  # noqa: S101
        if low > high:
            raise ScheduleError(
                f"weekday range {short(item)} runs backwards: must be Mon–Sun, the earlier day first "
                "(use a list such as Sat,Sun,Mon)"
            )
        mask |= (2 << high) - (1 << low)
    return mask


def _days(date: str | None, weekdays: int) -> Days:
    """Return the rule of a date such as ``2026-*-01``, ``12-25`` or ``*-02~03``."""
    if date is None:
        return Days(weekdays=weekdays)
    pieces = re.split("([-~])", date)
    if len(pieces) == 3:
        pieces = ["*", "-", *pieces]
    if len(pieces) != 5 or pieces[1] == "~":
        raise ScheduleError(
            f"date must be year-month-day or month-day (~ before the day: from the end), not {short(date)}"
        )
    from_end = pieces[3] == "~"
    year_parts = _parts(pieces[0], YEAR)
    dom_parts = _parts(pieces[4], FROM_END if from_end else DOM)
    years: tuple[int, ...] = ()
    if year_parts is not None:
        years = tuple(sorted({year for part in year_parts for year in _values(part, YEAR)}))
    dom, tail = ALL_DOM, 0
    if dom_parts is not None and from_end:
        dom, tail = 0, sum({1 << back - 1 for part in dom_parts for back in _values_from_end(part)})
    elif dom_parts is not None:
        dom = _mask(dom_parts, DOM) >> 1
    months = _mask(_parts(pieces[2], MONTH), MONTH) >> 1 or ALL_MONTHS
    days = Days(months=months, dom=dom, tail=tail, weekdays=weekdays, years=years)
    if not days.possible():
        raise ScheduleError(
            f"never fires: no day of the calendar is {short(date)} (or none on these weekdays)"
        )
    return days


def _time(time: str | None) -> tuple[int, int, Seconds, bool]:
    """Return hours, minutes, seconds and whether hour or minute starts with ``*``."""
    if time is None:
        return 1, 1, ON_THE_MINUTE, False
    hour, *rest = time.split(":")
    if len(rest) not in (1, 2):
        raise ScheduleError(f"time must be hour:minute or hour:minute:second, not {short(time)}")
    hours = _mask(_parts(hour, HOUR), HOUR) or ALL_HOURS
    minutes = _mask(_parts(rest[0], MINUTES), MINUTES) or ALL_MINUTES
    star = hour.startswith("*") or rest[0].startswith("*")
    return hours, minutes, _seconds(_parts(rest[1], SECONDS)) if len(rest) > 1 else ON_THE_MINUTE, star


def _seconds(parts: list[Part] | None) -> Seconds:
    if parts is None:
        return EVERY_SECOND
    mask, fine = 0, []
    for part in parts:
        if part.first % SECOND or part.step % SECOND:
            last = part.first if not part.step else SECONDS.high if part.last < 0 else part.last
            fine.append((part.first, last, part.step))
        else:
            mask |= sum(1 << value // SECOND for value in _values(part, SECONDS))
    return ON_THE_MINUTE if mask == 1 and not fine else Seconds(mask, tuple(fine))


def _parts(text: str, unit: Unit) -> list[Part] | None:
    """Return the list items of a component, checked as systemd checks them; ``None`` for ``*``."""
    if text == "*":
        return None
    parts = []
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None or (unit is not SECONDS and "." in item.replace("..", "")):
            hint = " (a repetition needs a number in front, such as 0/5)" if item.startswith("*") else ""
            raise ScheduleError(
                f"{unit.name} must be {_allowed(unit)}, not {short(item)} in {short(text)}{hint}"
            )
        first = _number(match[1], match[2], unit)
        last = -1 if match[3] is None else _number(match[3], match[4], unit)
        one = SECOND if unit is SECONDS else 1
        step = one if match[3] is not None else 0
        if match[5] is not None:
            step = _number(match[5], match[6], SECONDS if unit is SECONDS else DOM)
            if step == 0:
                raise ScheduleError(f"{unit.name} repetition must be at least 1, not 0 in {short(item)}")
        elif unit is SECONDS and last >= 0 and first + step > last:
            raise ScheduleError(
                f"{unit.name} range {short(item)} is shorter than a second (give a step, such as /0.1)"
            )
        parts.append(_checked(Part(first, last, step), unit, item))
    return parts


def _number(whole: str, fraction: str | None, unit: Unit) -> int:
    value = int(whole)
    if unit is YEAR:  # two digits mean 1970–2069
        return value + (2000 if value < 70 else 1900 if value < 100 else 0)
    if unit is not SECONDS:
        return value
    digits = (fraction or "").ljust(7, "0")
    return value * SECOND + int(digits[:6]) + (digits[6] >= "5")


def _checked(part: Part, unit: Unit, item: str) -> Part:
    """Refuse what lies outside the range, runs backwards or cannot repeat even once."""
    first, last, step = part
    if last > first and step:
        last -= (last - first) % step
    if last == first:
        last, step = -1, 0
    for value in (first, last):
        if value >= 0 and not unit.low <= value <= unit.high:
            raise ScheduleError(f"{unit.name} must be {_allowed(unit)}, not {short(item)}")
    if last >= 0 and last < first:
        raise ScheduleError(
            f"{unit.name} range {short(item)} runs backwards: must be {_allowed(unit)}, smaller first"
        )
    reach = first - step if unit is FROM_END else first + step
    if step > unit.high - unit.low or (last < 0 and not unit.low <= reach <= unit.high):
        raise ScheduleError(
            f"{unit.name} repetition in {short(item)} never comes round within {_allowed(unit)}"
        )
    return Part(first, last, step)


def _values(part: Part, unit: Unit) -> range:
    if not part.step:
        return range(part.first, part.first + 1)
    return range(part.first, (unit.high if part.last < 0 else part.last) + 1, part.step)


def _values_from_end(part: Part) -> range:
    """Return a part's days counted from the end: the earliest day comes first and repeats forward."""
    if not part.step:
        return range(part.first, part.first + 1)
    early, late = (part.first, 1) if part.last < 0 else (part.last, part.first)
    return range(early, late - 1, -part.step)


def _mask(parts: list[Part] | None, unit: Unit) -> int:
    """Return the values of the parts as a bit set, 0 for ``*``."""
    mask = 0
    for part in parts or ():
        for value in _values(part, unit):
            mask |= 1 << value
    return mask


def _allowed(unit: Unit) -> str:
    return "0–59.999999" if unit is SECONDS else f"{unit.low}–{unit.high}"
