"""The supervisor's view of one worker process: starting it, talking to it, never waiting for it."""

from __future__ import annotations

import errno
import json
import os
import socket

from echosched.daemon.handover import HANDLED
from echosched.daemon.proc import signal_name
from echosched.daemon.wire import CHANNEL_VARIABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from echosched.daemon.settings import Settings

CHANNEL = 3
_CHUNKS = 64  # more than a socket holds: all that a dead worker left, yet no end to a babbling one's share
# Not for the worker and its jobs: the service manager's socket, and what names this very process.
_PRIVATE = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class Worker:
    """A worker: its pid, its channel, and what it has said."""

    __slots__ = ("_incoming", "_outgoing", "channel", "failure", "pid", "ready", "standby", "started")

    def __init__(
        self, pid: int, channel: socket.socket | None, started: float, *, standby: bool = False
    ) -> None:
        self.pid = pid
        self.channel = channel
        self.started = started
        self.standby = standby
        self.ready = False
        self.failure: dict[str, Any] | None = None
        self._incoming = b""
        self._outgoing = bytearray()

    @property
    def wants_to_write(self) -> bool:
        """Tell whether something could not be sent yet."""
        return bool(self._outgoing)

    def send(self, op: str, **fields: Any) -> None:
        """Send a message, or keep it until the worker reads again; a hung worker blocks nobody."""
        self._outgoing += json.dumps({"op": op, **fields}).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what was kept, as much as fits."""
        while self._outgoing and self.channel is not None:
            try:
                sent = self.channel.send(self._outgoing, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                self._outgoing.clear()
                return
            del self._outgoing[:sent]

    def read(self) -> list[dict[str, Any]]:
        """Return the messages that have arrived, also those a dead worker left in the socket."""
        chunks = [self._incoming]
        while self.channel is not None and len(chunks) < _CHUNKS:
            try:
                data = self.channel.recv(262144)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.close()
                break
            chunks.append(data)
        *lines, self._incoming = b"".join(chunks).split(b"\n")
        messages: list[dict[str, Any]] = json.loads(b"[%b]" % b",".join(lines))  # in a burst there are many
        return messages

    def close(self) -> None:
        """Close the channel; the worker sees end of file."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def kill(self, number: int) -> None:
        """Send a signal. The pid is ours until it is reaped, so it cannot be a stranger's."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def why(self, status: int) -> str:
        """Return in words how this worker ended, given its exit status (negative: a signal)."""
        if self.failure is not None:
            first, *more = str(self.failure["message"]).splitlines() or [""]
            rest = f" (and {len(more)} more)" if more else ""
            return f"could not {'go on' if self.ready else 'start'}: {first}{rest}"
        if status < 0:
            return f"was ended by {signal_name(-status)}"
        return f"ended with exit code {status}"

    def exit_code(self, status: int) -> int:
        """Return the exit code of a start that failed because of this worker; never 0."""
        if self.failure is not None:
            return int(self.failure["exit_code"]) or 1
        return status if status > 0 else 1

    def as_dict(self) -> dict[str, Any]:
        """Return what the next supervisor (over ``exec``) must know."""
        return {
            "pid": self.pid,
            "channel": None if self.channel is None else self.channel.fileno(),
            "started": self.started,
            "standby": self.standby,
            "ready": self.ready,
            "incoming": self._incoming.decode(),
            "outgoing": self._outgoing.decode(),
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Worker:
        """Return the worker an earlier supervisor handed on."""
        channel = None
        if document["channel"] is not None:
            os.set_inheritable(document["channel"], False)
            channel = socket.socket(fileno=document["channel"])
            channel.setblocking(False)
        worker = cls(document["pid"], channel, document["started"], standby=document["standby"])
        worker.ready = document["ready"]
        worker._incoming = document["incoming"].encode()
        worker._outgoing += document["outgoing"].encode()
        return worker


def start(settings: Settings, now: float, *, standby: bool = False) -> Worker:
    """Start a worker: a fresh interpreter in a session of its own, with the channel as descriptor 3.

    A session of its own, so that Ctrl-C at a foreground daemon's terminal reaches the supervisor only.
    Raises ``OSError`` when the program cannot be started.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    argv = settings.worker_argv
    environment = {name: value for name, value in os.environ.items() if name not in _PRIVATE}
    environment.update(settings.worker_env)
    environment[CHANNEL_VARIABLE] = f"{CHANNEL}:{os.getpid()}"
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # dup2 onto itself would leave close-on-exec set.
        source = _clear_of(theirs.fileno(), CHANNEL)
        pid = os.posix_spawn(
            argv[0],
            argv,
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, source, CHANNEL)],
            setsid=True,
            setsigmask=[],
            setsigdef=HANDLED,
        )
        if source != theirs.fileno():
            os.close(source)
    except OSError as error:
        ours.close()
        if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
            raise OSError(error.errno, os.strerror(error.errno), argv[0]) from error
        raise
    finally:
        os.close(null)
        theirs.close()
    return Worker(pid, ours, now, standby=standby)


def _clear_of(descriptor: int, number: int) -> int:
    if descriptor != number:
        return descriptor
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, number + 1)
