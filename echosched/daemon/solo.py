"""A worker alone, without a supervisor (``--no-supervise``), for debugging.

The launcher execs the worker itself, with the locks; :class:`SoloLink` then plays the supervisor: the
program sees the same messages, made from signals, and what it says goes to the state file. Nothing
restarts it and nobody watches its beat.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import sys

from echosched.daemon import handover, instant, lock, statefile
from echosched.daemon.beat import Beat, interval_for
from echosched.daemon.link import WorkerLink
from echosched.daemon.settings import Settings
from echosched.daemon.wire import SOLO_VARIABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


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
        self._locks: list[tuple[str, int]] = [(path, descriptor) for path, descriptor in document["locks"]]
        for _, descriptor in self._locks:
            os.set_inheritable(descriptor, False)
        self._owner = os.getpid()
        self._stops = 0
        ours, self._feeder = socket.socketpair()
        paths = self._settings.paths
        self._state = statefile.identity()
        earlier = statefile.read(paths.state)
        self._state.update(
            mode=self._settings.mode,
            version=self._settings.version,
            paths=paths.as_dict(),
            started_micros=instant.now_micros(),
            ready_micros=None,
            restarts=0,
            worker_pid=self._owner,
            ended=None,
            previous=statefile.verdict(earlier) if earlier else None,
        )
        statefile.write(paths.state, self._state)
        beat = Beat(paths.beat)
        beat.reset(self._owner, interval_for(self._settings.watchdog))
        beat.close()
        self._feed(
            "hello", children=[], standby=False, restarts=0, beat=paths.beat, out=None, mode="foreground"
        )
        super().__init__(ours, self._owner)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        atexit.register(self._end)

    @classmethod
    def adopt(cls, text: str) -> SoloLink:
        """Return the link of the hand-over on the descriptor that *text* names."""
        return cls(handover.read(int(text)))

    def ready(self, status: str = "") -> None:
        """Note in the state file that the daemon is ready."""
        self._state["ready_micros"] = instant.now_micros()
        statefile.write(self._settings.paths.state, self._state)

    def failed(self, exit_code: int, message: str) -> None:
        """Say at the terminal why the worker cannot start."""
        sys.stderr.write(f"{self._settings.program}: {message}\n")

    def request_stop(self, *, keep_jobs: bool = False, reason: str | None = None) -> None:
        """Feed this very process a stop."""
        self._feed("stop", signal=reason, immediate=False, keep_jobs=keep_jobs, grace=self._settings.grace)

    def _send(self, line: bytes) -> None:
        """Say nothing: there is no supervisor to hear of children and reloads."""

    def _feed(self, op: str, **fields: Any) -> None:
        self._feeder.send(json.dumps({"op": op, **fields}).encode() + b"\n")

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            self._feed("reload")
        elif number == signal.SIGUSR1:
            self._feed("reopen")
        else:
            self._stops += 1
            grace = self._settings.grace if self._stops == 1 else 0.0
            name = signal.Signals(number).name
            self._feed("stop", signal=name, immediate=self._stops > 1, keep_jobs=False, grace=grace)

    def _end(self) -> None:
        if os.getpid() != self._owner:  # a forked child on its way out
            return
        self._state["ended"] = {"how": "clean", "at": instant.now_text(), "exit_code": None, "detail": None}
        statefile.write(self._settings.paths.state, self._state)
        for path, descriptor in reversed(self._locks):
            lock.remove(path, descriptor, self._owner)
