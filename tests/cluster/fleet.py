"""Several hosts with one set of jobs: real daemons with homes of their own, one PostgreSQL, and their account."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from tests.postgres import PostgresServer, programs
from tests.system.conftest import CLI, eventually
from tests.torture.driver import Ordeal
from tests.torture.oracle import EPOCH, Account, Row, compare, read_marks

from .network import Proxy, Way, Wire, wires_are_possible

EXACT = 'catchup = "all"\noverlap = "allow"\n'
MARK = 'echo "$ECHOSCHED_JOB $ECHOSCHED_SLOT $ECHOSCHED_ATTEMPT" >> {marks}'

DAEMON = '[daemon]\ntick = "0"\nmax_restarts = 100000\nrestart_window = "1s"\ngrace = "10s"\n'


@dataclass(frozen=True)
class Task:
    """A job of the fleet: when, what follows its mark, and its keys."""

    schedule: str
    rest: str = ""
    keys: str = EXACT


class Host(Ordeal):
    """One of the fleet: a home, a daemon, and a way to the database."""

    def __init__(self, directory: Path, name: str, way: Way, *, seed: int = 0) -> None:
        super().__init__(directory, seed)
        self.name = name
        self.way = way
        self.stopped: list[int] = []

    def run(self, verb: str, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, on this host."""
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            [*self.way.prefix, *CLI, verb, "--home", str(self.directory), *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=self.environ,
            **options,
        )

    def pause(self) -> None:
        """Stop supervisor and worker with SIGSTOP: a host that sleeps, and does not know it."""
        self.stopped = [pid for pid in (self.pid, self.find_worker()) if pid is not None]
        for pid in self.stopped:
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on where it was."""
        stopped, self.stopped = self.stopped, []
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End the daemon and its jobs."""
        self.go_on()
        try:
            self.run("stop", "--force")
        finally:
            super().close()


@dataclass
class Tally:
    """What the fleet's account adds to that of one machine."""

    account: Account
    twice: list[tuple[int, int]] = field(
        default_factory=list
    )  # (run, attempt) that two ends were recorded for
    share: dict[str, int] = field(default_factory=dict)  # instance → runs that it ended
    lags: list[float] = field(default_factory=list)  # slot → start, in seconds

    @property
    def line(self) -> str:
        """Return the figures in one line."""
        lags = sorted(self.lags) or [0.0]
        return (
            f"{self.account.line}, recorded twice {len(self.twice)}; runs by instance {self.share}; "
            f"lag p50 {lags[len(lags) // 2] * 1000:.0f} ms, p99 {lags[len(lags) * 99 // 100] * 1000:.0f} ms"
        )

    def hold(self) -> None:
        """Fail, with what was found, unless nothing was lost, doubled or recorded twice."""
        self.account.hold()
        assert not self.twice, ("recorded twice", self.twice[:20], self.line)


