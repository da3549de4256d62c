"""How a process that is not ours ended, as far as the kernel tells."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from echosched.daemon import probe
from echosched.executor.proc import exit_status

KERNEL_TELLS = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 15)


@pytest.mark.parametrize(
    ("end", "status"), [("import os; os._exit(42)", 42), ("import os; os.kill(os.getpid(), 9)", -9)]
)
def test_a_zombie_still_tells_its_exit_code(end: str, status: int) -> None:
    with subprocess.Popen([sys.executable, "-c", end]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert exit_status(None, process.pid) == status
        process.wait()
        assert exit_status(None, process.pid) is None


def test_a_pidfd_tells_the_exit_code_of_a_reaped_process_where_the_kernel_can() -> None:
    command = [sys.executable, "-c", "input(); import os; os._exit(17)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        pidfd = os.pidfd_open(process.pid)
        assert exit_status(pidfd, process.pid) is None  # it lives
        process.communicate(b"\n")
        assert exit_status(pidfd, process.pid) == (17 if KERNEL_TELLS else None)
        os.close(pidfd)


def test_doctor_asks_the_kernel_as_the_executor_does() -> None:
    assert probe.pidfd_tells_exit(exit_status) == KERNEL_TELLS
