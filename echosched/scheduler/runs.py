"""Runs on their way out: started, watched, ended, recorded, told, settled.

Commit before telling, so that nobody hears of a run that the store forgot; settle last, because until
then an exit code can still be looked at again by whoever comes after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from echosched import events
from echosched.errors import ExecutionError, NotFound, OutputUnavailable
from echosched.model import (
    Attempt,
    CommandAction,
    Ended,
    Overlap,
    PythonAction,
    Result,
    Run,
    Started,
    State,
)
from echosched.policy import overlap, retry
from echosched.protocols import Clock, Execution, Executor, Store
from echosched.scheduler.ends import Ends
from echosched.scheduler.entries import LiveRun
from echosched.scheduler.queue import StartQueue
from echosched.scheduler.tell import end_events, run_fields
from echosched.timer import Delay, TimerHeap, call_later

log = logging.getLogger(__name__)

OutputPath = Callable[[int, int], str | None]

STOPPED = "the scheduler was stopped"

RELEASED_AT_ONCE = 16
RELEASE_PAUSE_SECONDS = 0.002
"""How many runs that were held for their slot are let go at once, and how soon the next follow."""


class Runs:
    """All runs that have not ended, and the start queue.

    *on_end* is called after the commit of each outcome, with the run and its state. *redact* masks secrets
    in the reasons of failures.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        executor: Executor,
        emit: Callable[[events.Event], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_end: Callable[[LiveRun, State], None],
        on_write: Callable[[float], None],
        output_path: OutputPath,
        redact: Callable[[str], str],
        max_concurrent: int,
    ) -> None:
        self.live: dict[int, LiveRun] = {}
        self.queue = StartQueue(max_concurrent)
        self.held: TimerHeap[LiveRun] = TimerHeap()  # claimed, and waiting for their slots
        self.starting = False  # whether anything is started at all
        self._store = store
        self._clock = clock
        self._executor = executor
        self._prepare: Callable[..., Callable[[], None] | None] | None = getattr(executor, "prepare", None)
        self._rouse: Callable[[], None] | None = getattr(executor, "rouse", None)
        self._emit = emit
        self._spawn = spawn
        self._on_end = on_end
        self._output_path = output_path
        self._redact = redact
        self._unarmed: list[LiveRun] = []
        self.ends = Ends(
            store,
            clock,
            self.queue,
            spawn=spawn,
            committed=self._after_commit,
            at_rest=self._look_whether_quiet,
            on_write=on_write,
        )
        self.on_retry: Callable[[LiveRun, float], None] = self._again
        """Called after the commit of an attempt that another follows, with the seconds until then."""
        self.spare_path: OutputPath | None = None
        """Where the output of an attempt goes if its file cannot be made on a full or broken disk."""
        self.may_begin: Callable[[LiveRun], bool] | None = None
        """Asked at the last moment whether an attempt may begin; who says no looks after the run."""
        self._quiet = asyncio.Event()  # nothing runs, and no end is left to commit
        self._quiet.set()

    def running(self) -> list[LiveRun]:
        """Return the runs with an attempt under way."""
        return [live for live in self.live.values() if live.placed]

    # ── in ────────────────────────────────────────────────────────────────────────────────────

    def enlist(self, live: LiveRun, *, delay: float = 0.0) -> None:
        """Let *live* wait for a place, after *delay* seconds (on the loop's clock, which never steps)."""
        self.live[live.run] = live.entry.active[live.run] = live
        if delay > 0:
            live.handle = call_later(self._clock, delay, self._queue_late, live)
        else:
            self.queue.add(live)

    def hold(self, live: LiveRun, until: float) -> None:
        """Let *live*, whose slot is claimed but has not come, wait until then (epoch seconds)."""
        self.live[live.run] = live.entry.active[live.run] = live
        live.ahead = True
        self.held.push(live, until, live.order)
        live.handle = Delay(partial(self.held.discard, live))
        if self._prepare is not None:
            with contextlib.suppress(Exception):  # what is wrong is told at the start
                live.start = self._prepare(*self._attempt(live), early=True)

    def rouse(self) -> None:
        """Let what starts runs be awake: a start comes in a moment."""
        if self._rouse is not None:
            self._rouse()

    def release(self, epoch: float) -> bool:
        """Start what was held until *epoch* or earlier; tell whether there was anything."""
        due = self.held.pop_due(epoch, RELEASED_AT_ONCE)
        for _, live in due:
            live.handle, live.ahead = None, False
            if len(live.entry.active) > 1 and (earlier := _in_the_way(live)) is not None:
                verdict = overlap.judge(Overlap.SKIP, 1, 0, earlier=earlier.run)
                self._end_unbegun(live, State.SKIPPED, verdict.reason or "")
                continue
            self.queue.add(live)
        if due:
            self.pump()
        if len(due) == RELEASED_AT_ONCE:
            # The rest after a pause in which the first ones are started; nor must a beat wait for all.
            asyncio.get_running_loop().call_later(RELEASE_PAUSE_SECONDS, self.release, epoch)
        return bool(due)

    def _queue_late(self, live: LiveRun) -> None:
        live.handle = None
        self.queue.add(live)
        self.pump()

    def watch(self, live: LiveRun) -> None:
        """Follow an adopted run, whose ``execution`` is set, to its end."""
        self.live[live.run] = live.entry.active[live.run] = live
        self._place(live)
        self._spawn(self._follow(live))

    def _place(self, live: LiveRun) -> None:
        self.queue.place(live)
        self._quiet.clear()

    def pump(self) -> None:
        """Start whatever may start now."""
        while self.starting and (live := self.queue.take()) is not None:
            self._quiet.clear()
            if live.armed:
                self._begin(live)
                continue
            if not self._unarmed:
                self._spawn(self._arm())
            self._unarmed.append(live)

    async def _arm(self) -> None:
        """Make the right to start durable, for all that got a place in this turn of the loop."""
        batch, self._unarmed = self._unarmed, []
        try:
            await self._store.starting([live.run for live in batch])
        except Exception as error:  # noqa: BLE001 - told as the reason; their places must not be lost
            for live in batch:
                self._refused(live, error)
            return
        for live in batch:
            live.armed = True
            self._begin(live)

    # ── an attempt ────────────────────────────────────────────────────────────────────────────

    def _begin(self, live: LiveRun) -> None:
        """Carry out one attempt, from spawn to result. Nothing that a job does may escape from here."""
        soon = asyncio.get_running_loop().call_soon
        if live.cancelled is not None:  # before it began
            soon(self._end_unbegun, live, *live.cancelled)
            return
        if self.may_begin is not None and not self.may_begin(live):
            return
        try:
            start, live.start = live.start, None
            if start is None:
                attempt, *steps = self._attempt(live)
                start = self._prepare(attempt, *steps, early=False) if self._prepare is not None else None
            if start is not None:
                start()
                return
        except Exception as error:  # noqa: BLE001 - told as the reason
            soon(self._refused, live, error)
            return
        self._spawn(self._carry_out(live, attempt))

    def _attempt(self, live: LiveRun) -> tuple[Attempt, *tuple[Callable[[Any], None], ...]]:
        """Return what an executor needs for the next attempt of *live*: it, and whom to call."""
        where = self.spare_path if live.spare else self._output_path if live.job.policy.output else None
        path = None if where is None else where(live.run, live.attempt)
        attempt = Attempt(live.run, live.job, live.slot, live.attempt, live.trigger, path)
        return attempt, partial(self._begun, live), partial(self._refused, live), partial(self._ended, live)

    async def _carry_out(self, live: LiveRun, attempt: Attempt) -> None:
        try:
            execution = await self._executor.start(attempt)
            self._begun(live, execution)
            result = await execution.wait()
        except Exception as error:  # noqa: BLE001 - told as the reason
            self._refused(live, error)
        else:
            self._ended(live, result)

    def _begun(self, live: LiveRun, execution: Execution) -> None:
        live.execution = execution
        live.started_at = execution.started_at
        process = execution.process
        self._store.started([Started(live.run, live.attempt, execution.started_at, process)])
        pid = None if process is None else process.pid
        self._emit(events.RunStart(ts=execution.started_at, **run_fields(live), pid=pid))
        if live.cancelled is not None:
            state, reason = live.cancelled
            execution.cancel(reason, state=state, kill_after=live.job.policy.kill_after)

    def _refused(self, live: LiveRun, error: Exception) -> None:
        if isinstance(error, OutputUnavailable) and self.spare_path is not None and not live.spare:
            live.spare = True
            self._begin(live)
            return
        if isinstance(error, ExecutionError):
            reason = str(error)
        else:
            log.error("run %s of %s: the attempt broke", live.run, live.job.name, exc_info=error)
            reason = f"internal error: {type(error).__name__}: {error}"
        self._ended(live, Result(State.FAILED, error=reason))

    async def _follow(self, live: LiveRun) -> None:
        assert live.execution is not None  # noqa: S101  (watch() is called with one)
        try:
            result = await live.execution.wait()
        except Exception as error:
            log.exception("run %s of %s: watching an adopted process broke", live.run, live.job.name)
            result = Result(State.ABANDONED, error=f"internal error: {error}")
        self._ended(live, result)

    # ── out ───────────────────────────────────────────────────────────────────────────────────

    def _ended(self, live: LiveRun, result: Result) -> None:
        now = self._clock.now()
        if live.cancelled == (State.CANCELLED, STOPPED) and _finished(live, result):
            result = replace(result, state=State.SUCCEEDED, error=None)
        if result.error:
            # A program that is not found, or an exception's words, may hold what a reference resolved to; from
            # here the reason goes to the store, the journal and every message.
            result = replace(result, error=self._redact(result.error))
        wait = None
        if live.cancelled is None:
            wait = retry.delay(live.job.policy, live.attempt, result.state, random.random())
        retry_at = None if wait is None else now + wait
        self.finish(live, Ended(live.run, live.job.name, live.attempt, now, result, retry_at))

    def finish(self, live: LiveRun, ended: Ended) -> None:
        """Free the place at once and commit *ended* with the next batch."""
        self.queue.release(live)
        live.over = ended.retry_at is None
        self._quiet.clear()
        self.ends.add(live, ended)
        self.pump()

    def _after_commit(self, live: LiveRun, ended: Ended, fresh: bool) -> None:
        if live.execution is not None:
            live.execution.settle()
        if ended.retry_at is not None and fresh:
            fields = run_fields(live)
            self._emit(
                events.RunRetry(ts=ended.at, **fields, retry_at=ended.retry_at, error=ended.result.error)
            )
            live.attempt += 1
            live.armed = False
            live.execution = live.started_at = None
            live.spare = False
            self.on_retry(live, (ended.retry_at - self._clock.now()).total_seconds())
            return
        self.forget(live)
        live.entry.last_run = live.run
        if fresh:
            self.tell_end(live, ended)
            self._on_end(live, ended.result.state)

    def forget(self, live: LiveRun) -> None:
        """Have no more to do with *live*: it has ended, or its next attempt is somebody else's."""
        self.live.pop(live.run, None)
        live.entry.active.pop(live.run, None)
        for waiter in live.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def withdraw(self, live: LiveRun) -> None:
        """Have no more to do with *live*, which has not begun: it waits, is held, or may not begin here."""
        if live.handle is not None:
            live.handle.cancel()
            live.handle = None
        self.queue.discard(live)
        self.queue.release(live)
        self.forget(live)
        self._look_whether_quiet()

    def _look_whether_quiet(self) -> None:
        if self.ends.are_settled and not self.queue.placed:
            self._quiet.set()

    def _again(self, live: LiveRun, delay: float) -> None:
        if live.cancelled is not None:  # while the end of the last attempt was being committed
            self._end_unbegun(live, *live.cancelled)
            return
        self.enlist(live, delay=delay)
        self.pump()

    def tell_end(self, live: LiveRun, ended: Ended) -> None:
        """Tell that *live* has ended so."""
        for event in end_events(live, ended):
            self._emit(event)

    # ── cancelling and waiting ────────────────────────────────────────────────────────────────

    def cancel(self, run: int, reason: str) -> None:
        """End run *run*: a waiting one at once, a running one by TERM, then KILL."""
        live = self.live.get(run)
        if live is None:
            raise NotFound(f"run {run}: not queued or running (echoschedd history shows what it came to)")
        self.cancel_live(live, State.CANCELLED, reason)

    def stop_all(self) -> None:
        """End all attempts under way. One that ends with success nevertheless, by itself, has succeeded."""
        for live in self.running():
            self.cancel_live(live, State.CANCELLED, STOPPED)

    def cancel_live(self, live: LiveRun, state: State, reason: str) -> None:
        """End *live* with *state* and *reason*; a second call changes nothing."""
        if live.cancelled is not None:
            return
        if live.placed:
            live.cancelled = (state, reason)
            # Between arming and spawning there is no execution yet: the attempt looks at `cancelled` itself.
            if live.execution is not None:
                live.execution.cancel(reason, state=state, kill_after=live.job.policy.kill_after)
            return
        if live.handle is not None:
            live.handle.cancel()
            live.handle = None
        elif not self.queue.discard(live):
            live.cancelled = (state, reason)
            return  # an attempt's end is being committed: its last one's, or the next one will not be begun
        self._end_unbegun(live, state, reason)

    def _end_unbegun(self, live: LiveRun, state: State, reason: str) -> None:
        live.cancelled = (state, reason)
        self._ended(live, Result(state, error=reason))

    async def wait(self, run: int) -> Run:
        """Return run *run* when it has ended."""
        live = self.live.get(run)
        if live is not None:
            waiter: asyncio.Future[Run | None] = asyncio.get_running_loop().create_future()
            live.waiters.append(waiter)
            await waiter
        found = await self._store.get_run(run)
        if found is None:
            raise NotFound(f"run {run}: there is no such run")
        return found

    async def started(self) -> None:
        """Wait until no start is under way: each run that has a place has begun, or has ended."""
        while any(live.placed and live.execution is None for live in self.live.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def settle(self) -> None:
        """Wait until every end known so far is committed; what runs goes on."""
        await self.ends.settle()

    async def drain(self, grace: float) -> bool:
        """Wait at most *grace* seconds until nothing runs and all ends are committed; tell whether that is so."""
        try:
            await asyncio.wait_for(self._quiet.wait(), grace)
        except TimeoutError:
            return False
        return True


def _in_the_way(live: LiveRun) -> LiveRun | None:
    """Return the run for which *live*, whose slot has come, is skipped: one that began after it had been claimed."""
    if live.job.policy.overlap is not Overlap.SKIP:
        return None
    return next((other for other in live.entry.unended if other is not live), None)


def _finished(live: LiveRun, result: Result) -> bool:
    """Tell whether a command or function that was told to end has ended as it does when it succeeds."""
    action = live.job.action
    if isinstance(action, CommandAction | PythonAction):
        return result.exit_code in action.success_codes
    return False
