"""Losing a worker: finish a stop, fail a start, back off and start another, or give up."""

from __future__ import annotations

import os
import time

from echosched.daemon import logfiles, readiness
from echosched.daemon.backoff import Backoff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from echosched.daemon.supervisor import Supervisor
    from echosched.daemon.watchdog import Watchdog


class Losses:
    """The lost workers of *supervisor*. *out_start* is where in ``.out`` the present worker's words begin."""

    __slots__ = ("_supervisor", "_watchdog", "backoff", "out_start")

    def __init__(self, supervisor: Supervisor, watchdog: Watchdog, out_start: int) -> None:
        self._supervisor = supervisor
        self._watchdog = watchdog
        self.backoff = Backoff()
        self.out_start = out_start

    def lost(self, why: str, code: int, *, failure: dict[str, Any] | None = None) -> None:
        """Go on after a worker ended; *code* and *failure* (its last message) count for a start that failed."""
        supervisor, killing = self._supervisor, self._watchdog.take_reason()
        if supervisor.upgraded:
            supervisor.record_upgrade(f"the new worker took over, then {why}")
        if supervisor.shutdown is not None:
            supervisor.shutdown.worker_left()
        elif not supervisor.ever_ready:
            self._start_failed(why if killing is None else f"{killing} while starting", code, failure)
        else:
            self._back_off(killing or why)

    def _back_off(self, why: str) -> None:
        supervisor, now = self._supervisor, time.monotonic()
        delay = self.backoff.lost(now, supervisor.settings)
        if delay is None:
            count, window = len(self.backoff.losses), supervisor.settings.restart_window
            detail = f"{count} workers ended within {window:.0f} s; the last: {why}"
            logfiles.complain("giving up: " + detail)
            supervisor.end("gave up", 1, detail)
            return
        supervisor.restart_at = now + delay
        supervisor.record.restarting(why)
        supervisor.journal.emit("worker_restart", restarts=supervisor.record.restarts, delay_seconds=delay)
        supervisor.notifier.status(f"worker: {why}; starting another in {delay:.0f} s")
        supervisor.save_state()

    def _start_failed(self, why: str, code: int, failure: dict[str, Any] | None) -> None:
        settings = self._supervisor.settings
        if failure is not None:
            message = str(failure["message"])
        else:
            message = f"the worker {why} before it was ready"
            said = "" if settings.foreground else readiness.tail(settings.paths.out, self.out_start)
            message += f":\n{said}" if said else ""
        self._supervisor.tell_failure(code, message)
        if settings.foreground:
            os.write(2, f"{settings.program}: {message}\n".encode())
        else:
            logfiles.complain(message)
        self._supervisor.end("failed to start", code, message.partition("\n")[0])
