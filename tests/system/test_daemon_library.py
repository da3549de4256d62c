"""DaemonContext and PIDFile on their own, as other programs use them, with either python-daemon."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from daemon_fixtures import eventually

from echosched.daemon import lock, proc

ROOT = Path(__file__).resolve().parents[2]
# A second version of python-daemon to try: Debian's package, or a directory named in the environment.
OLD = os.environ.get("PYTHON_DAEMON_OLD") or "/usr/lib/python3/dist-packages"
LIBRARIES = [
    "installed",
    pytest.param(OLD, marks=pytest.mark.skipif(not Path(OLD, "daemon").is_dir(), reason="one version here")),
]


class Script:
    """A program in a directory of its own, and the daemons it leaves."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(
        self, text: str, library: str = "installed", **options: object
    ) -> subprocess.CompletedProcess[str]:
        (self.path / "library").mkdir(exist_ok=True)
        if library != "installed" and not (self.path / "library" / "daemon").exists():
            os.symlink(f"{library}/daemon", self.path / "library" / "daemon")
        file = self.path / "program.py"
        file.write_text(textwrap.dedent(text))
        environment = {**os.environ, "PYTHONPATH": f"{self.path}/library:{ROOT}"}
        return subprocess.run(
            [sys.executable, "-W", "error", str(file)],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,  # type: ignore[call-overload]
        )

    def pid(self, name: str = "x.pid") -> int:
        return int(eventually(lambda: lock.read_pid(f"{self.path}/{name}")))


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    program = Script(tmp_path)
    yield program
    for file in tmp_path.glob("*.pid"):
        pid = lock.read_pid(str(file))
        if pid is not None and lock.is_held(str(file)):
            proc.send_signal(pid, proc.start_ticks(pid), 9)


SERVE = """
import time
from echosched import DaemonContext, PIDFile
with DaemonContext(pidfile=PIDFile("x.pid"), out="x.out") as context:
    print("serving", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_context_detaches_locks_and_leaves_when_it_is_open(script: Script, library: str) -> None:
    done = script.run(SERVE, library)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = script.pid()
    stat = proc.read_stat(pid)
    assert stat is not None
    assert stat.session not in (pid, os.getsid(0))
    eventually(lambda: (script.path / "x.out").read_text() == "serving\n")
    assert "Umask:\t0027" in Path(f"/proc/{pid}/status").read_text()
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    second = script.run(SERVE, library)
    assert second.returncode == 1
    assert f"x.pid is locked by process {pid}" in second.stderr
    proc.send_signal(pid, proc.start_ticks(pid), 15)
    eventually(lambda: not (script.path / "x.pid").exists())  # SystemExit, then the context closes


@pytest.mark.parametrize("library", LIBRARIES)
def test_opening_is_quick_whatever_the_descriptor_limit(script: Script, library: str) -> None:
    text = """
    import resource
    # Only root may raise the limit; a library that asks gets the answer such a host would give.
    resource.getrlimit = lambda which: (1 << 30, 1 << 30)
    import os
    from echosched import DaemonContext
    stray = os.open("/dev/null", os.O_RDONLY)
    high = os.dup2(stray, 5000)
    with DaemonContext(out="x.out"):
        print(sorted(int(fd) for fd in os.listdir("/proc/self/fd")), flush=True)
    """
    begun = time.monotonic()
    done = script.run(text, library)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 20  # to close each of them would take minutes
    descriptors = eventually(lambda: (script.path / "x.out").read_text())
    assert "5000" not in descriptors
    assert len(descriptors.split(",")) <= 6  # 0-2, the file for out, the listing


def test_a_failure_before_ready_reaches_the_terminal(script: Script) -> None:
    text = """
    from echosched import DaemonContext, PIDFile
    with DaemonContext(pidfile=PIDFile("x.pid"), wait_ready=True) as context:
        raise RuntimeError("no database")
    """
    done = script.run(text)
    assert done.returncode == 1
    assert "RuntimeError: no database" in done.stderr
    assert not (script.path / "x.pid").exists()


def test_a_death_before_ready_is_a_failure_with_the_last_words(script: Script) -> None:
    text = """
    import os
    from echosched import DaemonContext
    with DaemonContext(out="x.out", wait_ready=True) as context:
        print("last words", flush=True)
        os.kill(os.getpid(), 11)
    """
    done = script.run(text)
    assert done.returncode == 1
    assert "the daemon ended before it was ready:\nlast words" in done.stderr


def test_ready_is_waited_for_and_exit_codes_are_kept(script: Script) -> None:
    text = """
    import sys, time
    from echosched import DaemonContext
    with DaemonContext(wait_ready=True) as context:
        time.sleep(0.5)
        open("{path}/marker", "w").close()
        {end}
    """
    done = script.run(text.format(path=script.path, end="context.ready()"))
    assert done.returncode == 0
    assert (script.path / "marker").exists()
    done = script.run(text.format(path=script.path, end="sys.exit(6)"))
    assert done.returncode == 6


def test_a_forked_child_that_exits_does_not_take_the_pidfile_along(script: Script) -> None:
    text = """
    import os, sys, time
    from echosched import DaemonContext, PIDFile
    with DaemonContext(pidfile=PIDFile("x.pid"), out="x.out") as context:
        if os.fork() == 0:
            sys.exit(0)  # runs atexit and the context's exit
        os.wait()
        print("child gone", flush=True)
        time.sleep(60)
    """
    assert script.run(text).returncode == 0
    eventually(lambda: (script.path / "x.out").read_text() == "child gone\n")
    assert lock.is_held(f"{script.path}/x.pid")
    assert script.pid()


@pytest.mark.parametrize("library", LIBRARIES)
def test_python_daemons_own_context_takes_our_pidfile(script: Script, library: str) -> None:
    text = """
    import time, daemon
    from echosched import PIDFile
    with daemon.DaemonContext(pidfile=PIDFile("x.pid"), working_directory=".", detach_process=True):
        time.sleep(60)
    """
    assert script.run(text, library).returncode == 0
    pid = script.pid()
    assert lock.is_held(f"{script.path}/x.pid")
    proc.send_signal(pid, proc.start_ticks(pid), 9)
    eventually(lambda: not lock.is_held(f"{script.path}/x.pid"))
    assert script.run(text, library).returncode == 0  # a stale file is no obstacle
    eventually(lambda: script.pid() != pid)


def test_closed_standard_descriptors_are_repaired(script: Script) -> None:
    (script.path / "program.py").write_text(SERVE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"exec '{sys.executable}' program.py <&- >&- 2>&-"
    done = subprocess.run(command, shell=True, cwd=script.path, env=environment, timeout=60, check=False)
    assert done.returncode == 0
    eventually(lambda: (script.path / "x.out").read_text() == "serving\n")


def test_without_detaching_it_stays_and_still_locks(script: Script) -> None:
    text = """
    import os
    from echosched import DaemonContext, PIDFile
    before = os.getpid()
    with DaemonContext(pidfile=PIDFile("x.pid"), detach_process=False, working_directory=".", out="x.out") as context:
        assert os.getpid() == before
        print(PIDFile("x.pid").read_pid() == before, flush=True)
    """
    done = script.run(text)
    assert done.returncode == 0, done.stderr
    assert (script.path / "x.out").read_text() == "True\n"
    assert not (script.path / "x.pid").exists()