class Fleet:
    """*count* hosts on one database."""

    def __init__(
        self,
        directory: Path,
        count: int = 2,
        *,
        heartbeat: str = "1s",
        lease: str = "5s",
        seed: int = 0,
        wires: bool | None = None,
        settings: str = "",
    ) -> None:
        found = programs()
        assert found is not None, "there is no PostgreSQL"
        self.directory = directory
        self.marks = directory / "marks"
        self.cluster = f'heartbeat = "{heartbeat}"\nlease = "{lease}"\n'
        self.chance = random.Random(seed)
        self.hosts: list[Host] = []
        self.tasks: dict[str, Task] = {}
        self.repeatable: frozenset[str] = frozenset()
        self.server = PostgresServer(found, settings=settings)
        self.wired = wires_are_possible() if wires is None else wires
        self._count = count
        self._seed = seed

    @property
    def dsn(self) -> str:
        """Return the address of the database for whoever stands beside the server."""
        return self.server.local("cluster")

    def open(self) -> None:
        """Lay the wires and start the database."""
        ways: list[Way] = []
        for number in range(self._count):
            wire: Way = (
                Wire(self.server.port) if self.wired else Proxy((self.server.listen, self.server.port))
            )
            ways.append(wire)
            home = self.directory / f"h{number}"
            home.mkdir()
            self.hosts.append(Host(home, f"host-{number}", wire, seed=self._seed + number))
        if self.wired:
            self.server.listen = ",".join(["127.0.0.1", *(way.address[0] for way in ways)])
        self.server.create()
        self.server.start()
        self.server.sql("postgres", "CREATE DATABASE cluster")

    def close(self) -> None:
        """End everything that was started, whatever state it is in."""
        for host in self.hosts:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                host.way.join()
        for host in self.hosts:
            with contextlib.suppress(OSError, subprocess.SubprocessError, AssertionError):
                host.close()
        for host in self.hosts:
            host.way.remove()
        self.server.remove()

    # ── configuration ─────────────────────────────────────────────────────────────────────────

    def furnish(
        self,
        tasks: dict[str, Task],
        *,
        hosts: Sequence[Host] | None = None,
        cluster: str = "",
        daemon: str = "",
        repeatable: Sequence[str] = (),
    ) -> None:
        """Write the configuration of *hosts* (all of them): the same jobs, and each its own name."""
        mark = MARK.format(marks=self.marks)
        text = ""
        for name, task in tasks.items():
            command = f"{mark}; {task.rest}" if task.rest else mark
            text += f"[job.{name}]\nschedule = '{task.schedule}'\ncommand = '''{command}'''\noutput = false\n"
            text += task.keys
        self.tasks |= tasks
        self.repeatable |= frozenset(repeatable)
        for host in self.hosts if hosts is None else hosts:
            host.jobs = {name: (task.schedule, task.rest, task.keys) for name, task in tasks.items()}
            dsn = self.server.dsn("cluster", *host.way.address)
            own = f'[cluster]\ndsn = """{dsn}"""\ninstance = "{host.name}"\n{self.cluster}{cluster}'
            host.write(f"{DAEMON}{daemon}\n{own}\n{text}")

    def start(self) -> None:
        """Start all hosts."""
        for host in self.hosts:
            host.ok("start")

    # ── what the database says ────────────────────────────────────────────────────────────────

    def query(self, question: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that answer *question*."""
        with contextlib.closing(psycopg.connect(self.dsn, autocommit=True, connect_timeout=10)) as connection:
            connection.execute("SET search_path = echosched")
            return connection.execute(question.encode(), values).fetchall()

    def rows(self) -> list[Row]:
        """Return all runs."""
        found = self.query("SELECT run, job, slot, state, attempt, error FROM runs")
        return [
            Row(run, job, None if slot is None else EPOCH + timedelta(microseconds=slot), *rest)
            for run, job, slot, *rest in found
        ]

    def ended(self) -> int:
        """Return how many runs have ended."""
        return int(self.query("SELECT count(*) FROM runs WHERE ended_at IS NOT NULL")[0][0])

    def instances(self) -> dict[str, dict[str, Any]]:
        """Return what ``cluster status`` says of each instance, asked of the first host that answers."""
        for host in self.hosts:
            done = host.run("cluster", "--json", "status")
            if done.returncode == 0:
                import json

                return {row["name"]: row for row in json.loads(done.stdout)["instances"]}
        return {}

    def calm_down(self, seconds: float = 120.0) -> datetime:
        """Wait until all that came due by now is accounted for and has ended; return that instant."""
        until = datetime.now(UTC)
        micros = (until - EPOCH) // timedelta(microseconds=1)

        def caught_up() -> bool:
            try:
                [[behind]] = self.query(
                    "SELECT count(*) FROM jobs WHERE name = ANY(%s) AND cursor_at < %s",
                    [list(self.tasks), micros],
                )
                [[waiting]] = self.query(
                    "SELECT count(*) FROM runs WHERE ended_at IS NULL AND slot <= %s", [micros]
                )
            except psycopg.Error:
                return False
            return behind == 0 and waiting == 0

        # A job's cursor passes the last slot before "until" only with the next one: wait for that, too.
        latest = min(
            slot for task in self.tasks.values() if (slot := _latest(task.schedule, until)) is not None
        )
        micros = (latest - EPOCH) // timedelta(microseconds=1)
        try:
            eventually(caught_up, seconds)
        except AssertionError as error:
            raise AssertionError(f"not calm within {seconds:g} s:\n{self.condition(micros)}") from error
        return latest

    def condition(self, micros: int) -> str:
        """Return what each host says of itself and what is not accounted for up to *micros*: for whoever debugs."""
        lines = []
        for host in self.hosts:
            document = host.status
            reasons = "; ".join(document.get("reasons") or [])
            lines.append(f"{host.name}: {document['health']} {reasons} {document.get('runs')}")
        with contextlib.suppress(psycopg.Error):
            behind = self.query(
                "SELECT name, cursor_at - %s FROM jobs WHERE cursor_at < %s", [micros, micros]
            )
            lines.append(f"behind: {behind[:10]} ({len(behind)} jobs)")
            waiting = self.query(
                "SELECT state, owner, queue, count(*), min(run) FROM runs WHERE ended_at IS NULL AND slot <= %s"
                " GROUP BY 1, 2, 3",
                [micros],
            )
            lines += [f"waiting: {row}" for row in waiting]
            tickets = self.query(
                "SELECT j.status, j.queue_name, j.attempts, j.scheduled_at, r.run, r.job, r.attempt, r.blocked"
                " FROM runs AS r LEFT JOIN procrastinate_jobs AS j ON j.args ->> 'run' = r.run::text"
                " WHERE r.ended_at IS NULL AND r.state = 'queued' AND r.slot <= %s LIMIT 20",
                [micros],
            )
            lines += [f"ticket: {row}" for row in tickets]
        return "\n".join(lines)

    def account(self, until: datetime, *, since: datetime | None = None) -> Tally:
        """Compare what should have happened with what did."""
        # What came due after "until" belongs to nobody's account yet, unless a job was there twice.
        rows = [row for row in self.rows() if row.slot is None or row.slot <= until]
        marks = read_marks(self.marks)
        later = Counter({key: count for key, count in marks.items() if key[1] > until})
        schedules = {name: task.schedule for name, task in self.tasks.items()}
        account = compare(
            schedules, rows, marks - later, until=until, since=since, repeatable=self.repeatable
        )
        account.doubled += [(job, slot) for (job, slot, _), count in later.items() if count > 1]
        tally = Tally(account)
        ends: Counter[tuple[int, int]] = Counter()
        for host in self.hosts:
            for event in host.events("run_end"):
                ends[event["run"], event["attempt"]] += 1
        tally.twice = [key for key, count in ends.items() if count > 1]
        tally.share = dict(
            self.query("SELECT owner, count(*) FROM runs WHERE started_at IS NOT NULL GROUP BY 1 ORDER BY 1")
        )
        tally.lags = [
            lag / 1e6
            for (lag,) in self.query(
                "SELECT started_at - slot FROM runs WHERE attempt = 1 AND started_at IS NOT NULL AND slot IS NOT NULL"
            )
        ]
        return tally


def _latest(schedule: str, until: datetime) -> datetime | None:
    from echosched.schedule import parse_schedule

    parsed, found = parse_schedule(schedule), None
    slot = parsed.next_after(until - timedelta(minutes=2))
    while slot is not None and slot <= until:
        found, slot = slot, parsed.next_after(slot)
    return found


@contextlib.contextmanager
def fleet_of(directory: Path, count: int, **options: Any) -> Iterator[Fleet]:
    """Give a fleet with its database running, and take everything away afterwards."""
    fleet = Fleet(directory, count, **options)
    try:
        fleet.open()
        yield fleet
    finally:
        fleet.close()


def say(text: str) -> None:
    """Print a line that the reader of a test run shall see, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
