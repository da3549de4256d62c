"""What starts on many hosts at once: EchoSched, Celery (beat + worker) over Redis, Procrastinate's periodic tasks.

Each peer has two hosts (a scheduler and an executor each, on this machine), runs the same jobs once a second, and
each run is one process of the same tiny C program, which appends ``job slot now``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT

sys.path.insert(0, str(ROOT))
from tests.postgres import PostgresServer, programs

VENV = ROOT / "build" / "bench-peers"
WANTED = ["celery", "redis", "procrastinate>=3.10", "psycopg[binary]"]

MARK_C = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* MARKS [JOB SLOT]: appends "job slot now", in one write. */
int main(int argc, char **argv) {
    char line[512];
    struct timespec at;
    const char *job = argc > 2 ? argv[2] : getenv("ECHOSCHED_JOB");
    const char *slot = argc > 3 ? argv[3] : getenv("ECHOSCHED_SLOT");
    clock_gettime(CLOCK_REALTIME, &at);
    int size = snprintf(line, sizeof line, "%s %s %ld.%09ld\n", job, slot ? slot : "-", (long)at.tv_sec, at.tv_nsec);
    int file = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0644);
    return file < 0 || write(file, line, size) != size;
}
"""

CELERY = """
import os, subprocess
from celery import Celery
app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True, timezone="UTC")
@app.task(name="mark")
def mark(job):
    subprocess.run([os.environ["BENCH_MARK"], os.environ["BENCH_MARKS"], job, "-"])
app.conf.beat_schedule = {
    f"j{n}": {"task": "mark", "schedule": 1.0, "args": [f"j{n}"]} for n in range(int(os.environ["BENCH_JOBS"]))
}
"""

PROCRASTINATE = """
import asyncio, os, subprocess, sys
import procrastinate
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_DSN"]))
def define(name):
    @app.periodic(cron="* * * * * *", periodic_id=name)
    @app.task(name=name, pass_context=False)
    def task(timestamp):
        subprocess.run([os.environ["BENCH_MARK"], os.environ["BENCH_MARKS"], name, str(timestamp)])
for n in range(int(os.environ["BENCH_JOBS"])):
    define(f"j{n}")
async def main():
    async with app.open_async():
        if sys.argv[1] == "schema":
            await app.schema_manager.apply_schema_async()
        else:
            await app.run_worker_async(concurrency=8, install_signal_handlers=False, delete_jobs="successful")
asyncio.run(main())
"""


def free_port() -> int:
    """Return a port of the loopback that nobody has."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tree(pid: int) -> list[int]:
    """Return *pid* and its descendants."""
    found = [pid]
    for child in subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    ).stdout.split():
        found += tree(int(child))
    return found


class Peer:
    """Two hosts of one kind. Everything it starts has a life limit (timeout(1)) of its own."""

    name = ""
    hosts = 2
    has_slots = True

    def __init__(self, directory: Path, mark: Path, jobs: int, seconds: float) -> None:
        self.directory = directory
        self.mark = mark
        self.marks = directory / "marks"
        self.jobs = jobs
        self.limit = str(int(seconds + 180))
        self.groups: list[list[subprocess.Popen[bytes]]] = [[] for _ in range(self.hosts)]
        self.environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(directory),
            "BENCH_MARK": str(mark),
            "BENCH_MARKS": str(self.marks),
            "BENCH_JOBS": str(jobs),
        }

    def prepare(self) -> None:
        """Start what all hosts share."""

    def start(self, host: int) -> None:
        """Start one host."""
        raise NotImplementedError

    def spawn(self, host: int, *words: str) -> None:
        """Start a process of a host."""
        with open(self.directory / f"log{host}", "ab") as log:
            child = subprocess.Popen(
                ["timeout", "--signal=KILL", self.limit, *words],
                cwd=self.directory, env=self.environ, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.groups[host].append(child)

    def pids(self, host: int) -> list[int]:
        """Return all processes of a host."""
        return [pid for child in self.groups[host] for pid in tree(child.pid)]

    def signal(self, host: int, number: signal.Signals) -> None:
        """Signal a host's processes, all of them: what happens to a machine."""
        for pid in self.pids(host):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, host: int) -> None:
        """Pull the plug of one host."""
        self.signal(host, signal.SIGKILL)
        for child in self.groups[host]:
            child.wait()
        self.groups[host] = []

    def close(self) -> None:
        """End everything."""
        for host in range(self.hosts):
            self.signal(host, signal.SIGCONT)
            self.kill(host)


