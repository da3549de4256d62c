"""One machine, or one of many: the store, the clock and the scheduler of each, behind one face for the worker."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from echosched.app.daemon import instance_of
from echosched.clock import SystemClock, from_micros
from echosched.errors import StoreError, StoreUnavailable
from echosched.scheduler import AHEAD_SECONDS, Scheduler
from echosched.scheduler.recovery import account_for_blind_time
from echosched.store.resilient import ResilientStore
from echosched.store.sqlite import SqliteStore
from echosched.version import __version__

if TYPE_CHECKING:
    from echosched.clock import SharedClock
    from echosched.config.paths import Paths
    from echosched.config.settings import Config
    from echosched.daemon.beat import Beat
    from echosched.model import Job, JobRecord
    from echosched.operations import Membership
    from echosched.protocols import EventSink

log = logging.getLogger(__name__)

LONGEST_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a host is built from. *lenient*: a store that fails now is waited for, as an earlier worker had it."""

    paths: Paths
    config: Config
    sink: EventSink
    owner: str
    lenient: bool
    on_degraded: Callable[[datetime | None], None]
    records: Callable[[], Iterable[JobRecord]]
    highest_trace: Callable[[], int]
    resolve: Callable[[str], str]


class Host(Protocol):
    """What differs between a machine of its own and one of many."""

    @property
    def clock(self) -> SystemClock:
        """Return the clock by which slots are judged."""

    @property
    def store(self) -> Any:
        """Return the store; it also says since when it fails, and why."""

    @property
    def membership(self) -> Membership | None:
        """Return this host's part in a cluster, if it has one."""

    def scheduler(self, **parts: Any) -> Scheduler:
        """Return the scheduler over this host's store and clock, with the rest of its *parts*."""

    async def warm(self) -> None:
        """Get ready for :meth:`open` while another worker is still at work."""

    async def open(self, jobs: Mapping[str, Job]) -> None:
        """Open the store; nothing fires and nothing is taken yet."""

    async def account(self, beat: Beat, blind_micros: int | None) -> datetime | None:
        """Account for what an earlier worker did while it could not write; return since when that is unknown."""

    async def leave(self, *, gone: bool) -> None:
        """Let the others know; *gone*: nothing is left running here."""

    def reasons(self) -> list[str]:
        """Return what keeps this host from being well."""


class SingleHost:
    """A machine of its own: SQLite, kept going by memory in bad times."""

    membership: Membership | None = None

    def __init__(self, around: Surroundings) -> None:
        self.clock = SystemClock()
        self.store = ResilientStore(
            SqliteStore(around.paths.db, owner=around.owner, clock=self.clock),
            self.clock,
            around.sink,
            on_degraded=around.on_degraded,
            jobs=around.records,
            highest_trace=around.highest_trace,
            # A worker that comes back while the disk is full goes on; a daemon is not started on one.
            lenient=around.lenient,
        )
        self._scheduler: Scheduler | None = None
        self._path = around.paths.db
        self._held: SqliteStore | None = None

    def scheduler(self, **parts: Any) -> Scheduler:
        """See :meth:`Host.scheduler`."""
        self._scheduler = Scheduler(store=self.store, clock=self.clock, ahead=AHEAD_SECONDS, **parts)
        return self._scheduler

    async def warm(self) -> None:
        """Read the file, and keep it open.

        The worker before this one is then not the last to close it, and leaves the checkpoint that SQLite
        makes at the last close (50 ms on a busy disk) to a quieter moment.
        """
        held = SqliteStore(self._path, read_only=True)
        # A newer schema, or another program's file: told now, while the old worker can still go on.
        await held.judge()
        try:
            await held.open()
            await held.counts()
        except StoreError:
            await held.close()  # open() will say what is wrong
        else:
            self._held = held

    async def open(self, jobs: Mapping[str, Job]) -> None:
        """See :meth:`Host.open`."""
        del jobs
        await self.store.open()
        if self._held is not None and self._scheduler is not None:
            self._scheduler.spawn(self._held.close())
            self._held = None

    async def account(self, beat: Beat, blind_micros: int | None) -> datetime | None:
        """See :meth:`Host.account`."""
        since = None if blind_micros is None else from_micros(blind_micros)
        if since is not None and self._scheduler is not None:
            await account_for_blind_time(self._scheduler, since)
        if self.store.degraded_since is None:
            # Not before it is on disk: the worker after this one would catch up what may have run.
            beat.forget_inherited()
        return since

    async def leave(self, *, gone: bool) -> None:
        """Nobody else has to know."""

    def reasons(self) -> list[str]:
        """See :meth:`Host.reasons`."""
        return [] if self.store.reason is None else [f"the store cannot be written: {self.store.reason}"]


