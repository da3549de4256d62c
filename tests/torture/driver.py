"""The driver: a whole daemon with mixed jobs, and somebody who kills parts of it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.system.conftest import House, eventually

from .oracle import EPOCH, Account, compare, read_marks, read_rows

# name: (schedule, what follows the mark, keys). All begin by appending their mark: one short write, O_APPEND.
EXACT = 'catchup = "all"\noverlap = "allow"\n'
JOBS: dict[str, tuple[str, str, str]] = {
    "quick": ("* * * * * *", "", EXACT),
    "quick2": ("every 1s from 2026-01-01T00:00Z", "", EXACT),
    "slow": ("*/2 * * * * *", "sleep 1.5", EXACT),
    "long": ("*/5 * * * * *", "sleep 4", EXACT),
    "silent": ("*/2 * * * * *", "sleep 0.2", EXACT + "output = false\n"),
    "again": ("*/2 * * * * *", "sleep 0.5", EXACT + 'on_abandoned = "retry"\n'),
    "plain": ("*/2 * * * * *", "sleep 0.3", ""),
    "late": ("*/3 * * * * *", "sleep 4", ""),
    "queue": ("*/2 * * * * *", "sleep 2.2", 'overlap = "queue"\n'),
    "queue_all": ("*/2 * * * * *", "sleep 1", 'overlap = "queue_all"\ncatchup = "all"\n'),
    "replace": ("*/4 * * * * *", "sleep 5", 'overlap = "replace"\n'),
    "group1": ("*/2 * * * * *", "sleep 0.4", 'catchup = "all"\noverlap = "queue_all"\nconcurrency_group = "g"\n'),
    "group2": ("*/2 * * * * *", "sleep 0.4", 'catchup = "all"\noverlap = "queue_all"\nconcurrency_group = "g"\n'),
}  # fmt: skip
REPEATABLE = frozenset({"again"})
FOLLOWERS = {"follower": "slow"}

DAEMON = """[daemon]
tick = "0"
max_restarts = 100000
restart_window = "1s"
grace = "20s"
"""

# The daemon of a test that was itself killed must not outlive it.
GUARD = """[job.guard]
schedule = "every 10s"
output = false
command = "kill -0 {tester} 2>/dev/null || kill $(cat {pidfile})"
"""


class Ordeal(House):
    """A house whose jobs write down that they were there, and whose daemon is killed."""

    def __init__(self, directory: Path, seed: int = 0) -> None:
        super().__init__(directory)
        self.marks = directory / "marks"
        self.offset = timedelta(0)  # of the daemon's wall clock, where a shim moves it
        self.since: datetime | None = None  # what came before was not due (None: before each job's first row)
        self.database = directory / "echosched.db"
        self.chance = random.Random(seed)
        self.worker_kills = 0
        self.supervisor_kills = 0

    def furnish(
        self, jobs: dict[str, tuple[str, str, str]] = JOBS, *, followers: bool = True, daemon: str = DAEMON
    ) -> None:
        """Write the configuration."""
        self.jobs = dict(jobs)
        mark = f'echo "$ECHOSCHED_JOB $ECHOSCHED_SLOT $ECHOSCHED_ATTEMPT" >> {self.marks}'
        text = daemon + GUARD.format(tester=os.getpid(), pidfile=self.directory / "echosched.pid")
        for name, (schedule, rest, keys) in self.jobs.items():
            command = f"{mark}; {rest}" if rest else mark
            text += f"[job.{name}]\nschedule = '{schedule}'\ncommand = '''{command}'''\n{keys}"
        for name, after in FOLLOWERS.items() if followers else ():
            text += f"[job.{name}]\nafter = '{after}'\noverlap = 'allow'\ncommand = '''{mark}'''\n"
        self.followers = FOLLOWERS if followers else {}
        self.write(text)

    # ── killing ───────────────────────────────────────────────────────────────────────────────

    def find_worker(self) -> int | None:
        """Return the worker's pid by looking at the supervisor's children."""
        try:
            supervisor = self.pid
            for child in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
                if b"_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        except (OSError, ValueError):
            pass
        return None

    def kill_worker(self) -> None:
        worker = self.find_worker()
        if worker is not None:
            os.kill(worker, signal.SIGKILL)
            self.worker_kills += 1

    def kill_supervisor(self, *, restart: bool = True) -> None:
        worker = self.find_worker()
        os.kill(self.pid, signal.SIGKILL)
        self.supervisor_kills += 1
        if restart:
            self.ok("start")
            assert (
                worker is None
                or not os.path.exists(f"/proc/{worker}/environ")
                or worker != self.find_worker()
            )

    def torment(self, seconds: float, *, supervisor_share: float = 0.3) -> None:
        """Kill worker and supervisor at random instants for *seconds*."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self.chance.choice((self.chance.uniform(0, 0.3), self.chance.uniform(0.5, 3.5))))
            if self.chance.random() < supervisor_share:
                self.kill_supervisor()
            else:
                self.kill_worker()

    def close(self) -> None:
        """End the daemon, also where its pidfile can no longer be read."""
        for pid in self.find_supervisors():
            os.kill(pid, signal.SIGKILL)
        super().close()

    def find_supervisors(self) -> list[int]:
        """Return the pids of supervisors (never more than one, one hopes) that were started on our directory."""
        found = []
        for name in os.listdir("/proc"):
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0") if name.isdigit() else []
            except OSError:
                continue
            if any(word.endswith(b"daemon/__main__.py") for word in words) and any(
                word.startswith(os.fsencode(self.directory) + b"/") for word in words
            ):
                found.append(int(name))
        return found

    # ── the end ───────────────────────────────────────────────────────────────────────────────

    def calm_down(self, seconds: float = 60.0) -> datetime:
        """Let the daemon catch up, stop it, and return an instant up to which all must be accounted for.

        A backlog is worked off one after another: after a long ordeal that takes a while.
        What is missing when *seconds* have passed is in the failure.
        """
        eventually(lambda: self.run("status").returncode == 0 and self.status["health"] == "ok")
        until = datetime.now(UTC) + self.offset
        deadline = time.monotonic() + seconds
        while missing := self._missing(until):
            assert time.monotonic() < deadline, (
                f"not accounted for within {seconds:.0f} s",
                missing,
                self.out[-2000:],
            )
            time.sleep(0.1)
        self.ok("stop")
        return until

    def _missing(self, until: datetime) -> list[str]:
        """Return what is not accounted for yet: runs without an outcome, jobs that are behind."""
        micros = (until - EPOCH) // timedelta(microseconds=1)
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)
        try:
            cursors = dict(connection.execute("SELECT name, cursor_at FROM jobs"))
            open_runs = connection.execute(
                "SELECT run, job, state FROM runs WHERE ended_at IS NULL AND slot <= ?", [micros]
            ).fetchall()
        finally:
            connection.close()
        behind = [f"{name} is behind" for name in self.jobs if cursors[name] < micros]
        return [f"run {run} of {job} is {state}" for run, job, state in open_runs] + behind

    def account(self, until: datetime, *, blind: bool = False) -> Account:
        """Compare what should have happened with what did."""
        schedules = {name: schedule for name, (schedule, _, _) in self.jobs.items()}
        rows = [row for row in read_rows(self.database) if row.job != "guard"]
        for row in rows:
            # A stop leaves what is queued to the next daemon; it must only not lose it.
            if row.slot is not None and row.slot > until and row.state in ("queued", "running"):
                row.state, row.error = "cancelled", "left to the next daemon"
            # The memory of a second attempt may go down too; its output then bars the third from being it.
            if blind and row.state == "failed" and "begun before" in (row.error or ""):
                row.state = "abandoned"
            # The worker that ended it for a newer slot was killed before it could write down why.
            keys = self.jobs.get(row.job, ("", "", ""))[2]
            if (
                row.state == "failed"
                and keys.startswith('overlap = "replace"')
                and "SIGTERM" in (row.error or "")
            ):
                row.state = "cancelled"
        account = compare(
            schedules,
            rows,
            read_marks(self.marks),
            until=until,
            since=self.since,
            repeatable=REPEATABLE,
            blind=blind,
        )
        for follower, leader in self.followers.items():
            led = {
                row.slot
                for row in rows
                if row.job == leader and row.state == "succeeded" and row.slot <= until
            }
            followed = {row.slot for row in rows if row.job == follower}
            account.lost += [(follower, slot) for slot in sorted(led - followed)]
            account.due += len(led)
        return account
