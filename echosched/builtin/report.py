"""``report``: yesterday (UTC) in figures and plots."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from echosched.builtin import Context
from echosched.builtin.figures import (
    TROUBLES,
    JobFigures,
    Period,
    Trouble,
    gather,
    percentile,
    whole_days_before,
    worst,
)
from echosched.builtin.files import publish
from echosched.builtin.page import Cell, cards, esc, lasting, md, md_table, page, plural, table, when
from echosched.builtin.plots import durations_by_job, hours_by_job, lags, runs_by_hour
from echosched.errors import ExecutionError, StoreError
from echosched.model import State

_MOST_TROUBLES = 100
_MOST_ROWS = 500
_MOST_DRAWN = 20

_JOBS = ("Job", "Runs", "Succeeded", "Went wrong", "Skipped", "Median", "95 %", "Longest", "Worst lag")
_JOBS_RIGHT = (1, 2, 3, 4, 5, 6, 7, 8)
_WRONG = ("Job", "Outcome", "Times", "Last", "Run", "Why")
_HOURS = ("Hour (UTC)", "Runs", "Succeeded", "Went wrong")


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says."""

    at: datetime
    past: Period
    troubles: Sequence[Trouble]
    version: str = ""


async def run(context: Context) -> Mapping[str, Any]:
    """Write yesterday's report to ``reports/`` as Markdown and HTML and print it; answer with counts and paths."""
    now = context.clock.now()
    start, end = whole_days_before(now)
    try:
        past = await gather(context, start, end)
    except StoreError as err:
        raise ExecutionError(f"report: {err}") from err
    told = Report(now, past, await worst(context, past, _MOST_TROUBLES), context.version)
    texts = await asyncio.to_thread(lambda: {"md": markdown(told), "html": as_html(told)})
    try:
        written = await publish(context.reports_dir, f"report-{start:%Y-%m-%d}", "report", texts)
    except OSError as err:
        raise ExecutionError(f"report: {context.reports_dir}: cannot be written: {err.strerror}") from err
    context.log(texts["md"])
    return {
        "day": f"{start:%Y-%m-%d}",
        "runs": past.counts.total(),
        "succeeded": past.counts[State.SUCCEEDED],
        "failed": sum(figures.troubles for figures in past.jobs.values()),
        "files": [str(path) for path in written],
    }


def markdown(told: Report) -> str:
    """Return the report as Markdown. Pure."""
    parts = [f"# EchoSched report for {told.past.start:%Y-%m-%d} (UTC)\n", f"{summary(told)}\n"]
    if told.past.jobs:
        parts += ["## Jobs\n", md_table(_JOBS, job_rows(told.past), _JOBS_RIGHT)]
        parts += ["## Hours\n", md_table(_HOURS, hour_rows(told.past), (1, 2, 3))]
    parts.append("## What went wrong\n")
    parts.append(md_table(_WRONG, _wrong_rows(told), (2, 4)) if told.troubles else "Nothing.\n")
    parts += [f"{md(note)}\n" for note in _notes(told)]
    return "\n".join(parts)


def as_html(told: Report) -> str:
    """Return the report as an HTML page that stands alone, with its plots inline. Pure."""
    past = told.past
    wrong = sum(figures.troubles for figures in past.jobs.values())
    every_lag = [lag for figures in past.jobs.values() for lag in figures.lags]
    body = [
        cards(
            [
                ("runs", past.counts.total(), ""),
                ("succeeded", past.counts[State.SUCCEEDED], "good"),
                ("went wrong", wrong, "bad" if wrong else ""),
                ("skipped", past.counts[State.SKIPPED], ""),
                ("median lag", lasting(percentile(every_lag, 0.5)), ""),
                ("worst lag", lasting(max(every_lag, default=None)), ""),
            ]
        )
    ]
    if past.jobs:
        drawn = _drawn(past)
        body += ["<h2>Runs by hour</h2>", runs_by_hour(past.jobs)]
        body += [
            "<details><summary>The same as a table</summary>",
            table("Runs by hour", _HOURS, hour_rows(past), (1, 2, 3)),
            "</details>",
        ]
        body += ["<h2>When jobs ran</h2>", hours_by_job(drawn)]
        if any(figures.durations for figures in drawn):
            body += ["<h2>How long they took</h2>", durations_by_job(drawn)]
        if every_lag:
            body += ["<h2>How punctually they started</h2>", lags(every_lag)]
        body += ["<h2>Jobs</h2>", table("Jobs by what went wrong", _JOBS, job_rows(past), _JOBS_RIGHT)]
    body.append("<h2>What went wrong</h2>")
    rows = _wrong_rows(told)
    body.append(table("Latest first", _WRONG, rows, (2, 4)) if rows else "<p>Nothing.</p>")
    body += [f'<p class="dim">{esc(note)}</p>' for note in _notes(told)]
    title = f"EchoSched report for {past.start:%Y-%m-%d} (UTC)"
    return page(title, summary(told), body, f"Written {when(told.at)} by EchoSched {told.version}".strip())


