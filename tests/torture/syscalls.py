"""Faults at the system-call edge, by strace: a process that dies at, or is lied to by, the n-th call of a kind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path


class Injection:
    """strace attached to all threads of one process (not to its children) with an injection in force.

    Ends with the process, or with :meth:`close`; never longer than *limit* seconds.
    """

    def __init__(self, pid: int, *rules: str, limit: float = 45.0) -> None:
        self.pid = pid
        calls = ",".join(rule.partition(":")[0] for rule in rules)
        command = [
            "timeout",
            "-s",
            "INT",
            str(limit),
            "strace",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            f"trace={calls}",
        ]
        for rule in rules:
            command += ["-e", f"inject={rule}"]
        for thread in os.listdir(f"/proc/{pid}/task"):
            command += ["-p", thread]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
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
        """Detach."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # to timeout, which passes it on
        self.process.wait(20)
        if self.process.stderr is not None:
            self.process.stderr.close()


def alive(pid: int) -> bool:
    """Tell whether *pid* is a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
