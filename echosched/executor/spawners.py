"""The threads that start processes: from an order to a pid, and nothing that could be done elsewhere.

In a burst they and the loop compete for the interpreter, which the loop has most of the time: each call that
lets go of it costs a spawner up to half a millisecond before it goes on. So only the spawn itself does.

A directory, a program or a secret on a disk that does not answer keeps a thread in the kernel for as long as that
lasts. While all of them are kept so and orders wait, there are more of them: one broken job never stops the rest.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from echosched.errors import EchoschedError, ExecutionError
from echosched.executor import prepare
from echosched.executor.birth import BirthClock
from echosched.executor.prepare import Preparer
from echosched.executor.spawn import Launch, Spawner
from echosched.model import Attempt, ProcessIdentity, Result

if TYPE_CHECKING:
    from echosched.executor.command import CommandExecutor
    from echosched.executor.options import Program
    from echosched.executor.watch import ProcessExecution

log = logging.getLogger(__name__)

HANGING_SECONDS = 1.0
"""A start takes a millisecond; one that takes so long waits for something that may never come."""

_TOLD_SECONDS = 10.0  # a start that hangs for so long is told
_MOST_THREADS = 64
_SPARE_SECONDS = 10.0  # a thread that was added looks so often whether it is still needed


@dataclass(slots=True)
class Order:
    """An attempt to be started, and whom to tell (in the loop) what became of it."""

    attempt: Attempt
    begun: Callable[[ProcessExecution], None]
    refused: Callable[[Exception], None]
    ended: Callable[[Result], None] | None = None
    program: Program | None = None
    launch: Launch | None = None  # made ready before the start
    taken: bool = False


class _Hand:
    """A thread, and what it is at since when. A *spare* one goes again."""

    __slots__ = ("order", "since", "spare", "thread")

    def __init__(self, *, spare: bool) -> None:
        self.spare = spare
        self.thread: threading.Thread | None = None
        self.order: Order | list[Order] | None = None
        self.since: float | None = None


class Spawners:
    """A queue of orders, and the threads that empty it; *home* takes on what they started."""

    def __init__(self, home: CommandExecutor, preparer: Preparer) -> None:
        self._home = home
        self._preparer = preparer
        self._monotonic = home.clock.monotonic
        self._queue: queue.SimpleQueue[Order | list[Order] | None] = queue.SimpleQueue()
        self._hands: list[_Hand] = []
        self._parting = threading.Lock()
        self._told = False

    def start(self, count: int) -> None:
        """Have *count* threads; raises ``RuntimeError`` where they are not to be had, and may be called again."""
        while len(self._hands) < count:
            self._add(_Hand(spare=False))

    def _add(self, hand: _Hand) -> None:
        name = f"spawner-{len(self._hands)}"
        hand.thread = threading.Thread(target=self._work, args=(hand,), name=name, daemon=True)
        hand.thread.start()
        self._hands.append(hand)

    def put(self, order: Order) -> None:
        """Have *order* carried out soon."""
        self._queue.put(order)

    def make_ready(self, orders: list[Order]) -> None:
        """Have all that can be done for *orders* before their starts done soon."""
        self._queue.put(orders)

    def rouse(self) -> None:
        """Have a thread look up once, if they all rest."""
        if self._queue.empty():
            self._queue.put([])

    def close(self) -> None:
        """Let the threads end after what they are at."""
        for _ in self._hands:
            self._queue.put(None)

    def join(self, timeout: float) -> None:
        """Wait until the threads have ended, at most *timeout* seconds; one that hangs is left alone. Blocks."""
        end = self._monotonic() + timeout
        for hand in list(self._hands):
            if hand.thread is not None:
                hand.thread.join(max(end - self._monotonic(), 0.0))

    def relieve(self) -> int:
        """Add threads where orders wait and all threads hang; return how many orders hang, or wait for nobody.

        To be called now and then while there are orders.
        """
        hanging, waiting = self._hanging(HANGING_SECONDS), self._queue.qsize()
        orders = sum(isinstance(hand.order, Order) for hand in hanging)
        if waiting and len(hanging) == len(self._hands):
            # As many again as hang: whoever waits behind fifty broken ones need not wait for fifty rounds.
            more = min(waiting, len(hanging), _MOST_THREADS - len(hanging))
            with contextlib.suppress(RuntimeError):  # no thread is left; the next time perhaps
                for _ in range(more):
                    self._add(_Hand(spare=True))
            if len(hanging) == len(self._hands):
                orders += waiting
        told, jobs = self._told, self.hanging()
        self._told = bool(jobs)
        if jobs and not told:
            log.warning(
                "starts hang, of %s: a directory, program or file on a disk that does not answer?",
                ", ".join(jobs),
            )
        elif told and not jobs:
            log.warning("no start hangs any more")
        return orders

    def stuck(self, seconds: float) -> int:
        """Return how many orders are *seconds* in the hands of a thread; where all threads hang, with those behind."""
        hanging = self._hanging(seconds)
        orders = sum(isinstance(hand.order, Order) for hand in hanging)
        return orders + self._queue.qsize() if len(hanging) == len(self._hands) else orders

    def hanging(self) -> list[str]:
        """Return the names of the jobs whose starts have hung so long that somebody should look."""
        orders = [hand.order for hand in self._hanging(_TOLD_SECONDS)]
        return sorted({order.attempt.job.name for order in orders if isinstance(order, Order)})

    def _hanging(self, seconds: float) -> list[_Hand]:
        since = self._monotonic() - seconds
        return [hand for hand in list(self._hands) if hand.since is not None and hand.since < since]

    def left(self) -> list[Order]:
        """Return the orders that no thread took any more."""
        found = []
        while not self._queue.empty():
            order = self._queue.get()
            if isinstance(order, Order):
                found.append(order)
        return found

    # ── in the threads ────────────────────────────────────────────────────────────────────────

    def _work(self, hand: _Hand) -> None:
        spawner = Spawner()
        birth = BirthClock(self._home.clock)
        while (order := self._next(hand)) is not None:
            hand.order, hand.since = order, self._monotonic()
            if isinstance(order, list):
                self._make_ready(spawner, order)
            else:
                self._carry_out(spawner, birth, order)
            hand.order = hand.since = None

    def _next(self, hand: _Hand) -> Order | list[Order] | None:
        while hand.spare:
            try:
                return self._queue.get(timeout=_SPARE_SECONDS)
            except queue.Empty:
                if self._may_go(hand):
                    return None
        return self._queue.get()

    def _may_go(self, hand: _Hand) -> bool:
        """Tell whether, with this one gone, at least as many do not hang as there were in the beginning."""
        with self._parting:
            well = len(self._hands) - len(self._hanging(HANGING_SECONDS))
            if well <= sum(not each.spare for each in self._hands):
                return False
            self._hands.remove(hand)
            return True

    def _carry_out(self, spawner: Spawner, birth: BirthClock, order: Order) -> None:
        try:
            self._spawn(spawner, birth, order)
        except EchoschedError as err:
            self._home.refuse(order, err)
        except Exception as err:
            log.exception("run %s of %s could not be started", order.attempt.run, order.attempt.job.name)
            self._home.refuse(order, ExecutionError(f"cannot be started: {err!r}"))

    def _make_ready(self, spawner: Spawner, orders: list[Order]) -> None:
        for order in orders:
            # What fails here fails at the start once more, and is told there.
            with contextlib.suppress(Exception):
                if not order.taken:
                    launch = self._prepare(order)
                    spawner.make_ready(launch)
                    order.launch = launch

    def _prepare(self, order: Order) -> Launch:
        launch = self._preparer.prepare(order.attempt, order.program)
        prepare.refuse_nul(launch)
        return launch

    def _spawn(self, spawner: Spawner, birth: BirthClock, order: Order) -> None:
        order.taken = True
        launch, order.launch = order.launch or self._prepare(order), None
        if launch.input is not None:
            launch.stdin = prepare.as_file(launch.input)
        try:
            birth.before()
            pid = _launch(spawner, launch)
        finally:
            if launch.stdin is not None:
                os.close(launch.stdin)
        # From here on the command runs: whatever else goes wrong, it must not be taken for not started (and
        # be started again). Nobody can reap it before us, so its number stays valid until settle().
        started_at = self._home.clock.now()
        self._home.begun(order, ProcessIdentity(pid, birth.start_ticks(pid)), started_at)


def _launch(spawner: Spawner, launch: Launch) -> int:
    try:
        return spawner.spawn(launch)
    except OSError as err:
        if err.errno != errno.ENOEXEC:
            raise prepare.refusal(err, launch) from err
    # A script without "#!": every shell runs it as one of its own, and so do we. The output file exists.
    script = replace(
        launch,
        path=b"/bin/sh",
        argv=[b"/bin/sh", launch.path, *launch.argv[1:]],
        exclusive=False,
        call=None,
    )
    try:
        return spawner.spawn(script)
    except OSError as err:
        raise prepare.refusal(err, script) from err
