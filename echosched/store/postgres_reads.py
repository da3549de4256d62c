"""The reading queries of the PostgreSQL store."""

from __future__ import annotations

from typing import Any

from echosched.clock import to_micros
from echosched.model import JobRecord, Run, State
from echosched.store.postgres_link import Connection
from echosched.store.postgres_queries import fetch, fetch_runs
from echosched.store.queries import postgres_query
from echosched.store.reads import HistoryQuery
from echosched.store.rows import JOB_COLUMNS, RUN_LIST, job_from_row, run_from_row


async def load_jobs(connection: Connection) -> dict[str, JobRecord]:
    """Return all job records by name."""
    cursor = await connection.execute(postgres_query("load_jobs", columns=", ".join(JOB_COLUMNS)))
    return {row[0]: job_from_row(row) for row in await cursor.fetchall()}


async def active(connection: Connection) -> list[Run]:
    """Return queued and running runs, oldest slot first."""
    runs = await fetch_runs(connection, "active")
    return sorted(runs, key=lambda run: (run.slot or run.queued_at, run.run))


async def get_run(connection: Connection, run: int) -> Run | None:
    """Return one run."""
    found = await fetch_runs(connection, "get_runs", {"runs": [run]})
    return found[0] if found else None


async def history(connection: Connection, wanted: HistoryQuery) -> list[Run]:
    """Return runs, newest first."""
    conditions: list[str] = []
    values: dict[str, Any] = {"limit": wanted.limit}

    def only(condition: str, name: str, value: Any) -> None:
        conditions.append(condition)
        values[name] = value

    if wanted.job is not None:
        only("job = %(job)s", "job", wanted.job)
    if wanted.states:
        only("state = ANY(%(states)s::text[])", "states", [str(state) for state in wanted.states])
        if all(state.is_outcome for state in wanted.states):
            conditions.append("ended_at IS NOT NULL")  # so that the index of ended runs may serve
    if wanted.since is not None:
        only("queued_at >= %(since)s", "since", to_micros(wanted.since))
    if wanted.until is not None:
        only("queued_at < %(until)s", "until", to_micros(wanted.until))
    if wanted.before_run is not None:
        only("run < %(before_run)s", "before_run", wanted.before_run)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"SELECT {RUN_LIST} FROM runs {where} ORDER BY run DESC LIMIT %(limit)s"  # noqa: S608 — our own words
    cursor = await connection.execute(statement, values)
    return [run_from_row(row) for row in await cursor.fetchall()]


async def counts(connection: Connection) -> dict[State, int]:
    """Return how many runs are in each state."""
    found = dict.fromkeys(State, 0)
    found.update({State(state): int(n) for state, n in await fetch(connection, "counts")})
    return found


async def check(connection: Connection) -> list[str]:
    """Return where our own totals differ from the rows; the server looks after its pages itself."""
    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    totals = {state: int(n) for state, n in await fetch(connection, "counts") if n}
    real = {state: int(n) for state, n in await fetch(connection, "real_counts")}
    return [
        f"totals: {state} is counted as {totals.get(state, 0)}, and there are {real.get(state, 0)} such runs"
        for state in sorted(totals.keys() | real.keys())
        if totals.get(state, 0) != real.get(state, 0)
    ]
