"""The upgrade (USR2): a new version takes over without losing a job, a lock or a pid.

::

    check ──► warm up ──► retire ──► go ──► exec
    new code   a standby   the old    the    this very process becomes the new supervisor:
    imports?   worker is   worker     new    same pid, children, locks, subreaper flag
               ready?      leaves     one

Whatever fails before *retire* changes nothing: the old supervisor and the old worker go on.
"""

from __future__ import annotations

import os
import signal
import time

from echosched.daemon import handover, logfiles, worker
from echosched.daemon.beat import interval_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from echosched.daemon.supervisor import Supervisor

CHECK_SECONDS = 20.0
RETIRE_SECONDS = 10.0


class Upgrade:
    """One attempt at an upgrade of *supervisor*."""

    __slots__ = ("check_pid", "deadline", "phase", "standby", "supervisor")

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.phase = "check"
        self.check_pid: int | None = None
        self.standby: worker.Worker | None = None
        self.deadline = time.monotonic() + CHECK_SECONDS

    def begin(self) -> None:
        """See whether the new supervisor's code can be run at all."""
        argv = handover.command("--check")
        try:
            self.check_pid = os.posix_spawn(
                argv[0], argv, os.environ, setsigmask=[], setsigdef=handover.HANDLED
            )
        except OSError as error:
            self.abandon(f"{argv[0]}: {error.strerror}")

    def checked(self, status: int) -> None:
        """Go on with the standby, if the new code was able to start."""
        self.check_pid = None
        if status != 0:
            self.abandon(f"the new supervisor cannot start (status {status}; see .out)")
            return
        supervisor = self.supervisor
        try:
            self.standby = worker.start(supervisor.settings, time.monotonic(), standby=True)
        except OSError as error:
            self.abandon(f"{error.filename}: {error.strerror}")
            return
        self.phase = "warm up"
        self.deadline = time.monotonic() + supervisor.settings.start_limit
        supervisor.hello(self.standby)

    def standby_ready(self) -> None:
        """Ask the old worker to leave; the new one is warm."""
        if self.phase != "warm up":
            return
        self.phase = "retire"
        self.deadline = time.monotonic() + RETIRE_SECONDS
        if self.supervisor.current is not None:
            self.supervisor.current.send("retire")
        else:  # it died while the standby warmed up
            self._go()

    def standby_exited(self, why: str) -> None:
        """Note that the new version could not warm up (or died at the last moment)."""
        self.standby = None
        self.abandon(f"the new worker {why}")

    def worker_exited(self) -> bool:
        """Take over from the old worker, if the standby is ready or still may be; tell whether it is dealt with."""
        if self.phase == "retire":
            self._go()
        return self.standby is not None or self.supervisor.upgrade is None

    def overdue(self) -> None:
        """Act on a step that takes too long."""
        if self.phase == "retire" and self.supervisor.current is not None:
            self.supervisor.current.kill(signal.SIGKILL)
            self.deadline = time.monotonic() + RETIRE_SECONDS
        elif self.standby is not None:
            self.abandon("the new worker was not ready in time")
        else:
            self.abandon("the new supervisor's check did not end")

    def abandon(self, why: str) -> None:
        """Give the upgrade up: everything stays as it was."""
        supervisor = self.supervisor
        supervisor.upgrade = None
        for pid in (self.check_pid, self.standby.pid if self.standby is not None else None):
            if pid is not None:
                os.kill(pid, signal.SIGKILL)  # our child, not reaped yet: reaped as an unknown orphan
        if self.standby is not None:
            self.standby.close()
        logfiles.complain(f"upgrade failed, nothing changed: {why}")
        supervisor.record_upgrade(why)
        if supervisor.current is None and supervisor.shutdown is None and supervisor.restart_at is None:
            supervisor.restart_at = time.monotonic()

    def _go(self) -> None:
        supervisor = self.supervisor
        fresh, self.standby = self.standby, None
        assert fresh is not None  # noqa: S101 - the phase says so
        fresh.standby = False
        supervisor.current = fresh
        supervisor.upgrade = None
        supervisor.beat.reset(fresh.pid, interval_for(supervisor.settings.watchdog))
        fresh.started = time.monotonic()
        fresh.send("go", children=supervisor.children.as_list())
        supervisor.upgraded = True  # noted once the new worker says that it serves
        self._exec()

    def _exec(self) -> None:
        """Become the new supervisor; should even that fail, the old one goes on with the new worker."""
        supervisor = self.supervisor
        descriptors = supervisor.locks.descriptors()
        if supervisor.current is not None and supervisor.current.channel is not None:
            descriptors.append(supervisor.current.channel.fileno())
        try:
            handover.execute(supervisor.resume_document(), descriptors)
        except OSError as error:
            logfiles.complain(f"upgrade: the supervisor stays as it is: {error}")
