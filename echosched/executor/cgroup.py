"""A cgroup for each run, where one has been given to us: what no process can leave by itself.

Optional (it costs a start about 150 µs): *parent* is a directory of the version 2 hierarchy that this
daemon may write to, such as its own unit's with ``Delegate=yes``. A process enters right after its
start, so what it forked before that is still found by the other traces (:mod:`~echosched.executor.tree`).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque

log = logging.getLogger(__name__)


class Cgroups:
    """Makes, empties and removes the cgroups of runs under *parent*. Used from threads only."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._left: deque[str] = deque()
        self._complained = False
        self._sweep()

    def enter(self, tag: str, pid: int) -> None:
        """Put *pid* into a new cgroup of this attempt; without one the run goes on all the same."""
        try:
            path = self._path(tag)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            _write(f"{path}/cgroup.procs", str(pid))
        except ProcessLookupError:
            pass  # it has ended already
        except OSError as err:
            if not self._complained:
                self._complained = True
                log.warning("%s: runs get no cgroups of their own: %s", self._parent, err)

    def members(self, tag: str) -> list[int]:
        """Return the processes in the attempt's cgroup and in those it has made below."""
        found: list[int] = []
        for directory, _, _ in os.walk(self._path(tag)):
            with contextlib.suppress(OSError), open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                found += map(int, file.read().split())
        return found

    def kill(self, tag: str) -> None:
        """Kill all of them at once (Linux 5.14+; on older ones the signals have to do)."""
        with contextlib.suppress(OSError):
            _write(f"{self._path(tag)}/cgroup.kill", "1")

    def leave(self, tag: str) -> None:
        """Remove the attempt's cgroup; if somebody is still in it, later."""
        self._left.append(self._path(tag))
        # One old one with each new one: what a job left in the background may stay for long.
        for _ in range(min(2, len(self._left))):
            path = self._left.popleft()
            if not _remove(path):
                self._left.append(path)

    def _path(self, tag: str) -> str:
        return f"{self._parent}/run-{tag}"

    def _sweep(self) -> None:
        try:
            os.makedirs(self._parent, exist_ok=True)
            names = os.listdir(self._parent)
        except OSError:
            return
        for name in names:
            if name.startswith("run-"):
                _remove(f"{self._parent}/{name}")


def cgroup2() -> tuple[bool, str | None]:
    """Return whether this host has version 2, and this process's own cgroup directory if it may write there.

    The root of the hierarchy is nobody's own: there is none where no service manager has given us one.
    """
    roots = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")  # the second beside version 1 ("hybrid")
    root = next((root for root in roots if os.path.exists(f"{root}/cgroup.procs")), None)
    if root is None:
        return False, None
    try:
        with open("/proc/self/cgroup", encoding="ascii") as file:
            own = next((line[3:].strip() for line in file if line.startswith("0::")), "/")
    except (OSError, UnicodeDecodeError):
        return True, None
    path = os.path.normpath(root + own)
    return True, path if path != root and os.access(path, os.W_OK) else None


def _remove(path: str) -> bool:
    for directory, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:
            return False
    return True


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
