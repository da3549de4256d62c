"""Values of the model as rows of the database, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from echosched.clock import from_micros, to_micros
from echosched.model import JobRecord, ProcessIdentity, Run, State, Trigger
from echosched.transitions import may_have_started

RUN_COLUMNS = (
    "run", "job", "slot", "trigger", "attempt", "state", "queued_at", "started_at", "ended_at", "exit_code",
    "signal", "error", "output_bytes", "owner", "not_before_at", "priority", "pid", "start_ticks", "attempts",
)  # fmt: skip
RUN_LIST = ", ".join(RUN_COLUMNS)
JOB_COLUMNS = ("name", "cursor_at", "anchor_at", "timing", "enabled", "paused", "parked", "last_run")

_STATES = {str(state): state for state in State}
_TRIGGERS = {str(trigger): trigger for trigger in Trigger}


def micros(instant: datetime | None) -> int | None:
    """Return *instant* as the database keeps it."""
    return None if instant is None else to_micros(instant)


def instant(value: int | None) -> datetime | None:
    """Return the aware UTC datetime that the database keeps as *value*."""
    return None if value is None else from_micros(value)


class Instants(dict[datetime | None, int | None]):
    """Instants as the database keeps them, each worked out once: in a batch most are the same few."""

    def __missing__(self, key: datetime | None) -> int | None:
        value = self[key] = micros(key)
        return value


def text(value: str | None) -> str | None:
    """Return *value* without what a database text cannot hold (lone surrogates, NUL), visibly escaped."""
    if value is None or (value.isascii() and "\0" not in value):
        return value
    return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def run_from_row(row: Sequence[Any]) -> Run:
    """Return the run that a row of :data:`RUN_COLUMNS` describes."""
    pid, ticks, attempts = row[16:19]
    return Run(
        run=row[0],
        job=row[1],
        slot=instant(row[2]),
        trigger=_TRIGGERS[row[3]],
        attempt=row[4],
        state=_STATES[row[5]],
        queued_at=from_micros(row[6]),
        started_at=instant(row[7]),
        ended_at=instant(row[8]),
        exit_code=row[9],
        signal=row[10],
        error=row[11],
        output_bytes=row[12],
        owner=row[13],
        not_before_at=instant(row[14]),
        priority=row[15],
        process=None if pid is None else ProcessIdentity(pid, ticks),
        attempts=() if attempts is None else tuple(json.loads(attempts)),
    )


def run_row(run: Run) -> tuple[Any, ...]:
    """Return *run* as a row of :data:`RUN_COLUMNS` with ``has_output`` at the end."""
    process = run.process
    return (
        run.run,
        run.job,
        micros(run.slot),
        str(run.trigger),
        run.attempt,
        str(run.state),
        to_micros(run.queued_at),
        micros(run.started_at),
        micros(run.ended_at),
        run.exit_code,
        run.signal,
        text(run.error),
        run.output_bytes,
        run.owner,
        micros(run.not_before_at),
        run.priority,
        None if process is None else process.pid,
        None if process is None else process.start_ticks,
        json.dumps([dict(attempt) for attempt in run.attempts]) if run.attempts else None,
        int(run.state.is_outcome and may_have_started(run.state)),
    )


def job_row(record: JobRecord, at: Instants) -> tuple[Any, ...]:
    """Return *record* as a row of :data:`JOB_COLUMNS` without the last; *at* is shared by the rows of a batch."""
    return (
        text(record.name),
        at[record.cursor_at],
        at[record.anchor_at],
        record.timing,
        int(record.enabled),
        int(record.paused),
        text(record.parked),
    )


def job_from_row(row: Sequence[Any]) -> JobRecord:
    """Return the record that a row of :data:`JOB_COLUMNS` describes."""
    name, cursor_at, anchor_at, timing, enabled, paused, parked, last_run = row
    return JobRecord(
        name,
        from_micros(cursor_at),
        instant(anchor_at),
        timing,
        bool(enabled),
        bool(paused),
        parked,
        last_run,
    )
