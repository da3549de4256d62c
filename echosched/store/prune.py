"""Finding what retention may remove, a batch at a time, without walking a million rows for each batch."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from echosched.clock import to_micros
from echosched.model import Pruned
from echosched.store import writes
from echosched.store.queries import query

_JOBS_AT_ONCE = 2_000


@dataclass(slots=True)
class Found:
    """One batch of what may go."""

    runs: list[int] = field(default_factory=list)
    slots: list[tuple[str, int]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)  # runs that stay, without their output

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to remove."""
        return not (self.runs or self.slots or self.outputs)

    def remove(self, connection: sqlite3.Connection) -> Pruned:
        """Remove the batch inside the open transaction."""
        deleted, outputs = writes.delete_runs(connection, self.runs)
        outputs += writes.give_up_outputs(connection, self.outputs)
        slots = writes.delete_slots(connection, self.slots)
        return Pruned(runs=deleted, slots=slots, outputs=tuple(outputs))


class Pruner:
    """Remembers between batches which jobs it has looked through, so that a pass visits each job once."""

    def __init__(self) -> None:
        self._for_runs = _Walk("jobs_with_runs")
        self._for_slots = _Walk("jobs_with_slots")

    def find(
        self,
        connection: sqlite3.Connection,
        runs_before: datetime,
        keep: int,
        outputs_before: datetime,
        slots_before: datetime,
        batch: int,
    ) -> Found:
        """Return the next batch; an empty one ends the pass, and the next call begins a new one."""
        found = Found()
        found.runs = [
            row[0]
            for row in connection.execute(query("old_runs"), (to_micros(runs_before), batch)).fetchall()
        ]

        def surplus(job: str) -> None:
            known = set(found.runs)
            parameters = {"job": job, "keep": keep, "limit": batch}
            rows = connection.execute(query("surplus_runs"), parameters).fetchall()
            found.runs += [row[0] for row in rows if row[0] not in known]

        def aged(job: str) -> None:
            parameters = (job, to_micros(slots_before), batch - len(found.slots))
            found.slots += connection.execute(query("old_slots"), parameters).fetchall()

        self._for_runs.visit(connection, surplus, lambda: len(found.runs) >= batch)
        self._for_slots.visit(connection, aged, lambda: len(found.slots) >= batch)
        del found.runs[batch:]
        going = set(found.runs)
        rows = connection.execute(query("old_outputs"), (to_micros(outputs_before), batch)).fetchall()
        found.outputs = [row[0] for row in rows if row[0] not in going]
        if found.is_empty:
            self._for_runs.rewind()
            self._for_slots.rewind()
        return found


class _Walk:
    """Visits each job of a table once in a pass, as far as a batch has room."""

    def __init__(self, listing: str) -> None:
        self._listing = listing
        self._jobs: deque[str] = deque()
        self._after = ""
        self._is_over = False

    def rewind(self) -> None:
        self._jobs.clear()
        self._after = ""
        self._is_over = False

    def visit(
        self, connection: sqlite3.Connection, look: Callable[[str], None], is_full: Callable[[], bool]
    ) -> None:
        while not is_full() and not self._is_over:
            if not self._jobs:
                parameters = {"after": self._after, "limit": _JOBS_AT_ONCE}
                rows = connection.execute(query(self._listing), parameters).fetchall()
                self._jobs.extend(row[0] for row in rows)
                if not self._jobs:
                    self._is_over = True
                    return
                self._after = self._jobs[-1]
            look(self._jobs[0])
            if not is_full():  # otherwise this job may have more
                self._jobs.popleft()
