"""What can be read while no scheduler runs: the store, the configuration and the outputs, as they lie.

A scheduler that died in the night is when an operator most wants to know what ran last and why it
failed. The operations that only read are therefore the worker's own (:class:`Operations`), here over a
scheduler that stands still: jobs without a next slot (unless one asks what would come), no live runs. Nothing is
ever written.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from echosched.clock import SystemClock
from echosched.errors import ConfigError, Conflict, ExecutionError, NotRunning, StoreError, no_such_job
from echosched.model import Job, JobRecord, ProcessIdentity, Run
from echosched.operations.pieces import find_output
from echosched.operations.stored import opened, opened_shared
from echosched.protocols import Clock

if TYPE_CHECKING:
    from datetime import datetime

    from echosched.config.paths import Paths
    from echosched.config.settings import Config
    from echosched.operations import Membership, Operations
    from echosched.store.sqlite import SqliteStore

READS = frozenset(
    {
        "jobs",
        "job",
        "history",
        "run",
        "output",
        "timeline",
        "next",
        "roster",
        "definitions",
        "coming",
        "recent",
    }
)
"""Operations that need no running scheduler."""

_FRESH_SECONDS = 3.0
_NOT_RUNNING = "scheduler: not running (start it, here or with: echoschedd start)"


class Records:
    """Answers reading operations for the instance at *paths*.

    With *coming* jobs have the slots that would come due if a scheduler ran, which take no records to know: without
    them nothing is paused and nothing ever ran.
    """

    def __init__(self, paths: Paths, clock: Clock | None = None, *, coming: bool = False) -> None:
        self._paths = paths
        self._clock = clock or SystemClock()
        self._coming = coming
        self._config: tuple[float, Config] | None = None

    async def call(self, op: str, args: dict[str, Any]) -> Any:
        """Carry out *op*; raises ``NotRunning`` for what only a running scheduler can do or know."""
        if op not in READS:
            raise NotRunning(_NOT_RUNNING)
        try:
            config = await self._configured()
        except ConfigError as error:
            raise NotRunning(f"{_NOT_RUNNING}; its configuration is wrong: {error.problems[0]}") from None
        async with self._opened(config) as store:
            redact = await _redactor(config, store, int(args["run"])) if op == "output" else str
            operations = await self._operations(config, store, redact)
            return await operations.find(op)(**args)

    async def _configured(self) -> Config:
        from echosched.config.load import load

        now = self._clock.monotonic()
        if self._config is None or now - self._config[0] > _FRESH_SECONDS:
            self._config = (now, await asyncio.to_thread(load, paths=self._paths))
        return self._config[1]

    @contextlib.asynccontextmanager
    async def _opened(self, config: Config) -> AsyncIterator[SqliteStore]:
        if self._coming and (config.cluster is not None or not os.path.exists(self._paths.db)):
            yield cast(Any, _NoRecords())
            return
        try:
            if config.cluster is not None:
                async with opened_shared(config.cluster.dsn) as shared:
                    yield cast(Any, shared)
                return
            async with opened(self._paths.db) as store:
                yield store
        except (StoreError, ExecutionError) as error:
            raise NotRunning(f"{_NOT_RUNNING}; its records cannot be read: {error}") from None

    async def _operations(
        self, config: Config, store: SqliteStore, redact: Callable[[str], str]
    ) -> Operations:
        from echosched.operations import Operations
        from echosched.scheduler import Entry

        now = self._clock.now()
        records = await store.load_jobs()
        # Unless asked for, entries without a schedule in force: nothing comes due, so nothing is announced.
        admit = Entry.admitted if self._coming else Entry
        entries = {name: admit(job, records.get(name), now) for name, job in config.jobs.items()}
        armed = []
        for each in entries.values():
            if each.waits and each.schedule is not None:
                each.slot = each.schedule.next_after(now)
            if each.slot is not None:
                armed.append((each.job.name, each.slot))

        def soonest(n: int) -> list[tuple[str, datetime]]:
            return heapq.nsmallest(n, armed, key=lambda pair: pair[1])

        def entry(name: str) -> Entry:
            if name not in entries:
                raise no_such_job(name, entries)
            return entries[name]

        standing_still = SimpleNamespace(
            store=store,
            clock=self._clock,
            roster=SimpleNamespace(entries=entries, entry=entry, next_slots=soonest),
            runs=SimpleNamespace(live={}, running=list),
        )
        return Operations(
            cast(Any, standing_still),
            output_path=partial(find_output, self._paths.runs),
            reload=_no_reload,
            journal_path=self._paths.log,
            redact=redact,
            membership=_membership(config, store),
        )


class _NoRecords:
    """The store of an instance that has none yet, or has it elsewhere."""

    async def load_jobs(self) -> dict[str, JobRecord]:
        """Return no records."""
        return {}

    async def get_run(self, run: int) -> Run | None:
        """Return no run."""
        return None

    async def history(self, **_query: Any) -> list[Run]:
        """Return no runs."""
        return []


def _membership(config: Config, store: Any) -> Membership | None:
    """Return this host's part in a cluster: outputs lie on the hosts that ran the jobs."""
    if config.cluster is None:
        return None
    from echosched.config.cluster import address
    from echosched.operations import Membership

    return Membership(store, config.cluster.instance, address(config.cluster.dsn))


async def _redactor(config: Config, store: SqliteStore, run: int) -> Callable[[str], str]:
    """Return what masks the secrets of the run's job; refuse where they cannot be looked up here."""
    from echosched.config.secrets import SecretResolver

    resolver = SecretResolver()
    found = await store.get_run(run)
    job = None if found is None else config.jobs.get(found.job)
    try:
        for text in () if job is None else _texts(job):
            resolver(text)
    except ExecutionError as error:
        raise Conflict(
            f"run {run}: its output is shown when the scheduler runs, which can mask its secrets ({error})"
        ) from None
    return resolver.redact


async def _no_reload() -> dict[str, Any]:
    raise NotRunning(_NOT_RUNNING)


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in a job's action and process."""
    if isinstance(value, Job):
        yield from _texts(value.action)
        yield from _texts(value.process)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _texts(part)
    elif hasattr(value, "__dataclass_fields__") and not isinstance(value, ProcessIdentity):
        for name in value.__dataclass_fields__:
            yield from _texts(getattr(value, name))
