"""For tests, ours and users': a clock that is moved by hand, a store in memory, a sink that remembers.

>>> from datetime import timedelta
>>> clock = FakeClock()
>>> clock.advance(timedelta(days=365))
>>> clock.now().isoformat()
'2027-01-01T00:00:00+00:00'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from echosched import transitions
from echosched.errors import StoreError
from echosched.model import Claim, Ended, JobRecord, Pruned, Run, Started, State

if TYPE_CHECKING:
    from echosched.events import Event

__all__ = ["FakeClock", "MemoryStore", "RecordingSink"]

_E = TypeVar("_E", bound="Event")
_START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """A :class:`~echosched.protocols.Clock` that moves only when told to.

    Whoever waits for time (a timer under test) subscribes and is called after each change; that is how
    a year passes in a second.
    """

    def __init__(self, start: datetime = _START) -> None:
        if start.tzinfo is None:
            raise ValueError(f"{start}: a time zone is missing (pass an aware datetime)")
        self._now = start.astimezone(UTC)
        # Not zero: code that takes "0.0" for "never" should fail in tests too.
        self._monotonic = timedelta(seconds=1_000)
        self._boot = timedelta(seconds=2_000)
        self._subscribers: list[Callable[[], None]] = []

    def now(self) -> datetime:
        """Return the present instant, aware UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds that never step."""
        return self._monotonic.total_seconds()

    def boot(self) -> float:
        """Return seconds since boot, suspend included."""
        return self._boot.total_seconds()

    def advance(self, by: timedelta) -> None:
        """Let *by* pass on all three clocks."""
        if by < timedelta(0):
            raise ValueError(f"{by}: time does not pass backwards (use set() to step the wall clock)")
        self._now += by
        self._monotonic += by
        self._boot += by
        self._tell()

    def set(self, now: datetime) -> None:
        """Step the wall clock, forward or back; the other two stand still, as when an operator sets it."""
        if now.tzinfo is None:
            raise ValueError(f"{now}: a time zone is missing (pass an aware datetime)")
        self._now = now.astimezone(UTC)
        self._tell()

    def suspend(self, by: timedelta) -> None:
        """Let the machine sleep for *by*: wall and boot clock move, the monotonic one rests."""
        self._now += by
        self._boot += by
        self._tell()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* after each change; the returned function ends that."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    def _tell(self) -> None:
        for callback in list(self._subscribers):
            callback()


class RecordingSink:
    """An :class:`~echosched.protocols.EventSink` that keeps what it is told, in order, in :attr:`events`."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Keep *event*."""
        self.events.append(event)

    def of(self, kind: type[_E]) -> list[_E]:
        """Return the events of one class, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def names(self) -> list[str]:
        """Return the journal names of all events, in order."""
        return [event.event for event in self.events]

    def clear(self) -> None:
        """Forget everything so far."""
        self.events.clear()


@dataclass(slots=True)
class _Data:
    """What a store holds; apart from the store, so that it survives close and open."""

    jobs: dict[str, JobRecord] = field(default_factory=dict)
    slots: dict[tuple[str, datetime], int] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)  # in the order of their numbers
    active: dict[int, None] = field(default_factory=dict)
    outputs: set[int] = field(default_factory=set)  # runs whose output was not yet given up
    counts: dict[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))
    notes: dict[str, str] = field(default_factory=dict)
    next_run: int = 1


class MemoryStore:
    """A :class:`~echosched.protocols.Store` in plain dicts, with the semantics of the real ones.

    It keeps its contents over ``close`` and ``open``, as a file would: a test can let one scheduler
    crash and start another on the same store. While :attr:`fault` is set, every awaited write raises it
    and changes nothing.
    """

    def __init__(self, owner: str | None = None) -> None:
        self.owner = owner
        self.fault: StoreError | None = None
        self._data = _Data()

    async def open(self) -> None:
        """Do nothing: there is no file."""

    async def close(self) -> None:
        """Do nothing: the contents stay until the object goes."""

    # ── writes ────────────────────────────────────────────────────────────────────────────────

    async def save_jobs(self, records: Iterable[JobRecord]) -> None:
        """Insert or replace job records, all but ``last_run``."""
        self._may_write()
        jobs = self._data.jobs
        for record in records:
            known = jobs.get(record.name)
            jobs[record.name] = replace(record, last_run=known.last_run if known else None)

    async def claim(self, claims: Sequence[Claim]) -> list[int | None]:
        """Account for slots; a run number for each claim, ``None`` where it came too late."""
        self._may_write()
        return [self._claim(claim) for claim in claims]

    def _claim(self, claim: Claim) -> int | None:
        data = self._data
        number = data.next_run
        if claim.slot is not None:
            known = data.jobs.get(claim.job)
            if known is None:
                data.jobs[claim.job] = JobRecord(claim.job, cursor_at=claim.slot)
            elif known.cursor_at < claim.slot:
                data.jobs[claim.job] = replace(known, cursor_at=claim.slot)
            if data.slots.setdefault((claim.job, claim.slot), number) != number:
                return None
        data.next_run += 1
        data.runs[number] = transitions.claimed(claim, number, self.owner)
        data.counts[claim.state] += 1
        if not claim.state.is_outcome:
            data.active[number] = None
        return number

    async def starting(self, runs: Sequence[int]) -> None:
        """Turn QUEUED runs to RUNNING."""
        self._may_write()
        for number in runs:
            if (run := self._data.runs.get(number)) is not None:
                self._put(transitions.starting(run, self.owner))

    def started(self, starts: Sequence[Started]) -> None:
        """Note when attempts began."""
        for start in starts:
            if (run := self._data.runs.get(start.run)) is not None:
                self._put(transitions.started(run, start))

    async def finish(self, ends: Sequence[Ended]) -> list[bool]:
        """Record ends; ``False`` where the run had an outcome already or another attempt."""
        self._may_write()
        transitions.refuse_open_ends(ends)
        return [self._finish(end) for end in ends]

    def _finish(self, end: Ended) -> bool:
        run = self._data.runs.get(end.run)
        after = None if run is None else transitions.ended(run, end)
        if after is None:
            return False
        self._put(after)
        if not after.state.is_outcome:
            return True
        if transitions.may_have_started(after.state):
            self._data.outputs.add(after.run)
        job = self._data.jobs.get(end.job)
        if job is not None and (job.last_run is None or job.last_run < end.run):
            self._data.jobs[end.job] = replace(job, last_run=end.run)
        return True

    async def set_note(self, key: str, value: str | None) -> None:
        """Keep (``None``: forget) a small value under *key*."""
        self._may_write()
        if value is None:
            self._data.notes.pop(key, None)
        else:
            self._data.notes[key] = value

    async def prune(
        self,
        *,
        runs_before: datetime,
        keep: int,
        outputs_before: datetime,
        slots_before: datetime,
        batch: int = 500,
    ) -> Pruned:
        """Remove one batch of old runs and slot rows; zeros mean that nothing is left."""
        self._may_write()
        data = self._data
        seen: dict[str, int] = {}
        going: list[int] = []
        for run in reversed(data.runs.values()):
            if run.state.is_outcome:
                seen[run.job] = seen.get(run.job, 0) + 1
                if run.queued_at < runs_before or seen[run.job] > keep:
                    going.append(run.run)
        going = sorted(going)[:batch]
        stale = [
            number
            for number in sorted(data.outputs.difference(going))
            if (ended_at := data.runs[number].ended_at) is not None and ended_at < outputs_before
        ][:batch]
        outputs = [
            (number, attempt)
            for number in (*going, *stale)
            if number in data.outputs
            for attempt in range(1, data.runs[number].attempt + 1)
        ]
        data.outputs.difference_update(going, stale)
        for number in going:
            data.counts[data.runs.pop(number).state] -= 1
        slots = list(islice((key for key in data.slots if key[1] < slots_before), batch))
        for key in slots:
            del data.slots[key]
        return Pruned(runs=len(going), slots=len(slots), outputs=tuple(outputs))

    # ── reads ─────────────────────────────────────────────────────────────────────────────────

    async def load_jobs(self) -> dict[str, JobRecord]:
        """Return all job records by name."""
        return dict(self._data.jobs)

    async def active(self) -> list[Run]:
        """Return all queued and running runs, oldest slot first."""
        runs = [self._data.runs[number] for number in self._data.active]
        return sorted(runs, key=lambda run: (run.slot or run.queued_at, run.run))

    async def get_run(self, run: int) -> Run | None:
        """Return one run."""
        return self._data.runs.get(run)

    async def history(
        self,
        *,
        job: str | None = None,
        states: Sequence[State] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        before_run: int | None = None,
        limit: int = 50,
    ) -> list[Run]:
        """Return runs, newest first; *since* (inclusive) and *until* (exclusive) bound ``queued_at``."""
        matching = (
            run
            for run in reversed(self._data.runs.values())
            if (job is None or run.job == job)
            and (not states or run.state in states)
            and (since is None or run.queued_at >= since)
            and (until is None or run.queued_at < until)
            and (before_run is None or run.run < before_run)
        )
        return list(islice(matching, limit))

    async def counts(self) -> dict[State, int]:
        """Return how many runs are in each state."""
        return dict(self._data.counts)

    async def check(self) -> list[str]:
        """Return nothing: dicts do not rot."""
        return []

    async def get_note(self, key: str) -> str | None:
        """Return a small value kept under *key*."""
        return self._data.notes.get(key)

    def _put(self, run: Run) -> None:
        before = self._data.runs[run.run].state
        self._data.runs[run.run] = run
        self._data.counts[before] -= 1
        self._data.counts[run.state] += 1
        if run.state.is_outcome:
            self._data.active.pop(run.run, None)

    def _may_write(self) -> None:
        if self.fault is not None:
            raise self.fault
