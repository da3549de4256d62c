"""Ways from a host to the database that a test can cut: a network of its own where root allows, else a proxy.

``Wire`` is a network namespace with one cable to this machine. Cut, packets vanish in silence, as behind a
firewall that drops: nobody is told. ``cut(answers_only=True)`` lets questions through and drops the answers, so
that the host cannot know what the database did. ``Proxy`` forwards bytes and, cut, holds them back.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import shutil
import socket
import subprocess
import threading
import time
from typing import Protocol

_numbers = itertools.count()


class Way(Protocol):
    """How one host reaches the database."""

    address: tuple[str, int]
    prefix: list[str]

    def cut(self, *, answers_only: bool = False) -> None:
        """Let nothing through."""

    def join(self) -> None:
        """Let everything through again."""

    def remove(self) -> None:
        """Leave nothing behind."""


def ip(*words: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=60)


def wires_are_possible() -> bool:
    """Tell whether this process may make network namespaces and cables."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nsenter") is None:
        return False
    try:
        Wire(1).remove()
    except (OSError, subprocess.SubprocessError):
        return False
    return True


class Wire:
    """A network namespace, a cable to it, an address at each end. *port* is the database's."""

    def __init__(self, port: int) -> None:
        number = os.getpid() * 16 % 16_000 + next(_numbers) % 16
        # 198.18.0.0/15 is set aside for tests between networks (RFC 2544): nobody's real network.
        third, fourth = divmod(number * 4, 256)
        self.here, self.there = f"198.18.{third}.{fourth + 1}", f"198.18.{third}.{fourth + 2}"
        self.address = self.here, port
        self.namespace, self.cable = f"echosched-{number}", f"echo{number}"
        self.prefix = ["nsenter", f"--net=/run/netns/{self.namespace}"]
        self._blocked = False
        try:
            ip("netns", "add", self.namespace)
            ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
            ip("address", "add", f"{self.here}/30", "dev", self.cable)
            ip("link", "set", self.cable, "up")
            ip("-n", self.namespace, "address", "add", f"{self.there}/30", "dev", "eth0")
            ip("-n", self.namespace, "link", "set", "eth0", "up")
            ip("-n", self.namespace, "link", "set", "lo", "up")
        except BaseException:
            self.remove()
            raise

    def cut(self, *, answers_only: bool = False) -> None:
        """Let nothing through; with *answers_only* nothing back."""
        ip("route", "replace", "blackhole", f"{self.there}/32")
        self._blocked = True
        if not answers_only:
            ip("link", "set", self.cable, "down")

    def join(self) -> None:
        """Let everything through again."""
        ip("link", "set", self.cable, "up")
        if self._blocked:
            ip("route", "delete", "blackhole", f"{self.there}/32")
            self._blocked = False

    def remove(self) -> None:
        """Take the cable and the namespace away; its processes must have ended."""
        with contextlib.suppress(subprocess.SubprocessError):
            if self._blocked:
                ip("route", "delete", "blackhole", f"{self.there}/32")
        for words in (("link", "delete", self.cable), ("netns", "delete", self.namespace)):
            with contextlib.suppress(subprocess.SubprocessError):
                ip(*words)


class Proxy:
    """Forwards connections to *target*; cut, it keeps them open and moves nothing."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.prefix: list[str] = []
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1", int(self._listener.getsockname()[1])
        self._open = threading.Event()
        self._open.set()
        self._backward = threading.Event()
        self._backward.set()
        self._ended = False
        self._pairs: dict[socket.socket, tuple[socket.socket, bool]] = {}
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def cut(self, *, answers_only: bool = False) -> None:
        """Hold everything back; with *answers_only* what comes from the database."""
        self._backward.clear()
        if not answers_only:
            self._open.clear()

    def join(self) -> None:
        """Forward again, also what was held back."""
        self._backward.set()
        self._open.set()

    def remove(self) -> None:
        """End all connections."""
        self._ended = True
        self.join()
        self._thread.join(10)
        for end in (*self._pairs, self._listener):
            end.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._ended:
                if not self._open.wait(0.1):
                    continue
                for key, _ in selector.select(0.05):
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    if end is self._listener:
                        self._accept(selector)
                    elif end in self._pairs:
                        self._forward(selector, end)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            near.close()
            return
        for end, other, is_far in ((near, far, False), (far, near, True)):
            self._pairs[end] = other, is_far
            selector.register(end, selectors.EVENT_READ)

    def _forward(self, selector: selectors.BaseSelector, end: socket.socket) -> None:
        other, is_far = self._pairs[end]
        if not self._open.is_set() or (is_far and not self._backward.is_set()):
            time.sleep(0.01)
            return
        try:
            data = end.recv(1 << 16)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        for side in (end, other):
            selector.unregister(side)
            del self._pairs[side]
            side.close()
