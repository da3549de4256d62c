"""A scheduler in a thread of its own, and a way to talk to it that blocks like any other call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from echosched.errors import Conflict
from echosched.model import Run, State

if TYPE_CHECKING:
    from echosched.app.library import Scheduler

T = TypeVar("T")


class Background:
    """What :meth:`Scheduler.background` returns: a context, or :meth:`start` and :meth:`stop` where none fits.

    Its methods may be called from any thread but the scheduler's own (a callback of an event has that one).
    A program that ends without :meth:`stop` cuts running jobs off, as a crash would.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Background:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, with the scheduler's grace."""
        self.stop()

    def start(self) -> None:
        """Begin; returns when slots fire, raises what prevents it."""
        if self._thread is not None:
            raise Conflict("the scheduler runs in the background already")
        begun = threading.Event()
        self._failure = None
        thread = threading.Thread(target=self._work, args=(begun,), name="echosched", daemon=True)
        thread.start()
        begun.wait()
        if self._failure is not None:
            thread.join()
            raise self._failure
        self._thread = thread

    def stop(self) -> None:
        """Start nothing more, wait for running jobs, end the rest; returns when that is done. Twice is harmless."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self, begun: threading.Event) -> None:
        try:
            asyncio.run(self._live(begun))
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that started or stops this one)
            self._failure = error
        finally:
            begun.set()

    async def _live(self, begun: threading.Event) -> None:
        async with self._scheduler:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            begun.set()
            await self._stop.wait()

    def _call(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        loop = self._loop
        if self._thread is None or loop is None:
            coroutine.close()
            raise Conflict("the scheduler does not run in the background (any more)")
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise Conflict("the scheduler's own thread must not wait for it (await the scheduler's method)")
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    # ── while it lives ────────────────────────────────────────────────────────────────────────

    def trigger(self, job: str) -> int:
        """Run *job* now; return the run's number."""
        return self._call(self._scheduler.trigger(job))

    def wait(self, run: int, timeout: float | None = None) -> Run:
        """Return run *run* when it has ended; raises ``TimeoutError`` after *timeout* seconds."""
        return self._call(self._scheduler.wait(run), timeout)

    def cancel(self, run: int) -> None:
        """End a run."""
        self._call(self._scheduler.cancel(run))

    def pause(self, job: str) -> bool:
        """Let no slot of *job* come due until it is resumed; tell whether that changed anything."""
        return self._call(self._scheduler.pause(job))

    def resume(self, job: str) -> bool:
        """Let slots of *job* come due again, from now on; tell whether that changed anything."""
        return self._call(self._scheduler.resume(job))

    def history(
        self, job: str | None = None, *, states: Sequence[State | str] = (), limit: int = 50
    ) -> list[Run]:
        """Return the newest *limit* runs, newest first."""
        return self._call(self._scheduler.history(job, states=states, limit=limit))

    def output(self, run: int, attempt: int | None = None) -> str:
        """Return what a run printed or logged."""
        return self._call(self._scheduler.output(run, attempt))

    def coming(self, limit: int = 10) -> list[tuple[str, datetime]]:
        """Return the *limit* jobs whose next slot is soonest, with that slot (aware UTC)."""
        return self._call(self._scheduler.coming(limit))

    def elapse(self, by: timedelta) -> None:
        """Let *by* pass on a :class:`~echosched.testing.FakeClock` (see :meth:`Scheduler.elapse`)."""
        self._call(self._scheduler.elapse(by))
