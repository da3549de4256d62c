"""Commands: prepared and started beside the loop, watched in it.

A start puts the attempt into a queue; a spawner thread (:mod:`~echosched.executor.spawners`) builds its
command line and environment, starts it, tells the supervisor and hands it back. Handing back is collected: a
thousand starts cost the loop a few wake-ups. The loop never waits for a fork, a directory service
(``user``) or a secret's file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from echosched.clock import from_micros
from echosched.errors import ExecutionError
from echosched.executor import answer, outcome, proc
from echosched.executor.cgroup import Cgroups
from echosched.executor.environment import mark_of
from echosched.executor.keeper import OutputKeeper
from echosched.executor.options import ExecutorOptions, Program
from echosched.executor.prepare import Preparer
from echosched.executor.reaper import Reaper
from echosched.executor.spawners import Order, Spawners
from echosched.executor.tree import Census, Undertaker
from echosched.executor.watch import ExitWatch, ProcessExecution
from echosched.model import Attempt, ProcessIdentity, Result

log = logging.getLogger(__name__)

GONE = ProcessIdentity(0, -1)
"""Stands for a process that has ended already; no process has this number."""

_BURST = 8  # starts under way at once, from which the loop looks in by itself instead of being woken
_PULSE_SECONDS = 0.002
_MANY_YOUNG = 256  # starts of a burst whose time-outs may wait to be set going
_MIND_SECONDS = 0.5  # how often is looked whether starts hang
_JOIN_SECONDS = 2.0  # how long a thread that hangs is waited for at the end
_READY_SECONDS = 0.03  # what is held is made ready then, not beside the claims of the next ones


class CommandExecutor:
    """Runs :class:`~echosched.model.CommandAction` attempts as processes that outlive this program."""

    def __init__(self, options: ExecutorOptions) -> None:
        self.options = options
        self.clock = options.clock
        self._cgroups = None if options.cgroup is None else Cgroups(options.cgroup)
        self.undertaker = Undertaker(self.clock, self._cgroups)
        self.keeper = OutputKeeper(self.clock)
        self.closed = False
        self._warm = False
        self._report_child = options.report_child
        self.spawners = Spawners(self, Preparer(options))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exits: ExitWatch | None = None
        self._reaper = Reaper(self._cgroups, options.on_settled)
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._called = False
        self._unready: list[Order] = []
        self._starting = 0
        self._stuck = 0  # of them: hang, or wait behind those that do
        self._minding = False
        self._pulsing = False
        self._young: list[tuple[ProcessExecution, float]] = []  # time-outs not running yet, begun at
        self._running: dict[ProcessIdentity, ProcessExecution] = {}
        self._known_exits: dict[ProcessIdentity, int] = {}

    # ── the interface ─────────────────────────────────────────────────────────────────────────

    async def start(self, attempt: Attempt, program: Program | None = None) -> ProcessExecution:
        """Start *attempt*; raises ``ExecutionError`` with the reason when there is no process to watch.

        *program* carries it out, where the job is none of a command or function.
        """
        future: asyncio.Future[ProcessExecution] = asyncio.get_running_loop().create_future()

        def begun(execution: ProcessExecution) -> None:
            if future.done():
                # Whoever asked has gone. The process runs and the supervisor knows it: it is not ours to end.
                log.warning("run %s: started, but nobody waits for it any more", attempt.run)
            else:
                future.set_result(execution)

        def refused(err: Exception) -> None:
            if not future.done():
                future.set_exception(err)

        self._start(Order(attempt, begun, refused, program=program))
        return await future

    def prepare(
        self,
        attempt: Attempt,
        begun: Callable[[ProcessExecution], None],
        refused: Callable[[Exception], None],
        ended: Callable[[Result], None],
        *,
        early: bool,
    ) -> Callable[[], None]:
        """Return what starts *attempt* without being awaited (see :class:`echosched.protocols.Launcher`)."""
        order = Order(attempt, begun, refused, ended)
        if early:
            self.warm()
            self._unready.append(order)
            if len(self._unready) == 1:
                self.loop.call_later(_READY_SECONDS, self._make_ready)
        return partial(self._start, order)

    def rouse(self) -> None:
        """Let a thread that starts processes be awake: a start comes in a moment."""
        self.spawners.rouse()

    def _make_ready(self) -> None:
        orders, self._unready = self._unready, []
        self.spawners.make_ready(orders)

    def _start(self, order: Order) -> None:
        self.warm()
        self.spawners.put(order)
        self._starting += 1
        if not self._minding:
            self._minding = True
            self.loop.call_later(_MIND_SECONDS, self._mind)
        if self._starting - self._stuck >= _BURST and not self._pulsing:
            self._pulsing = True
            self._in_crowd(True)
            self.exits.pause()
            self.loop.call_later(_PULSE_SECONDS, self._pulse)

    def _mind(self) -> None:
        if self.closed:
            return
        self._stuck = self.spawners.relieve()
        self._minding = self._starting > 0
        if self._minding:
            self.loop.call_later(_MIND_SECONDS, self._mind)

    def adopt(self, attempt: Attempt, process: ProcessIdentity) -> ProcessExecution:
        """Watch a process that an earlier worker started for *attempt*, to its end.

        It may have ended, even long ago: its exit code then comes from :meth:`child_exit` (also one
        called before) or from the kernel; without either the result is ``abandoned``. The time-out
        counts from the process's own start.
        """
        self.warm()
        pidfd = proc.open_pidfd(process.pid)
        # Looked at after opening, so that the descriptor and the identity are of one process.
        stat = proc.read_stat(process.pid)
        present = stat is not None and stat.start_ticks == process.start_ticks
        if pidfd is not None and not present:
            os.close(pidfd)
            pidfd = None
        elapsed = max(self.clock.boot() - process.start_ticks / proc.TICKS_PER_SECOND, 0.0)
        started_at = self.clock.now() - timedelta(seconds=elapsed)
        own = present and stat is not None and stat.parent == os.getpid()
        execution = ProcessExecution(self, attempt, process, pidfd, started_at, own=own)
        self._take_on(execution)
        if present and process not in self._known_exits:
            execution.arm(elapsed)
            execution.watch()
        else:
            self.loop.call_soon(execution.exited)
        return execution

    def take_over(self, attempt: Attempt, process: ProcessIdentity) -> ProcessExecution:
        """Watch a process that was started for *attempt* just now, by a process of ours."""
        if process.start_ticks > 0:
            self._tell(attempt, process)
            if self._cgroups is not None:
                self.keeper.beside(partial(self._cgroups.enter, attempt.tag, process.pid))
        execution = self.adopt(attempt, process)
        execution.started_at = self.clock.now()
        return execution

    def past(self, attempt: Attempt) -> ProcessExecution | None:
        """Return the execution of an attempt that is over and left an answer, ``None`` where there is none."""
        if attempt.output_path is None or not self.has_answer(attempt):
            return None
        execution = self.adopt(attempt, GONE)
        with contextlib.suppress(OSError):
            execution.started_at = from_micros(os.stat(attempt.output_path).st_mtime_ns // 1000)
        return execution

    def child_exit(self, tag: str, pid: int, start_ticks: int, status: int) -> None:
        """Take an exit code (or minus a signal's number) from the supervisor that reaped the process.

        May come before the process is adopted; it is then kept for :meth:`adopt`.
        """
        process = ProcessIdentity(pid, start_ticks)
        execution = self._running.get(process)
        if execution is None:
            self._known_exits[process] = status
        else:
            execution.exited(status)

    def find(self, attempt: Attempt) -> ProcessIdentity | None:
        """Return a living process of *attempt*, by its mark; for a run whose pid was never recorded.

        The first of its session leaders is its main process, if that still lives. Reads all of /proc:
        call it beside the loop.
        """
        family = self.find_all().get(attempt.tag, [])
        return family[0] if family else None

    def find_all(self) -> dict[str, list[ProcessIdentity]]:
        """Return all living processes that this daemon's instance ever started, by attempt tag, main first."""
        found = Census.take(0).marked(self.options.instance)
        return {
            tag: [
                ProcessIdentity(stat.pid, stat.start_ticks)
                for stat in sorted(family, key=lambda stat: (stat.session != stat.pid, stat.start_ticks))
            ]
            for tag, family in found.items()
        }

    async def close(self) -> None:
        """End the threads and close all descriptors; processes run on.

        A start that hangs is told nobody any more: whether it comes about after all shows its output file.
        """
        if self.closed:
            return
        self.closed = True
        self.spawners.close()
        self._reaper.close()
        try:
            await asyncio.to_thread(self._join)
        except RuntimeError:  # no thread is left to wait in
            self._join()
        self._deliver()
        for order in self.spawners.left():
            self._refuse(order, ExecutionError("not started: the executor was closed"))
        for execution in list(self._running.values()):
            execution.let_go()
        self._running.clear()
        if self._exits is not None:
            self._exits.close()
            self._exits = None

    def _join(self) -> None:
        # A dead disk keeps a thread for as long as it is dead, but nobody from leaving.
        self.spawners.join(_JOIN_SECONDS)
        self._reaper.join(2 * _JOIN_SECONDS)
        self.undertaker.close(_JOIN_SECONDS)
        self.keeper.close(2 * _JOIN_SECONDS)  # large outputs take their time

    # ── for executions ────────────────────────────────────────────────────────────────────────

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that all executions belong to."""
        assert self._loop is not None  # noqa: S101  (set by the first start)
        return self._loop

    @property
    def exits(self) -> ExitWatch:
        """Return the watch over all pidfds."""
        assert self._exits is not None  # noqa: S101  (set by the first start)
        return self._exits

    def forget(self, pidfd: int) -> None:
        """Stop watching *pidfd*."""
        if self._exits is not None:
            self._exits.remove(pidfd)

    def mark(self, attempt: Attempt) -> str:
        """Return the environment mark of *attempt*'s processes."""
        return mark_of(self.options.instance, attempt)

    def call(self, function: Callable[..., None], *args: Any) -> None:
        """Call *function* in the loop soon; calls that come together share one wake-up."""
        self._calls.append((function, args))
        if not self._called and not self._pulsing:
            self._called = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._called = False
        # What comes in meanwhile waits for the next turn: the spawners are faster than this.
        for _ in range(len(self._calls)):
            function, args = self._calls.popleft()
            try:
                function(*args)
            except Exception:
                log.exception("a step of a run broke")  # the others' steps follow all the same

    def _pulse(self) -> None:
        # In a burst each start and each exit would wake the loop, and the switches between threads would
        # cost more than the work: it looks in every 2 ms instead, for as long as the burst lasts.
        self._deliver()
        if self._exits is None:
            return
        self._exits.look()
        if len(self._young) > _MANY_YOUNG:
            self._arm_young()
        if self._starting - self._stuck >= _BURST:
            self.loop.call_later(_PULSE_SECONDS, self._pulse)
            return
        self._pulsing = False
        self._in_crowd(False)
        self._exits.resume()
        self._arm_young()
        self._deliver()  # what came in between found that nobody had to be woken

    def _in_crowd(self, heavily: bool) -> None:
        if self.options.on_crowd is not None:
            self.options.on_crowd(heavily=heavily)

    def _arm_young(self) -> None:
        # A clock for each time-out, which most runs of a burst would stop again at once, costs as much as a tenth
        # of all else that the loop does for a run.
        young, self._young = self._young, []
        now = self.loop.time()
        for execution, since in young:
            execution.arm(now - since)

    def _hand_back(self, order: Order, execution: ProcessExecution) -> None:
        self._starting -= 1
        if self._exits is None:
            execution.let_go()  # it had hung; whoever comes after us looks after it
            return
        execution.watch()  # here: in the spawner's thread it would cost a change of threads
        if self._pulsing:
            self._young.append((execution, self.loop.time()))
        else:
            execution.arm(0.0)
        order.begun(execution)
        if order.ended is not None:
            execution.then(order.ended)

    def _refuse(self, order: Order, err: Exception) -> None:
        self._starting -= 1
        order.refused(err)

    def claim_exit(self, process: ProcessIdentity) -> int | None:
        """Return the exit that the supervisor told of *process*, once."""
        return self._known_exits.pop(process, None)

    def has_answer(self, attempt: Attempt) -> bool:
        """Tell whether the process of *attempt* has said how it ended."""
        return answer.is_given(attempt) and answer.read(attempt.output_path) is not None

    def complete(self, execution: ProcessExecution, result: Result) -> None:
        """Add what the output says and finish *execution*; long files are dealt with beside the loop."""
        attempt = execution.attempt
        if execution.watched is not None:
            self.keeper.ended(execution.watched)
        known = outcome.at_once(attempt, result)
        if known is None:
            self.keeper.beside(partial(self._complete_beside, execution, result))
        else:
            execution.finished(known)

    def _complete_beside(self, execution: ProcessExecution, result: Result) -> None:
        try:
            result = outcome.in_full(execution.attempt, result)
        finally:
            self.call(execution.finished, result)

    def settled(self, execution: ProcessExecution) -> None:
        """Forget *execution*; it is reaped, and the supervisor told, beside the loop."""
        self._running.pop(execution.identity, None)
        self._known_exits.pop(execution.identity, None)
        if self.closed:
            self._reaper.reap([execution])
            return
        self._reaper.take(execution, self.loop.call_later)

    def warm(self) -> None:
        """Start the threads, so that the first slot need not wait for them; call from the running loop."""
        if self.closed:
            raise ExecutionError("not started: the executor was closed")
        if self._warm:
            return
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._exits = ExitWatch(self._loop)
        try:
            # All of them now: a run that was begun can be ended, timed out and held to its limits.
            for part in (self.undertaker, self.keeper, self._reaper):
                part.start()
            self.spawners.start(self.options.spawners)
        except RuntimeError as err:
            raise ExecutionError(f"no new thread: {err} (the system is out of processes or memory)") from err
        self._warm = True

    # ── in the spawner threads ─────────────────────────────────────────────────────

    def begun(self, order: Order, process: ProcessIdentity, started_at: datetime) -> None:
        """Take on the process that a spawner has just started for *order*."""
        attempt = order.attempt
        self._tell(attempt, process)
        if self._cgroups is not None:
            self._cgroups.enter(attempt.tag, process.pid)
        pidfd = proc.open_pidfd(process.pid)
        execution = ProcessExecution(self, attempt, process, pidfd, started_at, own=True)
        self._take_on(execution)
        self.call(self._hand_back, order, execution)

    def refuse(self, order: Order, err: Exception) -> None:
        """Say that *order* could not be carried out."""
        self.call(self._refuse, order, err)

    def _tell(self, attempt: Attempt, process: ProcessIdentity) -> None:
        if self._report_child is not None:
            try:
                self._report_child(attempt.tag, process.pid, process.start_ticks)
            except Exception:
                log.exception("the supervisor could not be told of process %s", process.pid)

    def _take_on(self, execution: ProcessExecution) -> None:
        attempt = execution.attempt
        self._running[execution.identity] = execution
        if attempt.output_path is not None:
            try:
                execution.watched = self.keeper.watch(attempt.output_path, attempt.job.policy.output_limit)
            except (OSError, RuntimeError):
                log.exception("run %s: its output cannot be held to its limit", attempt.tag)
