"""Start ticks without a look into /proc agree with /proc."""

from __future__ import annotations

import os
import subprocess

from echosched.clock import SystemClock
from echosched.executor import proc
from echosched.executor.birth import BirthClock


def spawn() -> int:
    return os.posix_spawn("/bin/true", ["true"], {})


def test_computed_ticks_are_those_of_proc() -> None:
    birth = BirthClock(SystemClock())
    for _ in range(60):
        birth.before()
        pid = spawn()
        assert birth.start_ticks(pid) == proc.start_ticks(pid)
        os.waitpid(pid, 0)


def test_a_clock_that_is_not_the_system_s_is_not_believed() -> None:
    class Odd(SystemClock):
        def boot(self) -> float:
            return super().boot() + 1000

    class Stranger:
        now = SystemClock.now
        monotonic = SystemClock.monotonic

        def boot(self) -> float:
            return 5.0

    for clock in (Odd(), Stranger()):
        birth = BirthClock(clock)
        for _ in range(10):
            birth.before()
            child = subprocess.Popen(["/bin/true"])
            assert birth.start_ticks(child.pid) == proc.start_ticks(child.pid)
            child.wait()
