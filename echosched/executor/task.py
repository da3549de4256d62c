"""Attempts without a process: a task of the event loop that can be made to end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any

from echosched.model import Attempt, ProcessIdentity, Result, State

log = logging.getLogger(__name__)


class TaskExecution:
    """Runs *work* as a task; satisfies :class:`echosched.protocols.Execution`.

    *on_cancel* is called at a cancel. With *cancellable* the task is cancelled as well, else it has
    *kill_after* to end by itself (a thread can only be asked). *on_end* is called when the work is over,
    were it before its first step.
    """

    process: ProcessIdentity | None = None

    def __init__(
        self,
        attempt: Attempt,
        work: Coroutine[Any, Any, Result],
        started_at: datetime,
        *,
        cancellable: bool = True,
        on_cancel: Callable[[], None] | None = None,
        on_end: Callable[[], object] | None = None,
    ) -> None:
        self.attempt = attempt
        self.started_at = started_at
        self._cancellable = cancellable
        self._on_cancel = on_cancel
        self._on_end = on_end
        self._verdict: Result | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._abandoned: asyncio.Event = asyncio.Event()
        self._left = False
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Result] = self._loop.create_task(
            work, name=f"{attempt.job.name} run {attempt.tag}"
        )
        self._task.add_done_callback(self._ended)
        timeout = attempt.job.policy.timeout
        if timeout is not None:
            self._timers.append(self._loop.call_later(timeout.total_seconds(), self._time_out, timeout))

    def _time_out(self, timeout: timedelta) -> None:
        self.cancel(
            f"timed out after {in_seconds(timeout)}",
            state=State.TIMED_OUT,
            kill_after=self.attempt.job.policy.kill_after,
        )

    def cancel(self, reason: str, *, state: State, kill_after: timedelta) -> None:
        """Ask the work to end; after *kill_after* :meth:`wait` answers whether it has or not."""
        if self._task.done():
            return
        if self._verdict is None:
            self._verdict = Result(state, error=reason)
            if self._on_cancel is not None:
                self._on_cancel()
            if self._cancellable:
                self._task.cancel(reason)
        self._timers.append(self._loop.call_later(kill_after.total_seconds(), self._abandoned.set))

    def _ended(self, task: asyncio.Task[Result]) -> None:
        for timer in self._timers:
            timer.cancel()
        if self._on_end is not None:
            self._on_end()
        self._abandoned.set()
        if not task.cancelled() and task.exception() is not None:
            log.error(
                "run %s of %s broke", self.attempt.tag, self.attempt.job.name, exc_info=task.exception()
            )

    def leave(self) -> None:
        """Drop the work with no result: whoever waits for one waits for ever. For a program about to end."""
        self._left = True
        self._task.cancel()

    async def wait(self) -> Result:
        """Return how the attempt ended."""
        await self._abandoned.wait()
        if self._left:
            await self._loop.create_future()
        if not self._task.done():
            return self._refused()
        if self._task.cancelled():
            return self._verdict or Result(State.CANCELLED, error="cancelled")
        err = self._task.exception()
        if err is not None:
            return self._verdict or Result(State.FAILED, error=f"{type(err).__name__}: {err}")
        result = self._task.result()
        if self._verdict is None:
            return result
        return Result(self._verdict.state, error=self._verdict.error, output_bytes=result.output_bytes)

    def _refused(self) -> Result:
        self._task.cancel()
        state, error = State.CANCELLED, "cancelled"
        if self._verdict is not None:
            state, error = self._verdict.state, self._verdict.error or error
        return Result(state, error=f"{error}; it did not stop when asked and may still be at work")

    def settle(self) -> None:
        """Nothing to let go of."""


async def in_thread(
    name: str, function: Callable[..., Any], *arguments: Any
) -> tuple[Any, BaseException | None]:
    """Call *function* in a thread of its own; return its value, or what it raised.

    Not in a pool: a call that hangs (a name server, a job) must neither keep others waiting nor this
    program from ending. What was raised is a value here, since StopIteration and its like do not pass
    through a future.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def deliver(value: Any, err: BaseException | None) -> None:
        if not outcome.done():
            outcome.set_result((value, err))

    def work() -> None:
        value, failure = None, None
        try:
            value = function(*arguments)
        except BaseException as err:  # noqa: BLE001  (handed over)
            failure = err
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, value, failure)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name=name, daemon=True).start()
    return await outcome


def in_seconds(span: timedelta) -> str:
    """Return *span* for an error text: ``90 s``, ``0.5 s``."""
    text = f"{span.total_seconds():.3f}".rstrip("0").rstrip(".")
    return f"{text} s"
