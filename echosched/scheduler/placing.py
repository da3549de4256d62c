"""From wishes to rows: what this instance has the database decide, and when.

A slot is claimed at once by the instance that goes ahead for it (:mod:`echosched.scheduler.peers`). The others hold
their wish for a moment, look whether the slot is accounted for, and claim it themselves if it is not.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from echosched import events
from echosched.model import Claim, Overlap, Policy, State, Trigger
from echosched.policy import misfire, overlap
from echosched.scheduler.entries import Entry, LiveRun
from echosched.scheduler.judge import Judge, Wish
from echosched.scheduler.peers import Peers
from echosched.scheduler.runs import run_fields
from echosched.store.postgres_cluster import OUTSIDE
from echosched.store.postgres_turns import Decision, Order, Situation
from echosched.store.postgres_writes import Terms

if TYPE_CHECKING:
    from echosched.scheduler.cluster import ClusterScheduler

log = logging.getLogger(__name__)

ANYWHERE = "any"

OTHERS_SECONDS = 0.25
"""How long an instance waits for another one to claim a slot."""

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


class Placing:
    """Claims slots for *scheduler*; *peers* says which of them at once."""

    def __init__(self, scheduler: ClusterScheduler, peers: Peers) -> None:
        self.peers = peers
        self._scheduler = scheduler
        self._others: dict[str, list[Wish]] = {}  # slots that another claims first, by job
        self._looking: asyncio.Task[None] | None = None

    def forget(self) -> None:
        """Hold no wishes any more: the cursors say that nobody has claimed them yet."""
        self._others.clear()

    async def rest(self) -> None:
        """Forget, and wait for what is under way."""
        self.forget()
        if self._looking is not None:
            await asyncio.wait([self._looking])

    async def claim(self, wishes: Sequence[Wish]) -> list[int | None]:
        """Have the wishes decided and made durable in one transaction; whoever has room takes their runs.

        Slots that are another's to claim first are looked at a moment later; their numbers are not known here.
        """
        if any(wish.claim.slot is None or wish.claim.trigger is Trigger.AFTER for wish in wishes):
            return await self.place(wishes)
        if not self._scheduler.contact.up:
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
                placed = await self.place([*earlier, *own])
                numbers = dict(zip(map(id, own), placed[len(earlier) :], strict=True))
        except OUTSIDE as error:
            log.debug("slots wait for the database: %s", error)
        for wish in wishes:
            if id(wish) not in numbers and self._scheduler.contact.up:
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
                now = self._scheduler.clock.now()
                due = [wish for wish in wishes if (now - wish.claim.at).total_seconds() >= OTHERS_SECONDS]
                if not due:
                    continue
                taken = await self._scheduler.store.known_slots([wish.claim for wish in due])
                left = []
                for wish in due:
                    if (wish.claim.job, wish.claim.slot) in taken:
                        self._moved_on(wish)
                    else:
                        left.append(wish)
                if left:
                    await self.place(left)
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
            self._scheduler.roster.arm_all()
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

    async def place(self, wishes: Sequence[Wish]) -> list[int | None]:
        """Have *wishes* decided now; return the run numbers, ``None`` where a slot was accounted for."""
        orders = [Order(wish.claim, self._terms(wish), _decider(wish)) for wish in wishes]
        begun = self._scheduler.clock.monotonic()
        try:
            placement = await self._scheduler.store.place(orders)
            while placement.early_seconds > 0:
                await asyncio.sleep(min(placement.early_seconds, 1.0))
                placement = await self._scheduler.store.place(orders)
        finally:
            self._scheduler.on_write(self._scheduler.clock.monotonic() - begun)
        numbers: list[int | None] = []
        for wish, placed in zip(wishes, placement.placed, strict=True):
            claim = wish.claim
            self._moved_on(wish)
            numbers.append(None if placed is None else placed.run)
            if placed is not None:
                live = LiveRun(wish.entry, placed.run, claim.slot, claim.trigger, claim.at)
                self._scheduler.emit(_placed(live, placed.state, claim.at, placed.error))
        for run in placement.ended:
            self._scheduler.tell_ended(run)
        return numbers

    def _terms(self, wish: Wish) -> Terms:
        policy = wish.entry.job.policy
        queue = f"@{self._scheduler.name}" if wish.claim.trigger is Trigger.BOOT else queue_for(policy.labels)
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


def queue_for(labels: Sequence[str]) -> str:
    """Return where runs that ask for *labels* are offered."""
    if not labels:
        return ANYWHERE
    name = "+".join(sorted(set(labels)))
    if len(name) <= MOST_QUEUE and not name.startswith(("@", "=")) and name != ANYWHERE and "#" not in name:
        return name

    return "=" + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
