"""A worker alone, without a supervisor (``--no-supervise``), for debugging.

The launcher execs the worker itself, with the locks; :class:`SoloLink` then plays the supervisor: the
program sees the same messages, made from signals, and what it says goes to the state file, where ``status`` finds it
and, afterwards, how it ended. Nothing restarts it and nobody watches its beat.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import sys

from echosched.daemon import handover, lock, logfiles
from echosched.daemon.children import Children
from echosched.daemon.handover import HANDLED, KEEP_JOBS_SIGNAL
from echosched.daemon.link import Message, WorkerLink
from echosched.daemon.presence import Presence
from echosched.daemon.settings import Settings
from echosched.daemon.wakeup import has_terminal
from echosched.daemon.wire import SOLO_VARIABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_OPS: dict[int, str] = {signal.SIGHUP: "hangup", signal.SIGUSR1: "reopen", signal.SIGUSR2: "upgrade"}


def execute_alone(document: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Become the worker of *document* (same pid), its own master. Raises ``OSError``."""
    argv = document["settings"]["worker_argv"]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    environment = {**os.environ, **document["settings"]["worker_env"]}
    environment[SOLO_VARIABLE] = str(handover.write(document))
    os.execve(argv[0], argv, environment)  # noqa: S606 - an argument vector, no shell


class SoloLink(WorkerLink):
    """A link whose other end is this process: signals become messages, reports become the state file."""

    def __init__(self, document: dict[str, Any]) -> None:
        """Take over the locks that *document* names and begin a daemon's life."""
        self._settings = Settings.from_dict(document["settings"])
        paths = self._settings.paths
        self._journal = logfiles.SupervisorJournal(paths.log, echo=True)
        self._presence = Presence(self._settings, lock.HeldLocks(document["locks"]))
        if document.get("stale_pid") is not None:
            self._journal.emit("cleanup", removed_pid=document["stale_pid"])
        self._owner = os.getpid()
        self._stops = 0
        self._failure: tuple[int, str] | None = None
        self._has_terminal = has_terminal()
        ours, self._feeder = socket.socketpair()
        self._feed(
            "hello",
            children=Children(self._presence.children).as_list(),
            standby=False,
            restarts=0,
            beat=paths.beat,
            out=None,
            mode="foreground",
        )
        super().__init__(ours, self._owner)
        for number in HANDLED - {signal.SIGCHLD}:  # the children are the worker's, whose watchers reap them
            signal.signal(number, self._on_signal)
        atexit.register(self._end)

    @classmethod
    def adopt(cls, text: str) -> SoloLink:
        """Return the link of the hand-over on the descriptor that *text* names."""
        return cls(handover.read(int(text)))

    def receive(self) -> list[Message]:
        """Return what signals have asked for; what a supervisor would do about it is done here."""
        messages = []
        for message in super().receive():
            if message.op == "upgrade":
                self._presence.not_upgraded("it runs without a supervisor (stop it, and start it again)")
                continue
            if message.op == "hangup":
                # From the terminal, if that is gone: nobody asks for a reload then.
                gone = self._has_terminal and not has_terminal()
                message = Message("stop", self._stop("SIGHUP")) if gone else Message("reload")
            if message.op == "stop":
                self._presence.stopping(message.signal)
            messages.append(message)
        return messages

    def ready(self, status: str = "") -> None:
        """Note in the state file that the daemon is ready."""
        self._presence.ready()

    def failed(self, exit_code: int, message: str) -> None:
        """Say at the terminal why the worker cannot start, or go on."""
        self._failure = exit_code, message.partition("\n")[0]
        sys.stderr.write(f"{self._settings.program}: {message}\n")

    def _send(self, line: bytes) -> None:
        """Say nothing: there is no supervisor to hear of children and reloads."""

    def _feed(self, op: str, **fields: Any) -> None:
        self._feeder.send(json.dumps({"op": op, **fields}).encode() + b"\n")

    def _stop(self, reason: str | None, *, keep_jobs: bool = False) -> dict[str, Any]:
        self._stops += 1
        immediate = self._stops > 1
        grace = 0.0 if immediate else self._settings.grace
        return {"signal": reason, "immediate": immediate, "keep_jobs": keep_jobs, "grace": grace}

    def _on_signal(self, number: int, _frame: object) -> None:
        # Only feeds: what there is to do about it is done where the loop receives it.
        op = _OPS.get(number)
        if op is None:
            name = signal.Signals(number).name
            self._feed("stop", **self._stop(name, keep_jobs=number == KEEP_JOBS_SIGNAL))
        else:
            self._feed(op)

    def _end(self) -> None:
        if os.getpid() != self._owner:  # a forked child on its way out
            return
        if self._failure is None:
            self._presence.end("clean", 0)
        else:
            self._presence.end("failed" if self._presence.is_ready else "failed to start", *self._failure)
        self._journal.emit("cleanup", removed_pid=self._owner)
