"""A built-in job's surroundings, in memory and in tmp_path."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from echosched.builtin import Context
from echosched.errors import StoreUnavailable
from echosched.model import BuiltinAction, Job, JobRecord, Policy, Pruned, Run, State, Trigger

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


class Clock:
    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0

    def boot(self) -> float:
        return 0.0


def make_run(number: int, job: str = "backup", state: State = State.SUCCEEDED, **given) -> Run:
    queued = given.pop("queued_at", NOW - timedelta(hours=1))
    lag, took = given.pop("lag", 0.002), given.pop("took", 1.5)
    started = queued + timedelta(seconds=lag)
    defaults = {
        "run": number, "job": job, "slot": queued, "trigger": Trigger.SCHEDULE, "attempt": 1, "state": state,
        "queued_at": queued, "started_at": started, "ended_at": started + timedelta(seconds=took),
    }  # fmt: skip
    if state in (State.MISSED, State.SKIPPED):
        defaults["started_at"] = None
    return Run(**{**defaults, **given})


@dataclass
class Rows:
    """As much of a store as the built-in jobs ask for, over plain lists."""

    runs: list[Run] = field(default_factory=list)
    records: dict[str, JobRecord] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)
    broken: bool = False
    prunings: list[Pruned] = field(default_factory=list)
    asked: list[dict] = field(default_factory=list)
    pages: int = 0

    def _check(self) -> None:
        if self.broken:
            raise StoreUnavailable("echosched.db: disk I/O error")

    async def history(self, *, job=None, states=(), since=None, until=None, before_run=None, limit=50):
        self._check()
        self.pages += 1
        found = [
            r for r in sorted(self.runs, key=lambda r: -r.run)
            if (job is None or r.job == job) and (not states or r.state in states)
            and (since is None or r.queued_at >= since) and (until is None or r.queued_at <= until)
            and (before_run is None or r.run < before_run)
        ]  # fmt: skip
        return found[:limit]

    async def active(self):
        self._check()
        return [r for r in self.runs if not r.state.is_outcome]

    async def get_run(self, run):
        self._check()
        return next((r for r in self.runs if r.run == run), None)

    async def load_jobs(self):
        self._check()
        return self.records

    async def check(self):
        self._check()
        return self.damage

    async def prune(self, **asked):
        self._check()
        self.asked.append(asked)
        return self.prunings.pop(0) if self.prunings else Pruned()


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def make(tmp_path: Path, rows: Rows):
    """Return a maker of contexts; ``make.events``, ``make.output``, ``make.triggered`` show what happened."""
    seen = SimpleNamespace(events=[], output=[], triggered=[])

    async def trigger(job: str, why: Trigger) -> int:
        seen.triggered.append((job, why))
        return 900 + len(seen.triggered)

    def build(**given) -> Context:
        for name in ("runs", "reports"):
            (tmp_path / name).mkdir(exist_ok=True)
        settings = SimpleNamespace(
            runs=timedelta(days=30), keep=1000, output=timedelta(days=7), reports=timedelta(days=30)
        )
        context = Context(
            run=1000, attempt=1, started_by=Trigger.SCHEDULE, store=rows, clock=Clock(), emit=seen.events.append,
            log=seen.output.append, jobs={}, next_slots=lambda start, end: [], trigger=trigger,
            output_path=lambda run, attempt: tmp_path / "runs" / f"{run}.{attempt}.out",
            runs_dir=tmp_path / "runs", reports_dir=tmp_path / "reports", retention=settings, version="0.1",
        )  # fmt: skip
        return replace(context, **given)

    build.events, build.output, build.triggered = seen.events, seen.output, seen.triggered
    return build


def make_job(name: str, *, timezone: str = "UTC", enabled: bool = True, **policy) -> Job:
    return Job(
        name,
        BuiltinAction("brief"),
        timezone=timezone,
        enabled=enabled,
        policy=Policy(**policy) if policy else Policy(),
    )


@pytest.fixture
def a_run():
    return make_run


@pytest.fixture
def a_job():
    return make_job
