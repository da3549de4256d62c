"""What all schedules share: instants in and out, and the words of errors.

Inside this room an instant is a whole number of microseconds since the Unix epoch (UTC): exact, cheap
to compare, and free of ``fold``. Datetimes exist only at the door, :meth:`Timetable.next_after`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from echosched.clock import EPOCH
from echosched.schedule.zones import MAX_MICROS, MIN_MICROS

_NONE: frozenset[str] = frozenset()
_from_timestamp = datetime.fromtimestamp


class Timetable:
    """The base of every schedule; satisfies :class:`echosched.protocols.Schedule`.

    *text* is the expression as it was written, *timezone* the zone its wall clock follows.
    """

    __slots__ = ("text", "timezone")

    text: str
    timezone: str

    @property
    def on_start(self) -> frozenset[str]:
        """Return which starts fire it: ``boot``, ``reboot``, or none."""
        return _NONE

    @property
    def needs_anchor(self) -> bool:
        """Tell whether it is an interval without ``from``, whose anchor is its job's first start."""
        return False

    def with_anchor(self, instant: datetime) -> Timetable:
        """Return this schedule with its anchorless intervals counting from *instant* (aware)."""
        return self

    def next_micros(self, after: int) -> int | None:
        """Return the first slot strictly after *after*, both in microseconds since the epoch."""
        raise NotImplementedError

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first slot strictly after *instant* (aware; the answer is UTC), ``None`` when exhausted.

        Raises ``ValueError`` for a naive *instant*.
        """
        try:
            delta = instant - EPOCH
        except TypeError:
            raise ValueError(f"{instant!r}: an aware datetime is needed") from None
        after = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
        micros = self.next_micros(after if after > MIN_MICROS else MIN_MICROS)
        if micros is None or micros > MAX_MICROS:
            return None
        if micros % 1_000_000 == 0:
            return _from_timestamp(micros // 1_000_000, UTC)  # a whole number: exact, and faster
        return EPOCH + timedelta(0, 0, micros)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.text!r} {self.timezone}>"


def quoted(text: object) -> str:
    """Return *text* in double quotes for a one-line message: bounded, control characters escaped."""
    plain = str(text)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain[:120])
    return f'"{shown}…"' if len(plain) > 120 else f'"{shown}"'


def short(text: str) -> str:
    """Return *text* bounded, as a part of a message; ``empty`` for nothing."""
    return (text if len(text) <= 60 else text[:60] + "…") or "empty"
