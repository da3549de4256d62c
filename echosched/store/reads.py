"""The reading queries. Each answers in one or few steps, whatever the number of rows."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from echosched.clock import to_micros
from echosched.model import JobRecord, Run, State
from echosched.store.queries import query, read_all
from echosched.store.rows import JOB_COLUMNS, RUN_COLUMNS, RUN_LIST, job_from_row, run_from_row

_PAGE = 5_000  # rows fetched in one step; bounds the memory of a large answer
_FEW = 5_000  # a period with fewer runs than this is sorted rather than searched for


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """What :meth:`echosched.protocols.Store.history` is asked for."""

    job: str | None = None
    states: tuple[State, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    before_run: int | None = None
    limit: int = 50


def load_jobs(connection: sqlite3.Connection) -> dict[str, JobRecord]:
    """Return all job records by name."""
    records: dict[str, JobRecord] = {}
    last = ""
    while rows := read_all(connection, query("load_jobs"), JOB_COLUMNS, (last, _PAGE)):
        records.update((row[0], job_from_row(row)) for row in rows)
        last = rows[-1][0]
    return records


def active(connection: sqlite3.Connection) -> list[Run]:
    """Return queued and running runs, oldest slot first (a manual run counts from when it was queued)."""
    runs = [run_from_row(row) for row in read_all(connection, query("active", columns=RUN_LIST), RUN_COLUMNS)]
    runs.sort(key=lambda run: (run.slot or run.queued_at, run.run))
    return runs


def get_run(connection: sqlite3.Connection, run: int) -> Run | None:
    """Return one run."""
    row = connection.execute(query("get_run", columns=RUN_LIST), (run,)).fetchone()
    return None if row is None else run_from_row(row)


def counts(connection: sqlite3.Connection) -> dict[State, int]:
    """Return the totals, with a zero for every state that has none."""
    found = dict.fromkeys(State, 0)
    found.update((State(state), n) for state, n in connection.execute(query("counts")).fetchall())
    return found


def get_note(connection: sqlite3.Connection, key: str) -> str | None:
    """Return the note under *key*."""
    row = connection.execute(query("get_note"), (key,)).fetchone()
    return None if row is None else str(row[0])


def history(connection: sqlite3.Connection, wanted: HistoryQuery) -> list[Run]:
    """Return the newest runs that match, newest first."""
    rows: list[list[Any]] = []
    # One index walk for each state: SQLite would otherwise fetch and sort all matches of all states.
    for state in wanted.states or (None,):
        rows += _newest(connection, wanted, state)
    if len(wanted.states) > 1:
        rows.sort(key=lambda row: -int(row[0]))
    return [run_from_row(row) for row in rows[: wanted.limit]]


def _newest(connection: sqlite3.Connection, wanted: HistoryQuery, state: State | None) -> list[list[Any]]:
    conditions: list[str] = []
    values: list[Any] = []

    def only(condition: str, value: Any) -> None:
        conditions.append(condition)
        values.append(value)

    # A plus takes the column's index out of the choice. Without it SQLite may collect and sort a
    # million rows to deliver fifty that it could have read off the end of another index.
    if wanted.job is not None:
        only("job = ?", wanted.job)
    if state is not None:
        only("+state = ?" if wanted.job is not None else "state = ?", str(state))
        conditions.append("ended_at IS NOT NULL" if state.is_outcome else "ended_at IS NULL")
    if wanted.before_run is not None:
        only("run < ?", wanted.before_run)
    by_age = wanted.job is None and state is None and _is_short(connection, wanted)
    age = "queued_at" if by_age else "+queued_at"
    if wanted.since is not None:
        only(f"{age} >= ?", to_micros(wanted.since))
    if wanted.until is not None:
        only(f"{age} < ?", to_micros(wanted.until))
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    order = "+run" if by_age else "run"
    text = f"SELECT {RUN_LIST} FROM runs {where} ORDER BY {order} DESC LIMIT ?"  # noqa: S608 — our own words
    return read_all(connection, text, RUN_COLUMNS, [*values, wanted.limit])


def _is_short(connection: sqlite3.Connection, wanted: HistoryQuery) -> bool:
    """Tell whether the wanted period holds so few runs that its own index is the quicker way."""
    if wanted.since is None:
        return False
    until = to_micros(wanted.until) if wanted.until is not None else 2**62
    found = connection.execute(query("runs_in_period"), (to_micros(wanted.since), until, _FEW)).fetchone()
    return int(found[0]) < _FEW


def check(connection: sqlite3.Connection) -> list[str]:
    """Return what SQLite's quick check and our own totals find wrong."""
    problems = [
        str(row[0]) for row in connection.execute("PRAGMA quick_check(20)").fetchall() if row[0] != "ok"
    ]
    connection.execute("BEGIN")  # both counts from one snapshot
    try:
        totals = {state: n for state, n in connection.execute(query("counts")).fetchall() if n}
        real = dict(connection.execute(query("real_counts")).fetchall())
    finally:
        connection.execute("ROLLBACK")
    problems += [
        f"totals: {state} is counted as {totals.get(state, 0)}, and there are {real.get(state, 0)} such runs"
        for state in sorted(totals.keys() | real.keys())
        if totals.get(state, 0) != real.get(state, 0)
    ]
    return problems
