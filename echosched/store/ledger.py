"""What memory knows of slots, runs and jobs while the database cannot be written. Pure: no I/O, no clock.

It answers claims and takes ends exactly as a store does (by :mod:`echosched.transitions`), and remembers
which rows the database lacks. Rows are kept as whole values, not as a list of calls: writing them is then
idempotent, and a run that began and ended meanwhile is one row.

Memory is bounded. Beyond *most_runs* the oldest ended runs lose their details (they are counted, and their
slots stay accounted for); beyond *most_slots* even a slot is forgotten, and then every slot of that job up
to it counts as accounted for: rather not run than run twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice

from echosched import transitions
from echosched.model import Claim, Ended, JobRecord, Run, Started, State

Slot = tuple[str, datetime]
_RECENT_SLOTS = 10_000  # remembered for a fresh database, about a megabyte when it has come to that


@dataclass(slots=True)
class Backlog:
    """A portion of what the database lacks: rows to be written in one transaction."""

    runs: list[Run] = field(default_factory=list)
    slots: list[tuple[str, datetime, int]] = field(default_factory=list)
    jobs: list[JobRecord] = field(default_factory=list)
    cursors: dict[str, datetime] = field(default_factory=dict)
    notes: dict[str, str | None] = field(default_factory=dict)
    highest_run: int = 0

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to write."""
        return not (self.runs or self.slots or self.jobs or self.cursors or self.notes)


