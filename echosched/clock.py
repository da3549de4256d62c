"""The one place that reads clocks.

Three clocks, three uses:

- *wall* (CLOCK_REALTIME): slots, and every instant that people read. It may step.
- *monotonic* (CLOCK_MONOTONIC): back-off, time-outs, beat ages. It never steps and rests in suspend.
- *boot* (CLOCK_BOOTTIME): like monotonic but counts suspend; wall minus boot tells a clock step from a resume.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class SystemClock:
    """The real clocks of this machine; satisfies :class:`echosched.protocols.Clock`."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds on a clock that never steps; only differences mean anything."""
        return time.monotonic()

    def boot(self) -> float:
        """Return seconds since boot, suspend included."""
        return (
            time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
        )


def to_micros(instant: datetime) -> int:
    """Return whole microseconds since the Unix epoch of an aware *instant* (exact, no float in between)."""
    return (instant - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the aware UTC datetime *micros* microseconds after the Unix epoch."""
    return EPOCH + timedelta(microseconds=micros)


def rfc3339(instant: datetime) -> str:
    """Return *instant* (aware) as RFC 3339 in UTC with microseconds and ``Z``, the form of all files and JSON."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def parse_rfc3339(text: str) -> datetime:
    """Return the aware UTC datetime that *text* names; a missing offset or a naive time raises ``ValueError``."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r}: a time zone is missing (add Z or an offset such as +01:00)")
    return instant.astimezone(UTC)