def summary(told: Report) -> str:
    """Return the report in one sentence."""
    counts = told.past.counts
    if not counts.total():
        return "Nothing ran."
    wrong = sum(figures.troubles for figures in told.past.jobs.values())
    ended = counts[State.SUCCEEDED] + wrong
    # Rounded down: 100 % is said only when it is true.
    share = (
        f" ({counts[State.SUCCEEDED] * 1000 // ended / 10} % of those that ran succeeded)" if ended else ""
    )
    what = f"{plural(counts.total(), 'run')} of {plural(len(told.past.jobs), 'job')}"
    good, skipped = counts[State.SUCCEEDED], counts[State.SKIPPED]
    return f"{what}: {good} succeeded, {wrong} went wrong, {skipped} skipped{share}."


def job_rows(past: Period) -> list[tuple[Cell, ...]]:
    """Return a row for each job, the troubled ones first."""
    return [
        (
            figures.name,
            figures.total,
            figures.counts[State.SUCCEEDED],
            figures.troubles,
            figures.counts[State.SKIPPED],
            lasting(percentile(figures.durations, 0.5)),
            lasting(percentile(figures.durations, 0.95)),
            lasting(max(figures.durations, default=None)),
            lasting(max(figures.lags, default=None)),
        )
        for figures in _ordered(past)[:_MOST_ROWS]
    ]


def hour_rows(past: Period) -> list[tuple[Cell, ...]]:
    """Return a row for each hour in which something ran."""
    rows: list[tuple[Cell, ...]] = []
    for hour in range(24):
        at_hour = [figures.hours[hour] for figures in past.jobs.values() if hour in figures.hours]
        total = sum(counts.total() for counts in at_hour)
        if total:
            good = sum(counts[State.SUCCEEDED] for counts in at_hour)
            wrong = sum(counts[state] for counts in at_hour for state in TROUBLES)
            rows.append((f"{hour:02d}:00", total, good, wrong))
    return rows


def _ordered(past: Period) -> list[JobFigures]:
    return sorted(past.jobs.values(), key=lambda figures: (-figures.troubles, -figures.total, figures.name))


def _drawn(past: Period) -> list[JobFigures]:
    """Return the jobs worth a line in a plot: the troubled ones, then those that took the most time."""
    return sorted(
        past.jobs.values(), key=lambda figures: (-figures.troubles, -sum(figures.durations), figures.name)
    )[:_MOST_DRAWN]


def _wrong_rows(told: Report) -> list[tuple[Cell, ...]]:
    return [
        (
            trouble.run.job,
            str(trouble.run.state).replace("_", " "),
            trouble.count,
            when(trouble.run.started_at or trouble.run.slot or trouble.run.queued_at),
            trouble.run.run,
            trouble.why,
        )
        for trouble in told.troubles
    ]


def _notes(told: Report) -> list[str]:
    notes = []
    if not told.past.complete:
        notes.append("There were more runs than are counted here.")
    if len(told.past.jobs) > _MOST_ROWS:
        notes.append(f"{len(told.past.jobs) - _MOST_ROWS} further jobs are not listed.")
    if len(told.past.jobs) > _MOST_DRAWN:
        notes.append(f"The plots show the {_MOST_DRAWN} jobs with most trouble or most time.")
    return notes
