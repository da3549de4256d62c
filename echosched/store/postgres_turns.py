"""Whose turn it is: runs get tickets, tickets are taken; decided inside transactions.

A *ticket* is a Procrastinate job that stands for one queued run that may start: it carries priority, queue and
the instant before which it must not start, wakes the workers, and is used up by the transaction that takes the run.
A run that has to wait for another one (its job's overlap policy, its concurrency group) is *blocked* and has no
ticket; whatever ends a run looks who was waiting for it. Most need no ticket: they are taken when they are placed
(:mod:`echosched.store.postgres_orders`)::

    place ──► queued + ticket ──take──► running ──finish──► outcome ──► unblock ──► ticket of the next
      ├─────► running, held   ──give back──► queued + ticket    └─retry──► queued + ticket for later
      └─────► queued, blocked  ◄─take (found busy)

Locks are taken in one order everywhere: groups, jobs, runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from echosched.clock import to_micros
from echosched.errors import NotFound
from echosched.model import Ended, Result, Run, Started, State
from echosched.store.ends import NO_STARTS, Attempted
from echosched.store.postgres_instances import tell
from echosched.store.postgres_link import Connection
from echosched.store.postgres_queries import execute, fetch, fetch_runs
from echosched.store.postgres_tickets import Ticket, defer
from echosched.store.postgres_writes import Finished, finish, lock
from echosched.store.rows import instant


@dataclass(frozen=True, slots=True)
class Held:
    """A run that was taken and has not begun, and its slot's instant if that is still to come."""

    run: int
    attempt: int
    due_at: datetime | None = None


async def take(
    connection: Connection,
    owner: str | None,
    queues: Sequence[str],
    most: int,
    knows: Callable[[str, str | None], bool],
    at: datetime,
) -> tuple[list[Run], bool]:
    """Take at most *most* queued runs for *owner*, in the order of their tickets; tell whether more may wait.

    *knows* tells whether this instance has that definition of that job; other runs are passed on. Runs that
    somebody cancelled, and whose host queued them again without having heard of it, are ended (*at*) instead and
    returned with that outcome.
    """
    fetched = await fetch(connection, "fetch_tickets", {"most": most, "queues": list(queues)})
    if not fetched:
        return [], False
    attempts = {run: attempt for _, run, attempt in fetched}
    rows = await fetch(connection, "ticketed_runs", {"runs": list(attempts)})
    rows = [row for row in rows if attempts[row[0]] == row[1]]  # a ticket of an earlier attempt is void
    ended = await _end_cancelled(connection, rows, at)
    rows = [row for row in rows if row[9] is None]
    strangers = [row for row in rows if not knows(row[2], row[8])]
    rows = [row for row in rows if knows(row[2], row[8])]
    rows, busy = await _room(connection, rows)
    order = {run: index for index, run in enumerate(attempts)}
    taken: list[Run] = []
    if rows:
        taken = await fetch_runs(connection, "take", {"runs": [row[0] for row in rows], "owner": owner})
        taken.sort(key=lambda run: order[run.run])
    if busy:
        await execute(connection, "block", {"runs": busy})
    if strangers:
        await _pass_on(connection, strangers)
    await execute(connection, "use_tickets", {"tickets": [ticket for ticket, _, _ in fetched]})
    return taken + ended, len(fetched) == most


async def _end_cancelled(connection: Connection, rows: Sequence[Any], at: datetime) -> list[Run]:
    """End those of *rows* that somebody cancelled; return them."""
    wished = [row for row in rows if row[9] is not None]
    if not wished:
        return []
    # All that this transaction will need: groups come before jobs, also those of the others.
    await lock(connection, sorted({row[2] for row in rows}), sorted({row[4] for row in rows if row[4]}))
    ends = [Ended(row[0], row[2], row[1], at, Result(State.CANCELLED, error=row[9])) for row in wished]
    recorded = await finish_turn(connection, ends)
    numbers = [end.run for end, done in zip(ends, recorded, strict=True) if done]
    return await fetch_runs(connection, "get_runs", {"runs": numbers})


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
    tickets = [
        Ticket(run, attempt, queue, priority, due[run, attempt] if cancelled is None else None)
        for run, attempt, queue, priority, cancelled in rows
    ]
    await defer(connection, tickets)
    # Procrastinate's workers look for a ticket when it is made, which is before its time.
    later = [ticket.at for ticket in tickets if ticket.at is not None]
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
        for row in await fetch(connection, "unended", numbers):
            run, attempt, _, _, _, _, _, priority, queue, cancelled = row
            at = next(end.retry_at for end in done.requeued if end.run == run)
            if queue is not None:  # one that was cancelled meanwhile is ended by whoever takes it: at once
                again.append(Ticket(run, attempt, queue, priority, at if cancelled is None else None))
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
    return (await fetch_runs(connection, "get_runs", {"runs": [run]}))[0]


async def mend(connection: Connection, patience_seconds: float, at: datetime) -> list[Run]:
    """Give tickets to queued runs that have none and wait for nobody.

    A run that waits in vain for an instance with its definition gets whatever definition its job has now; where
    nobody knows the job it is cancelled, and returned.
    """
    rows = await fetch(connection, "without_ticket")
    tickets = [
        Ticket(run, attempt, queue, priority, instant(after)) for run, attempt, queue, priority, after in rows
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
        tickets += [Ticket(row[0], row[1], row[3].partition("#")[0], row[4], instant(row[6])) for row in kept]
    await defer(connection, tickets)
    if not gone:
        return []
    result = Result(State.CANCELLED, error="its job was removed before it began")
    await finish_turn(connection, [Ended(row[0], row[2], row[1], at, result) for row in gone])
    return await fetch_runs(connection, "get_runs", {"runs": [row[0] for row in gone]})
