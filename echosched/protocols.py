"""The interfaces between rooms. Rooms of one layer meet only here.

Who calls whom: the scheduler asks a :class:`Schedule` for slots, a :class:`Store` to claim and finish
runs, an :class:`Executor` to carry out attempts, and tells an :class:`EventSink` what happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from echosched.events import Event
    from echosched.model import (
        Attempt,
        Claim,
        Ended,
        JobRecord,
        ProcessIdentity,
        Pruned,
        Result,
        Run,
        Started,
        State,
    )


class Clock(Protocol):
    """Time as the scheduler sees it."""

    def now(self) -> datetime:
        """Return the present instant, aware UTC."""

    def monotonic(self) -> float:
        """Return seconds that never step."""

    def boot(self) -> float:
        """Return seconds since boot, suspend included."""


class Schedule(Protocol):
    """A rule that yields slots. Pure: no clock, no I/O, safe to share between threads and jobs."""

    @property
    def text(self) -> str:
        """Return the expression as it was written."""

    @property
    def on_start(self) -> frozenset[str]:
        """Return which starts fire it: ``boot`` (each daemon start), ``reboot`` (once per boot id), or none."""

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first slot strictly after *instant* (aware; the answer is UTC), ``None`` when exhausted."""


@runtime_checkable
class EventSink(Protocol):
    """Something that wants to know. Must not block; what raises is logged and left out."""

    def emit(self, event: Event) -> None:
        """Take note of *event*."""


class Store(Protocol):
    """The truth about slots and runs. Every awaited write is durable when it returns.

    Writes raise :class:`~echosched.errors.StoreUnavailable` when an outside fault (full disk, I/O error)
    prevents them; nothing is half-written then.
    """

    async def open(self) -> None:
        """Open or create the store; migrate it up. Raises ``StoreUnusable`` for what must not be touched."""

    async def close(self) -> None:
        """Write what is pending and close."""

    async def load_jobs(self) -> dict[str, JobRecord]:
        """Return all job records by name, also of jobs no longer defined."""

    async def save_jobs(self, records: Iterable[JobRecord]) -> None:
        """Insert or replace job records (all columns but ``last_run``, which ``finish`` keeps)."""

    async def claim(self, claims: Sequence[Claim]) -> list[int | None]:
        """Account for slots in one transaction; return a run number for each claim.

        ``None`` stands where the slot was already accounted for. Run numbers are positive and grow. A claim
        with a slot also advances the job's cursor to it.
        """

    async def starting(self, runs: Sequence[int]) -> None:
        """Turn QUEUED runs to RUNNING, durably, before their next attempt is started."""

    def started(self, starts: Sequence[Started]) -> None:
        """Note when (and as which process) attempts began; written with the next commit, never waited for."""

    async def finish(self, ends: Sequence[Ended]) -> list[bool]:
        """Record ends in one transaction; ``False`` where the run had an outcome already (or another attempt)."""

    async def active(self) -> list[Run]:
        """Return all queued and running runs, oldest slot first."""

    async def get_run(self, run: int) -> Run | None:
        """Return one run."""

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
        """Return runs, newest first (by run number); *since*/*until* bound ``queued_at``; *before_run* pages."""

    async def counts(self) -> dict[State, int]:
        """Return how many runs are in each state (cheap, also with a million rows)."""

    async def prune(
        self,
        *,
        runs_before: datetime,
        keep: int,
        outputs_before: datetime,
        slots_before: datetime,
        batch: int = 500,
    ) -> Pruned:
        """Remove one *batch* of ended runs and of slot rows; zeros mean that nothing is left to prune.

        Runs go when queued before *runs_before* or beyond the newest *keep* of their job; slot rows when
        older than *slots_before*. Of runs ended before *outputs_before* the outputs are named, once.
        """

    async def check(self) -> list[str]:
        """Return what an integrity check finds wrong; empty: all is well."""

    async def get_note(self, key: str) -> str | None:
        """Return a small value kept under *key* (boot id, pending messages)."""

    async def set_note(self, key: str, value: str | None) -> None:
        """Keep (``None``: forget) a small value under *key*."""


class Execution(Protocol):
    """A started attempt."""

    @property
    def process(self) -> ProcessIdentity | None:
        """Return the process, for those that have one."""

    @property
    def started_at(self) -> datetime:
        """Return when it began."""

    async def wait(self) -> Result:
        """Wait until it has ended and its whole tree is dealt with; never raises for what the job does."""

    def cancel(self, reason: str, *, state: State, kill_after: timedelta) -> None:
        """Ask it to end (TERM, later KILL, whole tree); :meth:`wait` then answers with *state* and *reason*."""

    def settle(self) -> None:
        """Let go: the result is committed, the process may be reaped and descriptors closed."""


class Executor(Protocol):
    """Carries out attempts of one or more kinds of action."""

    async def start(self, attempt: Attempt) -> Execution:
        """Start *attempt* beside the loop; raises ``ExecutionError`` with the run's reason if it cannot be started."""

    async def close(self) -> None:
        """Release threads, sessions and descriptors; leaves processes alone."""


class Launcher(Protocol):
    """What an executor may offer besides ``start``: calls back instead of being awaited.

    In a burst a task for each run costs more than its start.
    """

    def prepare(
        self,
        attempt: Attempt,
        begun: Callable[[Execution], None],
        refused: Callable[[Exception], None],
        ended: Callable[[Result], None],
        *,
        early: bool,
    ) -> Callable[[], None] | None:
        """Return what starts *attempt* beside the loop, once; ``None``: not this kind of attempt, use ``start``.

        In a later turn of the loop than that start either *refused* is called with the reason, or *begun* and, when
        it has ended, *ended*. *early*: the start comes later, so what can be done before it is done meanwhile. It
        may never come; nothing is left behind then.
        """

    def rouse(self) -> None:
        """Be awake: a start comes in a moment. Changes nothing else."""


Secrets = Callable[[str], str]
"""Resolves ``${env:…}`` and ``${file:…}`` in a string; raises ``ExecutionError`` naming what is unset."""

Facts = dict[str, Any]
"""A JSON document."""
