"""Other schedulers and this one, in the same run: a thousand jobs due at one instant, and one job a second.

    python bench/peers.py [--jobs N] [--seconds N] [NAME …]

All start the same program, which writes down the moment it began: its ``main`` appends one line to a file. What
counts is that moment less the slot, for everybody; echosched comes first and last, its better series counts
(the machine may have changed meanwhile). A peer that is not installed is left out and said so:
APScheduler, schedule and yacron come with ``pip install -e .[bench]``, Debian's cron with its package (it gets
namespaces of its own, so that no crontab of this machine is touched; it needs root).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import common

STAMP_C = r"""
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* PROGRAM FILE: appends the wall clock at its start. */
int main(int argc, char **argv) {
    struct timespec at;
    char line[64];
    clock_gettime(CLOCK_REALTIME, &at);
    int length = snprintf(line, sizeof line, "%ld.%09ld\n", (long)at.tv_sec, at.tv_nsec);
    int file = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0644);
    return file < 0 || write(file, line, length) != length;
}
"""

APSCHEDULER = """
import subprocess, sys
from datetime import UTC, datetime
kind, jobs, at, stamp, marks = sys.argv[1:]
def run():
    subprocess.Popen([stamp, marks]).wait()
async def run_async():
    await (await asyncio.create_subprocess_exec(stamp, marks)).wait()
options = {"misfire_grace_time": 60}
def fill(scheduler, function):
    for number in range(int(jobs)):
        if float(at):
            scheduler.add_job(function, "date", run_date=datetime.fromtimestamp(float(at), UTC), **options)
        else:
            scheduler.add_job(function, "cron", second="*", **options)
    scheduler.start()
if kind == "asyncio":
    import asyncio
    from apscheduler.schedulers.asyncio import AsyncIOScheduler
    async def main():
        fill(AsyncIOScheduler(timezone=UTC), run_async)
        await asyncio.sleep(3600)
    asyncio.run(main())
else:
    from apscheduler.schedulers.blocking import BlockingScheduler
    store = {"url": "sqlite:///" + kind} if kind != "threads" else None
    scheduler = BlockingScheduler(timezone=UTC)
    if store:
        scheduler.add_jobstore("sqlalchemy", **store)
    fill(scheduler, "__main__:run" if store else run)
"""

SCHEDULE = """
import subprocess, sys, time, schedule
_, jobs, at, stamp, marks = sys.argv[1:]
processes = []
def run():
    processes.append(subprocess.Popen([stamp, marks]))
    processes[:] = [each for each in processes if each.poll() is None]
    if float(at):
        return schedule.CancelJob
if float(at):
    # Its finest grain is a second of the day.
    text = time.strftime("%H:%M:%S", time.localtime(float(at)))
    for number in range(int(jobs)):
        schedule.every().day.at(text).do(run)
else:
    for number in range(int(jobs)):
        schedule.every(1).seconds.do(run)
while True:
    schedule.run_pending()
    time.sleep(max(0.001, min(schedule.idle_seconds() or 0.001, 1.0)))
"""

CRONSIM = """
import subprocess, sys, time
from datetime import UTC, datetime
from cronsim import CronSim
_, jobs, at, stamp, marks = sys.argv[1:]
slots = None if float(at) else CronSim("* * * * * *", datetime.now(UTC))
alive = []
while True:
    due = float(at) if slots is None else next(slots).timestamp()
    time.sleep(max(0.0, due - time.time()))
    for number in range(int(jobs)):
        alive.append(subprocess.Popen([stamp, marks]))
        if len(alive) >= 64:
            alive[:] = [each for each in alive if each.poll() is None]
    if slots is None:
        for each in alive:
            each.wait()
        break
