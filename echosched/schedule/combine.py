"""Schedules made of others: a list (union), and what fires on starts."""

from __future__ import annotations

from datetime import datetime

from echosched.schedule.base import Timetable


class OnStart(Timetable):
    """``@boot`` (each daemon start) or ``@reboot`` (once per boot of the machine): it has no slots."""

    __slots__ = ("kind",)

    def __init__(self, text: str, timezone: str, kind: str) -> None:
        """*kind* is ``boot`` or ``reboot``."""
        self.text, self.timezone, self.kind = text, timezone, kind

    @property
    def on_start(self) -> frozenset[str]:
        """Return which starts fire it."""
        return frozenset((self.kind,))

    def next_micros(self, after: int) -> int | None:
        """Return ``None``: starts are no slots."""
        return None


class Union(Timetable):
    """Several schedules as one: a slot wherever any of them has one."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Timetable, ...], timezone: str) -> None:
        """Keep the *parts*; the text is theirs, joined."""
        self.text = "; ".join(part.text for part in parts)
        self.timezone, self.parts = timezone, parts

    @property
    def on_start(self) -> frozenset[str]:
        """Return which starts fire any of the parts."""
        return frozenset().union(*(part.on_start for part in self.parts))

    @property
    def needs_anchor(self) -> bool:
        """Tell whether any part is an interval without ``from``."""
        return any(part.needs_anchor for part in self.parts)

    def with_anchor(self, instant: datetime) -> Union:
        """Return the union with its anchorless intervals counting from *instant* (aware)."""
        if not self.needs_anchor:
            return self
        return Union(tuple(part.with_anchor(instant) for part in self.parts), self.timezone)

    def next_micros(self, after: int) -> int | None:
        """Return the first slot strictly after *after*, both in microseconds since the epoch."""
        coming = (part.next_micros(after) for part in self.parts)
        return min((slot for slot in coming if slot is not None), default=None)
