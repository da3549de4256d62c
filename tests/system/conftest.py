"""A whole daemon in a directory of its own, driven through the command line as a user would."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

CLI = [sys.executable, "-P", str(Path(__file__).parents[2] / "echosched" / "cli" / "__main__.py")]
PATIENCE_SECONDS = 60.0

T = TypeVar("T")


def eventually(look: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """Return the first truthy answer of *look*; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {found!r}"
        time.sleep(0.05)
    return found


def waiting(file: Path) -> str:
    """Return what a shell does until somebody makes *file* (two minutes at most): it ends when the test says so."""
    return f"for _ in $(seq 1200); do [ -e {file} ] && break; sleep 0.1; done"


def free_port() -> int:
    """Return a port that is free and stays so: the kernel gives none from this range to whom any port will do."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(max(1024, lowest - 20_000), lowest)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class House:
    """One home directory, its daemon, and what can be read of it from outside."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {
            key: value
            for key, value in os.environ.items()
            if not re.match("ECHOSCHED_|REPL|NOTIFY_SOCKET|SUPERVISOR|DASHBOARD_KEY|PYTHONUNBUFFERED", key)
        }
        self.children: list[subprocess.Popen[Any]] = []

    def write(self, toml: str, name: str = "echosched.toml") -> Path:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(toml)
        return path

    def run(self, verb: str, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            [*CLI, verb, "--home", str(self.directory), *words],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            env=self.environ,
            **options,
        )

    def ok(self, verb: str, *words: str, **options: Any) -> str:
        """Run a command that must succeed; return what it printed."""
        done = self.run(verb, *words, **options)
        assert done.returncode == 0, f"{verb}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.out}"
        return done.stdout

    def popen(self, verb: str, *words: str, **options: Any) -> subprocess.Popen[Any]:
        child = subprocess.Popen(
            [*CLI, verb, "--home", str(self.directory), *words], env=self.environ, **options
        )
        self.children.append(child)
        return child

    def json(self, verb: str, *words: str) -> Any:
        return json.loads(self.run(verb, "--json", *words).stdout)

    @property
    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = self.json("status")
        return document

    def history(self, *words: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.json("history", "-n", "1000", *words)
        return rows

    def last(self, job: str) -> dict[str, Any]:
        """Return the newest run of *job* once it has ended."""

        def ended() -> dict[str, Any] | None:
            rows = self.history(job)
            return rows[0] if rows and rows[0]["state"] not in ("queued", "running") else None

        return eventually(ended)

    def outcome(self, job: str) -> dict[str, Any]:
        """Run *job* now and return how it ended."""
        self.run("run", job, "--wait")
        return self.last(job)

    @property
    def journal(self) -> list[dict[str, Any]]:
        path = self.directory / "echosched.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.journal if event["event"] == name]

    @property
    def out(self) -> str:
        path = self.directory / "echosched.out"
        return path.read_text() if path.exists() else ""

    @property
    def pid(self) -> int:
        return int((self.directory / "echosched.pid").read_text())

    @property
    def worker_pid(self) -> int:
        state = json.loads((self.directory / "echosched.state.json").read_text())
        return int(state["worker_pid"] or 0)

    def files(self) -> Iterator[Path]:
        return (path for path in self.directory.rglob("*") if path.is_file())

    def close(self) -> None:
        self.run("stop", "--force")
        for child in self.children:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
            child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    stream.close()


class StalledProgram:
    """A program whose start waits in the kernel, as on a disk that does not answer, until it is released.

    Whoever executes a file under a lease waits for the holder; the kernel does so for at most
    /proc/sys/fs/lease-break-time, 45 seconds.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        shutil.copy("/bin/true", path)
        path.chmod(0o755)
        self._descriptor = os.open(path, os.O_RDONLY)
        fcntl.fcntl(self._descriptor, fcntl.F_SETSIG, signal.SIGURG)  # told so when somebody waits: ignored
        fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def release(self) -> None:
        """Let all go on who wait."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[StalledProgram]:
    program = StalledProgram(tmp_path / "stalled")
    yield program
    program.release()


@pytest.fixture
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    # Not tmp_path: its name grows with the test's, and a socket's path has room for 107 bytes.
    house = House(tmp_path_factory.mktemp("h"))
    yield house
    house.close()
