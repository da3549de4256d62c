"""The live view's model and its plain form."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from echosched.cli import watch
from echosched.cli.watch import BAR, MOST_ROWS, Running, View, bar, make_view, plain

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
DOCUMENT: dict[str, Any] = {
    "running": True,
    "pid": 12,
    "health": "ok",
    "started_at": "2026-01-01T11:00:00.000000Z",
    "uptime_seconds": 3600.0,
    "last_activity": "2026-01-01T11:59:59.000000Z",
    "mode": "background",
    "version": "1",
    "worker_pid": 13,
    "restarts": 0,
    "cpu_seconds": 1.0,
    "rss_bytes": 40_000_000,
    "jobs": {"total": 2, "paused": 0},
    "runs": {"succeeded": 3},
    "next": [
        {"job": "soon", "at": "2026-01-01T12:00:12.400000Z"},
        {"job": "late", "at": "2026-01-01T14:05:00.000000Z"},
        {"job": "due", "at": "2026-01-01T11:59:59.000000Z"},
    ],
    "last_exit": None,
    "degraded_since": None,
}


def row(job: str, started: str | None = "2026-01-01T11:59:50.000000Z", attempt: int = 1) -> dict[str, Any]:
    return {"job": job, "run": 7, "attempt": attempt, "started_at": started}


def view(*rows: dict[str, Any], usual: dict[str, float | None] | None = None) -> View:
    return make_view(DOCUMENT, rows, [], usual or {}, NOW)


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (None, "·" * BAR),
        (0.0, "-" * BAR),
        (0.5, "#" * 10 + "-" * 10),
        (1.0, "#" * BAR),
        (7.0, "#" * 19 + "+"),
    ],
)
def test_a_bar_is_always_as_wide(share: float | None, shown: str) -> None:
    assert bar(share) == f"[{shown}]"


@pytest.mark.parametrize(
    ("elapsed", "usual", "text"),
    [
        (12.0, None, "12s"),
        (12.0, 20.0, "12s of usually 20s"),
        (12.0, 8.0, "12s, 4.0s over the usual 8.0s"),
        (12.0, 0.0, "12s, 12s over the usual 0.00s"),
    ],
)
def test_a_run_is_measured_against_its_usual_time(elapsed: float, usual: float | None, text: str) -> None:
    assert Running("a", 1, 1, elapsed, usual).text == text


def test_slots_count_down_in_whole_seconds() -> None:
    assert view().coming == [("soon", "in 12s"), ("late", "in 2h05m"), ("due", "now")]


def test_elapsed_time_comes_from_the_start() -> None:
    (run,) = view(row("a"), usual={"a": 20.0}).running
    assert (run.elapsed_seconds, run.share) == (10.0, 0.5)
    (fresh,) = view(row("a", started=None)).running
    assert (fresh.elapsed_seconds, fresh.share) == (0.0, None)
    (ahead,) = view(row("a", started="2026-01-01T12:00:05.000000Z")).running  # clocks
    assert ahead.elapsed_seconds == 0.0


def test_more_than_the_screen_takes_is_counted() -> None:
    many = view(*(row(f"job{number}") for number in range(MOST_ROWS + 3)))
    assert len(many.running) == MOST_ROWS
    assert "3 more" in many.note


def test_the_plain_form_names_everything_and_no_control_characters() -> None:
    lines = plain(view(row("a\x1b[2J", attempt=2), usual={}))
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "attempt 2" in text
    assert "NEXT" in text
    assert lines[0] == "echoschedd is running (pid 12): ok"


def test_a_line_is_cut_without_counting_colours() -> None:
    assert watch._cut("abcdef", 3) == "abc"
    assert watch._cut("\x1b[1mabcdef\x1b[0m", 3) == "\x1b[1mabc\x1b[0m"
    assert watch._cut("\x1b[1mab\x1b[0m", 10) == "\x1b[1mab\x1b[0m\x1b[0m"
