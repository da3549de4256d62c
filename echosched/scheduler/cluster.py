"""Many hosts, one set of jobs: the scheduler of one instance.

Every instance computes slots. What it does not do is decide: whether a slot is free, whether it runs, waits or is
skipped is decided by the database, for all, in the transaction that accounts for it
(:mod:`echosched.store.postgres_turns`). The run is then taken by whichever instance has room, and there it is a run
like any other (:mod:`echosched.scheduler.runs`)::

    timer ─► misfire ─► place (overlap decided there) ─► ticket ─► taken by one ─► executor ─► finish ─► next ticket

The pure deciders are the same as on one machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from echosched import events
from echosched.clock import SharedClock
from echosched.errors import Conflict
from echosched.model import Claim, Ended, Job, OnAbandoned, Overlap, Policy, Result, Run, State, Trigger
from echosched.policy import misfire, overlap
from echosched.scheduler.contact import Contact
from echosched.scheduler.core import Scheduler
from echosched.scheduler.entries import Entry, LiveRun
from echosched.scheduler.judge import Judge, Wish
from echosched.scheduler.peers import Peers
from echosched.scheduler.recovery import follow_up, stranger
from echosched.scheduler.runs import run_fields
from echosched.store.postgres_cluster import OUTSIDE, ClusterStore
from echosched.store.postgres_tickets import TicketWorker
from echosched.store.postgres_turns import Decision, Order, Situation, queue_of
from echosched.store.postgres_writes import Terms
from echosched.timer import call_later

log = logging.getLogger(__name__)

ANYWHERE = "any"
WAIT_SECONDS = 0.25
"""How often a run on another host is looked at by whoever waits for it."""

REFRESH_SECONDS = 0.2
"""Several changes that arrive together are read at once."""

OTHERS_SECONDS = 0.25
"""How long an instance waits for another one to claim a slot."""

MEND_EVERY = 4
"""Every so many sweeps also look for tickets that were lost."""

MOST_QUEUE = 100  # characters; Procrastinate's names have 128 at most, and a definition may follow


class ClusterJudge(Judge):
    """Turns slots into wishes; what becomes of a live one is for the database to say."""

    def wishes(self, entry: Entry, now: datetime) -> list[Wish]:
        """Return what is wished for the due slots of *entry*; moves it on behind them."""
        slots, more = self._roster.take_due(entry, now)
        self._roster.push(entry)
        wishes = []
        for verdict in misfire.judge(slots, now, entry.job.policy, more=more):
            state = State.QUEUED if verdict.missed is None else State.MISSED
            priority = entry.job.policy.priority
            claim = Claim(entry.job.name, verdict.slot, verdict.trigger, state, now, verdict.missed, priority)
            wishes.append(Wish(entry, claim))
        return wishes


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
        super().__init__(store=store, clock=clock, **rest)
        self._judge = ClusterJudge(self.roster, self.runs)
        self.runs.on_retry = self._again
        self.name = store.myself.name
        self._labels = frozenset(store.myself.labels)
        self._queues: set[str] = set()
        self._own_queues: dict[str, str] = {}
        self._refreshing: set[str] | None = None
        self._sweeps = 0
        self.peers = Peers(self.name)
        self._others: dict[str, list[Wish]] = {}  # slots that another claims first, by job
        self._looking: asyncio.Task[None] | None = None
        self.contact = Contact(
            store,
            clock,
            heartbeat=heartbeat,
            emit=self.emit,
            back=self._back,
            sweep=self._sweep,
            rejoin=self._rejoin,
            peers=self.peers,
            on_degraded=on_degraded,
        )
        store.on_fault = self.contact.lost
        self.worker = TicketWorker(
            store.link,
            take=self._take,
            room=self._room,
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
        self._others.clear()  # the cursors say that nobody has claimed them yet
        if self._looking is not None:
            await asyncio.wait([self._looking])

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
        return await self.store.own_runs()

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

    async def claim(self, wishes: Sequence[Wish]) -> list[int | None]:
        """Have the wishes decided and made durable in one transaction; whoever has room takes their runs.

        Slots that are another's to claim first are looked at a moment later; their numbers are not known here.
        """
        if any(wish.claim.slot is None or wish.claim.trigger is Trigger.AFTER for wish in wishes):
            return await self._place(wishes)
        if not self.contact.up:
            return [None] * len(wishes)  # caught up when the database is back, by each job's policy
        own = [
            wish for wish in wishes if wish.claim.slot and self.peers.claims(wish.claim.job, wish.claim.slot)
        ]
        numbers: dict[int, int | None] = {}
        try:
            if own:
                # A job's slots are accounted for in their order, whoever came first for the earlier ones: its
                # cursor says that all before it are.
                earlier = [one for wish in own for one in self._others.pop(wish.claim.job, ())]
                placed = await self._place([*earlier, *own])
                numbers = dict(zip(map(id, own), placed[len(earlier) :], strict=True))
        except OUTSIDE as error:
            log.debug("slots wait for the database: %s", error)
        for wish in wishes:
            if id(wish) not in numbers and self.contact.up:
                self._others.setdefault(wish.claim.job, []).append(wish)
        if self._others and self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look_after_others())
        return [numbers.get(id(wish)) for wish in wishes]

    async def _look_after_others(self) -> None:
        """Claim what was another's to claim, and was not."""
        try:
            while self._others:
                await asyncio.sleep(OTHERS_SECONDS)
                wishes = [wish for waiting in self._others.values() for wish in waiting]
                now = self.clock.now()
                due = [wish for wish in wishes if (now - wish.claim.at).total_seconds() >= OTHERS_SECONDS]
                if not due:
                    continue
                taken = await self.store.known_slots([wish.claim for wish in due])
                left = []
                for wish in due:
                    if (wish.claim.job, wish.claim.slot) in taken:
                        self._moved_on(wish)
                    else:
                        left.append(wish)
                if left:
                    await self._place(left)
                for wish in due:
                    self._accounted(wish)
        except OUTSIDE as error:
            self._others.clear()  # _back begins again from the cursors
            log.debug("slots of others wait for the database: %s", error)
        except Exception:
            self._others.clear()
            log.exception(
                "looking after the slots of others failed; they are looked after with the next ones"
            )
            self.roster.arm_all()
        finally:
            self._looking = None

    def _accounted(self, wish: Wish) -> None:
        waiting = self._others.get(wish.claim.job)
        if waiting is not None and wish in waiting:
            waiting.remove(wish)
            if not waiting:
                del self._others[wish.claim.job]

    def _moved_on(self, wish: Wish) -> None:
        slot = wish.claim.slot
        if slot is not None and slot > wish.entry.cursor_at:
            wish.entry.cursor_at = slot

    async def _place(self, wishes: Sequence[Wish]) -> list[int | None]:
        orders = [Order(wish.claim, self._terms(wish), _decider(wish)) for wish in wishes]
        begun = self.clock.monotonic()
        try:
            placement = await self.store.place(orders)
            while placement.early_seconds > 0:
                await asyncio.sleep(min(placement.early_seconds, 1.0))
                placement = await self.store.place(orders)
        finally:
            self._on_write(self.clock.monotonic() - begun)
        numbers: list[int | None] = []
        for wish, placed in zip(wishes, placement.placed, strict=True):
            claim = wish.claim
            self._moved_on(wish)
            numbers.append(None if placed is None else placed.run)
            if placed is not None:
                live = LiveRun(wish.entry, placed.run, claim.slot, claim.trigger, claim.at)
                self.emit(_placed(live, placed.state, claim.at, placed.error))
        for run in placement.ended:
            self._tell_ended(run)
        return numbers

    def _terms(self, wish: Wish) -> Terms:
        policy = wish.entry.job.policy
        queue = f"@{self.name}" if wish.claim.trigger is Trigger.BOOT else _queue(policy.labels)
        return Terms(
            queue=queue,
            definition=wish.entry.job.definition,
            group=policy.concurrency_group,
            group_limit=policy.concurrency_limit,
        )

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

    def _room(self) -> int:
        if not (self.runs.starting and self.contact.up) or self.contact.draining:
            return 0
        queue = self.runs.queue
        return queue.max_concurrent - queue.placed - queue.waiting

    async def _take(self, most: int) -> tuple[list[Run], bool]:
        runs, more = await self.store.take(sorted(self._queues), most, self._knows)
        self.contact.taken += len(runs)
        return runs, more

    def _knows(self, job: str, definition: str | None) -> bool:
        entry = self.roster.entries.get(job)
        return entry is not None and definition in (None, entry.job.definition)

    def _start(self, run: Run) -> None:
        """Start a run that was taken: this instance's alone from now on."""
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
        self.runs.enlist(live)
        self.runs.pump()

    def _again(self, live: LiveRun, delay: float) -> None:
        # Its next attempt is a ticket, for anybody. Procrastinate's workers would see it when they next poll.
        self.runs.forget(live)
        call_later(self.clock, max(delay, 0.0) + 0.001, self.worker.wake)
        self.worker.free()

    def _start_followers(self, live: LiveRun, state: State) -> None:
        self.worker.free()
        super()._start_followers(live, state)

    async def cancel(self, run: int, reason: str) -> None:
        """End run *run*, wherever it is."""
        if run in self.runs.live:
            self.runs.cancel(run, reason)
            return
        ended = await self.store.cancel(run, reason, self.clock.now())
        if ended is not None:
            self._tell_ended(ended)

    async def wait(self, run: int) -> Run:
        """Return run *run* when it has ended, wherever it is."""
        while True:
            found = await self.runs.wait(run)
            if found.state.is_outcome:
                return found
            await asyncio.sleep(WAIT_SECONDS)

    def _tell_ended(self, run: Run) -> None:
        """Tell of a run that ended here without having run here."""
        entry = self.roster.entries.get(run.job) or stranger(run, self.clock.now())
        live = LiveRun(entry, run.run, run.slot, run.trigger, run.queued_at, attempt=run.attempt)
        result = Result(run.state, run.exit_code, run.signal, run.error)
        self.runs.tell_end(
            live, Ended(run.run, run.job, run.attempt, run.ended_at or self.clock.now(), result)
        )
        super()._start_followers(live, run.state)

    # ── the others ────────────────────────────────────────────────────────────────────────────

    def _hear(self, message: dict[str, Any]) -> None:
        match message:
            case {"op": "cancel", "runs": [*runs], "reason": str(reason)}:
                self._cancel_here((run, reason) for run in runs)
            case {"op": "jobs", "by": by} if by != self.name:
                self._refresh_soon(message.get("names"))
            case {"op": "definitions", "names": [*names]} if not self._own_queues.keys().isdisjoint(names):
                self._queues.update(name for name in names if name in self._own_queues)
                self.worker.wake()
            case {"op": "drain", "instance": self.name, "draining": bool(draining)}:
                self.contact.draining = draining
                self.worker.wake()
            case {"op": "joined", "by": by} if by != self.name:
                self.contact.hurry()
            case {"op": "missed"}:
                self._refresh_soon(None)
                self.contact.hurry()
                self.worker.wake()

    def _cancel_here(self, wanted: Any) -> None:
        for run, reason in wanted:
            live = self.runs.live.get(run)
            if live is not None:
                self.runs.cancel_live(live, State.CANCELLED, reason)

    def _refresh_soon(self, names: list[str] | None) -> None:
        if self._refreshing is None:
            self._refreshing = set()
            call_later(self.clock, REFRESH_SECONDS, lambda: self.spawn(self._refresh_quietly()))
        self._refreshing.update(names or ())

    async def _refresh_quietly(self) -> None:
        self._refreshing = None
        try:
            await self._refresh()
        except OUTSIDE as error:
            log.debug("what others changed is read when the database is back: %s", error)

    async def _refresh(self, *, anew: bool = False) -> None:
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
                entry.paused = record.paused
                self.roster.arm(entry)
        self._wake()

    async def _back(self) -> None:
        """Catch up after an outage of the database."""
        self._others.clear()
        await self._refresh(anew=True)
        await self._look_for_queues()
        self.roster.arm_all()
        self._wake()
        self.worker.wake()
        self._cancel_here(await self.store.cancelled())
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
        queues = {_queue(job.policy.labels) for job in mine.values()}
        self._own_queues = {
            queue_of(_queue(job.policy.labels), job.definition): name for name, job in mine.items()
        }
        passed_on = await self.store.passed_on()
        self._queues = queues | {f"@{self.name}"} | (passed_on & self._own_queues.keys())

    async def _sweep(self) -> None:
        """Look for runs of dead instances, for tickets that were lost, and for what was said while nobody heard."""
        self._cancel_here(await self.store.cancelled())
        dead = await self.store.dead_runs()
        if dead:
            await self._abandon(dead)
        self._sweeps += 1
        if self._sweeps % MEND_EVERY == 0:
            for run in await self.store.mend(self.clock.now()):
                self._tell_ended(run)
            await self._look_for_queues()
            await self._refresh()

    async def _abandon(self, runs: Sequence[Run]) -> None:
        now = self.clock.now()
        lives, ends = [], []
        for run in runs:
            if run.run in self.runs.live:
                continue  # ours, and alive
            entry = self.roster.entries.get(run.job) or stranger(run, now)
            live = LiveRun(entry, run.run, run.slot, run.trigger, run.queued_at, attempt=run.attempt)
            live.started_at = run.started_at
            retry_at = now if entry.job.policy.on_abandoned is OnAbandoned.RETRY else None
            why = f"instance {run.owner} was not heard of for its lease, and its end was not seen"
            result = Result(State.ABANDONED, error=why)
            lives.append(live)
            ends.append(Ended(run.run, run.job, run.attempt, now, result, retry_at))
        recorded = await self.store.finish(ends)
        for live, ended, fresh in zip(lives, ends, recorded, strict=True):
            if not fresh:
                continue
            if ended.retry_at is not None:
                fields = run_fields(live)
                self.emit(events.RunRetry(ts=now, **fields, retry_at=now, error=ended.result.error))
                continue
            self.runs.tell_end(live, ended)
            super()._start_followers(live, State.ABANDONED)
        self.worker.wake()


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


