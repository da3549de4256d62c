"""Which waiting run starts next.

A run needs a place (``max_concurrent``), room in its concurrency group, and a job without a running run; where the
job may overlap itself, an exclusive run (of a backlog, which is worked off one by one) needs one without another of its
kind. Whoever lacks only the first waits in one heap; whoever lacks one of the others is parked under that
obstacle, so that a thousand blocked runs cost nothing while they wait.
"""

from __future__ import annotations

import heapq
from datetime import datetime
from typing import Any

from echosched.model import Overlap
from echosched.scheduler.entries import Entry, LiveRun

Obstacle = tuple[str, str]


class StartQueue:
    """Places and waiting runs. Pure bookkeeping: starts nothing itself."""

    def __init__(self, max_concurrent: int) -> None:
        self.max_concurrent = max_concurrent
        self.placed = 0
        self._ready: list[tuple[tuple[int, datetime, int], LiveRun]] = []
        self._parked: dict[Obstacle, list[LiveRun]] = {}
        self._in_group: dict[str, int] = {}
        self._in_job: dict[Entry, int] = {}
        self._exclusive: dict[Entry, int] = {}
        self._waiting: set[int] = set()

    @property
    def waiting(self) -> int:
        """Return how many runs wait for a place."""
        return len(self._waiting)

    def add(self, live: LiveRun) -> None:
        """Let *live* wait."""
        self._waiting.add(live.run)
        heapq.heappush(self._ready, (live.order, live))

    def discard(self, live: LiveRun) -> bool:
        """Forget a waiting run; tell whether it was waiting."""
        if live.run not in self._waiting:
            return False
        self._waiting.discard(live.run)  # its heap or parking entry is dropped when it surfaces
        return True

    def take(self) -> LiveRun | None:
        """Give the next startable run a place and return it, ``None`` if none can start now."""
        while self._ready and self.placed < self.max_concurrent:
            _, live = heapq.heappop(self._ready)
            if live.run not in self._waiting:
                continue
            obstacle = self._obstacle(live)
            if obstacle is not None:
                self._parked.setdefault(obstacle, []).append(live)
                continue
            self._waiting.discard(live.run)
            self.place(live)
            return live
        return None

    def place(self, live: LiveRun) -> None:
        """Count *live* among those that hold a place (also adopted runs, which nobody asked)."""
        live.placed = True
        self.placed += 1
        self._in_job[live.entry] = self._in_job.get(live.entry, 0) + 1
        if live.exclusive:
            self._exclusive[live.entry] = self._exclusive.get(live.entry, 0) + 1
        group = live.job.policy.concurrency_group
        if group is not None:
            self._in_group[group] = self._in_group.get(group, 0) + 1

    def release(self, live: LiveRun) -> None:
        """Take the place back and let those try again that it stood in the way of."""
        if not live.placed:
            return
        live.placed = False
        self.placed -= 1
        _less(self._in_job, live.entry)
        if live.exclusive:
            _less(self._exclusive, live.entry)
        self._unpark(("job", live.entry.job.name))
        group = live.job.policy.concurrency_group
        if group is not None:
            _less(self._in_group, group)
            self._unpark(("group", group))

    def _obstacle(self, live: LiveRun) -> Obstacle | None:
        policy = live.job.policy
        if policy.overlap is not Overlap.ALLOW:
            alone = not self._in_job.get(live.entry, 0)
        else:
            alone = not (live.exclusive and self._exclusive.get(live.entry, 0))
        if not alone:
            return ("job", live.entry.job.name)
        group = policy.concurrency_group
        if group is not None and self._in_group.get(group, 0) >= policy.concurrency_limit:
            return ("group", group)
        return None

    def _unpark(self, obstacle: Obstacle) -> None:
        for live in self._parked.pop(obstacle, ()):
            if live.run in self._waiting:
                heapq.heappush(self._ready, (live.order, live))


def _less(counts: dict[Any, int], key: Any) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
