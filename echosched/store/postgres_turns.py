"""Whose turn it is: slots become runs, runs get tickets, tickets are taken; decided inside transactions.

A *ticket* is a Procrastinate job that stands for one queued run that may start: it carries priority, queue and
the instant before which it must not start, wakes the workers, and is used up by the transaction that takes the run.
A run that has to wait for another one (its job's overlap policy, its concurrency group) is *blocked* and has no
ticket; whatever ends a run looks who was waiting for it. Most need no ticket: whoever claims a slot that waits for
nobody takes its run in the same transaction, up to a moment before the slot comes, and holds it until then::

    place ──► queued + ticket ──take──► running ──finish──► outcome ──► unblock ──► ticket of the next
      ├─────► running, held   ──give back──► queued + ticket    └─retry──► queued + ticket for later
      └─────► queued, blocked  ◄─take (found busy)

Locks are taken in one order everywhere: groups, jobs, runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from echosched.clock import from_micros, to_micros
from echosched.errors import NotFound
from echosched.model import Claim, Ended, Result, Run, Started, State, Trigger
from echosched.store.postgres_instances import tell
from echosched.store.postgres_link import Connection
from echosched.store.postgres_tickets import Ticket, defer
from echosched.store.postgres_writes import (
    NO_STARTS,
    NO_TERMS,
    Attempted,
    Finished,
    Terms,
    claim,
    execute,
    fetch,
    finish,
    lock,
)
from echosched.store.queries import postgres_query
from echosched.store.rows import RUN_LIST, run_from_row

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
    clock, where the jobs are known.
    """

    placed: list[Placed | None] = field(default_factory=list)
    ended: list[Run] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    early_seconds: float = 0.0
    now: datetime | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A run that was taken and has not begun, and its slot's instant if that is still to come."""

    run: int
    attempt: int
    due_at: datetime | None = None


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
        ended += [run_from_row(row) for row in await _runs(connection, numbers)]
    if running:
        numbers = {"runs": [row[0] for row in running]}
        await execute(connection, "wish_cancelled", {**numbers, "reason": reason})
        await tell(connection, op="cancel", runs=numbers["runs"], reason=reason)
    return Situation(len(running), 0, running[0][0] if running else None)


async def _runs(connection: Connection, values: Mapping[str, Any]) -> list[Any]:
    cursor = await connection.execute(
        f"SELECT {RUN_LIST} FROM runs WHERE run = ANY(%(runs)s::bigint[]) ORDER BY run",  # noqa: S608 — our own words
        values,
    )
    rows: list[Any] = await cursor.fetchall()
    return rows


async def take(
    connection: Connection,
    owner: str | None,
    queues: Sequence[str],
    most: int,
    knows: Callable[[str, str | None], bool],
) -> tuple[list[Run], bool]:
    """Take at most *most* queued runs for *owner*, in the order of their tickets; tell whether more may wait.

    *knows* tells whether this instance has that definition of that job; other runs are passed on.
    """
    fetched = await fetch(connection, "fetch_tickets", {"most": most, "queues": list(queues)})
    if not fetched:
        return [], False
    attempts = {run: attempt for _, run, attempt in fetched}
    rows = await fetch(connection, "ticketed_runs", {"runs": list(attempts)})
    rows = [row for row in rows if attempts[row[0]] == row[1]]  # a ticket of an earlier attempt is void
    strangers = [row for row in rows if not knows(row[2], row[8])]
    rows = [row for row in rows if knows(row[2], row[8])]
    rows, busy = await _room(connection, rows)
    order = {run: index for index, run in enumerate(attempts)}
    taken: list[Run] = []
    if rows:
        text = postgres_query("take", columns=RUN_LIST)
        cursor = await connection.execute(text, {"runs": [row[0] for row in rows], "owner": owner})
        taken = sorted((run_from_row(row) for row in await cursor.fetchall()), key=lambda run: order[run.run])
    if busy:
        await execute(connection, "block", {"runs": busy})
    if strangers:
        await _pass_on(connection, strangers)
    await execute(connection, "use_tickets", {"tickets": [ticket for ticket, _, _ in fetched]})
    return taken, len(fetched) == most


async def _room(connection: Connection, rows: list[Any]) -> tuple[list[Any], list[int]]:
    """Return those of *rows* that may start now, and the runs that have to wait for others."""
    groups = sorted({row[4] for row in rows if row[4] is not None})
    jobs = sorted({row[2] for row in rows if row[3]})
    if not groups and not jobs:
        return rows, []
    await lock(connection, jobs, groups)
    running: Counter[tuple[str, str]] = Counter()
    for kind, name, n in await fetch(connection, "running", {"jobs": jobs, "groups": groups}):
        running[kind, name] = n
    free, busy = [], []
    for row in rows:
        run, _, job, exclusive, group, limit, *_ = row
        if (exclusive and running["job", job]) or (
            group is not None and running["group", group] >= (limit or 1)
        ):
            busy.append(run)
            continue
        running["job", job] += 1
        running["group", group] += 1
        free.append(row)
    return free, busy


async def give_back(connection: Connection, owner: str | None, held: Sequence[Held]) -> None:
    """Let others start runs that *owner* has taken and not begun; those that somebody ended or took are left alone."""
    due = {(one.run, one.attempt): one.due_at for one in held}
    values = {"run": [run for run, _ in due], "attempt": [attempt for _, attempt in due], "owner": owner}
    rows = await fetch(connection, "give_back", values)
    await defer(
        connection,
        [Ticket(run, attempt, queue, priority, due[run, attempt]) for run, attempt, queue, priority in rows],
    )
    # Procrastinate's workers look for a ticket when it is made, which is before its time.
    later = [at for run, attempt, *_ in rows if (at := due[run, attempt]) is not None]
    if later:
        await tell(connection, op="later", micros=to_micros(max(later)))


