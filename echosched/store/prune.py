"""Finding what retention may remove, a batch at a time, without walking a million rows for each batch."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from echosched.clock import to_micros
from echosched.model import Pruned
from echosched.store import writes
from echosched.store.queries import query

_JOBS_AT_ONCE = 2_000
_PIECE = 24  # rows removed in one transaction: a claim waits behind at most one such piece

Removal = Callable[[sqlite3.Connection], Pruned]


@dataclass(slots=True)
class Found:
    """One batch of what may go. *slots* holds the ends (slot, job) of pieces of slot rows."""

    runs: list[int] = field(default_factory=list)
    slots: list[tuple[int, str]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)  # runs that stay, without their output

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to remove."""
        return not (self.runs or self.slots or self.outputs)

    def removals(self) -> Iterator[Removal]:
        """Yield pieces of work, each for a short transaction of its own."""
        for begin in range(0, len(self.runs), _PIECE):
            yield partial(_remove_runs, self.runs[begin : begin + _PIECE])
        for begin in range(0, len(self.outputs), _PIECE):
            yield partial(_give_up_outputs, self.outputs[begin : begin + _PIECE])
        for last in self.slots:
            yield partial(_remove_slots, last)


def _remove_runs(runs: list[int], connection: sqlite3.Connection) -> Pruned:
    deleted, outputs = writes.delete_runs(connection, runs)
    return Pruned(runs=deleted, outputs=tuple(outputs))


def _give_up_outputs(runs: list[int], connection: sqlite3.Connection) -> Pruned:
    return Pruned(outputs=tuple(writes.give_up_outputs(connection, runs)))


def _remove_slots(last: tuple[int, str], connection: sqlite3.Connection) -> Pruned:
    return Pruned(slots=writes.delete_slots(connection, last))


def add_up(parts: list[Pruned]) -> Pruned:
    """Return what all *parts* removed together."""
    outputs = tuple(output for part in parts for output in part.outputs)
    return Pruned(sum(part.runs for part in parts), sum(part.slots for part in parts), outputs)


class Pruner:
    """Remembers between batches which jobs it has looked through, so that a pass visits each job once."""

    def __init__(self) -> None:
        self._jobs: deque[str] = deque()
        self._after = ""
        self._is_over = False

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
        rows = connection.execute(query("old_runs"), (to_micros(runs_before), batch)).fetchall()
        found.runs = [row[0] for row in rows]
        self._add_surplus(connection, found, keep, batch)
        going = set(found.runs)
        rows = connection.execute(query("old_outputs"), (to_micros(outputs_before), batch)).fetchall()
        found.outputs = [row[0] for row in rows if row[0] not in going]
        found.slots = _old_slots(connection, to_micros(slots_before), batch)
        if found.is_empty:
            self._jobs.clear()
            self._after, self._is_over = "", False
        return found

    def _add_surplus(self, connection: sqlite3.Connection, found: Found, keep: int, batch: int) -> None:
        """Fill *found* up with runs beyond the newest *keep* of their job, going from job to job."""
        known = set(found.runs)
        while len(found.runs) < batch and not self._is_over:
            if not self._jobs:
                parameters = {"after": self._after, "limit": _JOBS_AT_ONCE}
                rows = connection.execute(query("jobs_with_runs"), parameters).fetchall()
                if not rows:
                    self._is_over = True
                    return
                self._jobs.extend(row[0] for row in rows)
                self._after = self._jobs[-1]
            wanted = {"job": self._jobs[0], "keep": keep, "limit": batch}
            rows = connection.execute(query("surplus_runs"), wanted).fetchall()
            found.runs += [row[0] for row in rows if row[0] not in known]
            if len(found.runs) < batch:  # otherwise this job may have more
                self._jobs.popleft()
        del found.runs[batch:]


def _old_slots(connection: sqlite3.Connection, before: int, batch: int) -> list[tuple[int, str]]:
    """Return where the pieces of a batch of slot rows before *before* end."""
    ends = [
        tuple(row)
        for offset in range(min(_PIECE, batch) - 1, batch, _PIECE)
        if (row := connection.execute(query("last_old_slot"), (before, offset)).fetchone())
    ]
    if len(ends) * _PIECE < batch and (
        row := connection.execute(query("newest_old_slot"), (before,)).fetchone()
    ):
        end = connection.execute(query("last_old_slot"), (before, batch - 1)).fetchone() or row
        if not ends or tuple(end) != ends[-1]:
            ends.append(tuple(end))
    return ends
