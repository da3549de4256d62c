from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from echosched.daemon import proc


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_own_stat_is_right() -> None:
    stat = proc.read_stat(os.getpid())
    assert stat is not None
    assert (stat.parent, stat.group, stat.session) == (os.getppid(), os.getpgid(0), os.getsid(0))
    assert not stat.dead


def test_a_name_with_parentheses_and_spaces_does_not_confuse() -> None:
    script = (
        "import ctypes, sys; ctypes.CDLL(None).prctl(15, b') R 1 (x', 0, 0, 0);"
        "print(); sys.stdout.flush(); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        stat = proc.read_stat(process.pid)
        assert stat is not None
        assert stat.parent == os.getpid()
        process.stdin.close()


def test_a_process_is_known_by_its_start(sleeper: subprocess.Popen[bytes]) -> None:
    ticks = proc.start_ticks(sleeper.pid)
    assert ticks is not None
    assert proc.is_alive(sleeper.pid, ticks)
    assert not proc.is_alive(sleeper.pid, ticks + 1)
    assert proc.open_pidfd(sleeper.pid, ticks + 1) is None
    assert proc.send_signal(sleeper.pid, ticks + 1, signal.SIGKILL) is False
    assert sleeper.poll() is None
    assert proc.send_signal(sleeper.pid, ticks, signal.SIGTERM) is True
    assert sleeper.wait() == -signal.SIGTERM


def wait_for_zombie(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_zombie_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", "import os; os._exit(42)"]) as process:
        wait_for_zombie(process.pid)
        ticks = proc.start_ticks(process.pid)
        assert not proc.is_alive(process.pid, ticks)
        assert proc.open_pidfd(process.pid, ticks) is None
        process.wait()
        assert proc.read_stat(process.pid) is None
        assert proc.start_ticks(process.pid) is None


def test_usage_counts_cpu_and_memory_of_one_process() -> None:
    before = proc.usage(os.getpid())
    assert before is not None
    deadline = time.process_time() + 0.05
    while time.process_time() < deadline:
        pass
    after = proc.usage(os.getpid())
    assert after is not None
    assert after[0] > before[0]
    assert 5_000_000 < after[1] < 2_000_000_000


def test_marks_are_found_by_their_beginning() -> None:
    command = ["/bin/sh", "-c", "echo; read line"]
    with subprocess.Popen(
        command, env={"A": "1", "MARK": "x:12.3"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # its environment is there only once it runs
        assert proc.is_marked(process.pid, (b"MARK=x:12.",))
        assert proc.is_marked(process.pid, (b"NO=", b"MARK=x:"))
        assert not proc.is_marked(process.pid, (b"MARK=x:1.", b"ARK="))
        process.kill()


def test_without_pidfds_and_proc_there_is_a_simple_fall_back(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.setattr(proc, "HAVE_PIDFD", False)
    monkeypatch.setattr(proc, "HAVE_PROC", False)
    monkeypatch.setattr(proc, "_stat_fields", lambda pid: None)
    stat = proc.read_stat(sleeper.pid)
    assert stat is not None
    assert (stat.parent, stat.group, stat.dead) == (os.getpid(), os.getpgid(sleeper.pid), False)
    assert proc.usage(sleeper.pid) is not None
    assert not proc.send_signal(sleeper.pid, stat.start_ticks + 1, signal.SIGKILL)
    assert proc.send_signal(sleeper.pid, stat.start_ticks, signal.SIGKILL)
    wait_for_zombie(sleeper.pid)
    assert not proc.is_alive(sleeper.pid, stat.start_ticks)
    sleeper.wait()
    assert proc.read_stat(sleeper.pid) is None
    assert not proc.send_signal(sleeper.pid, None, signal.SIGKILL)


def test_names_of_boot_and_namespace_are_there() -> None:
    assert len(proc.boot_id()) == 36
    assert proc.pid_namespace().startswith("pid:[")
    assert proc.signal_name(9) == "SIGKILL"
    assert proc.signal_name(99) == "signal 99"
