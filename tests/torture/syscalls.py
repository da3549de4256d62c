"""Faults at the system-call edge, by strace: a process that dies at, or is lied to by, the n-th call of a kind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

# What a worker does for a slot, in this order; each point kills it on entering the call, that is after
# everything before and before the call itself.
WORKER_POINTS = [
    "timerfd_settime:1", "timerfd_settime:2",
    "pwrite64:1", "pwrite64:2", "pwrite64:3", "pwrite64:5", "fdatasync:1", "fdatasync:2", "fdatasync:3",
    "clone3:1", "clone3:2", "vfork:1", "pidfd_open:1", "pidfd_open:2", "sendto:1", "sendto:2", "sendto:4",
    "epoll_ctl:1", "epoll_ctl:2", "write:1", "write:2", "write:3", "write:5", "waitid:1", "waitid:2",
    "futex:9",
]  # fmt: skip
# What a supervisor does when its worker dies and the next one comes.
SUPERVISOR_POINTS = [
    "poll:1", "recvfrom:1", "recvfrom:3", "waitid:1", "waitid:2", "waitid:4", "write:1", "write:2", "rename:1",
    "rename:2", "fsync:1", "fdatasync:1", "clone3:1", "vfork:1", "sendto:1", "close:1", "openat:1", "openat:3",
]  # fmt: skip


def rule(point: str) -> str:
    call, _, number = point.partition(":")
    return f"{call}:signal=KILL:when={number}"


class Injection:
    """strace attached to all threads of one process (not to its children) with an injection in force.

    With *path* only calls that deal with this file are meant.

    Ends with the process, with :meth:`close`, or with us.
    """

    def __init__(self, pid: int, *rules: str, path: Path | None = None) -> None:
        self.pid = pid
        calls = ",".join(rule.partition(":")[0] for rule in rules)
        command = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"]
        for rule in rules:
            command += ["-e", f"inject={rule}"]
        if path is not None:
            command += ["-P", str(path)]
        for thread in os.listdir(f"/proc/{pid}/task"):
            command += ["-p", thread]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_us,
        )
        deadline = time.monotonic() + 60
        while not self._attached():
            assert time.monotonic() < deadline, "strace does not attach"
            time.sleep(0.005)

    def _attached(self) -> bool:
        if self.process.poll() is not None:
            return True
        try:
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                text = Path(f"/proc/{self.pid}/task/{thread}/status").read_text()
                if "TracerPid:\t0\n" not in text:
                    return True
        except OSError:
            return True
        return False

    def wait_for_death(self, seconds: float) -> bool:
        """Tell whether the process died of the injection within *seconds*."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return not alive(self.pid)
            time.sleep(0.01)
        return False

    @classmethod
    @contextlib.contextmanager
    def later(cls, pid: int, *rules: str, path: Path | None = None) -> Iterator[Injection]:
        """Attach when the block is entered."""
        with cls(pid, *rules, path=path) as injection:
            yield injection

    def __enter__(self) -> Injection:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach. By KILL: asked politely, strace waits for a dead tracee that nobody else can reap meanwhile."""
        self.process.kill()
        self.process.wait(60)


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def alive(pid: int) -> bool:
    """Tell whether *pid* is a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
