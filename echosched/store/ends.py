"""What a batch of ends comes to, for both databases: which count, and what is written for each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from echosched.clock import to_micros
from echosched.model import Ended, Started, State
from echosched.store.rows import instant, text
from echosched.transitions import earlier_attempt, refuse_open_ends

Attempted = tuple[int, int]
"""Run and attempt."""

NO_STARTS: Mapping[Attempted, Started] = {}


@dataclass(slots=True)
class Judged:
    """An answer for each end, those that are outcomes, and those whose runs go on, with their earlier attempts.

    *totals* are the changes in how many runs are in each state; *last_runs* the newest that ended, by job.
    """

    recorded: list[bool] = field(default_factory=list)
    outcomes: list[Ended] = field(default_factory=list)
    requeued: list[tuple[Ended, str]] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    last_runs: dict[str, int] = field(default_factory=dict)


def judge_ends(
    ends: Sequence[Ended], unended: Sequence[Sequence[Any]], starts: Mapping[Attempted, Started] = NO_STARTS
) -> Judged:
    """Return what *ends* come to; *unended* are their runs' rows as the query of that name answers.

    *starts* tells when attempts began whose start is not in the rows yet. Raises ``StoreError`` for an end that is
    neither an outcome nor a retry.
    """
    refuse_open_ends(ends)
    rows = {row[0]: row for row in unended}
    judged = Judged()
    for end in ends:
        row = rows.get(end.run)
        if row is None or row[1] != end.attempt:
            judged.recorded.append(False)
            continue
        del rows[end.run]  # a second end of the same run in one batch comes too late
        judged.recorded.append(True)
        judged.totals[row[2]] -= 1
        if end.retry_at is not None:
            judged.totals[str(State.QUEUED)] += 1
            judged.requeued.append((end, _attempts(row, end, starts.get((end.run, end.attempt)))))
            continue
        judged.totals[str(end.result.state)] += 1
        judged.outcomes.append(end)
        judged.last_runs[end.job] = max(end.run, judged.last_runs.get(end.job, 0))
    return judged


def _attempts(row: Sequence[Any], end: Ended, start: Started | None) -> str:
    """Return the list of earlier attempts, as text, with the one that *end* ends."""
    _, attempt, _, started_at, attempts, *_ = row
    if started_at is None and start is not None:
        started_at = to_micros(start.at)
    earlier = json.loads(attempts) if attempts else []
    last = dict(earlier_attempt(attempt, instant(started_at), end))
    return json.dumps([*earlier, last | {"error": text(end.result.error)}])
