"""The thread that lets ended processes go once their ends are recorded: reaping is in nobody's way.

What a commit settles is handed over at once: reaping a crowd takes the kernel longer than starting it takes
us, and would stop the loop for as long as the crowd is large.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from echosched.executor import answer
from echosched.executor.cgroup import Cgroups
from echosched.executor.options import OnSettled

if TYPE_CHECKING:
    from echosched.executor.watch import ProcessExecution

log = logging.getLogger(__name__)

_COLLECT_SECONDS = 0.005  # settled processes are collected for so long


class Reaper:
    """Takes settled executions in the loop and reaps them beside it; then *on_settled* is told."""

    def __init__(self, cgroups: Cgroups | None, on_settled: OnSettled | None) -> None:
        self._cgroups = cgroups
        self._on_settled = on_settled
        self._collected: list[ProcessExecution] = []
        self._batches: queue.SimpleQueue[list[ProcessExecution] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, once; raises ``RuntimeError`` where there is none to be had, and may be called again."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="reaper", daemon=True)
            thread.start()
            self._thread = thread

    def take(self, execution: ProcessExecution, call_later: Callable[..., object]) -> None:
        """Reap *execution*, and what else is settled until then, soon."""
        self._collected.append(execution)
        if len(self._collected) == 1:
            call_later(_COLLECT_SECONDS, self._hand_over)

    def close(self) -> None:
        """Let the thread end after what it was given."""
        self._hand_over()
        self._batches.put(None)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, at most *timeout* seconds. Blocks."""
        if self._thread is not None:
            self._thread.join(timeout)

    def reap(self, batch: list[ProcessExecution]) -> None:
        """Let all of *batch* go, here and now. Blocks for some microseconds each."""
        for execution in batch:
            execution.release(reap=True)
            if answer.is_given(execution.attempt):
                answer.discard(execution.attempt)
            if self._cgroups is not None:
                self._cgroups.leave(execution.attempt.tag)
        if self._on_settled is not None:
            try:
                identities = [execution.identity for execution in batch]
                self._on_settled(*((each.pid, each.start_ticks) for each in identities))
            except Exception:
                log.exception("the supervisor could not be told of the end of %d processes", len(batch))

    def _hand_over(self) -> None:
        if self._collected:
            batch, self._collected = self._collected, []
            self._batches.put(batch)

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            self.reap(batch)
