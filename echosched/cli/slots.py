"""Slots and instants on the command line: read from options, worked out, and shown."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from echosched.cli import render
from echosched.clock import EPOCH, LATEST, SystemClock, parse_rfc3339, rfc3339
from echosched.errors import UsageError
from echosched.model import Dst

if TYPE_CHECKING:
    from echosched.schedule import Timetable

_ZONELESS = re.compile(r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.]\d+)?)?$", re.ASCII)


def instant_of(option: str, text: str) -> datetime:
    """Return the instant that *text* names, from 1970 to 9000: RFC 3339, or a date (its first moment).

    Without a zone it is UTC.
    """
    try:
        found = parse_rfc3339(f"{text}T00:00Z" if len(text) == 10 else _ZONELESS.sub(r"\g<0>Z", text))
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option}: {text!r} is no instant (such as 2026-01-31T09:00:00Z, or 2026-01-31)"
        ) from None
    if not EPOCH <= found <= LATEST:
        raise UsageError(f"{option}: {text!r}: must lie between 1970 and 9000")
    return found


def dst_of(rule: str) -> str:
    """Return the rule for daylight saving that ``--dst`` names."""
    if rule not in tuple(Dst):
        raise UsageError(f"--dst: {rule!r}: unknown (one of {', '.join(Dst)})")
    return rule


def slot_rows(schedule: Timetable, start: datetime, count: int) -> list[dict[str, Any]]:
    """Return the next *count* slots of *schedule* after *start*, as ``{job, at, local}``."""
    zone = ZoneInfo(schedule.timezone)  # its own, where the expression names one
    rows: list[dict[str, Any]] = []
    slot = schedule.next_after(start)
    while slot is not None and len(rows) < count:
        rows.append({"job": None, "at": rfc3339(slot), "local": slot.astimezone(zone).isoformat()})
        slot = schedule.next_after(slot)
    return rows


def show_slots(slots: list[dict[str, Any]], arguments: dict[str, Any], *, distance: bool = True) -> None:
    """Print ``{job, at, local}`` rows; *distance* adds how far off they are, which of another time says nothing."""
    if arguments["--json"]:
        render.print_json(slots)
        return
    if not slots:
        print("no slot: nothing comes due")
        return
    now = SystemClock().now()
    named = any(slot["job"] for slot in slots)
    header = (["JOB"] if named else []) + ["AT", "LOCAL"] + ([""] if distance else [])
    rows = []
    for slot in slots:
        at = parse_rfc3339(slot["at"])
        fraction = f".{at.microsecond:06d}" if at.microsecond else ""
        shown = f"{at:%Y-%m-%d %H:%M:%S}{fraction}Z"
        row = ([slot["job"]] if named else []) + [shown, slot["local"]]
        rows.append(row + ([render.relative(slot["at"], now)] if distance else []))
    render.table(header, rows)
