"""The threads that start processes: from an order to a pid, and nothing that could be done elsewhere.

In a burst they and the loop compete for the interpreter, which the loop has most of the time: each call that
lets go of it costs a spawner up to half a millisecond before it goes on. So only the spawn itself does.
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


class Spawners:
    """A queue of orders, and the threads that empty it; *home* takes on what they started."""

    def __init__(self, home: CommandExecutor, preparer: Preparer) -> None:
        self._home = home
        self._preparer = preparer
        self._queue: queue.SimpleQueue[Order | list[Order] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Have *count* threads; raises ``RuntimeError`` where they are not to be had, and may be called again."""
        for number in range(len(self._threads), count):
            thread = threading.Thread(target=self._work, name=f"spawner-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def put(self, order: Order) -> None:
        """Have *order* carried out soon."""
        self._queue.put(order)

    def make_ready(self, orders: list[Order]) -> None:
        """Have all that can be done for *orders* before their starts done soon."""
        self._queue.put(orders)

    def close(self) -> None:
        """Let the threads end after what they are at."""
        for _ in self._threads:
            self._queue.put(None)

    def join(self) -> None:
        """Wait until the threads have ended. Blocks."""
        for thread in self._threads:
            thread.join()

    def left(self) -> list[Order]:
        """Return the orders that no thread took any more."""
        found = []
        while not self._queue.empty():
            order = self._queue.get()
            if isinstance(order, Order):
                found.append(order)
        return found

    def _work(self) -> None:
        spawner = Spawner()
        birth = BirthClock(self._home.clock)
        while (order := self._queue.get()) is not None:
            if isinstance(order, list):
                self._make_ready(spawner, order)
                continue
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
            raise ExecutionError(prepare.explain(err, launch)) from err
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
        raise ExecutionError(prepare.explain(err, script)) from err
