"""The SQLite store: the truth about slots and runs on one machine.

Writes go through one thread with group commit (:mod:`echosched.store.writer`), reads through another
thread with a connection of its own: in write-ahead mode neither waits for the other, so a long
history query never delays a claim.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from echosched.clock import SystemClock
from echosched.errors import StoreCorrupt, StoreError, StoreUnavailable
from echosched.model import Claim, Ended, JobRecord, Pruned, Run, Started, State
from echosched.store import reads, schema, writes
from echosched.store.faults import translate, wants_new_connection
from echosched.store.ledger import Backlog
from echosched.store.prune import Pruner, add_up
from echosched.store.writer import Writer

if TYPE_CHECKING:
    from echosched.protocols import Clock

_T = TypeVar("_T")
_STARTS_WAIT_SECONDS = 1.0  # how long a noted start may stay unwritten
_CLOSE_SECONDS = 60.0  # a disk that does not answer for so long will not do so before we are killed


class SqliteStore:
    """A :class:`~echosched.protocols.Store` in one SQLite file.

    *owner* names this process in the runs it claims. *busy_seconds* bounds how long a write waits for
    another program's lock. With *read_only* nothing is ever written, also no schema; several programs
    may read while one daemon writes.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        owner: str | None = None,
        read_only: bool = False,
        clock: Clock | None = None,
        busy_seconds: float = 1.0,
        steps: Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.owner = owner
        self.read_only = read_only
        self._clock: Clock = clock or SystemClock()
        self._busy_seconds = busy_seconds
        self._steps = tuple(steps) if steps is not None else schema.migrations()
        self._writer: Writer | None = None
        self._reader: _Reader | None = None
        self._pruner = Pruner()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._reading_mode = ""
        self._was_open = False

    async def open(self, *, must_write: bool = True) -> None:
        """Open or create the file and migrate it up.

        Raises ``StoreUnusable`` for what must not be touched, ``StoreUnavailable`` where an outside fault
        prevents it, ``StoreCorrupt`` where the file is damaged. Without *must_write* an outside fault is
        left to the first write that meets it.
        """
        self._reader = _Reader(self.path, self._connect_reader, self._is_stale)
        try:
            if self.read_only:
                await self._reader.run(lambda connection: None)
                return
            self._writer = Writer(
                str(self.path), self._connect_writer, self._disconnected, self._reader.checkpoint_soon
            )
            self._writer.start()
            try:
                await self._writer.submit(lambda connection: None)
            except StoreUnavailable as error:
                if must_write or isinstance(error, StoreCorrupt):
                    raise
        except BaseException:
            await self.close()
            raise

    async def judge(self) -> None:
        """Look whether this program may use the file, without opening it; an older schema is fine.

        Raises ``StoreUnusable`` for what must not be touched. Faults that may pass are left to :meth:`open`.
        """
        look = partial(schema.judge, self.path, len(self._steps), busy_seconds=self._busy_seconds)
        with contextlib.suppress(StoreUnavailable):
            await asyncio.to_thread(look)

    async def close(self) -> None:
        """Write what is pending and close; closing twice is harmless."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        writer, self._writer = self._writer, None
        reader, self._reader = self._reader, None
        if writer is not None:
            await asyncio.to_thread(writer.close, _CLOSE_SECONDS)
        if reader is not None:
            await reader.close()

    # ── writes ────────────────────────────────────────────────────────────────────────────────

    async def save_jobs(self, records: Iterable[JobRecord]) -> None:
        """Insert or replace job records, all but ``last_run``."""
        batch = list(records)
        await self._write(lambda connection: writes.save_jobs(connection, batch))

    async def claim(self, claims: Sequence[Claim]) -> list[int | None]:
        """Account for slots in one transaction; a run number for each claim, ``None`` where it came too late."""
        return await self._write(lambda connection: writes.claim(connection, claims, self.owner))

    async def starting(self, runs: Sequence[int]) -> None:
        """Turn QUEUED runs to RUNNING, durably."""
        await self._write(lambda connection: writes.starting(connection, runs, self.owner))

    def started(self, starts: Sequence[Started]) -> None:
        """Note when attempts began: written with the next commit, at the latest within a second."""
        self._writing().note(starts)
        if starts and self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(_STARTS_WAIT_SECONDS, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        if self._writer is not None and self._writer.has_starts:  # no commit came along meanwhile
            self._writer.flush()

    async def finish(self, ends: Sequence[Ended]) -> list[bool]:
        """Record ends in one transaction; ``False`` where the run had an outcome already or another attempt."""
        return await self._write(lambda connection: writes.finish(connection, ends))

    async def set_note(self, key: str, value: str | None) -> None:
        """Keep (``None``: forget) a small value under *key*."""
        await self._write(lambda connection: writes.set_note(connection, key, value))

    async def prune(
        self,
        *,
        runs_before: datetime,
        keep: int,
        outputs_before: datetime,
        slots_before: datetime,
        batch: int = 500,
    ) -> Pruned:
        """Remove one batch of old runs and slot rows; zeros mean that nothing is left.

        What goes is searched for in the reading thread; only the deletion itself, by primary key, takes
        the writer's time, and only when no claim or end waits.
        """
        writer = self._writing()
        found = await self._read(
            lambda connection: self._pruner.find(
                connection, runs_before, keep, outputs_before, slots_before, batch
            )
        )
        return add_up([await writer.submit(removal, background=True) for removal in found.removals()])

    # ── reads ─────────────────────────────────────────────────────────────────────────────────

    async def load_jobs(self) -> dict[str, JobRecord]:
        """Return all job records by name, also of jobs no longer defined."""
        return await self._read(reads.load_jobs)

    async def active(self) -> list[Run]:
        """Return all queued and running runs, oldest slot first."""
        return await self._read(reads.active)

    async def get_run(self, run: int) -> Run | None:
        """Return one run."""
        return await self._read(lambda connection: reads.get_run(connection, run))

    async def get_runs(self, numbers: Sequence[int]) -> dict[int, Run]:
        """Return those of the runs *numbers* that exist, by number."""
        return await self._read(lambda connection: reads.get_runs(connection, numbers))

    async def recent(self, jobs: Sequence[str], limit: int) -> dict[str, list[Run]]:
        """Return the newest *limit* runs of each of *jobs*, newest first."""
        return await self._read(lambda connection: reads.recent(connection, jobs, limit))

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
        wanted = reads.HistoryQuery(job, tuple(dict.fromkeys(states)), since, until, before_run, limit)
        return await self._read(lambda connection: reads.history(connection, wanted))

    async def counts(self) -> dict[State, int]:
        """Return how many runs are in each state."""
        return await self._read(reads.counts)

    async def get_note(self, key: str) -> str | None:
        """Return a small value kept under *key*."""
        return await self._read(lambda connection: reads.get_note(connection, key))

    async def check(self) -> list[str]:
        """Return what an integrity check finds wrong. It reads the whole file, on a thread of its own.

        Raises ``StoreError`` where it cannot be read.
        """

        def examine() -> list[str]:
            try:
                with contextlib.closing(self._connect_reader()) as connection:
                    return reads.check(connection)
            except sqlite3.Error as error:
                if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    return [str(translate(error, str(self.path)))]
                raise translate(error, str(self.path)) from error  # the disk is full, or fails

        self._reading()
        return await asyncio.to_thread(examine)

    # ── for ResilientStore ────────────────────────────────────────────────────────────────────

    async def highest_run(self) -> int:
        """Return the highest run number that was ever given out."""
        return await self._read(reads.highest_run)

    async def known_slots(self, slots: Sequence[tuple[str, datetime]]) -> set[tuple[str, datetime]]:
        """Return those of *slots* (job, slot) that are accounted for."""
        return await self._read(lambda connection: reads.known_slots(connection, slots))

    async def restore(self, backlog: Backlog) -> None:
        """Write rows that memory kept, in one transaction; writing them again is harmless."""
        await self._write(lambda connection: writes.restore(connection, backlog))

    def give_up(self) -> None:
        """Answer all who wait for a write, because the disk does not; what was begun may still come to it."""
        if self._writer is not None:
            self._writer.give_up()

    async def set_aside(self) -> Path:
        """Close, and give the damaged file with its log a dated name; return that. Nothing is deleted.

        Closed first: SQLite removes its log by name when it closes, and by then that name could be the
        log of a new database.
        """
        await self.close()
        self._was_open = False
        stamp = f"{self._clock.now():%Y%m%dT%H%M%SZ}"
        try:
            return await asyncio.to_thread(schema.set_aside, self.path, stamp)
        except OSError as error:
            raise StoreUnavailable(f"{self.path}: cannot be renamed: {error.strerror}") from error

    # ── inside ────────────────────────────────────────────────────────────────────────────────

    async def _write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        return await self._writing().submit(work)

    async def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        reader = self._reading()
        if self._writer is not None and self._writer.has_starts:
            # Whoever started an attempt and asks for its run must see the start. If it cannot be
            # written now, it stays noted, and the read goes on without it.
            with contextlib.suppress(StoreUnavailable):
                await self._writer.submit(lambda connection: None)
        return await reader.run(work)

    def _writing(self) -> Writer:
        if self._writer is None:
            why = "was opened for reading only" if self.read_only else "the store is not open"
            raise StoreError(f"{self.path}: {why}")
        return self._writer

    def _reading(self) -> _Reader:
        if self._reader is None:
            raise StoreError(f"{self.path}: the store is not open")
        return self._reader

    def _connect_writer(self) -> sqlite3.Connection:
        stamp = f"{self._clock.now():%Y%m%dT%H%M%SZ}"
        connection = schema.open_for_writing(
            self.path, self._steps, stamp, again=self._was_open, busy_seconds=self._busy_seconds
        )
        self._was_open = True
        if self._reader is not None:
            # What the writer opened may be another file than before a fault (mounted anew, restored from
            # a copy), and reads must come from the same.
            self._reader.renew()
        return connection

    def _disconnected(self) -> None:
        if self._reader is not None:
            self._reader.let_go()

    def _is_stale(self) -> bool:
        """Tell whether a writer came or left since this reader connected (then it must connect anew)."""
        return self.read_only and self._reading_mode != schema.reading_mode(self.path)

    def _connect_reader(self) -> sqlite3.Connection:
        if self.read_only:
            self._reading_mode = schema.reading_mode(self.path)
            return schema.open_for_reading(self.path, len(self._steps), busy_seconds=self._busy_seconds)
        # Open for writing although it only reads: this connection also runs the checkpoints.
        connection = schema.connect(self.path, "rw", busy_seconds=self._busy_seconds)
        connection.execute("PRAGMA query_only = ON")
        return connection


class _Reader:
    """One thread with one connection for reading; a connection that failed is opened again."""

    def __init__(
        self, path: Path, connect: Callable[[], sqlite3.Connection], is_stale: Callable[[], bool]
    ) -> None:
        self._path = path
        self._connect = connect
        self._is_stale = is_stale
        self._connection: sqlite3.Connection | None = None
        self._must_renew = False
        self._lets_go = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="store-reader")

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return what *work* reads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._do, work)

    def renew(self) -> None:
        """Connect anew before the next read, and keep the connection."""
        self._must_renew = True
        self._lets_go = False

    def let_go(self) -> None:
        """Keep no connection between reads until :meth:`renew`: a failing disk may have to be unmounted."""
        self._lets_go = True
        self._submit(self._disconnect)

    def checkpoint_soon(self) -> None:
        """Move the log into the file between two reads, beside the writer, which goes on meanwhile."""
        self._submit(self._checkpoint)

    async def close(self) -> None:
        """Disconnect and end the thread."""
        gone = asyncio.get_running_loop().run_in_executor(self._pool, self._disconnect)
        await asyncio.wait([gone], timeout=_CLOSE_SECONDS)
        self._pool.shutdown(wait=gone.done())

    def _submit(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # closing: then the last connection does all this itself
            self._pool.submit(work)

    def _checkpoint(self) -> None:
        # A checkpoint that fails loses nothing: the log keeps the commits, and the next burst tries again.
        with contextlib.suppress(StoreError):
            self._do(lambda connection: connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())

    def _do(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        try:
            return self._read(work)
        except sqlite3.Error as error:
            if wants_new_connection(error):
                self._disconnect()
            if self._lets_go:
                with contextlib.suppress(sqlite3.Error, OSError):
                    return self._read_alone(work)
            raise translate(error, str(self._path)) from error
        except OSError as error:  # from looking at the files beside the database
            raise StoreUnavailable(f"{self._path}: cannot be read: {error.strerror}") from error
        finally:
            if self._lets_go:
                self._disconnect()

    def _read(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        if self._must_renew or self._is_stale():
            self._must_renew = False
            self._disconnect()
        if self._connection is None:
            self._connection = self._connect()
        return work(self._connection)

    def _read_alone(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        with contextlib.closing(schema.connect_alone(self._path)) as connection:
            return work(connection)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
