"""The PostgreSQL store: the truth about slots and runs for many hosts.

The same tables and the same semantics as on one machine (one contract suite runs over both). What one
scheduler keeps in memory — who waits for whom, who runs what — is in the rows here, and is decided inside the
transactions of :mod:`echosched.store.postgres_orders` and :mod:`echosched.store.postgres_turns`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from echosched.clock import to_micros
from echosched.errors import StoreError, StoreUnavailable
from echosched.model import Claim, Ended, Instance, JobRecord, Pruned, Run, Started, State
from echosched.store import (
    postgres_instances,
    postgres_queries,
    postgres_reads,
    postgres_schema,
    postgres_turns,
    postgres_writes,
)
from echosched.store.postgres_link import Link, Work
from echosched.store.reads import HistoryQuery

_T = TypeVar("_T")
_STARTS_WAIT_SECONDS = 1.0  # how long a noted start may stay unwritten
_MOST_STARTS = 20_000  # kept while they cannot be written; beyond that the oldest are forgotten

SCHEMA = "echosched"


class PostgresStore:
    """A :class:`~echosched.protocols.Store` on a PostgreSQL server, shared by any number of instances.

    *owner* is the name of this instance. Notes are kept for each owner apart. *schema* is where all tables lie;
    *read_only*: they are not made or changed. ``open`` raises ``StoreUnusable`` for a malformed *dsn*, refused
    credentials, missing rights and a newer schema, ``StoreUnavailable`` where the server cannot be reached now.
    """

    def __init__(
        self,
        dsn: str,
        *,
        owner: str | None = None,
        schema: str = SCHEMA,
        connect_seconds: float = 10.0,
        read_only: bool = False,
        steps: Sequence[str] | None = None,
    ) -> None:
        self.owner = owner
        self.link = Link(dsn, schema=schema, connect_seconds=connect_seconds)
        self._read_only = read_only
        self._steps = tuple(steps) if steps is not None else postgres_schema.migrations()
        self._starts: list[Started] = []
        self._writing_starts = asyncio.Lock()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, create the tables or migrate them up."""
        await self.link.open()
        try:
            if self._read_only:
                await postgres_schema.judge(self.link, self._steps)
            else:
                await postgres_schema.migrate(self.link, self._steps)
        except BaseException:
            await self.link.close()
            raise

    async def close(self) -> None:
        """Write what is pending and close; closing twice is harmless."""
        self._cancel_flush()
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
            self._cancel_flush()  # a flush in vain plans another one
        if self._starts:
            with contextlib.suppress(StoreUnavailable):
                await self.flush()
        await self.link.close()

    # ── writes ────────────────────────────────────────────────────────────────────────────────

    async def save_jobs(self, records: Iterable[JobRecord]) -> None:
        """Insert or replace job records, all but ``last_run``."""
        batch = list(records)
        await self.write(lambda connection: postgres_writes.save_jobs(connection, batch))

    async def claim(self, claims: Sequence[Claim]) -> list[int | None]:
        """Account for slots in one transaction; a run number for each claim, ``None`` where it came too late."""
        return await self.write(lambda connection: postgres_writes.claim(connection, claims, self.owner))

    async def starting(self, runs: Sequence[int]) -> None:
        """Turn QUEUED runs to RUNNING, durably."""
        await self.write(lambda connection: postgres_writes.starting(connection, runs, self.owner))

    def started(self, starts: Sequence[Started]) -> None:
        """Note when attempts began: written with the next transaction, at the latest within a second."""
        self._starts += starts
        del self._starts[:-_MOST_STARTS]
        if self._starts and self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(_STARTS_WAIT_SECONDS, self._flush_soon)

    def _cancel_flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

    def _flush_soon(self) -> None:
        self._flush_timer = None
        if self._starts:
            self._flushing = asyncio.get_running_loop().create_task(self._flush_quietly())

    async def _flush_quietly(self) -> None:
        try:
            await self.flush()
        except StoreError:
            self.started(())  # they stay noted; look again in a second

    async def flush(self) -> None:
        """Write the starts noted so far."""
        await self._write_starts()

    async def finish(self, ends: Sequence[Ended]) -> list[bool]:
        """Record ends in one transaction; ``False`` where the run had an outcome already or another attempt."""
        return await self._finish(ends)

    async def _finish(self, ends: Sequence[Ended], *, dead: bool = False) -> list[bool]:
        # The starts of the same attempts go along, once the rows are locked in their order; others wait on.
        wanted = {(end.run, end.attempt) for end in ends}
        async with self._writing_starts:
            noted = [start for start in self._starts if (start.run, start.attempt) in wanted]
            self._starts = [start for start in self._starts if (start.run, start.attempt) not in wanted]
        starts = {(start.run, start.attempt): start for start in reversed(noted)}  # the first word counts
        try:
            return await self.transact(
                lambda connection: postgres_turns.finish_turn(connection, ends, starts, dead=dead)
            )
        except BaseException:
            self.started(noted)  # nothing was written
            raise

    async def set_note(self, key: str, value: str | None) -> None:
        """Keep (``None``: forget) a small value under *key*, for this instance."""
        await self.write(lambda connection: postgres_writes.set_note(connection, self._own(key), value))

    async def prune(
        self,
        *,
        runs_before: datetime,
        keep: int,
        outputs_before: datetime,
        slots_before: datetime,
        batch: int = 500,
    ) -> Pruned:
        """Remove one batch of old runs and slot rows; zeros mean that nothing is left that this instance may.

        Outputs lie on the hosts that wrote them: only those of this instance are named, and runs whose outputs
        lie elsewhere stay until it was their host's turn to prune.
        """
        bounds = postgres_writes.Bounds(
            to_micros(runs_before), keep, to_micros(outputs_before), to_micros(slots_before), batch
        )
        return await self.write(lambda connection: postgres_writes.prune(connection, bounds, self.owner))

    # ── reads ─────────────────────────────────────────────────────────────────────────────────

    async def load_jobs(self) -> dict[str, JobRecord]:
        """Return all job records by name, also of jobs no longer defined."""
        return await self.read(postgres_reads.load_jobs)

    async def active(self) -> list[Run]:
        """Return all queued and running runs of all instances, oldest slot first."""
        return await self.read(postgres_reads.active)

    async def get_run(self, run: int) -> Run | None:
        """Return one run."""
        return await self.read(lambda connection: postgres_reads.get_run(connection, run))

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
        wanted = HistoryQuery(job, tuple(dict.fromkeys(states)), since, until, before_run, limit)
        return await self.read(lambda connection: postgres_reads.history(connection, wanted))

    async def counts(self) -> dict[State, int]:
        """Return how many runs are in each state."""
        return await self.read(postgres_reads.counts)

    async def check(self) -> list[str]:
        """Return where totals and rows disagree."""
        return await self.read(postgres_reads.check)

    async def get_note(self, key: str) -> str | None:
        """Return a small value that this instance keeps under *key*."""
        values = {"key": self._own(key)}
        rows = await self.read(lambda connection: postgres_queries.fetch(connection, "get_note", values))
        return rows[0][0] if rows else None

    # ── instances ─────────────────────────────────────────────────────────────────────────────

    async def instances(self) -> list[Instance]:
        """Return all instances that ever joined and were not removed, by name."""
        return await self.read(postgres_instances.instances)

    async def drain(self, name: str, *, draining: bool = True) -> None:
        """Let instance *name* start nothing more (or, with ``draining=False``, again); raises ``NotFound``."""
        await self.write(lambda connection: postgres_instances.drain(connection, name, draining=draining))

    async def remove(self, name: str) -> None:
        """Forget instance *name*; raises ``NotFound``, and ``Conflict`` while it is alive."""
        await self.write(lambda connection: postgres_instances.remove(connection, name))

    # ── inside ────────────────────────────────────────────────────────────────────────────────

    def _own(self, key: str) -> str:
        return f"{self.owner}/{key}"

    async def write(self, work: Work[_T]) -> _T:
        """Return what *work* answers in one transaction; the starts noted so far are written before it."""
        await self._write_starts()
        return await self.transact(work)

    async def transact(self, work: Work[_T], *, single: bool = False) -> _T:
        """Return what *work* answers in one transaction; *single*: it is one statement, and needs no other words."""
        return await self.link.transact(work, single=single)

    async def _write_starts(self) -> None:
        # In a transaction of their own, one after another: locks go from jobs to runs, and a start that came
        # first into another transaction would hold its run while that waits for a job.
        async with self._writing_starts:
            starts, self._starts = self._starts, []
            if not starts:
                return
            try:
                await self.transact(lambda connection: postgres_writes.note_starts(connection, starts))
            except BaseException:
                self._starts[:0] = starts  # nothing was written
                raise

    async def read(self, work: Work[_T]) -> _T:
        """Return what *work* reads; starts noted before are written first, so that whoever noted one sees it."""
        if self._starts:
            with contextlib.suppress(StoreUnavailable):
                await self.flush()
        return await self.transact(work)