class Echosched(Peer):
    """EchoSched, PostgreSQL."""

    name = "echosched, 2 instances"
    schedule = "* * * * * *"
    offsets: tuple[float, ...] = ()  # of each job within the second, where they are not due together
    output = False  # whether what jobs print is kept, as it is by default

    def prepare(self) -> None:
        self.server = postgres()
        for host in range(self.hosts):
            home = self.directory / f"h{host}"
            home.mkdir()
            dsn = self.server.local("bench")
            text = f'[cluster]\ndsn = """{dsn}"""\ninstance = "host{host}"\n'
            text += '[daemon]\ntick = "0"\n[defaults]\ncatchup = "all"\noverlap = "allow"\n'
            text += f"output = {str(self.output).lower()}\n"
            for n in range(self.jobs):
                schedule = self.schedule
                if self.offsets and self.offsets[n]:
                    schedule = f"every 1s from 2026-01-01T00:00:{self.offsets[n]:09.6f}Z"
                text += f'[job.j{n}]\nschedule = "{schedule}"\ncommand = ["{self.mark}", "{self.marks}"]\n'
            (home / "echosched.toml").write_text(text)

    def start(self, host: int) -> None:
        home = str(self.directory / f"h{host}")
        cli = str(ROOT / "echosched" / "cli" / "__main__.py")
        self.spawn(host, sys.executable, "-P", cli, "start", "--foreground", "--home", home)

    def close(self) -> None:
        super().close()
        self.server.remove()


class Procrastinate(Peer):
    """Procrastinate's periodic tasks, PostgreSQL."""

    name = "procrastinate periodic, 2 workers"

    def prepare(self) -> None:
        self.server = postgres()
        self.environ["BENCH_DSN"] = self.server.local("bench")
        (self.directory / "program.py").write_text(PROCRASTINATE)
        subprocess.run(
            [VENV / "bin" / "python", "program.py", "schema"],
            cwd=self.directory,
            env=self.environ,
            check=True,
        )

    def start(self, host: int) -> None:
        self.spawn(host, str(VENV / "bin" / "python"), "program.py", "work")

    def close(self) -> None:
        super().close()
        self.server.remove()


class Celery(Peer):
    """Celery, a beat and a worker on each host, Redis."""

    name = "celery, 2 beats + 2 workers"
    has_slots = False
    beats = (0, 1)

    def prepare(self) -> None:
        port = free_port()
        (self.directory / "program.py").write_text(CELERY)
        self.environ["BENCH_BROKER"] = f"redis://127.0.0.1:{port}/0"
        words = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(self.directory)]
        with open(self.directory / "redis.log", "ab") as log:
            self.redis = subprocess.Popen(
                ["timeout", "--signal=KILL", self.limit, *words],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.05)
        raise RuntimeError("redis-server does not start")

    def start(self, host: int) -> None:
        celery = [str(VENV / "bin" / "python"), "-m", "celery", "-A", "program"]
        self.spawn(host, *celery, "worker", "--concurrency", "4", "-l", "ERROR", "-n", f"w{host}")
        if host in self.beats:
            self.spawn(host, *celery, "beat", "-l", "ERROR", "-s", f"beat{host}", "--pidfile", "")

    def close(self) -> None:
        super().close()
        for pid in tree(self.redis.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.redis.wait()


class CeleryOneBeat(Celery):
    """Celery as its manual wants it: one beat, on the host that is killed."""

    name = "celery, 1 beat + 2 workers"
    beats = (0,)


PEERS: dict[str, type[Peer]] = {
    "echosched": Echosched,
    "celery": Celery,
    "celery-one-beat": CeleryOneBeat,
    "procrastinate": Procrastinate,
}


def postgres() -> PostgresServer:
    """Return a running server with an empty database ``bench``."""
    found = programs()
    if found is None:
        raise RuntimeError("there is no PostgreSQL (apt-get install postgresql)")
    server = PostgresServer(found)
    try:
        server.create()
        server.start()
        server.sql("postgres", "CREATE DATABASE bench")
    except BaseException:
        server.remove()
        raise
    return server


def missing(peer: str) -> str | None:
    """Return what this machine lacks for *peer*, after having tried to install what pip has."""
    if programs() is None and not peer.startswith("celery"):
        return "PostgreSQL (apt-get install postgresql)"
    if peer.startswith("celery") and shutil.which("redis-server") is None:
        return "redis-server (apt-get install redis-server)"
    if peer != "echosched" and not (VENV / "bin" / "celery").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        if subprocess.run([VENV / "bin" / "pip", "install", "-q", *WANTED], check=False).returncode:
            return f"{', '.join(WANTED)} (pip cannot install them)"
    return None
