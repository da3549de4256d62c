"""cron expressions: 5 fields, 6 with seconds first, 7 with the year last; nicknames.

Day-of-month and day-of-week are joined as Vixie and Debian cron do it: if either field starts with
``*`` both must match, otherwise either.
"""

from __future__ import annotations

from typing import TypeVar

from echosched.errors import ScheduleError
from echosched.schedule.base import quoted, short
from echosched.schedule.days import Days
from echosched.schedule.fields import (
    HOUR,
    MINUTE,
    MONTH,
    SECOND,
    YEAR,
    Field,
    parse_day_of_month,
    parse_day_of_week,
    parse_numbers,
)
from echosched.schedule.wall import FineWall, Seconds, Wall
from echosched.schedule.zones import Zone

NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

# A hundred thousand crontab lines use a few hundred different fields: each is parsed once, and the
# bit sets of days are shared. The bounds only guard against hostile input.
_BOUND = 8192
_numbers: dict[tuple[str, str], int] = {}
_days: dict[tuple[str, ...], Days] = {}


def parse_cron(text: str, zone: Zone, *, name: str = "", dst: str = "once", shown: str = "") -> Wall:
    """Return the schedule that a cron expression or nickname describes.

    *name* seeds ``H``; *shown* is the text as the user wrote it. Raises ``ScheduleError`` naming the
    field, its value and the allowed range, also for an expression that can never fire.
    """
    shown = shown or text
    try:
        return _parse(text, zone, name, dst, shown)
    except ScheduleError as error:
        raise ScheduleError(f"{quoted(shown)}: {error}") from None


def _parse(text: str, zone: Zone, name: str, dst: str, shown: str) -> Wall:
    if text.startswith("@"):
        try:
            text = NICKNAMES[text.strip().lower()]
        except KeyError:
            raise ScheduleError(
                f"unknown nickname (one of {' '.join(NICKNAMES)} @every @boot @reboot)"
            ) from None
    if not text.isascii():
        odd = next(c for c in text if not c.isascii())
        raise ScheduleError(f"a cron expression is plain ASCII, not {odd!r}")
    fields = text.upper().split()
    count = len(fields)
    if not 5 <= count <= 7:
        quotes = " (in a shell, put the expression in quotes)" if count > 7 else ""
        raise ScheduleError(
            f"a cron expression has 5 fields (6 with seconds first, 7 with the year last), not {count}{quotes}"
        )
    second = fields.pop(0) if count > 5 else None
    minute, hour = fields[0], fields[1]
    days = _parse_days(fields[2:], name)
    minutes, hours = _mask(MINUTE, minute, name), _mask(HOUR, hour, name)
    star = minute[0] == "*" or hour[0] == "*"
    if second is None or second == "0":
        return Wall(shown, zone, days, hours, minutes, star=star, dst=dst)
    seconds = Seconds(_mask(SECOND, second, name))
    return FineWall(shown, zone, days, hours, minutes, seconds, star=star, dst=dst)


def _mask(field: Field, text: str, name: str) -> int:
    if "H" in text:
        return parse_numbers(field, text, name)
    key = (field.name, text)
    mask = _numbers.get(key)
    if mask is None:
        mask = parse_numbers(field, text)
        _remember(_numbers, key, mask)
    return mask


def _parse_days(fields: list[str], name: str) -> Days:
    """Return the rule of the fields day-of-month, month, day-of-week and perhaps year."""
    hashed = any("H" in field.replace("THU", "") for field in fields)
    key = (*fields, name) if hashed else tuple(fields)
    days = _days.get(key)
    if days is None:
        dom_text, month_text, dow_text = fields[:3]
        dom, dow = parse_day_of_month(dom_text, name), parse_day_of_week(dow_text, name)
        months = parse_numbers(MONTH, month_text, name) >> 1
        years: tuple[int, ...] = ()
        if len(fields) > 3 and fields[3] != "*":
            mask = parse_numbers(YEAR, fields[3], name)
            years = tuple(year for year in range(YEAR.low, YEAR.high + 1) if mask >> year & 1)
        days = Days(
            months=months,
            dom=dom.mask,
            tail=dom.tail,
            near=dom.near,
            weekdays=dow.mask,
            nth=dow.nth,
            both=dom_text[0] in "*?" or dow_text[0] in "*?",
            years=years,
        )
        if not days.possible():
            raise ScheduleError(
                f"never fires: no day is day-of-month {short(dom_text)} (1–31) in month {short(month_text)} (1–12)"
                f" with day-of-week {short(dow_text)} (0–7)"
                + (f" in year {short(fields[3])}" if years else "")
            )
        _remember(_days, key, days)
    return days


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def _remember(cache: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(cache) >= _BOUND:
        cache.clear()
    cache[key] = value
