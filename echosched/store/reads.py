"""The reading queries. Each answers in one or few steps, whatever the number of rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from echosched.clock import from_micros, to_micros
from echosched.model import JobRecord, Run, State
from echosched.store.queries import query, read_all, read_rows
from echosched.store.rows import JOB_COLUMNS, RUN_COLUMNS, RUN_LIST, job_from_row, run_from_row

_PAGE = 1_000  # rows fetched in one step: decoding more at once would hold up the event loop
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


def get_runs(connection: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, Run]:
    """Return those runs that exist, by number."""
    found: dict[int, Run] = {}
    for at in range(0, len(numbers), _PAGE):
        wanted = json.dumps(list(numbers[at : at + _PAGE]))
        rows = read_all(connection, query("get_runs", columns=RUN_LIST), RUN_COLUMNS, (wanted,))
        found.update((row[0], run_from_row(row)) for row in rows)
    return found


def recent(connection: sqlite3.Connection, jobs: Sequence[str], limit: int) -> dict[str, list[Run]]:
    """Return the newest *limit* runs of each of *jobs*, newest first."""
    return {job: history(connection, HistoryQuery(job=job, limit=limit)) for job in jobs}


def counts(connection: sqlite3.Connection) -> dict[State, int]:
    """Return the totals, with a zero for every state that has none."""
    found = dict.fromkeys(State, 0)
    found.update((State(state), n) for state, n in connection.execute(query("counts")).fetchall())
    return found


def highest_run(connection: sqlite3.Connection) -> int:
    """Return the highest run number that was ever given out."""
    return int(connection.execute(query("read_next_run")).fetchone()[0]) - 1


def known_slots(
    connection: sqlite3.Connection, slots: Sequence[tuple[str, datetime]]
) -> set[tuple[str, datetime]]:
    """Return those of *slots* (job, slot) that are accounted for."""
    wanted = [(to_micros(slot), job) for job, slot in slots]
    return {(job, from_micros(slot)) for job, slot in read_rows(connection, "known_slots", wanted)}


def get_note(connection: sqlite3.Connection, key: str) -> str | None:
    """Return the note under *key*."""
    row = connection.execute(query("get_note"), (key,)).fetchone()
    return None if row is None else str(row[0])


def history(connection: sqlite3.Connection, wanted: HistoryQuery) -> list[Run]:
    """Return the newest runs that match, newest first."""
    found: list[Run] = []
    while len(found) < wanted.limit:
        count = min(_PAGE, wanted.limit - len(found))
        page = [run_from_row(row) for row in _page(connection, wanted, count)]
        found += page
        if len(page) < count:
            break
        wanted = replace(wanted, before_run=page[-1].run)
    return found


def _page(connection: sqlite3.Connection, wanted: HistoryQuery, count: int) -> list[list[Any]]:
    # One index walk for each part: SQLite would otherwise fetch and sort all matches of all parts to
    # deliver the newest few.
    parts: list[tuple[str, list[Any]]]
    if wanted.states:
        parts = [
            (f"state = ? AND ended_at IS {'NOT NULL' if state.is_outcome else 'NULL'}", [str(state)])
            for state in wanted.states
        ]
    elif wanted.job is not None:
        parts = [("ended_at IS NOT NULL", []), ("ended_at IS NULL", [])]
    else:
        parts = [("TRUE", [])]
    rows: list[list[Any]] = []
    for condition, values in parts:
        rows += _newest(connection, wanted, condition, values, count)
    if len(parts) > 1:
        rows.sort(key=lambda row: -int(row[0]))
    return rows[:count]


def _newest(
    connection: sqlite3.Connection, wanted: HistoryQuery, condition: str, values: list[Any], count: int
) -> list[list[Any]]:
    conditions = [condition]
    values = list(values)

    def only(condition: str, value: Any) -> None:
        conditions.append(condition)
        values.append(value)

    # A plus takes a column's index out of the choice. Without it SQLite may collect and sort a million
    # rows to deliver fifty that it could have read off the end of another index.
    if wanted.job is not None:
        conditions[0] = condition.replace("state", "+state")
        only("job = ?", wanted.job)
    by_age = wanted.job is None and not wanted.states and _is_short(connection, wanted)
    age = "queued_at" if by_age else "+queued_at"
    if wanted.before_run is not None:
        only("+run < ?" if by_age else "run < ?", wanted.before_run)
    if wanted.since is not None:
        only(f"{age} >= ?", to_micros(wanted.since))
    if wanted.until is not None:
        only(f"{age} < ?", to_micros(wanted.until))
    order = "+run" if by_age else "run"
    text = f"SELECT {RUN_LIST} FROM runs WHERE {' AND '.join(conditions)} ORDER BY {order} DESC LIMIT ?"  # noqa: S608 — our own words
    return read_all(connection, text, RUN_COLUMNS, [*values, count])


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
