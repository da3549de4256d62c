"""``brief``: what ran in the last 24 hours, what failed and why, what comes in the next 24."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from echosched.builtin import Context
from echosched.builtin.figures import Coming, JobFigures, Period, Trouble, coming, gather, percentile, worst
from echosched.builtin.files import publish
from echosched.builtin.page import (
    Cell,
    cards,
    esc,
    lasting,
    md,
    md_pre,
    md_table,
    page,
    plural,
    pre,
    table,
    when,
)
from echosched.errors import ExecutionError, StoreError
from echosched.model import Run, State

_DAY = timedelta(hours=24)
_MOST_TROUBLES = 40
_MOST_ROWS = 500

_RAN = ("Job", "Runs", "Succeeded", "Went wrong", "Skipped", "Last outcome", "Last run", "Typical duration")
_RAN_RIGHT = (1, 2, 3, 4, 7)
_COMING = ("Job", "First slot", "Slots")
_NOW = ("Job", "Run", "State", "Since")


@dataclass(frozen=True, slots=True)
class Brief:
    """What a brief says."""

    at: datetime
    past: Period
    active: Sequence[Run]
    troubles: Sequence[Trouble]
    coming: Sequence[Coming]
    coming_complete: bool = True
    version: str = ""


async def run(context: Context) -> Mapping[str, Any]:
    """Write the brief to ``reports/`` as Markdown and HTML and print it; answer with counts and paths."""
    now = context.clock.now()
    try:
        past = await gather(context, now - _DAY, now)
        active = [entry for entry in await context.store.active() if entry.run != context.run]
    except StoreError as err:
        raise ExecutionError(f"brief: {err}") from err
    slots, complete = await coming(context, now, now + _DAY)
    told = Brief(
        now, past, active, await worst(context, past, _MOST_TROUBLES), slots, complete, context.version
    )
    texts = await asyncio.to_thread(lambda: {"md": markdown(told), "html": as_html(told)})
    try:
        written = await publish(context.reports_dir, f"brief-{now:%Y-%m-%dT%H%M%SZ}", "brief", texts)
    except OSError as err:
        raise ExecutionError(f"brief: {context.reports_dir}: cannot be written: {err.strerror}") from err
    context.log(texts["md"])
    return {
        "runs": past.counts.total(),
        "succeeded": past.counts[State.SUCCEEDED],
        "failed": sum(figures.troubles for figures in past.jobs.values()),
        "coming": sum(row.count for row in slots),
        "files": [str(path) for path in written],
    }


def markdown(told: Brief) -> str:
    """Return the brief as Markdown. Pure."""
    parts = [f"# EchoSched brief, {when(told.at)}\n", f"{summary(told)}\n", "## What went wrong\n"]
    if not told.troubles:
        parts.append("Nothing.\n")
    for trouble in told.troubles:
        parts.append(f"- **{md(trouble.run.job)}** {md(_trouble_line(trouble))}: {md(trouble.why)}\n")
        if trouble.output:
            parts.append(md_pre(trouble.output))
    if told.active:
        parts += ["## Running and queued now\n", md_table(_NOW, _now_rows(told))]
    parts.append("## What ran in the last 24 hours\n")
    parts.append(md_table(_RAN, ran_rows(told.past), _RAN_RIGHT) if told.past.jobs else "Nothing ran.\n")
    parts.append("## What comes in the next 24 hours\n")
    parts.append(md_table(_COMING, _coming_rows(told), (2,)) if told.coming else "Nothing is due.\n")
    parts += [f"{note}\n" for note in _notes(told)]
    return "\n".join(parts)


def as_html(told: Brief) -> str:
    """Return the brief as an HTML page that stands alone. Pure."""
    wrong = sum(figures.troubles for figures in told.past.jobs.values())
    body = [
        cards(
            [
                ("runs", told.past.counts.total(), ""),
                ("succeeded", told.past.counts[State.SUCCEEDED], "good"),
                ("went wrong", wrong, "bad" if wrong else ""),
                ("running or queued", len(told.active), ""),
                ("slots to come", sum(row.count for row in told.coming), ""),
            ]
        ),
        "<h2>What went wrong</h2>",
    ]
    if not told.troubles:
        body.append("<p>Nothing.</p>")
    for trouble in told.troubles:
        body.append(
            f'<p><b>{esc(trouble.run.job)}</b> <span class="bad">{esc(_trouble_line(trouble))}</span>: '
            f"{esc(trouble.why)}</p>"
        )
        if trouble.output:
            body.append(pre(trouble.output))
    if told.active:
        body += ["<h2>Running and queued now</h2>", table("Runs that have not ended", _NOW, _now_rows(told))]
    body.append("<h2>What ran in the last 24 hours</h2>")
    rows = ran_rows(told.past)
    body.append(table("Jobs by what went wrong", _RAN, rows, _RAN_RIGHT) if rows else "<p>Nothing ran.</p>")
    body.append("<h2>What comes in the next 24 hours</h2>")
    body.append(
        table("Jobs by their first slot", _COMING, _coming_rows(told), (2,))
        if told.coming
        else "<p>Nothing is due.</p>"
    )
    body += [f'<p class="dim">{esc(note)}</p>' for note in _notes(told)]
    return page(
        "EchoSched brief", f"{when(told.at)}. {summary(told)}", body, f"EchoSched {told.version}".strip()
    )


def summary(told: Brief) -> str:
    """Return the brief in one sentence."""
    counts = told.past.counts
    wrong = sum(figures.troubles for figures in told.past.jobs.values())
    if not counts.total():
        ran = "No runs in the last 24 hours"
    else:
        ran = f"{plural(counts.total(), 'run')} of {plural(len(told.past.jobs), 'job')} in the last 24 hours"
        ran += f", {wrong} went wrong" if wrong else ", none went wrong"
    more = "" if told.coming_complete else "more than "
    return f"{ran}; {more}{plural(sum(row.count for row in told.coming), 'slot')} in the next 24."


def ran_rows(past: Period) -> list[tuple[Cell, ...]]:
    """Return a row for each job that ran, the troubled ones first."""
    ordered = sorted(past.jobs.values(), key=lambda figures: (-figures.troubles, figures.name))
    return [_ran_row(figures) for figures in ordered[:_MOST_ROWS]]


def _ran_row(figures: JobFigures) -> tuple[Cell, ...]:
    last = figures.last
    return (
        figures.name,
        figures.total,
        figures.counts[State.SUCCEEDED],
        figures.troubles,
        figures.counts[State.SKIPPED],
        str(last.state) if last else None,
        when(last.started_at or last.queued_at) if last else None,
        lasting(percentile(figures.durations, 0.5)),
    )


def _trouble_line(trouble: Trouble) -> str:
    times = f"{trouble.count} times, last " if trouble.count > 1 else ""
    state = str(trouble.run.state).replace("_", " ")
    return f"{state} {times}{when(trouble.run.started_at or trouble.run.slot or trouble.run.queued_at)}" + (
        f", run {trouble.run.run}"
    )


def _now_rows(told: Brief) -> list[tuple[Cell, ...]]:
    return [
        (entry.job, entry.run, str(entry.state), when(entry.started_at or entry.queued_at))
        for entry in told.active[:_MOST_ROWS]
    ]


def _coming_rows(told: Brief) -> list[tuple[Cell, ...]]:
    return [(row.job, when(row.first, row.zone), row.count) for row in told.coming[:_MOST_ROWS]]


def _notes(told: Brief) -> list[str]:
    notes = []
    if not told.past.complete:
        notes.append("There were more runs than are counted here.")
    if not told.coming_complete:
        notes.append("There are more slots than are counted here.")
    for name, count in (("jobs", len(told.past.jobs)), ("coming jobs", len(told.coming))):
        if count > _MOST_ROWS:
            notes.append(f"{count - _MOST_ROWS} further {name} are not listed.")
    return notes