class ClusterHost:
    """One of many hosts that share a PostgreSQL database."""

    clock: SharedClock

    def __init__(self, around: Surroundings) -> None:
        from echosched.clock import SharedClock
        from echosched.config.cluster import address
        from echosched.operations import Membership
        from echosched.store.postgres_cluster import ClusterStore, Myself

        cluster = around.config.cluster
        assert cluster is not None  # noqa: S101  (host_of's case)
        node = os.uname().nodename
        lease = cluster.lease.total_seconds()
        self.clock = SharedClock()
        self.store = ClusterStore(
            around.resolve(cluster.dsn),
            Myself(
                name=cluster.instance,
                home=f"{node}:{instance_of(around.paths)}",
                host=node,
                pid=int(around.owner.rpartition(":")[2]),
                version=__version__,
                lease_seconds=lease,
                labels=cluster.labels,
            ),
            connect_seconds=min(10.0, max(2.0, lease / 3)),
        )
        self.membership: Membership | None = Membership(self.store, cluster.instance, address(cluster.dsn))
        self._around = around
        self._heartbeat = cluster.heartbeat
        self._scheduler: Any = None

    def scheduler(self, **parts: Any) -> Scheduler:
        """See :meth:`Host.scheduler`."""
        from echosched.scheduler.cluster import ClusterScheduler

        self._scheduler = ClusterScheduler(
            store=self.store,
            clock=self.clock,
            heartbeat=self._heartbeat,
            on_degraded=self._around.on_degraded,
            **parts,
        )
        return self._scheduler  # type: ignore[no-any-return]

    async def warm(self) -> None:
        """See :meth:`Host.warm`: two connections of one instance would not know of each other."""

    async def open(self, jobs: Mapping[str, Job]) -> None:
        """Connect and take part. A worker that comes back while the database is away waits for it."""
        pause, told = 0.25, False
        while True:
            try:
                await self.store.open()
                await self._scheduler.join(jobs)
            except StoreUnavailable as error:
                await self.store.close()
                if not self._around.lenient:
                    raise
                if not told:
                    told = True
                    log.warning("Waiting for the database: %s", error)
                    self._around.on_degraded(self.clock.now())
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LONGEST_SECONDS)
            else:
                if told:
                    self._around.on_degraded(None)
                return

    async def account(self, beat: Beat, blind_micros: int | None) -> datetime | None:
        """Nothing was done that the database does not know: without it an instance starts nothing."""
        beat.forget_inherited()
        return None

    async def leave(self, *, gone: bool) -> None:
        """See :meth:`Host.leave`."""
        await self._scheduler.leave(gone=gone)

    def reasons(self) -> list[str]:
        """See :meth:`Host.reasons`."""
        found = []
        if self.store.reason is not None:
            found.append(f"out of touch with the others, nothing new is started: {self.store.reason}")
        if self._scheduler.contact.skew_warning is not None:
            found.append(self._scheduler.contact.skew_warning)
        return found


def host_of(around: Surroundings) -> Host:
    """Return what the configuration makes of this host."""
    return SingleHost(around) if around.config.cluster is None else ClusterHost(around)
