"""From wishes to rows: what this instance has the database decide, and when.

A slot is claimed by the instance that goes ahead for it (:mod:`echosched.scheduler.peers`), a moment before it comes:
where nothing of its job is under way, that instance takes the run in the same transaction and holds it for the
instant, so that no transaction lies between a slot and its start. What cannot be decided yet waits for its slot. The
others look a moment later whether the slot is accounted for, and claim it themselves if it is not::

    noted ─► decided ahead ─► held ─► started at the slot
      │         └─ not yet ─► decided at the slot ─► started, or a ticket, or skipped
      └─ another's ─► looked at ─► claimed, if it did not

All that is pending for a job is decided in the order of its slots, whoever it was for: the job's cursor says that
everything before it is accounted for, and an overlap policy must not meet a later slot first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from echosched import events
from echosched.errors import OUTSIDE
from echosched.model import Claim, Overlap, Policy, State, Trigger
from echosched.policy import misfire, overlap
from echosched.scheduler.entries import Entry, LiveRun
from echosched.scheduler.judge import Judge, Wish
from echosched.scheduler.peers import Peers
from echosched.scheduler.routes import queue_for, queue_of_instance
from echosched.scheduler.tell import run_fields
from echosched.store.postgres_orders import Decision, Order, Situation
from echosched.store.postgres_writes import Terms

if TYPE_CHECKING:
    from echosched.scheduler.cluster import ClusterScheduler

log = logging.getLogger(__name__)

AHEAD_SECONDS = 0.25
"""How early a slot is claimed, at the latest."""

GATHER_SECONDS = 0.1
"""How much earlier it may be, together with others: ten transactions a second claim whatever comes."""

UNPROVEN_SECONDS = 0.05
"""The same, of jobs without an output file: after a crash nothing proves that a run that was held never began, so
the time between stays short."""

OTHERS_SECONDS = 0.2
"""How long an instance waits for another one to claim a slot. Less than ``AHEAD_SECONDS``: a slot whose instance has
died is not even late."""

AT_ONCE = 200
"""How many slots are decided in one transaction."""

_FIRST = datetime.min.replace(tzinfo=UTC)


class ClusterJudge(Judge):
    """Turns slots into wishes; what becomes of a live one is for the database to say."""

    def wishes(self, entry: Entry, now: datetime) -> list[Wish]:
        """Return what is wished for the slots of *entry* that are due, or nearly; moves it on behind them."""
        if entry.slot is not None and self._roster.due_at(entry, entry.slot) > now.timestamp():
            return self._coming(entry, now)
        slots, more = self._roster.take_due(entry, now)
        self._roster.push(entry)
        wishes = []
        for verdict in misfire.judge(slots, now, entry.job.policy, more=more):
            state = State.QUEUED if verdict.missed is None else State.MISSED
            priority = entry.job.policy.priority
            claim = Claim(entry.job.name, verdict.slot, verdict.trigger, state, now, verdict.missed, priority)
            wishes.append(Wish(entry, claim))
        return wishes

    def _coming(self, entry: Entry, now: datetime) -> list[Wish]:
        reach = now.timestamp() + AHEAD_SECONDS + GATHER_SECONDS
        name, priority = entry.job.name, entry.job.policy.priority
        wishes = []
        while entry.slot is not None and (at := self._roster.due_at(entry, entry.slot)) <= reach:
            slot = self._roster.take_next(entry)
            claim = Claim(name, slot, Trigger.SCHEDULE, State.QUEUED, now, None, priority)
            wishes.append(Wish(entry, claim, until=at))
        self._roster.push(entry)
        return wishes


class _Pending:
    """A wish that is decided, or looked at, when the clock shows *at* (epoch seconds); with others from *early* on."""

    __slots__ = ("at", "early", "own", "schedule", "wish")

    def __init__(self, wish: Wish, now: float, *, own: bool) -> None:
        self.wish = wish
        self.own = own
        self.schedule = wish.entry.schedule
        self.at = now
        if wish.until is not None and not wish.entry.job.policy.output:
            self.at = max(now, wish.until - UNPROVEN_SECONDS)
        if not own:
            self.at += OTHERS_SECONDS
        self.early = self.at if own and self.at == now else self.at - GATHER_SECONDS * (0.5 if own else 1.0)

    def wait(self, now: float) -> None:
        """Wait for the slot, and a little longer: this host's idea of the database's clock may be a little fast."""
        self.at = max((self.wish.until or 0.0) + 0.002, now + 0.005) + (0.0 if self.own else OTHERS_SECONDS)
        self.early = self.at


class Placing:
    """Claims slots for *scheduler*; *peers* says which of them at once.

    *reserved* counts the places that are kept for runs whose claims are under way.
    """

    def __init__(self, scheduler: ClusterScheduler, peers: Peers) -> None:
        self.peers = peers
        self.reserved = 0
        self._scheduler = scheduler
        self._pending: dict[str, list[_Pending]] = {}  # by job, in the order of their slots
        self._attending: asyncio.Task[None] | None = None
        self._stirred = asyncio.Event()

    def forget(self) -> None:
        """Hold no wishes any more: the cursors say that nobody has claimed them yet."""
        self._pending.clear()
        self._stirred.set()

    async def rest(self) -> None:
        """Forget, and wait for what is under way."""
        self.forget()
        if self._attending is not None:
            await asyncio.wait([self._attending])

    async def claim(self, wishes: Sequence[Wish]) -> list[int | None]:
        """Have the wishes decided and made durable; whoever has room takes their runs.

        Slots that have not come yet, and those that are another's to claim first, are seen to in the background;
        their numbers are not known here.
        """
        if any(wish.claim.slot is None or wish.claim.trigger is Trigger.AFTER for wish in wishes):
            return await self.place(wishes)
        if not self._scheduler.contact.up:
            return [None] * len(wishes)  # caught up when the database is back, by each job's policy
        now = self._scheduler.clock.now().timestamp()
        due: list[_Pending] = []
        for wish in wishes:
            one = _Pending(wish, now, own=self._is_own(wish))
            if wish.until is None and one.own:
                due += self._pending.pop(wish.claim.job, ())
                due.append(one)
            else:
                self._pending.setdefault(wish.claim.job, []).append(one)
        self._stir()
        numbers: dict[int, int | None] = {}
        if due:
            try:
                numbers = await self._decide(due)
            except OUTSIDE as error:
                log.debug("slots wait for the database: %s", error)
        return [numbers.get(id(wish)) for wish in wishes]

    def _is_own(self, wish: Wish) -> bool:
        slot = wish.claim.slot
        return slot is not None and self.peers.claims(wish.claim.job, slot, wish.entry.job.policy.labels)

    # ── in the background ─────────────────────────────────────────────────────────────────────

    def _stir(self) -> None:
        if self._pending and self._attending is None:
            self._attending = asyncio.get_running_loop().create_task(self._attend())
        self._stirred.set()

    async def _attend(self) -> None:
        """Decide about what is pending, each at its time."""
        loop, clock = asyncio.get_running_loop(), self._scheduler.clock
        try:
            while self._pending:
                now = clock.now().timestamp()
                wait = min(one.at for waiting in self._pending.values() for one in waiting) - now
                if wait <= 0:
                    await self._see_to(now)
                    continue
                self._stirred.clear()
                handle = loop.call_later(wait, self._stirred.set)
                await self._stirred.wait()
                handle.cancel()
        except OUTSIDE as error:
            self._pending.clear()  # _back begins again from the cursors
            log.debug("slots wait for the database: %s", error)
        except Exception:
            self._pending.clear()
            log.exception("claiming slots failed; they are claimed with the next ones")
            self._scheduler.roster.arm_all()
        finally:
            self._attending = None

    async def _see_to(self, now: float) -> None:
        """Decide about own wishes whose time has come, and about those of others that were not claimed."""
        due = [one for waiting in self._pending.values() for one in waiting if one.early <= now]
        others = [one for one in due if not one.own]
        if others:
            known = await self._scheduler.store.known_slots([one.wish.claim for one in others])
            for one in others:
                if (one.wish.claim.job, one.wish.claim.slot) in known:
                    self._moved_on(one.wish)
                    self._drop(one)
        left = {id(one) for one in due}
        batch: list[_Pending] = []
        for job, waiting in list(self._pending.items()):
            last = max((index for index, one in enumerate(waiting) if id(one) in left), default=-1)
            batch += waiting[: last + 1]
            self._keep(job, waiting[last + 1 :])
        for begin in range(0, len(batch), AT_ONCE):
            await self._decide(batch[begin : begin + AT_ONCE])

    def _drop(self, one: _Pending) -> None:
        job = one.wish.claim.job
        self._keep(job, [other for other in self._pending.get(job, ()) if other is not one])

    def _keep(self, job: str, waiting: list[_Pending]) -> None:
        if waiting:
            self._pending[job] = waiting
        else:
            self._pending.pop(job, None)

    def _moved_on(self, wish: Wish) -> None:
        slot = wish.claim.slot
        if slot is not None and slot > wish.entry.cursor_at:
            wish.entry.cursor_at = slot

    # ── deciding ──────────────────────────────────────────────────────────────────────────────

    async def place(self, wishes: Sequence[Wish]) -> list[int | None]:
        """Have *wishes* decided now; return the run numbers, ``None`` where a slot was accounted for."""
        now = self._scheduler.clock.now().timestamp()
        numbers = await self._decide([_Pending(wish, now, own=True) for wish in wishes])
        return [numbers.get(id(wish)) for wish in wishes]

    async def _decide(self, batch: Iterable[_Pending]) -> dict[int, int | None]:
        """Have a batch decided in one transaction; return the run numbers by the identities of the wishes."""
        scheduler = self._scheduler
        # A job that was changed or removed meanwhile has come up anew, with the slots it has now.
        pending = [one for one in batch if one.wish.until is None or self._counts(one)]
        if not pending:
            return {}
        # A job's slots are decided in their order, also where they came up a second time.
        pending.sort(key=lambda one: one.wish.claim.slot or _FIRST)
        orders, direct = self._orders(pending)
        self.reserved += direct
        begun = scheduler.clock.monotonic()
        try:
            placement = await scheduler.ask(orders)
            while placement.early_seconds > 0:
                await asyncio.sleep(min(placement.early_seconds, 1.0))
                placement = await scheduler.ask(orders)
        finally:
            self.reserved -= direct
            scheduler.on_write(scheduler.clock.monotonic() - begun)
        self._put_back([pending[index] for index in placement.waiting])
        waiting = set(placement.waiting)
        numbers: dict[int, int | None] = {}
        for index, (one, order, placed) in enumerate(zip(pending, orders, placement.placed, strict=True)):
            if index in waiting:
                continue
            wish = one.wish
            self._moved_on(wish)
            numbers[id(wish)] = None if placed is None else placed.run
            if placed is None:
                continue
            claim = order.claim
            live = LiveRun(wish.entry, placed.run, claim.slot, claim.trigger, claim.at, armed=True)
            scheduler.emit(_placed(live, placed.state, claim.at, placed.error))
            if placed.state is State.RUNNING:
                scheduler.hold(live, wish.until or 0.0)
        for run in placement.ended:
            scheduler.tell_ended(run)
        return numbers

    def _put_back(self, pending: Sequence[_Pending]) -> None:
        if not self._scheduler.runs.starting:
            return  # whoever goes on begins from the cursors
        now = self._scheduler.clock.now().timestamp()
        for one in reversed(pending):  # before those of their job that were noted since
            one.wait(now)
            self._pending.setdefault(one.wish.claim.job, []).insert(0, one)
        self._stir()

    def _counts(self, one: _Pending) -> bool:
        entry = one.wish.entry
        in_force = self._scheduler.roster.entries.get(one.wish.claim.job) is entry
        return in_force and entry.waits and entry.schedule is one.schedule

    def _orders(self, pending: Sequence[_Pending]) -> tuple[list[Order], int]:
        """Return what to ask the database, and for how many of them a place is kept here."""
        scheduler, now = self._scheduler, self._scheduler.clock.now()
        room = scheduler.room()
        orders, direct = [], 0
        for one in pending:
            wish, policy = one.wish, one.wish.entry.job.policy
            here = (
                wish.claim.trigger is Trigger.SCHEDULE
                and wish.claim.state is State.QUEUED
                and direct < room
                and scheduler.routes.offers(policy.labels)
            )
            direct += here
            claim = replace(wish.claim, at=now)
            ahead = wish.until is not None
            orders.append(Order(claim, self._terms(wish), _decider(wish), direct=here, ahead=ahead))
        return orders, direct

    def _terms(self, wish: Wish) -> Terms:
        policy = wish.entry.job.policy
        here = wish.claim.trigger is Trigger.BOOT
        queue = queue_of_instance(self._scheduler.name) if here else queue_for(policy.labels)
        return Terms(
            queue=queue,
            definition=wish.entry.job.definition,
            group=policy.concurrency_group,
            group_limit=policy.concurrency_limit,
        )


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