async def _pass_on(connection: Connection, rows: Sequence[Any]) -> None:
    """Offer runs of other definitions where only those that have the definition look."""
    routes = [(row, queue_of(row[6], row[8])) for row in rows]
    await execute(
        connection, "reroute", {"run": [row[0] for row, _ in routes], "queue": [queue for _, queue in routes]}
    )
    await defer(connection, [Ticket(row[0], row[1], queue, row[7]) for row, queue in routes])
    await tell(connection, op="definitions", names=sorted({queue for _, queue in routes}))


def queue_of(queue: str, definition: str | None) -> str:
    """Return the queue beside *queue* where only instances with that definition of a job look."""
    return f"{queue.partition('#')[0]}#{definition}"


async def finish_turn(
    connection: Connection,
    ends: Sequence[Ended],
    starts: Mapping[Attempted, Started] = NO_STARTS,
    *,
    dead: bool = False,
) -> list[bool]:
    """Record *ends*; give tickets to attempts that follow, and to runs that waited for these.

    *starts*: when the same attempts began. *dead*: only those that run on instances whose lease is over.
    """
    done = await finish(connection, ends, starts, dead=dead)
    await _after(connection, done)
    return done.recorded


async def _after(connection: Connection, done: Finished) -> None:
    again = []
    if done.requeued:
        numbers = {"runs": [end.run for end in done.requeued]}
        for run, attempt, _, _, _, _, _, priority, queue in await fetch(connection, "unended", numbers):
            at = next(end.retry_at for end in done.requeued if end.run == run)
            if queue is not None:
                again.append(Ticket(run, attempt, queue, priority, at))
    again += await unblock(connection, done.jobs, done.groups)
    await defer(connection, again)


async def unblock(connection: Connection, jobs: Sequence[str], groups: Sequence[str]) -> list[Ticket]:
    """Return tickets for the runs whose turn it is now. The jobs and groups are locked."""
    waiting = await fetch(connection, "blocked_runs", {"jobs": list(jobs), "groups": list(groups)})
    if not waiting:
        return []
    busy: Counter[tuple[str, str]] = Counter()
    everything = {
        "jobs": sorted({row[2] for row in waiting}),
        "groups": sorted({row[4] for row in waiting if row[4]}),
    }
    for kind, name, n in await fetch(connection, "busy", everything):
        busy[kind, name] = n
    tickets = []
    for run, attempt, job, exclusive, group, limit, queue, priority in waiting:
        if (exclusive and busy["job", job]) or (group is not None and busy["group", group] >= (limit or 1)):
            continue
        busy["job", job] += 1
        busy["group", group] += 1
        tickets.append(Ticket(run, attempt, queue, priority))
    await execute(connection, "unblock", {"runs": [ticket.run for ticket in tickets]})
    return tickets


async def cancel(connection: Connection, run: int, reason: str, at: datetime) -> Run | None:
    """End a queued run (and return it), or ask whoever runs it to end it (``None``); raises ``NotFound``."""
    rows = await fetch(connection, "run_to_cancel", {"run": run})
    if rows:
        await execute(connection, "lock_groups_of", {"runs": [run]})
        await lock(connection, [rows[0][3]], [])
        rows = await fetch(connection, "run_to_cancel", {"run": run})
    if not rows or State(rows[0][2]).is_outcome:
        raise NotFound(f"run {run}: not queued or running (echoschedd history shows what it came to)")
    _, attempt, state, job, _ = rows[0]
    if state == State.RUNNING:
        await execute(connection, "wish_cancelled", {"runs": [run], "reason": reason})
        await tell(connection, op="cancel", runs=[run], reason=reason)
        return None
    await finish_turn(connection, [Ended(run, job, attempt, at, Result(State.CANCELLED, error=reason))])
    return run_from_row((await _runs(connection, {"runs": [run]}))[0])


async def mend(connection: Connection, patience_seconds: float, at: datetime) -> list[Run]:
    """Give tickets to queued runs that have none and wait for nobody.

    A run that waits in vain for an instance with its definition gets whatever definition its job has now; where
    nobody knows the job it is cancelled, and returned.
    """
    rows = await fetch(connection, "without_ticket")
    tickets = [
        Ticket(run, attempt, queue, priority, None if after is None else from_micros(after))
        for run, attempt, queue, priority, after in rows
    ]
    waiting = await fetch(connection, "waiting_behind")
    if waiting:
        jobs, groups = sorted({row[0] for row in waiting}), sorted({row[1] for row in waiting if row[1]})
        await lock(connection, jobs, groups)
        tickets += await unblock(connection, jobs, groups)
    orphans = await fetch(connection, "orphans", {"patience": int(patience_seconds * 1e6)})
    gone = [row for row in orphans if not row[5]]
    kept = [row for row in orphans if row[5]]
    if kept:
        await execute(connection, "redefine", {"runs": [row[0] for row in kept]})
        tickets += [Ticket(row[0], row[1], row[3].partition("#")[0], row[4]) for row in kept]
    await defer(connection, tickets)
    if not gone:
        return []
    result = Result(State.CANCELLED, error="its job was removed before it began")
    await finish_turn(connection, [Ended(row[0], row[2], row[1], at, result) for row in gone])
    return [run_from_row(row) for row in await _runs(connection, {"runs": [row[0] for row in gone]})]
