"""The scheduler inside somebody else's program.

::

    from echosched import Scheduler

    scheduler = Scheduler(store="jobs.db")

    @scheduler.job("0 8 * * *", timezone="Europe/Berlin", retries=3)
    def brief() -> None: ...

    scheduler.run()

A callable that is a coroutine function is awaited in the scheduler's event loop, any other one is called in a
thread of its own. One whose first parameter has no default is given a :class:`Context`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from echosched import events
from echosched.app.callbacks import Callbacks
from echosched.app.definitions import Definitions, Duration, JobOptions, caller, seconds_of
from echosched.app.engine import Engine
from echosched.app.signals import Signals
from echosched.clock import SystemClock
from echosched.errors import Conflict, NotFound, UsageError
from echosched.executor.function import Context
from echosched.model import Action, CallableAction, Job, Run, State
from echosched.testing import MemoryStore

if TYPE_CHECKING:
    from echosched.app.background import Background
    from echosched.protocols import Clock, EventSink

__all__ = ["Context", "Duration", "JobOptions", "Scheduler"]

F = TypeVar("F", bound=Callable[..., object])
E = TypeVar("E", bound=events.Event)
E2 = TypeVar("E2", bound=events.Event)
R = TypeVar("R")

ALL = 1_000_000_000


class Scheduler:
    """Jobs of one program, and what runs them.

    Define jobs with :meth:`job` and :meth:`add`, then live in one of three ways: :meth:`run` blocks,
    :meth:`background` has a thread of its own, ``async with scheduler:`` joins a running event loop. In the
    last one the coroutine methods (:meth:`trigger`, :meth:`wait`, :meth:`history` …) are for that loop.

    *store* is the file that remembers runs (SQLite; made when missing): with it every slot is accounted for
    over crashes and restarts, and at most once; slots missed meanwhile are caught up as each job's ``catchup``
    says. ``None`` keeps all in memory, the newest 1,000 runs of each job. *timezone* is for jobs that name
    none. *max_concurrent* bounds how many runs are under way at once. *grace* is how long an end waits for
    running jobs. *clock* is for tests: :class:`echosched.testing.FakeClock`. *sinks* are told every event,
    :meth:`on` is the shorter way.

    Raises ``ConfigError`` for a value that no job could live with.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | None = None,
        *,
        timezone: str = "UTC",
        max_concurrent: int = 64,
        grace: Duration = 10,
        clock: Clock | None = None,
        sinks: Sequence[EventSink] = (),
    ) -> None:
        # Absolute at once: a program that becomes a daemon changes its working directory.
        self._path = None if store is None else os.path.abspath(os.fspath(store))
        self._definitions = Definitions(timezone)
        self._max_concurrent = max_concurrent
        self._grace = seconds_of(grace)
        self._clock: Clock = SystemClock() if clock is None else clock
        self._memory = MemoryStore()
        self._calls = Callbacks(self._spawn)
        self._sinks = (*sinks, self._calls)
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._changing: asyncio.Lock | None = None

    # ── definitions ───────────────────────────────────────────────────────────────────────────

    def job(
        self,
        schedule: str | Sequence[str] | None = None,
        *,
        name: str | None = None,
        except_: str | Sequence[str] = (),
        **options: Unpack[JobOptions],
    ) -> Callable[[F], F]:
        """Make the decorated callable a job, and return it unchanged.

        *schedule* is any text that :func:`echosched.parse_schedule` takes, or several; without one the job
        waits for ``after`` or :meth:`trigger`. *except_* are dates on which it rests. *name* defaults to the
        callable's, ``description`` to the first line of its docstring; *options* are a job's keys
        (:class:`JobOptions`). What the callable returns is kept with the run, what it raises fails it.

        Raises ``ConfigError`` that names the line of the definition and everything wrong in it.
        """
        if callable(schedule):
            raise UsageError('job: write @scheduler.job("every 5m"), with a schedule or at least parentheses')
        place = caller(2)

        def define(function: F) -> F:
            called = name or getattr(function, "__name__", None)
            if called is None:
                raise UsageError(f"{place}: job: {function!r} has no name (give it one: name=…)")
            table: dict[str, Any] = {**options}
            described = (getattr(function, "__doc__", None) or "").strip()
            if described and not isinstance(function, type):
                table.setdefault("description", described.splitlines()[0])
            self._add(called, schedule, table, CallableAction(function), except_, place)
            return function

        return define

    def add(
        self,
        name: str,
        schedule: str | Sequence[str] | None = None,
        *,
        function: Callable[..., object] | None = None,
        command: str | Sequence[str] | None = None,
        http: str | Mapping[str, Any] | None = None,
        python: str | None = None,
        except_: str | Sequence[str] = (),
        **options: Unpack[JobOptions],
    ) -> None:
        """Add a job that calls *function*, runs *command*, makes an *http* call, or does one of these in *python*.

        *command* is a shell command line, or a program and its arguments; *http* a URL, or a mapping of the
        keys of ``[job.NAME.http]``; *python* is ``"module:function"``, called in a process of its own.

        While the scheduler lives the job is taken into force at once, from now on.
        """
        listed = list(command) if command is not None and not isinstance(command, str) else command
        kinds = {"command": listed, "http": http, "python": python}
        table: dict[str, Any] = {
            **options,
            **{kind: what for kind, what in kinds.items() if what is not None},
        }
        action = None if function is None else CallableAction(function)
        self._add(name, schedule, table, action, except_, caller(2))

    def remove(self, name: str) -> None:
        """Remove a job: what is running of it ends by itself, what is queued is cancelled."""
        self._definitions.remove(name)
        self._changed(name)

    @property
    def jobs(self) -> Mapping[str, Job]:
        """Return the jobs defined so far, by name."""
        return dict(self._definitions.jobs)

    @property
    def clock(self) -> Clock:
        """Return the clock that decides what is due."""
        return self._clock

    @overload
    def on(self, kind: type[E], /) -> Callable[[Callable[[E], R]], Callable[[E], R]]: ...

    @overload
    def on(
        self, kind: type[E], other: type[E2], /
    ) -> Callable[[Callable[[E | E2], R]], Callable[[E | E2], R]]: ...

    @overload
    def on(self, *kinds: type[events.Event]) -> Callable[[Callable[[Any], R]], Callable[[Any], R]]: ...

    def on(self, *kinds: type[Any]) -> Callable[[Callable[[Any], R]], Callable[[Any], R]]:
        """Call the decorated callable with every event of *kinds* (classes of :mod:`echosched.events`).

        Called in the scheduler's loop, after the fact is durable: it must be quick, or a coroutine function.
        What it raises is logged and changes nothing. ``on(Event)`` hears everything.
        """

        def register(function: Callable[[Any], R]) -> Callable[[Any], R]:
            self._calls.listeners.append((kinds, function))
            return function

        return register

    def _add(
        self,
        name: str,
        schedule: str | Sequence[str] | None,
        table: Mapping[str, Any],
        action: Action | None,
        excluded: str | Sequence[str],
        place: str,
    ) -> None:
        self._definitions.add(name, schedule, table, action=action, excluded=excluded, place=place)
        self._changed(name)

    def _changed(self, name: str) -> None:
        engine, loop = self._engine, self._loop
        if engine is None or loop is None:
            return  # judged as a whole when it begins
        self._definitions.check_or_undo(name)
        loop.call_soon_threadsafe(lambda: engine.scheduler.spawn(self._apply(engine)))

    async def _apply(self, engine: Engine) -> None:
        assert self._changing is not None  # noqa: S101  (made with the engine)
        async with self._changing:
            await engine.scheduler.apply(self.jobs)

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Run until SIGTERM, SIGINT or :meth:`stop`; then wait *grace* for running jobs and end the rest.

        A second signal ends them at once. Outside the main thread only :meth:`stop` ends it.
        """
        asyncio.run(self._live())

    def stop(self) -> None:
        """Let :meth:`run` come to its end. From any thread, a job or an event's callback."""
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            loop.call_soon_threadsafe(stop.set)

    def background(self) -> Background:
        """Return a context in which the scheduler runs in a thread of its own, with blocking methods to use it."""
        from echosched.app.background import Background

        return Background(self)

    async def __aenter__(self) -> Scheduler:
        """Begin in the running loop; raises what prevents it (``ConfigError``, ``AlreadyRunning``, ``StoreError``)."""
        if self._engine is not None:
            raise Conflict("the scheduler is running already")
        self._definitions.check()
        engine = Engine(
            self._path,
            self._memory,
            clock=self._clock,
            sinks=self._sinks,
            max_concurrent=self._max_concurrent,
            tidy=not hasattr(self._clock, "subscribe"),  # a rehearsal wants to see all its runs
        )
        self._loop, self._stop, self._changing = asyncio.get_running_loop(), asyncio.Event(), asyncio.Lock()
        self._engine = engine
        try:
            await engine.open(self.jobs)
        except BaseException:
            self._engine = self._loop = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Start nothing more, wait *grace* for running jobs, end the rest."""
        await self._leave(None)

    async def _leave(self, impatient: asyncio.Event | None) -> None:
        engine = self._alive
        try:
            await engine.close(self._grace, impatient=impatient)
        finally:
            self._engine = self._loop = None

    async def _live(self) -> None:
        impatient, asked = asyncio.Event(), asyncio.Event()

        def told() -> None:
            if self._engine is None or self._stop is None:  # it is only about to begin
                asked.set()
            else:
                (impatient if self._stop.is_set() else self._stop).set()

        # Before any job has begun: a signal that comes while they begin is one like any other.
        with Signals(told):
            await self.__aenter__()
            assert self._stop is not None  # noqa: S101  (made by entering)
            stop = self._stop
            if asked.is_set():
                stop.set()
            try:
                await stop.wait()
            finally:
                await self._leave(impatient)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._engine is None:
            coroutine.close()  # the last event of a life: nobody is left to await anything
        else:
            self._engine.scheduler.spawn(coroutine)

    @property
    def _alive(self) -> Engine:
        if self._engine is None:
            raise Conflict("the scheduler is not running (run(), background() or async with)")
        return self._engine

    # ── while it lives ────────────────────────────────────────────────────────────────────────

    async def trigger(self, job: str) -> int:
        """Run *job* now; return the run's number."""
        number = await self._alive.scheduler.trigger(job)
        assert number is not None  # noqa: S101  (only a claim with a slot can be refused)
        return number

    async def wait(self, run: int) -> Run:
        """Return run *run* when it has ended."""
        return await self._alive.scheduler.runs.wait(run)

    async def cancel(self, run: int) -> None:
        """End a run: a queued one at once, a command by TERM, later KILL, a callable by :attr:`Context.cancelled`."""
        self._alive.scheduler.runs.cancel(run, "cancelled by the program")

    async def pause(self, job: str) -> bool:
        """Let no slot of *job* come due until it is resumed; tell whether that changed anything."""
        return await self._alive.scheduler.roster.pause(job)

    async def resume(self, job: str) -> bool:
        """Let slots of *job* come due again, from now on; tell whether that changed anything."""
        return await self._alive.scheduler.roster.resume(job)

    async def history(
        self, job: str | None = None, *, states: Sequence[State | str] = (), limit: int = 50
    ) -> list[Run]:
        """Return the newest *limit* runs, newest first."""
        return await self._alive.store.history(job=job, states=[State(s) for s in states], limit=limit)

    async def output(self, run: int, attempt: int | None = None) -> str:
        """Return what a run (its latest attempt, or an earlier one) printed or logged; known secrets are masked."""
        engine = self._alive
        found = await engine.store.get_run(run)
        if found is None:
            raise NotFound(f"run {run}: there is no such run")
        path = engine.outputs.path(run, found.attempt if attempt is None else attempt)
        return engine.secrets.redact(await asyncio.to_thread(_read, path))

    async def coming(self, limit: int = 10) -> list[tuple[str, datetime]]:
        """Return the *limit* jobs whose next slot is soonest, with that slot (aware UTC)."""
        return self._alive.scheduler.roster.next_slots(limit)

    async def prune(self, *, runs: Duration = "30d", keep: int = 1000, output: Duration = "7d") -> int:
        """Forget runs older than *runs* or beyond the newest *keep* of their job, and outputs older than *output*.

        Nothing is forgotten by itself where a store is given; make a daily job of this. Returns how many
        runs went.
        """
        spans = (timedelta(seconds=seconds_of(runs)), timedelta(seconds=seconds_of(output)))
        return await self._alive.prune(runs=spans[0], keep=keep, output=spans[1])

    # ── tests ─────────────────────────────────────────────────────────────────────────────────

    async def elapse(self, by: timedelta) -> None:
        """Let *by* pass on the :class:`~echosched.testing.FakeClock`, from one due slot or retry to the next.

        Returns when everything that came due has run. Jobs' own waiting takes the time that it takes.
        """
        from echosched.app.rehearsal import elapse

        await elapse(self._alive.scheduler, self._calls.retries, by)

    def rehearse(self, by: timedelta) -> list[Run]:
        """Live through *by* on the :class:`~echosched.testing.FakeClock`; return all runs, oldest first.

        >>> from datetime import timedelta
        >>> from echosched.testing import FakeClock
        >>> scheduler = Scheduler(clock=FakeClock())
        >>> scheduler.add("rent", "0 8 1 * *", function=lambda: None)
        >>> len(scheduler.rehearse(timedelta(days=365)))
        12
        """

        async def rehearsal() -> list[Run]:
            async with self:
                before = await self.history(limit=1)
                await self.elapse(by)
                runs = await self.history(limit=ALL)
            last = before[0].run if before else 0
            return [run for run in reversed(runs) if run.run > last]

        return asyncio.run(rehearsal())


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
