"""Tickets: queued runs as Procrastinate's jobs, and the worker that takes them.

Procrastinate keeps the queue (priorities, queues, instants, one fetch for each job) and wakes the workers by
LISTEN/NOTIFY. What is ours: a ticket is deferred in the transaction that queues its run, and used up in the one
that takes it (:func:`echosched.store.postgres_turns.take`), so there is never a run without one or the other.
The attempt itself is carried out by our executors, beside Procrastinate's worker: that one may be stopped and
started anew at any time, as when the database was away, while jobs run on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from echosched.errors import StoreError
from echosched.store.postgres_link import Connection, Link

if TYPE_CHECKING:
    from echosched.model import Run

log = logging.getLogger(__name__)

TASK = "echosched.run"
BATCH = 8
"""How many of the others' tickets one instance takes at a time: more cost less, fewer are shared more evenly."""

LATER_SECONDS = 0.03
"""How long the others wait for whoever is first to take a ticket."""

POLL_SECONDS = 5.0
"""How often workers look without having been told; retries that came due are found by their own timers."""

FAILED_SECONDS = 5.0
"""How long a worker rests after a fault that nobody thought of: one that stays must not fill the disk with lines."""

_ANY_QUEUE = "procrastinate_any_queue_v1"
_DEFERRED_AT_ONCE = 1000

Take = Callable[[int], Awaitable[tuple[list["Run"], bool]]]


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right of one attempt to be started by whoever takes it, not before *at*."""

    run: int
    attempt: int
    queue: str
    priority: int = 0
    at: datetime | None = None


async def defer(connection: Connection, tickets: Sequence[Ticket]) -> None:
    """Put *tickets* into Procrastinate's queue, inside the transaction of *connection*."""
    from procrastinate import jobs

    for begin in range(0, len(tickets), _DEFERRED_AT_ONCE):
        await _deferrer().batch_defer_jobs_async(
            jobs=[
                jobs.Job(
                    id=None,
                    queue=ticket.queue,
                    lock=None,
                    queueing_lock=None,
                    task_name=TASK,
                    priority=ticket.priority,
                    scheduled_at=ticket.at,
                    task_kwargs={"run": ticket.run, "attempt": ticket.attempt},
                )
                for ticket in tickets[begin : begin + _DEFERRED_AT_ONCE]
            ],
            connection=connection,
        )


@cache
def _deferrer() -> Any:
    import procrastinate
    from procrastinate.manager import JobManager

    return JobManager(procrastinate.PsycopgConnector())  # only ever used with our own connections


