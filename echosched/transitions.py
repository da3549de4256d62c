"""How a run moves from state to state: pure functions from a run and a fact to the run after it.

Every store follows these rules. Those that keep runs as values (in memory, or while a database cannot be
written) call them; the SQL ones say the same in their statements, and one contract suite compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from echosched.clock import rfc3339
from echosched.errors import StoreError
from echosched.model import Claim, Ended, Run, Started, State


def claimed(claim: Claim, number: int, owner: str | None) -> Run:
    """Return the run that *claim* makes under *number*; a skipped or missed one has ended already."""
    return Run(
        run=number,
        job=claim.job,
        slot=claim.slot,
        trigger=claim.trigger,
        attempt=1,
        state=claim.state,
        queued_at=claim.at,
        ended_at=claim.at if claim.state.is_outcome else None,
        error=claim.error,
        owner=owner,
        priority=claim.priority,
    )


def starting(run: Run, owner: str | None) -> Run:
    """Return *run* with the right to start its present attempt; only a queued one gets it."""
    if run.state is not State.QUEUED:
        return run
    return replace(run, state=State.RUNNING, not_before_at=None, owner=owner)


def started(run: Run, start: Started) -> Run:
    """Return *run* with what is known of its attempt's begin.

    The word may come after the attempt's end, but it never changes a later attempt.
    """
    if run.attempt != start.attempt or run.started_at is not None:
        return run
    return replace(run, started_at=start.at, process=start.process)


def refuse_open_ends(ends: Iterable[Ended]) -> None:
    """Raise ``StoreError`` if one of *ends* is neither an outcome nor a retry: a mistake of the caller."""
    for end in ends:
        if end.retry_at is None and not end.result.state.is_outcome:
            raise StoreError(f"run {end.run}: {end.result.state} is no outcome")


def ended(run: Run, end: Ended) -> Run | None:
    """Return *run* after *end*, or ``None`` where that comes too late: it has an outcome, or another attempt."""
    if run.state.is_outcome or run.attempt != end.attempt:
        return None
    result = end.result
    if end.retry_at is None:
        return replace(
            run,
            state=result.state,
            ended_at=end.at,
            exit_code=result.exit_code,
            signal=result.signal,
            error=result.error,
            output_bytes=result.output_bytes,
            not_before_at=None,
        )
    return replace(
        run,
        state=State.QUEUED,
        attempt=run.attempt + 1,
        not_before_at=end.retry_at,
        attempts=(*run.attempts, earlier_attempt(run.attempt, run.started_at, end)),
        started_at=None,
        process=None,
    )


def earlier_attempt(attempt: int, started_at: datetime | None, end: Ended) -> Mapping[str, Any]:
    """Return what a run keeps of an attempt that another follows (a member of ``Run.attempts``)."""
    return {
        "attempt": attempt,
        "state": str(end.result.state),
        "started_at": None if started_at is None else rfc3339(started_at),
        "ended_at": rfc3339(end.at),
        "exit_code": end.result.exit_code,
        "signal": end.result.signal,
        "error": end.result.error,
    }


def may_have_started(state: State) -> bool:
    """Tell whether a run that ended in *state* may have started once, and left output (a skipped one never)."""
    return state not in (State.SKIPPED, State.MISSED)
