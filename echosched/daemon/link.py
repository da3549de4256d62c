"""The worker's end of the line to its supervisor.

A Unix stream socket on descriptor 3, one JSON object a line each way. What the worker says goes out at once, or
is sent along by the thread that is just sending: spawner threads that report their children wait neither for each
other nor for a supervisor that is stopped or slow (what does not fit waits here and goes first next time).
The vocabulary is in :mod:`echosched.daemon.wire`; end of file means that the supervisor is gone.

Two things make a worker leave with its supervisor: end of file, noticed by a loop that goes round, and
PDEATHSIG, for one that does not. The jobs stay either way.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections import deque
from json.encoder import encode_basestring_ascii as _quoted

from echosched.daemon.wire import CHANNEL_VARIABLE, SOLO_VARIABLE, Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Child", "Message", "WorkerLink", "die_with_parent"]

HELLO_SECONDS = 30.0
_MOST_LINES = 256  # that go out in one send


class Message:
    """What the supervisor wants. *op* decides which of the other fields mean anything.

    ``stop``: *signal* (name or ``None``), *immediate*, *keep_jobs*, *grace* seconds · ``reload`` ·
    ``reopen`` · ``child_exit``: *child* · ``go``: the standby becomes the worker, with the *children* it
    takes over · ``retire``: stop claiming, commit, leave; jobs stay · ``eof``: leave at once.
    """

    __slots__ = ("child", "children", "grace", "immediate", "keep_jobs", "op", "signal")

    def __init__(self, op: str, document: dict[str, Any] | None = None) -> None:
        document = document or {}
        self.op = op
        self.signal: str | None = document.get("signal")
        self.immediate: bool = document.get("immediate", False)
        self.keep_jobs: bool = document.get("keep_jobs", False)
        self.grace: float = document.get("grace", 0.0)
        self.children = [Child(*entry) for entry in document.get("children", ())]
        self.child: Child | None = None
        if op == "child_exit":
            self.child = Child(document["tag"], document["pid"], document["ticks"], document["status"])

    def __repr__(self) -> str:
        return f"Message({self.op!r})"


class WorkerLink:
    """The worker's line to the supervisor. Reports are thread-safe; :meth:`receive` belongs to the loop."""

    def __init__(self, channel: socket.socket, supervisor_pid: int) -> None:
        """Wait for the supervisor's first message (its children, whether this is a standby)."""
        self._channel = channel
        self._lock = threading.Lock()
        self._unsent: deque[bytes] = deque()
        self._received = b""
        self._ended = False
        self.supervisor_pid = supervisor_pid
        channel.settimeout(HELLO_SECONDS)
        hello = self._wait_for_hello()
        channel.setblocking(False)
        self.children = [Child(*entry) for entry in hello["children"]]
        self.standby: bool = hello["standby"]
        self.restarts: int = hello["restarts"]
        self.beat_path: str = hello["beat"]
        self.out_path: str | None = hello["out"]
        self.mode: str = hello["mode"]

    @staticmethod
    def from_environment() -> WorkerLink | None:
        """Return the link of a process that a supervisor started, ``None`` in any other process.

        Arms PDEATHSIG and removes the variable, so that no job inherits it. Leaves at once, by
        ``os._exit``, when the supervisor died before the line was up.
        """
        if SOLO_VARIABLE in os.environ:
            from echosched.daemon.solo import SoloLink

            return SoloLink.adopt(os.environ.pop(SOLO_VARIABLE))
        text = os.environ.pop(CHANNEL_VARIABLE, None)
        if text is None:
            return None
        descriptor, supervisor_pid = (int(part) for part in text.split(":"))
        os.set_inheritable(descriptor, False)
        die_with_parent(supervisor_pid)
        try:
            return WorkerLink(socket.socket(fileno=descriptor), supervisor_pid)
        except (OSError, EOFError):
            os._exit(0)

    def fileno(self) -> int:
        """Return the descriptor to watch for reading (``loop.add_reader``)."""
        return self._channel.fileno()

    # ── what the supervisor says ──────────────────────────────────────────────────────────────

    def receive(self) -> list[Message]:
        """Return what has arrived; never blocks. The last one ever is ``eof``."""
        if self._ended:
            return []
        self._flush()
        messages: list[Message] = []
        while True:
            try:
                data = self._channel.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._ended = True
                break
            self._received += data
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            document = json.loads(line)
            message = Message(document["op"], document)
            if message.op == "go":
                self.standby = False
                self.children = message.children
            messages.append(message)
        if self._ended:
            messages.append(Message("eof"))
        return messages

    # ── what the worker says ──────────────────────────────────────────────────────────────────

    def ready(self, status: str = "") -> None:
        """Say that this worker is able to serve (a standby: able to take over)."""
        self._say({"op": "ready", "status": status})

    def failed(self, exit_code: int, message: str) -> None:
        """Say why this worker cannot start; before the first READY it reaches the terminal verbatim."""
        self._say({"op": "failed", "exit_code": exit_code, "message": message})

    def status(self, text: str) -> None:
        """Show *text* where the service manager shows it."""
        self._say({"op": "status", "text": text})

    def reloading(self) -> None:
        """Say that a reload began."""
        self._say({"op": "reloading"})

    def reloaded(self, settings: dict[str, Any] | None = None) -> None:
        """Say that a reload is over; *settings*: new values of what the supervisor may change at run time."""
        self._say({"op": "reloaded", "settings": settings or {}})

    def report_child(self, tag: str, pid: int, start_ticks: int) -> None:
        """Say that a child was started; call it right after each spawn, from any thread."""
        # By hand: this runs once per job, and json.dumps would cost more than the send.
        self._send(f'{{"op":"child","tag":{_quoted(tag)},"pid":{pid},"ticks":{start_ticks}}}\n'.encode())

    def acknowledge(self, *ended: tuple[int, int]) -> None:
        """Say that the ends of these children (pid, start ticks) are recorded for good: they may be forgotten."""
        self._send(b"".join(b'{"op":"ack","pid":%d,"ticks":%d}\n' % child for child in ended))

    def close(self) -> None:
        """Let go of the line."""
        self._ended = True
        self._channel.close()

    def reopen_output(self) -> None:
        """Point stdout and stderr at ``.out`` anew after ``reopen`` (nothing to do in the foreground)."""
        if self.out_path is not None and self.mode != "foreground":
            from echosched.daemon.logfiles import reopen_output

            reopen_output(self.out_path)

    # ── inside ────────────────────────────────────────────────────────────────────────────────

    def _wait_for_hello(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            data = self._channel.recv(65536)
            if not data:
                raise EOFError
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        document: dict[str, Any] = json.loads(line)
        return document

    def _say(self, document: dict[str, Any]) -> None:
        self._send(json.dumps(document).encode() + b"\n")

    def _send(self, line: bytes) -> None:
        self._unsent.append(line)
        self._flush()

    def _flush(self) -> None:
        # Nobody waits for the lock: whoever holds it sends what the others have put there meanwhile, in one
        # go. In a burst the spawners would otherwise queue here for longer than their spawns take.
        blocked = False
        while self._unsent and not blocked and self._lock.acquire(blocking=False):
            try:
                blocked = not self._flush_locked()
            finally:
                self._lock.release()

    def _flush_locked(self) -> bool:
        """Send what waits; tell whether the line took all of it."""
        while self._unsent:
            lines = [self._unsent.popleft() for _ in range(min(len(self._unsent), _MOST_LINES))]
            data = lines[0] if len(lines) == 1 else b"".join(lines)
            try:
                sent = self._channel.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:  # the supervisor is gone, and this worker is about to be
                self._unsent.clear()
                return True
            if sent < len(data):
                self._unsent.appendleft(data[sent:])
                return False
        return True


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies (Linux); leave now if that has happened.

    Must be called again after a change of credentials, which clears it.
    """
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    except (ImportError, OSError, AttributeError):
        return
    if os.getppid() != parent_pid:
        # It died between our start and the prctl. In another pid namespace the number would differ:
        # a worker is never started into one.
        os._exit(0)
