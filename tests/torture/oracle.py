"""The oracle: what should have happened, from schedules alone; what did, from the database and from the jobs.

It shares with the daemon only ``parse_schedule``: slots come from the expressions, rows from a plain SQLite
connection, and what ran from a file to which every job appends ``job slot attempt`` as its first act.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from echosched.schedule import parse_schedule

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOT_RUN = frozenset({"missed", "skipped"})
MAY_HAVE_RUN = frozenset({"abandoned", "cancelled"})
Slot = tuple[str, datetime]


@dataclass
class Row:
    """A run, as the database has it."""

    run: int
    job: str
    slot: datetime | None
    state: str
    attempt: int
    error: str | None


@dataclass
class Account:
    """The comparison. Empty lists are the promise; the figures go into docs/reliability.md."""

    due: int = 0
    ran: int = 0
    succeeded: int = 0
    abandoned: int = 0
    not_run: int = 0  # missed or skipped, with a reason
    cancelled: int = 0
    lost: list[Slot] = field(default_factory=list)  # due, and no row says what became of it
    silent: list[Slot] = field(
        default_factory=list
    )  # a row says that it succeeded, but the job was never there
    doubled: list[Slot] = field(default_factory=list)  # the job was there twice
    two_rows: list[Slot] = field(default_factory=list)
    unowned: list[Slot] = field(default_factory=list)  # the job was there, but no row (or one that denies it)
    open: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    unexplained: list[Row] = field(default_factory=list)  # not run, and no reason given

    @property
    def line(self) -> str:
        """Return the figures in one line."""
        return (
            f"slots {self.due}, ran {self.ran}, succeeded {self.succeeded}, abandoned {self.abandoned}, "
            f"not run with reason {self.not_run}, cancelled {self.cancelled}, "
            f"lost {len(self.lost) + len(self.silent)}, doubled {len(self.doubled) + len(self.two_rows)}"
        )

    def hold(self) -> None:
        """Fail, with what was found, unless no slot was lost and none doubled."""
        assert not self.lost, ("due, but without a row", self.lost[:20], self.line)
        assert not self.silent, ("succeeded, but the job was never there", self.silent[:20], self.line)
        assert not self.two_rows, ("two rows", self.two_rows[:20], self.line)
        assert not self.doubled, ("the job was there twice", self.doubled[:20], self.line)
        assert not self.unowned, ("ran, but its row denies it", self.unowned[:20], self.line)
        assert not self.open, ("without an outcome", self.open[:20], self.line)
        assert not self.failed, ("failed", self.failed[:20], self.line)
        assert not self.unexplained, ("no reason", self.unexplained[:20], self.line)


def due_slots(schedule: str, after: datetime, until: datetime) -> set[datetime]:
    """Return all slots of *schedule* after *after*, up to *until*."""
    parsed, slots = parse_schedule(schedule), set()
    slot = parsed.next_after(after)
    while slot is not None and slot <= until:
        slots.add(slot)
        slot = parsed.next_after(slot)
    return slots


def read_rows(database: Path) -> list[Row]:
    """Return all runs of a database that nobody writes any more."""
    connection = sqlite3.connect(database)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT run, job, slot, state, attempt, error FROM runs").fetchall()
    finally:
        connection.close()
    return [
        Row(run, job, None if slot is None else EPOCH + timedelta(microseconds=slot), *rest)
        for run, job, slot, *rest in rows
    ]


def read_marks(file: Path) -> Counter[tuple[str, datetime, int]]:
    """Return how often each (job, slot, attempt) was there, as the jobs themselves wrote it down."""
    marks: Counter[tuple[str, datetime, int]] = Counter()
    for line in file.read_text().splitlines() if file.exists() else ():
        job, slot, attempt = line.split()
        marks[(job, datetime.fromisoformat(slot), int(attempt))] += 1
    return marks


def compare(
    schedules: dict[str, str],
    rows: list[Row],
    marks: Counter[tuple[str, datetime, int]],
    *,
    until: datetime,
    since: datetime | None = None,
    repeatable: frozenset[str] = frozenset(),
    blind: bool = False,
) -> Account:
    """Return the account of all slots from *since* (default: each job's first row) to *until*.

    Jobs in *repeatable* may be there once for each attempt (``on_abandoned = "retry"``: at least once), and
    where the memory of an attempt went down with a worker that could not write (*blind*) the first one is
    counted anew; the others once.
    """
    account = Account()
    by_slot: dict[Slot, Row] = {}
    for row in rows:
        if row.slot is None:
            continue
        key = (row.job, row.slot)
        if key in by_slot:
            account.two_rows.append(key)
        by_slot[key] = row
    there: Counter[Slot] = Counter()
    for (job, slot, attempt), count in marks.items():
        there[(job, slot)] += count
        if count > 1 and not (blind and job in repeatable):
            account.doubled.append((job, slot))
        if attempt > 1 and job not in repeatable:
            account.doubled.append((job, slot))
    for job, schedule in schedules.items():
        first = since
        if first is None:
            own = [slot for name, slot in by_slot if name == job]
            assert own, f"{job} has no row at all"
            first = min(own)
        due = due_slots(schedule, first - timedelta(microseconds=1), until)
        account.due += len(due)
        account.lost += [(job, slot) for slot in sorted(due) if (job, slot) not in by_slot]
    for key, row in by_slot.items():
        account.ran += key in there
        if row.state == "succeeded":
            account.succeeded += 1
            if key not in there:
                account.silent.append(key)
        elif row.state in NOT_RUN:
            account.not_run += 1
            if key in there:
                account.unowned.append(key)
        elif row.state == "abandoned":
            account.abandoned += 1
        elif row.state == "cancelled":
            account.cancelled += 1
        elif row.state in ("queued", "running"):
            account.open.append(row)
        else:
            account.failed.append(row)
        if row.state in NOT_RUN | MAY_HAVE_RUN and not row.error:
            account.unexplained.append(row)
    account.unowned += [key for key in there if key not in by_slot]
    return account
