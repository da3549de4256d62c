"""Coming slots as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

from echosched.protocols import Schedule


def upcoming(schedule: Schedule, after: datetime, count: int, zone: tzinfo = UTC) -> list[str]:
    """Return the next slots as wall-clock time, as ``2026-03-01 00:00``, with seconds where there are any."""
    found: list[str] = []
    moment = after
    while len(found) < count and (following := schedule.next_after(moment)) is not None:
        assert following > moment
        found.append(following.astimezone(zone).replace(tzinfo=None).isoformat(" ").removesuffix(":00"))
        moment = following
    return found
