"""The PostgreSQL store as a running instance uses it: turns, heartbeats, and patience when the database is away.

No end of a run may be lost because the database does not answer: :meth:`ClusterStore.finish` waits until it does.
Everything else fails at once with ``StoreUnavailable``, and whoever asked decides: a slot is caught up afterwards, an
operator is told.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from echosched.clock import from_micros, rfc3339, to_micros
from echosched.errors import OUTSIDE, StoreError, StoreUnavailable, StoreUnusable
from echosched.model import Claim, Ended, JobRecord, Run, State
from echosched.store import postgres_turns as turns
from echosched.store.postgres import PostgresStore
from echosched.store.postgres_instances import tell
from echosched.store.postgres_link import Connection, Work
from echosched.store.postgres_orders import Order, Placement, place
from echosched.store.postgres_queries import execute, fetch, fetch_runs
from echosched.store.postgres_writes import job_columns
from echosched.store.rows import micros

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Myself:
    """What this instance says of itself. *home* tells a restart of it from another daemon of the same name."""

    name: str
    home: str
    host: str
    pid: int
    version: str
    lease_seconds: float
    labels: tuple[str, ...] = ()


class ClusterStore(PostgresStore):
    """The store of one instance. *on_fault* is told of every call that the database did not answer."""

    def __init__(
        self, dsn: str, myself: Myself, *, connect_seconds: float = 10.0, schema: str | None = None
    ) -> None:
        more: dict[str, Any] = {} if schema is None else {"schema": schema}
        super().__init__(dsn, owner=myself.name, connect_seconds=connect_seconds, **more)
        self.myself = myself
        self.on_fault: Callable[[StoreError], None] = lambda error: None
        self.up = asyncio.Event()
        """Set while the database answers; :meth:`finish` waits for it."""
        self.up.set()
        self.degraded_since: datetime | None = None
        self.reason: str | None = None
        self._last_counts = dict.fromkeys(State, 0)

    # ── patience ──────────────────────────────────────────────────────────────────────────────

    async def transact(self, work: Work[_T], *, single: bool = False) -> _T:
        """See :meth:`PostgresStore.transact`; a fault is told."""
        try:
            return await super().transact(work, single=single)
        except OUTSIDE as error:
            self.on_fault(error)
            raise

    async def read(self, work: Work[_T]) -> _T:
        """See :meth:`PostgresStore.read`; a database known to be away is not asked."""
        if not self.up.is_set():
            raise StoreUnavailable(f"{self.link.place}: the database does not answer (see echoschedd status)")
        return await super().read(work)

    async def finish(self, ends: Sequence[Ended]) -> list[bool]:
        """Record ends, however long the database takes to come back."""
        again = False
        while True:
            await self.up.wait()
            try:
                recorded = await super().finish(ends)
                if not again:
                    return recorded
                return [done or await self._was_ours(end) for done, end in zip(recorded, ends, strict=True)]
            except OUTSIDE:
                again = True
                await asyncio.sleep(0.1)  # on_fault has been told: up is cleared until contact is made again

    async def _was_ours(self, end: Ended) -> bool:
        """Tell whether *end* was recorded by a transaction whose answer was lost with the connection."""
        found = await self.get_run(end.run)
        if found is None or found.owner != self.owner:
            return False
        if end.retry_at is not None:
            last = found.attempts[-1] if found.attempts else {}
            return last.get("attempt") == end.attempt and last.get("ended_at") == rfc3339(end.at)
        return (found.attempt, found.state, found.ended_at) == (end.attempt, end.result.state, end.at)

    async def counts(self) -> dict[State, int]:
        """Return how many runs are in each state; while the database is away, as it was last known."""
        try:
            self._last_counts = await super().counts()
        except OUTSIDE:
            pass
        return self._last_counts

    async def save_jobs(self, records: Iterable[JobRecord]) -> None:
        """Insert or replace job records, tell the other instances; cursors only move on."""
        batch = list({record.name: record for record in records}.values())

        async def work(connection: Connection) -> None:
            for begin in range(0, len(batch), 5000):
                await execute(connection, "merge_jobs", job_columns(batch[begin : begin + 5000]))
            paused = [record.name for record in batch if record.paused]
            await tell(connection, op="jobs", paused=paused, by=self.owner)

        if batch:
            await self.write(work)

    # ── turns ─────────────────────────────────────────────────────────────────────────────────

    async def place(self, orders: Sequence[Order]) -> Placement:
        """Account for slots as their jobs' situations demand, in one transaction."""
        # Without the starts noted so far: an end of one of those runs would wait for the rows.
        return await self.transact(lambda connection: place(connection, orders, self.owner))

    async def take(
        self, queues: Sequence[str], most: int, knows: Callable[[str, str | None], bool], at: datetime
    ) -> tuple[list[Run], bool]:
        """Take queued runs; see :func:`echosched.store.postgres_turns.take`."""
        return await self.link.transact(
            lambda connection: turns.take(connection, self.owner, queues, most, knows, at)
        )

    async def give_back(self, held: Sequence[turns.Held]) -> None:
        """Let others start runs that were taken here and have not begun."""
        await self.transact(lambda connection: turns.give_back(connection, self.owner, held))

    async def abandon(self, ends: Sequence[Ended]) -> list[bool]:
        """Record ends of runs whose instance's lease is over; ``False`` where it was heard of after all."""
        return await self._finish(ends, dead=True)

    async def cancel(self, run: int, reason: str, at: datetime) -> Run | None:
        """End a queued run, which is returned, or have a running one ended by whoever runs it."""
        return await self.write(lambda connection: turns.cancel(connection, run, reason, at))

    async def known_slots(self, claims: Sequence[Claim]) -> set[tuple[str, datetime]]:
        """Return which slots of *claims* (job, slot) are accounted for."""
        slots = [(claim.job, to_micros(claim.slot)) for claim in claims if claim.slot is not None]
        values = {"job": [job for job, _ in slots], "slot": [slot for _, slot in slots]}
        rows = await self.transact(lambda connection: fetch(connection, "taken_slots", values), single=True)
        return {(job, from_micros(slot)) for job, slot in rows}

    async def cancelled(self) -> list[tuple[int, str]]:
        """Return the runs of this instance that somebody wants ended, with the reasons."""
        rows = await self.read(lambda connection: fetch(connection, "cancelled_of", {"owner": self.owner}))
        return [(int(run), reason) for run, reason in rows]

    async def own_runs(self) -> list[Run]:
        """Return what this instance is running, by the rows."""
        return await self.read(lambda connection: fetch_runs(connection, "own_runs", {"owner": self.owner}))

    async def dead_runs(self) -> list[Run]:
        """Return the runs of instances whose lease is over; none as long as this one was not in touch itself."""
        return await self.read(lambda connection: fetch_runs(connection, "dead_runs", {"owner": self.owner}))

    async def mend(self, at: datetime) -> list[Run]:
        """Give tickets to runs that lost theirs, fold the totals; only one instance at a time does.

        Returns the queued runs that were cancelled because nobody knows their jobs any more.
        """

        async def work(connection: Connection) -> list[Run]:
            cursor = await connection.execute(
                "SELECT pg_try_advisory_xact_lock(hashtext('mend ' || current_schema()))"
            )
            if not (await cursor.fetchone())[0]:
                return []
            await execute(connection, "fold_tallies")
            return await turns.mend(connection, self.myself.lease_seconds, at)

        return await self.write(work)

    async def unfollowed(
        self, wanted: Sequence[tuple[str, str, datetime]], reach_seconds: float
    ) -> list[tuple[str, datetime, State]]:
        """Return slots that followers have not got, of runs that ended in the last *reach_seconds*, with the outcomes.

        *wanted* are jobs, a follower of each, and after which instant its slots count.
        """
        values = {
            "job": [job for job, _, _ in wanted],
            "follower": [follower for _, follower, _ in wanted],
            "since": [to_micros(since) for _, _, since in wanted],
            "reach": int(reach_seconds * 1e6),
        }
        rows = await self.read(lambda connection: fetch(connection, "unfollowed", values))
        return [(follower, from_micros(slot), State(state)) for follower, slot, state in rows]

    async def agree_anchors(self, wanted: Mapping[tuple[str, str], datetime]) -> dict[str, datetime]:
        """Return where intervals count from, by job; *wanted*, by job and timing, counts only for the first."""
        values = {
            "job": [job for job, _ in wanted],
            "timing": [timing for _, timing in wanted],
            "anchor_at": [micros(anchor) for anchor in wanted.values()],
        }

        async def work(connection: Connection) -> dict[str, datetime]:
            await execute(connection, "agree_anchors", values)
            return {job: from_micros(at) for job, at in await fetch(connection, "anchors_of", values)}

        return await self.write(work)

    # ── membership ────────────────────────────────────────────────────────────────────────────

    async def join(self, *, capacity: int, skew_seconds: float, definitions: Mapping[str, str]) -> None:
        """Take part; raises ``StoreUnusable`` while another daemon of this name is alive."""
        me = self.myself
        values = {
            "name": me.name,
            "home": me.home,
            "host": me.host,
            "pid": me.pid,
            "version": me.version,
            "lease": me.lease_seconds,
            "capacity": capacity,
            "labels": list(me.labels),
            "skew": skew_seconds,
            "definitions": json.dumps(definitions),
        }

        async def work(connection: Connection) -> None:
            for host, pid, home in await fetch(connection, "other_of_that_name", {"name": me.name}):
                if home != me.home:
                    raise StoreUnusable(
                        f"[cluster] instance: {me.name} is alive already on host {host}, process {pid}"
                        " (give this one another name)"
                    )
            await execute(connection, "join", values)
            await tell(connection, op="joined", by=me.name)

        await self.link.transact(work)

    async def define(self, *, capacity: int, definitions: Mapping[str, str]) -> None:
        """Say what this instance can run from now on."""
        values = {
            "name": self.owner,
            "capacity": capacity,
            "labels": list(self.myself.labels),
            "definitions": json.dumps(definitions),
        }

        async def work(connection: Connection) -> None:
            await execute(connection, "define", values)
            await tell(connection, op="joined", by=self.owner)

        await self.write(work)

    async def beat(
        self, *, taken: int, lag_seconds: float | None, skew_seconds: float, gap_seconds: float
    ) -> tuple[datetime, bool, list[tuple[str, int, list[str]]]] | None:
        """Renew the lease; return the database's time, whether to drain, and who lives and takes runs.

        ``None``: the database does not know this instance (any more).

        Asks the database also when it is thought to be away: this is how one learns that it is back.
        """
        values = {
            "name": self.myself.name,
            "home": self.myself.home,
            "taken": taken,
            "lag": lag_seconds,
            "skew": skew_seconds,
            "gap": gap_seconds,
        }

        async def work(
            connection: Connection,
        ) -> tuple[list[tuple[int, bool]], list[tuple[str, int, list[str]]]]:
            await execute(connection, "commit_later")
            return await fetch(connection, "beat", values), await fetch(connection, "living")

        rows, living = await self.link.transact(work)
        return (from_micros(rows[0][0]), rows[0][1], living) if rows else None

    async def leave(self) -> None:
        """Be gone on purpose."""
        values = {"name": self.myself.name, "home": self.myself.home}
        await self.link.transact(lambda connection: execute(connection, "leave", values))

    async def now(self) -> datetime:
        """Return the database's time."""
        rows = await self.link.transact(lambda connection: fetch(connection, "now"))
        return from_micros(rows[0][0])

    async def passed_on(self) -> set[str]:
        """Return the queues in which runs wait for an instance with their definition."""
        return {row[0] for row in await self.read(lambda connection: fetch(connection, "passed_on"))}
