"""Coming slots as rows: of one job, and of all in order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from echosched.clock import rfc3339
from echosched.errors import UsageError
from echosched.model import Job
from echosched.scheduler import Entry

MAX_SLOTS = 100_000


def simulate(
    jobs: Sequence[tuple[Job, Any]], start: datetime, end: datetime, *, limit: int = MAX_SLOTS
) -> list[dict[str, Any]]:
    """Return every slot of *jobs* (with their schedules) from *start* (included) to *end* (excluded), in order."""
    if end < start:
        raise UsageError(f"simulate: {rfc3339(end)} lies before {rfc3339(start)}")
    found: list[tuple[datetime, str, Job]] = []
    for job, schedule in jobs:
        if schedule is None or not job.enabled:
            continue
        if getattr(schedule, "needs_anchor", False):
            schedule = schedule.with_anchor(start)
        slot = schedule.next_after(start - timedelta(microseconds=1))
        while slot is not None and slot < end:
            found.append((slot, job.name, job))
            if len(found) > limit:
                raise UsageError(f"simulate: more than {limit} slots (choose a shorter period or one job)")
            slot = schedule.next_after(slot)
    found.sort(key=lambda item: item[:2])
    return [slot_row(job, at) for at, _, job in found]


def slots_of(entry: Entry, after: datetime, *, n: int, until: datetime | None = None) -> list[datetime]:
    """Return the first *n* slots of *entry* strictly after *after* and before *until*, by its own schedule."""
    if not entry.waits or entry.schedule is None:
        return []
    found: list[datetime] = []
    slot = entry.schedule.next_after(after)
    while slot is not None and len(found) < n and (until is None or slot < until):
        found.append(slot)
        slot = entry.schedule.next_after(slot)
    return found


def slot_row(job: Job, at: datetime) -> dict[str, Any]:
    """Return a slot of *job* as ``{job, at, local}``."""
    return {"job": job.name, "at": rfc3339(at), "local": at.astimezone(ZoneInfo(job.timezone)).isoformat()}
