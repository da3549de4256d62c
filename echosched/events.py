"""One frozen dataclass per event; what the journal, the metrics and the messages are fed with.

An event's class name in snake case is its name in the journal (:attr:`Event.event`), its fields are
the journal's fields. *ts* is the instant it happened, aware UTC. Fields are added, never renamed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, ClassVar

from echosched.clock import rfc3339


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, at *ts*."""

    event: ClassVar[str] = "event"
    ts: datetime

    def __init_subclass__(cls, **options: Any) -> None:
        """Name the event after its class."""
        cls.event = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def as_dict(self) -> dict[str, Any]:
        """Return the journal's object: ``ts``, ``event``, then the event's own fields."""
        document: dict[str, Any] = {"ts": rfc3339(self.ts), "event": self.event}
        for name in _names(type(self)):
            value = getattr(self, name)
            document[name] = rfc3339(value) if isinstance(value, datetime) else value
        return document


_FIELD_NAMES: dict[type[Event], tuple[str, ...]] = {}


def _names(cls: type[Event]) -> tuple[str, ...]:
    names = _FIELD_NAMES.get(cls)
    if names is None:
        names = _FIELD_NAMES[cls] = tuple(f.name for f in fields(cls) if f.name != "ts")
    return names


# ── the daemon's life ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Startup(Event):
    """A worker begins; *config* holds the paths and the job count."""

    pid: int
    mode: str
    version: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Event):
    """The scheduler is able to serve."""

    pid: int
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(Event):
    """The heartbeat line, with each job's next slot (the 20 soonest and *jobs*, where there are more)."""

    tick: int
    next: Mapping[str, str | None]
    jobs: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the journal's object; *jobs* stands there only when *next* does not name them all."""
        document = Event.as_dict(self)
        if self.jobs is None:
            del document["jobs"]
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload(Event):
    """A new configuration is in force."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadFailed(Event):
    """A new configuration was refused, and the old one goes on; or it could not be put into force as a whole."""

    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown(Event):
    """The daemon leaves because of *signal* (a name such as ``SIGTERM``, or ``None``)."""

    signal: str | None
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleanup(Event):
    """Left-overs of an earlier daemon were removed."""

    removed_pid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorStart(Event):
    """A supervisor took the locks."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerExit(Event):
    """A worker ended."""

    pid: int
    exit_code: int | None
    signal: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRestart(Event):
    """A worker is started again after *delay_seconds*."""

    restarts: int
    delay_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog(Event):
    """A worker whose loop had not beaten for *age_seconds* is being replaced."""

    pid: int
    age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJump(Event):
    """The wall clock was set, or the machine slept: *seconds* forward (or back, negative)."""

    seconds: float
    suspended: bool = False


# ── runs ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent(Event):
    """What all events of a run carry."""

    job: str
    run: int
    slot: datetime | None
    attempt: int
    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotClaimed(RunEvent):
    """A slot is durably accounted for and will be run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart(RunEvent):
    """An attempt began."""

    pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd(RunEvent):
    """A run reached its outcome."""

    state: str
    exit_code: int | None
    signal: int | None
    duration_seconds: float | None
    lag_seconds: float | None
    error: str | None = None
    output_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRetry(RunEvent):
    """An attempt failed and another follows at *retry_at*."""

    retry_at: datetime
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSkipped(RunEvent):
    """A slot was not run because of its overlap policy, a pause or a full queue."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMissed(RunEvent):
    """A slot's time passed while nobody could run it, and catch-up did not want it."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAbandoned(RunEvent):
    """A crash hid how this run ended."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAdopted(RunEvent):
    """A new worker took over a process that an earlier one had started."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPaused(Event):
    """An operator paused a job."""

    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResumed(Event):
    """An operator resumed a job."""

    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobParked(Event):
    """A job was set aside because it cannot be scheduled or run; the others go on."""

    job: str
    reason: str


# ── housekeeping ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionStart(Event):
    """A retention pass began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionDone(Event):
    """A retention pass ended."""

    runs: int
    slots: int
    outputs: int
    reports: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfHealStartup(Event):
    """A self-heal pass began at boot."""

    retried_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDegraded(Event):
    """The store cannot be written; runs are kept in memory until it can."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRecovered(Event):
    """The store can be written again; *written* records followed, *lost* did not fit in memory."""

    written: int
    lost: int
    seconds: float
    set_aside: str | None = None  # where a damaged database was put, if that was the fault


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyFailed(Event):
    """A message could not be delivered (it is tried again unless *final*)."""

    target: str
    reason: str
    final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkFailed(Event):
    """An event sink raised; it was left out for that event."""

    sink: str
    reason: str
