"""The bodies of the PostgreSQL store's writing transactions; each takes the connection inside an open one.

Isolation is READ COMMITTED: what must not change between reading and writing is locked first, and read by a
statement of its own afterwards, which then sees all that was committed before the lock was got.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from echosched.clock import to_micros
from echosched.model import Claim, Ended, JobRecord, Pruned, Started
from echosched.store.ends import NO_STARTS, Attempted, judge_ends
from echosched.store.postgres_link import Connection
from echosched.store.postgres_queries import execute, fetch
from echosched.store.rows import Instants, micros, text
from echosched.transitions import may_have_started


@dataclass(frozen=True, slots=True)
class Terms:
    """What a claimed run needs beyond its claim, to find its host and its turn."""

    queue: str | None = None
    definition: str | None = None
    exclusive: bool = False
    blocked: bool = False
    group: str | None = None
    group_limit: int | None = None


NO_TERMS = Terms()


async def claim(
    connection: Connection, claims: Sequence[Claim], owner: str | None, terms: Sequence[Terms] = ()
) -> list[int | None]:
    """Account for the slots of *claims*; return the run number of each, ``None`` where it was too late."""
    if not claims:
        return []
    at = Instants()
    conditions = terms or [NO_TERMS] * len(claims)
    rows = await fetch(
        connection,
        "claim",
        {
            "owner": owner,
            "job": [text(one.job) for one in claims],
            "slot": [at[one.slot] for one in claims],
            "trigger": [str(one.trigger) for one in claims],
            "state": [str(one.state) for one in claims],
            "at": [at[one.at] for one in claims],
            "ended_at": [at[one.at] if one.state.is_outcome else None for one in claims],
            "error": [text(one.error) for one in claims],
            "priority": [one.priority for one in claims],
            "queue": [one.queue for one in conditions],
            "definition": [one.definition for one in conditions],
            "exclusive": [one.exclusive for one in conditions],
            "blocked": [one.blocked for one in conditions],
            "grp": [text(one.group) for one in conditions],
            "grp_limit": [one.group_limit for one in conditions],
        },
    )
    return [int(run) if made else None for run, made in rows]


async def starting(connection: Connection, runs: Sequence[int], owner: str | None) -> None:
    """Turn queued runs to running, for *owner*."""
    await execute(connection, "starting", {"runs": list(runs), "owner": owner})


async def note_starts(connection: Connection, starts: Iterable[Started]) -> None:
    """Write when, and as which process, attempts began."""
    rows: dict[tuple[int, int], Started] = {}
    for start in starts:
        rows.setdefault((start.run, start.attempt), start)  # told twice: the first word counts
    facts = list(rows.values())
    if not facts:
        return
    await execute(connection, "commit_later")  # a crash that loses it loses a time, no run
    await execute(
        connection,
        "note_starts",
        {
            "run": [fact.run for fact in facts],
            "attempt": [fact.attempt for fact in facts],
            **_start_columns(facts),
        },
    )


def _start_columns(facts: Sequence[Started | None]) -> dict[str, list[int | None]]:
    processes = [None if fact is None else fact.process for fact in facts]
    return {
        "started_at": [None if fact is None else to_micros(fact.at) for fact in facts],
        "pid": [None if process is None else process.pid for process in processes],
        "start_ticks": [None if process is None else process.start_ticks for process in processes],
    }


@dataclass(frozen=True, slots=True)
class Finished:
    """What :func:`finish` did: an answer for each end, the runs that go on, and whose turn it may be now."""

    recorded: list[bool]
    requeued: list[Ended]
    jobs: list[str]
    groups: list[str]


async def finish(
    connection: Connection,
    ends: Sequence[Ended],
    starts: Mapping[Attempted, Started] = NO_STARTS,
    *,
    dead: bool = False,
) -> Finished:
    """Record *ends* of present attempts of runs without outcome, with the *starts* of these if they are new.

    *dead*: only of runs whose instance's lease is over. That is asked once the rows are locked: an instance that
    was heard of again may have given them back.
    """
    runs = {"runs": [end.run for end in ends]}
    jobs = sorted({end.job for end in ends})
    await execute(connection, "lock_groups_of", runs)
    await execute(connection, "lock_jobs", {"jobs": jobs})
    unended = await fetch(connection, "unended", runs)
    if dead:
        still = {run for (run,) in await fetch(connection, "still_dead", runs)}
        unended = [row for row in unended if row[0] in still]
    groups = sorted({row[6] for row in unended if row[6] is not None})
    judged = judge_ends(ends, unended, starts)
    await _end(connection, judged.outcomes, starts)
    requeued = [end for end, _ in judged.requeued]
    if requeued:
        await execute(
            connection,
            "requeue_runs",
            {
                "run": [end.run for end in requeued],
                "not_before_at": [micros(end.retry_at) for end in requeued],
                "attempts": [attempts for _, attempts in judged.requeued],
            },
        )
    if judged.last_runs:
        last = {"job": list(judged.last_runs), "run": list(judged.last_runs.values())}
        await execute(connection, "last_runs", last)
    await add(connection, judged.totals)
    return Finished(judged.recorded, requeued, jobs, groups)


async def lock(connection: Connection, jobs: Sequence[str], groups: Sequence[str]) -> None:
    """Keep other transactions from deciding about these groups and jobs until this one has ended."""
    if groups:
        await execute(connection, "lock_groups", {"groups": list(groups)})
    if jobs:
        await execute(connection, "lock_jobs", {"jobs": list(jobs)})


async def _end(connection: Connection, ends: Sequence[Ended], starts: Mapping[Attempted, Started]) -> None:
    if not ends:
        return
    begun = [starts.get((end.run, end.attempt)) for end in ends]
    await execute(
        connection,
        "end_runs",
        {
            "run": [end.run for end in ends],
            "state": [str(end.result.state) for end in ends],
            "at": [to_micros(end.at) for end in ends],
            "exit_code": [end.result.exit_code for end in ends],
            "signal": [end.result.signal for end in ends],
            "error": [text(end.result.error) for end in ends],
            "output_bytes": [end.result.output_bytes for end in ends],
            "has_output": [may_have_started(end.result.state) for end in ends],
            **_start_columns(begun),
        },
    )


async def save_jobs(connection: Connection, records: Iterable[JobRecord]) -> None:
    """Insert or replace job records, all but ``last_run``."""
    rows = list({record.name: record for record in records}.values())
    if not rows:
        return
    await execute(connection, "save_jobs", job_columns(rows))


def job_columns(rows: Sequence[JobRecord]) -> dict[str, list[Any]]:
    """Return job records as the arrays that ``save_jobs`` takes."""
    return {
        "name": [text(row.name) for row in rows],
        "cursor_at": [to_micros(row.cursor_at) for row in rows],
        "anchor_at": [micros(row.anchor_at) for row in rows],
        "timing": [row.timing for row in rows],
        "enabled": [row.enabled for row in rows],
        "paused": [row.paused for row in rows],
        "parked": [text(row.parked) for row in rows],
    }


async def set_note(connection: Connection, key: str, value: str | None) -> None:
    """Keep or forget a note."""
    if value is None:
        await execute(connection, "forget_note", {"key": key})
    else:
        await execute(connection, "set_note", {"key": key, "value": text(value)})


async def add(connection: Connection, totals: Mapping[str, int]) -> None:
    """Count changes of state."""
    changes = {state: n for state, n in totals.items() if n}
    if changes:
        await execute(connection, "add_tallies", {"state": list(changes), "n": list(changes.values())})


@dataclass(frozen=True, slots=True)
class Bounds:
    """What :func:`prune` may remove, in microseconds since the epoch; see :meth:`echosched.protocols.Store.prune`."""

    runs_before: int
    keep: int
    outputs_before: int
    slots_before: int
    batch: int


async def prune(connection: Connection, bounds: Bounds, owner: str | None) -> Pruned:
    """Remove one batch of ended runs and of slot rows; name the outputs that lie with *owner*."""
    common = {"owner": owner, "batch": bounds.batch}
    going = [row[0] for row in await fetch(connection, "old_runs", {**common, "before": bounds.runs_before})]
    if len(going) < bounds.batch:
        surplus = await fetch(connection, "surplus_runs", {**common, "keep": bounds.keep})
        going += [run for (run,) in surplus if run not in set(going)][: bounds.batch - len(going)]
    gone = []
    if going:
        gone = await fetch(connection, "delete_runs", {"runs": sorted(going), "owner": owner})
    await add(connection, Counter({state: -n for state, n in Counter(row[2] for row in gone).items()}))
    outputs = [(run, attempts) for run, attempts, _, has_output in gone if has_output]
    outputs += await fetch(connection, "old_outputs", {**common, "before": bounds.outputs_before})
    slots = await fetch(connection, "delete_slots", {"before": bounds.slots_before, "batch": bounds.batch})
    named = tuple((run, attempt) for run, attempts in sorted(outputs) for attempt in range(1, attempts + 1))
    return Pruned(runs=len(gone), slots=len(slots), outputs=named)
