"""From rows to figures: what happened in a period, as values that the pages are made of."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo

from echosched.builtin import Context
from echosched.model import FAILURES, Run, State
from echosched.notify.output import tail

TROUBLES = (*FAILURES, State.MISSED)
_PAGE = 500
_MOST_RUNS = 200_000
_MOST_SLOTS = 20_000


@dataclass(slots=True)
class JobFigures:
    """One job's period. Durations and lags in seconds, of the runs that have them."""

    name: str
    counts: Counter[State] = field(default_factory=Counter)
    durations: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    last: Run | None = None
    hours: dict[int, Counter[State]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Return how many runs there were, skipped and missed ones included."""
        return self.counts.total()

    @property
    def troubles(self) -> int:
        """Return how many of them went wrong."""
        return sum(self.counts[state] for state in TROUBLES)


@dataclass(slots=True)
class Trouble:
    """The same thing going wrong once or more: *run* is the latest instance."""

    run: Run
    why: str
    count: int = 0
    output: str = ""


@dataclass(slots=True)
class Period:
    """What happened from *start* (included) to *end* (excluded), by the instant a run was queued."""

    start: datetime
    end: datetime
    jobs: dict[str, JobFigures] = field(default_factory=dict)
    counts: Counter[State] = field(default_factory=Counter)
    troubles: dict[tuple[str, State, str], Trouble] = field(default_factory=dict)
    complete: bool = True

    def add(self, run: Run) -> None:
        """Count *run*; runs come newest first."""
        figures = self.jobs.get(run.job)
        if figures is None:
            figures = self.jobs[run.job] = JobFigures(run.job)
        figures.counts[run.state] += 1
        self.counts[run.state] += 1
        if figures.last is None:
            figures.last = run
        if run.duration_seconds is not None:
            figures.durations.append(run.duration_seconds)
        if run.lag_seconds is not None:
            figures.lags.append(run.lag_seconds)
        hour = int((run.queued_at - self.start).total_seconds() // 3600)
        figures.hours.setdefault(hour, Counter())[run.state] += 1
        if run.state in TROUBLES:
            reason = why(run)
            trouble = self.troubles.setdefault((run.job, run.state, reason), Trouble(run, reason))
            trouble.count += 1


@dataclass(frozen=True, slots=True)
class Coming:
    """A job's slots in the time to come: the first, how many, and its zone for people."""

    job: str
    first: datetime
    count: int
    zone: tzinfo | None


def why(run: Run) -> str:
    """Return why *run* ended as it did, in words."""
    if run.error:
        return run.error
    if run.signal:
        return f"signal {run.signal}"
    if run.exit_code is not None:
        return f"exit code {run.exit_code}"
    return str(run.state)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest of *values* that at least *share* of them do not exceed (nearest rank)."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


async def gather(context: Context, start: datetime, end: datetime) -> Period:
    """Return the figures of all runs queued from *start* to *end*, this run left out."""
    period = Period(start, end)
    before: int | None = None
    seen = 0
    while True:
        page = await context.store.history(since=start, until=end, before_run=before, limit=_PAGE)
        for run in page:
            if run.run != context.run and start <= run.queued_at < end:
                period.add(run)
        seen += len(page)
        if len(page) < _PAGE:
            return period
        if seen >= _MOST_RUNS:
            period.complete = False
            return period
        before = page[-1].run
        await asyncio.sleep(0)  # due slots go first


async def worst(context: Context, period: Period, most: int) -> list[Trouble]:
    """Return the *most* recent kinds of trouble, newest first, each with the tail of its last output."""
    found = sorted(period.troubles.values(), key=lambda trouble: -trouble.run.run)[:most]

    def read() -> None:
        for trouble in found:
            run = trouble.run
            trouble.why = context.redact(trouble.why)
            if run.output_bytes:
                trouble.output = tail(context.output_path(run.run, run.attempt), context.redact, lines=12)

    await asyncio.to_thread(read)
    return found


async def coming(context: Context, start: datetime, end: datetime) -> tuple[list[Coming], bool]:
    """Return each job's slots from *start* to *end*, soonest first, and whether those are all."""
    first: dict[str, datetime] = {}
    counts: Counter[str] = Counter()
    complete = True
    for number, (job, slot) in enumerate(context.next_slots(start, end)):
        if number >= _MOST_SLOTS:
            complete = False
            break
        first[job] = min(slot, first.get(job, slot))
        counts[job] += 1
        if number % 200 == 199:
            await asyncio.sleep(0)
    zones = _zones((context.jobs[job].timezone, job) for job in first if job in context.jobs)
    rows = [Coming(job, at, counts[job], zones.get(job)) for job, at in first.items()]
    return sorted(rows, key=lambda row: (row.first, row.job)), complete


def _zones(named: Iterable[tuple[str, str]]) -> Mapping[str, tzinfo]:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    found: dict[str, tzinfo] = {}
    for zone, job in named:
        if zone and zone not in ("UTC", "Etc/UTC"):
            try:
                found[job] = ZoneInfo(zone)
            except (ZoneInfoNotFoundError, ValueError):
                continue
    return found


def whole_days_before(now: datetime) -> tuple[datetime, datetime]:
    """Return yesterday in UTC as seen at *now*: its beginning and its end."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=1), today
