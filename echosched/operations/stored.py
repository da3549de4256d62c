"""The store's file, read beside the worker: history costs the scheduler nothing that way.

Through the worker every page's question would be worked on between two slots, and first of all make it
commit what it has noted. The file is opened for one question and closed again: a connection that stayed
would keep a daemon that stops from folding its log back into the file.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from echosched.clock import from_micros, parse_rfc3339, rfc3339
from echosched.errors import NotFound, NotRunning, Unreachable
from echosched.model import Run, State
from echosched.operations.arguments import history_query
from echosched.operations.description import RECENT, recent_runs, run_details
from echosched.operations.selection import rows_matching
from echosched.protocols import Facts

if TYPE_CHECKING:
    from echosched.store.postgres import PostgresStore
    from echosched.store.sqlite import SqliteStore

CONNECT_SECONDS = 3.0
"""Whoever reads waits no longer for a database."""

Ask = Callable[..., Awaitable[Any]]
"""Carries out an operation in the worker."""

TIMELINE_RUNS = 5000
MANY = 200


@contextlib.asynccontextmanager
async def opened(path: str) -> AsyncIterator[SqliteStore]:
    """Give the store at *path* for reading; raises ``StoreError`` where that is impossible."""
    from echosched.store.sqlite import SqliteStore

    store = SqliteStore(path, read_only=True)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def opened_shared(dsn: str) -> AsyncIterator[PostgresStore]:
    """Give the store that many hosts share, for reading; *dsn* may hold references to secrets."""
    from echosched.config.secrets import SecretResolver
    from echosched.store.postgres import PostgresStore

    store = PostgresStore(SecretResolver()(dsn), read_only=True, connect_seconds=CONNECT_SECONDS)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


class StoredReads:
    """The operations that read runs, over the file at *path*; *ask* is for what only the worker knows.

    With *dsn* the history is read from the database that many hosts share.
    """

    OPERATIONS = frozenset({"history", "run", "timeline", "recent"})

    def __init__(self, path: str, ask: Ask, *, dsn: str | None = None) -> None:
        self._path = path
        self._ask = ask
        self._dsn = dsn

    async def call(self, op: str, args: Facts) -> Any:
        """Carry out *op*, one of :attr:`OPERATIONS`; raises ``StoreError`` where the file cannot be read."""
        return await getattr(self, op)(**args)

    async def history(self, job: str | None = None, **wanted: Any) -> list[Facts]:
        """Return the newest runs, newest first; raises ``NotFound`` for a job that is not and never was.

        *wanted* as for :func:`~echosched.operations.arguments.history_query`.
        """
        query = history_query(job, **wanted)
        rows = await rows_matching(query, self._history, self._rows)
        if job is not None and not rows and not await self._history(job=job, limit=1):
            await self._ask("job", job=job)
        return rows

    async def _history(self, **query: Any) -> list[Run]:
        async with opened(self._path) if self._dsn is None else opened_shared(self._dsn) as store:
            return await store.history(**query)

    async def run(self, run: int) -> Facts:
        """Return one run with its earlier attempts."""
        async with opened(self._path) as store:
            found = await store.get_run(run)
            if found is None:
                raise NotFound(f"run {run}: there is no such run (echoschedd history lists them)")
            before = await store.history(job=found.job, states=[State.SUCCEEDED], limit=RECENT)
        [row] = await self._rows([found])
        return {**row, **run_details(found, before)}

    async def timeline(self, start: str, end: str) -> Facts:
        """Return the runs that were queued between *start* and *end*, and the slots to come in that time."""
        async with opened(self._path) as store:
            runs = await store.history(
                since=parse_rfc3339(start), until=parse_rfc3339(end), limit=TIMELINE_RUNS
            )
        coming = await self._ask("coming", start=start, end=end)
        return {"runs": await self._rows(runs), "next": await asyncio.to_thread(_in_order, coming)}

    async def recent(self, jobs: Sequence[str]) -> dict[str, Facts]:
        """Return what the latest runs of each of *jobs* were like."""
        async with opened(self._path) as store:
            found = await store.recent(jobs, RECENT)
        return {job: recent_runs(runs) for job, runs in found.items()}

    async def last_runs(self, numbers: Sequence[int]) -> dict[int, Facts]:
        """Return those of the runs *numbers* that exist."""
        async with opened(self._path) as store:
            found = await store.get_runs(numbers)
        return {number: run.as_dict() for number, run in found.items()}

    async def _rows(self, runs: Sequence[Run]) -> list[Facts]:
        """Return *runs* as rows. Starts are written a little later than they happen: the worker knows them."""
        # Thousands are made beside the loop, which has others to answer.
        rows = await asyncio.to_thread(_as_rows, runs) if len(runs) > MANY else _as_rows(runs)
        unsure = [row for row in rows if row["state"] == State.RUNNING and row["started_at"] is None]
        if unsure:
            live: dict[int, Facts] = {}
            with contextlib.suppress(NotRunning, Unreachable):
                live = {row["run"]: row for row in await self._ask("running")}
            for row in unsure:
                # The right to start is written ahead of the start: until then people should read "queued".
                known = live.get(row["run"], {"state": str(State.QUEUED), "started_at": None})
                row.update(state=known["state"], started_at=known["started_at"])
        return rows


def _as_rows(runs: Sequence[Run]) -> list[Facts]:
    return [run.as_dict() for run in runs]


def _in_order(coming: dict[str, list[int]]) -> list[Facts]:
    slots = sorted((at, job) for job, found in coming.items() for at in found)
    return [{"job": job, "at": rfc3339(from_micros(at))} for at, job in slots]
