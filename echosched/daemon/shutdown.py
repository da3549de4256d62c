"""Stopping: the worker ends its jobs; what it leaves undone, the supervisor does.

::

    TERM ──► worker ──left──► children alive? ──no──► done
               │ too late: KILL    │ it had its chance: KILL
    no worker at all ──► patience (grace) ──► term (kill_after) ──► KILL ──► done

A second TERM goes to the end of the present line at once. With *keep_jobs* children are left alone.
"""

from __future__ import annotations

import signal
import time

from echosched.daemon import children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from echosched.daemon.supervisor import Supervisor

MARGIN_SECONDS = 4.0
KILL_SECONDS = 5.0


class Shutdown:
    """The stop of *supervisor*, asked for by *reason* (a signal's name, or ``None``)."""

    __slots__ = ("deadline", "keep_jobs", "phase", "reason", "supervisor")

    def __init__(self, supervisor: Supervisor, reason: str | None, *, keep_jobs: bool) -> None:
        self.supervisor = supervisor
        self.reason = reason
        self.keep_jobs = keep_jobs
        self.phase = "worker"
        self.deadline = 0.0

    def begin(self, *, immediate: bool = False) -> None:
        """Tell the worker to stop; without one, begin with its children."""
        supervisor = self.supervisor
        patience = 0.0 if immediate else supervisor.settings.grace
        self.deadline = time.monotonic() + patience + supervisor.settings.kill_after + MARGIN_SECONDS
        if supervisor.current is not None:
            supervisor.current.send(
                "stop", signal=self.reason, immediate=immediate, keep_jobs=self.keep_jobs, grace=patience
            )
        elif self.keep_jobs or not self._living():
            self._done()
        elif immediate:
            self._kill()
        else:
            self.phase = "patience"
            self.deadline = time.monotonic() + supervisor.settings.grace

    def worker_left(self) -> None:
        """Go on when the worker has ended: it had its chance, so what still runs is killed."""
        if self.keep_jobs or not self._living():
            self._done()
        else:
            self._kill()

    def turn(self) -> None:
        """Finish as soon as the last child has ended by itself."""
        if self.phase != "worker" and not self._living():
            self._done()

    def overdue(self) -> None:
        """Take the next, harder step."""
        supervisor = self.supervisor
        if supervisor.current is not None:
            supervisor.current.kill(signal.SIGKILL)
            self.deadline = time.monotonic() + KILL_SECONDS
        elif self.phase == "patience":
            children.kill_tree(supervisor.children.living(), supervisor.settings.child_mark, signal.SIGTERM)
            self.phase = "term"
            self.deadline = time.monotonic() + supervisor.settings.kill_after
        else:
            self._kill()

    def _living(self) -> bool:
        return bool(self.supervisor.children.living())

    def _kill(self) -> None:
        supervisor = self.supervisor
        deadline = time.monotonic() + KILL_SECONDS
        # Each kill may orphan more of the tree, which then comes to us: until a scan finds nothing.
        while (
            children.kill_tree(supervisor.children.all(), supervisor.settings.child_mark)
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)
            supervisor.reap()
        self._done()

    def _done(self) -> None:
        self.supervisor.reap()
        if not self.supervisor.ever_ready:
            self.supervisor.tell_failure(1, f"stopped by {self.reason} before it was ready")
        self.supervisor.end("clean", 0, None)
