"""Times, sizes, colours and tables as people see them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from echosched.cli import render
from echosched.model import State

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.0, "0.00s"),
        (0.42, "0.42s"),
        (9.94, "9.9s"),
        (12.9, "12s"),
        (200.0, "3m20s"),
        (7500.0, "2h05m"),
        (273_600.0, "3d4h"),
    ],
)
def test_lengths_of_time(value: float | None, text: str) -> None:
    assert render.seconds(value) == text


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (None, ""),
        ("2026-01-01T12:00:00Z", "in 0.00s"),
        ("2026-01-01T11:56:40Z", "3m20s ago"),
        ("2026-01-01T14:05:00Z", "in 2h05m"),
        ("2026-01-04T16:00:00+00:00", "in 3d4h"),
    ],
)
def test_instants_are_told_from_now(at: str | None, text: str) -> None:
    assert render.relative(at, NOW) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (44_400_000, "44.4 MB"),
        (10**13, "10000.0 GB"),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert render.size(count) == text


def test_every_state_has_a_tone_that_exists() -> None:
    assert set(render.STATE_TONES) == {str(state) for state in State}
    assert set(render.STATE_TONES.values()) <= set(render.TONES)


def test_a_table_in_a_pipe_is_plain_and_clean(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(["A", "LONG"], [["x\x1b[2J", None], [1, "two"]], ["bad", None])
    assert capsys.readouterr().out == "A      LONG\nx\N{REPLACEMENT CHARACTER}[2J\n1      two\n"
