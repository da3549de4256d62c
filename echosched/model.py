"""The nouns: jobs, runs, results and the policies that tie them together.

Everything here is a frozen value without behaviour beyond its own shape. A job points to three
bundles (action, :class:`Policy`, :class:`Process`) so that a hundred thousand jobs with the same
settings share one object of each.

The states of a run::

    queued ──► running ──► succeeded | failed | timed_out | cancelled | abandoned
       │  ▲        │
       │  └─retry──┘
       └──► cancelled                  skipped and missed are written by the claim itself
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from echosched.clock import rfc3339

if TYPE_CHECKING:
    from echosched.protocols import Schedule


class State(StrEnum):
    """Where a run stands. All but the first two are outcomes: final, and one for each run."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    MISSED = "missed"
    ABANDONED = "abandoned"

    @property
    def is_outcome(self) -> bool:
        """Tell whether a run in this state has ended for good."""
        return self not in (State.QUEUED, State.RUNNING)


FAILURES = (State.FAILED, State.TIMED_OUT, State.ABANDONED)
"""Outcomes of runs that went wrong by themselves: what ``history --failed``, ``heal`` and ``after … failure`` mean."""


class Trigger(StrEnum):
    """Why a run exists."""

    SCHEDULE = "schedule"
    CATCHUP = "catchup"
    MANUAL = "manual"
    BOOT = "boot"
    AFTER = "after"
    HEAL = "heal"


class Overlap(StrEnum):
    """What happens to a slot that comes due while an earlier run of the job is active."""

    SKIP = "skip"
    QUEUE = "queue"
    QUEUE_ALL = "queue_all"
    REPLACE = "replace"
    ALLOW = "allow"


class Catchup(StrEnum):
    """Which of the slots that passed while nobody could run them are run afterwards."""

    LAST = "last"
    NONE = "none"
    ALL = "all"


class OnAbandoned(StrEnum):
    """What happens to a run whose outcome a crash hid."""

    LEAVE = "leave"
    RETRY = "retry"


class Dst(StrEnum):
    """How a schedule treats local times that daylight saving skips or repeats."""

    ONCE = "once"
    SKIP = "skip"
    EVERY = "every"


class AfterWhen(StrEnum):
    """Which outcomes of the earlier job start the later one."""

    SUCCESS = "success"
    FAILURE = "failure"
    ANY = "any"


# ── actions: what a job does ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class CommandAction:
    """Run a program. A string is a shell command line, a tuple is an argument vector without a shell.

    *stdin* is text fed to the program (``None``: /dev/null). *success_codes* are the exit codes that
    count as success.
    """

    command: str | tuple[str, ...]
    args: tuple[str, ...] = ()
    shell: str | None = None
    stdin: str | None = None
    success_codes: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class HttpAction:
    """Make one HTTP call. Strings may hold ``${env:…}``/``${file:…}``, resolved at run time only."""

    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    json: str | None = None  # a JSON document as text, sent with its content type
    expect: tuple[int, ...] = ()  # status codes; empty: any 2xx
    expect_body: str | None = None  # regular expression that the body must contain
    follow_redirects: bool = False
    verify: bool = True
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class PythonAction:
    """Call ``module:function`` in a process of its own; a coroutine function is awaited there.

    One that calls ``sys.exit`` with one of *success_codes* has succeeded too.
    """

    target: str
    args: tuple[Any, ...] = ()
    success_codes: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class BuiltinAction:
    """One of the jobs that ship: ``brief``, ``report``, ``selfheal``, ``retention``."""

    name: str


@dataclass(frozen=True, slots=True)
class CallableAction:
    """A Python callable given by a program that embeds the library; runs in that program."""

    function: Callable[..., Any]


Action = CommandAction | HttpAction | PythonAction | BuiltinAction | CallableAction


# ── settings of a job ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Policy:
    """How a job is run and what happens around it. Durations are exact; ``None`` means no limit."""

    timeout: timedelta | None = timedelta(hours=1)
    kill_after: timedelta = timedelta(seconds=5)  # from TERM to KILL
    retries: int = 0
    retry_delay: timedelta = timedelta(seconds=10)
    retry_backoff: float = 2.0
    retry_max_delay: timedelta = timedelta(hours=1)
    overlap: Overlap = Overlap.SKIP
    catchup: Catchup = Catchup.LAST
    catchup_window: timedelta = timedelta(hours=24)
    on_abandoned: OnAbandoned = OnAbandoned.LEAVE
    jitter: timedelta = timedelta(0)
    concurrency_group: str | None = None
    concurrency_limit: int = 1
    priority: int = 0  # higher starts first among queued runs
    output: bool = True  # False: discarded
    output_limit: int = 10 * 1024 * 1024  # bytes kept of one attempt's output
    notify: tuple[str, ...] | None = None  # names of [notify.*]; None: all that want it
    healthcheck: str | None = None
    heal: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Process:
    """The surroundings of a job's process. ``None`` everywhere means: as the daemon's defaults say."""

    cwd: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    env_file: str | None = None
    user: str | None = None
    group: str | None = None
    umask: int | None = None
    nice: int | None = None
    limits: tuple[tuple[str, int], ...] = ()  # RLIMIT names in lower case without the prefix → soft=hard


@dataclass(frozen=True, slots=True)
class After:
    """Start when *job* has ended with an outcome that *when* names."""

    job: str
    when: AfterWhen = AfterWhen.SUCCESS


DEFAULT_POLICY = Policy()
DEFAULT_PROCESS = Process()