class TicketWorker:
    """Procrastinate's worker over our store.

    *take* takes at most so many runs and tells whether more may wait; *room* says how many this instance may
    take now; *first* whether this one is the first to look for the ticket of that number. *start* gets each run
    taken. *hear* gets the messages that instances send each other, *lost* the faults of the database.

    Of the tickets that it is told of, an instance takes as many at once as it is the first for. For the others it
    looks a moment later, all at once: by then they are mostly gone.
    """

    def __init__(
        self,
        link: Link,
        *,
        take: Take,
        room: Callable[[], int],
        first: Callable[[int], bool],
        start: Callable[[Run], None],
        hear: Callable[[dict[str, Any]], None],
        lost: Callable[[StoreError], None],
    ) -> None:
        self._link = link
        self._take = take
        self._room = room
        self._first = first
        self._start = start
        self._hear = hear
        self._lost = lost
        self._taken: dict[int, Run] = {}
        self._ready: deque[Any] = deque()
        self._freed = asyncio.Event()
        self._own = 0  # tickets told of that this instance is the first for
        self._looks = True  # for any others
        self._looked_at = 0.0
        self._later: asyncio.TimerHandle | None = None
        self._leaving = False
        self._notify: Callable[..., Awaitable[None]] | None = None
        self._task: asyncio.Task[None] | None = None

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """Begin to take runs."""
        self._leaving = False
        self._task = asyncio.get_running_loop().create_task(self._work(), name="tickets")

    async def stop(self) -> None:
        """Take no more; what was taken is handed over."""
        self._leaving = True
        self._freed.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for number in list(self._taken):
            self._start(self._taken.pop(number))

    def wake(self) -> None:
        """Look for tickets: a place is free, a retry is due, or the database is back."""
        self._later = None
        self._looks = True
        self._freed.set()
        if self._notify is not None:
            asyncio.get_running_loop().create_task(self._poke())

    def holds(self, run: int) -> bool:
        """Tell whether *run* was taken and is on its way to be started."""
        return run in self._taken

    def free(self) -> None:
        """Take note that a place has become free; asks for tickets only if that was waited for."""
        self._freed.set()

    def _told(self, payload: str) -> bool:
        """Take note of a new ticket; tell whether to look at once."""
        try:
            number = int(json.loads(payload)["job_id"])
        except (ValueError, KeyError, TypeError, OverflowError):
            return False
        if self._first(number):
            self._own += 1
            return self._own == 1
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(LATER_SECONDS, self.wake)
        return False

    async def _poke(self) -> None:
        if self._notify is not None:
            await self._notify(channel=_ANY_QUEUE, notification={"type": "job_inserted", "job_id": 0})

    async def _work(self) -> None:
        from procrastinate import App, PsycopgConnector
        from procrastinate.exceptions import ProcrastinateException

        # Each run would be three lines at INFO; the journal tells them already.
        logging.getLogger("procrastinate").setLevel(logging.WARNING)
        connector = PsycopgConnector(configure=self._link.configure)
        app = App(connector=connector)
        app.job_manager = _manager(connector, self)
        app.task(name=TASK)(self._carry_out)
        await connector.open_async(self._link.pool)
        while not self._leaving:
            try:
                await app.run_worker_async(
                    name="echosched",
                    concurrency=1000,  # tasks end at once: how many runs this host takes is for `room` to say
                    install_signal_handlers=False,
                    fetch_job_polling_interval=POLL_SECONDS,
                    abort_job_polling_interval=86_400.0,
                    shutdown_graceful_timeout=5.0,
                )
            except (ProcrastinateException, StoreError) as error:
                log.debug("Procrastinate's worker ended: %s", error)
                await asyncio.sleep(1.0)
            except Exception:
                # Nobody else would begin again, and the runs of all jobs pass through here.
                log.exception("taking runs failed; it is tried again in %g s", FAILED_SECONDS)
                await asyncio.sleep(FAILED_SECONDS)
                self._looks = True

    async def _carry_out(self, run: int, attempt: int) -> None:
        """Hand a run over to its executor; Procrastinate's task."""
        del attempt
        taken = self._taken.pop(run, None)
        if taken is not None:
            self._start(taken)

    # ── what Procrastinate's worker asks for ──────────────────────────────────────────────────

    async def fetch(self) -> Any:
        """Return a job of Procrastinate's for the next run taken, ``None`` when there is none now."""
        while not self._ready and not self._leaving:
            room = self._room() - len(self._taken)
            if room <= 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            now = asyncio.get_running_loop().time()
            if self._own:
                wanted, self._own = self._own, 0
            elif self._looks or now - self._looked_at >= POLL_SECONDS - 1.0:
                wanted, self._looks, self._looked_at = BATCH, False, now
            else:
                return None
            self._looks = self._looks or wanted > room
            try:
                runs, more = await self._take(min(room, wanted))
            except StoreError as error:
                self._lost(error)
                return None
            self._looks = self._looks or (more and wanted == BATCH)
            for run in runs:
                self._taken[run.run] = run
                self._ready.append(_job(run))
        return self._ready.popleft() if self._ready else None

    def _follow(self, message: dict[str, Any]) -> None:
        """Act on one message. One that cannot be followed must not end the listening: the next ones count, too."""
        try:
            self._hear(message)
        except Exception:
            log.exception("what another instance said could not be followed: %s", message)

    async def listen(self, notify: Callable[..., Awaitable[None]], connector: Any) -> None:
        """Hear of new tickets, and what other instances say, as long as the worker lives."""
        import psycopg
        from procrastinate.exceptions import ProcrastinateException

        self._notify = notify

        async def heard(*, channel: str, payload: str) -> None:
            if channel == _ANY_QUEUE:
                if self._told(payload):
                    await notify(channel=channel, notification={"type": "job_inserted", "job_id": 0})
                return
            with contextlib.suppress(ValueError):
                message = json.loads(payload)
                if isinstance(message, dict):
                    self._follow(message)

        try:
            while True:
                try:
                    await connector.listen_notify(
                        on_notification=heard, channels=[_ANY_QUEUE, self._link.schema]
                    )
                except (ProcrastinateException, psycopg.Error, OSError) as error:
                    said = error.__cause__  # Procrastinate's own says only "Database error."
                    self._lost(self._link.translate(said if isinstance(said, Exception) else error))
                except Exception:
                    # Procrastinate would not notice that nobody listens any more: it watches its side tasks only
                    # until the first of them is done, which is at once.
                    log.exception("listening to the others failed; it is begun anew in %g s", FAILED_SECONDS)
                    await asyncio.sleep(FAILED_SECONDS)
                if self._leaving:  # psycopg may take a cancellation for a fault of the connection
                    return
                await asyncio.sleep(1.0)
                self._follow({"op": "missed"})
        finally:
            self._notify = None


def _job(run: Run) -> Any:
    from procrastinate import jobs

    return jobs.Job(
        id=run.run,
        queue="",
        lock=None,
        queueing_lock=None,
        task_name=TASK,
        task_kwargs={"run": run.run, "attempt": run.attempt},
    )


def _manager(connector: Any, worker: TicketWorker) -> Any:
    """Return Procrastinate's job manager for *worker*: the calls that a worker makes, over our transactions."""
    from procrastinate.manager import JobManager

    class Manager(JobManager):
        async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Any:
            return await worker.fetch()

        async def finish_job(self, job: Any, status: Any, delete_job: bool) -> None:
            """Do nothing: the ticket was used up when its run was taken."""

        async def listen_for_jobs(self, *, on_notification: Any, queues: Iterable[str] | None = None) -> None:
            await worker.listen(on_notification, connector)

        # Instances have heartbeats of their own, which say more than these.
        async def register_worker(self) -> int:
            return 0

        async def unregister_worker(self, worker_id: int) -> None:
            """Do nothing."""

        async def update_heartbeat(self, worker_id: int) -> None:
            """Do nothing."""

        async def prune_stalled_workers(self, seconds_since_heartbeat: float) -> list[int]:
            return []

    return Manager(connector)