def _decider(wish: Wish) -> Callable[[Situation], Decision] | None:
    """Return how to decide about a wish once its job's situation is known."""
    claim, policy = wish.claim, wish.entry.job.policy
    if claim.state.is_outcome:
        return None
    if claim.trigger is Trigger.CATCHUP:
        # A backlog is worked off one after another; overlap judges live slots only.
        return lambda situation: Decision(State.QUEUED, exclusive=True)
    if claim.trigger is Trigger.SCHEDULE:
        return lambda situation: _live(policy, situation)
    return lambda situation: _by_hand(policy, situation)


def _live(policy: Policy, situation: Situation) -> Decision:
    verdict = overlap.judge(policy.overlap, situation.active, situation.waiting, earlier=situation.earlier)
    if verdict.move is overlap.Move.SKIP:
        return Decision(State.SKIPPED, verdict.reason)
    reason = "replaced by a newer slot (overlap replace)" if verdict.move is overlap.Move.REPLACE else None
    return Decision(State.QUEUED, exclusive=verdict.move is not overlap.Move.START, replace=reason)


def _by_hand(policy: Policy, situation: Situation) -> Decision:
    if not situation.active or policy.overlap is Overlap.ALLOW:
        return Decision(State.QUEUED)
    replace = policy.overlap is Overlap.REPLACE
    reason = "replaced by a manual run (overlap replace)" if replace else None
    return Decision(State.QUEUED, exclusive=True, replace=reason)


def _placed(live: LiveRun, state: State, at: datetime, error: str | None) -> events.Event:
    if state is State.SKIPPED:
        return events.RunSkipped(ts=at, **run_fields(live), reason=error or "")
    if state is State.MISSED:
        return events.RunMissed(ts=at, **run_fields(live), reason=error or "")
    return events.SlotClaimed(ts=at, **run_fields(live))


def _definitions(jobs: Mapping[str, Job]) -> dict[str, str]:
    return {name: job.definition for name, job in jobs.items()}


def _queue(labels: Sequence[str]) -> str:
    """Return where runs that ask for *labels* are offered."""
    if not labels:
        return ANYWHERE
    name = "+".join(sorted(set(labels)))
    if len(name) <= MOST_QUEUE and not name.startswith(("@", "=")) and name != ANYWHERE and "#" not in name:
        return name
    import hashlib

    return "=" + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
