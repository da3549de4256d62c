"""What the scheduler remembers in memory: a job in force, and a run that has not ended yet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from echosched.model import CommandAction, Job, JobRecord, Run, State, Trigger

if TYPE_CHECKING:
    import asyncio

    from echosched.protocols import Execution, Schedule
    from echosched.timer import Delay


class Entry:
    """A job in force, with its next slot and its active runs.

    Hashable by identity: it is the item of the timer heap.
    """

    __slots__ = (
        "active",
        "anchor_at",
        "claiming",
        "cursor_at",
        "job",
        "last_run",
        "parked",
        "paused",
        "schedule",
        "slot",
    )

    def __init__(self, job: Job, record: JobRecord | None, now: datetime) -> None:
        self.job = job
        self.cursor_at = now if record is None else record.cursor_at
        self.anchor_at = None if record is None else record.anchor_at
        self.paused = record is not None and record.paused
        self.parked: str | None = None
        self.last_run = None if record is None else record.last_run
        self.active: dict[int, LiveRun] = {}
        self.claiming = 0
        self.slot: datetime | None = None
        self.schedule: Schedule | None = None

    @classmethod
    def admitted(cls, job: Job, record: JobRecord | None, now: datetime) -> Entry:
        """Return the entry of a job that is taken into force, with what the store remembers of it."""
        entry = cls(job, record, now)
        if record is not None:
            rescheduled = record.timing != job.timing
            if rescheduled or (job.enabled and not record.enabled):
                # Catch-up must not reach before this moment.
                entry.cursor_at = now
            if rescheduled:
                entry.anchor_at = None
        entry.adopt_schedule(now)
        return entry

    @classmethod
    def undefined(cls, name: str, now: datetime) -> Entry:
        """Return an entry for a job that is no longer defined, so that its running attempt can end."""
        return cls(Job(name, CommandAction(()), enabled=False), None, now)

    @property
    def waits(self) -> bool:
        """Tell whether slots of this job come due at all."""
        return self.schedule is not None and self.job.enabled and not self.paused and self.parked is None

    @property
    def unended(self) -> list[LiveRun]:
        """Return the runs that are not over; those are whose end is only not committed yet."""
        return [live for live in self.active.values() if not live.over]

    @property
    def held(self) -> list[LiveRun]:
        """Return the runs that are claimed already and wait for their slot."""
        return [live for live in self.active.values() if live.ahead and live.handle is not None]

    def adopt_schedule(self, now: datetime) -> None:
        """Take the job's schedule in force; an interval without ``from`` counts from its first start."""
        schedule = self.job.schedule
        if schedule is not None and getattr(schedule, "needs_anchor", False):
            if self.anchor_at is None:
                self.anchor_at = now.replace(microsecond=0)  # slots on whole seconds read better
            schedule = schedule.with_anchor(self.anchor_at)  # type: ignore[attr-defined]
        self.schedule = schedule

    def record(self) -> JobRecord:
        """Return what the store should remember."""
        return JobRecord(
            name=self.job.name,
            cursor_at=self.cursor_at,
            anchor_at=self.anchor_at,
            timing=self.job.timing,
            enabled=self.job.enabled,
            paused=self.paused,
            parked=self.parked,
        )


class LiveRun:
    """A run that has not ended: queued, about to start, running, or waiting for its next attempt."""

    __slots__ = (
        "ahead",
        "armed",
        "attempt",
        "cancelled",
        "entry",
        "exclusive",
        "execution",
        "handle",
        "job",
        "over",
        "placed",
        "priority",
        "queued_at",
        "run",
        "slot",
        "spare",
        "start",
        "started_at",
        "trigger",
        "waiters",
    )

    def __init__(
        self,
        entry: Entry,
        run: int,
        slot: datetime | None,
        trigger: Trigger,
        queued_at: datetime,
        *,
        attempt: int = 1,
        armed: bool = False,
        exclusive: bool = False,
        priority: int | None = None,
    ) -> None:
        self.entry = entry
        self.job = entry.job  # as it was when the run was claimed: a reload does not change it under way
        self.run = run
        self.slot = slot
        self.trigger = trigger
        self.queued_at = queued_at
        self.attempt = attempt
        self.armed = armed  # the right to start this attempt is durable
        self.exclusive = exclusive  # of a backlog: starts only when no other such run of its job is running
        self.priority = entry.job.policy.priority if priority is None else priority
        self.ahead = False  # claimed before its slot
        self.spare = False  # its output goes elsewhere: where it belongs no file can be made
        self.over = False  # ended for good, and about to be committed
        self.placed = False  # holds a place of the start queue
        self.execution: Execution | None = None
        self.started_at: datetime | None = None
        self.cancelled: tuple[State, str] | None = None
        self.handle: Delay | None = None
        self.start: Callable[[], None] | None = None  # starts the attempt that was made ready for its slot
        self.waiters: list[asyncio.Future[Run | None]] = []

    @property
    def running(self) -> bool:
        """Tell whether an attempt is under way."""
        return self.started_at is not None

    @property
    def order(self) -> tuple[int, datetime, int]:
        """Return the key by which waiting runs are started: priority, then oldest slot, then number."""
        return (-self.priority, self.slot or self.queued_at, self.run)
