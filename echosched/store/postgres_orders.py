"""From orders to runs: what becomes of a new slot, decided for all instances in the transaction that accounts for it.

A scheduler says how it would decide (the pure policies are its own), the rows say what the slot meets. Most slots
wait for nobody: whoever claims one then takes its run in the same transaction, up to a moment before the slot comes,
and holds it until then. Whose turn it is among runs that wait is :mod:`echosched.store.postgres_turns`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from echosched.clock import from_micros, to_micros
from echosched.model import Claim, Ended, Result, Run, State, Trigger
from echosched.store.postgres_instances import tell
from echosched.store.postgres_link import Connection
from echosched.store.postgres_queries import execute, fetch, fetch_runs
from echosched.store.postgres_tickets import Ticket, defer
from echosched.store.postgres_writes import NO_TERMS, Terms, claim, finish

MOST_AHEAD_SECONDS = 2.0
"""Whoever asks earlier than that for a slot has a wrong idea of the time."""

_PAUSABLE = (Trigger.SCHEDULE, Trigger.CATCHUP, Trigger.AFTER, Trigger.BOOT)


@dataclass(frozen=True, slots=True)
class Situation:
    """What a new slot of a job meets: runs not ended, those of them that wait for their turn, and one of them."""

    active: int
    waiting: int
    earlier: int | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a slot: a state, with the reason of one that does not run.

    *exclusive*: it waits for the job's other runs. *replace*: those are to be ended, for this reason.
    """

    state: State
    error: str | None = None
    exclusive: bool = False
    replace: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A claim to be made, and how to decide about it once the job's situation is known (``None``: as it stands).

    *direct*: the owner takes the run at once, if it waits for nobody. *ahead*: that may be so before the slot has
    come, since it then holds the run; a slot that cannot be decided yet is left alone.
    """

    claim: Claim
    terms: Terms = NO_TERMS
    decide: Callable[[Situation], Decision] | None = None
    direct: bool = False
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """What an order became."""

    run: int
    state: State
    error: str | None = None


@dataclass(slots=True)
class Placement:
    """The answer to a batch of orders, in their order; *ended* are queued runs that newer ones replaced.

    *waiting* are the indices of those ahead of their slots that can be decided only when these come.
    *early_seconds*: nothing was placed, since the database's clock has not reached the last slot. *now* is that
    clock; ``None`` where nothing was asked.
    """

    placed: list[Placed | None] = field(default_factory=list)
    ended: list[Run] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    early_seconds: float = 0.0
    now: datetime | None = None


async def place(connection: Connection, orders: Sequence[Order], owner: str | None) -> Placement:
    """Account for the slots of *orders* and give tickets to the runs that may start."""
    jobs = sorted({order.claim.job for order in orders})
    if not any(order.direct for order in orders):
        # No wait for the disk: nothing begins before its run is taken, and that commit takes this one along to
        # the disk. What a crash of the server undoes before has not begun, and is claimed again.
        await execute(connection, "commit_later")
    await execute(connection, "lock_jobs", {"jobs": jobs})
    rows = await fetch(connection, "situations", {"jobs": jobs})
    slots = [(one.claim.job, to_micros(one.claim.slot)) for one in orders if one.claim.slot is not None]
    now: int | None = rows[0][5] if rows else None
    if now is not None:
        known = [to_micros(one.claim.slot) for one in orders if one.claim.slot is not None and not one.ahead]
        if known and (early := max(known) - now) > 0:
            return Placement(early_seconds=early / 1e6)
    taken = await _taken(connection, slots)
    met = {row[0]: Situation(row[2], row[3], row[4]) for row in rows}
    paused = {row[0] for row in rows if row[1]}
    answer = Placement(now=None if now is None else from_micros(now))
    waits: set[str] = set()  # jobs of which a slot has to wait: so have all after it
    chosen: list[int] = []
    claims: list[Claim] = []
    terms: list[Terms] = []
    for index, order in enumerate(orders):
        one = order.claim
        key = (one.job, None if one.slot is None else to_micros(one.slot))
        if key in taken or (one.job in paused and one.trigger in _PAUSABLE):
            continue
        situation = met.get(one.job, Situation(0, 0, None))
        decision = Decision(one.state, one.error) if order.decide is None else order.decide(situation)
        direct = order.direct and decision == _START and order.terms.group is None
        if (
            order.ahead
            and not _has_come(key[1], now)
            and not (direct and _comes_soon(key[1], now, waits, one))
        ):
            waits.add(one.job)
            answer.waiting.append(index)
            continue
        if one.slot is not None:
            taken.add(key)  # asked for twice in one batch
        if decision.replace is not None:
            situation = await _replace(connection, one.job, decision.replace, one.at, answer.ended)
        blocked = decision.exclusive and situation.active > 0
        if not decision.state.is_outcome:
            met[one.job] = Situation(situation.active + 1, situation.waiting + blocked, situation.earlier)
        chosen.append(index)
        state = State.RUNNING if direct else decision.state
        claims.append(replace(one, state=state, error=decision.error))
        terms.append(replace(order.terms, exclusive=decision.exclusive, blocked=blocked))
    numbers = await claim(connection, claims, owner, terms)
    answer.placed = [None] * len(orders)
    tickets = []
    for index, one, condition, number in zip(chosen, claims, terms, numbers, strict=True):
        if number is None:
            continue
        answer.placed[index] = Placed(number, one.state, one.error)
        if one.state is State.QUEUED and not condition.blocked:
            tickets.append(Ticket(number, 1, condition.queue or "", one.priority))
    await defer(connection, tickets)
    return answer


_START = Decision(State.QUEUED)  # at once: behind nobody, and in nobody's place


def _has_come(slot: int | None, now: int | None) -> bool:
    return slot is None or (now is not None and slot <= now)


def _comes_soon(slot: int | None, now: int | None, waits: set[str], one: Claim) -> bool:
    """Tell whether a slot may be decided that has not come: soon, and none of its job waits before it."""
    return (
        slot is not None
        and now is not None
        and one.job not in waits
        and slot - now <= MOST_AHEAD_SECONDS * 1e6
    )


async def _taken(connection: Connection, slots: Sequence[tuple[str, int]]) -> set[tuple[str, int | None]]:
    if not slots:
        return set()
    values = {"job": [job for job, _ in slots], "slot": [slot for _, slot in slots]}
    return {(row[0], row[1]) for row in await fetch(connection, "taken_slots", values)}


async def _replace(
    connection: Connection, job: str, reason: str, at: datetime, ended: list[Run]
) -> Situation:
    """End the job's queued runs and ask for the end of its running ones; return what is left of them."""
    rows = await fetch(connection, "active_of", {"jobs": [job]})
    queued = [row for row in rows if row[2] == State.QUEUED]
    running = [row for row in rows if row[2] == State.RUNNING]
    result = Result(State.CANCELLED, error=reason)
    if queued:
        await finish(connection, [Ended(row[0], job, row[1], at, result) for row in queued])
        numbers = {"runs": [row[0] for row in queued]}
        ended += await fetch_runs(connection, "get_runs", numbers)
    if running:
        numbers = {"runs": [row[0] for row in running]}
        await execute(connection, "wish_cancelled", {**numbers, "reason": reason})
        await tell(connection, op="cancel", runs=numbers["runs"], reason=reason)
    return Situation(len(running), 0, running[0][0] if running else None)
