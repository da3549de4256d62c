"""The fields of a cron expression: text to bit sets, and errors that name field, value and range."""

from __future__ import annotations

from typing import NamedTuple

from echosched.errors import ScheduleError
from echosched.schedule.base import short
from echosched.schedule.spread import stable_hash

_MONTHS = {
    name: number for number, name in enumerate("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split(), 1)
}
_WEEKDAYS = {name: number for number, name in enumerate("SUN MON TUE WED THU FRI SAT".split())}


class Field(NamedTuple):
    """One field of a cron expression: its name, its range, and the names some values have."""

    name: str
    low: int
    high: int
    names: dict[str, int]
    hashed_high: int  # the highest value that H may choose

    @property
    def allowed(self) -> str:
        """Return the allowed range for messages."""
        text = f"{self.low}–{self.high}"
        return f"{text} or {next(iter(self.names))}–{list(self.names)[-1]}" if self.names else text


SECOND = Field("second", 0, 59, {}, 59)
MINUTE = Field("minute", 0, 59, {}, 59)
HOUR = Field("hour", 0, 23, {}, 23)
DAY_OF_MONTH = Field("day-of-month", 1, 31, {}, 28)
MONTH = Field("month", 1, 12, _MONTHS, 12)
DAY_OF_WEEK = Field("day-of-week", 0, 7, _WEEKDAYS, 6)
YEAR = Field("year", 1970, 2199, {}, 2199)


class DayItems(NamedTuple):
    """A day field taken apart; see :class:`echosched.schedule.days.Days` for the meaning of each."""

    mask: int
    tail: int = 0
    near: tuple[int, ...] = ()
    nth: tuple[tuple[int, int], ...] = ()


def parse_numbers(field: Field, text: str, name: str = "") -> int:
    """Return the values of a field as a bit set (bit = value); *name* seeds ``H``. *text* is upper case ASCII."""
    if text == "*":
        return (1 << field.high + 1) - (1 << field.low)
    mask = 0
    for item in text.split(","):
        mask |= _parse_item(field, item, text, name)
    return mask


def parse_day_of_month(text: str, name: str = "") -> DayItems:
    """Return a day-of-month field (bit 0: the 1st): numbers, ``L``, ``L-3``, ``LW``, ``15W``, ``?``, ``H``."""
    if text in ("*", "?"):
        return DayItems((1 << 31) - 1)
    mask, tail, near = 0, 0, []
    for item in text.split(","):
        if item in ("LW", "WL"):
            near.append(0)
        elif item.endswith("W") and item[:-1].isdigit():
            near.append(_value(DAY_OF_MONTH, item[:-1], text))
        elif item == "L":
            tail |= 1
        elif item.startswith("L-"):
            back = item[2:]
            if not back.isdigit() or not 0 <= int(back[:9]) <= 30:
                raise ScheduleError(
                    f"day-of-month offset from the last day must be 0–30, not {short(back)} in {short(item)}"
                )
            tail |= 1 << int(back)
        else:
            mask |= _parse_item(DAY_OF_MONTH, item, text, name) >> 1
    return DayItems(mask, tail, tuple(near))


def parse_day_of_week(text: str, name: str = "") -> DayItems:
    """Return a day-of-week field (bit 0: Monday): numbers and names, ``5L``, ``Fri#2``, ``?``, ``H``."""
    if text in ("*", "?"):
        return DayItems((1 << 7) - 1)
    mask, nth = 0, []
    for item in text.split(","):
        if "#" in item:
            day, _, ordinal = item.partition("#")
            if not ordinal.isdigit() or not 1 <= int(ordinal[:9]) <= 5:
                raise ScheduleError(
                    f"day-of-week ordinal after # must be 1–5, not {short(ordinal)} in {short(item)}"
                )
            nth.append(((_value(DAY_OF_WEEK, day, text) - 1) % 7, int(ordinal)))
        elif item == "L":
            raise ScheduleError(
                "day-of-week L needs a weekday in front (5L is the last Friday), 0–7 or SUN–SAT"
            )
        elif item.endswith("L"):
            nth.append(((_value(DAY_OF_WEEK, item[:-1], text) - 1) % 7, -1))
        else:
            mask |= _parse_item(DAY_OF_WEEK, item, text, name)
    mask |= mask >> 7 & 1  # 7 is Sunday too
    return DayItems(mask >> 1 & 0x3F | (mask & 1) << 6, nth=tuple(nth))


def _parse_item(field: Field, item: str, whole: str, name: str) -> int:
    """Return one list item as a bit set: ``5``, ``1-5``, ``*/5``, ``1-30/5``, ``10/5``, ``H``, ``H(0-29)/10``."""
    if item.isdigit():
        return 1 << _value(field, item, whole)
    body, slash, step_text = item.partition("/")
    step = 1
    if slash:
        span = field.high - field.low + 1
        if not step_text.isdigit() or not 1 <= int(step_text[:9]) <= span:
            raise ScheduleError(
                f"{field.name} step must be 1–{span}, not {short(step_text)} in {short(item)} "
                f"(values are {field.allowed})"
            )
        step = int(step_text)
    if body == "*":
        low, high = field.low, field.high
    elif body.startswith("H") and (len(body) == 1 or body[1] == "("):
        return _hashed(field, body, step if slash else 0, whole, name)
    elif "-" in body:
        low, high = _range(field, body, whole)
    else:
        low = _value(field, body, whole)
        high = field.high if slash else low
    return sum(1 << value for value in range(low, high + 1, step))


def _range(field: Field, body: str, whole: str) -> tuple[int, int]:
    first, _, last = body.partition("-")
    low, high = _value(field, first, whole), _value(field, last, whole)
    if field is DAY_OF_WEEK and last == "SUN" and low not in (0, 7):
        high = 7  # a week may end on Sunday
    if high < low:
        raise ScheduleError(
            f"{field.name} range {short(body)} runs backwards: must be {field.allowed}, the smaller value first"
        )
    return low, high


def _hashed(field: Field, body: str, step: int, whole: str, name: str) -> int:
    """Return Jenkins' ``H``: one value, or with a step a phase, chosen by the job's name."""
    low, high = field.low, field.hashed_high
    if len(body) > 1:
        if not body.endswith(")") or "-" not in body:
            raise ScheduleError(
                f"{field.name} {short(body)} must be H or H(first-last) within {field.allowed}"
            )
        low, high = _range(field, body[2:-1], whole)
    choice = stable_hash(name, field.name)
    if not step:
        return 1 << low + choice % (high - low + 1)
    return sum(1 << value for value in range(low + choice % min(step, high - low + 1), high + 1, step))


def _value(field: Field, text: str, whole: str) -> int:
    if text.isdigit():
        value = int(text[:9])
        if field.low <= value <= field.high:
            return value
    elif text in field.names:
        return field.names[text]
    if not text and "," in whole and "" in whole.split(","):
        raise ScheduleError(
            f"{field.name} has an empty list item in {short(whole)} (values are {field.allowed})"
        )
    raise ScheduleError(
        f"{field.name} must be {field.allowed}, not {short(text)}"
        + (f" in {short(whole)}" if text != whole else "")
    )
