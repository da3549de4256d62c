"""The supervisor: one small process that keeps a worker going and knows how everything ended.

One loop waits for signals (queued by handlers, a pipe interrupts the wait), for what workers say, and
for the next deadline. A worker's life, as the supervisor sees it::

    start ──► warming ──ready──► serving ──died or hung──► back-off ──► start …
                 │                  │ TERM/INT                 └─ too often: give up, exit 1
                 └─ before the      └──► stopping ──► what is left of its children ──► exit 0
                    very first READY: a start failure, exit with the worker's own code

Once running, an error here never ends it: it is written to stderr and the loop goes round again.
"""

from __future__ import annotations

import os
import signal
import time

from echosched.daemon import children as children_
from echosched.daemon import handover, logfiles, proc, readiness, worker
from echosched.daemon.backoff import Backoff
from echosched.daemon.beat import Beat, interval_for
from echosched.daemon.handover import KEEP_JOBS_SIGNAL
from echosched.daemon.housekeeping import Housekeeping
from echosched.daemon.lock import HeldLocks
from echosched.daemon.losses import Losses
from echosched.daemon.record import Record
from echosched.daemon.sdnotify import Notifier
from echosched.daemon.settings import Settings
from echosched.daemon.shutdown import Shutdown
from echosched.daemon.upgrade import Upgrade
from echosched.daemon.wakeup import Wakeup, has_terminal
from echosched.daemon.watchdog import Watchdog
from echosched.daemon.wire import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CROWD_SECONDS = 0.005


