"""What the supervisor does twice a minute: write down, rotate, look after its files, keep systemd's watchdog fed."""

from __future__ import annotations

from echosched.daemon import logfiles
from echosched.daemon.beat import interval_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from echosched.daemon.supervisor import Supervisor

HOUSEKEEPING_SECONDS = 25.0
STATE_SECONDS = 60.0


class Housekeeping:
    """The recurring duties of *supervisor*; *due_at* (monotonic) is when they come next."""

    __slots__ = ("_complaints", "_state_at", "_supervisor", "due_at")

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.due_at = 0.0
        self._state_at = 0.0
        self._complaints: set[str] = set()

    def do(self, now: float) -> None:
        """Do what is due at *now* (monotonic) and say when to come back."""
        supervisor = self._supervisor
        settings, notifier = supervisor.settings, supervisor.notifier
        period = HOUSEKEEPING_SECONDS
        if settings.watchdog:
            # Before the worker could be overdue, which each round puts off: one wake-up does for both.
            period = min(period, settings.watchdog - interval_for(settings.watchdog))
        if notifier.watchdog_seconds:
            period = min(period, notifier.watchdog_seconds / 3)
            if not supervisor.beat.look().stalled:
                notifier.watchdog()
        self.due_at = now + period
        supervisor.beat.keep()
        supervisor.locks.keep(self.complain_once)
        if now >= self._state_at and supervisor.ever_ready:
            self._state_at = now + STATE_SECONDS
            supervisor.save_state()
        outs = () if settings.foreground else (settings.paths.out,)
        if logfiles.rotate_oversized(
            (settings.paths.log, *outs), settings.log_max_size, settings.log_keep, self.complain_once
        ):
            supervisor.reopen()

    def complain_once(self, text: str) -> None:
        """Write a line unless it has been written before: what stays wrong must not fill the disk."""
        if text not in self._complaints:
            self._complaints.add(text)
            logfiles.complain(text)
