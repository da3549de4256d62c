"""Running processes and their exits: look without reaping, let the scheduler commit, then reap.

One epoll descriptor holds all pidfds and is itself one reader of the event loop; a thousand exits in a
burst cost the loop one wake-up and a few system calls each. Until :meth:`ProcessExecution.settle` the
process stays a zombie: a worker that dies before the commit leaves its exit code to be read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from echosched.executor import outcome, proc
from echosched.executor.task import in_seconds
from echosched.executor.tree import Grave
from echosched.model import Attempt, ProcessIdentity, Result, State

if TYPE_CHECKING:
    from echosched.executor.command import CommandExecutor
    from echosched.executor.keeper import Watched

log = logging.getLogger(__name__)

_BATCH = 32  # exits looked at in one turn of the loop
_STRANGER_SECONDS = 1.0  # how often a process without a pidfd is looked at


class ExitWatch:
    """Calls back in the loop, once, when the process behind a pidfd has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self.resume()

    def add(self, pidfd: int, callback: Callable[[], None]) -> None:
        """Watch *pidfd*; may be called from any thread. Raises ``OSError``: then it is not watched."""
        # Before the kernel is told: an exit that it shows at once must find whom to call.
        self._callbacks[pidfd] = callback
        try:
            # One shot: an ended process would otherwise wake the loop until it is settled.
            self._epoll.register(pidfd, select.EPOLLIN | select.EPOLLONESHOT)
        except OSError:  # no memory, or no more watches for this account
            del self._callbacks[pidfd]
            raise

    def remove(self, pidfd: int) -> None:
        """Forget *pidfd*; may be called from any thread.

        Must come before it is closed: a copy in a forked child would keep it alive.
        """
        if self._callbacks.pop(pidfd, None) is not None:
            # Whoever forgets is about to make the result: nothing that goes wrong here may keep it from that.
            with contextlib.suppress(OSError):
                self._epoll.unregister(pidfd)

    def close(self) -> None:
        """Stop watching."""
        if not self._loop.is_closed():
            self._loop.remove_reader(self._epoll.fileno())
        self._callbacks.clear()
        self._epoll.close()

    def pause(self) -> None:
        """Do not wake the loop; somebody calls :meth:`look` instead."""
        self._loop.remove_reader(self._epoll.fileno())

    def resume(self) -> None:
        """Wake the loop at each exit."""
        self._loop.add_reader(self._epoll.fileno(), self.look)

    def look(self) -> None:
        """Call back for all processes that have ended, a batch at a time."""
        for pidfd, _ in self._epoll.poll(0, _BATCH):
            # It fired: the kernel watches it no more, nor need anybody take it out.
            callback = self._callbacks.pop(pidfd, None)
            if callback is not None:
                try:
                    callback()
                except Exception:
                    log.exception("the end of a process could not be dealt with")


class Verdict(NamedTuple):
    """Why a run was ended from outside."""

    state: State
    reason: str


