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
LATEST = datetime(
    9000, 1, 1, tzinfo=UTC
)  # of instants that people may ask about: adding years to it overflows nothing
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


class SharedClock(SystemClock):
    """The clock of a database that many hosts share, kept up between two looks at it by this host's boot clock.

    Whatever this host's own wall clock says, or is set to, ``now`` does not follow it. Until the first look it
    is the wall clock.
    """

    def __init__(self) -> None:
        self._base: datetime | None = None
        self._base_boot = 0.0

    def now(self) -> datetime:
        """Return the present instant as the database has it."""
        if self._base is None:
            return super().now()
        return self._base + timedelta(seconds=self.boot() - self._base_boot)

    def look(self, shared: datetime, boot: float) -> None:
        """Take note that the database's clock stood at *shared* when :meth:`boot` did at *boot*."""
        self._base, self._base_boot = shared, boot

    @property
    def skew_seconds(self) -> float:
        """Return how far this host's wall clock is ahead of the database's."""
        return (super().now() - self.now()).total_seconds()


def to_micros(instant: datetime) -> int:
    """Return whole microseconds since the Unix epoch of an aware *instant* (exact, no float in between)."""
    return (instant - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the aware UTC datetime *micros* microseconds after the Unix epoch."""
    return EPOCH + timedelta(microseconds=micros)


def rfc3339(instant: datetime) -> str:
    """Return *instant* (aware) as RFC 3339 in UTC with microseconds and ``Z``, the form of all files and JSON."""
    if instant.tzinfo is not UTC:
        instant = instant.astimezone(UTC)
    return instant.isoformat("T", "microseconds")[:-6] + "Z"


def parse_rfc3339(text: str) -> datetime:
    """Return the aware UTC datetime that *text* names; a missing offset or a naive time raises ``ValueError``."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r}: a time zone is missing (add Z or an offset such as +01:00)")
    return instant.astimezone(UTC)
