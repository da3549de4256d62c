"""Many hosts, one set of jobs: the scheduler of one instance.

Every instance computes slots. What it does not do is decide: whether a slot is free, whether it runs, waits or is
skipped is decided by the database, for all, in the transaction that accounts for it
(:mod:`echosched.store.postgres_orders`). Whoever has it decided takes the run along if it waits for nobody, mostly a
moment before its slot (:mod:`echosched.scheduler.placing`); another run is taken by whichever instance has room, and
here or there it is a run like any other (:mod:`echosched.scheduler.runs`)::

    timer ─► misfire ─► place (overlap decided there) ─► held until its slot ────► executor ─► finish ─► next ticket
                           └──────► ticket ─► taken by one, also when given back ────┘

The pure deciders are the same as on one machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from echosched import events
from echosched.clock import SharedClock, from_micros
from echosched.errors import Conflict
from echosched.model import Claim, Ended, Job, Result, Run, State, Trigger
from echosched.scheduler.contact import Contact
from echosched.scheduler.core import Scheduler
from echosched.scheduler.entries import Entry, LiveRun
from echosched.scheduler.judge import Wish
from echosched.scheduler.peers import Peers
from echosched.scheduler.placing import AHEAD_SECONDS, GATHER_SECONDS, ClusterJudge, Placing, queue_for
from echosched.scheduler.recovery import follow_up, stranger
from echosched.scheduler.roster import PAUSED
from echosched.scheduler.sweeper import Sweeper
from echosched.store.postgres_cluster import OUTSIDE, ClusterStore
from echosched.store.postgres_orders import Order, Placement
from echosched.store.postgres_tickets import TicketWorker
from echosched.store.postgres_turns import Held, queue_of
from echosched.timer import call_later

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.25
"""How often a run on another host is looked at by whoever waits for it."""

PACE_SECONDS = 0.05
"""The first end is recorded at once; those that follow it within that time go together."""

REFRESH_SECONDS = 0.2
"""Several changes that arrive together are read at once."""


class ClusterScheduler(Scheduler):
    """A scheduler whose slots, turns and runs are shared with others through *store*.

    *heartbeat* is how often it says that it lives; *on_degraded* is told since when the database is away, and
    ``None`` when it is back. For the rest see :class:`~echosched.scheduler.core.Scheduler`.
    """

    store: ClusterStore
    clock: SharedClock

    def __init__(
        self,
        *,
        store: ClusterStore,
        clock: SharedClock,
        heartbeat: timedelta,
        on_degraded: Callable[[datetime | None], None] = lambda since: None,
        **rest: Any,
    ) -> None:
        super().__init__(store=store, clock=clock, ahead=AHEAD_SECONDS, **rest)
        self._judge = ClusterJudge(self.roster, self.runs)
        self.runs.on_retry = self._again
        self.runs.may_begin = self._may_begin
        self.runs.pace_seconds = PACE_SECONDS
        self.name = store.myself.name
        self._labels = frozenset(store.myself.labels)
        self._queues: set[str] = set()
        self._own_queues: dict[str, str] = {}
        self._refreshing: set[str] | None = None
        self.peers = Peers(self.name)
        self.placing = Placing(self, self.peers)
        self._begun = _Begun()
        self._withdrawn: dict[tuple[int, int], Held] = {}  # to be given back
        self._giving = asyncio.Lock()
        self._retaken: set[tuple[int, int]] = set()  # of those, what came here again before that was known
        self._sweeper = Sweeper(self)
        self.contact = Contact(
            store,
            clock,
            heartbeat=heartbeat,
            emit=self.emit,
            back=self._back,
            sweep=lambda: self._sweeper.sweep(),
            rejoin=self._rejoin,
            peers=self.peers,
            on_degraded=on_degraded,
        )
        store.on_fault = self.contact.lost
        self.worker = TicketWorker(
            store.link,
            take=self._take,
            room=self.room,
            first=self.peers.takes,
            start=self._start,
            hear=self._hear,
            lost=self.contact.lost,
        )
        self.sinks.append(_Lags(self.contact))

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    async def join(self, jobs: Mapping[str, Job]) -> None:
        """Take part. The store is open; nothing is taken yet. Raises ``StoreUnusable`` if the name is in use."""
        await self.contact.look_at_clock()
        await self.store.join(
            capacity=self.runs.queue.max_concurrent,
            skew_seconds=self.contact.skew_seconds,
            definitions=_definitions(jobs),
        )

    async def load(self, jobs: Mapping[str, Job]) -> None:
        """Take *jobs* into force, with the anchors that all instances share."""
        await super().load(jobs)
        await self._agree(self.roster.entries.values())
        await self._look_for_queues()

    def begin(self) -> None:
        """Let slots fire and take runs from now on."""
        super().begin()
        self.contact.begin()
        self.worker.begin()

    async def quiesce(self) -> None:
        """Claim no slot and take no run any more; what is under way goes on."""
        await self.worker.stop()
        await super().quiesce()
        await self.placing.rest()
        await self._give_back_all()

    async def leave(self, *, gone: bool) -> None:
        """Beat no more. With *gone* nothing is left running here, and nobody has to wait for the lease."""
        await self.contact.stop()
        if gone and self.contact.up:
            try:
                await self.store.leave()
            except OUTSIDE as error:
                log.info("The others will notice by its lease that this instance is gone: %s", error)

    async def apply(self, jobs: Mapping[str, Job], *, max_concurrent: int | None = None) -> events.Reload:
        """Replace the jobs in force by *jobs*; tell the others what this instance can run now."""
        event = await super().apply(jobs, max_concurrent=max_concurrent)
        await self._agree(self.roster.entries[name] for name in (*event.added, *event.changed))
        await self.store.define(capacity=self.runs.queue.max_concurrent, definitions=_definitions(jobs))
        await self._look_for_queues()
        self.worker.wake()
        return event

    async def left_behind(self) -> list[Run]:
        """Return the runs that an earlier worker of this instance left; those of others are theirs."""
        runs = await self.store.own_runs()
        for run in runs:
            self._begun.add(run.run, run.attempt)
        return runs

    async def start_lost(self) -> None:
        """Start the runs that this instance has taken without knowing it: the answer was lost with a connection."""
        for run in await self.store.own_runs():
            if self.runs.starting and not self.worker.holds(run.run):
                self._start(run)

    async def _agree(self, entries: Any) -> None:
        """Let intervals without a begin count from where they count on all hosts."""
        wanted = {
            (entry.job.name, entry.job.timing): entry.anchor_at
            for entry in entries
            if entry.anchor_at is not None
        }
        if not wanted:
            return
        for name, anchor in (await self.store.agree_anchors(wanted)).items():
            entry = self.roster.entries[name]
            if entry.anchor_at != anchor:
                entry.anchor_at = anchor
                entry.schedule = entry.job.schedule
                entry.adopt_schedule(self.clock.now())
                self.roster.arm(entry)

    # ── slots ─────────────────────────────────────────────────────────────────────────────────

    async def _fire(self, most: int) -> bool:
        # With what comes up now goes what comes up a moment later: a transaction for many slots costs as one for one.
        now, heap = self.clock.now().timestamp(), self.roster.heap
        first = heap.first()
        if first is not None and first <= now:
            for _, entry in heap.pop_due(now + GATHER_SECONDS, most):
                heap.push(entry, now)
        return await super()._fire(most)

    async def claim(self, wishes: Sequence[Wish]) -> list[int | None]:
        """Have the wishes decided by the database; whoever has room takes their runs."""
        return await self.placing.claim(wishes)

    async def ask(self, orders: Sequence[Order]) -> Placement:
        """Have *orders* decided by the database; its clock is looked at by the way."""
        before = self.clock.boot()
        placement = await self.store.place(orders)
        if placement.now is not None:
            self.contact.compare(placement.now, before, self.clock.boot())
        return placement

    def offers(self, labels: Iterable[str]) -> bool:
        """Tell whether this instance has *labels*."""
        return self._labels.issuperset(labels)

    def hold(self, live: LiveRun, until: float) -> None:
        """Keep a run that was taken with its slot until that comes (epoch seconds); start it if it has."""
        if not self._begun.add(live.run, live.attempt):
            return  # the rows told of it first
        self.contact.taken += 1
        self._hold(live, until)
        if live.entry.paused:
            self._judge.take_back(live.entry, PAUSED)

    def _hold(self, live: LiveRun, until: float) -> None:
        if until <= self.clock.now().timestamp():
            self.runs.enlist(live)
            self.runs.pump()
            return
        self.runs.hold(live, until)
        if self._wakeup is not None:
            self._wakeup.arm(self._next_alarm())

    def on_write(self, seconds: float) -> None:
        """Take note how long a transaction took."""
        self._on_write(seconds)

    async def trigger(
        self, name: str, trigger: Trigger = Trigger.MANUAL, *, slot: datetime | None = None
    ) -> int | None:
        """Make a run of job *name* now, on whichever instance has room; see :meth:`Scheduler.trigger`."""
        entry = self.roster.entry(name)
        if not self.runs.starting:
            raise Conflict(
                f"job {name}: the scheduler is stopping and starts nothing (try again when it is back)"
            )
        claim = Claim(name, slot, trigger, State.QUEUED, self.clock.now(), None, entry.job.policy.priority)
        return (await self.claim([Wish(entry, claim)]))[0]

    # ── runs ──────────────────────────────────────────────────────────────────────────────────

    def room(self) -> int:
        """Return how many more runs this instance may take now."""
        if not (self.runs.starting and self.contact.up) or self.contact.draining:
            return 0
        queue = self.runs.queue
        coming = len(self.runs.held) + self.placing.reserved
        return queue.max_concurrent - queue.placed - queue.waiting - coming

    async def _take(self, most: int) -> tuple[list[Run], bool]:
        runs, more = await self.store.take(sorted(self._queues), most, self._knows)
        self.contact.taken += len(runs)
        return runs, more

    def _knows(self, job: str, definition: str | None) -> bool:
        entry = self.roster.entries.get(job)
        return entry is not None and definition in (None, entry.job.definition)

    def _start(self, run: Run) -> None:
        """Start a run that was taken: this instance's alone from now on."""
        key = run.run, run.attempt
        if key in self._withdrawn:
            self._retaken.add(key)
        if not self._begun.add(*key):
            return
        entry = self.roster.entries.get(run.job) or stranger(run, self.clock.now())
        live = LiveRun(
            entry,
            run.run,
            run.slot,
            run.trigger,
            run.queued_at,
            attempt=run.attempt,
            armed=True,
            priority=run.priority,
        )
        due = 0.0
        if run.slot is not None and run.trigger is Trigger.SCHEDULE:
            due = self.roster.due_at(entry, run.slot)
        self._hold(live, due)

    def _may_begin(self, live: LiveRun) -> bool:
        """Tell whether *live* is still this instance's to start; if that is not certain, it is anybody's again.

        A host that was stopped, or is cut off, cannot know whether the others have given up its runs.
        """
        if self.contact.certain:
            return True
        self.contact.hurry()
        if not self._withdrawn:
            asyncio.get_running_loop().call_soon(lambda: self.spawn(self.give_back()))
        self._withdraw(live)
        return False

    def _withdraw(self, live: LiveRun) -> None:
        due = self.held_until(live)
        self.runs.withdraw(live)
        self._withdrawn[live.run, live.attempt] = Held(live.run, live.attempt, due)

    def held_until(self, live: LiveRun) -> datetime | None:
        """Return when the slot of *live* comes, its jitter counted in; ``None`` if it has come."""
        if live.slot is None or live.trigger is not Trigger.SCHEDULE:
            return None
        due = datetime.fromtimestamp(self.roster.due_at(live.entry, live.slot), UTC)
        return due if due > self.clock.now() else None

    async def give_back(self) -> None:
        """Let others start what was taken here and may not, or shall not, begin here."""
        # One at a time: what was given back may come here again and begin, and must not be given back then.
        async with self._giving:
            while self._withdrawn and self.contact.up:
                batch = dict(self._withdrawn)
                try:
                    await self.store.give_back(list(batch.values()))
                except OUTSIDE as error:
                    log.debug("runs are given back when the database is: %s", error)
                    return
                for key in batch:
                    if key in self._retaken:
                        self._retaken.discard(key)  # taken between the commit and its answer: once more
                    else:
                        del self._withdrawn[key]
                        self._begun.forget(*key)

    async def _give_back_all(self) -> None:
        """Give back whatever was taken and has not begun."""
        for live in list(self.runs.live.values()):
            if not (live.placed or live.over or live.running or live.cancelled):
                self._withdraw(live)
        await self.give_back()

    def _again(self, live: LiveRun, delay: float) -> None:
        # Its next attempt is a ticket, for anybody. Procrastinate's workers would see it when they next poll.
        self.runs.forget(live)
        call_later(self.clock, max(delay, 0.0) + 0.001, self.worker.wake)
        self.worker.free()

    def _start_followers(self, live: LiveRun, state: State) -> None:
        self.worker.free()
        self.start_followers(live, state)

    def start_followers(self, live: LiveRun, state: State) -> None:
        """Start what comes after a run that ended in *state*, wherever it ran."""
        super()._start_followers(live, state)

    async def cancel(self, run: int, reason: str) -> None:
        """End run *run*, wherever it is."""
        if run in self.runs.live:
            self.runs.cancel(run, reason)
            return
        ended = await self.store.cancel(run, reason, self.clock.now())
        if ended is not None:
            self.tell_ended(ended)

    async def wait(self, run: int) -> Run:
        """Return run *run* when it has ended, wherever it is."""
        while True:
            try:
                found = await self.runs.wait(run)
            except OUTSIDE:
                await self.store.up.wait()
                continue
            if found.state.is_outcome:
                return found
            await asyncio.sleep(WAIT_SECONDS)

    def tell_ended(self, run: Run) -> None:
        """Tell of a run that ended here without having run here."""
        entry = self.roster.entries.get(run.job) or stranger(run, self.clock.now())
        live = LiveRun(entry, run.run, run.slot, run.trigger, run.queued_at, attempt=run.attempt)
        result = Result(run.state, run.exit_code, run.signal, run.error)
        self.runs.tell_end(
            live, Ended(run.run, run.job, run.attempt, run.ended_at or self.clock.now(), result)
        )
        self.start_followers(live, run.state)

    # ── the others ────────────────────────────────────────────────────────────────────────────

    def _hear(self, message: dict[str, Any]) -> None:
        match message:
            case {"op": "cancel", "runs": [*runs], "reason": str(reason)}:
                self.cancel_here((run, reason) for run in runs)
            case {"op": "jobs", "by": by} if by != self.name:
                self._pause_now(message.get("paused") or ())
                self._refresh_soon(message.get("names"))
            case {"op": "later", "micros": int(micros)}:
                wait = (from_micros(micros) - self.clock.now()).total_seconds()
                call_later(self.clock, min(max(wait, 0.0), 60.0) + 0.001, self.worker.wake)
            case {"op": "definitions", "names": [*names]} if not self._own_queues.keys().isdisjoint(names):
                self._queues.update(name for name in names if name in self._own_queues)
                self.worker.wake()
            case {"op": "drain", "instance": self.name, "draining": bool(draining)}:
                self.contact.draining = draining
                self.worker.wake()
                if draining:
                    self.spawn(self._give_back_all())
            case {"op": "joined", "by": by} if by != self.name:
                self.contact.hurry()
            case {"op": "missed"}:
                self._refresh_soon(None)
                self.contact.hurry()
                self.worker.wake()

    def cancel_here(self, wanted: Iterable[tuple[int, str]]) -> None:
        """End those of the runs, each with its reason, that run here."""
        for run, reason in wanted:
            live = self.runs.live.get(run)
            if live is not None:
                self.runs.cancel_live(live, State.CANCELLED, reason)

    def _pause_now(self, names: Iterable[str]) -> None:
        """Start nothing more of jobs that another instance has paused, also where their slots were claimed already."""
        for name in names:
            entry = self.roster.entries.get(name)
            if entry is not None and not entry.paused:
                self._set_paused(entry, paused=True)

    def _set_paused(self, entry: Entry, *, paused: bool) -> None:
        entry.paused = paused
        if paused:
            self._judge.take_back(entry, PAUSED)
        self.roster.arm(entry)

    def _refresh_soon(self, names: list[str] | None) -> None:
        if self._refreshing is None:
            self._refreshing = set()
            call_later(self.clock, REFRESH_SECONDS, lambda: self.spawn(self._refresh_quietly()))
        self._refreshing.update(names or ())

    async def _refresh_quietly(self) -> None:
        self._refreshing = None
        try:
            await self.refresh()
        except OUTSIDE as error:
            log.debug("what others changed is read when the database is back: %s", error)

    async def refresh(self, *, anew: bool = False) -> None:
        """Take over what other instances and operators have changed: pauses, and how far slots are accounted for.

        *anew*: cursors too are as the database has them. A server that crashed may have lost claims whose runs had
        not begun; they are made again.
        """
        for name, record in (await self.store.load_jobs()).items():
            entry = self.roster.entries.get(name)
            if entry is None:
                continue
            entry.last_run = record.last_run
            entry.cursor_at = record.cursor_at if anew else max(entry.cursor_at, record.cursor_at)
            if entry.paused != record.paused:
                self._set_paused(entry, paused=record.paused)
        await self._look_for_queues()
        self._wake()

    async def _back(self) -> None:
        """Catch up after an outage of the database."""
        self.placing.forget()
        await self.refresh(anew=True)
        self.roster.arm_all()
        self._wake()
        self.worker.wake()
        await self.start_lost()
        await self.give_back()
        self.cancel_here(await self.store.cancelled())
        self.spawn(follow_up(self))

    async def _rejoin(self) -> None:
        jobs = {name: entry.job for name, entry in self.roster.entries.items()}
        await self.store.join(
            capacity=self.runs.queue.max_concurrent,
            skew_seconds=self.contact.skew_seconds,
            definitions=_definitions(jobs),
        )

    async def _look_for_queues(self) -> None:
        """Work out where runs for this instance may wait."""
        mine = {
            entry.job.name: entry.job
            for entry in self.roster.entries.values()
            if self._labels.issuperset(entry.job.policy.labels)
        }
        queues = {queue_for(job.policy.labels) for job in mine.values()}
        self._own_queues = {
            queue_of(queue_for(job.policy.labels), job.definition): name for name, job in mine.items()
        }
        passed_on = await self.store.passed_on()
        self._queues = queues | {f"@{self.name}"} | (passed_on & self._own_queues.keys())


class _Begun:
    """The attempts that began here, of the latest runs: none begins twice, whatever the database seems to say."""

    def __init__(self, most: int = 100_000) -> None:
        self._known: dict[tuple[int, int], None] = {}
        self._most = most

    def add(self, run: int, attempt: int) -> bool:
        """Note that an attempt begins here; tell whether that is new."""
        key = run, attempt
        if key in self._known:
            return False
        self._known[key] = None
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]
        return True

    def forget(self, run: int, attempt: int) -> None:
        """Let an attempt that did not begin after all be new again."""
        self._known.pop((run, attempt), None)


class _Lags:
    """Keeps how late the latest runs began."""

    def __init__(self, contact: Contact) -> None:
        self._contact = contact

    def emit(self, event: events.Event) -> None:
        """Take note of starts."""
        if (
            isinstance(event, events.RunStart)
            and event.slot is not None
            and event.trigger == Trigger.SCHEDULE
        ):
            self._contact.lags.append((event.ts - event.slot).total_seconds())


def _definitions(jobs: Mapping[str, Job]) -> dict[str, str]:
    return {name: job.definition for name, job in jobs.items()}
