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
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from echosched import events
from echosched.clock import SharedClock
from echosched.errors import OUTSIDE, Conflict, NotFound
from echosched.model import Claim, Ended, Job, Result, Run, State, Trigger
from echosched.scheduler.contact import Contact
from echosched.scheduler.core import Scheduler
from echosched.scheduler.entries import Entry, LiveRun
from echosched.scheduler.judge import Wish
from echosched.scheduler.messages import Messages
from echosched.scheduler.peers import Peers
from echosched.scheduler.placing import AHEAD_SECONDS, GATHER_SECONDS, ClusterJudge, Placing
from echosched.scheduler.recovery import follow_up
from echosched.scheduler.rights import Rights
from echosched.scheduler.roster import PAUSED
from echosched.scheduler.routes import Routes
from echosched.scheduler.sweeper import Sweeper
from echosched.store.postgres_cluster import ClusterStore
from echosched.store.postgres_orders import Order, Placement
from echosched.store.postgres_tickets import TicketWorker
from echosched.timer import call_later

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.25
"""How often a run on another host is looked at by whoever waits for it."""

PACE_SECONDS = 0.05
"""The first end is recorded at once; those that follow it within that time go together."""


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
        self.runs.ends.pace_seconds = PACE_SECONDS
        self.name = store.myself.name
        self.routes = Routes(store, self.roster)
        self.peers = Peers(self.name)
        self.placing = Placing(self, self.peers)
        self.rights = Rights(self)
        self.runs.may_begin = self.rights.may_begin
        self.messages = Messages(self)
        self._sweeper = Sweeper(self)
        self._untold = False  # whether the others lack what a reload has changed
        self.contact = Contact(
            store,
            clock,
            heartbeat=heartbeat,
            emit=self.emit,
            back=self._back,
            sweep=lambda: self._sweeper.sweep(),
            rejoin=self._rejoin,
            sure=lambda: self.worker.wake(),
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
            hear=self.messages.hear,
            lost=self.contact.lost,
        )
        self.sinks.append(self.contact.lags)

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    async def join(self, jobs: Mapping[str, Job]) -> None:
        """Take part. The store is open; nothing is taken yet. Raises ``StoreUnusable`` if the name is in use."""
        await self.contact.look_at_clock()
        await self._join(jobs)

    async def _join(self, jobs: Mapping[str, Job]) -> None:
        await self.store.join(
            capacity=self.runs.queue.max_concurrent,
            skew_seconds=self.contact.skew_seconds,
            definitions=_definitions(jobs),
        )

    async def _rejoin(self) -> None:
        await self._join(self._jobs)

    async def _define(self) -> None:
        capacity = self.runs.queue.max_concurrent
        await self.store.define(capacity=capacity, definitions=_definitions(self._jobs))
        self._untold = False

    @property
    def _jobs(self) -> dict[str, Job]:
        return {name: entry.job for name, entry in self.roster.entries.items()}

    async def load(self, jobs: Mapping[str, Job]) -> None:
        """Take *jobs* into force, with the anchors that all instances share."""
        await super().load(jobs)
        await self._agree(self.roster.entries.values())
        await self.routes.work_out()

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
        await self.rights.give_back_all()

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
        self._untold = True
        event = await super().apply(jobs, max_concurrent=max_concurrent)
        await self._agree(self.roster.entries[name] for name in (*event.added, *event.changed))
        await self._define()
        await self.routes.work_out()
        self.worker.wake()
        return event

    async def left_behind(self) -> list[Run]:
        """Return the runs that an earlier worker of this instance left; those of others are theirs."""
        runs = await self.store.own_runs()
        for run in runs:
            self.rights.begin(run.run, run.attempt)
        return runs

    async def start_lost(self) -> None:
        """Start the runs that this instance has taken without knowing it: the answer was lost with a connection."""
        for run in await self.store.own_runs():
            if self.runs.starting and not self.worker.holds(run.run):
                self._start(run)

    async def _back(self) -> None:
        """Catch up after an outage of the database."""
        self.placing.forget()
        if self.roster.owes:
            await self.messages.refresh()  # first: what is saved must not undo a pause that came meanwhile
            await self.roster.save_owed()
        await self.messages.refresh(anew=True)
        await self._agree(self.roster.entries.values())
        if self._untold:
            await self._define()
        self.roster.arm_all()
        self._wake()
        self.worker.wake()
        await self.start_lost()
        await self.rights.give_back()
        self.messages.cancel_here(await self.store.cancelled())
        self.spawn(follow_up(self))

    async def _agree(self, entries: Iterable[Entry]) -> None:
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

    def hold(self, live: LiveRun, until: float) -> None:
        """Keep a run that was taken with its slot until that comes (epoch seconds); start it if it has."""
        if not self.rights.begin(live.run, live.attempt):
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
        self._alarm.set()

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
        if not self.contact.certain:  # what it took it would have to give back at once, and take again
            self.contact.hurry()
            return 0
        queue = self.runs.queue
        coming = len(self.runs.held) + self.placing.reserved
        return queue.max_concurrent - queue.placed - queue.waiting - coming

    async def _take(self, most: int) -> tuple[list[Run], bool]:
        queues, knows = sorted(self.routes.queues), self.routes.knows
        found, more = await self.store.take(queues, most, knows, self.clock.now())
        runs = [run for run in found if not run.state.is_outcome]
        self.contact.taken += len(runs)
        for run in found:
            if run.state.is_outcome:  # it had been cancelled
                self.tell_ended(run)
        return runs, more

    def _start(self, run: Run) -> None:
        """Start a run that was taken: this instance's alone from now on."""
        if not self.rights.begin_taken(run.run, run.attempt):
            return
        live = self.roster.live(run)
        live.armed = True
        self._hold(live, self.rights.due_at(live))

    def _again(self, live: LiveRun, delay: float) -> None:
        # Its next attempt is a ticket, for anybody. Procrastinate's workers would see it when they next poll.
        self.runs.forget(live)
        if live.cancelled is not None:  # while the end of the last attempt was being committed
            self.spawn(self._cancel_again(live.run, live.cancelled[1]))
        call_later(self.clock, max(delay, 0.0) + 0.001, self.worker.wake)
        self.worker.free()

    async def _cancel_again(self, run: int, reason: str) -> None:
        with contextlib.suppress(NotFound):  # whoever took it knew already
            await self.cancel(run, reason)

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
        live = self.roster.live(run)
        result = Result(run.state, run.exit_code, run.signal, run.error)
        self.runs.tell_end(
            live, Ended(run.run, run.job, run.attempt, run.ended_at or self.clock.now(), result)
        )
        self.start_followers(live, run.state)


def _definitions(jobs: Mapping[str, Job]) -> dict[str, str]:
    return {name: job.definition for name, job in jobs.items()}
