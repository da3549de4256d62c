"""Durations as people write them: ``90s``, ``1h30m``, ``2 days 6 hours``, ``500ms``.

The words are those of systemd.time(7) whose length is fixed. Months and years are refused: they have
no fixed length, and a job "every month" belongs on the calendar.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache

from echosched.errors import ScheduleError

_MICROS = {
    ("us", "µs", "usec"): 1,
    ("ms", "msec"): 1_000,
    ("s", "sec", "second", "seconds"): 1_000_000,
    ("m", "min", "minute", "minutes"): 60_000_000,
    ("h", "hr", "hour", "hours"): 3_600_000_000,
    ("d", "day", "days"): 86_400_000_000,
    ("w", "week", "weeks"): 604_800_000_000,
}
_UNITS = {word: micros for words, micros in _MICROS.items() for word in words}
_UNFIXED = {"M", "month", "months", "y", "year", "years"}
_PART = re.compile(r"\s*([0-9]{1,15})(?:\.([0-9]{1,12}))?\s*([A-Za-zµ]*)\s*")
_LONGEST = 10_000 * 366 * 86_400_000_000  # past any calendar; keeps timedelta and datetime in range


def parse_duration(text: str) -> timedelta:
    """Return the exact length that *text* names, to the microsecond.

    A number without a unit counts seconds; parts add up (``1h30m``, ``1h 30m``). Raises
    ``ScheduleError`` for anything else, negative lengths and fractions of a microsecond included.
    """
    return timedelta(microseconds=duration_micros(text))


@lru_cache(maxsize=1024)
def duration_micros(text: str, *, bare: bool = True) -> int:
    """Return the length that *text* names in microseconds; *bare* allows a number without a unit."""
    if not isinstance(text, str) or not text.strip():
        raise ScheduleError(f"duration: {text!r}: must be a length such as 90s, 1h30m or 500ms")
    shown, total, position = repr(text[:100]), 0, 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            raise ScheduleError(f"duration: {shown}: must be numbers with units, such as 90s, 1h30m or 500ms")
        whole, fraction, unit = match.groups()
        if unit in _UNFIXED:
            raise ScheduleError(
                f"duration: {shown}: months and years have no fixed length (use days, or a calendar schedule)"
            )
        alone = position == 0 and match.end() == len(text)
        if not unit and not (alone and (bare or int(whole) == 0)):
            raise ScheduleError(f"duration: {shown}: unit is missing (one of us, ms, s, m, h, d, w)")
        micros = _UNITS.get(unit or "s")
        if micros is None:
            raise ScheduleError(f"duration: {shown}: unknown unit {unit!r} (one of us, ms, s, m, h, d, w)")
        total += int(whole) * micros
        if fraction:
            share, rest = divmod(int(fraction) * micros, 10 ** len(fraction))
            if rest:
                raise ScheduleError(f"duration: {shown}: must be whole microseconds")
            total += share
        position = match.end()
    if total > _LONGEST:
        raise ScheduleError(f"duration: {shown}: is too long (10,000 years at most)")
    return total


def format_duration(length: timedelta) -> str:
    """Return *length* in the shortest form that :func:`parse_duration` reads back exactly, such as ``1h30m``."""
    micros = length // timedelta(microseconds=1)
    if micros < 0:
        return "-" + format_duration(-length)
    parts = []
    for words, size in reversed(_MICROS.items()):
        count, micros = divmod(micros, size)
        # Weeks only where nothing is left over: "10d" reads better than "1w3d".
        if size == _UNITS["w"] and micros:
            micros += count * size
        elif count:
            parts.append(f"{count}{words[0]}")
    return "".join(parts) or "0s"