"""


@dataclass
class Task:
    """What is to be run: *jobs* at *at* (epoch seconds), or each second where that is 0."""

    jobs: int
    at: float
    stamp: Path
    marks: Path
    home: Path


def python(program: str, kind: str) -> Callable[[Task], list[str]]:
    def command(task: Task) -> list[str]:
        path = task.home / "peer.py"
        path.write_text(program)
        name = str(task.home / "jobs.db") if kind == "sqlite" else kind
        return [
            sys.executable,
            str(path),
            name,
            str(task.jobs),
            str(task.at),
            str(task.stamp),
            str(task.marks),
        ]

    return command


def yacron(task: Task) -> list[str]:
    if task.at:
        when = datetime.fromtimestamp(task.at, UTC)
        text = f"{when.minute} {when.hour} {when.day} {when.month} *"
    else:
        raise NotImplementedError  # minutes are its finest grain
    job = "  - name: j{0}\n    command:\n      - {1}\n      - {2}\n    schedule: {3}\n    utc: true\n"
    jobs = "".join(job.format(n, task.stamp, task.marks, text) for n in range(task.jobs))
    (task.home / "yacrontab.yaml").write_text("jobs:\n" + jobs)
    found = shutil.which("yacron", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return [str(found), "-c", str(task.home / "yacrontab.yaml")]


def cron(task: Task) -> list[str]:
    if not task.at:
        raise NotImplementedError
    crontabs, system = task.home / "crontabs", task.home / "etc"
    crontabs.mkdir()
    system.mkdir()
    when = datetime.fromtimestamp(task.at)  # cron reads the machine's own zone
    line = f"{when.minute} {when.hour} {when.day} {when.month} * {task.stamp} {task.marks}\n"
    (crontabs / "root").write_text(line * task.jobs)
    (crontabs / "root").chmod(0o600)
    script = (
        f"mount --bind {crontabs} /var/spool/cron/crontabs && mount --bind {system} /etc/cron.d && "
        "mount -t tmpfs none /run && exec cron -f"
    )
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]


@dataclass
class Peer:
    name: str
    command: Callable[[Task], list[str]]
    installed: Callable[[], bool]
    minutes: bool = False  # knows no seconds


def has(module: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(module) is not None


PEERS = [
    Peer("APScheduler, threads", python(APSCHEDULER, "threads"), has("apscheduler")),
    Peer("APScheduler, asyncio", python(APSCHEDULER, "asyncio"), has("apscheduler")),
    Peer("APScheduler on SQLite", python(APSCHEDULER, "sqlite"), lambda: has("apscheduler")() and has("sqlalchemy")()),
    Peer("schedule", python(SCHEDULE, ""), has("schedule")),
    Peer("a loop around cronsim", python(CRONSIM, ""), has("cronsim")),
    Peer("yacron", yacron, has("yacron"), minutes=True),
    Peer("Debian cron", cron, lambda: os.geteuid() == 0 and shutil.which("cron") is not None, minutes=True),
]  # fmt: skip


def moments(marks: Path) -> list[float]:
    try:
        return sorted(float(line) for line in marks.read_text().splitlines())
    except FileNotFoundError:
        return []


def wait_for(marks: Path, count: int, seconds: float) -> list[float]:
    deadline = time.monotonic() + seconds
    while len(found := moments(marks)) < count and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def burst_of(peer: Peer | None, directory: Path, stamp: Path, jobs: int) -> list[float]:
    """Return how long after the slot each job of a burst began; *peer* ``None``: echosched."""
    directory.mkdir()
    slot = common.slot_in(8)
    if peer is not None and peer.minutes:
        slot = (datetime.now(UTC) + timedelta(seconds=68)).replace(second=0, microsecond=0)
    task = Task(jobs, slot.timestamp(), stamp, directory / "marks", directory)
    with running(peer, task):
        common.sleep_until(slot, before=-3.0)
        found = wait_for(task.marks, jobs, 60)
    return [at - slot.timestamp() for at in found]


def lags_of(peer: Peer | None, directory: Path, stamp: Path, seconds: int) -> list[float]:
    """Return how late a job began that is due each second."""
    directory.mkdir()
    task = Task(1, 0.0, stamp, directory / "marks", directory)
    with running(peer, task):
        time.sleep(seconds + 3)
        found = moments(task.marks)
    return [at % 1.0 for at in found[2:]]  # the first ones meet cold caches


class running:
    """The scheduler under test, alive for a ``with``."""

    def __init__(self, peer: Peer | None, task: Task) -> None:
        self.peer = peer
        self.task = task

    def __enter__(self) -> None:
        task = self.task
        if self.peer is not None:
            self.process = subprocess.Popen(
                self.peer.command(task), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            return
        slot = datetime.fromtimestamp(task.at, UTC).isoformat().replace("+00:00", "Z")
        when = f"at {slot}" if task.at else "* * * * * *"
        jobs = "".join(
            f'[job.j{n}]\nschedule = "{when}"\ncommand = ["{task.stamp}", "{task.marks}"]\n'
            for n in range(task.jobs)
        )
        self.daemon = common.Daemon(task.home / "home", jobs)
        self.daemon.__enter__()

    def __exit__(self, *_: object) -> None:
        if self.peer is None:
            self.daemon.__exit__()
        else:
            self.process.kill()
            self.process.wait()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("names", nargs="*", help="parts of peers' names; all by default")
    options.add_argument("--jobs", type=int, default=1000)
    options.add_argument("--seconds", type=int, default=30)
    chosen = options.parse_args()
    wanted = [p for p in PEERS if not chosen.names or any(n in p.name for n in chosen.names)]
    absent = [peer.name for peer in wanted if not peer.installed()]
    peers: list[Peer | None] = [None, *(peer for peer in wanted if peer.installed())]
    bursts: dict[str, list[float]] = {}
    lags: dict[str, list[float]] = {}
    with common.workshop() as directory:
        stamp = common.build(directory, "stamp", STAMP_C, "-static")
        tiny = common.build(directory, "tiny", common.TINY_C, "-static")
        loop = common.build(directory, "loop", common.LOOP_C)
        reference = [common.c_loop(loop, tiny, chosen.jobs)]
        for number, peer in enumerate([*peers, None]):  # ours twice, first and last: the machine may change
            name = "echosched" if peer is None else peer.name
            began = burst_of(peer, directory / f"burst{number}", stamp, chosen.jobs)
            print(
                f"  {name}: {len(began)} of {chosen.jobs}, last after {max(began, default=0):.3f} s",
                flush=True,
            )
            if name not in bursts or len(began) < chosen.jobs or began[-1] < bursts[name][-1]:
                bursts[name] = began
            reference.append(common.c_loop(loop, tiny, chosen.jobs))
        for number, peer in enumerate([*peers, None]):
            if peer is not None and peer.minutes:
                continue
            name = "echosched" if peer is None else peer.name
            late = lags_of(peer, directory / f"lag{number}", stamp, chosen.seconds)
            print(f"  {name}: one job a second, median {common.median(late) * 1000:.2f} ms", flush=True)
            if name not in lags or common.median(late) < common.median(lags[name]):
                lags[name] = late
    rows = []
    own = bursts["echosched"][-1]
    for name, began in bursts.items():
        if len(began) < chosen.jobs:
            rows.append(
                common.row(f"{name}: of {chosen.jobs} jobs never started", chosen.jobs - len(began), None)
            )
        if began:
            rows.append(common.row(f"{name}: last start", began[-1], None, "s"))
    others = [
        began[-1] for name, began in bursts.items() if name != "echosched" and len(began) == chosen.jobs
    ]
    if others:
        rows.append(common.row("last start ÷ that of the fastest peer", own / min(others), 1.0, "×"))
    for name, late in lags.items():
        rows.append(common.row(f"{name}: one job a second, median", common.median(late) * 1000, None, "ms"))
        rows.append(common.row(f"{name}: 99 of 100", common.quantile(late, 0.99) * 1000, None, "ms"))
    threads = lags.get("APScheduler, threads")
    if threads:
        ratio = common.median(lags["echosched"]) / common.median(threads)
        rows.append(common.row("median lag ÷ that of APScheduler's threads", ratio, 1.0, "×"))
    rows.append(common.row("C loop of posix_spawn with 4 alive", common.median(reference), None, "s"))
    for name in absent:
        print(f"not installed: {name}")
    return common.report("peers", rows, bursts=bursts, lags=lags, absent=absent, jobs=chosen.jobs)


if __name__ == "__main__":
    sys.exit(main())
