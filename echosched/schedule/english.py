"""A schedule in plain English, said from what it compiled to: what you read is what will run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from echosched.clock import from_micros
from echosched.schedule.base import Timetable
from echosched.schedule.combine import OnStart, Union
from echosched.schedule.days import ALL_DOM, ALL_MONTHS, ALL_WEEKDAYS, Days
from echosched.schedule.durations import format_duration
from echosched.schedule.exceptions import Excluding
from echosched.schedule.instants import Once
from echosched.schedule.interval import Interval
from echosched.schedule.shifts import transitions
from echosched.schedule.wall import ALL_HOURS, ALL_MINUTES, EVERY_SECOND, ON_THE_MINUTE, Seconds, Wall
from echosched.schedule.zones import MAX_MICROS, SECOND

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_ORDINALS = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", -1: "last"}
# A span that holds every combination of weekday, leap year and rule: what meets no change in it never will.
_SEASONS = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2054, 1, 1, tzinfo=UTC))
_MOST_TIMES = 6  # more times of day than this are described, not listed


def explain(schedule: Timetable) -> str:
    """Return one or two English sentences that say when *schedule* fires."""
    if isinstance(schedule, Union):
        return " And: ".join(explain(part) for part in schedule.parts)
    if isinstance(schedule, Excluding):
        return f"{explain(schedule.inner)} Except {_listed(list(schedule.exceptions))}."
    if isinstance(schedule, Wall):
        return _explain_wall(schedule)
    if isinstance(schedule, Interval):
        return _explain_interval(schedule)
    if isinstance(schedule, Once):
        shown = [f"{from_micros(at):%Y-%m-%d %H:%M:%S} UTC" for at in schedule.instants if at <= MAX_MICROS]
        return f"Once, at {_listed(shown)}." if len(shown) == 1 else f"At {_listed(shown)}."
    if isinstance(schedule, OnStart) and schedule.kind == "reboot":
        return "Once per boot of the machine, when the daemon starts."
    return "At each start of the daemon."


def _explain_wall(wall: Wall) -> str:
    times, days = _times(wall), _days(wall.days)
    # "Every 5 minutes" needs no "every day"; "at 08:00" does.
    sentence = times if days == "every day" and wall.hours == ALL_HOURS else f"{times} {days}"
    sentence = f"{sentence[0].upper()}{sentence[1:]} ({wall.timezone})."
    if not transitions(wall, *_SEASONS):
        return sentence
    if wall.follow:
        rule = "a skipped time does not run, a repeated one runs twice"
    elif wall.dst == "skip":
        rule = "a skipped time does not run, a repeated one runs once"
    else:
        rule = "a skipped time runs right after the gap, a repeated one runs once"
    return f"{sentence} Daylight saving: {rule}."


def _explain_interval(interval: Interval) -> str:
    period = _spoken(interval.period)
    if interval.needs_anchor:
        return f"Every {period}, counting from the job's first start."
    return f"Every {period}, counting from {from_micros(interval.anchor):%Y-%m-%d %H:%M:%S} UTC."


def _spoken(micros: int) -> str:
    """Return a length in words where one unit does (``6 hours``), else as it is written (``1h30m``)."""
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        count, rest = divmod(micros, size * SECOND)
        if count and not rest:
            return unit if count == 1 else f"{count} {unit}s"
    return format_duration(timedelta(microseconds=micros))


# ── time of day ───────────────────────────────────────────────────────────────────────────────


def _times(wall: Wall) -> str:
    hours, minutes, seconds = _members(wall.hours), _members(wall.minutes), wall.seconds
    if len(hours) * len(minutes) <= _MOST_TIMES:
        exact = not seconds.parts and seconds.mask.bit_count() == 1
        tail = f":{_members(seconds.mask)[0]:02}" if exact and seconds is not ON_THE_MINUTE else ""
        times = _listed([f"{hour:02}:{minute:02}{tail}" for hour in hours for minute in minutes])
        return f"at {times}" if exact else f"{_seconds(seconds)} of {times}"
    words = [] if seconds is ON_THE_MINUTE else [_seconds(seconds)]
    if wall.minutes == 1 and wall.hours != ALL_HOURS and not words:
        return _whole_hours(hours)
    if not words or wall.minutes != ALL_MINUTES:
        words.append(_stepped(minutes, 60, "minute"))
    if wall.hours != ALL_HOURS:
        words.append(_hours(hours))
    elif not words[-1].startswith("every"):
        words.append("of every hour" if wall.minutes != ALL_MINUTES else "of every minute")
    return ", ".join(words[:-1]) + (" " if len(words) > 1 else "") + words[-1]


def _seconds(seconds: Seconds) -> str:
    if seconds is EVERY_SECOND:
        return "every second"
    said = [_stepped(_members(seconds.mask), 60, "second")] if seconds.mask else []
    for first, last, step in seconds.parts:
        if not step or step > last - first:
            said.append(f"at second {first / SECOND:g}")
        else:
            whole = first < step and last + step >= 60 * SECOND
            span = "" if whole else f" from second {first / SECOND:g} to {last / SECOND:g}"
            said.append(f"every {step / SECOND:g} seconds{span}")
    return _listed(said)


def _whole_hours(hours: list[int]) -> str:
    step = _step(hours)
    if step == 1:
        return f"every hour from {hours[0]:02}:00 to {hours[-1]:02}:00"
    if step:
        return f"every {step} hours from {hours[0]:02}:00 to {hours[-1]:02}:00"
    return "at " + _listed([f"{hour:02}:00" for hour in hours])


def _hours(hours: list[int]) -> str:
    if len(hours) == 1 or _step(hours) == 1:
        return f"from {hours[0]:02}:00 to {hours[-1]:02}:59"
    return "in the hours " + _listed([f"{hour:02}" for hour in hours])


def _stepped(values: list[int], size: int, unit: str) -> str:
    """Return ``every 5 minutes``, ``at minute 5`` or ``at minutes 0, 7 and 21``."""
    if len(values) == size:
        return f"every {unit}"
    step = _step(values)
    if step and step > 1 and size % step == 0 and len(values) == size // step:
        return f"every {step} {unit}s" + (f" from {unit} {values[0]}" if values[0] else "")
    if step == 1 and len(values) > 2:
        return f"every {unit} from {values[0]} to {values[-1]}"
    return f"at {unit}{'s' if len(values) > 1 else ''} {_listed([str(value) for value in values])}"


def _step(values: list[int]) -> int:
    """Return the common distance of at least two values, 0 if there is none."""
    steps = {later - value for value, later in pairwise(values)}
    return steps.pop() if len(steps) == 1 else 0


# ── days ──────────────────────────────────────────────────────────────────────────────────────


def _days(days: Days) -> str:
    months = "the month" if days.months == ALL_MONTHS else _ranges(_members(days.months), _MONTHS)
    month_side, week_side = _month_side(days, months), _week_side(days)
    if month_side and week_side:
        said = f"{month_side} if it is {week_side}" if days.both else f"{month_side} and on every {week_side}"
    else:
        said = month_side or (f"on {week_side}" if week_side else "every day")
    if days.months != ALL_MONTHS and (not month_side or (week_side and not days.both)):
        said += f" in {months}"
    if days.years:
        said += " in " + _ranges(list(days.years))
    return said


def _month_side(days: Days, months: str) -> str:
    if days.dom == ALL_DOM and not days.tail and not days.near:
        return ""
    said = []
    if days.dom:
        numbers = [number + 1 for number in _members(days.dom)]
        said.append(f"on {_numbered_days(numbers)} of {months}")
    backs = _members(days.tail)
    if backs == list(range(len(backs))) and backs:
        said.append(f"on the last {f'{len(backs)} days' if len(backs) > 1 else 'day'} of {months}")
    else:
        counts = [f"{back} day{'s' if back > 1 else ''} before" if back else "on" for back in backs]
        said.extend(f"{count} the last day of {months}" for count in counts)
    near = [f"the weekday nearest day {day}" if day else "the last weekday" for day in days.near]
    said.extend(f"on {words} of {months}" for words in near)
    return _listed(said)


def _numbered_days(numbers: list[int]) -> str:
    step = _step(numbers)
    if step > 1 and len(numbers) > _MOST_TIMES:
        suffix = {2: "nd", 3: "rd"}.get(step, "th")
        return f"every {step}{suffix} day from day {numbers[0]} to day {numbers[-1]}"
    return ("day " if len(numbers) == 1 else "days ") + _ranges(numbers)


def _week_side(days: Days) -> str:
    if days.weekdays == ALL_WEEKDAYS:
        return ""
    said = []
    if days.weekdays:
        said.append(_ranges(_members(days.weekdays), _WEEKDAYS))
    for weekday, ordinal in days.nth:
        said.append(f"the {_ORDINALS[ordinal]} {_WEEKDAYS[weekday]} of the month")
    return _listed(said)


# ── words ─────────────────────────────────────────────────────────────────────────────────────


def _members(mask: int) -> list[int]:
    return [position for position in range(mask.bit_length()) if mask >> position & 1]


def _ranges(values: list[int], names: tuple[str, ...] | None = None) -> str:
    """Return ``1 to 5, 9 and 20``; runs of three and more become ranges."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    said = []
    for run in runs:
        shown = [names[value] if names else str(value) for value in run]
        said.extend([f"{shown[0]} to {shown[-1]}"] if len(run) > 2 else shown)
    return _listed(said)


def _listed(words: list[str]) -> str:
    return (
        words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else "nothing"
    )
