"""What is told of a run: the fields that all its events carry, and the events of its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from echosched import events
from echosched.model import Ended, State
from echosched.scheduler.entries import LiveRun


def run_fields(live: LiveRun) -> dict[str, Any]:
    """Return the fields that all events of a run carry."""
    return {
        "job": live.job.name,
        "run": live.run,
        "slot": live.slot,
        "attempt": live.attempt,
        "trigger": str(live.trigger),
    }


def end_events(live: LiveRun, ended: Ended) -> Iterator[events.Event]:
    """Yield what is told when *live* has ended so."""
    result, started = ended.result, live.started_at
    fields = run_fields(live)
    if result.state is State.ABANDONED:
        reason = result.error or "its end was not seen"
        yield events.RunAbandoned(ts=ended.at, **fields, reason=reason)
    lag = None if started is None or live.slot is None else (started - live.slot).total_seconds()
    yield events.RunEnd(
        ts=ended.at,
        **fields,
        state=str(result.state),
        exit_code=result.exit_code,
        signal=result.signal,
        duration_seconds=None if started is None else (ended.at - started).total_seconds(),
        lag_seconds=lag,
        error=result.error,
        output_bytes=result.output_bytes,
    )
