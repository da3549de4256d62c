"""When to start a worker again after one was lost. Pure: instants in (any steady clock), decision out."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from echosched.daemon.settings import Settings


class Backoff:
    """Remembers the losses within the window: the more, the longer the pause; too many, and it is over."""

    __slots__ = ("losses",)

    def __init__(self, losses: list[float] | None = None) -> None:
        #: Seconds on the monotonic clock, oldest first; JSON-able, for the hand-over at an upgrade.
        self.losses = losses or []

    def lost(self, now: float, settings: Settings) -> float | None:
        """Return how many seconds to wait before the next worker, ``None`` to give up.

        1 s, then doubling up to 60 s; more than *max_restarts* losses within *restart_window*: give up.
        """
        self.losses = [at for at in self.losses if now - at < settings.restart_window] + [now]
        if len(self.losses) > settings.max_restarts:
            return None
        # The exponent is bounded by max_restarts, which an operator may set to anything.
        doublings = min(len(self.losses) - 1, 30)
        return min(settings.backoff_max, settings.backoff_first * 2.0**doublings)
