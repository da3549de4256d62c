"""The writing transactions' bodies: each takes the connection inside an open transaction.

They decide in Python and write in few statements (see :mod:`echosched.store.queries` for why). That
is safe because the transaction was begun IMMEDIATE: between what is read here and what is written,
nobody else writes. The totals move in the same transaction as the rows they count.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter

from echosched.clock import to_micros
from echosched.model import Claim, Ended, JobRecord, Started, State
from echosched.store.ends import judge_ends
from echosched.store.ledger import Backlog
from echosched.store.queries import query, read_rows, write_rows
from echosched.store.rows import Instants, job_row, run_row, text
from echosched.transitions import may_have_started

_OPEN = (str(State.QUEUED), str(State.RUNNING))


def claim(connection: sqlite3.Connection, claims: Sequence[Claim], owner: str | None) -> list[int | None]:
    """Account for the slots of *claims*; return the run number of each, ``None`` where it was too late."""
    if not claims:
        return []
    after = int(connection.execute(query("next_runs"), (len(claims),)).fetchall()[0][0])
    return claim_as(connection, claims, range(after - len(claims), after), owner)


def claim_as(
    connection: sqlite3.Connection, claims: Sequence[Claim], numbers: Sequence[int], owner: str | None
) -> list[int | None]:
    """Do the work of :func:`claim` for run numbers that are already chosen."""
    at = Instants()
    slots = [
        (one.job, at[one.slot], number)
        for one, number in zip(claims, numbers, strict=True)
        if one.slot is not None
    ]
    lost: set[int] = set()
    if write_rows(connection, "claim_slots", slots) < len(slots):
        lost = {row[2] for row in slots}.difference(read_rows(connection, "won_slots", slots))
    rows = []
    for one, number in zip(claims, numbers, strict=True):
        if number not in lost:
            queued_at = at[one.at]
            state = str(one.state)
            rows.append(
                (
                    number, one.job, at[one.slot], str(one.trigger), state, queued_at,
                    None if state in _OPEN else queued_at, text(one.error), owner, one.priority,
                )
            )  # fmt: skip
    write_rows(connection, "insert_runs", rows)
    # In the order of their slots, so that of several the latest stays.
    cursors = {job: slot for job, slot, _ in sorted(slots, key=itemgetter(1))}
    write_rows(connection, "advance_cursors", list(cursors.items()))
    _add(connection, Counter(row[4] for row in rows))
    return [None if number in lost else number for number in numbers]


def starting(connection: sqlite3.Connection, runs: Sequence[int], owner: str | None) -> None:
    """Turn queued runs to running, for *owner*."""
    changed = write_rows(connection, "start_queued", [(run, owner) for run in runs])
    _add(connection, Counter({str(State.QUEUED): -changed, str(State.RUNNING): changed}))


def note_starts(connection: sqlite3.Connection, starts: Iterable[Started]) -> None:
    """Write when, and as which process, attempts began."""
    at = Instants()
    rows: dict[tuple[int, int], tuple[int | None, ...]] = {}
    for start in starts:
        process = start.process
        pid, ticks = (None, None) if process is None else (process.pid, process.start_ticks)
        row = (start.run, start.attempt, at[start.at], pid, ticks)
        rows.setdefault((start.run, start.attempt), row)  # told twice: the first word counts
    write_rows(connection, "note_starts", list(rows.values()))


def finish(connection: sqlite3.Connection, ends: Sequence[Ended]) -> list[bool]:
    """Record *ends* of present attempts of runs without outcome; tell which were recorded."""
    judged = judge_ends(ends, read_rows(connection, "unended", [(end.run,) for end in ends]))
    at = Instants()
    outcomes = [
        (
            end.run, str(end.result.state), at[end.at], end.result.exit_code, end.result.signal,
            text(end.result.error), end.result.output_bytes, int(may_have_started(end.result.state)),
        )
        for end in judged.outcomes
    ]  # fmt: skip
    write_rows(connection, "end_runs", outcomes)
    requeued = [(end.run, at[end.retry_at], attempts) for end, attempts in judged.requeued]
    write_rows(connection, "requeue_runs", requeued)
    write_rows(connection, "last_runs", list(judged.last_runs.items()))
    _add(connection, judged.totals)
    return judged.recorded


def save_jobs(connection: sqlite3.Connection, records: Iterable[JobRecord]) -> None:
    """Insert or replace job records, all but ``last_run``."""
    # By name, so that a record that comes twice is written once, as the later says.
    at = Instants()
    rows = {record.name: job_row(record, at) for record in records}
    write_rows(connection, "save_jobs", list(rows.values()))


def set_note(connection: sqlite3.Connection, key: str, value: str | None) -> None:
    """Keep or forget a note."""
    if value is None:
        connection.execute(query("forget_note"), (key,))
    else:
        connection.execute(query("set_note"), (key, value))


def restore(connection: sqlite3.Connection, backlog: Backlog) -> None:
    """Write what memory kept while nothing could be written; doing it twice changes nothing more.

    Always writes at least one page, so that it also tells whether writing works again.
    """
    connection.execute(query("raise_next_run"), (backlog.highest_run,))
    save_jobs(connection, backlog.jobs)
    write_rows(connection, "claim_slots", [(job, to_micros(slot), run) for job, slot, run in backlog.slots])
    write_rows(connection, "advance_cursors", [(job, to_micros(at)) for job, at in backlog.cursors.items()])
    known = {row[0]: row for row in read_rows(connection, "known_states", [(r.run,) for r in backlog.runs])}
    rows = []
    totals: Counter[str] = Counter()
    last_runs: dict[str, int] = {}
    for run in backlog.runs:
        _, state, has_ended = known.get(run.run, (run.run, None, 0))
        if has_ended:
            continue
        if state is not None:
            totals[state] -= 1
        totals[str(run.state)] += 1
        rows.append(run_row(run))
        if run.state.is_outcome and may_have_started(run.state):
            last_runs[run.job] = max(run.run, last_runs.get(run.job, 0))
    write_rows(connection, "restore_runs", rows)
    write_rows(connection, "last_runs", list(last_runs.items()))
    _add(connection, totals)
    for key, value in backlog.notes.items():
        set_note(connection, key, value)


def give_up_outputs(connection: sqlite3.Connection, runs: Sequence[int]) -> list[tuple[int, int]]:
    """Mark the outputs of *runs* as given up; return the (run, attempt) whose files may go."""
    outputs, _ = _outputs_of(connection, runs)
    write_rows(connection, "give_up_outputs", [(run,) for run in runs])
    return outputs


def delete_runs(connection: sqlite3.Connection, runs: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """Delete ended runs; return how many, and the (run, attempt) whose output files may go."""
    outputs, totals = _outputs_of(connection, runs)
    deleted = write_rows(connection, "delete_runs", [(run,) for run in runs])
    _add(connection, Counter({state: -count for state, count in totals.items()}))
    return deleted, outputs


def delete_slots(connection: sqlite3.Connection, last: tuple[int, str]) -> int:
    """Delete all slot rows up to *last* (slot, job); return how many."""
    before = connection.total_changes
    connection.execute(query("delete_slots"), last)
    return connection.total_changes - before


def _outputs_of(
    connection: sqlite3.Connection, runs: Sequence[int]
) -> tuple[list[tuple[int, int]], Counter[str]]:
    outputs: list[tuple[int, int]] = []
    totals: Counter[str] = Counter()
    for run, attempts, state, has_output in read_rows(connection, "outputs_of", [(run,) for run in runs]):
        totals[state] += 1
        if has_output:
            outputs += [(run, attempt) for attempt in range(1, attempts + 1)]
    return outputs, totals


def _add(connection: sqlite3.Connection, totals: Counter[str]) -> None:
    write_rows(connection, "add_totals", [(state, count) for state, count in totals.items() if count])