class Ledger:
    """The rows that a database lacks, and the runs that have no outcome yet.

    *live* runs are followed in good times too, cheaply, so that a fault finds what is needed in place.
    """

    def __init__(self, owner: str | None, *, most_runs: int = 20_000, most_slots: int = 200_000) -> None:
        self.owner = owner
        self.highest_run = 0
        self.lost = 0
        self._most_runs = most_runs
        self._most_slots = most_slots
        # In good times: claims as they were made and starts as they were told; a Run is made of them only
        # when a fault needs it. A burst of a thousand claims costs a dict update here, not a thousand objects.
        self._live: dict[int, Run | Claim] = {}
        self._starts: dict[int, Started] = {}
        self._armed: set[int] = set()
        self._newest_slots: dict[str, datetime] = {}
        self._recent: deque[tuple[str, datetime, int]] = deque(maxlen=_RECENT_SLOTS)
        self._doubtful: dict[int, Sequence[int | None]] = {}  # numbers of commits that may be found whole
        # In bad times: what the database lacks.
        self._runs: dict[int, Run] = {}
        self._stored_states: dict[int, State] = {}  # of runs whose row exists already, with this state
        self._slots: dict[Slot, int] = {}
        self._unwritten_slots: dict[Slot, int] = {}
        self._floors: dict[str, datetime] = {}
        self._jobs: dict[str, JobRecord] = {}
        self._cursors: dict[str, datetime] = {}
        self._notes: dict[str, str | None] = {}

    # ── in good times ─────────────────────────────────────────────────────────────────────────

    def saw_claims(self, claims: Sequence[Claim], numbers: Sequence[int | None]) -> None:
        """Remember runs that the database has just taken."""
        for claim, number in zip(claims, numbers, strict=True):
            if number is not None:
                if not claim.state.is_outcome:
                    self._live[number] = claim
                self.highest_run = max(self.highest_run, number)
                self._doubtful.pop(number, None)
            if claim.slot is not None:
                if number is not None:
                    self._recent.append((claim.job, claim.slot, number))
                newest = self._newest_slots.get(claim.job)
                if newest is None or newest < claim.slot:
                    self._newest_slots[claim.job] = claim.slot

    def saw_active(self, runs: Iterable[Run]) -> None:
        """Remember runs of an earlier life that the database holds as active."""
        for run in runs:
            if run.run not in self._runs:
                self._live[run.run] = run

    def saw_starts(self, starts: Sequence[Started]) -> None:
        """Remember when attempts began."""
        for start in starts:
            known = self._starts.get(start.run)
            if start.run in self._live and (known is None or known.attempt < start.attempt):
                self._starts[start.run] = start

    def saw_starting(self, runs: Sequence[int]) -> None:
        """Remember which queued runs may start."""
        self._armed.update(number for number in runs if number in self._live)

    def saw_ends(self, ends: Sequence[Ended], recorded: Sequence[bool]) -> None:
        """Forget runs that the database knows to have ended, remember those that go back to the queue."""
        for end, was_recorded in zip(ends, recorded, strict=True):
            if not was_recorded:
                continue  # of an earlier attempt, perhaps; the present one goes on
            run = self._as_run(end.run) if end.retry_at is not None else None
            self._forget(end.run)
            if run is not None and (after := transitions.ended(run, end)) is not None:
                self._live[end.run] = after

    # ── in bad times ──────────────────────────────────────────────────────────────────────────

    def skip_numbers(self, count: int) -> None:
        """Leave out *count* run numbers: a transaction that seemed to fail may have used them on disk."""
        self.highest_run += count

    def doubt(self, numbers: Sequence[int | None]) -> None:
        """Note the *numbers* of a commit that failed, and may be found whole when the database is opened anew."""
        for number in numbers:
            if number is not None:
                self._doubtful[number] = (
                    numbers  # an earlier commit with the same number is void: this one saw no trace
                )
                self.highest_run = max(self.highest_run, number)

    def claim_as(self, claims: Sequence[Claim], numbers: Sequence[int | None]) -> list[int | None] | None:
        """Take claims under the very *numbers* of a doubtful commit, so that its rows are the same, found or not.

        ``None`` where a later commit used them: then nothing can be left of that one.
        """
        own = [number for number in numbers if number is not None]
        is_mine = all(self._doubtful.get(number) is numbers for number in own)
        for number in own:
            if self._doubtful.get(number) is numbers:
                del self._doubtful[number]
        if not is_mine:
            return None
        return [self._take(claim, number) for claim, number in zip(claims, numbers, strict=True)]

    def claim(self, claims: Sequence[Claim], taken: set[Slot] | None) -> list[int | None]:
        """Answer claims from memory; *taken* are slots that the database has, ``None`` if it cannot be asked.

        Then every slot up to the newest that was claimed in good times counts as taken.
        """
        return [self._claim(claim, taken) for claim in claims]

    def _is_taken(self, key: Slot, taken: set[Slot] | None) -> bool:
        job, slot = key
        floor = self._floors.get(job)
        newest = self._newest_slots.get(job) if taken is None else None
        return (
            key in self._slots
            or (taken is not None and key in taken)
            or (floor is not None and slot <= floor)
            or (newest is not None and slot <= newest)
        )

    def _claim(self, claim: Claim, taken: set[Slot] | None) -> int | None:
        is_taken = claim.slot is not None and self._is_taken((claim.job, claim.slot), taken)
        return self._take(claim, None if is_taken else self.highest_run + 1)

    def _take(self, claim: Claim, number: int | None) -> int | None:
        """Take *claim* as run *number* (``None``: its slot is accounted for already)."""
        if claim.slot is not None:
            key = (claim.job, claim.slot)
            self._cursors[claim.job] = max(claim.slot, self._cursors.get(claim.job, claim.slot))
            if number is None or key in self._slots:
                return None
            self._slots[key] = self._unwritten_slots[key] = number
            self._recent.append((*key, number))
            self._bound_slots()
        if number is None:
            return None
        self.highest_run = max(self.highest_run, number)
        self._keep(transitions.claimed(claim, number, self.owner))
        return number

    def starting(self, runs: Sequence[int]) -> None:
        """Give queued runs the right to start."""
        for number in runs:
            if (run := self._as_run(number)) is not None:
                self._keep(transitions.starting(run, self.owner))

    def started(self, starts: Sequence[Started]) -> None:
        """Keep when attempts began, also of attempts that have ended meanwhile."""
        for start in starts:
            run = self._as_run(start.run) or self._runs.get(start.run)
            if run is not None:
                self._keep(transitions.started(run, start))

    def finish(self, ends: Sequence[Ended]) -> list[bool]:
        """Take ends; ``False`` for runs that memory does not know as active, and for other attempts."""
        transitions.refuse_open_ends(ends)
        recorded = []
        for end in ends:
            run = self._as_run(end.run)
            after = None if run is None else transitions.ended(run, end)
            recorded.append(after is not None)
            if after is not None:
                self._keep(after)
        return recorded

    def save_jobs(self, records: Iterable[JobRecord]) -> None:
        """Keep job records."""
        for record in records:
            self._jobs[record.name] = record
            self._cursors.pop(record.name, None)

    def move_cursors(self, records: Iterable[JobRecord]) -> None:
        """Keep only the cursors of job records that were made without knowing the stored ones."""
        for record in records:
            self._cursors[record.name] = record.cursor_at

    def set_note(self, key: str, value: str | None) -> None:
        """Keep a note."""
        self._notes[key] = value

    def must_write_all(self, jobs: Iterable[JobRecord], notes: dict[str, str], now: datetime) -> None:
        """Prepare for a fresh database: all that memory knows is missing there.

        Every job's cursor is *now*, so that nothing before is caught up. Slots that ran a while ago come due
        again where the clock is set back.
        """
        for job, slot, number in self._recent:
            self._slots[(job, slot)] = number
        for number in list(self._live):
            if (run := self._as_run(number)) is not None:
                self._runs[number] = run
                if run.slot is not None:
                    self._slots[(run.job, run.slot)] = self._unwritten_slots[(run.job, run.slot)] = number
        self._unwritten_slots.update(self._slots)
        self._stored_states.clear()
        for record in jobs:
            self._jobs[record.name] = replace(record, cursor_at=now)
        for name in self._cursors:
            self._cursors[name] = max(now, self._cursors[name])
        for key, value in notes.items():
            self._notes.setdefault(key, value)

    # ── what the database lacks ───────────────────────────────────────────────────────────────

    @property
    def is_empty(self) -> bool:
        """Tell whether the database lacks nothing."""
        return not (self._runs or self._unwritten_slots or self._jobs or self._cursors or self._notes)

    def backlog(self, most: int = 2_000) -> Backlog:
        """Return the next portion to write: the oldest *most* runs and slots, and all the small things."""
        portion = Backlog(highest_run=self.highest_run)
        portion.runs = list(islice(self._runs.values(), most))
        portion.slots = [
            (job, slot, number) for (job, slot), number in islice(self._unwritten_slots.items(), most)
        ]
        portion.jobs = list(self._jobs.values())
        portion.cursors = dict(self._cursors)
        portion.notes = dict(self._notes)
        return portion

    def wrote(self, portion: Backlog) -> None:
        """Forget what the database has taken, except what has changed again meanwhile."""
        for run in portion.runs:
            if self._runs.get(run.run) is run:
                del self._runs[run.run]
            if not run.state.is_outcome:
                self._stored_states[run.run] = run.state
        for job, slot, _ in portion.slots:
            self._unwritten_slots.pop((job, slot), None)
        for record in portion.jobs:
            if self._jobs.get(record.name) is record:
                del self._jobs[record.name]
        for name, cursor in portion.cursors.items():
            if self._cursors.get(name) == cursor:
                del self._cursors[name]
        for key, value in portion.notes.items():
            if key in self._notes and self._notes[key] == value:
                del self._notes[key]

    def recovered(self) -> None:
        """End the bad times: the database has everything, its slot rows guard again."""
        self._slots.clear()
        self._floors.clear()
        self._stored_states.clear()
        self.lost = 0

    # ── reads ─────────────────────────────────────────────────────────────────────────────────

    def get_run(self, number: int) -> Run | None:
        """Return a run as memory knows it better than the database."""
        return self._runs.get(number) or self._as_run(number)

    def changed(self) -> list[Run]:
        """Return all runs whose rows the database lacks or has in an older state, newest first."""
        return sorted(self._runs.values(), key=lambda run: -run.run)

    def stored_and_changed(self) -> int:
        """Return how many of the database's rows are out of date."""
        return len(self._stored_states)

    def active(self) -> list[Run]:
        """Return all runs without outcome, oldest slot first."""
        runs = [run for number in self._live if (run := self._as_run(number)) is not None]
        return sorted(runs, key=lambda run: (run.slot or run.queued_at, run.run))

    def count_changes(self) -> dict[State, int]:
        """Return by how much the counts differ from those of the database."""
        changes = dict.fromkeys(State, 0)
        for number, run in self._runs.items():
            changes[run.state] += 1
            if (stored := self._stored_states.get(number)) is not None:
                changes[stored] -= 1
        return changes

    def jobs(self, stored: dict[str, JobRecord]) -> dict[str, JobRecord]:
        """Return the database's job records as memory knows them better."""
        records = dict(stored)
        for name, record in self._jobs.items():
            known = stored.get(name)
            records[name] = replace(record, last_run=known.last_run if known else None)
        for name, cursor in self._cursors.items():
            known = records.get(name)
            if known is None:
                records[name] = JobRecord(name, cursor_at=cursor)
            elif known.cursor_at < cursor:
                records[name] = replace(known, cursor_at=cursor)
        for run in self._runs.values():
            known = records.get(run.job)
            if known is not None and _has_run(run) and (known.last_run or 0) < run.run:
                records[run.job] = replace(known, last_run=run.run)
        return records

    def note(self, key: str) -> tuple[bool, str | None]:
        """Return whether memory has a newer note under *key*, and the note."""
        return key in self._notes, self._notes.get(key)

    # ── inside ────────────────────────────────────────────────────────────────────────────────

    def _as_run(self, number: int) -> Run | None:
        """Return a live run as a value, put together from what is known of it."""
        known = self._live.get(number)
        if known is None:
            return None
        if not isinstance(known, Run):
            known = transitions.claimed(known, number, self.owner)
        if number in self._armed:
            known = transitions.starting(known, self.owner)
        start = self._starts.get(number)
        return known if start is None else transitions.started(known, start)

    def _forget(self, number: int) -> None:
        self._live.pop(number, None)
        self._starts.pop(number, None)
        self._armed.discard(number)

    def _keep(self, run: Run) -> None:
        """Keep *run* as a row that the database lacks."""
        number = run.run
        before = self._live.get(number)
        if before is not None and number not in self._runs:
            stored = State.RUNNING if number in self._armed else before.state
            self._stored_states.setdefault(number, stored)
        self._runs[number] = run
        self._forget(number)  # starts and the right to start are part of the value now
        if not run.state.is_outcome:
            self._live[number] = run
        if len(self._runs) > self._most_runs:
            self._drop_details()

    def _drop_details(self) -> None:
        """Give up the oldest ended runs that the database never had; the others' rows must be put right."""
        ended = (
            number
            for number, run in self._runs.items()
            if run.state.is_outcome and number not in self._stored_states
        )
        for number in list(islice(ended, max(1, self._most_runs // 20))):
            del self._runs[number]
            self.lost += 1

    def _bound_slots(self) -> None:
        while len(self._slots) > self._most_slots:
            oldest = next(iter(self._slots))
            del self._slots[oldest]
            self._unwritten_slots.pop(oldest, None)
            job, slot = oldest
            self._floors[job] = max(slot, self._floors.get(job, slot))


def _has_run(run: Run) -> bool:
    return run.state.is_outcome and transitions.may_have_started(run.state)
