"""The writer thread: one connection, group commit.

Everything that waits when the thread wakes goes into one transaction: the starts noted since the
last commit, then each caller's work inside a savepoint of its own, so that one caller's mistake does
not undo another's. One commit makes all of it durable, and one call wakes the event loop to deliver
all answers. A burst of a thousand claims or ends thus costs one disk flush and one loop wake-up.

Background work (pruning) is taken only when nothing else waits, one piece for each transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from echosched.errors import StoreError, StoreUnavailable
from echosched.model import Started
from echosched.store.faults import CommitUnclear, is_full, translate, wants_new_connection
from echosched.store.writes import note_starts

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
Work = Callable[[sqlite3.Connection], Any]

_MOST_STARTS = 20_000  # kept while they cannot be written; beyond that the oldest are forgotten
_CHECKPOINT_ROWS = 4_000
_CHECKPOINT_COMMITS = 250
# A commit takes some 25 KiB of the log, which only a checkpoint lets be used anew. Where room is short, the
# log itself would fill the disk, and the file could not grow any more to take in what the log holds: there
# the writer makes the checkpoint itself. Beside commits that never pause none would ever get to the end.
_SHORT_OF_ROOM_BYTES = 16 << 20
_SHORT_OF_ROOM_COMMITS = 12


@dataclass(slots=True)
class _Task:
    work: Work
    future: asyncio.Future[Any]
    value: Any = None
    error: BaseException | None = None


class Writer:
    """Runs pieces of work in transactions on a thread of its own.

    *connect* opens the writing connection (in the thread); *disconnected* is told when a fault closed it, or
    kept it from being opened. *after_burst* is called in the thread when enough was written since its last
    call and nothing waits: the place for a checkpoint.
    """

    def __init__(
        self,
        path: str,
        connect: Callable[[], sqlite3.Connection],
        disconnected: Callable[[], None],
        after_burst: Callable[[], None],
    ) -> None:
        self._path = path
        self._connect = connect
        self._disconnected = disconnected
        self._after_burst = after_burst
        self._connection: sqlite3.Connection | None = None
        self._wake = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._background: deque[_Task] = deque()
        self._starts: list[Started] = []
        self._flush = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._commits = 0
        self._rows_seen = 0
        self._failing = False
        self._in_flight: list[_Task] = []
        self._is_committing = False
        self._is_void = False  # what is in flight must not be committed any more

    def start(self) -> None:
        """Start the thread. It opens the connection with the first work."""
        self._closing = False
        self._thread = threading.Thread(target=self._live, name="store-writer", daemon=True)
        self._thread.start()

    def submit(
        self, work: Callable[[sqlite3.Connection], _T], *, background: bool = False
    ) -> asyncio.Future[_T]:
        """Return a future of what *work* returns once it is committed. Call from a running loop."""
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        task = _Task(work, future)
        with self._wake:
            if self._closing or self._thread is None:
                raise StoreError(f"{self._path}: the store is closed")
            (self._background if background else self._tasks).append(task)
            self._wake.notify()
        return future

    def note(self, starts: Sequence[Started]) -> None:
        """Keep *starts* for the next commit, without waking the thread."""
        with self._wake:
            self._starts += starts

    @property
    def has_starts(self) -> bool:
        """Tell whether starts wait for a commit that can be expected to go well."""
        return bool(self._starts) and not self._failing

    def flush(self) -> None:
        """Have the noted starts written soon."""
        with self._wake:
            self._flush = True
            self._wake.notify()

    def give_up(self) -> None:
        """Answer all who wait, because the disk does not: call from their loop.

        What is not being committed yet will not be; what is may come to the disk at any time later.
        """
        error = StoreUnavailable(f"{self._path}: the disk does not answer (check it, and the kernel's log)")
        with self._wake:
            waiting = [*self._tasks, *self._background]
            self._tasks.clear()
            self._background.clear()
            self._failing = True
            self._is_void = not self._is_committing
            for task in self._in_flight:
                task.error = CommitUnclear(str(error), task.value) if self._is_committing else error
            waiting += self._in_flight
        for task in waiting:
            task.error = task.error or error
        _settle(waiting)

    def close(self, most_seconds: float | None = None) -> None:
        """Write what waits, close the connection, end the thread. Blocks; not for the loop's thread.

        A disk that hangs is left alone after *most_seconds*.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(most_seconds)
            self._thread = None

    # ── in the thread ─────────────────────────────────────────────────────────────────────────

    def _live(self) -> None:
        try:
            while self._wait():
                group, starts = self._take()
                if group or starts:
                    self._run(group, starts)
                    self._deliver(group)
                self._save_room()
                self._maybe_checkpoint()
        finally:
            self._disconnect()

    def _wait(self) -> bool:
        """Block until there is something to do; ``False`` when all is done and the store closes."""
        with self._wake:
            while not (self._tasks or self._background or self._flush or self._closing):
                self._wake.wait()
            return bool(self._tasks or self._background or self._flush or self._starts) or not self._closing

    def _take(self) -> tuple[list[_Task], list[Started]]:
        with self._wake:
            if self._tasks:
                group = list(self._tasks)
                self._tasks.clear()
            else:
                group = [self._background.popleft()] if self._background else []
            starts, self._starts = self._starts, []
            self._flush = False
            self._in_flight, self._is_committing, self._is_void = group, False, False
            return group, starts

    def _run(self, group: list[_Task], starts: list[Started]) -> None:
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            if starts:
                note_starts(connection, starts)
            for task in group:
                self._run_one(connection, task, alone=len(group) == 1 and not starts)
            self._begin_commit()
            connection.execute("COMMIT")
            self._commits += 1
            self._failing = False
        except sqlite3.Error as error:
            reconnect = wants_new_connection(error)
            self._fail(group, starts, translate(error, self._path), reconnect=reconnect)
            if is_full(error):
                self._commits = _CHECKPOINT_COMMITS  # the log's own room may do for the next try
        except StoreError as error:  # the connection could not be opened, or the disk answered too late
            self._fail(group, starts, error, reconnect=True)
        except OSError as error:  # nor could the files beside it be looked at
            fault = StoreUnavailable(f"{self._path}: cannot be opened: {error.strerror}")
            self._fail(group, starts, fault, reconnect=True)
        except Exception as error:  # noqa: BLE001 — told to every caller
            # A mistake of ours outside any caller's work. The thread must live on, or everybody who
            # waits would wait for ever; the starts may be the reason and are not tried again.
            _log.exception("The store's writer made a mistake")
            self._fail(group, [], StoreError(f"{self._path}: {error}"), reconnect=True)

    def _begin_commit(self) -> None:
        with self._wake:
            if self._is_void:
                raise StoreUnavailable(f"{self._path}: the disk answered too late")
            self._is_committing = True

    def _run_one(self, connection: sqlite3.Connection, task: _Task, *, alone: bool) -> None:
        """Run one caller's work; its own mistakes end with it, faults of the disk end the transaction."""
        if not alone:
            connection.execute("SAVEPOINT caller")
        try:
            task.value = task.work(connection)
        except sqlite3.Error as error:
            fault = translate(error, self._path)
            if isinstance(fault, StoreUnavailable) or not connection.in_transaction:
                raise
            task.error = fault
        except Exception as error:  # noqa: BLE001 — handed to the caller, who awaits it
            task.error = error
        if task.error is not None:
            connection.execute("ROLLBACK TO caller" if not alone else "ROLLBACK")
            if alone:
                connection.execute("BEGIN IMMEDIATE")
        if not alone:
            connection.execute("RELEASE caller")

    def _fail(self, group: list[_Task], starts: list[Started], error: StoreError, *, reconnect: bool) -> None:
        # As far as we know nothing of the transaction was kept: every caller must learn it, also those
        # whose own work had gone well. The starts are tried again with the next commit.
        _log.debug("A transaction of %d callers failed: %s", len(group), error)
        self._failing = isinstance(error, StoreUnavailable)
        connection = self._connection
        if connection is not None:
            try:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            except sqlite3.Error:
                reconnect = True
        if reconnect:
            self._disconnect()
            self._disconnected()
        for task in group:
            if task.error is None:
                # Of a damaged file nothing is kept.
                unclear = self._is_committing and type(error) is StoreUnavailable
                task.error = CommitUnclear(str(error), task.value) if unclear else error
        if not self._closing:
            with self._wake:
                self._starts = (starts + self._starts)[-_MOST_STARTS:]

    def _deliver(self, group: list[_Task]) -> None:
        with self._wake:
            self._in_flight = []
        loops: dict[asyncio.AbstractEventLoop, list[_Task]] = {}
        for task in group:
            loops.setdefault(task.future.get_loop(), []).append(task)
        for loop, tasks in loops.items():
            try:
                loop.call_soon_threadsafe(_settle, tasks)
            except RuntimeError:  # that loop is closed: nobody waits any more
                _log.debug("The loop of %d answers is closed", len(tasks))

    def _maybe_checkpoint(self) -> None:
        connection = self._connection
        if connection is None or self._tasks:
            return
        rows = connection.total_changes - self._rows_seen
        if rows >= _CHECKPOINT_ROWS or self._commits >= _CHECKPOINT_COMMITS:
            self._rows_seen += rows
            self._commits = 0
            self._after_burst()

    def _save_room(self) -> None:
        connection = self._connection
        if connection is None or self._commits < _SHORT_OF_ROOM_COMMITS or not self._is_short_of_room():
            return
        self._commits = 0
        # One that fails loses nothing: the log keeps the commits.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _is_short_of_room(self) -> bool:
        try:
            disk = os.statvfs(self._path)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < _SHORT_OF_ROOM_BYTES

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
            self._rows_seen = self._connection.total_changes
            # A new file lies in the log alone, and a worker that was killed left a long one.
            self._commits = _CHECKPOINT_COMMITS
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                _log.debug("Closing the connection failed: %s", error)


def _settle(tasks: list[_Task]) -> None:
    for task in tasks:
        if task.future.done():  # the caller gave up waiting; what it asked for is done all the same
            continue
        if task.error is not None:
            task.future.set_exception(task.error)
        else:
            task.future.set_result(task.value)
