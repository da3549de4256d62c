"""Faults at the system-call edge, by strace: a process that dies at, or is lied to by, the n-th call of a kind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path


class Injection:
    """strace attached to all threads of one process (not to its children) with an injection in force.

    Ends with the process, with :meth:`close`, or with us.
    """

    def __init__(self, pid: int, *rules: str) -> None:
        self.pid = pid
        calls = ",".join(rule.partition(":")[0] for rule in rules)
        command = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"]
        for rule in rules:
            command += ["-e", f"inject={rule}"]
        for thread in os.listdir(f"/proc/{pid}/task"):
            command += ["-p", thread]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_us,
        )
        deadline = time.monotonic() + 10
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

    def close(self) -> None:
        """Detach. By KILL: asked politely, strace waits for a dead tracee that nobody else can reap meanwhile."""
        self.process.kill()
        self.process.wait(20)


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def alive(pid: int) -> bool:
    """Tell whether *pid* is a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