class Supervisor:
    """One daemon's supervisor; :meth:`run` is its whole life."""

    def __init__(self, document: dict[str, Any]) -> None:
        """Take over what the launcher (or the supervisor before the upgrade) hands on."""
        self.settings = Settings.from_dict(document["settings"])
        self.locks = HeldLocks(document["locks"])
        self.ready_fd: int | None = document.get("ready_fd")
        if self.ready_fd is not None:
            os.set_inheritable(self.ready_fd, False)
        paths = self.settings.paths
        self.journal = logfiles.SupervisorJournal(paths.log, echo=self.settings.foreground)
        self.notifier = Notifier()
        self.exit_code: int | None = None
        self.ever_ready = False
        self.current: worker.Worker | None = None
        self.upgrade: Upgrade | None = None
        self.upgraded = False  # gone over to a new worker that has not yet said that it serves
        self.children = children_.Children()
        self.restart_at: float | None = None
        self.shutdown: Shutdown | None = None
        self._has_terminal = self.settings.foreground and has_terminal()
        self._heard_at = 0.0  # of a child, last
        self._housekeeping = Housekeeping(self)
        self._watchdog = Watchdog(self)
        self.losses = Losses(self, self._watchdog, readiness.size_of(paths.out))
        if document.get("resume"):
            self._resume(document["resume"])
        else:
            self.record, left = Record.begin(self.settings)
            self.children = children_.Children(left)
            if document.get("stale_pid") is not None:
                self.journal.emit("cleanup", removed_pid=document["stale_pid"])
        self.beat = Beat(paths.beat)
        self.wakeup = Wakeup()

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    def run(self) -> int:
        """Supervise until told to stop (or giving up); return the exit code."""
        if self.current is None:
            self.journal.emit("supervisor_start", pid=os.getpid())
            self.save_state()
            self.start_worker()
        failures = 0
        while self.exit_code is None:
            try:
                self._turn()
                failures = 0
            except Exception:  # noqa: BLE001 - the boundary that keeps the daemon alive
                import traceback

                logfiles.complain(traceback.format_exc())
                failures += 1
                time.sleep(min(5.0, 0.1 * failures))  # an error that stays must not burn the CPU
        return self.exit_code

    def _turn(self) -> None:
        now = time.monotonic()
        self._timers(now)
        if self.exit_code is None:
            self.wakeup.wait(max(0.0, self._next_deadline() - time.monotonic()), self.workers())
        if self._listen():
            # Many children at once: the news lies safely in the socket, and in a burst each wake-up of ours
            # would take from the starts what it costs.
            before, self._heard_at = self._heard_at, time.monotonic()
            if self._heard_at - before < CROWD_SECONDS:
                time.sleep(CROWD_SECONDS)
                self._listen()
        while (number := self.wakeup.take()) is not None:
            self._signal(number)
        self.reap()
        if self.shutdown is not None and self.exit_code is None:
            self.shutdown.turn()

    def workers(self) -> list[worker.Worker]:
        """Return the worker and, during an upgrade, its standby."""
        standby = self.upgrade.standby if self.upgrade is not None else None
        return [each for each in (self.current, standby) if each is not None]

    def _next_deadline(self) -> float:
        deadlines = [self._housekeeping.due_at]
        if self.restart_at is not None:
            deadlines.append(self.restart_at)
        if self.shutdown is not None:
            deadlines.append(self.shutdown.deadline)
        elif self.current is not None:
            deadlines.append(self._watchdog.overdue_at(self.current))
        if self.upgrade is not None:
            deadlines.append(self.upgrade.deadline)
        return min(deadlines)

    def _timers(self, now: float) -> None:
        if self.restart_at is not None and now >= self.restart_at:
            self.restart_at = None
            self.start_worker()
        if self.shutdown is not None:
            if now >= self.shutdown.deadline:
                self.shutdown.overdue()
        elif self.current is not None and now >= self._watchdog.overdue_at(self.current):
            self._watchdog.strike(self.current)
        if self.upgrade is not None and now >= self.upgrade.deadline:
            self.upgrade.overdue()
        if now >= self._housekeeping.due_at:
            self._housekeeping.do(now)

    # ── workers ───────────────────────────────────────────────────────────────────────────────

    def start_worker(self) -> None:
        """Start the worker; what prevents that counts as a worker that died at once."""
        self.losses.out_start = readiness.size_of(self.settings.paths.out)
        try:
            self.current = worker.start(self.settings, time.monotonic())
        except OSError as error:
            why = f"cannot be started: {error.filename or self.settings.worker_argv[0]}: {error.strerror}"
            self.losses.lost(why, 1, failure={"message": f"the worker {why}"})
            return
        self.beat.reset(self.current.pid, interval_for(self.settings.watchdog))
        self.hello(self.current)

    def hello(self, who: worker.Worker) -> None:
        """Send a worker its first message."""
        paths = self.settings.paths
        who.send(
            "hello",
            children=[] if who.standby else self.children.as_list(),
            standby=who.standby,
            restarts=self.record.restarts,
            beat=paths.beat,
            out=paths.out,
            mode=self.settings.mode,
        )

    def _listen(self) -> bool:
        """Follow what the workers say; tell whether any of it was about a child."""
        about_child = False
        for each in self.workers():
            each.flush()
            for message in each.read():
                self._message(each, message)
                about_child = about_child or message["op"] in ("child", "ack")
        return about_child

    def _message(self, sender: worker.Worker, message: dict[str, Any]) -> None:
        op = message["op"]
        if op == "child":
            self.children.report(message["tag"], message["pid"], message["ticks"])
        elif op == "ack":
            self.children.acknowledge(message["pid"], message["ticks"])
        elif op == "failed":
            sender.failure = message
        elif op == "ready":
            sender.ready = True
            if self.upgrade is not None and sender is self.upgrade.standby:
                self.upgrade.standby_ready()
            elif sender is self.current:
                self._worker_ready(message.get("status", ""))
        elif op == "status":
            self.notifier.status(message["text"])
        elif op == "reloading":
            self.notifier.reloading()
        elif op == "reloaded":
            self.settings.update(message.get("settings") or {})
            self.notifier.ready()

    def _worker_ready(self, status: str) -> None:
        if self.upgraded:
            self.record_upgrade(None)
        if self.shutdown is not None:
            return
        self.save_state()
        self.notifier.ready(status)
        if not self.ever_ready:
            self.ever_ready = True
            self.record.ready()
            self.save_state()
            if self.ready_fd is not None:
                readiness.tell_ready(self.ready_fd, os.getpid())
                self.ready_fd = None

    def reap(self) -> None:
        """Note how every child that has ended did so, and only then let it go."""
        while (found := children_.find_zombie()) is not None:
            pid, ticks, status = found
            mine = next((each for each in self.workers() if each.pid == pid), None)
            if mine is not None or not self.children.knows(pid):
                # What the dead worker said last is still in its socket: its failure, and perhaps this
                # very child, which can only have come to us after its report.
                self._listen()
            if mine is not None:
                children_.reap(pid)
                self._worker_exited(mine, status)
            elif self.upgrade is not None and pid == self.upgrade.check_pid:
                children_.reap(pid)
                self.upgrade.checked(status)
            else:
                child = self.children.ended(pid, ticks, status)
                children_.reap(pid)
                if child is not None and self.current is not None:
                    self.current.send(
                        "child_exit", tag=child.tag, pid=pid, ticks=child.start_ticks, status=status
                    )

    def _worker_exited(self, who: worker.Worker, status: int) -> None:
        who.close()
        self.journal.emit(
            "worker_exit",
            pid=who.pid,
            exit_code=status if status >= 0 else None,
            signal=proc.signal_name(-status) if status < 0 else None,
        )
        if self.upgrade is not None and who is self.upgrade.standby:
            self.upgrade.standby_exited(who.why(status))
            return
        self.current = None
        self.beat.reset(0, interval_for(self.settings.watchdog))
        if self.upgrade is not None and self.upgrade.worker_exited():
            return
        self.losses.lost(who.why(status), who.exit_code(status), failure=who.failure)

    # ── signals ───────────────────────────────────────────────────────────────────────────────

    def _signal(self, number: int) -> None:
        name = proc.signal_name(number)
        if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            self.stop(name)
        elif number == KEEP_JOBS_SIGNAL:
            self.stop(name, keep_jobs=True)
        elif number == signal.SIGHUP and self._has_terminal and not has_terminal():
            self.stop(name)  # from the terminal, which is gone; nobody asks for a reload
        elif number == signal.SIGHUP:
            if self.current is not None:
                self.current.send("reload")
        elif number == signal.SIGUSR1:
            self.reopen()
        elif number == signal.SIGUSR2 and self.shutdown is None:
            self._begin_upgrade()

    def reopen(self) -> None:
        """Open the logs anew, by name, here and in the workers."""
        out = self.settings.paths.out
        if out is not None and not self.settings.foreground:
            try:
                logfiles.reopen_output(out)
            except OSError as error:
                logfiles.complain(f"{out}: {error.strerror}")
        for each in self.workers():
            each.send("reopen")

    def _begin_upgrade(self) -> None:
        if self.upgrade is None and self.ever_ready:
            self.upgrade = Upgrade(self)
            self.upgrade.begin()

    # ── stopping ──────────────────────────────────────────────────────────────────────────────

    def stop(self, reason: str | None, *, keep_jobs: bool = False) -> None:
        """Stop the daemon; asked a second time, at once."""
        if self.upgrade is not None:
            self.upgrade.abandon("the daemon is stopping")
        self.restart_at = None
        if self.shutdown is not None:
            self.shutdown.begin(immediate=True)
            return
        self.shutdown = Shutdown(self, reason, keep_jobs=keep_jobs)
        self.journal.emit("shutdown", signal=reason, pid=os.getpid())
        self.notifier.stopping()
        self.record.stopping(reason)
        self.save_state()
        self.shutdown.begin()

    def tell_failure(self, exit_code: int, message: str) -> None:
        """Tell the waiting launcher, if there is one, that there will be no daemon."""
        if self.ready_fd is not None:
            readiness.tell_failure(self.ready_fd, exit_code, message)
            self.ready_fd = None

    def end(self, how: str, exit_code: int, detail: str | None) -> None:
        """Write down how it ended and remove the pidfile, under the lock; the loop then returns."""
        for each in self.workers():
            each.kill(signal.SIGKILL)
        # With the exit codes nobody has written down yet: the next daemon on this boot passes them on.
        self.record.ended(how, exit_code, detail, self.children.as_list())
        self.save_state()
        if not self.beat.has_bad_times:
            # Else the next worker must learn of slots that this one ran and could not write down.
            _unlink(self.settings.paths.beat)
        self.locks.remove()
        self.journal.emit("cleanup", removed_pid=os.getpid())
        self.exit_code = exit_code

    # ── what the state file says ──────────────────────────────────────────────────────────────

    def _resume(self, resume: dict[str, Any]) -> None:
        """Take over from the supervisor that exec'ed this one at an upgrade."""
        self.ever_ready = True
        self.current = worker.Worker.from_dict(resume["worker"])
        self.children = children_.Children([Child(*each) for each in resume["children"]])
        self.losses.backoff = Backoff(resume["losses"])
        self.upgraded = resume["upgraded"]
        self.record = Record.resume(self.settings, resume["state"])

    def record_upgrade(self, failure: str | None) -> None:
        """Note how an upgrade went; whoever asked for it looks here."""
        self.upgraded = False
        self.record.upgraded(failure)
        self.save_state()

    def resume_document(self) -> dict[str, Any]:
        """Return the hand-over for the supervisor that takes this one's place."""
        assert self.current is not None  # noqa: S101 - an upgrade ends with a worker
        return {
            "settings": self.settings.as_dict(),
            "locks": self.locks.as_list(),
            "resume": {
                "worker": self.current.as_dict(),
                "children": self.children.as_list(),
                "losses": self.losses.backoff.losses,
                "upgraded": self.upgraded,
                "state": self.record.document,
            },
        }

    def save_state(self) -> None:
        """Write the state file; a full disk is a complaint, not an end."""
        try:
            self.record.save(self.current.pid if self.current is not None else None, self.beat.look())
        except OSError as error:
            self._housekeeping.complain_once(f"{self.settings.paths.state}: {error.strerror}")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def main(arguments: list[str]) -> int:
    """Run the supervisor whose hand-over is on the descriptor that the first argument names.

    ``--check`` imports everything and ends: whether this version could take over at an upgrade.
    """
    if arguments == ["--check"]:
        return 0
    document = handover.read(int(arguments[0]))
    try:
        return Supervisor(document).run()
    except OSError as error:
        # Before the loop, which lets nothing through: a file that could not be opened.
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        logfiles.complain(message)
        if document.get("ready_fd") is not None:
            readiness.tell_failure(document["ready_fd"], 1, message)
        return 1
