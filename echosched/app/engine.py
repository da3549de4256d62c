"""The parts of a scheduler inside somebody else's program: store, executor, recovery; opened and closed as one.

What the daemon's worker has and this has not: a supervisor (so nobody keeps the exit codes of commands that
outlive the program), a control socket, messages, a beat.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta

from echosched import events
from echosched.app import evidence
from echosched.app.onstart import fire_on_start
from echosched.app.outputs import Outputs
from echosched.clock import EPOCH
from echosched.config.secrets import SecretResolver
from echosched.daemon import lock, proc
from echosched.errors import AlreadyRunning, StoreError
from echosched.executor import ActionExecutor, ExecutorOptions
from echosched.hashing import blake2s
from echosched.model import Job
from echosched.protocols import Clock, EventSink, Store
from echosched.schedule import jitter_seconds
from echosched.scheduler import Scheduler
from echosched.scheduler.recovery import follow_up, recover
from echosched.store.resilient import ResilientStore
from echosched.store.sqlite import SqliteStore
from echosched.testing import MemoryStore

REMEMBERED = 1000
"""How many runs of each job a store in memory keeps."""

_lives = itertools.count(1)


class Engine:
    """One life of a scheduler: opened once, closed once. All methods belong to one event loop.

    *path* is the store's file; ``None``: *memory* is the store, which may outlive the engine. With *tidy* its
    old runs are forgotten.
    """

    def __init__(
        self,
        path: str | None,
        memory: MemoryStore,
        *,
        clock: Clock,
        sinks: Sequence[EventSink],
        max_concurrent: int,
        tidy: bool,
    ) -> None:
        self.clock = clock
        self.secrets = SecretResolver()
        self._path = path
        self._lock: int | None = None
        self._temporary = tempfile.mkdtemp(prefix="echosched-") if path is None else None
        self.outputs = Outputs(self._temporary or f"{path}.runs")
        self.store: Store = memory if path is None else self._durable(path)
        self.executor = ActionExecutor(
            ExecutorOptions(clock=clock, instance=_instance(path), resolve=self.secrets)
        )
        self.scheduler = Scheduler(
            store=self.store,
            executor=self.executor,
            clock=clock,
            sinks=[*sinks, *([_Tidy(self)] if path is None and tidy else [])],
            max_concurrent=max_concurrent,
            output_path=self.outputs.prepare,
            jitter=jitter_seconds,
            redact=self.secrets.redact,
        )
        self.scheduler.runs.spare_path = self.outputs.spare.prepare

    def _durable(self, path: str) -> Store:
        return ResilientStore(
            SqliteStore(path, owner=f"{os.uname().nodename}:{os.getpid()}", clock=self.clock),
            self.clock,
            self,
            jobs=lambda: [entry.record() for entry in self.scheduler.roster.entries.values()],
            highest_trace=self.outputs.highest_run,
        )

    def emit(self, event: events.Event) -> None:
        """Pass on what the store tells; it is made before the scheduler."""
        self.scheduler.emit(event)

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    async def open(self, jobs: Mapping[str, Job]) -> None:
        """Take over what an earlier life left behind and let slots fire.

        Raises ``AlreadyRunning`` where another program, or another scheduler of this one, uses the store.
        """
        try:
            if self._path is not None:
                self._take_lock(self._path)
            await self.store.open()
            self.scheduler.roster.absent_until = self.clock.now()
            await self.scheduler.load(jobs)
            await recover(self.scheduler, await evidence.gather(self.store, self.executor, self.outputs))
            self.scheduler.begin()
            pid = os.getpid()
            life = f"{proc.boot_id()}:{pid}:{proc.start_ticks(pid)}:{next(_lives)}"
            await fire_on_start(self.scheduler, life=life, boot=proc.boot_id())
            await follow_up(self.scheduler)
        except BaseException:
            await self._release()
            raise
        self.emit(events.Ready(ts=self.clock.now(), pid=os.getpid(), jobs=len(jobs)))

    async def close(self, grace: float, *, impatient: asyncio.Event | None = None) -> None:
        """Start nothing more, wait *grace* seconds for running jobs, then end them; *impatient* cuts that short."""
        stopping = asyncio.ensure_future(self.scheduler.stop(grace))
        if impatient is not None:
            hurry = asyncio.ensure_future(impatient.wait())
            await asyncio.wait((stopping, hurry), return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        if impatient is not None and not stopping.done():
            self.scheduler.runs.stop_all()
        try:
            await stopping
            self.emit(events.Shutdown(ts=self.clock.now(), signal=None, pid=os.getpid()))
        finally:
            await self._release()

    async def _release(self) -> None:
        await self.executor.close()
        await self.store.close()
        if self._lock is not None and self._path is not None:
            lock.remove(f"{self._path}.lock", self._lock, os.getpid())
            os.close(self._lock)
            self._lock = None
        if self._temporary is not None:
            await asyncio.to_thread(shutil.rmtree, self._temporary, ignore_errors=True)

    def _take_lock(self, path: str) -> None:
        # The daemon's name for it: a program and a daemon on one database exclude each other too.
        place = f"{path}.lock"
        try:
            self._lock = lock.take_patiently(place, 0o640)
        except OSError as error:
            raise StoreError(f"{place}: {error.strerror}") from error
        if self._lock is None:
            pid = lock.read_pid(place)
            who = f"process {pid}" if pid else "another program"
            raise AlreadyRunning(f"{path}: {who} uses this store (one scheduler for each)", pid=pid)
        lock.write_pid(self._lock, os.getpid())

    # ── housekeeping ──────────────────────────────────────────────────────────────────────────

    async def prune(self, *, runs: timedelta, keep: int, output: timedelta) -> int:
        """Forget old runs, their slots and outputs; return how many runs went."""
        now, removed = self.clock.now(), 0
        windows = [entry.job.policy.catchup_window for entry in self.scheduler.roster.entries.values()]
        # Well past anything that could catch a slot up again: its row is what keeps it from running twice.
        slots = now - 2 * max(windows, default=timedelta(0)) - timedelta(days=3)
        while True:
            pruned = await self.store.prune(
                runs_before=now - runs, keep=keep, outputs_before=now - output, slots_before=slots
            )
            if not (pruned.runs or pruned.slots or pruned.outputs):
                return removed
            removed += pruned.runs
            await asyncio.to_thread(_unlink, [self.outputs.path(*which) for which in pruned.outputs])

    async def forget(self) -> None:
        """Keep a store in memory small."""
        await self.prune(runs=self.clock.now() - EPOCH, keep=REMEMBERED, output=self.clock.now() - EPOCH)


class _Tidy:
    """Forgets the oldest runs now and then."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ended = 0

    def emit(self, event: events.Event) -> None:
        """Count ends."""
        if isinstance(event, events.RunEnd):
            self._ended += 1
            if self._ended % REMEMBERED == 0:
                self._engine.scheduler.spawn(self._engine.forget())


def _instance(path: str | None) -> str:
    """Return what marks the processes of a store's jobs: the same name after a restart."""
    if path is None:
        return os.urandom(6).hex()
    return blake2s(os.fsencode(os.path.realpath(path)), digest_size=6).hexdigest()


def _unlink(paths: Sequence[str]) -> None:
    for path in paths:
        try:
            os.unlink(path)
        except OSError:
            continue
