"""Which queues a run waits in, and which of them this instance looks into.

Runs that ask for the same labels wait in one queue. A run whose definition whoever took it does not have is passed
on to a queue beside it, where only instances with that definition look (a roll-out); a run that belongs to one
instance, as of ``@boot``, waits in that instance's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from echosched.hashing import blake2b
from echosched.scheduler.roster import Roster
from echosched.store.postgres_cluster import ClusterStore
from echosched.store.postgres_turns import queue_of

ANYWHERE = "any"

MOST_QUEUE = 100  # characters; Procrastinate's names have 128 at most, and a definition may follow


def queue_for(labels: Sequence[str]) -> str:
    """Return where runs that ask for *labels* are offered."""
    if not labels:
        return ANYWHERE
    asked = sorted(set(labels))
    if any("+" in label for label in asked):  # joined by that sign, "x+y" would be x and y
        return "=+" + blake2b(json.dumps(asked).encode(), digest_size=16).hexdigest()
    name = "+".join(asked)
    if len(name) <= MOST_QUEUE and not name.startswith(("@", "=")) and name != ANYWHERE and "#" not in name:
        return name
    return "=" + blake2b(name.encode(), digest_size=16).hexdigest()


def queue_of_instance(name: str) -> str:
    """Return where runs wait that only instance *name* may take."""
    return f"@{name}"


class Routes:
    """The queues of this instance, by its labels and its jobs' definitions."""

    def __init__(self, store: ClusterStore, roster: Roster) -> None:
        self.queues: set[str] = set()
        """Where to look for runs now."""
        self._store = store
        self._roster = roster
        self._labels = frozenset(store.myself.labels)
        self._definitions: set[str] = set()  # queues in which runs of exactly our definitions would wait

    def offers(self, labels: Iterable[str]) -> bool:
        """Tell whether this instance has *labels*."""
        return self._labels.issuperset(labels)

    def knows(self, job: str, definition: str | None) -> bool:
        """Tell whether this instance has that *definition* (``None``: any) of *job*."""
        entry = self._roster.entries.get(job)
        return entry is not None and definition in (None, entry.job.definition)

    def passed_on(self, queues: Iterable[str]) -> bool:
        """Look into those of *queues* where runs wait now that have our definitions; tell whether any is."""
        ours = self._definitions.intersection(queues)
        self.queues |= ours
        return bool(ours)

    async def work_out(self) -> None:
        """Work out where to look, after the jobs have changed or word may have been missed."""
        mine = [e.job for e in self._roster.entries.values() if self.offers(e.job.policy.labels)]
        usual = {queue_for(job.policy.labels) for job in mine}
        self._definitions = {queue_of(queue_for(job.policy.labels), job.definition) for job in mine}
        passed_on = await self._store.passed_on()
        self.queues = usual | {queue_of_instance(self._store.myself.name)} | (passed_on & self._definitions)
