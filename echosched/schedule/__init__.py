"""Text to Schedule: pure, no clock, and no I/O but reading the zone database.

The public names are imported when first used; ``parse_schedule`` itself is light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echosched.schedule.base import Timetable
    from echosched.schedule.chains import find_cycle, parse_after
    from echosched.schedule.durations import format_duration, parse_duration
    from echosched.schedule.english import explain
    from echosched.schedule.exceptions import excluding
    from echosched.schedule.parse import parse_schedule
    from echosched.schedule.shifts import Shift, transitions
    from echosched.schedule.spread import jitter_seconds

_HOMES = {
    "Shift": "shifts",
    "Timetable": "base",
    "excluding": "exceptions",
    "explain": "english",
    "find_cycle": "chains",
    "format_duration": "durations",
    "jitter_seconds": "spread",
    "parse_after": "chains",
    "parse_duration": "durations",
    "parse_schedule": "parse",
    "transitions": "shifts",
}

__all__ = [
    "Shift",
    "Timetable",
    "excluding",
    "explain",
    "find_cycle",
    "format_duration",
    "jitter_seconds",
    "parse_after",
    "parse_duration",
    "parse_schedule",
    "transitions",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
