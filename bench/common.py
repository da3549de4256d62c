"""What the measuring scripts share: a daemon in a fresh home, the C reference, results as JSON."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
COMMAND = [sys.executable, "-m", "echosched.cli"]
_SCRIPT = Path(sys.executable).with_name("echoschedd")
if _SCRIPT.exists():
    COMMAND = [str(_SCRIPT)]

_LOAD_BEFORE = os.getloadavg()[0]  # when the script began: what else the machine was doing

TINY_C = "int main(void) { return 0; }\n"

LOOP_C = r"""
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

/* PROGRAM COUNT ALIVE: prints the seconds until the last start. */
int main(int argc, char **argv) {
    int count = atoi(argv[2]), most = atoi(argv[3]), alive = 0;
    char *words[] = {argv[1], NULL};
    double begun = now(), last = begun;
    for (int i = 0; i < count; i++) {
        if (alive == most) { wait(NULL); alive--; }
        pid_t pid;
        if (posix_spawn(&pid, argv[1], NULL, NULL, words, environ)) return 1;
        alive++;
        last = now();
    }
    while (alive--) wait(NULL);
    printf("%.6f\n", last - begun);
    return 0;
}
"""


@contextmanager
def workshop() -> Iterator[Path]:
    """A fresh directory, removed at the end.

    Not in /tmp: ext4 gives the inodes of deleted files out again only after a while, and looking for others makes
    each new file up to ten times as dear (135 µs instead of 17 were seen) where many were deleted within the last
    minute. ``ECHOSCHED_BENCH_DIR`` names another place; what ``bench/run.py`` leaves there goes at its very end.
    """
    place = os.environ.get("ECHOSCHED_BENCH_DIR")
    directory = Path(tempfile.mkdtemp(prefix="echosched-bench-", dir=place or "/var/tmp"))
    try:
        yield directory
    finally:
        if place is None:
            shutil.rmtree(directory, ignore_errors=True)


def creation_us(directory: Path) -> float:
    """What making one file costs there, in microseconds of CPU: each job with an output pays it."""
    scratch = directory / "creation"
    scratch.mkdir()
    begun = time.thread_time()
    for number in range(200):
        os.close(os.open(scratch / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    return (time.thread_time() - begun) / 200 * 1e6


def build(directory: Path, name: str, source: str, *flags: str) -> Path:
    """Compile C *source*; return the program."""
    text, program = directory / f"{name}.c", directory / name
    text.write_text(source)
    subprocess.run(["gcc", "-O2", *flags, "-o", str(program), str(text)], check=True)
    return program


def c_loop(loop: Path, tiny: Path, count: int, alive: int = 4) -> float:
    """Seconds until a C loop of posix_spawn and wait has started its last of *count* programs."""
    done = subprocess.run(
        [str(loop), str(tiny), str(count), str(alive)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def run(*words: str, home: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run an ``echoschedd`` command on *home*."""
    done = subprocess.run(
        [*COMMAND, *words, "--home", str(home)], check=False, capture_output=True, text=True
    )
    if check and done.returncode:
        sys.exit(f"echoschedd {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Daemon:
    """A real daemon in *home*, detached, stopped at the end of the ``with``."""

    def __init__(self, home: Path, config: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        (home / "echosched.toml").write_text(config)
        self.home = home
        self.start_seconds = 0.0

    def __enter__(self) -> Daemon:
        begun = time.perf_counter()
        run("start", "--detach", home=self.home)
        self.start_seconds = time.perf_counter() - begun
        return self

    def __exit__(self, *_: object) -> None:
        run("stop", "--force", home=self.home, check=False)

    @property
    def supervisor(self) -> int:
        return int((self.home / "echosched.pid").read_text())

    @property
    def worker(self) -> int:
        return int(json.loads((self.home / "echosched.state.json").read_text())["worker_pid"])

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the database, beside the daemon."""
        with sqlite3.connect(f"file:{self.home}/echosched.db?mode=ro", uri=True) as connection:
            return connection.execute(query, values).fetchall()

    def wait_for_ends(self, count: int, timeout: float = 30.0) -> None:
        """Wait until *count* runs have ended (look rarely: looking costs CPU too)."""
        deadline = time.monotonic() + timeout
        while self.rows("SELECT count(*) FROM runs WHERE ended_at IS NOT NULL")[0][0] < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {count} runs ended within {timeout:.0f} s")
            time.sleep(0.5)


def slot_in(seconds: float) -> datetime:
    """The first whole second at least *seconds* from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds + 1)).replace(microsecond=0)


def sleep_until(instant: datetime, before: float = 0.0) -> None:
    time.sleep(max(0.0, instant.timestamp() - time.time() - before))


def cpu_seconds(pid: int) -> float:
    """User and system time of *pid* so far, from the scheduler's own account (nanoseconds)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no PSS for {pid}")


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory) / 2**20:.1f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "sqlite": sqlite3.sqlite_version,
    }


def row(target: str, measured: float, limit: float | None, unit: str = "", note: str = "") -> dict[str, Any]:
    """One line of a results table; *limit* ``None``: for information only."""
    return {
        "target": target,
        "measured": measured,
        "limit": limit,
        "unit": unit,
        "met": None if limit is None else measured <= limit,
        "note": note,
    }


def report(name: str, rows: list[dict[str, Any]], **details: Any) -> int:
    """Print the table and keep it as JSON; return the exit code (0: every limit holds)."""
    for one in rows:
        verdict = {None: "", True: "ok", False: "MISSED"}[one["met"]]
        limit = "" if one["limit"] is None else f"(at most {one['limit']:g})"
        print(
            f"{one['target']:<58}{one['measured']:>10.3f} {one['unit']:<5}{limit:<17}{verdict} {one['note']}"
        )
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {
        "name": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load": [_LOAD_BEFORE, os.getloadavg()[0]],
        "rows": rows,
        **details,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    return 0 if all(one["met"] is not False for one in rows) else 1
