"""What the supervisor waits for: signals, channels, the next deadline; in one call that no signal can miss.

Handlers only queue. Python runs them between two system calls, which then go on waiting, so each
signal also writes a byte into a pipe that is part of the wait.
"""

from __future__ import annotations

import os
import select
import signal
import time

from echosched.daemon.handover import HANDLED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from echosched.daemon.worker import Worker

OVERSLEPT_SECONDS = 1.0


class Wakeup:
    """Installs the handlers, holds the queue and waits."""

    __slots__ = ("_pipe", "_poll", "_queue", "back_at")

    def __init__(self) -> None:
        """Handle signals from here on; those blocked over the exec arrive now."""
        self._queue: list[int] = []
        #: When the last wait ended much later than it was to: this process had been stopped itself.
        self.back_at = 0.0
        self._pipe, writing = os.pipe()
        os.set_blocking(self._pipe, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        for number in HANDLED:
            signal.signal(number, self._note)
        for name in ("SIGPIPE", "SIGTTIN", "SIGTTOU", "SIGTSTP"):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)

    def wait(self, seconds: float, workers: list[Worker]) -> None:
        """Wait until a signal arrives, a worker speaks (or can be told more), or *seconds* are over."""
        channels = [worker.channel for worker in workers if worker.channel is not None]
        for worker in workers:
            if worker.channel is not None:
                wanted = select.POLLIN | select.POLLOUT if worker.wants_to_write else select.POLLIN
                self._poll.register(worker.channel, wanted)
        due = time.monotonic() + seconds
        if not self._queue:
            for descriptor, _ in self._poll.poll(seconds * 1000 + 1):
                if descriptor == self._pipe:
                    self._drain()
        for channel in channels:
            self._poll.unregister(channel)
        now = time.monotonic()
        if now > due + OVERSLEPT_SECONDS:
            self.back_at = now

    def take(self) -> int | None:
        """Return the oldest signal not yet acted upon (never SIGCHLD), or ``None``."""
        return self._queue.pop(0) if self._queue else None

    def _note(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:  # that one only ends the wait: every turn reaps
            self._queue.append(number)

    def _drain(self) -> None:
        try:
            while os.read(self._pipe, 4096):
                pass
        except BlockingIOError:
            pass


def has_terminal() -> bool:
    """Tell whether this process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
