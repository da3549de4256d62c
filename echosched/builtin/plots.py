"""Plots as inline SVG: figures in, markup out. No scripts; every mark has a title for pointer and reader.

Colours are classes of the page's style sheet. What matters is never told by colour alone: failures stand on
top in a bar and are drawn tall in a strip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from echosched.builtin.figures import TROUBLES, JobFigures, percentile
from echosched.builtin.page import esc, lasting
from echosched.model import State

_WIDTH = 720
_LAG_EDGES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 60.0)


def _svg(title: str, description: str, height: float, marks: Sequence[str]) -> str:
    label = f"{title}. {description}"
    return (
        f'<div class="scroll" role="region" aria-label="{esc(title)}" tabindex="0">'
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
        f'aria-label="{esc(label)}"><title>{esc(title)}</title>{"".join(marks)}</svg></div>'
    )


def _bar(x: float, y: float, width: float, height: float, tone: str, title: str) -> str:
    return (
        f'<rect class="{tone}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">'
        f"<title>{esc(title)}</title></rect>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", tone: str = "") -> str:
    marked = f' class="{tone}"' if tone else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{marked}>{esc(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="rule" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" />'


def _parts(counts: Counter[State]) -> tuple[int, int, int]:
    """Return (succeeded, others, troubles)."""
    wrong = sum(counts[state] for state in TROUBLES)
    return counts[State.SUCCEEDED], counts.total() - counts[State.SUCCEEDED] - wrong, wrong


def runs_by_hour(jobs: Mapping[str, JobFigures]) -> str:
    """Return bars of the runs in each hour (UTC): succeeded below, others in between, what went wrong on top."""
    hours: list[Counter[State]] = [Counter() for _ in range(24)]
    for figures in jobs.values():
        for hour, counts in figures.hours.items():
            if 0 <= hour < 24:
                hours[hour].update(counts)
    most = max((counts.total() for counts in hours), default=0) or 1
    left, top, high, low = 48.0, 12.0, 150.0, 162.0
    step = (_WIDTH - left - 8) / 24
    marks = [_line(left, low, _WIDTH, low), _line(left, top, _WIDTH, top)]
    marks += [_text(left - 6, top + 5, str(most), "end", "dim"), _text(left - 6, low, "0", "end", "dim")]
    for hour, counts in enumerate(hours):
        x, y = left + hour * step + 2, low
        for number, tone, name in zip(
            _parts(counts), ("good", "none", "bad"), ("succeeded", "other", "went wrong"), strict=True
        ):
            if number:
                height = max(2.0, number / most * high)
                y -= height
                marks.append(_bar(x, y, step - 4, height, tone, f"{hour:02d}:00 UTC: {number} {name}"))
        if hour % 3 == 0:
            marks.append(_text(x + step / 2 - 2, low + 18, f"{hour:02d}", "middle", "dim"))
    busiest = max(range(24), key=lambda hour: hours[hour].total())
    wrong = sum(_parts(counts)[2] for counts in hours)
    told = f"Most in the hour from {busiest:02d}:00 UTC: {hours[busiest].total()}; {wrong} went wrong in all"
    return _svg("Runs by hour (UTC)", told, 190, marks)


def hours_by_job(jobs: Sequence[JobFigures]) -> str:
    """Return a strip for each job: an hour in which it ran is a low mark, one in which it failed a tall one."""
    left, row = 170.0, 24.0
    step = (_WIDTH - left - 8) / 24
    marks: list[str] = []
    for number, figures in enumerate(jobs):
        y = number * row + 4
        marks.append(_text(left - 8, y + 15, _short(figures.name), "end"))
        marks.append(_line(left, y + row - 4, _WIDTH - 8, y + row - 4))
        for hour, counts in sorted(figures.hours.items()):
            if not 0 <= hour < 24:
                continue
            good, other, wrong = _parts(counts)
            tone, height = ("bad", 18.0) if wrong else ("good", 10.0) if good else ("none", 5.0)
            title = f"{figures.name}, {hour:02d}:00 UTC: {good} succeeded, {wrong} went wrong, {other} other"
            marks.append(_bar(left + hour * step + 1, y + row - 4 - height, step - 2, height, tone, title))
    low = len(jobs) * row + 4
    marks += [
        _text(left + hour * step + step / 2, low + 16, f"{hour:02d}", "middle", "dim")
        for hour in range(0, 24, 3)
    ]
    unwell = sum(1 for figures in jobs if figures.troubles)
    told = f"{len(jobs)} jobs; tall marks are hours in which something went wrong ({unwell} jobs have one)"
    return _svg("Hours in which jobs ran (UTC)", told, low + 24, marks)


def durations_by_job(jobs: Sequence[JobFigures]) -> str:
    """Return a bar to the median and a thin one to the longest duration of each job; one scale for all."""
    timed = [figures for figures in jobs if figures.durations]
    longest = max((max(figures.durations) for figures in timed), default=0.0) or 1.0
    left, right, row = 170.0, 150.0, 24.0
    scale = (_WIDTH - left - right) / longest
    marks: list[str] = []
    for number, figures in enumerate(timed):
        y = number * row + 4
        median, most = percentile(figures.durations, 0.5) or 0.0, max(figures.durations)
        title = f"{figures.name}: median {lasting(median)}, longest {lasting(most)}"
        marks.append(_text(left - 8, y + 14, _short(figures.name), "end"))
        marks.append(_bar(left, y + 8, max(1.0, most * scale), 4, "none", title))
        marks.append(_bar(left, y + 3, max(2.0, median * scale), 14, "good", title))
        marks.append(
            _text(
                left + max(2.0, most * scale) + 6, y + 14, f"{lasting(median)} … {lasting(most)}", tone="dim"
            )
        )
    told = f"Wide bars reach to the median, thin ones to the longest run; the longest took {lasting(longest)}"
    return _svg("Durations", told, len(timed) * row + 10, marks)


def lags(values: Sequence[float]) -> str:
    """Return how many runs started how long after their slot, in fixed classes."""
    counts = [0] * (len(_LAG_EDGES) + 1)
    for value in values:
        counts[next((i for i, edge in enumerate(_LAG_EDGES) if value <= edge), len(_LAG_EDGES))] += 1
    names = [f"≤ {lasting(edge)}" for edge in _LAG_EDGES] + ["more"]
    most = max(counts) or 1
    left, row = 90.0, 22.0
    marks: list[str] = []
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        y = number * row + 4
        width = count / most * (_WIDTH - left - 80)
        tone = "odd" if number > 7 else "good"
        marks.append(_text(left - 8, y + 14, name, "end"))
        if count:
            marks.append(_bar(left, y + 2, max(2.0, width), 15, tone, f"{name}: {count}"))
        marks.append(_text(left + max(2.0, width) + 6, y + 14, str(count), tone="dim"))
    told = f"Median {lasting(percentile(values, 0.5))}, 99th percentile {lasting(percentile(values, 0.99))}"
    return _svg("Lag: start after slot", told, len(counts) * row + 10, marks)


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"