class ProcessExecution:
    """A running process and what becomes of it; satisfies :class:`echosched.protocols.Execution`.

    It may be made in a spawner's thread, and let go of (:meth:`release`) in the reaper's; all else happens in
    the event loop.
    """

    __slots__ = (
        "_grave",
        "_home",
        "_left",
        "_patience",
        "_pidfd",
        "_result",
        "_settled",
        "_status",
        "_timer",
        "_unknown",
        "_verdict",
        "_waiters",
        "attempt",
        "own",
        "process",
        "started_at",
        "watched",
    )

    def __init__(
        self,
        home: CommandExecutor,
        attempt: Attempt,
        process: ProcessIdentity,
        pidfd: int | None,
        started_at: datetime,
        *,
        own: bool,
    ) -> None:
        self._home = home
        self.attempt = attempt
        self.process: ProcessIdentity | None = process
        self.started_at = started_at
        self.own = own
        self._pidfd = pidfd
        self._status: int | None = None  # an exit code, or minus a signal's number
        self._unknown: str | None = None  # why the status will never be known
        self._verdict: Verdict | None = None
        self._grave: Grave | None = None
        self._left: int | None = None  # set when the undertaker has nobody left to end
        self._timer: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._result: Result | None = None
        self._settled = False
        self._waiters: list[Callable[[Result], None]] = []
        self.watched: Watched | None = None  # the output file, in the keeper's eyes

    @property
    def identity(self) -> ProcessIdentity:
        """Return the process (the interface allows that there is none)."""
        assert self.process is not None  # noqa: S101
        return self.process

    # ── beginning ─────────────────────────────────────────────────────────────────────────────

    def arm(self, elapsed_seconds: float) -> None:
        """Start the clock of the job's time-out, *elapsed_seconds* into the run."""
        timeout = self.attempt.job.policy.timeout
        if timeout is not None and self._status is None and self._unknown is None:
            self._timer = self._home.loop.call_later(
                max(timeout.total_seconds() - elapsed_seconds, 0), self._time_out, timeout
            )

    def watch(self) -> None:
        """Have :meth:`exited` called at the exit; may be called from any thread, never raises."""
        if self._pidfd is not None:
            try:
                self._home.exits.add(self._pidfd, self.exited)
            except OSError:
                log.exception(
                    "process %s: no more can be watched, it is looked at instead", self.identity.pid
                )
            else:
                return
        elif self.own:
            # Only where there are no pidfds (or no descriptors left): a thread that waits for one process.
            thread = threading.Thread(target=self._wait_beside, name=f"wait-{self.identity.pid}", daemon=True)
            with contextlib.suppress(RuntimeError):
                thread.start()
                return
        self._home.call(self._look_again)

    def _wait_beside(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.identity.pid, os.WEXITED | os.WNOWAIT)
        self._home.call(self.exited)

    def _look_again(self) -> None:
        if self._home.closed:
            return
        stat = proc.read_stat(self.identity.pid)
        if stat is None or stat.dead or stat.start_ticks != self.identity.start_ticks:
            self.exited()
        else:
            self._home.loop.call_later(_STRANGER_SECONDS, self._look_again)

    # ── ending it ─────────────────────────────────────────────────────────────────────────────

    def _time_out(self, timeout: timedelta) -> None:
        self._timer = None
        self.cancel(
            f"timed out after {in_seconds(timeout)}",
            state=State.TIMED_OUT,
            kill_after=self.attempt.job.policy.kill_after,
        )

    def cancel(self, reason: str, *, state: State, kill_after: timedelta) -> None:
        """Tell the whole tree to end: TERM now, KILL after *kill_after*.

        The first call decides state and reason; a later one can only bring the KILL forward. An attempt
        that has ended by itself keeps its own outcome.
        """
        deadline = self._home.clock.monotonic() + kill_after.total_seconds()
        if self._grave is not None:
            self._home.undertaker.hasten(self._grave, deadline)
            return
        if self._status is not None or self._unknown is not None or self._result is not None:
            return
        self._verdict = Verdict(state, reason)
        self._grave = Grave(
            tag=self.attempt.tag,
            mark=self._home.mark(self.attempt).encode(),
            main=self.identity.pid,
            start_ticks=self.identity.start_ticks,
            pinned=self.own,
            deadline=deadline,
            done=lambda left: self._home.call(self._buried, left),
        )
        self._home.undertaker.bury(self._grave)

    def _buried(self, left: int) -> None:
        self._left = left
        self._conclude()

    # ── the exit ──────────────────────────────────────────────────────────────────────────────

    def exited(self, status: int | None = None) -> None:
        """Take note of the exit; *status* comes from the supervisor that reaped it, else it is looked up."""
        if self._status is not None or self._unknown is not None:
            return
        if status is None:
            status = self._look_up()
        if status is not None:
            self._status = status
            # Each open descriptor is copied and closed again with each process that is started meanwhile.
            self._drop_pidfd()
            self._conclude()
        elif self._home.has_answer(self.attempt):
            self._unknown = "its exit code could not be learned"
            self._conclude()
        elif self._patience is None:
            # The supervisor may be telling us at this very moment.
            self._patience = self._home.loop.call_later(self._home.options.patience_seconds, self._give_up)

    def _look_up(self) -> int | None:
        pid = self.identity.pid
        if self.own:
            kind, number = (os.P_PID, pid) if self._pidfd is None else (os.P_PIDFD, self._pidfd)
            try:
                seen = os.waitid(kind, number, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            except ChildProcessError:
                self.own = False  # somebody else in this program reaped it
            else:
                if seen is not None:
                    return seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status
        known = self._home.claim_exit(self.identity)
        return self._home.options.exit_status(self._pidfd, pid) if known is None else known

    def _give_up(self) -> None:
        self._patience = None
        if self._status is None:
            self._status = self._look_up()
        if self._status is None:
            self._unknown = "the process ended while nobody watched it; its exit code could not be learned"
        self._conclude()

    def _conclude(self) -> None:
        """Make the result as soon as all that it depends on is known."""
        if self._status is None and self._unknown is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._grave is not None and self._left is None:
            self._home.undertaker.wake()
            return
        if self._result is None:
            self._home.complete(self, self._outcome())

    def _outcome(self) -> Result:
        if self._status is None and self._verdict is None:
            return Result(State.ABANDONED, error=self._unknown)
        status = self._status
        exit_code = status if status is not None and status >= 0 else None
        number = -status if status is not None and status < 0 else None
        if self._verdict is not None:
            error = self._verdict.reason
            if self._left:
                error += f"; {self._left} of its processes run under another account and could not be ended"
            return Result(self._verdict.state, exit_code, number, error)
        if number is not None:
            return Result(
                State.FAILED, None, number, f"killed by signal {number} ({proc.signal_name(number)})"
            )
        return outcome.judge(self.attempt, exit_code or 0)

    def finished(self, result: Result) -> None:
        """Set the result; whoever waits goes on."""
        if self._result is None:
            self._result = result
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter(result)

    def then(self, callback: Callable[[Result], None]) -> None:
        """Call back with the result, at once if it is known; what :meth:`wait` does without a task."""
        if self._result is None:
            self._waiters.append(callback)
        else:
            callback(self._result)

    async def wait(self) -> Result:
        """Return how the attempt ended, once it and (if it was made to end) its whole tree are gone."""
        future: asyncio.Future[Result] = self._home.loop.create_future()
        self.then(lambda result: None if future.done() else future.set_result(result))
        return await future

    def settle(self) -> None:
        """Reap the process, close its descriptor and tell the supervisor; idempotent."""
        if self._settled:
            return
        self._settled = True
        for timer in (self._timer, self._patience):
            if timer is not None:
                timer.cancel()
        self._home.settled(self)

    def release(self, *, reap: bool) -> None:
        """Close the pidfd, after reaping an ended child of ours; safe in any thread, once."""
        if reap and self.own and self._status is not None:
            # A child that nobody else reaps keeps its number until here.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.identity.pid, os.WEXITED | os.WNOHANG)
        self._drop_pidfd()

    def _drop_pidfd(self) -> None:
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            self._home.forget(pidfd)
            os.close(pidfd)

    def let_go(self) -> None:
        """Close what is held without reaping: the executor closes, the process runs on."""
        for timer in (self._timer, self._patience):
            if timer is not None:
                timer.cancel()
        self.release(reap=False)
