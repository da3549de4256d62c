"""A home directory with a daemon in it, for the daemon's system tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from echosched.daemon import control, lock, proc, statefile
from echosched.daemon.inspect import inspect

HERE = Path(__file__).resolve().parent
STARTER = str(HERE / "daemon_starter.py")


def eventually(condition: Callable[[], Any], seconds: float = 60.0, what: str = "") -> Any:
    """Return the first true value of *condition*; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"still not after {seconds} s: {what or condition}")
        time.sleep(0.02)


class Home:
    """One daemon's directory; remembers what runs there, to end it afterwards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        from daemon_starter import paths_in

        self.paths = paths_in(str(path))
        self.popen: list[subprocess.Popen[str]] = []
        self.python = sys.executable

    def argv(self, verb: str, **wishes: Any) -> list[str]:
        return [self.python, STARTER, str(self.path), verb, json.dumps(wishes)]

    def environment(self) -> dict[str, str]:
        """Return ours; another interpreter also gets the libraries of this one."""
        if self.python == sys.executable:
            return dict(os.environ)
        return environment_with(
            PYTHONPATH=os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
        )

    def run(self, verb: str, *, timeout: float = 60, prefix: tuple[str, ...] = (), **wishes: Any) -> Any:
        return subprocess.run(
            [*prefix, *self.argv(verb, **wishes)],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def spawn(self, verb: str, *, prefix: tuple[str, ...] = (), **wishes: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*prefix, *self.argv(verb, **wishes)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.popen.append(process)
        return process

    def start(self, **wishes: Any) -> int:
        done = self.run("start", **wishes)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[0])

    def status(self) -> dict[str, Any]:
        return inspect(self.paths, usage=False)

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        try:
            text = Path(str(self.paths.log)).read_text()
        except FileNotFoundError:
            return []
        found = [json.loads(line) for line in text.splitlines()]
        return [each for each in found if name is None or each["event"] == name]

    def notes(self) -> list[str]:
        try:
            return (self.path / "notes").read_text().splitlines()
        except FileNotFoundError:
            return []

    def state(self) -> dict[str, Any]:
        document = statefile.read(self.paths.state)
        assert document is not None
        return document

    def kill(self) -> None:
        """End whatever this home started."""
        for process in self.popen:
            if process.poll() is None:
                process.kill()
            process.communicate()
        if lock.is_held(self.paths.pidfile):
            control.stop_daemon(self.paths, timeout=5, force=True)
        for line in self.notes():
            words = line.split()
            if words[0] == "child" and proc.is_alive(int(words[1]), int(words[2])):
                proc.send_signal(int(words[1]), int(words[2]), signal.SIGKILL)


@pytest.fixture(name="home")
def provide_home(tmp_path: Path) -> Iterator[Home]:
    directory = Home(tmp_path)
    yield directory
    directory.kill()


def ticks_of(pid: int) -> int:
    ticks = proc.start_ticks(pid)
    assert ticks is not None
    return ticks


def environment_with(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}
