"""The watchdog: how long a worker may be silent, and what becomes of one that is silent for longer."""

from __future__ import annotations

import signal
import time

from echosched.daemon import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from echosched.daemon.supervisor import Supervisor
    from echosched.daemon.worker import Worker


class Watchdog:
    """Watches the worker of *supervisor*; *killing* says why it is killing it, until somebody has asked."""

    __slots__ = ("_supervisor", "killing")

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.killing: str | None = None

    def overdue_at(self, who: Worker) -> float:
        """Return when (monotonic) the silence of *who* becomes too long: a hang, or a warm-up without end."""
        settings = self._supervisor.settings
        if self.killing is not None:
            return float("inf")  # struck already
        pulse = self._supervisor.beat.look()
        if pulse.beats and pulse.worker_pid == who.pid:
            if not settings.watchdog:
                return float("inf")
            # We may have slept ourselves, with the whole container: then its silence proves nothing.
            return max(pulse.monotonic_ns / 1e9, self._supervisor.wakeup.back_at) + settings.watchdog
        return who.started + max(settings.start_limit, settings.watchdog)

    def strike(self, who: Worker) -> None:
        """Make *who* write its stacks, then kill it."""
        age = self._supervisor.beat.look().age_seconds
        self._supervisor.journal.emit("watchdog", pid=who.pid, age_seconds=round(age, 3))
        self.killing = f"no beat for {age:.0f} s"
        # ABRT makes faulthandler write all stacks; a stopped process acts on it only once continued.
        who.kill(signal.SIGABRT)
        who.kill(signal.SIGCONT)
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline and proc.is_alive(who.pid):
            time.sleep(0.01)
        who.kill(signal.SIGKILL)

    def take_reason(self) -> str | None:
        """Return why the worker that has just ended was killed, ``None`` if it ended by itself; once."""
        killing, self.killing = self.killing, None
        return killing