@dataclass(frozen=True, slots=True)
class Job:
    """A definition: what, when, how.

    *schedule* is ``None`` for a job that only ``run`` or another job (*after*) starts. *definition*
    is a short digest of everything that decides what runs (action, process, policy), *timing* one of
    everything that decides when; a reload compares both.
    """

    name: str
    action: Action
    schedule: Schedule | None = None
    schedule_text: str = ""
    timezone: str = "UTC"
    description: str = ""
    enabled: bool = True
    after: After | None = None
    policy: Policy = DEFAULT_POLICY
    process: Process = DEFAULT_PROCESS
    definition: str = ""
    timing: str = ""
    source: str = ""  # file and key, for messages


# ── runs ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """What distinguishes a process from a later one that got the same pid.

    *start_ticks* is field 22 of /proc/PID/stat, clock ticks since boot: unlike a creation time it does
    not move when the wall clock is set.
    """

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a run, as an executor gets it."""

    run: int
    job: Job
    slot: datetime | None
    number: int
    trigger: Trigger
    output_path: str | None  # None: discard

    @property
    def tag(self) -> str:
        """Return the name under which the supervisor knows this attempt's process."""
        return f"{self.run}.{self.number}"


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended. *value* is a small JSON-able answer of a python or built-in job."""

    state: State
    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None
    output_bytes: int | None = None
    value: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The wish to account for a slot (or a manual trigger, *slot* ``None``) with a run in *state*.

    RUNNING means: will be started by this owner right after the commit. SKIPPED and MISSED are
    outcomes at once, *error* says why.
    """

    job: str
    slot: datetime | None
    trigger: Trigger
    state: State
    at: datetime  # now, as the claimant's clock has it
    error: str | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """A fact to be written soon: this run's present attempt began at *at*, as that process if it has one."""

    run: int
    attempt: int
    at: datetime
    process: ProcessIdentity | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A fact to be committed: this run's present attempt ended so.

    With *retry_at* the run goes back to QUEUED for its next attempt not before that instant;
    otherwise *result.state* is its outcome.
    """

    run: int
    job: str
    attempt: int
    at: datetime
    result: Result
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One (job, slot), or one manual trigger, as the store remembers it. Instants are aware UTC.

    *attempts* holds the earlier attempts of a retried run (dicts of attempt, state, started_at,
    ended_at, exit_code, signal, error).
    """

    run: int
    job: str
    slot: datetime | None
    trigger: Trigger
    attempt: int
    state: State
    queued_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    signal: int | None = None
    error: str | None = None
    output_bytes: int | None = None
    owner: str | None = None
    not_before_at: datetime | None = None
    priority: int = 0
    process: ProcessIdentity | None = None
    attempts: tuple[Mapping[str, Any], ...] = ()

    @property
    def duration_seconds(self) -> float | None:
        """Return how long the latest attempt ran, in seconds."""
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()

    @property
    def lag_seconds(self) -> float | None:
        """Return started_at − slot in seconds (manual runs have no slot and no lag)."""
        if self.started_at is None or self.slot is None:
            return None
        return (self.started_at - self.slot).total_seconds()

    def as_dict(self) -> dict[str, Any]:
        """Return the row of ``history --json``."""
        return {
            "run": self.run,
            "job": self.job,
            "slot": _text(self.slot),
            "trigger": str(self.trigger),
            "attempt": self.attempt,
            "state": str(self.state),
            "queued_at": _text(self.queued_at),
            "started_at": _text(self.started_at),
            "ended_at": _text(self.ended_at),
            "duration_seconds": self.duration_seconds,
            "lag_seconds": self.lag_seconds,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "error": self.error,
            "output_bytes": self.output_bytes,
            "owner": self.owner,
        }


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the store remembers of a job between daemons.

    *cursor_at*: every slot up to here is accounted for or was never due; catch-up looks only behind it.
    *anchor_at*: where an interval without ``from`` counts from. *timing* as in :class:`Job`: a change
    means "rescheduled". *parked*: why the scheduler set this job aside, if it did.
    """

    name: str
    cursor_at: datetime
    anchor_at: datetime | None = None
    timing: str = ""
    enabled: bool = True
    paused: bool = False
    parked: str | None = None
    last_run: int | None = None


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a retention pass removed; *outputs* are the (run, attempt) whose output files may go."""

    runs: int = 0
    slots: int = 0
    outputs: tuple[tuple[int, int], ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Instance:
    """One of the hosts that share a database, as the database knows it. Instants are the database's clock.

    *alive*: its heartbeat is younger than its lease. *lag_seconds* is the median from slot to start of its
    latest runs. *clock_skew_seconds* is how far its clock is ahead of the database's. *draining*: it starts
    nothing more. *differs* names jobs that this instance defines otherwise than most of the living ones.
    """

    name: str
    host: str
    pid: int
    version: str
    started_at: datetime
    heartbeat_at: datetime
    alive: bool
    capacity: int
    labels: tuple[str, ...] = ()
    running: int = 0
    taken: int = 0  # runs that it took so far
    lag_seconds: float | None = None
    clock_skew_seconds: float = 0.0
    draining: bool = False
    jobs: int = 0
    differs: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the row of ``cluster status --json``."""
        return {
            "name": self.name,
            "host": self.host,
            "pid": self.pid,
            "version": self.version,
            "started_at": rfc3339(self.started_at),
            "heartbeat_at": rfc3339(self.heartbeat_at),
            "alive": self.alive,
            "draining": self.draining,
            "capacity": self.capacity,
            "labels": list(self.labels),
            "running": self.running,
            "taken": self.taken,
            "lag_seconds": self.lag_seconds,
            "clock_skew_seconds": self.clock_skew_seconds,
            "jobs": self.jobs,
            "differs": list(self.differs),
        }


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)
