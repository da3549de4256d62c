"""The jobs in force: what is admitted, paused, parked, replaced by a reload, and due next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any

from echosched import events
from echosched.errors import no_such_job
from echosched.model import Job, JobRecord, Run
from echosched.protocols import Clock, Store
from echosched.scheduler.entries import Entry, LiveRun
from echosched.timer import TimerHeap

log = logging.getLogger(__name__)

CHUNK = 2000
"""How many due slots of one job are handed out at a time after a long absence."""

PAUSED = "its job was paused before it came"
CHANGED = "its job was changed before it came"
"""Why a slot that was claimed early is taken back."""

Jitter = Callable[[str, datetime, timedelta], float]


class Roster:
    """Entries by job name and the heap of their next slots. Fires nothing itself.

    *wake* is called when something may have come due; *spawn* runs a coroutine beside the loop. Entries come
    up *ahead* seconds before their slots; *take_back* undoes what was claimed in that time, with a reason.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        emit: Callable[[events.Event], None],
        wake: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        jitter: Jitter,
        take_back: Callable[[Entry, str], None],
        ahead: float = 0.0,
    ) -> None:
        self.entries: dict[str, Entry] = {}
        self.heap: TimerHeap[Entry] = TimerHeap()
        self.followers: dict[str, list[Entry]] = {}  # by the job that they come after
        self._store = store
        self._clock = clock
        self._emit = emit
        self._wake = wake
        self._spawn = spawn
        self._jitter = jitter
        self._take_back = take_back
        self._ahead = ahead
        self.absent_until: datetime | None = None
        """Nobody ran until then: what came due is a misfire. Set by who knows that no worker was there before."""
        self._owed: dict[str, Entry] = {}  # by job: changed by a reload, and not saved yet
        self.changes = 0
        """Grows with each reload and each pause: whoever waited for something meanwhile looks at the jobs again."""

    async def load(self, jobs: Mapping[str, Job]) -> None:
        """Take *jobs* into force, with what the store remembers of them."""
        records = await self._store.load_jobs()
        now = self._clock.now()
        fresh = []
        for job in jobs.values():
            record = records.get(job.name)
            entry = self._admit(job, record, now)
            if _news(entry, record):
                fresh.append(entry.record())
        self._link()
        if fresh:
            await self._store.save_jobs(fresh)

    def _link(self) -> None:
        self.followers = {}
        for entry in self.entries.values():
            if entry.job.after is not None:
                self.followers.setdefault(entry.job.after.job, []).append(entry)

    def arm_all(self) -> None:
        """Work out every entry's next slot. Call once, before any other is armed."""
        # Many lines of a crontab share one schedule, and those first seen together one cursor.
        known: dict[tuple[int, datetime], datetime | None] = {}
        armed: list[tuple[float, Entry]] = []
        for entry in self.entries.values():
            entry.slot = None
            if not entry.waits or entry.schedule is None:
                continue
            question = (id(entry.schedule), entry.cursor_at)
            if question not in known:
                try:
                    known[question] = entry.schedule.next_after(entry.cursor_at)
                except Exception as error:
                    log.exception("job %s: its schedule failed", entry.job.name)
                    self.park(entry, f"its schedule failed: {error}")
                    continue
            entry.slot = known[question]
            if entry.slot is not None:
                armed.append((self.due_at(entry, entry.slot) - self._ahead, entry))
        self.heap.fill(armed)

    def _admit(self, job: Job, record: JobRecord | None, now: datetime) -> Entry:
        entry = self.entries[job.name] = Entry.admitted(job, record, now)
        return entry

    # ── due slots ─────────────────────────────────────────────────────────────────────────────

    def arm(self, entry: Entry, after: datetime | None = None) -> None:
        """Work out the entry's next slot after *after* (default: its cursor) and put it on the heap."""
        self.heap.discard(entry)
        entry.slot = None
        if not entry.waits or entry.schedule is None:
            return
        try:
            entry.slot = entry.schedule.next_after(entry.cursor_at if after is None else after)
        except Exception as error:
            log.exception("job %s: its schedule failed", entry.job.name)
            self.park(entry, f"its schedule failed: {error}")
            return
        self.push(entry)

    def push(self, entry: Entry, *, early: bool = True) -> None:
        """Put the entry's next slot, if it has one, on the heap; not *early*: to come up at its very instant."""
        if entry.slot is not None:
            self.heap.push(entry, self.due_at(entry, entry.slot) - (self._ahead if early else 0.0))

    def take_next(self, entry: Entry) -> datetime:
        """Return the entry's next slot, which has not come yet, and move it on behind it."""
        slot, schedule = entry.slot, entry.schedule
        assert slot is not None  # noqa: S101  (it is on the heap)
        assert schedule is not None  # noqa: S101
        entry.slot = schedule.next_after(slot)
        return slot

    def take_due(self, entry: Entry, now: datetime) -> tuple[list[datetime], bool]:
        """Return the entry's due slots, at most a chunk, and whether more are due; move it on behind them."""
        schedule, slot = entry.schedule, entry.slot
        slots: list[datetime] = []
        epoch = now.timestamp()
        more = False
        while slot is not None and schedule is not None and self.due_at(entry, slot) <= epoch:
            if len(slots) == CHUNK:
                more = True
                break
            slots.append(slot)
            slot = schedule.next_after(slot)
        entry.slot = slot
        return slots, more

    def due_at(self, entry: Entry, slot: datetime) -> float:
        """Return when the entry's *slot* fires, its jitter counted in; epoch seconds."""
        jitter = entry.job.policy.jitter
        return slot.timestamp() + (self._jitter(entry.job.name, slot, jitter) if jitter else 0.0)

    def next_slots(self, count: int) -> list[tuple[str, datetime]]:
        """Return the *count* jobs whose next slot is soonest, with that slot."""
        return [
            (entry.job.name, entry.slot) for _, entry in self.heap.soonest(count) if entry.slot is not None
        ]

    def rewind(self, now: datetime) -> None:
        """Aim all entries at their first slot after *now*: the clock was set back.

        Slots between now and where the clock stood come due again by the clock, but they are claimed
        already: the store's key keeps them from running twice. Those that had come due and were not yet dealt
        with lie behind the cursor, and must not be stepped over.

        What runs after another job follows runs whose slots lie behind its cursor: that goes back with the clock.
        """
        following = [
            entry for entries in self.followers.values() for entry in entries if entry.cursor_at > now
        ]
        for entry in following:
            entry.cursor_at = now
        if following:
            self._spawn(self._store.save_jobs([entry.record() for entry in following]))
        for entry in self.entries.values():
            self.arm(entry, after=min(now, entry.cursor_at))

    async def leap(self, now: datetime) -> None:
        """Let nothing before *now* be caught up: the clock was wrong until now, by more than a year.

        A row for each slot of half a century would fill the disk and tell nobody anything.
        """
        for entry in self.entries.values():
            entry.cursor_at = max(now, entry.cursor_at)
            self.arm(entry, after=now)
        await self._store.save_jobs([entry.record() for entry in self.entries.values()])

    # ── operators ─────────────────────────────────────────────────────────────────────────────

    def live(self, run: Run) -> LiveRun:
        """Return *run*, of which only the row is known, as a run of its job, defined or not."""
        entry = self.entries.get(run.job) or Entry.undefined(run.job, self._clock.now())
        return LiveRun(
            entry, run.run, run.slot, run.trigger, run.queued_at, attempt=run.attempt, priority=run.priority
        )

    def entry(self, name: str) -> Entry:
        """Return the entry of job *name*; raises ``NotFound`` with the nearest name."""
        try:
            return self.entries[name]
        except KeyError:
            raise no_such_job(name, self.entries) from None

    def park(self, entry: Entry, reason: str) -> None:
        """Set one broken job aside and tell; the others go on."""
        entry.parked = reason
        entry.slot = None
        self.heap.discard(entry)
        self._emit(events.JobParked(ts=self._clock.now(), job=entry.job.name, reason=reason))
        self._spawn(self._store.save_jobs([entry.record()]))

    async def pause(self, name: str) -> bool:
        """Let no slot of job *name* come due until it is resumed; tell whether that changed anything."""
        entry = self.entry(name)
        if entry.paused:
            return False
        self.set_paused(entry, paused=True)
        await self._store.save_jobs([entry.record()])
        self._emit(events.JobPaused(ts=self._clock.now(), job=name))
        return True

    def set_paused(self, entry: Entry, *, paused: bool) -> None:
        """Let the entry's slots come due or not from now on, whoever decided it; saves and tells nothing."""
        entry.paused = paused
        self.changes += 1
        if paused:
            self._take_back(entry, PAUSED)
        self.arm(entry)

    async def unpark(self, name: str) -> bool:
        """Give a parked job another try, paused or not; tell whether it is in service again."""
        entry = self.entry(name)
        if entry.parked is None:
            return False
        entry.parked = None
        entry.cursor_at = self._clock.now()
        self.arm(entry)  # parks it again if its schedule still fails
        self._wake()
        await self._store.save_jobs([entry.record()])
        return entry.parked is None

    async def resume(self, name: str) -> bool:
        """Let slots of job *name* come due again, from now on; takes a parked job back too."""
        entry = self.entry(name)
        if not entry.paused and entry.parked is None:
            return False
        entry.paused = False
        entry.parked = None
        entry.cursor_at = self._clock.now()
        await self._store.save_jobs([entry.record()])
        self.arm(entry)
        self._wake()
        self._emit(events.JobResumed(ts=self._clock.now(), job=name))
        return True

    def take_over(self, records: Mapping[str, JobRecord], *, anew: bool = False) -> None:
        """Take over what others have changed in the store: pauses, and how far slots are accounted for.

        *anew*: cursors too are as the store has them. A server that crashed may have lost claims whose runs had
        not begun; they are made again.
        """
        for name, record in records.items():
            entry = self.entries.get(name)
            if entry is None:
                continue
            entry.last_run = record.last_run
            entry.cursor_at = record.cursor_at if anew else max(entry.cursor_at, record.cursor_at)
            if entry.paused != record.paused:
                self.set_paused(entry, paused=record.paused)
        self._wake()

    # ── reload ────────────────────────────────────────────────────────────────────────────────

    async def apply(self, jobs: Mapping[str, Job]) -> events.Reload:
        """Replace the jobs in force by *jobs*, leaving alone what did not change.

        Returns the event (not emitted yet). Where the store cannot take the change the jobs are in force all the
        same, and what it lacks is saved by the next reload or :meth:`save_owed`.
        """
        now = self._clock.now()
        added = [job for name, job in jobs.items() if name not in self.entries]
        removed = [entry for name, entry in self.entries.items() if name not in jobs]
        changed = [
            name
            for name, job in jobs.items()
            if name in self.entries and _differs(self.entries[name].job, job)
        ]
        records = await self._store.load_jobs() if added else {}
        for entry in removed:
            del self.entries[entry.job.name]
            self.heap.discard(entry)
        dirty = []
        for job in added:
            entry = self._admit(job, records.get(job.name), now)
            entry.cursor_at = now  # a job that was away has no claim on the time in between
            dirty.append(entry)
        dirty += [entry for name in changed if self._replace(entry := self.entries[name], jobs[name], now)]
        self._link()
        self.changes += 1
        self._owed.update((entry.job.name, entry) for entry in dirty)
        try:
            await self.save_owed()
        finally:
            # However that went: these are the jobs in force, and the next reload finds nothing to change about them.
            for entry in dirty:
                self.arm(entry)
            self._wake()
        return events.Reload(
            ts=now,
            added=tuple(job.name for job in added),
            removed=tuple(entry.job.name for entry in removed),
            changed=tuple(changed),
            jobs=len(self.entries),
        )

    @property
    def owes(self) -> bool:
        """Tell whether the store lacks what a reload has changed."""
        return bool(self._owed)

    async def save_owed(self) -> None:
        """Save what reloads have changed and could not save."""
        owed, self._owed = self._owed, {}
        in_force = {name: entry for name, entry in owed.items() if self.entries.get(name) is entry}
        try:
            if in_force:
                await self._store.save_jobs([entry.record() for entry in in_force.values()])
        except BaseException:
            self._owed = {**in_force, **self._owed}
            raise

    def _replace(self, entry: Entry, job: Job, now: datetime) -> bool:
        """Give *entry* its new definition; tell whether its slots changed with it."""
        retimed = job.timing != entry.job.timing
        moved = retimed or job.enabled != entry.job.enabled
        entry.job = job
        if retimed:
            entry.anchor_at = None
        for live in entry.held:
            live.job = job  # not begun: the new definition counts
            live.start = None  # what was made ready is the old one
        if moved:
            entry.parked = None
            entry.cursor_at = now
            entry.adopt_schedule(now)
            self.take_back_moot(entry)
        return moved

    def take_back_moot(self, entry: Entry) -> None:
        """Let no run start that is held for a slot which the job, paused or changed meanwhile, has no more."""
        if not all(_has(entry, live.slot) for live in entry.held):
            self._take_back(entry, PAUSED if entry.paused else CHANGED)


def _has(entry: Entry, slot: datetime | None) -> bool:
    """Tell whether *slot* is one of the schedule in force."""
    if slot is None or not entry.waits or entry.schedule is None:
        return False
    return entry.schedule.next_after(slot - timedelta(microseconds=1)) == slot


def _news(entry: Entry, record: JobRecord | None) -> bool:
    """Tell whether the store's *record* differs from what is in force."""
    job = entry.job
    return (
        record is None
        or record.timing != job.timing
        or record.enabled != job.enabled
        or record.anchor_at != entry.anchor_at
        or record.parked is not None
    )


def _differs(old: Job, new: Job) -> bool:
    return old is not new and (
        old.definition != new.definition
        or old.timing != new.timing
        or old.enabled != new.enabled
        or old.after != new.after
        or old.description != new.description
    )
