"""Telling a service manager (systemd's protocol): READY, RELOADING, STOPPING, STATUS, WATCHDOG.

Every message is best effort: a socket that is missing, unwritable or full (a container may pass one
through that it cannot reach) costs one attempt and is otherwise ignored.
"""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Sends to ``$NOTIFY_SOCKET`` from the process whose environment it is; does nothing without one."""

    __slots__ = ("_address", "watchdog_seconds")

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        """Read NOTIFY_SOCKET, and WATCHDOG_USEC where WATCHDOG_PID names this process."""
        environ = os.environ if environment is None else environment
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        meant = not pid.isdigit() or int(pid) == os.getpid()
        self.watchdog_seconds = int(usec) / 1e6 if usec.isdigit() and meant and self._address else 0.0

    @property
    def enabled(self) -> bool:
        """Tell whether anybody asked to be told."""
        return bool(self._address)

    def send(self, *assignments: str) -> bool:
        """Send one message of ``NAME=value`` lines; ``False`` when nobody received it."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(assignments).encode(), self._address)
        except OSError:
            return False
        return True

    def ready(self, status: str = "") -> bool:
        """Say that the service is up (or, after :meth:`reloading`, up again)."""
        return self.send("READY=1", f"MAINPID={os.getpid()}", *_status(status))

    def reloading(self) -> bool:
        """Say that a reload began; systemd wants its instant on the monotonic clock."""
        return self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> bool:
        """Say that the service is going down."""
        return self.send("STOPPING=1", *_status("stopping"))

    def status(self, text: str) -> bool:
        """Show *text* in ``systemctl status``."""
        return self.send(*_status(text))

    def watchdog(self) -> bool:
        """Say that the service is still making progress."""
        return self.send("WATCHDOG=1")


def _status(text: str) -> list[str]:
    return ["STATUS=" + text.replace("\n", " ")] if text else []
